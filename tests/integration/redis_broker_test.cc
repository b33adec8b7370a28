// What is Redis' own about the broker: the lists that Go workers share
// (docs/wire-format.md section 4), held lists and their leases, the delayed
// set, and a server that is cut off, restarted or gone.

#include "queue/redis/redis_broker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/errors.h"
#include "queue/ids.h"
#include "queue/redis/consumer.h"
#include "queue/wire/task_json.h"
#include "tests/support/broker_verbs.h"
#include "tests/support/redis_probe.h"
#include "tests/support/servers.h"
#include "tests/support/tcp_cutter.h"

namespace penstock {
namespace {

using ::penstock::testing::Answer;
using ::penstock::testing::Eventually;
using ::penstock::testing::Inbox;
using ::penstock::testing::PublishAndWait;
using ::penstock::testing::RedisProbe;
using ::penstock::testing::RedisServer;
using ::penstock::testing::RedisServerOptions;
using ::penstock::testing::TcpCutter;
using ::penstock::testing::TestRedisUrl;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using ::testing::SizeIs;

absl::Status PublishAtAndWait(Broker& broker, Message message, absl::Time due) {
  Answer answer;
  broker.PublishAt(std::move(message), due, answer.TakeDone());
  return answer.Wait();
}

std::string TaskJson(const std::string& id, const std::string& routing_key) {
  Task task;
  task.id = id;
  task.name = "add";
  task.routing_key = routing_key;
  return EncodeTask(task);
}

// A queue and a delayed set of the test's own, on the shared server.
class RedisBrokerTest : public ::testing::Test {
 protected:
  explicit RedisBrokerTest(std::unique_ptr<RedisServer> server = nullptr)
      : server_(std::move(server)),
        environment_(MakeSystemEnvironment()),
        queue_(absl::StrCat("penstock-test-", RandomUuid())),
        keys_(KeysOfQueue(queue_)),
        delayed_(absl::StrCat("delayed-", queue_)),
        url_(server_ == nullptr ? TestRedisUrl() : Started(*server_)),
        probe_(url_, environment_.get()) {}

  ~RedisBrokerTest() override {
    for (const std::string& key :
         probe_.Texts({"KEYS", absl::StrCat("*", queue_, "*")})) {
      probe_.Call({"DEL", key});
    }
  }

  static std::string Started(RedisServer& server) {
    EXPECT_TRUE(server.Start().ok());
    return server.url();
  }

  // By way of `port` unless it is 0.
  std::unique_ptr<Broker> Open(int port = 0,
                               absl::Duration lease = absl::Seconds(20)) {
    Options options{.broker = url_, .default_queue = queue_};
    if (port != 0) options.broker = absl::StrCat("redis://127.0.0.1:", port);
    options.redis.delayed_tasks_key = delayed_;
    options.redis.lease = lease;
    auto broker = OpenRedisBroker(options, environment_.get());
    EXPECT_TRUE(broker.ok()) << broker.status();
    return *std::move(broker);
  }

  static std::unique_ptr<Consumer> Consume(Broker& broker, Inbox& inbox,
                                           int prefetch = 100) {
    auto consumer = broker.Consume({.prefetch = prefetch}, inbox.Sink());
    EXPECT_TRUE(consumer.ok()) << consumer.status();
    return *std::move(consumer);
  }

  int PortOfServer() const { return (*ParseRedisUrl(url_, {})).port; }

  // The held lists of workers that live.
  std::vector<std::string> Holders() {
    return probe_.Texts({"ZRANGE", keys_.holders, "0", "-1"});
  }
  std::vector<std::string> DeadHolders() {
    return probe_.Texts({"ZRANGE", keys_.dead, "0", "-1"});
  }

  // What is in no queue and yet not acked.
  std::vector<std::string> Held() {
    std::vector<std::string> held;
    for (const std::string& key :
         probe_.Texts({"KEYS", absl::StrCat(keys_.held, "*")})) {
      for (const std::string& body : probe_.List(key)) held.push_back(body);
    }
    return held;
  }

  void Push(const std::vector<std::string>& bodies) {
    std::vector<std::string> words = {"RPUSH", queue_};
    words.insert(words.end(), bodies.begin(), bodies.end());
    probe_.Call(std::move(words));
  }

  const std::unique_ptr<RedisServer> server_;  // the test's own, or none
  const std::unique_ptr<Environment> environment_;
  const std::string queue_;
  const RedisQueueKeys keys_;
  const std::string delayed_;
  const std::string url_;
  RedisProbe probe_;
};

std::vector<std::string> Bodies(const std::vector<Delivery>& deliveries) {
  std::vector<std::string> bodies;
  for (const Delivery& delivery : deliveries) bodies.push_back(delivery.body);
  return bodies;
}

std::vector<std::string> Numbers(int from, int to) {
  std::vector<std::string> numbers;
  for (int i = from; i < to; ++i) numbers.push_back(absl::StrCat(i));
  return numbers;
}

// ---- the lists --------------------------------------------------------------

TEST_F(RedisBrokerTest, PublishesTheBytesToTheListOfTheRoutingKey) {
  auto broker = Open();
  const std::string body = TaskJson("task_1", "");
  ASSERT_EQ(PublishAndWait(*broker, {.task_id = "task_1", .body = body}),
            absl::OkStatus());
  const std::string other = queue_ + "-other";
  ASSERT_EQ(PublishAndWait(
                *broker,
                {.task_id = "task_2", .routing_key = other, .body = "second"}),
            absl::OkStatus());
  EXPECT_THAT(probe_.List(queue_), ElementsAre(body));
  EXPECT_THAT(probe_.List(other), ElementsAre("second"));
}

TEST_F(RedisBrokerTest, TakesWhatAGoClientPushedAndHoldsItUntilItIsAcked) {
  Push({"a", "b", "c"});
  auto broker = Open();
  Inbox inbox;
  auto consumer = Consume(*broker, inbox);
  const std::vector<Delivery> taken = inbox.Next(3);
  EXPECT_THAT(Bodies(taken), ElementsAre("a", "b", "c"));
  EXPECT_THAT(probe_.List(queue_), IsEmpty());
  EXPECT_THAT(Held(), ElementsAre("a", "b", "c"));
  EXPECT_THAT(Holders(), SizeIs(1));

  consumer->Ack(taken[1].tag);
  EXPECT_TRUE(Eventually([&] {
    return Held() == std::vector<std::string>{"a", "c"};
  }));
  consumer.reset();
  EXPECT_THAT(probe_.List(queue_), ElementsAre("a", "c"));
  EXPECT_THAT(Holders(), IsEmpty());
  EXPECT_THAT(DeadHolders(), IsEmpty());
}

TEST_F(RedisBrokerTest, ReturnsGoToTheFrontInTheirOrder) {
  Push(Numbers(0, 6));
  auto broker = Open();
  Inbox inbox;
  auto consumer = Consume(*broker, inbox, /*prefetch=*/4);
  const std::vector<Delivery> taken = inbox.Next(4);
  consumer->Pause();
  for (int i : {3, 2, 1}) consumer->Return(taken[i].tag);
  ASSERT_TRUE(Eventually([&] { return probe_.List(queue_).size() == 5; }));
  EXPECT_THAT(probe_.List(queue_), ElementsAre("1", "2", "3", "4", "5"));
  consumer->Ack(taken[0].tag);
}

TEST_F(RedisBrokerTest, HoldsAtMostItsPrefetch) {
  Push(Numbers(0, 200));
  auto broker = Open();
  Inbox inbox;
  auto consumer = Consume(*broker, inbox, /*prefetch=*/7);
  for (int i = 0; i < 100; ++i) {
    const Delivery delivery = inbox.Next();
    EXPECT_EQ(delivery.body, absl::StrCat(i));
    EXPECT_THAT(inbox.size(), Le(6u));
    consumer->Ack(delivery.tag);
  }
}

TEST_F(RedisBrokerTest, AKeyThatIsNoListIsNoQueue) {
  auto broker = Open();
  probe_.Call({"SET", queue_, "a state"});
  const absl::Status status =
      PublishAndWait(*broker, {.task_id = "t", .body = "a"});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(ReasonOf(status), reason::kQueueNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(queue_));
}

TEST_F(RedisBrokerTest, DeadLettersKeepBodyAndReason) {
  auto broker = Open();
  Answer answer;
  broker->PublishDead(queue_, "{broken", "not \"JSON\"", answer.TakeDone());
  ASSERT_EQ(answer.Wait(), absl::OkStatus());
  const std::string dead = absl::StrCat("penstock.dead.", queue_);
  EXPECT_THAT(probe_.List(dead), ElementsAre("{broken"));
  EXPECT_THAT(probe_.List(absl::StrCat("{", dead, "}:reasons")),
              ElementsAre(::testing::StartsWith(
                  "{\"Reason\":\"not \\\"JSON\\\"\",\"Time\":\"20")));
}

TEST(RedisQueueKeysTest, StandInTheSlotOfTheQueue) {
  EXPECT_EQ(KeysOfQueue("q").holders, "penstock:holders:{q}");
  EXPECT_EQ(KeysOfQueue("q").held, "penstock:held:{q}:");
  // A name with a hash tag is not braced again, and not taken for another one.
  EXPECT_EQ(KeysOfQueue("a{q}b").held, "penstock:held:=a{q}b:");
  EXPECT_NE(KeysOfQueue("{q}").holders, KeysOfQueue("q").holders);
}

// ---- leases -----------------------------------------------------------------

constexpr absl::Duration kShortLease = absl::Seconds(1);

TEST_F(RedisBrokerTest, AnotherWorkerTakesOverAllThatADeadOneHeldInItsOrder) {
  Push(Numbers(0, 60));
  TcpCutter cutter(PortOfServer());
  auto dying = Open(cutter.port(), kShortLease);
  Inbox first;
  auto dead = Consume(*dying, first, /*prefetch=*/50);
  const std::vector<Delivery> lost = first.Next(50);
  ASSERT_THAT(lost, SizeIs(50));
  cutter.Refuse(true);
  cutter.Cut();

  auto broker = Open(0, kShortLease);
  Inbox second;
  auto consumer = Consume(*broker, second, /*prefetch=*/100);
  // The others at once, the held ones when the lease has ended.
  EXPECT_EQ(Bodies(second.Next(10)), Numbers(50, 60));
  const std::vector<Delivery> taken = second.Next(50);
  EXPECT_EQ(Bodies(taken), Numbers(0, 50));

  // Late acks of the dead one take nothing away.
  for (const Delivery& delivery : lost) dead->Ack(delivery.tag);
  cutter.Refuse(false);
  ASSERT_TRUE(Eventually([&] { return Holders().size() == 2; }));
  EXPECT_THAT(Held(), SizeIs(60));

  // And it takes part again, as somebody new.
  consumer->Pause();
  ASSERT_EQ(PublishAndWait(*broker, {.task_id = "t", .body = "new"}),
            absl::OkStatus());
  const Delivery again = first.Next();
  EXPECT_EQ(again.body, "new");
  EXPECT_GT(again.tag.generation, lost[0].tag.generation);
  dead->Ack(lost[0].tag);
  dead->Ack(again.tag);
  ASSERT_TRUE(Eventually([&] { return Held().size() == 60; }));
  for (const Delivery& delivery : taken) consumer->Ack(delivery.tag);
  ASSERT_TRUE(Eventually([&] { return Held().size() == 10; }));
}

// A blocking move that a paused worker had sent may be carried out long after.
TEST_F(RedisBrokerTest, WhatReachesTheListOfADeadHolderIsFound) {
  const std::string held = absl::StrCat(keys_.held, "paused");
  probe_.Call({"ZADD", keys_.holders, "1", held});
  auto broker = Open(0, kShortLease);
  Inbox inbox;
  auto consumer = Consume(*broker, inbox);
  ASSERT_TRUE(Eventually(
      [&] { return DeadHolders() == std::vector<std::string>{held}; }));
  probe_.Call({"RPUSH", held, "late"});
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "late");
  consumer->Ack(delivery.tag);
}

TEST_F(RedisBrokerTest, ALeaseIsRenewedWhateverTheWorkerDoes) {
  Push({"a"});
  auto broker = Open(0, kShortLease);
  Inbox inbox;
  auto consumer = Consume(*broker, inbox);
  const Delivery delivery = inbox.Next();
  auto other_broker = Open(0, kShortLease);
  Inbox other;
  auto other_consumer = Consume(*other_broker, other);
  const auto lease_end = [&] {
    return probe_.Call({"ZRANGE", keys_.holders, "0", "0", "WITHSCORES"})
        .elements[1]
        .text;
  };
  // Long enough for three leases.
  for (int i = 0; i < 12; ++i) {
    const std::string before = lease_end();
    ASSERT_TRUE(Eventually([&] { return lease_end() != before; }));
  }
  EXPECT_EQ(other.size(), 0u);
  EXPECT_THAT(Held(), ElementsAre("a"));
  consumer->Ack(delivery.tag);
}

TEST_F(RedisBrokerTest, FlushedServerMakesANewGeneration) {
  Push({"a", "b"});
  auto broker = Open(0, kShortLease);
  Inbox inbox;
  auto consumer = Consume(*broker, inbox);
  const std::vector<Delivery> lost = inbox.Next(2);
  probe_.Call({"DEL", keys_.holders, Holders()[0]});
  ASSERT_TRUE(Eventually([&] { return !Holders().empty(); }));
  Push({"c"});
  const Delivery delivery = inbox.Next();
  EXPECT_EQ(delivery.body, "c");
  EXPECT_GT(delivery.tag.generation, lost[0].tag.generation);
  consumer->Ack(delivery.tag);
}

// ---- lost connections -------------------------------------------------------

// Whether a move or an ack took place is unknown each time; the held list says.
TEST_F(RedisBrokerTest, CutConnectionsLoseNothingAndDoubleNothing) {
  constexpr int kTasks = 3'000;
  TcpCutter cutter(PortOfServer());
  auto broker = Open(cutter.port(), absl::Seconds(30));
  Inbox inbox;
  auto consumer = Consume(*broker, inbox, /*prefetch=*/40);
  std::map<std::string, int> seen;
  for (int i = 0; i < kTasks && !HasFailure(); ++i) {
    if (i % 300 == 0) Push(Numbers(i, i + 300));
    const Delivery delivery = inbox.Next();
    ++seen[delivery.body];
    consumer->Ack(delivery.tag);
    if (i % 250 == 125) cutter.Cut();
  }
  EXPECT_THAT(seen, SizeIs(kTasks));
  for (const auto& [body, times] : seen) EXPECT_EQ(times, 1) << body;
  EXPECT_TRUE(Eventually([&] { return Held().empty(); }));
  EXPECT_EQ(inbox.size(), 0u);
}

class RedisBrokerOwnServerTest : public RedisBrokerTest {
 protected:
  RedisBrokerOwnServerTest()
      : RedisBrokerTest(std::make_unique<RedisServer>(
            RedisServerOptions{.durable = true, .extra = {}})) {}
};

TEST_F(RedisBrokerOwnServerTest, RestartsAmidTheWorkLoseNothing) {
  constexpr int kTasks = 600;
  auto broker = Open();
  Push(Numbers(0, kTasks));
  Inbox inbox;
  auto consumer = Consume(*broker, inbox, /*prefetch=*/20);
  std::map<std::string, int> seen;
  for (int i = 0; i < kTasks && !HasFailure(); ++i) {
    const Delivery delivery = inbox.Next();
    ++seen[delivery.body];
    consumer->Ack(delivery.tag);
    if (i == 200) {
      server_->Kill();
      ASSERT_TRUE(server_->Start().ok());
    }
  }
  EXPECT_THAT(seen, SizeIs(kTasks));
  EXPECT_TRUE(Eventually([&] { return Held().empty(); }));
}

TEST_F(RedisBrokerOwnServerTest, TheConsumersHealthFollowsItsLease) {
  auto broker = Open(0, absl::Seconds(2));
  Inbox inbox;
  auto consumer = Consume(*broker, inbox);
  EXPECT_TRUE(Eventually([&] { return consumer->Health().ok(); }));
  ASSERT_TRUE(server_->Pause().ok());
  EXPECT_TRUE(Eventually([&] { return !consumer->Health().ok(); }));
  ASSERT_TRUE(server_->Continue().ok());
  EXPECT_TRUE(Eventually([&] { return consumer->Health().ok(); }));
}

TEST_F(RedisBrokerOwnServerTest, WithoutAServerPublishesAreUnavailable) {
  auto broker = Open();
  ASSERT_EQ(PublishAndWait(*broker, {.task_id = "t", .body = "a"}),
            absl::OkStatus());
  EXPECT_EQ(broker->Health(), absl::OkStatus());
  ASSERT_TRUE(server_->Stop().ok());
  const absl::Status status =
      PublishAndWait(*broker, {.task_id = "t", .body = "b"});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(ReasonOf(status), reason::kBrokerUnavailable);
  EXPECT_TRUE(Eventually([&] { return !broker->Health().ok(); }));
  // One that hangs: the caller's deadline counts.
  ASSERT_TRUE(server_->Start().ok());
  ASSERT_TRUE(Eventually([&] { return broker->Health().ok(); }));
  ASSERT_TRUE(server_->Pause().ok());
  const absl::Status late = PublishAndWait(
      *broker, {.task_id = "t",
                .body = "c",
                .deadline = absl::Now() + absl::Milliseconds(200)});
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
  EXPECT_EQ(ReasonOf(late), reason::kConfirmTimeout);
  ASSERT_TRUE(server_->Continue().ok());
}

// ---- delayed tasks ----------------------------------------------------------

TEST_F(RedisBrokerTest, ADelayedTaskWaitsInMachinerysSetWithItsExactTime) {
  auto broker = Open();
  EXPECT_TRUE(broker->KeepsDelayed());
  const absl::Time due = absl::FromUnixNanos(4102444800123456789);  // 2100
  const std::string body = TaskJson("task_1", queue_);
  ASSERT_EQ(PublishAtAndWait(*broker, {.task_id = "task_1", .body = body}, due),
            absl::OkStatus());
  // To another queue: the set keeps nothing but the JSON.
  ASSERT_EQ(PublishAtAndWait(
                *broker,
                {.task_id = "task_1", .queue = queue_ + "-other", .body = body},
                due + absl::Seconds(1)),
            absl::OkStatus());
  EXPECT_THAT(probe_.Texts({"ZRANGE", delayed_, "0", "-1"}),
              ElementsAre(body, TaskJson("task_1", queue_ + "-other")));
  // As exactly as a double can.
  EXPECT_EQ(std::stod(probe_.Call({"ZSCORE", delayed_, body}).text),
            4102444800123456789.0);
  EXPECT_THAT(probe_.List(queue_), IsEmpty());
}

TEST_F(RedisBrokerTest, ADelayedTaskComesWhenItIsDueAndNotBefore) {
  auto broker = Open();
  Inbox inbox;
  auto consumer = Consume(*broker, inbox);
  const absl::Time due = absl::Now() + absl::Milliseconds(300);
  ASSERT_EQ(PublishAtAndWait(
                *broker,
                {.task_id = "task_1", .body = TaskJson("task_1", queue_)}, due),
            absl::OkStatus());
  const Delivery delivery = inbox.Next();
  EXPECT_GE(absl::Now(), due);
  EXPECT_EQ(delivery.body, TaskJson("task_1", queue_));
  consumer->Ack(delivery.tag);
}

TEST_F(RedisBrokerTest, AllThatAreDueMoveOldestFirst) {
  // As a Go client lays them; more than one look takes.
  std::vector<std::string> words = {"ZADD", delayed_};
  std::vector<std::string> expected;
  for (int i = 0; i < 250; ++i) {
    const std::string body = TaskJson(absl::StrCat("task_", i), queue_);
    words.push_back(absl::StrCat(1'700'000'000'000'000'000 - i * 1'000'000));
    words.push_back(body);
    expected.insert(expected.begin(), body);
  }
  probe_.Call(words);
  auto broker = Open();
  Inbox inbox;
  auto consumer = Consume(*broker, inbox, /*prefetch=*/250);
  EXPECT_EQ(Bodies(inbox.Next(250)), expected);
}

TEST_F(RedisBrokerTest, ManyMoversMoveEachTaskOnce) {
  std::vector<std::unique_ptr<Broker>> movers;
  for (int i = 0; i < 4; ++i) movers.push_back(Open());
  const absl::Time due = absl::Now() + absl::Milliseconds(500);
  std::vector<std::string> words = {"ZADD", delayed_};
  for (int i = 0; i < 500; ++i) {
    words.push_back(absl::StrCat(absl::ToUnixNanos(due)));
    words.push_back(TaskJson(absl::StrCat("task_", i), queue_));
  }
  probe_.Call(words);
  ASSERT_TRUE(Eventually([&] {
    return probe_.Call({"EXISTS", delayed_}).integer == 0;
  }));
  EXPECT_THAT(probe_.List(queue_), SizeIs(500));
}

TEST_F(RedisBrokerTest, DelayedTasksThatCannotBeSentAreDeadLetters) {
  const std::string no_list = queue_ + "-no-list";
  probe_.Call({"SET", no_list, "x"});
  const std::string stuck = TaskJson("task_1", no_list);
  const std::string good = TaskJson("task_2", "");
  probe_.Call({"ZADD", delayed_, "1", "{broken", "2", stuck, "3", good});
  auto broker = Open();
  ASSERT_TRUE(Eventually([&] {
    return probe_.Call({"EXISTS", delayed_}).integer == 0;
  }));
  EXPECT_THAT(probe_.List(absl::StrCat("penstock.dead.", queue_)),
              ElementsAre("{broken"));
  EXPECT_THAT(probe_.List(absl::StrCat("penstock.dead.", no_list)),
              ElementsAre(stuck));
  // Without a routing key it is for the default queue.
  EXPECT_THAT(probe_.List(queue_), ElementsAre(good));
}

}  // namespace
}  // namespace penstock
