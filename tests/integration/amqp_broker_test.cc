// What only a real RabbitMQ shows: what lies on the wire, and what happens when
// connections are cut, stall, or the server refuses. Runs on the server of
// PENSTOCK_TEST_AMQP_URL through a TCP proxy; an alarm has a server of its own.

#include "queue/amqp/amqp_broker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "queue/amqp/connection.h"
#include "queue/broker.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/errors.h"
#include "queue/ids.h"
#include "tests/support/amqp_probe.h"
#include "tests/support/broker_verbs.h"
#include "tests/support/servers.h"
#include "tests/support/tcp_cutter.h"

namespace penstock {
namespace {

using ::penstock::testing::AmqpProbe;
using ::penstock::testing::Answer;
using ::penstock::testing::Eventually;
using ::penstock::testing::Inbox;
using ::penstock::testing::PublishAndWait;
using ::penstock::testing::RabbitServer;
using ::penstock::testing::StopAndWait;
using ::penstock::testing::TcpCutter;
using ::penstock::testing::TestAmqpUrl;
using ::penstock::testing::WithPort;
using ::testing::HasSubstr;
using ::testing::Not;

// Far beyond what an end may take, far below what a hang would.
constexpr absl::Duration kBound = absl::Seconds(10);

Options UniqueOptions(const std::string& url) {
  const std::string unique = RandomUuid();
  Options options;
  options.broker = url;
  options.default_queue = absl::StrCat("penstock-test-", unique);
  options.amqp.exchange = absl::StrCat("penstock-test-exchange-", unique);
  options.amqp.binding_key = absl::StrCat("penstock-test-key-", unique);
  return options;
}

class AmqpBrokerTest : public ::testing::Test {
 protected:
  AmqpBrokerTest()
      : environment_(MakeSystemEnvironment()),
        probe_(TestAmqpUrl()),
        cutter_(ParseAmqpUrl(TestAmqpUrl(), TlsOptions())->port),
        options_(UniqueOptions(WithPort(TestAmqpUrl(), cutter_.port()))) {}

  ~AmqpBrokerTest() override {
    broker_.reset();
    for (const std::string& queue : {options_.default_queue, Other()}) {
      probe_.DeleteQueue(queue);
      probe_.DeleteQueue(absl::StrCat("penstock.dead.", queue));
    }
    probe_.DeleteExchange(options_.amqp.exchange);
  }

  std::string Other() const {
    return absl::StrCat(options_.default_queue, "-other");
  }

  void Open() {
    auto broker = OpenAmqpBroker(options_, environment_.get());
    ASSERT_TRUE(broker.ok()) << broker.status();
    broker_ = *std::move(broker);
  }

  absl::Status Publish(const std::string& body) {
    return PublishAndWait(*broker_, {.task_id = "task_" + body, .body = body});
  }

  // Publishes until it is taken; every failure on the way is UNAVAILABLE.
  void PublishUntilTaken(const std::string& body) {
    ASSERT_TRUE(Eventually([&] {
      const absl::Status status = Publish(body);
      EXPECT_TRUE(status.ok() ||
                  status.code() == absl::StatusCode::kUnavailable)
          << status;
      return status.ok();
    }));
  }

  std::unique_ptr<Consumer> Consume(Inbox& inbox,
                                    std::vector<std::string> queues = {}) {
    auto consumer = broker_->Consume(
        {.queues = std::move(queues), .prefetch = 10}, inbox.Sink());
    EXPECT_TRUE(consumer.ok()) << consumer.status();
    return *std::move(consumer);
  }

  bool HealthSays(const std::string& text) {
    return Eventually([&] {
      return broker_->Health().message().find(text) != absl::string_view::npos;
    });
  }

  // Publishes when the server takes nothing: answers come by the deadline.
  Answer PublishWithDeadline(const std::string& body, absl::Duration wait) {
    Answer answer;
    broker_->Publish({.task_id = "task_late",
                      .body = body,
                      .deadline = environment_->Now() + wait},
                     answer.TakeDone());
    return answer;
  }

  const std::unique_ptr<Environment> environment_;
  AmqpProbe probe_;
  TcpCutter cutter_;
  Options options_;
  std::unique_ptr<Broker> broker_;
};

TEST_F(AmqpBrokerTest, LaysOnTheWireWhatMachineryDoesAndTheMessageId) {
  Open();
  Message message{.task_id = "task_1",
                  .body = "{}",
                  .priority = 7,
                  .headers = {{"text", "\"a\\u00e9\""},
                              {"flag", "true"},
                              {"count", "-42"},
                              {"fraction", "1.5"},
                              {"nothing", "null"},
                              {"deep", "{\"a\":1}"}}};
  ASSERT_EQ(PublishAndWait(*broker_, message), absl::OkStatus());
  ASSERT_EQ(Publish("plain"), absl::OkStatus());

  std::optional<AmqpProbe::Message> taken = probe_.Take(options_.default_queue);
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(taken->exchange, options_.amqp.exchange);
  EXPECT_EQ(taken->routing_key, options_.amqp.binding_key);
  EXPECT_EQ(taken->content_type, "application/json");
  EXPECT_EQ(taken->delivery_mode, 2);
  EXPECT_EQ(taken->message_id, "task_1");
  EXPECT_EQ(taken->priority, 7);
  EXPECT_EQ(taken->headers,
            (std::map<std::string, std::string>{
                {"text", "S:a\u00e9"}, {"flag", "t:1"}, {"count", "l:-42"}}));
  taken = probe_.Take(options_.default_queue);
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(taken->priority, std::nullopt);
  EXPECT_TRUE(taken->headers.empty());
}

TEST_F(AmqpBrokerTest, HeadersThatAmqpCannotHoldDoNotHarmTheMessage) {
  Open();
  Message message{.task_id = std::string(1'000, 'i'), .body = "{}"};
  message.headers[std::string(300, 'k')] = "\"long key\"";
  message.headers["huge"] = absl::StrCat("\"", std::string(200'000, 'v'), "\"");
  message.headers["kept"] = "\"v\"";
  ASSERT_EQ(PublishAndWait(*broker_, message), absl::OkStatus());
  message.routing_key = std::string(300, 'r');
  EXPECT_EQ(ReasonOf(PublishAndWait(*broker_, message)),
            reason::kQueueNotFound);
  EXPECT_EQ(Publish("b"), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, MakesNoShadowQueue) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  EXPECT_EQ(probe_.MessagesReady(options_.amqp.binding_key), std::nullopt);
  EXPECT_EQ(probe_.MessagesReady(options_.default_queue), 1);
}

TEST_F(AmqpBrokerTest, WorksWithTheQueuesOfMachinery) {
  // As a Go worker has declared them before.
  ASSERT_TRUE(probe_.DeclareQueue(options_.default_queue));
  Open();
  EXPECT_EQ(Publish("a"), absl::OkStatus());
  EXPECT_TRUE(probe_.DeclareQueue(options_.default_queue));
}

TEST_F(AmqpBrokerTest, DeadLettersAreConfirmedAndDoNotDisturbOthers) {
  Open();
  std::vector<Answer> answers(50);
  for (size_t i = 0; i < answers.size(); ++i) {
    if (i % 10 == 5) {
      broker_->PublishDead(i < 25 ? options_.default_queue : Other(),
                           absl::StrCat("{broken ", i), "not JSON: \"{\"",
                           answers[i].TakeDone());
    } else {
      broker_->Publish({.task_id = "t", .body = "a"}, answers[i].TakeDone());
    }
  }
  for (Answer& answer : answers) EXPECT_EQ(answer.Wait(), absl::OkStatus());
  const std::string dead =
      absl::StrCat("penstock.dead.", options_.default_queue);
  EXPECT_EQ(probe_.MessagesReady(dead), 2);
  EXPECT_EQ(probe_.MessagesReady(absl::StrCat("penstock.dead.", Other())), 3);
  const std::optional<AmqpProbe::Message> message = probe_.Take(dead);
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->body, "{broken 5");
  EXPECT_EQ(message->headers.at("penstock-reason"), "S:not JSON: \"{\"");
  EXPECT_EQ(message->delivery_mode, 2);
}

TEST_F(AmqpBrokerTest,
       ADeadLetterQueueThatCannotBeDeclaredFailsItsLettersOnly) {
  const std::string dead =
      absl::StrCat("penstock.dead.", options_.default_queue);
  ASSERT_TRUE(probe_.DeclareQueue(dead, {{"x-max-length", 5}}));
  Open();
  for (int i = 0; i < 2; ++i) {  // the channel is opened again
    Answer before, refused, after;
    broker_->Publish({.task_id = "t", .body = "a"}, before.TakeDone());
    broker_->PublishDead(options_.default_queue, "x", "y", refused.TakeDone());
    broker_->Publish({.task_id = "t", .body = "a"}, after.TakeDone());
    EXPECT_EQ(before.Wait(), absl::OkStatus());
    EXPECT_EQ(after.Wait(), absl::OkStatus());
    const absl::Status status = refused.Wait();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr(dead));
    EXPECT_THAT(std::string(status.message()), HasSubstr("inequivalent arg"));
  }
  // Someone removes it.
  probe_.DeleteQueue(dead);
  Answer answer;
  broker_->PublishDead(options_.default_queue, "x", "y", answer.TakeDone());
  EXPECT_EQ(answer.Wait(), absl::OkStatus());
  EXPECT_EQ(cutter_.accepted(), 1);
}

TEST_F(AmqpBrokerTest, ADeletedDeadLetterQueueIsDeclaredAgain) {
  Open();
  const auto publish_dead = [&] {
    Answer answer;
    broker_->PublishDead(options_.default_queue, "x", "y", answer.TakeDone());
    return answer.Wait();
  };
  ASSERT_EQ(publish_dead(), absl::OkStatus());
  probe_.DeleteQueue(absl::StrCat("penstock.dead.", options_.default_queue));
  EXPECT_EQ(ReasonOf(publish_dead()), reason::kQueueNotFound);
  EXPECT_EQ(publish_dead(), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, NackIsUnavailable) {
  ASSERT_TRUE(probe_.DeclareQueue(Other(), {{"x-max-length", 1}},
                                  {{"x-overflow", "reject-publish"}}));
  Open();
  std::vector<Answer> answers(20);
  for (Answer& answer : answers) {
    broker_->Publish({.task_id = "t", .queue = Other(), .body = "a"},
                     answer.TakeDone());
  }
  int nacked = 0;
  for (Answer& answer : answers) {
    const absl::Status status = answer.Wait();
    if (status.ok()) continue;
    ++nacked;
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(ReasonOf(status), reason::kBrokerNack) << status;
  }
  EXPECT_GT(nacked, 0);
  EXPECT_EQ(Publish("b"), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, PublisherConnectsAgainAfterACut) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  cutter_.Cut();
  PublishUntilTaken("b");
  EXPECT_EQ(cutter_.accepted(), 2);
  EXPECT_EQ(broker_->Health(), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, TheConsumersHealthFollowsItsConnection) {
  cutter_.Refuse(true);
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  EXPECT_EQ(consumer->Health().code(), absl::StatusCode::kUnavailable);
  cutter_.Refuse(false);
  EXPECT_TRUE(Eventually([&] { return consumer->Health().ok(); }));
  cutter_.Refuse(true);
  cutter_.Cut();
  EXPECT_TRUE(Eventually([&] { return !consumer->Health().ok(); }));
  cutter_.Refuse(false);
  EXPECT_TRUE(Eventually([&] { return consumer->Health().ok(); }));
}

TEST_F(AmqpBrokerTest, ACutFailsWhatIsInFlightAsPerhapsTaken) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  cutter_.Stall(true);
  std::vector<Answer> answers(20);
  for (Answer& answer : answers) {
    broker_->Publish({.task_id = "t", .body = "a"}, answer.TakeDone());
  }
  // Behind them in the socket, so that they are sent when this one times out.
  EXPECT_EQ(ReasonOf(PublishWithDeadline("x", absl::Milliseconds(200)).Wait()),
            reason::kConfirmTimeout);
  cutter_.Refuse(true);
  cutter_.Cut();
  for (Answer& answer : answers) {
    const absl::Status status = answer.Wait();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(ReasonOf(status), reason::kBrokerUnavailable);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("may have been taken"));
  }
}

TEST_F(AmqpBrokerTest, PublishFailsSoonDuringAnOutageAndWorksAfterIt) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  cutter_.Refuse(true);
  cutter_.Cut();
  for (int i = 0; i < 5; ++i) {
    const absl::Time begin = absl::Now();
    const absl::Status status = Publish("b");
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(ReasonOf(status), reason::kBrokerUnavailable);
    EXPECT_LT(absl::Now() - begin, absl::Seconds(4));  // not its deadline
  }
  EXPECT_EQ(broker_->Health().code(), absl::StatusCode::kUnavailable);
  cutter_.Refuse(false);
  PublishUntilTaken("c");
  EXPECT_EQ(broker_->Health(), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, ConfirmsThatDoNotComeEndAtTheDeadline) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  cutter_.Stall(true);
  std::vector<Answer> answers;
  for (int i = 0; i < 10; ++i) {
    answers.push_back(PublishWithDeadline("b", absl::Milliseconds(100 + i)));
  }
  for (Answer& answer : answers) {
    const absl::Status status = answer.Wait();
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_EQ(ReasonOf(status), reason::kConfirmTimeout);
  }
  // The late confirms do no harm.
  cutter_.Stall(false);
  EXPECT_EQ(Publish("c"), absl::OkStatus());
  EXPECT_EQ(cutter_.accepted(), 1);
}

TEST_F(AmqpBrokerTest, MoreThanAWindowOfLateConfirmsDoesNotStopOthers) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  cutter_.Stall(true);
  std::vector<Answer> answers;
  for (int i = 0; i < 2'000; ++i) {
    answers.push_back(PublishWithDeadline("b", absl::Milliseconds(500)));
  }
  for (Answer& answer : answers) {
    EXPECT_EQ(ReasonOf(answer.Wait()), reason::kConfirmTimeout);
  }
  cutter_.Stall(false);
  EXPECT_EQ(Publish("c"), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, AFullSocketDoesNotHoldUpDeadlinesNorTheEnd) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  cutter_.Stall(true);
  const std::string large(8 << 20, 'x');
  std::vector<Answer> answers;
  for (int i = 0; i < 5; ++i) {
    answers.push_back(PublishWithDeadline(large, absl::Milliseconds(500)));
    answers.push_back(PublishWithDeadline("small", absl::Milliseconds(500)));
  }
  for (Answer& answer : answers) {
    EXPECT_EQ(ReasonOf(answer.Wait()), reason::kConfirmTimeout);
  }
  const absl::Time begin = absl::Now();
  broker_.reset();
  EXPECT_LT(absl::Now() - begin, kBound);
}

TEST_F(AmqpBrokerTest, AFullSocketGoesOnWhereItStopped) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  cutter_.Stall(true);
  std::string large(8 << 20, 'x');
  for (size_t i = 0; i < large.size(); i += 997) large[i] = char('a' + i % 26);
  Answer late = PublishWithDeadline(large, absl::Milliseconds(300));
  EXPECT_EQ(ReasonOf(late.Wait()), reason::kConfirmTimeout);
  cutter_.Stall(false);
  EXPECT_EQ(Publish("c"), absl::OkStatus());
  EXPECT_EQ(cutter_.accepted(), 1);
  Inbox inbox;
  auto consumer = Consume(inbox);
  EXPECT_EQ(inbox.Next().body, "a");
  EXPECT_TRUE(inbox.Next().body == large);
  EXPECT_EQ(inbox.Next().body, "c");
}

TEST_F(AmqpBrokerTest, EndsWithinItsBoundWhenTheServerIsSilent) {
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  const Delivery delivery = inbox.Next();
  cutter_.Stall(true);
  consumer->Ack(delivery.tag);
  Answer unanswered = PublishWithDeadline("b", absl::Minutes(1));
  absl::Time begin = absl::Now();
  consumer.reset();
  EXPECT_LT(absl::Now() - begin, kBound);
  begin = absl::Now();
  broker_.reset();
  EXPECT_LT(absl::Now() - begin, kBound);
  EXPECT_EQ(unanswered.Wait().code(), absl::StatusCode::kUnavailable);
}

TEST_F(AmqpBrokerTest, EndsWithinItsBoundWhileItLogsIn) {
  cutter_.Stall(true);
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  ASSERT_TRUE(Eventually([&] { return cutter_.accepted() == 2; }));
  const absl::Time begin = absl::Now();
  consumer.reset();
  broker_.reset();
  EXPECT_LT(absl::Now() - begin, kBound);
}

TEST_F(AmqpBrokerTest, ConsumerConnectsAgainUnderANewGeneration) {
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  const Delivery first = inbox.Next();
  EXPECT_EQ(first.tag.generation, 1u);
  cutter_.Cut();
  const Delivery second = inbox.Next();
  EXPECT_EQ(second.body, "a");
  EXPECT_TRUE(second.redelivered);
  EXPECT_EQ(second.tag.generation, 2u);
  // Equal numbers of two connections: the old one means nothing now.
  EXPECT_EQ(second.tag.tag, first.tag.tag);
  consumer->Ack(first.tag);
  cutter_.Cut();
  const Delivery third = inbox.Next();
  EXPECT_EQ(third.body, "a");
  consumer->Ack(third.tag);
  PublishUntilTaken("b");
  const Delivery fourth = inbox.Next();
  EXPECT_EQ(fourth.body, "b");
  consumer->Ack(fourth.tag);
}

TEST_F(AmqpBrokerTest, PauseOutlivesAReconnect) {
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  const Delivery first = inbox.Next();
  consumer->Pause();
  cutter_.Cut();
  Inbox other;
  {
    auto taker = Consume(other);
    const Delivery delivery = other.Next();
    EXPECT_EQ(delivery.body, "a");
    taker->Ack(delivery.tag);
  }
  EXPECT_EQ(inbox.size(), 0u);
  consumer->Resume();
  PublishUntilTaken("b");
  const Delivery second = inbox.Next();
  EXPECT_EQ(second.body, "b");
  consumer->Ack(second.tag);
}

TEST_F(AmqpBrokerTest, StopIsAnsweredWithoutAConnection) {
  cutter_.Refuse(true);
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  EXPECT_EQ(StopAndWait(*consumer), absl::OkStatus());
  EXPECT_EQ(StopAndWait(*consumer), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, StopIsAnsweredWhenTheConnectionIsLostMeanwhile) {
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  inbox.Next();
  cutter_.Stall(true);
  Answer answer;
  consumer->Stop(answer.TakeDone());
  cutter_.Cut();
  EXPECT_EQ(answer.Wait(), absl::OkStatus());
}

TEST_F(AmqpBrokerTest, ConsumerOutlivesTheDeletionOfItsQueue) {
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox, {options_.default_queue, Other()});
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  consumer->Ack(inbox.Next().tag);
  probe_.DeleteQueue(options_.default_queue);
  // The consumer declares it again; until then it is not found.
  ASSERT_TRUE(Eventually([&] { return Publish("b").ok(); }));
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "b");
  EXPECT_GT(delivery.tag.generation, 1u);
  consumer->Ack(delivery.tag);
}

TEST_F(AmqpBrokerTest, PublisherOutlivesTheDeletionOfItsExchange) {
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  probe_.DeleteExchange(options_.amqp.exchange);
  const absl::Status status = Publish("b");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no exchange"));
  PublishUntilTaken("c");
}

TEST_F(AmqpBrokerTest, OtherArgumentsOfAQueueAreNamed) {
  ASSERT_TRUE(
      probe_.DeclareQueue(options_.default_queue, {{"x-max-length", 100}}));
  Open();
  ASSERT_TRUE(HealthSays("inequivalent arg")) << broker_->Health();
  EXPECT_THAT(std::string(broker_->Health().message()),
              HasSubstr(options_.default_queue));
  const absl::Status status = Publish("a");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("inequivalent arg"));
  // Put right by hand: no restart of ours is needed.
  probe_.DeleteQueue(options_.default_queue);
  PublishUntilTaken("b");
}

TEST_F(AmqpBrokerTest, DeclaresWithTheArgumentsOfTheConfiguration) {
  options_.amqp.queue_declare_args["x-max-length"] = {.kind = DeclareArg::kInt,
                                                      .int_value = 100};
  options_.amqp.queue_declare_args["x-queue-type"] = {
      .kind = DeclareArg::kString, .string_value = "quorum"};
  Open();
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  EXPECT_TRUE(probe_.DeclareQueue(options_.default_queue,
                                  {{"x-max-length", 100}},
                                  {{"x-queue-type", "quorum"}}));
  Inbox inbox;
  auto consumer = Consume(inbox);
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "a");
  consumer->Ack(delivery.tag);
}

TEST_F(AmqpBrokerTest, ARefusedLoginIsNamedWithoutThePassword) {
  options_.broker =
      absl::StrReplaceAll(options_.broker, {{":guest@", ":not-the-password@"}});
  Open();
  ASSERT_TRUE(HealthSays("refused")) << broker_->Health();
  EXPECT_THAT(std::string(broker_->Health().message()),
              Not(HasSubstr("not-the-password")));
}

TEST_F(AmqpBrokerTest, AnEmptyBodyFromElsewhereIsDelivered) {
  Open();
  Inbox inbox;
  auto consumer = Consume(inbox);
  ASSERT_EQ(Publish("a"), absl::OkStatus());
  consumer->Ack(inbox.Next().tag);
  probe_.Publish(options_.default_queue, "");
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "");
  EXPECT_EQ(delivery.queue, options_.default_queue);
  consumer->Ack(delivery.tag);
}

TEST(AmqpServerTest, BlockedPublishersWaitAndARestartIsSurvived) {
  RabbitServer server;
  ASSERT_EQ(server.Start(), absl::OkStatus());
  const auto environment = MakeSystemEnvironment();
  auto broker = OpenAmqpBroker(UniqueOptions(server.url()), environment.get());
  ASSERT_TRUE(broker.ok());
  const auto publish = [&](absl::Duration wait) {
    return PublishAndWait(
        **broker,
        {.task_id = "t", .body = "a", .deadline = environment->Now() + wait});
  };
  ASSERT_EQ(publish(absl::Seconds(5)), absl::OkStatus());

  ASSERT_TRUE(
      server.Control({"set_vm_memory_high_watermark", "absolute", "1MB"}).ok());
  // RabbitMQ tells a publisher at its first message during the alarm.
  ASSERT_TRUE(Eventually([&] {
    (void)publish(absl::Milliseconds(100));
    return !(*broker)->Health().ok();
  }));
  EXPECT_THAT(std::string((*broker)->Health().message()), HasSubstr("memory"));
  const absl::Status blocked = publish(absl::Milliseconds(100));
  EXPECT_EQ(ReasonOf(blocked), reason::kConfirmTimeout);
  EXPECT_THAT(std::string(blocked.message()), HasSubstr("not sent"));

  ASSERT_TRUE(
      server.Control({"set_vm_memory_high_watermark", "absolute", "2GB"}).ok());
  ASSERT_TRUE(Eventually([&] { return (*broker)->Health().ok(); }));
  EXPECT_EQ(publish(absl::Seconds(5)), absl::OkStatus());

  Inbox inbox;
  auto consumer = (*broker)->Consume({.prefetch = 1}, inbox.Sink());
  ASSERT_TRUE(consumer.ok());
  const Delivery before = inbox.Next();
  ASSERT_EQ(server.Stop(), absl::OkStatus());
  const absl::Status down = publish(absl::Seconds(5));
  EXPECT_EQ(down.code(), absl::StatusCode::kUnavailable) << down;
  ASSERT_EQ(server.Start(), absl::OkStatus());
  ASSERT_TRUE(Eventually([&] { return publish(absl::Seconds(5)).ok(); }));
  const Delivery again = inbox.Next();
  EXPECT_GT(again.tag.generation, before.tag.generation);
  (*consumer)->Ack(again.tag);
}

}  // namespace
}  // namespace penstock
