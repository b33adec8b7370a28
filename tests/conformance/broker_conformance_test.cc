// What every Broker does, whatever is behind it: the sentences of
// queue/broker.h as tests. AMQP runs on the server of PENSTOCK_TEST_AMQP_URL,
// Redis on that of PENSTOCK_TEST_REDIS_URL, with an exchange and queues of the
// test's own.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "queue/amqp/amqp_broker.h"
#include "queue/broker.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/errors.h"
#include "queue/ids.h"
#include "queue/memory/memory_broker.h"
#include "queue/redis/redis_broker.h"
#include "tests/support/amqp_probe.h"
#include "tests/support/broker_verbs.h"
#include "tests/support/redis_probe.h"

namespace penstock {
namespace {

using ::penstock::testing::AmqpProbe;
using ::penstock::testing::Answer;
using ::penstock::testing::Inbox;
using ::penstock::testing::PublishAndWait;
using ::penstock::testing::RedisProbe;
using ::penstock::testing::StopAndWait;
using ::penstock::testing::TestAmqpUrl;
using ::penstock::testing::TestRedisUrl;
using ::testing::UnorderedElementsAre;

// The same server by TLS.
std::string TestAmqpsUrl(TlsOptions* tls) {
  const char* url = getenv("PENSTOCK_TEST_AMQPS_URL");
  const char* ca_file = getenv("PENSTOCK_TEST_CA_FILE");
  if (url == nullptr || ca_file == nullptr) {
    ADD_FAILURE() << "PENSTOCK_TEST_AMQPS_URL is not set: use tests/run";
    return TestAmqpUrl();
  }
  tls->ca_file = ca_file;
  return url;
}

class BrokerConformance : public ::testing::TestWithParam<std::string> {
 protected:
  BrokerConformance() : environment_(MakeSystemEnvironment()) {
    const std::string unique = RandomUuid();
    options_.default_queue = absl::StrCat("penstock-test-", unique);
    options_.amqp.exchange = absl::StrCat("penstock-test-exchange-", unique);
    options_.amqp.binding_key = absl::StrCat("penstock-test-key-", unique);
    if (OnAmqp()) {
      options_.broker =
          GetParam() == "amqps" ? TestAmqpsUrl(&options_.tls) : TestAmqpUrl();
      if (OnQuorum()) {
        options_.amqp.queue_declare_args["x-queue-type"] = {
            .kind = DeclareArg::kString, .string_value = "quorum"};
      } else {
        // What gives messages a priority in RabbitMQ.
        options_.amqp.queue_declare_args["x-max-priority"] = {
            .kind = DeclareArg::kInt, .int_value = 10};
      }
      queues_ = {options_.default_queue};
    }
    if (GetParam() == "redis") {
      options_.broker = TestRedisUrl();
      // Without it every queue exists.
      options_.redis.queues = {options_.default_queue};
      options_.redis.delayed_tasks_key =
          absl::StrCat("penstock-test-delayed-", unique);
    }
    broker_ = Open();
    if (OnQuorum()) {  // so that it refuses nothing later
      EXPECT_EQ(Publish(Default("first")), absl::OkStatus());
      EXPECT_TRUE(
          AmqpProbe(TestAmqpUrl()).Take(options_.default_queue).has_value());
    }
  }

  ~BrokerConformance() override {
    broker_.reset();
    if (GetParam() == "redis") {
      RedisProbe probe(options_.broker, environment_.get());
      for (const std::string& key : probe.Texts(
               {"KEYS", absl::StrCat("*", options_.default_queue, "*")})) {
        probe.Call({"DEL", key});
      }
    }
    if (!OnAmqp()) return;
    AmqpProbe probe(TestAmqpUrl());
    for (const std::string& queue : queues_) {
      probe.DeleteQueue(queue);
      probe.DeleteQueue(absl::StrCat("penstock.dead.", queue));
    }
    probe.DeleteExchange(options_.amqp.exchange);
  }

  std::unique_ptr<Broker> Open() {
    if (GetParam() == "memory") {
      return MakeMemoryBroker({.environment = environment_.get(),
                               .default_queue = options_.default_queue});
    }
    auto broker = GetParam() == "redis"
                      ? OpenRedisBroker(options_, environment_.get())
                      : OpenAmqpBroker(options_, environment_.get());
    EXPECT_TRUE(broker.ok()) << broker.status();
    return *std::move(broker);
  }

  // Whether a delivery says that it is not the first of its task.
  static bool OnAmqp() { return GetParam().starts_with("amqp"); }
  static bool OnQuorum() { return GetParam() == "amqp_quorum"; }

  static bool MarksRedelivered() { return GetParam() != "redis"; }

  // A name of a queue of this test's own, removed at its end.
  std::string NewQueue(const std::string& name) {
    queues_.push_back(absl::StrCat(options_.default_queue, "-", name));
    return queues_.back();
  }

  Message Default(const std::string& body) {
    return {.task_id = absl::StrCat("task_", body), .body = body};
  }

  // A quorum queue that has just been declared may refuse what comes first.
  absl::Status Publish(const Message& message) {
    while (true) {
      absl::Status status = PublishAndWait(*broker_, message);
      const bool may_be_new =
          OnQuorum() && ReasonOf(status) == reason::kBrokerNack;
      if (!may_be_new) return status;
    }
  }

  void PublishDefault(const std::string& body) {
    ASSERT_EQ(Publish(Default(body)), absl::OkStatus());
  }

  std::unique_ptr<Consumer> Consume(Inbox& inbox, int prefetch = 100,
                                    std::vector<std::string> queues = {}) {
    auto consumer = broker_->Consume(
        {.queues = std::move(queues), .prefetch = prefetch}, inbox.Sink());
    EXPECT_TRUE(consumer.ok()) << consumer.status();
    return *std::move(consumer);
  }

  // Asserts that nothing is left for another consumer.
  void ExpectEmpty() {
    Inbox inbox;
    auto consumer = Consume(inbox);
    PublishDefault("marker");
    const Delivery delivery = inbox.Next();
    EXPECT_EQ(delivery.body, "marker");
    consumer->Ack(delivery.tag);
  }

  const std::unique_ptr<Environment> environment_;
  Options options_;
  std::vector<std::string> queues_;
  std::unique_ptr<Broker> broker_;
};

TEST_P(BrokerConformance, DeliversWhatWasPublishedAndForgetsItWhenAcked) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  PublishDefault("a");
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "a");
  EXPECT_EQ(delivery.queue, broker_->DefaultQueue());
  EXPECT_FALSE(delivery.redelivered);
  consumer->Ack(delivery.tag);
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, DeliversInTheOrderOfPublishing) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  for (const char* body : {"a", "b", "c"}) {
    broker_->Publish(Default(body), Answer().TakeDone());
  }
  for (const char* body : {"a", "b", "c"}) {
    const Delivery delivery = inbox.Next();
    EXPECT_EQ(delivery.body, body);
    consumer->Ack(delivery.tag);
  }
}

TEST_P(BrokerConformance, DeliversAgainWhatWasReturned) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  PublishDefault("a");
  const Delivery first = inbox.Next();
  consumer->Return(first.tag);
  const Delivery second = inbox.Next();
  EXPECT_EQ(second.body, "a");
  EXPECT_EQ(second.redelivered, MarksRedelivered());
  EXPECT_NE(second.tag, first.tag);
  consumer->Ack(second.tag);
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, DeliversToTheNextConsumerWhatTheLastOneDidNotAck) {
  Inbox first;
  auto consumer = Consume(first);
  PublishDefault("a");
  first.Next();
  consumer.reset();

  Inbox second;
  consumer = Consume(second);
  const Delivery delivery = second.Next();
  EXPECT_EQ(delivery.body, "a");
  EXPECT_EQ(delivery.redelivered, MarksRedelivered());
  consumer->Ack(delivery.tag);
}

TEST_P(BrokerConformance, AcksGivenJustBeforeTheEndOfTheConsumerCount) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  for (int i = 0; i < 50; ++i) PublishDefault(absl::StrCat(i));
  for (const Delivery& delivery : inbox.Next(50)) consumer->Ack(delivery.tag);
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, AcksInAnyOrderCountForThatDeliveryOnly) {
  Inbox first;
  auto consumer = Consume(first);
  for (int i = 0; i < 10; ++i) PublishDefault(absl::StrCat(i));
  const std::vector<Delivery> all = first.Next(10);
  ASSERT_EQ(all.size(), 10u);
  for (int i : {9, 1, 4, 3, 7, 0, 8}) consumer->Ack(all[i].tag);
  consumer.reset();

  Inbox second;
  consumer = Consume(second);
  std::set<std::string> left;
  for (const Delivery& delivery : second.Next(3)) {
    left.insert(delivery.body);
    consumer->Ack(delivery.tag);
  }
  EXPECT_THAT(left, ::testing::ElementsAre("2", "5", "6"));
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, ReturnsAmongAcksAreNotLost) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  for (int i = 0; i < 10; ++i) PublishDefault(absl::StrCat(i));
  std::set<std::string> returned;
  for (const Delivery& delivery : inbox.Next(10)) {
    if (delivery.body == "2" || delivery.body == "7") {
      consumer->Return(delivery.tag);
    } else {
      consumer->Ack(delivery.tag);
    }
  }
  for (const Delivery& delivery : inbox.Next(2)) {
    returned.insert(delivery.body);
    consumer->Ack(delivery.tag);
  }
  EXPECT_THAT(returned, ::testing::ElementsAre("2", "7"));
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, AckingTwiceOrAfterReturningDoesNoHarm) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  PublishDefault("a");
  const Delivery first = inbox.Next();
  consumer->Return(first.tag);
  consumer->Ack(first.tag);
  const Delivery second = inbox.Next();
  consumer->Ack(second.tag);
  consumer->Ack(second.tag);
  consumer->Return(second.tag);
  consumer->Ack({.generation = second.tag.generation, .tag = 1'000'000});
  PublishDefault("b");
  const Delivery third = inbox.Next();
  EXPECT_EQ(third.body, "b");
  EXPECT_EQ(third.tag.generation, first.tag.generation);
  consumer->Ack(third.tag);
}

TEST_P(BrokerConformance, IgnoresAcksOfAnotherGeneration) {
  Inbox first;
  auto consumer = Consume(first);
  PublishDefault("a");
  const DeliveryTag tag = first.Next().tag;
  consumer->Ack({.generation = tag.generation + 1, .tag = tag.tag});
  consumer->Ack({.generation = 0, .tag = tag.tag});
  consumer->Return({.generation = 0, .tag = tag.tag});
  consumer.reset();

  Inbox second;
  consumer = Consume(second);
  const Delivery delivery = second.Next();
  EXPECT_EQ(delivery.body, "a");
  consumer->Ack(delivery.tag);
}

TEST_P(BrokerConformance, KeepsWhatWasSentBeforeTheFirstConsumer) {
  PublishDefault("early");
  Inbox inbox;
  auto consumer = Consume(inbox);
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "early");
  consumer->Ack(delivery.tag);
}

TEST_P(BrokerConformance, SaysWhenNoQueueTakesTheRoutingKey) {
  const absl::Status status = PublishAndWait(
      *broker_,
      {.task_id = "task_1", .routing_key = "nobody-listens", .body = "a"});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(ReasonOf(status), reason::kQueueNotFound);
  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr("nobody-listens"));
}

TEST_P(BrokerConformance, SaysWhenTheQueueIsNotThere) {
  const std::string queue = NewQueue("missing");
  const absl::Status status = PublishAndWait(
      *broker_, {.task_id = "task_1", .queue = queue, .body = "a"});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(ReasonOf(status), reason::kQueueNotFound);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(queue));
}

TEST_P(BrokerConformance, UnroutableMessagesDoNotHarmTheirNeighbours) {
  std::vector<Answer> answers(60);
  for (int i = 0; i < 60; ++i) {
    Message message = Default(absl::StrCat(i));
    if (i % 3 == 1) message.routing_key = "nobody-listens";
    broker_->Publish(std::move(message), answers[i].TakeDone());
  }
  for (int i = 0; i < 60; ++i) {
    const absl::Status status = answers[i].Wait();
    if (i % 3 == 1) {
      EXPECT_EQ(ReasonOf(status), reason::kQueueNotFound) << i;
    } else {
      EXPECT_EQ(status, absl::OkStatus()) << i;
    }
  }
}

TEST_P(BrokerConformance, SendsStraightToAQueue) {
  const std::string queue = NewQueue("direct");
  Inbox inbox;
  auto consumer = Consume(inbox, 10, {queue});
  // The consumer declares its queue in the background.
  ASSERT_TRUE(testing::Eventually([&] {
    return Publish({.task_id = "task_1",
                                     .routing_key = "not-looked-at",
                                     .queue = queue,
                                     .body = "a"})
        .ok();
  }));
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "a");
  EXPECT_EQ(delivery.queue, queue);
  consumer->Ack(delivery.tag);
}

TEST_P(BrokerConformance, RoutesToAQueueByItsNameAndNotToTheDefaultOne) {
  const std::string queue = NewQueue("own");
  Inbox inbox;
  auto consumer = Consume(inbox, 10, {queue});
  ASSERT_TRUE(testing::Eventually([&] {
    return PublishAndWait(
               *broker_,
               {.task_id = "task_1", .routing_key = queue, .body = "a"})
        .ok();
  }));
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.queue, queue);
  consumer->Ack(delivery.tag);
  ExpectEmpty();
  EXPECT_EQ(inbox.size(), 0u);  // nor the default traffic to it
}

TEST_P(BrokerConformance, ConsumesSeveralQueues) {
  const std::string other = NewQueue("other");
  Inbox inbox;
  auto consumer = Consume(inbox, 10, {broker_->DefaultQueue(), other});
  PublishDefault("a");
  const Delivery first = inbox.Next();
  EXPECT_EQ(first.queue, broker_->DefaultQueue());
  ASSERT_EQ(Publish({.task_id = "t", .queue = other}),
            absl::OkStatus());
  const Delivery second = inbox.Next();
  EXPECT_EQ(second.queue, other);
  EXPECT_EQ(second.body, "");
  consumer->Ack(first.tag);
  consumer->Ack(second.tag);
}

TEST_P(BrokerConformance, HoldsBackWhatIsOverThePrefetch) {
  const std::string other = NewQueue("other");
  Inbox inbox;
  auto consumer = Consume(inbox, 3, {broker_->DefaultQueue(), other});
  for (int i = 0; i < 8; ++i) PublishDefault(absl::StrCat(i));
  const std::vector<Delivery> held = inbox.Next(3);
  ASSERT_EQ(Publish({.task_id = "t", .queue = other, .body = "marker"}),
            absl::OkStatus());
  const Delivery marker = inbox.Next();
  EXPECT_EQ(marker.body, "marker");
  // One more for each that is finished.
  consumer->Ack(held[1].tag);
  const Delivery fourth = inbox.Next();
  EXPECT_EQ(fourth.body, "3");
  EXPECT_EQ(inbox.size(), 0u);
  consumer->Ack(marker.tag);
}

TEST_P(BrokerConformance, ThePrefetchMayChangeWhileItConsumes) {
  const std::string other = NewQueue("other");
  Inbox inbox;
  auto consumer = Consume(inbox, 1, {broker_->DefaultQueue(), other});
  for (int i = 0; i < 8; ++i) PublishDefault(absl::StrCat(i));
  std::vector<Delivery> held = inbox.Next(1);
  consumer->SetPrefetch(3);
  while (held.size() < 3) held.push_back(inbox.Next());
  for (int i = 0; i < 8; ++i) {
    if (static_cast<size_t>(i) == held.size()) held.push_back(inbox.Next());
    EXPECT_EQ(held[i].body, absl::StrCat(i));
    EXPECT_EQ(held[i].queue, broker_->DefaultQueue());
    EXPECT_EQ(held[i].tag.generation, held[0].tag.generation);
    consumer->Ack(held[i].tag);
  }

  consumer->SetPrefetch(1);
  // Until the broker has heard of it, both come before the marker.
  for (bool is_narrow = false; !is_narrow;) {
    PublishDefault("a");
    PublishDefault("b");
    const Delivery first = inbox.Next();
    Message marker{.task_id = "t", .queue = other, .body = "marker"};
    ASSERT_EQ(Publish(std::move(marker)), absl::OkStatus());
    const Delivery second = inbox.Next();
    is_narrow = second.body == "marker";
    consumer->Ack(first.tag);
    consumer->Ack(second.tag);
    const Delivery third = inbox.Next();
    consumer->Ack(third.tag);
    // At the change a quorum queue may swap them.
    EXPECT_THAT((std::vector{first.body, second.body, third.body}),
                UnorderedElementsAre("a", "b", "marker"));
  }
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, ConsumerThatTakesIsHealthyPausedAndStoppedToo) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  PublishDefault("a");
  consumer->Ack(inbox.Next().tag);
  EXPECT_EQ(consumer->Health(), absl::OkStatus());
  consumer->Pause();
  EXPECT_EQ(consumer->Health(), absl::OkStatus());
  ASSERT_EQ(StopAndWait(*consumer), absl::OkStatus());
  EXPECT_EQ(consumer->Health(), absl::OkStatus());
}

TEST_P(BrokerConformance, PausedConsumerTakesNothingAndStillAcks) {
  Inbox inbox;
  auto paused = Consume(inbox, 1);
  PublishDefault("a");
  PublishDefault("b");
  const Delivery first = inbox.Next();
  paused->Pause();
  paused->Ack(first.tag);

  Inbox other;
  auto taker = Consume(other);
  const Delivery second = other.Next();
  EXPECT_EQ(second.body, "b");
  taker->Ack(second.tag);
  taker.reset();
  EXPECT_EQ(inbox.size(), 0u);

  paused->Resume();
  PublishDefault("c");
  const Delivery third = inbox.Next();
  EXPECT_EQ(third.body, "c");
  EXPECT_EQ(third.tag.generation, first.tag.generation);
  paused->Ack(third.tag);
  paused.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, StoppedConsumerHandsOutWhatItHasAndStillAcks) {
  Inbox inbox;
  auto stopped = Consume(inbox);
  for (int i = 0; i < 5; ++i) PublishDefault(absl::StrCat(i));
  const Delivery first = inbox.Next();
  ASSERT_EQ(StopAndWait(*stopped), absl::OkStatus());
  const size_t drained = inbox.size();

  Inbox other;
  auto taker = Consume(other);
  for (const Delivery& delivery : other.Next(4 - drained)) {
    taker->Ack(delivery.tag);
  }
  PublishDefault("late");
  const Delivery late = other.Next();
  EXPECT_EQ(late.body, "late");
  taker->Ack(late.tag);
  taker.reset();

  EXPECT_EQ(inbox.size(), drained);
  stopped->Ack(first.tag);
  for (const Delivery& delivery : inbox.Next(drained)) {
    stopped->Ack(delivery.tag);
  }
  stopped.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, StopAnswersEachTimeAndWhenPaused) {
  Inbox inbox;
  auto consumer = Consume(inbox);
  consumer->Pause();
  EXPECT_EQ(StopAndWait(*consumer), absl::OkStatus());
  EXPECT_EQ(StopAndWait(*consumer), absl::OkStatus());
}

TEST_P(BrokerConformance, DeliveriesMayBeAckedWhileTheyAreHandedOut) {
  Inbox inbox;
  Consumer* consumer_ptr = nullptr;
  absl::Notification ready;
  auto consumer = broker_->Consume({.prefetch = 2}, [&](Delivery delivery) {
    ready.WaitForNotification();
    consumer_ptr->Ack(delivery.tag);
    inbox.Sink()(std::move(delivery));
  });
  ASSERT_TRUE(consumer.ok()) << consumer.status();
  consumer_ptr = consumer->get();
  ready.Notify();
  for (int i = 0; i < 20; ++i) PublishDefault(absl::StrCat(i));
  EXPECT_EQ(inbox.Next(20).size(), 20u);
  consumer->reset();
  ExpectEmpty();
}

// A list of Redis has one order, as in machinery, and so has a quorum queue:
// priorities say nothing there.
TEST_P(BrokerConformance, HigherPrioritiesGoFirstWhereThereAreAny) {
  const bool has_priorities = GetParam() != "redis" && !OnQuorum();
  Message low = Default("low");
  Message high = Default("high");
  high.priority = 9;
  high.headers = {{"text", "\"v\""}, {"flag", "true"}, {"deep", "{\"a\":1}"}};
  ASSERT_EQ(Publish(low), absl::OkStatus());
  ASSERT_EQ(Publish(high), absl::OkStatus());
  Inbox inbox;
  auto consumer = Consume(inbox, 1);
  for (const char* body :
       {has_priorities ? "high" : "low", has_priorities ? "low" : "high"}) {
    const Delivery delivery = inbox.Next();
    EXPECT_EQ(delivery.body, body);
    consumer->Ack(delivery.tag);
  }
}

TEST_P(BrokerConformance, ConfirmsEachOfTwoThousandInFlight) {
  constexpr int kCount = 2'000;
  std::vector<Answer> answers(kCount);
  for (int i = 0; i < kCount; ++i) {
    broker_->Publish(Default(absl::StrCat(i)), answers[i].TakeDone());
  }
  Inbox inbox;
  auto consumer = Consume(inbox);
  std::set<std::string> bodies;
  for (int i = 0; i < kCount && !HasFailure(); ++i) {
    const Delivery delivery = inbox.Next();
    bodies.insert(delivery.body);
    consumer->Ack(delivery.tag);
  }
  EXPECT_EQ(bodies.size(), size_t{kCount});
  for (Answer& answer : answers) ASSERT_EQ(answer.Wait(), absl::OkStatus());
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, TheSameIdTwiceInFlightIsTwoMessages) {
  std::vector<Answer> answers(4);
  const auto publish = [&](int i, const std::string& key) {
    broker_->Publish({.task_id = "twin", .routing_key = key, .body = "a"},
                     answers[i].TakeDone());
  };
  publish(0, "");
  publish(1, "nobody-listens");
  publish(2, "");
  publish(3, "nobody-listens");
  EXPECT_EQ(answers[0].Wait(), absl::OkStatus());
  EXPECT_EQ(ReasonOf(answers[1].Wait()), reason::kQueueNotFound);
  EXPECT_EQ(answers[2].Wait(), absl::OkStatus());
  EXPECT_EQ(ReasonOf(answers[3].Wait()), reason::kQueueNotFound);
  Inbox inbox;
  auto consumer = Consume(inbox);
  for (const Delivery& delivery : inbox.Next(2)) consumer->Ack(delivery.tag);
  consumer.reset();
  ExpectEmpty();
}

TEST_P(BrokerConformance, CarriesAnyBytesAndLargeBodies) {
  std::string large(15 << 20, 'x');
  for (size_t i = 0; i < large.size(); i += 1'001) large[i] = char(i % 251);
  const std::string odd("\0\xff\n\"", 4);
  Inbox inbox;
  auto consumer = Consume(inbox);
  for (const std::string& body : {odd, large, std::string(), odd}) {
    ASSERT_EQ(Publish({.task_id = "t", .body = body}),
              absl::OkStatus());
    const Delivery delivery = inbox.Next();
    EXPECT_TRUE(delivery.body == body);
    consumer->Ack(delivery.tag);
  }
}

TEST_P(BrokerConformance, RefusesABodyOver16MiB) {
  const absl::Status status = PublishAndWait(
      *broker_, {.task_id = "t", .body = std::string((16 << 20) + 1, 'x')});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(ReasonOf(status), reason::kPayloadTooLarge);
  ExpectEmpty();
}

TEST_P(BrokerConformance, DeadLettersLieInAQueueOfTheirOwn) {
  Answer answer;
  broker_->PublishDead(broker_->DefaultQueue(), "{broken", "not JSON",
                       answer.TakeDone());
  ASSERT_EQ(answer.Wait(), absl::OkStatus());
  Inbox inbox;
  const std::string dead =
      absl::StrCat("penstock.dead.", broker_->DefaultQueue());
  // A consumer of this broker would declare it with x-max-priority, which the
  // dead letter queue does not have.
  if (OnAmqp()) {
    AmqpProbe probe(TestAmqpUrl());
    const std::optional<AmqpProbe::Message> message = probe.Take(dead);
    ASSERT_TRUE(message.has_value());
    EXPECT_EQ(message->body, "{broken");
    EXPECT_EQ(message->headers.at("penstock-reason"), "S:not JSON");
  } else {
    auto consumer = Consume(inbox, 1, {dead});
    const Delivery delivery = inbox.Next();
    EXPECT_EQ(delivery.body, "{broken");
    consumer->Ack(delivery.tag);
  }
  ExpectEmpty();
}

TEST_P(BrokerConformance, RefusesToConsumeWithoutPrefetch) {
  EXPECT_EQ(broker_->Consume({.prefetch = 0}, [](Delivery) {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(BrokerConformance, EveryPublishIsAnsweredWhenTheBrokerIsDestroyed) {
  std::vector<Answer> answers(500);
  for (Answer& answer : answers) {
    broker_->Publish(Default("a"), answer.TakeDone());
  }
  broker_.reset();
  for (Answer& answer : answers) {
    const absl::Status status = answer.Wait();
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kUnavailable)
        << status;
  }
}

TEST_P(BrokerConformance, IsHealthyOnceItHasPublished) {
  PublishDefault("a");
  EXPECT_EQ(broker_->Health(), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(All, BrokerConformance,
                         ::testing::Values("memory", "amqp", "amqps",
                                           "amqp_quorum", "redis"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace penstock
