// A worker's answers to probes, to clients that behave and to those that do
// not. Over sockets of 127.0.0.1; a read that should end and does not fails
// after a long time.

#include "sdk/cpp/health_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace penstock {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

int PortOf(const std::string& address) {
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  return port;
}

class Client {
 public:
  explicit Client(const std::string& address)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const struct timeval limit = {.tv_sec = 30, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    struct sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(PortOf(address)));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Send(const std::string& text) {
    EXPECT_EQ(send(fd_, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // All that comes until the other side ends; "(error)" when it is cut off.
  std::string ReadAll() {
    std::string all;
    char buffer[1024];
    while (true) {
      const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
      if (got < 0) return all + "(error)";
      if (got == 0) return all;
      all.append(buffer, static_cast<size_t>(got));
    }
  }

 private:
  const int fd_;
};

class HealthEndpointTest : public ::testing::Test {
 protected:
  void Start(absl::Duration connection_limit = absl::Hours(1)) {
    auto endpoint =
        HealthEndpoint::Start({.listen = "127.0.0.1:0",
                               .ready =
                                   [this] {
                                     absl::MutexLock lock(&mu_);
                                     return ready_;
                                   },
                               .connection_limit = connection_limit});
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = *std::move(endpoint);
  }
  void SetReady(absl::Status ready) {
    absl::MutexLock lock(&mu_);
    ready_ = std::move(ready);
  }
  const std::string& address() const { return endpoint_->address(); }
  std::string Ask(const std::string& request) {
    Client client(address());
    client.Send(request);
    return client.ReadAll();
  }
  std::string Get(const std::string& path) {
    return Ask(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n"));
  }

  absl::Mutex mu_;
  absl::Status ready_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<HealthEndpoint> endpoint_;
};

TEST_F(HealthEndpointTest, ReadinessIsAskedForEachTime) {
  Start();
  EXPECT_THAT(Get("/readyz"), AllOf(StartsWith("HTTP/1.1 200 OK\r\n"),
                                    HasSubstr("Content-Length: 6\r\n"),
                                    HasSubstr("Connection: close\r\n"),
                                    EndsWith("\r\n\r\nready\n")));
  SetReady(absl::UnavailableError("broker: gone\r\nX: y"));
  EXPECT_THAT(Get("/readyz"),
              AllOf(StartsWith("HTTP/1.1 503 Service Unavailable\r\n"),
                    EndsWith("\r\n\r\nbroker: gone  X: y\n")));
  SetReady(absl::OkStatus());
  EXPECT_THAT(Get("/readyz?verbose"), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(HealthEndpointTest, AWorkerThatIsNotReadyIsAlive) {
  Start();
  SetReady(absl::UnavailableError("draining"));
  EXPECT_THAT(Get("/livez"), AllOf(StartsWith("HTTP/1.1 200 OK\r\n"),
                                   EndsWith("\r\n\r\nalive\n")));
}

TEST_F(HealthEndpointTest, WhatIsNotAskedForByTheBookIsRefusedByIt) {
  Start();
  EXPECT_THAT(Get("/"), StartsWith("HTTP/1.1 404 Not Found\r\n"));
  EXPECT_THAT(Get("/readyz/"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask("POST /readyz HTTP/1.1\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 405 "),
                    HasSubstr("\r\nAllow: GET, HEAD\r\n")));
  EXPECT_THAT(Ask("HEAD /readyz HTTP/1.0\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), EndsWith("\r\n\r\n"),
                    Not(HasSubstr("ready"))));
  for (const char* request :
       {"\r\n\r\n", "GET\r\n\r\n", "GET /readyz\r\n\r\n",
        "GET readyz HTTP/1.1\r\n\r\n", "GET /readyz FTP/1\r\n\r\n",
        "GET  /readyz HTTP/1.1\r\n\r\n", "\n\n"}) {
    EXPECT_THAT(Ask(request), StartsWith("HTTP/1.1 400 ")) << request;
  }
}

TEST_F(HealthEndpointTest, ARequestMayComeByteByByte) {
  Start();
  Client client(address());
  for (const char byte : std::string("GET /livez HTTP/1.1\r\n\r\n")) {
    client.Send(std::string(1, byte));
  }
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(HealthEndpointTest, ALongRequestIsRefusedAndTheAnswerArrives) {
  Start();
  Client client(address());
  client.Send("GET /livez HTTP/1.1\r\nX: " + std::string(100'000, 'x'));
  EXPECT_THAT(client.ReadAll(), AllOf(StartsWith("HTTP/1.1 431 "),
                                      EndsWith("the request is too long\n")));
}

TEST_F(HealthEndpointTest, ABodyThatNobodyReadsDoesNotCostTheAnswer) {
  Start();
  Client client(address());
  client.Send("POST /livez HTTP/1.1\r\n\r\n" + std::string(50'000, 'x'));
  EXPECT_THAT(client.ReadAll(),
              AllOf(StartsWith("HTTP/1.1 4"), Not(HasSubstr("(error)"))));
}

TEST_F(HealthEndpointTest, OnlyTheFirstRequestOfAConnectionIsAnswered) {
  Start();
  const std::string twice =
      Ask("GET /livez HTTP/1.1\r\n\r\nGET /livez HTTP/1.1\r\n\r\n");
  EXPECT_EQ(twice.find("HTTP/1.1", 1), std::string::npos) << twice;
}

TEST_F(HealthEndpointTest, ClientsThatSayNothingKeepNobodyWaiting) {
  Start();
  std::deque<Client> idle;
  for (int i = 0; i < 40; ++i) {
    idle.emplace_back(address());
    if (i % 2 == 0) idle.back().Send("GET /readyz HT");
  }
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200 OK\r\n"));
  // The oldest made room; with half a request unread, or without.
  EXPECT_THAT(idle.front().ReadAll(), Not(HasSubstr("HTTP")));
  idle.back().Send("GET /livez HTTP/1.1\r\n\r\n");
  EXPECT_THAT(idle.back().ReadAll(), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(HealthEndpointTest, AConnectionEndsAfterItsTime) {
  Start(absl::Milliseconds(20));
  Client silent(address());
  Client half(address());
  half.Send("GET /livez HTTP/1.1\r\n");
  EXPECT_EQ(silent.ReadAll(), "");
  EXPECT_THAT(half.ReadAll(), Not(HasSubstr("HTTP")));
}

TEST_F(HealthEndpointTest, ItEndsWithConnectionsOpen) {
  Start();
  Client client(address());
  client.Send("GET /livez");
  EXPECT_THAT(Get("/livez"), StartsWith("HTTP/1.1 200 "));  // it has both
  endpoint_.reset();
  EXPECT_THAT(client.ReadAll(), Not(HasSubstr("HTTP")));
}

TEST_F(HealthEndpointTest, AnAddressThatCannotBeHadIsNamed) {
  Start();
  auto second = HealthEndpoint::Start({.listen = address()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address()));
  EXPECT_EQ(HealthEndpoint::Start({.listen = "127.0.0.1:none"}).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(HealthEndpointTest, CheckSaysWhatTheEndpointSays) {
  Start();
  EXPECT_EQ(CheckHealth(address(), absl::Seconds(30)).value(), "ready");
  EXPECT_EQ(CheckHealth(address() + "/livez", absl::Seconds(30)).value(),
            "alive");
  const std::string port = absl::StrCat(PortOf(address()));
  EXPECT_EQ(CheckHealth("localhost:" + port, absl::Seconds(30)).value(),
            "ready");
  EXPECT_EQ(CheckHealth("0.0.0.0:" + port, absl::Seconds(30)).value(), "ready");

  SetReady(absl::UnavailableError("broker: gone"));
  EXPECT_EQ(CheckHealth(address(), absl::Seconds(30)).status(),
            absl::UnavailableError(address() + ": broker: gone"));
  const std::string was = address();
  endpoint_.reset();
  EXPECT_THAT(
      std::string(CheckHealth(was, absl::Seconds(30)).status().message()),
      HasSubstr("Connection refused"));
}

TEST_F(HealthEndpointTest, CheckDoesNotWaitForEver) {
  // Listens, and accepts nothing.
  const int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&at), size), 0);
  ASSERT_EQ(listen(silent, 8), 0);
  ASSERT_EQ(getsockname(silent, reinterpret_cast<sockaddr*>(&at), &size), 0);
  EXPECT_THAT(
      std::string(CheckHealth(absl::StrCat("127.0.0.1:", ntohs(at.sin_port)),
                              absl::Milliseconds(20))
                      .status()
                      .message()),
      HasSubstr("does not answer"));
  close(silent);
}

}  // namespace
}  // namespace penstock
