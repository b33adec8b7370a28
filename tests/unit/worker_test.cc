// A worker over a broker that the test scripts and the memory backend: what is
// run, what is acked, what is given back, and how it ends.

#include "penstock/worker.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/barrier.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"
#include "queue/memory/memory_backend.h"
#include "queue/policy.h"
#include "queue/memory/memory_broker.h"
#include "queue/wire/task_json.h"
#include "sdk/cpp/health_endpoint.h"
#include "tests/support/failing_backend.h"

namespace penstock {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// ---- the world of the tests

// The system's environment, whose clock can be moved on: what is due in a
// minute or later waits for that.
class SkippingEnvironment final : public Environment {
 public:
  absl::Time Now() override {
    absl::MutexLock lock(&mu_);
    return real_->Now() + skipped_;
  }
  std::string NewUuid() override { return real_->NewUuid(); }
  double Random() override { return real_->Random(); }
  void RunAfter(absl::Duration delay, Closure task) override {
    if (delay < absl::Minutes(1)) {
      real_->RunAfter(delay, std::move(task));
      return;
    }
    const absl::Time due = Now() + delay;
    absl::MutexLock lock(&mu_);
    held_.push_back({due, std::move(task)});
  }

  void Skip(absl::Duration time) {
    std::vector<Closure> due;
    {
      absl::MutexLock lock(&mu_);
      skipped_ += time;
      const absl::Time now = real_->Now() + skipped_;
      std::vector<Held> left;
      for (Held& held : held_) {
        if (held.due > now) {
          left.push_back(std::move(held));
        } else {
          due.push_back(std::move(held.task));
        }
      }
      held_ = std::move(left);
    }
    for (Closure& task : due) real_->RunAfter({}, std::move(task));
  }

 private:
  struct Held {
    absl::Time due;
    Closure task;
  };
  absl::Mutex mu_;
  absl::Duration skipped_ ABSL_GUARDED_BY(mu_);
  std::vector<Held> held_ ABSL_GUARDED_BY(mu_);
  const std::unique_ptr<Environment> real_ = MakeSystemEnvironment();
};

// Delivers what the test says, and keeps what the worker does, for the test to
// wait for. Tags are of generation 1.
class ScriptedBroker final : public Broker {
 public:
  explicit ScriptedBroker(Environment* environment)
      : environment_(environment) {}

  void Deliver(const Task& task, uint64_t tag, bool redelivered = false) {
    DeliverBody(EncodeTask(task), tag, redelivered);
  }
  void DeliverBody(std::string body, uint64_t tag, bool redelivered = false) {
    on_delivery_({.tag = {.generation = 1, .tag = tag},
                  .queue = "work",
                  .body = std::move(body),
                  .redelivered = redelivered});
  }

  // Each waits until there are `count`, then gives all.
  std::vector<uint64_t> AwaitAcks(size_t count) { return Await(acks_, count); }
  std::vector<uint64_t> AwaitReturns(size_t count) {
    return Await(returns_, count);
  }
  std::vector<Message> AwaitPublished(size_t count) {
    return Await(published_, count);
  }
  std::vector<std::string> AwaitBuried(size_t count) {
    return Await(buried_, count);
  }
  // What its consumers say from now on.
  void SetHealth(absl::Status health) {
    absl::MutexLock lock(&mu_);
    health_ = std::move(health);
  }

  // "pause", "resume", "prefetch 16", "stop", in order.
  std::vector<std::string> AwaitOrders(size_t count) {
    return Await(orders_, count);
  }

  void Publish(Message message, Done done) override {
    Note(published_, std::move(message));
    Succeed(std::move(done));
  }
  void PublishDead(std::string, std::string body, std::string,
                   Done done) override {
    Note(buried_, std::move(body));
    Succeed(std::move(done));
  }
  bool KeepsDelayed() const override { return false; }
  void PublishAt(Message, absl::Time, Done) override {
    ADD_FAILURE() << "delays are the backend's";
  }
  absl::StatusOr<std::unique_ptr<Consumer>> Consume(
      ConsumeOptions options,
      absl::AnyInvocable<void(Delivery)> on_delivery) override {
    if (options.prefetch <= 0) return absl::InvalidArgumentError("prefetch");
    ++consumptions_;
    consumed_ = std::move(options);
    on_delivery_ = std::move(on_delivery);
    return std::make_unique<ScriptedConsumer>(this);
  }
  std::string DefaultRoutingKey() const override { return "work"; }
  std::string DefaultQueue() const override { return "work"; }
  absl::Status Health() override { return absl::OkStatus(); }

  const ConsumeOptions& consumed() const { return consumed_; }
  int consumptions() const { return consumptions_; }

 private:
  class ScriptedConsumer final : public Consumer {
   public:
    explicit ScriptedConsumer(ScriptedBroker* broker) : broker_(broker) {}
    void Ack(DeliveryTag tag) override {
      broker_->Note(broker_->acks_, tag.tag);
    }
    void Return(DeliveryTag tag) override {
      broker_->Note(broker_->returns_, tag.tag);
    }
    void Pause() override { broker_->Note(broker_->orders_, "pause"); }
    void Resume() override { broker_->Note(broker_->orders_, "resume"); }
    void SetPrefetch(int prefetch) override {
      broker_->Note(broker_->orders_, absl::StrCat("prefetch ", prefetch));
    }
    void Stop(Done done) override {
      broker_->Note(broker_->orders_, "stop");
      broker_->Succeed(std::move(done));
    }
    absl::Status Health() override {
      absl::MutexLock lock(&broker_->mu_);
      return broker_->health_;
    }

   private:
    ScriptedBroker* const broker_;
  };

  void Succeed(Done done) {
    environment_->RunAfter({}, [done = std::move(done)]() mutable {
      std::move(done)(absl::OkStatus());
    });
  }
  template <typename List, typename Item>
  void Note(List& list, Item item) {
    absl::MutexLock lock(&mu_);
    list.push_back(std::move(item));
  }
  template <typename List>
  List Await(const List& list, size_t count) {
    auto enough = [&] { return list.size() >= count; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&enough));
    return list;
  }

  Environment* const environment_;
  ConsumeOptions consumed_;  // set before any delivery
  int consumptions_ = 0;     // as that
  absl::AnyInvocable<void(Delivery)> on_delivery_;

  absl::Mutex mu_;
  std::vector<uint64_t> acks_;  // these, guarded by mu_
  std::vector<uint64_t> returns_;
  std::vector<Message> published_;
  std::vector<std::string> buried_;
  std::vector<std::string> orders_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);
};

class WorkerTest : public ::testing::Test {
 protected:
  Worker& MakeWorker(WorkerOptions options = {}) {
    if (options.concurrency == 0) options.concurrency = 2;
    worker_.emplace(&broker_, &backend_, &environment_, std::move(options));
    return *worker_;
  }
  void Start() { ASSERT_EQ(worker_->Start(), absl::OkStatus()); }

  static Task MakeTask(std::string id, std::string name,
                       std::vector<Value> args = {}) {
    return {.id = std::move(id),
            .name = std::move(name),
            .args = std::move(args),
            .args_null = false};
  }
  static Value Int(int64_t n) { return *MakeValue(n); }

  std::optional<TaskState> StateOf(const std::string& id) {
    // Shared: who notifies looks at it once more.
    struct Read {
      absl::Notification done;
      std::optional<TaskState> state;
    };
    auto read = std::make_shared<Read>();
    memory_->GetStates({id}, [read](auto states) {
      read->state = states.value().at(0);
      read->done.Notify();
    });
    read->done.WaitForNotification();
    return read->state;
  }

  SkippingEnvironment environment_;
  std::unique_ptr<Backend> memory_ = MakeMemoryBackend(&environment_);
  FailingBackend backend_{memory_.get(), &environment_};
  ScriptedBroker broker_{&environment_};
  std::optional<Worker> worker_;
};

// A handler that says when it began and waits to be let go.
struct Gate {
  absl::Notification began;
  absl::Notification go;
  void Pass() {
    if (!began.HasBeenNotified()) began.Notify();
    go.WaitForNotification();
  }
};

// ---- probes

class WorkerHealthTest : public WorkerTest {
 protected:
  WorkerHealthTest() {
    WorkerOptions options;
    options.config.health_listen = "127.0.0.1:0";
    MakeWorker(std::move(options));
  }
  // What /readyz says: "ready", or why not.
  std::string Says() {
    const std::string& address = worker_->health_address();
    auto says = CheckHealth(address, absl::Seconds(30));
    return says.ok() ? *says
                     : std::string(says.status().message())
                           .substr(address.size() + 2);
  }
  // It looks at the backend once a second.
  void AwaitSays(const std::string& text) {
    while (Says() != text) backend_.AwaitCalls("Ping", ++pings_);
  }

  int pings_ = 0;
};

TEST_F(WorkerHealthTest, AWorkerIsReadyWhenConsumerAndBackendAre) {
  broker_.SetHealth(absl::UnavailableError("no queue"));
  Start();
  EXPECT_EQ(Says(), "broker: no queue");
  broker_.SetHealth(absl::OkStatus());
  AwaitSays("ready");
  backend_.SetMode(FailingBackend::kRefuse);
  AwaitSays("result backend: the test took it away");
  backend_.SetMode(FailingBackend::kWork);
  AwaitSays("ready");
}

TEST_F(WorkerHealthTest, ADrainingWorkerIsAliveAndNotReady) {
  Gate gate;
  worker_->Register("wait", [&] { gate.Pass(); });
  Start();
  AwaitSays("ready");
  broker_.Deliver(MakeTask("task_1", "wait"), 1);
  gate.began.WaitForNotification();
  std::jthread drain([&] { (void)worker_->Drain(absl::Hours(1)); });
  broker_.AwaitOrders(1);
  EXPECT_EQ(Says(), "draining: no more tasks are taken");
  const std::string address = worker_->health_address();
  EXPECT_EQ(CheckHealth(address + "/livez", absl::Seconds(30)).value(),
            "alive");
  gate.go.Notify();
  drain.join();
  EXPECT_THAT(
      std::string(CheckHealth(address, absl::Seconds(30)).status().message()),
      HasSubstr("Connection refused"));
}

TEST_F(WorkerHealthTest, AnAddressThatIsTakenStopsTheStart) {
  Start();
  WorkerOptions options;
  options.config.health_listen = worker_->health_address();
  Worker second(&broker_, &backend_, &environment_, std::move(options));
  const absl::Status started = second.Start();
  EXPECT_EQ(started.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(started.message()), HasSubstr("health_listen"));
  EXPECT_THAT(broker_.consumptions(), 1);
}

TEST_F(WorkerTest, ProbesAreAnsweredWhereThatIsAskedFor) {
  MakeWorker();
  Start();
  EXPECT_EQ(worker_->health_address(), "");
}

// ---- a task's run

TEST_F(WorkerTest, ATaskIsRunRecordedAndAcked) {
  Worker& worker = MakeWorker();
  worker.Register("add", [](int64_t a, int64_t b) { return a + b; });
  Start();
  broker_.Deliver(MakeTask("task_1", "add", {Int(2), Int(3)}), 1);

  EXPECT_THAT(broker_.AwaitAcks(1), ElementsAre(1));
  const std::optional<TaskState> state = StateOf("task_1");
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->status, Status::kSuccess);
  EXPECT_THAT(state->results, ElementsAre(Int(5)));
  EXPECT_EQ(state->attempt, 1);
  EXPECT_THAT(state->worker, HasSubstr(std::to_string(getpid())));
}

TEST_F(WorkerTest, ExceptionsFailTheTask) {
  Worker& worker = MakeWorker();
  worker.Register("throw", [] { throw std::runtime_error("oops"); });
  worker.Register("throw_int", [] { throw 42; });
  Start();
  broker_.Deliver(MakeTask("task_1", "throw"), 1);
  broker_.Deliver(MakeTask("task_2", "throw_int"), 2);

  broker_.AwaitAcks(2);
  EXPECT_EQ(StateOf("task_1")->status, Status::kFailure);
  EXPECT_EQ(StateOf("task_1")->error, "oops");
  EXPECT_EQ(StateOf("task_1")->error_type, "exception");
  EXPECT_EQ(StateOf("task_2")->error, "unknown exception");
}

TEST_F(WorkerTest, WrongArgumentsFailTheTaskAtOnceInSpiteOfRetries) {
  Worker& worker = MakeWorker();
  worker.Register("add", [](int64_t a, int64_t b) { return a + b; });
  Start();
  Task task = MakeTask("task_1", "add", {Int(2)});
  task.retry_count = 3;
  broker_.Deliver(task, 1);

  broker_.AwaitAcks(1);
  EXPECT_EQ(StateOf("task_1")->status, Status::kFailure);
  EXPECT_THAT(StateOf("task_1")->error, HasSubstr("argument 2 is missing"));
  EXPECT_EQ(StateOf("task_1")->error_type, kErrorArguments);
}

TEST_F(WorkerTest, RetryAfterIsRecordedWithItsTime) {
  Worker& worker = MakeWorker();
  worker.Register("later",
                  [] { return RetryAfter(absl::Minutes(7), "not yet"); });
  Start();
  const absl::Time before = environment_.Now();
  broker_.Deliver(MakeTask("task_1", "later"), 1);

  broker_.AwaitAcks(1);
  const std::optional<TaskState> state = StateOf("task_1");
  EXPECT_EQ(state->status, Status::kRetry);
  EXPECT_EQ(state->error, "not yet");
  EXPECT_EQ(state->next_attempt, 2);
  EXPECT_GE(state->next_attempt_time, before + absl::Minutes(7));
}

TEST_F(WorkerTest, TheContextTellsOfTheTask) {
  std::optional<Context> seen;
  Worker& worker = MakeWorker();
  worker.Register("look", [&seen](Context& context) { seen = context; });
  Start();
  Task task = MakeTask("task_1", "look");
  task.group_id = "group_1";
  SetStringHeader(task, "color", "b\"lue");
  SetStringHeader(task, kAttemptHeader, "3");
  task.headers["number"] = "7";
  broker_.Deliver(task, 1, /*redelivered=*/true);

  broker_.AwaitAcks(1);
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->task_id, "task_1");
  EXPECT_EQ(seen->name, "look");
  EXPECT_EQ(seen->attempt, 3);
  EXPECT_EQ(seen->group_id, "group_1");
  EXPECT_EQ(seen->queue, "work");
  EXPECT_TRUE(seen->redelivered);
  EXPECT_EQ(seen->headers.at("color"), "b\"lue");
  EXPECT_FALSE(seen->headers.contains("number"));
  EXPECT_FALSE(seen->stop.stop_requested());
}

TEST_F(WorkerTest, ProgressIsSeenWhileTheTaskRuns) {
  absl::Mutex mu;
  int hints = 0;  // guarded by mu
  memory_->SubscribeHints([&](std::string_view id, std::string_view) {
    absl::MutexLock lock(&mu);
    if (!id.empty()) ++hints;
  });
  memory_->WantHints(true);
  Gate gate;
  Worker& worker = MakeWorker();
  worker.Register("long", [&](Context& context) {
    context.SetProgress(0.5, "half");
    gate.Pass();
    context.SetProgress(0.75, "three quarters");
  });
  Start();
  broker_.Deliver(MakeTask("task_1", "long"), 1);
  {
    const auto both = [&] { return hints >= 2; };  // it began, and reported
    absl::MutexLock lock(&mu);
    mu.Await(absl::Condition(&both));
  }
  const std::optional<TaskState> running = StateOf("task_1");
  ASSERT_TRUE(running->progress.has_value());
  EXPECT_EQ(running->progress->fraction, 0.5);
  EXPECT_EQ(running->progress->text, "half");
  EXPECT_EQ(running->status, Status::kStarted);
  gate.go.Notify();

  broker_.AwaitAcks(1);
  EXPECT_EQ(StateOf("task_1")->status, Status::kSuccess);
  EXPECT_EQ(StateOf("task_1")->progress, std::nullopt);
  worker_.reset();  // before what the hints use
}

// After many short ones the begin of a task is not recorded at once.
class ShortTasksTest : public WorkerTest {
 protected:
  ~ShortTasksTest() override { worker_.reset(); }  // before what the hints use

  // A worker that has seen short tasks, with one more handler.
  template <typename Handler>
  void StartAfterShortTasks(Handler handler) {
    memory_->SubscribeHints([this](std::string_view, std::string_view) {
      absl::MutexLock lock(&hints_mu_);
      ++hints_;
    });
    memory_->WantHints(true);
    Worker& worker = MakeWorker();
    worker.Register("short", [] {});
    worker.Register("handler", std::move(handler));
    Start();
    for (uint64_t tag = 1; tag <= kShort; ++tag) {
      broker_.Deliver(MakeTask(absl::StrCat("short_", tag), "short"), tag);
    }
    broker_.AwaitAcks(kShort);
  }

  // Until tasks are taken far ahead. So short as that a run may fail to be when
  // the machine is busy.
  void AwaitWidePrefetch() {
    for (uint64_t tag = kShort + 1; broker_.AwaitOrders(0).empty(); ++tag) {
      broker_.Deliver(MakeTask(absl::StrCat("short_", tag), "short"), tag);
      broker_.AwaitAcks(tag);
    }
  }

  void DeliverPending(const std::string& id, bool redelivered = false,
                      uint64_t tag = kShort + 1) {
    absl::Notification created;
    memory_->CreatePending(
        {{.state = {.task_id = id, .status = Status::kPending},
          .ttl = absl::Hours(1)}},
        [&](auto) { created.Notify(); });
    created.WaitForNotification();
    broker_.Deliver(MakeTask(id, "handler"), tag, redelivered);
  }

  // Looks again at each hint.
  template <typename Found>
  void AwaitState(const std::string& id, Found found) {
    for (int seen = -1;;) {
      {
        const auto hinted = [&] { return hints_ != seen; };
        absl::MutexLock lock(&hints_mu_);
        hints_mu_.Await(absl::Condition(&hinted));
        seen = hints_;
      }
      if (found(*StateOf(id))) return;
    }
  }

  static bool IsStarted(const TaskState& state) {
    return state.status == Status::kStarted;
  }

  static constexpr uint64_t kShort = 64;

 private:
  absl::Mutex hints_mu_;
  int hints_ = 0;  // guarded by hints_mu_
};

TEST_F(ShortTasksTest, AShortTaskIsNotRecordedAsStarted) {
  Status seen = Status::kUnknown;
  StartAfterShortTasks([&](Context& context) {
    seen = StateOf(context.task_id)->status;
  });
  DeliverPending("task_1");
  broker_.AwaitAcks(kShort + 1);
  EXPECT_EQ(seen, Status::kPending);
  EXPECT_EQ(StateOf("task_1")->status, Status::kSuccess);
  EXPECT_EQ(StateOf("task_1")->attempt, 1);
}

TEST_F(ShortTasksTest, OneThatRunsOnIs) {
  Gate gate;
  StartAfterShortTasks([&] { gate.Pass(); });
  DeliverPending("task_1");
  AwaitState("task_1", IsStarted);
  gate.go.Notify();
  broker_.AwaitAcks(kShort + 1);
  EXPECT_EQ(StateOf("task_1")->status, Status::kSuccess);
}

TEST_F(ShortTasksTest, OneThatWasDeliveredBeforeIsAtOnce) {
  Status seen = Status::kUnknown;
  StartAfterShortTasks([&](Context& context) {
    seen = StateOf(context.task_id)->status;
  });
  DeliverPending("task_1", /*redelivered=*/true);
  broker_.AwaitAcks(kShort + 1);
  EXPECT_EQ(seen, Status::kStarted);
}

TEST_F(ShortTasksTest, OneThatReportsProgressIs) {
  Gate gate;
  StartAfterShortTasks([&](Context& context) {
    context.SetProgress(0.5, "half");
    gate.Pass();
  });
  DeliverPending("task_1");
  AwaitState("task_1", [](const TaskState& state) {
    return state.progress.has_value() && IsStarted(state);
  });
  gate.go.Notify();
  broker_.AwaitAcks(kShort + 1);
}

TEST_F(ShortTasksTest, TheyAreTakenFurtherAheadUntilTasksRunOn) {
  absl::Notification go;
  StartAfterShortTasks([&] { go.WaitForNotification(); });
  AwaitWidePrefetch();
  EXPECT_THAT(broker_.AwaitOrders(1), ElementsAre("prefetch 400"));
  const size_t acks = broker_.AwaitAcks(0).size();
  // Of two runners one is still at it after 20 ms.
  DeliverPending("task_1");
  EXPECT_THAT(broker_.AwaitOrders(2),
              ElementsAre("prefetch 400", "prefetch 16"));
  go.Notify();
  broker_.AwaitAcks(acks + 1);
}

TEST_F(ShortTasksTest, LongRunsAreSeenWhereTheyBeganOnRecordToo) {
  absl::Notification go;
  StartAfterShortTasks([&] { go.WaitForNotification(); });
  AwaitWidePrefetch();
  const size_t acks = broker_.AwaitAcks(0).size();
  DeliverPending("task_1", /*redelivered=*/true);
  EXPECT_THAT(broker_.AwaitOrders(2),
              ElementsAre("prefetch 400", "prefetch 16"));
  go.Notify();
  broker_.AwaitAcks(acks + 1);
}

TEST_F(ShortTasksTest, WhatWasTakenAheadOfLongOnesIsGivenBack) {
  constexpr uint64_t kFirst = 1'000'000;
  absl::Notification go;
  StartAfterShortTasks([&] { go.WaitForNotification(); });
  AwaitWidePrefetch();
  const size_t acks = broker_.AwaitAcks(0).size();
  // Nothing begins before all of it is there.
  backend_.SetMode(FailingBackend::kRefuse);
  DeliverPending("refused", /*redelivered=*/true, kFirst);
  broker_.AwaitOrders(2);
  DeliverPending("a", /*redelivered=*/true, kFirst + 1);
  DeliverPending("b", /*redelivered=*/true, kFirst + 2);
  for (uint64_t tag = kFirst + 3; tag < kFirst + 43; ++tag) {
    broker_.Deliver(MakeTask(absl::StrCat("short_", tag), "short"), tag);
  }
  backend_.SetMode(FailingBackend::kWork);
  // 16 begin ahead of the two runners; the others go back, the last one first.
  std::vector<uint64_t> returned = {kFirst};
  for (uint64_t tag = kFirst + 43; tag-- > kFirst + 19;) returned.push_back(tag);
  EXPECT_EQ(broker_.AwaitReturns(25), returned);
  EXPECT_THAT(broker_.AwaitOrders(4),
              ElementsAre("prefetch 400", "pause", "resume", "prefetch 16"));
  go.Notify();
  EXPECT_THAT(broker_.AwaitAcks(acks + 18), SizeIs(acks + 18));
}

TEST_F(WorkerTest, APrefetchThatWasChosenStays) {
  Worker& worker = MakeWorker({.prefetch = 7});
  worker.Register("short", [] {});
  Start();
  for (uint64_t tag = 1; tag <= 500; ++tag) {
    broker_.Deliver(MakeTask(absl::StrCat("short_", tag), "short"), tag);
    broker_.AwaitAcks(tag);
  }
  EXPECT_THAT(broker_.AwaitOrders(0), IsEmpty());
}

TEST_F(WorkerTest, AHandlerWhoseProgressIsNotKeptIsNotDisturbed) {
  backend_.FailNext("SetProgress", 1, FailingBackend::kDie);
  Worker& worker = MakeWorker();
  worker.Register("long", [](const Context& context) {
    for (int i = 0; i < 1000; ++i) context.SetProgress(i / 1000.0);
  });
  Start();
  broker_.Deliver(MakeTask("task_1", "long"), 1);
  broker_.AwaitAcks(1);
  EXPECT_EQ(StateOf("task_1")->status, Status::kSuccess);
  EXPECT_EQ(backend_.Calls("SetProgress"), 1);
}

TEST_F(WorkerTest, AsManyRunAtOnceAsTheConcurrencySays) {
  absl::Barrier all_there(3);
  Worker& worker = MakeWorker({.concurrency = 3});
  worker.Register("meet", [&] { (void)all_there.Block(); });
  Start();
  for (uint64_t tag = 1; tag <= 3; ++tag) {
    broker_.Deliver(MakeTask("task_" + std::to_string(tag), "meet"), tag);
  }
  EXPECT_THAT(broker_.AwaitAcks(3), UnorderedElementsAre(1, 2, 3));
}

TEST_F(WorkerTest, ThousandsOfShortTasksAllEnd) {
  Worker& worker = MakeWorker();
  worker.Register("add", [](Rest<int64_t> n) { return int64_t(n.size()); });
  Start();
  for (uint64_t tag = 1; tag <= 2000; ++tag) {
    broker_.Deliver(MakeTask("task_" + std::to_string(tag), "add"), tag);
  }
  std::vector<uint64_t> acks = broker_.AwaitAcks(2000);
  std::sort(acks.begin(), acks.end());
  EXPECT_EQ(std::unique(acks.begin(), acks.end()), acks.end());
  EXPECT_THAT(acks, SizeIs(2000));
}

// ---- copies of a delivery

TEST_F(WorkerTest, ACopyOfARunningTaskJoinsItsRun) {
  Gate gate;
  int runs = 0;
  Worker& worker = MakeWorker();
  worker.Register("wait", [&] {
    ++runs;
    gate.Pass();
  });
  Start();
  broker_.Deliver(MakeTask("task_1", "wait"), 1);
  gate.began.WaitForNotification();
  broker_.Deliver(MakeTask("task_1", "wait"), 2, /*redelivered=*/true);
  gate.go.Notify();

  EXPECT_THAT(broker_.AwaitAcks(2), ElementsAre(1, 2));
  EXPECT_EQ(runs, 1);
}

TEST_F(WorkerTest, ACopyOfAFinishedTaskIsOnlyAcked) {
  int runs = 0;
  Worker& worker = MakeWorker();
  worker.Register("count", [&] { ++runs; });
  Start();
  broker_.Deliver(MakeTask("task_1", "count"), 1);
  broker_.AwaitAcks(1);
  broker_.Deliver(MakeTask("task_1", "count"), 2);

  EXPECT_THAT(broker_.AwaitAcks(2), ElementsAre(1, 2));
  EXPECT_EQ(runs, 1);
}

TEST_F(WorkerTest, AnotherAttemptWaitsForTheRun) {
  Gate gate;
  int runs = 0;
  Worker& worker = MakeWorker();
  worker.Register("wait", [&] {
    ++runs;
    gate.Pass();
  });
  Start();
  Task task = MakeTask("task_1", "wait");
  broker_.Deliver(task, 1);
  gate.began.WaitForNotification();
  SetStringHeader(task, kAttemptHeader, "2");
  broker_.Deliver(task, 2);
  EXPECT_EQ(backend_.Calls("Begin"), 1);
  gate.go.Notify();

  // Attempt 1 succeeded, so the second one finds a final state.
  EXPECT_THAT(broker_.AwaitAcks(2), ElementsAre(1, 2));
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(backend_.Calls("Begin"), 2);
}

TEST_F(WorkerTest, CopiesBeginAnewWhenTheRunWentStale) {
  Gate gate;
  int runs = 0;
  Worker& worker = MakeWorker();
  worker.Register("wait", [&]() -> absl::Status {
    if (++runs > 1) return absl::OkStatus();
    gate.Pass();
    return absl::InternalError("the first run fails");
  });
  Start();
  Task task = MakeTask("task_1", "wait");
  task.retry_count = 1;
  broker_.Deliver(task, 1);
  gate.began.WaitForNotification();
  broker_.Deliver(task, 2);

  // Another process begins the next attempt: this one's RETRY will be dropped.
  Lifecycle other(&broker_, memory_.get(), &environment_, {});
  absl::Notification begun;
  Task next = task;
  SetStringHeader(next, kAttemptHeader, "2");
  other.Begin(std::make_shared<const Task>(next), "work", "another",
              Lifecycle::Begins::kRecorded, [&](auto verdict) {
                EXPECT_EQ(verdict.value().kind, BeginVerdict::kRun);
                begun.Notify();
              });
  begun.WaitForNotification();
  gate.go.Notify();

  EXPECT_THAT(broker_.AwaitAcks(2), ElementsAre(1, 2));
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(backend_.Calls("Begin"), 2) << "the copy has begun anew";
  EXPECT_EQ(StateOf("task_1")->attempt, 2);
  other.Stop();
}

// ---- what cannot be run

TEST_F(WorkerTest, AnUndecodableDeliveryIsBuriedAndAcked) {
  MakeWorker();
  Start();
  broker_.DeliverBody("{not json", 1);
  broker_.DeliverBody(EncodeTask(MakeTask("", "add")), 2);

  EXPECT_THAT(broker_.AwaitAcks(2), UnorderedElementsAre(1, 2));
  EXPECT_THAT(broker_.AwaitBuried(2), Contains("{not json"));
}

TEST_F(WorkerTest, AnUnknownNameIsPassedOnAndAcked) {
  MakeWorker();
  Start();
  broker_.Deliver(MakeTask("task_1", "somebody_elses"), 1);

  EXPECT_THAT(broker_.AwaitAcks(1), ElementsAre(1));
  EXPECT_EQ(StateOf("task_1"), std::nullopt);
  EXPECT_EQ(backend_.Calls("Lay"), 1);
}

// ---- the backend away

TEST_F(WorkerTest, ConsumingPausesWhileTheBackendIsAway) {
  absl::Notification reported;
  Worker& worker = MakeWorker(
      {.hooks = {.on_error = [&](const absl::Status& error, const Task* task) {
         EXPECT_TRUE(absl::IsUnavailable(error)) << error;
         EXPECT_EQ(task, nullptr);
         reported.Notify();  // once
       }}});
  worker.Register("add", [](int64_t a, int64_t b) { return a + b; });
  Start();
  backend_.SetMode(FailingBackend::kRefuse);
  const Task task = MakeTask("task_1", "add", {Int(2), Int(3)});
  broker_.Deliver(task, 1);
  broker_.Deliver(MakeTask("task_2", "add", {Int(2), Int(3)}), 2);

  EXPECT_THAT(broker_.AwaitReturns(1), Contains(AnyOf(1, 2)));
  EXPECT_THAT(broker_.AwaitOrders(1), ElementsAre("pause"));
  backend_.AwaitCalls("Ping", 2);  // it asks again
  backend_.SetMode(FailingBackend::kWork);
  EXPECT_THAT(broker_.AwaitOrders(2), ElementsAre("pause", "resume"));
  broker_.Deliver(task, 3);
  EXPECT_THAT(broker_.AwaitAcks(1), Contains(AnyOf(2, 3)));
  reported.WaitForNotification();
}

TEST_F(WorkerTest, NothingIsAckedBeforeTheOutcomeIsRecorded) {
  Gate gate;
  Worker& worker = MakeWorker();
  worker.Register("wait", [&] { gate.Pass(); });
  Start();
  broker_.Deliver(MakeTask("task_1", "wait"), 1);
  gate.began.WaitForNotification();
  backend_.SetMode(FailingBackend::kLoseReply);
  gate.go.Notify();
  backend_.AwaitCalls("Finish", 2);
  EXPECT_THAT(broker_.AwaitAcks(0), IsEmpty());

  backend_.SetMode(FailingBackend::kWork);
  EXPECT_THAT(broker_.AwaitAcks(1), ElementsAre(1));
  EXPECT_EQ(StateOf("task_1")->status, Status::kSuccess);
}

TEST_F(WorkerTest, TheStateOfALongTaskIsRefreshedEachHour) {
  Gate gate;
  Worker& worker = MakeWorker();
  worker.Register("wait", [&] { gate.Pass(); });
  Start();
  broker_.Deliver(MakeTask("task_1", "wait"), 1);
  gate.began.WaitForNotification();
  environment_.Skip(absl::Minutes(30));
  EXPECT_EQ(backend_.Calls("Refresh"), 0);
  // A skip may come before the next tick is laid: then another one is needed.
  for (int hour = 1; hour <= 2; ++hour) {
    while (backend_.Calls("Refresh") < hour) environment_.Skip(absl::Hours(1));
  }
  EXPECT_GE(backend_.Calls("Refresh"), 2);
  gate.go.Notify();
  broker_.AwaitAcks(1);
}

// ---- the end

TEST_F(WorkerTest, DrainFinishesWhatRunsAndGivesBackTheRest) {
  Gate gate;
  Worker& worker = MakeWorker({.concurrency = 1});
  worker.Register("wait", [&] { gate.Pass(); });
  Start();
  broker_.Deliver(MakeTask("task_1", "wait"), 1);
  gate.began.WaitForNotification();
  broker_.Deliver(MakeTask("task_2", "wait"), 2);
  Task again = MakeTask("task_1", "wait");
  SetStringHeader(again, kAttemptHeader, "2");
  broker_.Deliver(again, 3);

  absl::Status drained = absl::UnknownError("not yet");
  std::jthread drain([&] { drained = worker.Drain(absl::Hours(1)); });
  EXPECT_THAT(broker_.AwaitReturns(2), UnorderedElementsAre(2, 3));
  broker_.Deliver(MakeTask("task_4", "wait"), 4);
  EXPECT_THAT(broker_.AwaitReturns(3), UnorderedElementsAre(2, 3, 4));
  EXPECT_THAT(broker_.AwaitAcks(0), IsEmpty());
  gate.go.Notify();
  drain.join();

  EXPECT_EQ(drained, absl::OkStatus());
  EXPECT_THAT(broker_.AwaitAcks(1), ElementsAre(1));
  EXPECT_EQ(StateOf("task_1")->status, Status::kSuccess);
  EXPECT_EQ(StateOf("task_2"), std::nullopt);  // was not begun
}

TEST_F(WorkerTest, DrainWaitsForTheRecordAndTheFollowUps) {
  Gate gate;
  Worker& worker = MakeWorker();
  worker.Register("wait", [&] { gate.Pass(); });
  Start();
  Task task = MakeTask("task_1", "wait");
  task.on_success = {EncodeTask(MakeTask("task_2", "next"))};
  task.on_success_null = false;
  broker_.Deliver(task, 1);
  gate.began.WaitForNotification();
  backend_.FailNext("Finish", 2);
  std::jthread drain(
      [&] { EXPECT_EQ(worker.Drain(absl::Hours(1)), absl::OkStatus()); });
  broker_.AwaitOrders(1);
  gate.go.Notify();
  drain.join();

  EXPECT_THAT(broker_.AwaitAcks(0), ElementsAre(1));
  EXPECT_THAT(broker_.AwaitPublished(0), SizeIs(1));
}

TEST_F(WorkerTest, TheDrainDeadlineFiresTheStopToken) {
  absl::Notification began;
  Worker& worker = MakeWorker({.drain_grace = absl::Hours(1)});
  worker.Register("until_stop", [&](Context& context) {
    absl::Notification stopped;
    std::stop_callback on_stop(context.stop, [&] { stopped.Notify(); });
    began.Notify();
    stopped.WaitForNotification();
  });
  Start();
  broker_.Deliver(MakeTask("task_1", "until_stop"), 1);
  began.WaitForNotification();
  EXPECT_EQ(worker.Drain(absl::ZeroDuration()), absl::OkStatus());
  EXPECT_THAT(broker_.AwaitAcks(0), ElementsAre(1));
}

TEST_F(WorkerTest, ACancelledTasksStopTokenFires) {
  absl::Notification began;
  Worker& worker = MakeWorker();
  worker.Register("until_stop", [&](Context& context) {
    absl::Notification stopped;
    std::stop_callback on_stop(context.stop, [&] { stopped.Notify(); });
    began.Notify();
    stopped.WaitForNotification();
  });
  worker.Register("other", [] {});
  Start();
  broker_.Deliver(MakeTask("task_1", "until_stop"), 1);
  began.WaitForNotification();
  TaskState cancelled = *StateOf("task_1");
  cancelled.status = Status::kFailure;
  cancelled.error = "cancelled: why";
  cancelled.error_type = std::string(kErrorCancelled);
  cancelled.run = "canceller";
  absl::Notification written;
  backend_.Cancel(cancelled, absl::Hours(1),
                  [&](absl::StatusOr<CancelAnswer>) { written.Notify(); });
  written.WaitForNotification();
  environment_.Skip(absl::Seconds(2));
  EXPECT_THAT(broker_.AwaitAcks(1), ElementsAre(1));
  EXPECT_EQ(StateOf("task_1")->error, "cancelled: why");
}

TEST_F(WorkerTest, AnAttemptThatRunsForTooLongIsToldAndHasFailed) {
  Worker& worker = MakeWorker();
  worker.Register("until_stop", [](Context& context) {
    absl::Notification stopped;
    std::stop_callback on_stop(context.stop, [&] { stopped.Notify(); });
    stopped.WaitForNotification();
    return 42;  // too late to count
  });
  Start();
  Task task = MakeTask("task_1", "until_stop");
  SetTimeout(task, absl::Milliseconds(50));
  task.retry_count = 1;
  broker_.Deliver(task, 1);
  EXPECT_THAT(broker_.AwaitAcks(1), ElementsAre(1));
  const std::optional<TaskState> state = StateOf("task_1");
  EXPECT_EQ(state->status, Status::kRetry);
  EXPECT_EQ(state->error, "timed out after 50ms");
  EXPECT_EQ(state->error_type, kErrorTimeout);
}

TEST_F(WorkerTest, ATaskGoesOnWithoutAHandlerThatIgnoresItsTimeout) {
  Gate gate;
  Worker& worker = MakeWorker();
  worker.Register("stuck", [&] { gate.Pass(); });
  worker.Register("other", [] {});
  Start();
  Task task = MakeTask("task_1", "stuck");
  SetTimeout(task, absl::Milliseconds(50));
  broker_.Deliver(task, 1);
  EXPECT_THAT(broker_.AwaitAcks(1), ElementsAre(1));
  EXPECT_EQ(StateOf("task_1")->error, "timed out after 50ms");
  broker_.Deliver(MakeTask("task_2", "other"), 2);
  EXPECT_THAT(broker_.AwaitAcks(2), ElementsAre(1, 2));
  // A drain does not end before the thread is back.
  const absl::Status drained = worker.Drain(absl::ZeroDuration());
  EXPECT_TRUE(absl::IsDeadlineExceeded(drained)) << drained;
  EXPECT_THAT(std::string(drained.message()), HasSubstr("task_1 (stuck)"));
  gate.go.Notify();
  worker_.reset();  // before the gate
}

TEST_F(WorkerTest, AnAttemptThatEndsInTimeIsNotDisturbed) {
  Worker& worker = MakeWorker();
  worker.Register("quick", [](Context& context) {
    return context.stop.stop_requested();
  });
  Start();
  Task task = MakeTask("task_1", "quick");
  SetTimeout(task, absl::Minutes(2));
  broker_.Deliver(task, 1);
  broker_.AwaitAcks(1);
  environment_.Skip(absl::Minutes(3));
  EXPECT_EQ(StateOf("task_1")->status, Status::kSuccess);
  EXPECT_THAT(StateOf("task_1")->results, ElementsAre(*MakeValue(false)));
}

TEST_F(WorkerTest, DrainGivesUpOnAHandlerThatGoesOn) {
  Gate gate;
  Worker& worker = MakeWorker({.drain_grace = absl::ZeroDuration()});
  worker.Register("stuck", [&] { gate.Pass(); });
  Start();
  broker_.Deliver(MakeTask("task_1", "stuck"), 1);
  gate.began.WaitForNotification();

  const absl::Status drained = worker.Drain(absl::ZeroDuration());
  EXPECT_TRUE(absl::IsDeadlineExceeded(drained)) << drained;
  EXPECT_THAT(std::string(drained.message()), HasSubstr("task_1 (stuck)"));
  EXPECT_EQ(worker.Drain(absl::Hours(1)), drained);  // the first one's answer
  gate.go.Notify();
  worker_.reset();
  EXPECT_THAT(broker_.AwaitAcks(0), IsEmpty());  // delivered again
  EXPECT_EQ(StateOf("task_1")->status, Status::kStarted);
}

TEST_F(WorkerTest, StopMakesRunReturn) {
  Worker& worker = MakeWorker({.drain_deadline = absl::Hours(1)});
  std::jthread run([&] { EXPECT_EQ(worker.Run(), absl::OkStatus()); });
  worker.Stop();
  run.join();
}

TEST_F(WorkerTest, ASignalMakesRunDrain) {
  Worker& worker = MakeWorker(
      {.drain_deadline = absl::Hours(1),
       .hooks = {.on_consume_start = [] { kill(getpid(), SIGTERM); }}});
  EXPECT_EQ(worker.Run(), absl::OkStatus());
  EXPECT_THAT(broker_.AwaitOrders(1), ElementsAre("stop"));
}

TEST_F(WorkerTest, ASecondSignalEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Worker& worker = MakeWorker({.hooks = {.on_consume_start = [] {
                                 kill(getpid(), SIGTERM);
                                 kill(getpid(), SIGINT);
                               }}});
  EXPECT_EXIT((void)worker.Run(), ::testing::ExitedWithCode(1), "");
}

// ---- options, hooks, mistakes

TEST_F(WorkerTest, OptionsReachTheBroker) {
  MakeWorker({.concurrency = 10, .queues = {"a", "b"}, .consumer_tag = "me"});
  Start();
  EXPECT_THAT(broker_.consumed().queues, ElementsAre("a", "b"));
  EXPECT_EQ(broker_.consumed().consumer_tag, "me");
  EXPECT_EQ(broker_.consumed().prefetch, 40);
}

TEST_F(WorkerTest, PrefetchIsTheOptionThenTheConfigThenChosen) {
  WorkerOptions options{.concurrency = 1};
  MakeWorker(options);
  Start();
  EXPECT_EQ(broker_.consumed().prefetch, 16);

  options.config.amqp.prefetch_count = 5;
  options.config.amqp.prefetch_set = true;
  MakeWorker(options);
  Start();
  EXPECT_EQ(broker_.consumed().prefetch, 5);

  options.prefetch = 7;
  MakeWorker(options);
  Start();
  EXPECT_EQ(broker_.consumed().prefetch, 7);
}

TEST_F(WorkerTest, HooksAreCalledInOrder) {
  absl::Mutex mu;
  std::vector<std::string> calls;
  auto note = [&](std::string call) {
    absl::MutexLock lock(&mu);
    calls.push_back(std::move(call));
  };
  Worker& worker = MakeWorker(
      {.hooks = {
           .on_consume_start = [&] { note("start"); },
           .before_publish =
               [&](Task& task) {
                 note("publish " + task.id);
                 SetStringHeader(task, "by", "hook");
               },
           .before_task = [&](const Task& task) { note("before " + task.id); },
           .after_task = [&](const Task& task) { note("after " + task.id); },
           .on_error =
               [&](const absl::Status& error, const Task* task) {
                 note(std::string(error.message()) + " " + task->id);
               },
       }});
  worker.Register("fail", [&] {
    note("run");
    return absl::InternalError("broken");
  });
  Start();
  Task task = MakeTask("task_1", "fail");
  task.on_error = {EncodeTask(MakeTask("task_2", "mourn"))};
  task.on_error_null = false;
  broker_.Deliver(task, 1);

  broker_.AwaitAcks(1);
  absl::MutexLock lock(&mu);
  EXPECT_THAT(calls,
              ElementsAre("start", "before task_1", "run", "broken task_1",
                          "after task_1", "publish task_2"));
  const std::vector<Message> published = broker_.AwaitPublished(1);
  const absl::StatusOr<Task> sent = DecodeTask(published.at(0).body);
  ASSERT_TRUE(sent.ok()) << sent.status();
  EXPECT_EQ(StringHeader(*sent, "by"), "hook");
}

TEST_F(WorkerTest, RegisteringWronglyEndsTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Worker& worker = MakeWorker();
  worker.Register("add", [] {});
  EXPECT_DEATH(worker.Register("add", [] {}), "\"add\" is there already");
  EXPECT_DEATH(worker.Register("", [] {}), "needs a name");
}

TEST_F(WorkerTest, AWorkerThatNeverStartedEndsWithoutWaiting) { MakeWorker(); }

// ---- over the memory broker, as in the embedded gateway

TEST(WorkerOverMemory, AChainRunsToItsEnd) {
  std::unique_ptr<Environment> environment = MakeSystemEnvironment();
  std::unique_ptr<Broker> broker =
      MakeMemoryBroker({.environment = environment.get()});
  std::unique_ptr<Backend> backend = MakeMemoryBackend(environment.get());
  Lifecycle gateway(broker.get(), backend.get(), environment.get(), {});
  absl::Notification ended;
  Worker worker(broker.get(), backend.get(), environment.get(),
                {.concurrency = 2});
  worker.Register("add", [](Rest<int64_t> numbers) {
    int64_t sum = 0;
    for (int64_t number : numbers) sum += number;
    return sum;
  });
  std::atomic<int64_t> result = 0;
  worker.Register("tell", [&](int64_t n) {
    result = n;
    ended.Notify();
  });
  ASSERT_EQ(worker.Start(), absl::OkStatus());

  auto link = [](std::string id, std::string name, std::vector<Value> args) {
    return Task{.id = std::move(id),
                .name = std::move(name),
                .args = std::move(args),
                .args_null = false};
  };
  gateway.SubmitChain({link("task_1", "add", {*MakeValue(int64_t{2})}),
                       link("task_2", "add", {*MakeValue(int64_t{5})}),
                       link("task_3", "tell", {})},
                      {.payload_hash = "h"}, [](auto submitted) {
                        EXPECT_TRUE(submitted.ok()) << submitted.status();
                      });
  ended.WaitForNotification();
  EXPECT_EQ(result, 7);
  EXPECT_EQ(worker.Drain(absl::Hours(1)), absl::OkStatus());
  gateway.Stop();
}

}  // namespace
}  // namespace penstock
