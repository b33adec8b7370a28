// TLS and Unix sockets to real servers: what is verified, what is refused and
// with which words, and that the traffic of a day goes through. It starts its
// own servers and makes its own certificates.

#include "queue/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "queue/amqp/amqp_broker.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/redis/connection.h"
#include "tests/conformance/await.h"
#include "tests/support/broker_verbs.h"
#include "tests/support/certificates.h"
#include "tests/support/servers.h"
#include "tests/support/tcp_cutter.h"

namespace penstock {
namespace {

using ::penstock::testing::Authority;
using ::penstock::testing::Await;
using ::penstock::testing::Awaited;
using ::penstock::testing::Eventually;
using ::penstock::testing::Inbox;
using ::penstock::testing::PublishAndWait;
using ::penstock::testing::RabbitServer;
using ::penstock::testing::RedisServer;
using ::penstock::testing::ServerTls;
using ::penstock::testing::TcpCutter;
using ::penstock::testing::TempDirectory;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Every byte there is, and none that repeats with the size of a record.
std::string BigBody() {
  std::string body(1024 * 1024 + 17, '\0');
  for (size_t i = 0; i < body.size(); ++i) {
    body[i] = static_cast<char>(i * i % 251);
  }
  return body;
}

// The certificates of one test program.
struct Certificates {
  Authority authority;
  Authority stranger;
  Authority::Pair here = authority.Issue("here", "DNS:localhost,IP:127.0.0.1");
  Authority::Pair elsewhere =
      authority.Issue("elsewhere", "DNS:elsewhere.example");
  Authority::Pair client = authority.Issue("client", "DNS:a-client");

  ServerTls Server(const Authority::Pair& pair, bool demand = false) const {
    return {.ca_file = authority.ca_file(),
            .cert_file = pair.cert_file,
            .key_file = pair.key_file,
            .demand_client_certificate = demand};
  }
  TlsOptions Trusting() const { return {.ca_file = authority.ca_file()}; }
  TlsOptions WithClient() const {
    return {.ca_file = authority.ca_file(),
            .cert_file = client.cert_file,
            .key_file = client.key_file};
  }
};

const Certificates& Certs() {
  static const Certificates certificates;
  return certificates;
}

// ---- Redis ------------------------------------------------------------------

class RedisTlsTest : public ::testing::Test {
 protected:
  void Start(const ServerTls& tls, std::vector<std::string> extra = {}) {
    server_ = std::make_unique<RedisServer>(
        testing::RedisServerOptions{.tls = tls, .extra = std::move(extra)});
    const absl::Status started = server_->Start();
    ASSERT_TRUE(started.ok()) << started;
  }

  std::string Url(const std::string& host = "localhost") const {
    return absl::StrCat("rediss://", host, ":", server_->tls_port());
  }

  std::unique_ptr<RedisConnection> Open(const std::string& url,
                                        const TlsOptions& tls) {
    auto address = ParseRedisUrl(url, tls);
    EXPECT_TRUE(address.ok()) << address.status();
    return std::make_unique<RedisConnection>(
        RedisConnection::Options{.address = *std::move(address),
                                 .name = "test",
                                 .connect_timeout = connect_timeout_},
        environment_.get());
  }

  static absl::StatusOr<RedisReply> Ask(RedisConnection& connection,
                                        std::vector<std::string> words) {
    return Await<RedisReply>([&](auto done) {
      connection.Send({.words = std::move(words), .done = std::move(done)});
    });
  }

  // What a first command gets.
  std::string Outcome(const std::string& url, const TlsOptions& tls) {
    auto connection = Open(url, tls);
    auto reply = Ask(*connection, {"ECHO", "hello"});
    return reply.ok() ? reply->text : std::string(reply.status().message());
  }

  void ExpectTraffic(const std::string& url, const TlsOptions& tls) {
    auto connection = Open(url, tls);
    const std::string big = BigBody();
    std::vector<Awaited<RedisReply>> replies(3000);
    for (size_t i = 0; i < replies.size(); ++i) {
      connection->Send({.words = {"SET", absl::StrCat("k", i),
                                  i % 1000 == 7 ? big : absl::StrCat("v", i)}});
      connection->Send({.words = {"GET", absl::StrCat("k", i)},
                        .done = replies[i].callback()});
    }
    for (size_t i = 0; i < replies.size(); ++i) {
      auto reply = replies[i].Wait();
      ASSERT_TRUE(reply.ok()) << i << ": " << reply.status();
      ASSERT_TRUE(reply->text == (i % 1000 == 7 ? big : absl::StrCat("v", i)))
          << i;
    }
  }

  const std::unique_ptr<Environment> environment_ = MakeSystemEnvironment();
  absl::Duration connect_timeout_ = absl::Seconds(10);
  std::unique_ptr<RedisServer> server_;
};

TEST_F(RedisTlsTest, VerifiesTheServerByNameAndByAddress) {
  Start(Certs().Server(Certs().here));
  EXPECT_EQ(Outcome(Url("localhost"), Certs().Trusting()), "hello");
  EXPECT_EQ(Outcome(Url("127.0.0.1"), Certs().Trusting()), "hello");
}

TEST_F(RedisTlsTest, PipelinesAndLargeValuesGoThrough) {
  Start(Certs().Server(Certs().here));
  ExpectTraffic(Url(), Certs().Trusting());
}

TEST_F(RedisTlsTest, PipelinesAndLargeValuesGoThroughOfTls12) {
  Start(Certs().Server(Certs().here), {"--tls-protocols", "TLSv1.2"});
  ExpectTraffic(Url(), Certs().Trusting());
}

TEST_F(RedisTlsTest, AnUnknownAuthorityIsRefused) {
  Start(Certs().Server(Certs().here));
  for (const TlsOptions& tls :
       {TlsOptions(), TlsOptions{.ca_file = Certs().stranger.ca_file()}}) {
    EXPECT_THAT(Outcome(Url(), tls),
                AllOf(HasSubstr(absl::StrCat("redis at localhost:",
                                             server_->tls_port())),
                      HasSubstr("certificate verify failed"),
                      HasSubstr("set tls.ca_file")));
  }
}

TEST_F(RedisTlsTest, ACertificateOfAnotherHostIsRefused) {
  Start(Certs().Server(Certs().elsewhere));
  for (const char* host : {"localhost", "127.0.0.1"}) {
    EXPECT_THAT(Outcome(Url(host), Certs().Trusting()),
                AllOf(HasSubstr("mismatch"), HasSubstr(host),
                      HasSubstr("tls.server_name")));
  }
  TlsOptions named = Certs().Trusting();
  named.server_name = "elsewhere.example";
  EXPECT_EQ(Outcome(Url(), named), "hello");
}

TEST_F(RedisTlsTest, InsecureTakesAnyCertificate) {
  Start(Certs().Server(Certs().elsewhere));
  EXPECT_EQ(Outcome(Url(), {.insecure_skip_verify = true}), "hello");
}

TEST_F(RedisTlsTest, APlainClientAtATlsPortIsToldSo) {
  Start(Certs().Server(Certs().here));
  EXPECT_THAT(
      Outcome(absl::StrCat("redis://localhost:", server_->tls_port()), {}),
      HasSubstr("rediss://"));
}

TEST_F(RedisTlsTest, ATlsClientAtAPlainPortIsToldSo) {
  Start(Certs().Server(Certs().here));
  connect_timeout_ = absl::Milliseconds(500);
  EXPECT_THAT(
      Outcome(absl::StrCat("rediss://localhost:", server_->port()),
              Certs().Trusting()),
      AllOf(HasSubstr("speak TLS at this port"), Not(HasSubstr("verify"))));
}

TEST_F(RedisTlsTest, AServerThatNeverAnswersTheHandshakeIsGivenUp) {
  Start(Certs().Server(Certs().here));
  TcpCutter cutter(server_->tls_port());
  cutter.Stall(true);
  connect_timeout_ = absl::Milliseconds(300);
  EXPECT_THAT(Outcome(absl::StrCat("rediss://localhost:", cutter.port()),
                      Certs().Trusting()),
              HasSubstr("no answer to TLS' handshake in time"));
}

TEST_F(RedisTlsTest, AClientsCertificateIsShownWhereItIsDemanded) {
  Start(Certs().Server(Certs().here, /*demand=*/true));
  EXPECT_THAT(Outcome(Url(), Certs().Trusting()),
              HasSubstr("set tls.cert_file and tls.key_file"));
  EXPECT_EQ(Outcome(Url(), Certs().WithClient()), "hello");
}

TEST_F(RedisTlsTest, ConnectsAgainWhenTheServerIsBack) {
  Start(Certs().Server(Certs().here));
  auto connection = Open(Url(), Certs().Trusting());
  ASSERT_TRUE(Ask(*connection, {"PING"}).ok());
  server_->Kill();
  EXPECT_TRUE(Eventually([&] { return !Ask(*connection, {"PING"}).ok(); }));
  ASSERT_TRUE(server_->Start().ok());
  EXPECT_TRUE(Eventually([&] { return Ask(*connection, {"PING"}).ok(); }));
}

TEST_F(RedisTlsTest, ARenewedFileIsTakenUpByTheNextConnection) {
  Start(Certs().Server(Certs().here));
  const TempDirectory directory;
  const std::string file = directory.path() + "/ca.pem";
  std::filesystem::copy_file(Certs().stranger.ca_file(), file);
  auto connection = Open(Url(), {.ca_file = file});
  ASSERT_FALSE(Ask(*connection, {"PING"}).ok());
  std::filesystem::copy_file(Certs().authority.ca_file(), file,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_TRUE(Eventually([&] { return Ask(*connection, {"PING"}).ok(); }));
}

TEST_F(RedisTlsTest, AUnixSocketIsAsGoodAsAPort) {
  const TempDirectory directory;
  const std::string path = directory.path() + "/redis.sock";
  Start(Certs().Server(Certs().here), {"--unixsocket", path});
  ASSERT_TRUE(
      server_->Command({"CONFIG", "SET", "requirepass", "p:w%40"}).ok());
  ExpectTraffic(absl::StrCat("redis+socket://p:w%40@", path, ":/3"), {});
  auto connection = Open(absl::StrCat("redis+socket://p:w%40@", path), {});
  auto info = Ask(*connection, {"INFO", "keyspace"});
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_THAT(info->text,
              AllOf(HasSubstr("db3:keys=3000"), Not(HasSubstr("db0:"))));
}

TEST_F(RedisTlsTest, AMissingUnixSocketIsNamed) {
  EXPECT_THAT(Outcome("redis+socket:///nowhere/redis.sock", {}),
              HasSubstr("redis at /nowhere/redis.sock: No such file"));
}

// ---- RabbitMQ ---------------------------------------------------------------

class AmqpTlsTest : public ::testing::Test {
 protected:
  void Start(bool demand_client_certificate = false) {
    server_ = std::make_unique<RabbitServer>(testing::RabbitServerOptions{
        .tls = Certs().Server(Certs().here, demand_client_certificate)});
    const absl::Status started = server_->Start();
    ASSERT_TRUE(started.ok()) << started;
  }

  std::string Url(const std::string& host = "localhost") const {
    return absl::StrCat("amqps://guest:guest@", host, ":", server_->tls_port());
  }

  std::unique_ptr<Broker> Open(const std::string& url, const TlsOptions& tls) {
    Options options;
    options.broker = url;
    options.tls = tls;
    auto broker = OpenAmqpBroker(options, environment_.get());
    EXPECT_TRUE(broker.ok()) << broker.status();
    return *std::move(broker);
  }

  static Message Default(std::string body) {
    return {.task_id = "task_x", .body = std::move(body)};
  }

  std::string Outcome(const std::string& url, const TlsOptions& tls) {
    auto broker = Open(url, tls);
    const absl::Status sent = PublishAndWait(*broker, Default("hello"));
    return sent.ok() ? "sent" : std::string(sent.message());
  }

  void ExpectTraffic(Broker& broker) {
    constexpr size_t kMessages = 3000;
    constexpr size_t kAhead = 200;
    const std::string big = BigBody();
    const auto body = [&](size_t i) {
      return i % 300 == 7 ? big : absl::StrCat("body ", i);
    };
    Inbox inbox;
    auto consumer = broker.Consume({.prefetch = 50}, inbox.Sink());
    ASSERT_TRUE(consumer.ok()) << consumer.status();
    std::vector<testing::Answer> answers(kMessages);
    // A message has 5 s until its confirm: not all of them at once.
    size_t sent = 0;
    const auto send = [&] {
      if (sent == kMessages) return;
      broker.Publish(Default(body(sent)), answers[sent].TakeDone());
      ++sent;
    };
    for (size_t i = 0; i < kAhead; ++i) send();
    for (size_t i = 0; i < kMessages; ++i) {
      const Delivery delivery = inbox.Next();
      ASSERT_TRUE(delivery.body == body(i)) << i;
      (*consumer)->Ack(delivery.tag);
      send();
    }
    for (testing::Answer& answer : answers) {
      ASSERT_EQ(answer.Wait(), absl::OkStatus());
    }
  }

  const std::unique_ptr<Environment> environment_ = MakeSystemEnvironment();
  std::unique_ptr<RabbitServer> server_;
};

TEST_F(AmqpTlsTest, VerifiesTheServerAndCarriesTheTraffic) {
  Start();
  for (const char* host : {"localhost", "127.0.0.1"}) {
    ExpectTraffic(*Open(Url(host), Certs().Trusting()));
  }

  // A server that starts takes 5 seconds: so the refusals are here too.
  for (const TlsOptions& tls :
       {TlsOptions(), TlsOptions{.ca_file = Certs().stranger.ca_file()}}) {
    EXPECT_THAT(Outcome(Url(), tls),
                AllOf(HasSubstr(absl::StrCat("RabbitMQ at localhost:",
                                             server_->tls_port())),
                      HasSubstr("certificate verify failed"),
                      HasSubstr("set tls.ca_file")));
  }
  TlsOptions named = Certs().Trusting();
  named.server_name = "elsewhere.example";
  EXPECT_THAT(Outcome(Url(), named),
              AllOf(HasSubstr("mismatch"), HasSubstr("elsewhere.example"),
                    HasSubstr("tls.server_name")));
  EXPECT_EQ(Outcome(Url(), {.insecure_skip_verify = true}), "sent");

  EXPECT_THAT(Outcome(absl::StrCat("amqp://guest:guest@localhost:",
                                   server_->tls_port()),
                      {}),
              HasSubstr("use amqps://"));
  EXPECT_THAT(
      Outcome(absl::StrCat("amqps://guest:guest@localhost:", server_->port()),
              Certs().Trusting()),
      AllOf(HasSubstr("does not speak TLS at this port"),
            Not(HasSubstr("verify"))));
  EXPECT_THAT(Outcome(absl::StrCat("amqps://guest:wrong@localhost:",
                                   server_->tls_port()),
                      Certs().Trusting()),
              AllOf(HasSubstr("login refused"), Not(HasSubstr("wrong"))));

  TcpCutter cutter(server_->tls_port());
  cutter.Stall(true);
  EXPECT_THAT(Outcome(absl::StrCat("amqps://localhost:", cutter.port()),
                      Certs().Trusting()),
              HasSubstr("no answer to TLS' handshake in time"));
}

TEST_F(AmqpTlsTest, AClientsCertificateIsShownWhereItIsDemanded) {
  Start(/*demand_client_certificate=*/true);
  EXPECT_THAT(Outcome(Url(), Certs().Trusting()),
              HasSubstr("set tls.cert_file and tls.key_file"));
  EXPECT_EQ(Outcome(Url(), Certs().WithClient()), "sent");
}

TEST_F(AmqpTlsTest, ConnectsAgainAfterACutAndARestart) {
  Start();
  TcpCutter cutter(server_->tls_port());
  auto broker = Open(absl::StrCat("amqps://localhost:", cutter.port()),
                     Certs().Trusting());
  Inbox inbox;
  auto consumer = broker->Consume({.prefetch = 10}, inbox.Sink());
  ASSERT_TRUE(consumer.ok()) << consumer.status();
  const auto expect_delivery = [&](const std::string& body) {
    ASSERT_TRUE(Eventually(
        [&] { return PublishAndWait(*broker, Default(body)).ok(); }));
    // What was not confirmed may have been sent all the same.
    Delivery delivery = inbox.Next();
    while (delivery.body != body && !HasFailure()) delivery = inbox.Next();
    (*consumer)->Ack(delivery.tag);
  };
  expect_delivery("first");
  cutter.Cut();
  expect_delivery("second");
  ASSERT_TRUE(server_->Restart().ok());
  expect_delivery("third");
}

// ---- the files --------------------------------------------------------------

TEST(TlsFilesTest, WhatCannotBeUsedIsNamedByItsKey) {
  const std::string cert = Certs().client.cert_file;
  const std::string key = Certs().client.key_file;
  struct Case {
    TlsOptions options;
    const char* begin;
    const char* why;
  };
  const Case cases[] = {
      {{.ca_file = "/nowhere/ca.pem"},
       "tls.ca_file: /nowhere/ca.pem ",
       "No such file"},
      {{.ca_file = key}, "tls.ca_file: ", "no certificate"},
      {{.cert_file = "/nowhere/c.pem", .key_file = key},
       "tls.cert_file: /nowhere/c.pem ",
       "No such file"},
      {{.cert_file = key, .key_file = key}, "tls.cert_file: ", "no start line"},
      {{.cert_file = cert, .key_file = "/nowhere/k.pem"},
       "tls.key_file: /nowhere/k.pem ",
       "No such file"},
      {{.cert_file = cert, .key_file = cert}, "tls.key_file: ", ""},
      {{.cert_file = cert, .key_file = Certs().here.key_file},
       "tls.key_file: ",
       "key values mismatch"},
      {{.cert_file = cert}, "tls.cert_file: needs tls.key_file", ""},
      {{.key_file = key}, "tls.key_file: needs tls.cert_file", ""},
  };
  for (const Case& c : cases) {
    const absl::Status status = CheckTls(c.options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.begin;
    EXPECT_THAT(std::string(status.message()),
                AllOf(::testing::StartsWith(c.begin), HasSubstr(c.why)));
  }
  EXPECT_EQ(CheckTls(Certs().WithClient()), absl::OkStatus());
  EXPECT_EQ(CheckTls({}), absl::OkStatus());
}

TEST(TlsFilesTest, TheConfigurationNamesWhereTheKeyWasSet) {
  const auto load = [](std::map<std::string, std::string> flags) {
    return LoadConfig({.flags = std::move(flags)});
  };
  EXPECT_EQ(std::string(load({{"tls_ca_file", "/nowhere"}}).status().message()),
            "--tls_ca_file: tls.ca_file: /nowhere cannot be used as "
            "certificates (PEM): No such file or directory");
  auto unused = load({{"tls_ca_file", Certs().authority.ca_file()}});
  ASSERT_TRUE(unused.ok()) << unused.status();
  EXPECT_THAT(unused->warnings,
              ::testing::ElementsAre(HasSubstr("tls.* have no effect")));
  auto insecure =
      load({{"broker", "amqps://h"}, {"tls_insecure_skip_verify", "true"}});
  ASSERT_TRUE(insecure.ok()) << insecure.status();
  EXPECT_THAT(insecure->warnings,
              ::testing::ElementsAre(HasSubstr("are NOT checked")));
  EXPECT_TRUE(insecure->options.tls.insecure_skip_verify);
}

}  // namespace
}  // namespace penstock
