// The life of a task over the memory twins, with time and crashes in the test's
// hands. A "worker" here is what the SDK's runtime does, in ten lines.

#include "queue/lifecycle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "queue/errors.h"
#include "queue/json.h"
#include "queue/memory/memory_backend.h"
#include "queue/memory/memory_broker.h"
#include "queue/policy.h"
#include "queue/wire/task_json.h"
#include "tests/support/failing_backend.h"
#include "tests/support/failing_broker.h"
#include "tests/support/fake_environment.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kQueue[] = "tasks";

Value Int(int64_t value) {
  return {.type = "int64", .json = absl::StrCat(value)};
}
Task Add(const std::string& id, std::vector<int64_t> numbers) {
  Task task{.id = id, .name = "add"};
  for (int64_t number : numbers) task.args.push_back(Int(number));
  task.args_null = task.args.empty();
  return task;
}
Outcome Success(std::vector<Value> results) {
  return {.kind = Outcome::kSuccess, .results = std::move(results)};
}
Outcome Failure(const std::string& error) {
  return {.kind = Outcome::kFailure, .error = error, .error_type = "exception"};
}

// A backend that, on command, has only machinery's own records of groups, or
// cannot have a state under some id.
class NoRecordsOnCommand : public FailingBackend {
 public:
  using FailingBackend::FailingBackend;
  void RefuseForGood(const std::string& task_id) { refused_id_ = task_id; }
  void CreatePending(std::vector<PendingRequest> requests,
                     Callback<std::vector<PendingAnswer>> done) override {
    // The others' states are there by then.
    const auto refused = std::find_if(
        requests.begin(), requests.end(), [this](const PendingRequest& one) {
          return one.state.task_id == refused_id_;
        });
    if (refused != requests.end()) {
      requests.erase(refused);
      FailingBackend::CreatePending(
          std::move(requests), [done = std::move(done)](auto) mutable {
            std::move(done)(MakeError(absl::StatusCode::kInternal,
                                      reason::kInternal, "WRONGTYPE"));
          });
      return;
    }
    FailingBackend::CreatePending(std::move(requests), std::move(done));
  }
  void HideRecords() { hide_records_ = true; }
  void GetRecord(WorkflowRecord::Kind kind, std::string id,
                 Callback<std::optional<WorkflowRecord>> done) override {
    FailingBackend::GetRecord(
        kind, std::move(id),
        [hide = hide_records_, done = std::move(done)](
            absl::StatusOr<std::optional<WorkflowRecord>> record) mutable {
          if (hide) record = std::optional<WorkflowRecord>();
          std::move(done)(std::move(record));
        });
  }

 private:
  bool hide_records_ = false;
  std::string refused_id_;
};

class LifecycleTest : public ::testing::Test {
 protected:
  LifecycleTest()
      : memory_broker_(MakeMemoryBroker(
            {.environment = &environment_, .default_queue = kQueue})),
        memory_backend_(MakeMemoryBackend(&environment_, &keys_)),
        broker_(memory_broker_.get(), &environment_),
        backend_(memory_backend_.get(), &environment_) {
    handlers_["add"] = [](const Task& task) {
      int64_t sum = 0;
      for (const Value& arg : task.args) sum += std::stoll(arg.json);
      return Success({Int(sum)});
    };
    handlers_["multiply"] = [](const Task& task) {
      int64_t product = 1;
      for (const Value& arg : task.args) product *= std::stoll(arg.json);
      return Success({Int(product)});
    };
    handlers_["fail"] = [](const Task&) { return Failure("boom"); };
    StartLifecycle();
  }
  ~LifecycleTest() override {
    consumer_.reset();
    if (lifecycle_ != nullptr) lifecycle_->Stop();
    environment_.Advance(absl::Seconds(5));
  }

  void StartLifecycle() {
    lifecycle_ = std::make_unique<Lifecycle>(&broker_, &backend_, &environment_,
                                             LifecycleOptions{});
    lifecycle_->Start();
  }

  // --- the gateway's verbs
  absl::StatusOr<Submitted> Send(Task task, const std::string& hash = "h") {
    return Call([&](Callback<Submitted> done) {
      lifecycle_->SubmitTask(std::move(task), {.payload_hash = hash},
                             std::move(done));
    });
  }
  // The outcome of each: "sent", "replayed", or the error's reason or code.
  std::vector<std::string> SendTogether(std::vector<NewTask> tasks) {
    std::vector<std::string> outcomes;
    auto answer = [&](absl::StatusOr<SubmittedTasks> submitted) {
      if (!submitted.ok()) {
        outcomes = {submitted.status().ToString()};
        return;
      }
      for (const absl::StatusOr<Submitted>& one : *submitted) {
        outcomes.push_back(one.ok() ? one->replayed ? "replayed" : "sent"
                                    : std::string(ReasonOf(one.status())));
      }
    };
    lifecycle_->SubmitTasks(std::move(tasks), absl::InfiniteFuture(), answer);
    for (int i = 0; i < 200 && outcomes.empty(); ++i) {
      environment_.Advance(absl::Milliseconds(50));
    }
    return outcomes;
  }
  absl::StatusOr<Submitted> SendChain(std::vector<Task> links,
                                      const std::string& hash = "h") {
    return Call([&](Callback<Submitted> done) {
      lifecycle_->SubmitChain(std::move(links), {.payload_hash = hash},
                              std::move(done));
    });
  }
  absl::StatusOr<Submitted> SendGroup(const std::string& id,
                                      std::vector<Task> members,
                                      std::optional<Task> callback = {},
                                      const std::string& hash = "h") {
    return Call([&](Callback<Submitted> done) {
      lifecycle_->SubmitGroup({.id = id,
                               .members = std::move(members),
                               .callback = std::move(callback)},
                              {.payload_hash = hash}, std::move(done));
    });
  }
  absl::StatusOr<Submitted> SendChord(NewGroup chord) {
    return Call([&](Callback<Submitted> done) {
      lifecycle_->SubmitGroup(std::move(chord), {.payload_hash = "h"},
                              std::move(done));
    });
  }

  // "cancelled", "too late: STATUS", "unknown".
  std::string Cancel(const std::string& id, const std::string& reason = "why") {
    std::string text = "no answer";
    lifecycle_->CancelTask(
        id, reason,
        [&](absl::StatusOr<std::optional<CancelledTask>> answer) {
          ASSERT_TRUE(answer.ok()) << answer.status();
          if (!answer->has_value()) {
            text = "unknown";
          } else if ((*answer)->accepted) {
            text = "cancelled";
          } else {
            text = absl::StrCat(
                "too late: ",
                absl::string_view(StatusName((*answer)->state.status).data(),
                                  StatusName((*answer)->state.status).size()));
          }
        });
    environment_.RunDue();
    return text;
  }
  // How many were ended; -1: the group is unknown.
  int CancelGroup(const std::string& id) {
    int count = -2;
    lifecycle_->CancelGroup(id, "why",
                            [&](absl::StatusOr<std::optional<int>> answer) {
                              ASSERT_TRUE(answer.ok()) << answer.status();
                              count = answer->value_or(-1);
                            });
    environment_.RunDue();
    return count;
  }

  // --- the worker's verbs
  void StartWorker(int prefetch = 100) {
    consumer_ =
        memory_broker_
            ->Consume({.queues = {kQueue}, .prefetch = prefetch},
                      [this](Delivery delivery) { Deliver(std::move(delivery)); })
            .value();
  }
  // Its connections end; what it held is delivered again to the next one.
  void CrashWorker() {
    consumer_.reset();
    ++crashes_;
    lifecycle_->Stop();
    StartLifecycle();
  }
  void Deliver(Delivery delivery) {
    absl::StatusOr<Task> task = DecodeTask(delivery.body);
    ASSERT_TRUE(task.ok()) << delivery.body;
    if (!handlers_.contains(task->name)) {
      lifecycle_->PassOn(*task, delivery.queue, AckWhenOk(delivery.tag));
      return;
    }
    lifecycle_->Begin(
        std::make_shared<const Task>(*task), delivery.queue, "worker", begins_,
        [this, task = *task, delivery](absl::StatusOr<BeginVerdict> verdict) {
          if (!verdict.ok()) return;
          if (verdict->kind == BeginVerdict::kDone) {
            Ack(delivery.tag);
            return;
          }
          ++runs_[task.id];
          Outcome outcome = handlers_[task.name](task);
          if (hold_outcomes_) return;
          lifecycle_->Finish(
              task, *verdict, "worker", outcome,
              [this, tag = delivery.tag](absl::StatusOr<FinishVerdict> end) {
                if (end.ok()) Ack(tag);
              });
        });
  }
  Done AckWhenOk(DeliveryTag tag) {
    return [this, tag](absl::Status status) {
      if (status.ok()) Ack(tag);
    };
  }
  void Ack(DeliveryTag tag) {
    if (consumer_ != nullptr) consumer_->Ack(tag);
    ++acks_;
  }

  // --- what is seen
  std::optional<TaskState> State(const std::string& id) {
    environment_.RunDue();
    std::optional<TaskState> found;
    memory_backend_->GetStates(
        {id}, [&](absl::StatusOr<std::vector<std::optional<TaskState>>> states) {
          found = states->front();
        });
    environment_.RunDue();
    return found;
  }
  // "SUCCESS 3", "FAILURE boom", "PENDING", "none"
  std::string Seen(const std::string& id) {
    const std::optional<TaskState> state = State(id);
    if (!state.has_value()) return "none";
    std::string text(StatusName(state->status));
    for (const Value& result : state->results) {
      absl::StrAppend(&text, " ", result.json);
    }
    if (!state->error.empty()) absl::StrAppend(&text, " ", state->error);
    return text;
  }

  bool NothingIsOpen() {
    bool empty = false;
    memory_backend_->LeaseOpen(
        absl::InfiniteFuture(), absl::InfiniteFuture(), 10,
        [&](absl::StatusOr<std::vector<OpenEntry>> entries) {
          empty = entries.value().empty();
        });
    environment_.RunDue();
    return empty;
  }

  template <typename Request>
  absl::StatusOr<Submitted> Call(Request request) {
    std::optional<absl::StatusOr<Submitted>> answer;
    request([&](absl::StatusOr<Submitted> result) { answer = result; });
    for (int i = 0; i < 200 && !answer.has_value(); ++i) {
      environment_.Advance(absl::Milliseconds(50));
    }
    return answer.value_or(absl::InternalError("no answer"));
  }

  FakeEnvironment environment_;
  std::unique_ptr<Broker> memory_broker_;
  MemoryKeys* keys_ = nullptr;  // before the next, which sets it
  std::unique_ptr<Backend> memory_backend_;
  FailingBroker broker_;
  NoRecordsOnCommand backend_;
  std::unique_ptr<Lifecycle> lifecycle_;
  std::unique_ptr<Consumer> consumer_;
  std::map<std::string, std::function<Outcome(const Task&)>> handlers_;
  std::map<std::string, int> runs_;
  Lifecycle::Begins begins_ = Lifecycle::Begins::kRecorded;
  bool hold_outcomes_ = false;
  int acks_ = 0;
  int crashes_ = 0;
};

TEST_F(LifecycleTest, ATaskIsPendingThenRunsToSuccess) {
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  EXPECT_EQ(Seen("t"), "PENDING");
  StartWorker();
  EXPECT_EQ(Seen("t"), "SUCCESS 2");
  EXPECT_EQ(acks_, 1);
  const TaskState state = *State("t");
  EXPECT_EQ(state.attempt, 1);
  EXPECT_EQ(state.worker, "worker");
  EXPECT_TRUE(state.start_time.has_value());
  EXPECT_TRUE(state.finish_time.has_value());
}

TEST_F(LifecycleTest, AChainPassesResultsOn) {
  ASSERT_TRUE(SendChain({Add("a", {2, 2}), Add("b", {5, 6}),
                         {.id = "c", .name = "multiply", .args = {Int(4)},
                          .args_null = false}})
                  .ok());
  EXPECT_EQ(Seen("c"), "PENDING");
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("a"), "SUCCESS 4");
  EXPECT_EQ(Seen("b"), "SUCCESS 15");
  EXPECT_EQ(Seen("c"), "SUCCESS 60");
}

TEST_F(LifecycleTest, AChordRunsItsCallbackOnceWithAllResults) {
  ASSERT_TRUE(SendGroup("g", {Add("a", {1, 1}), Add("b", {2, 2}),
                              Add("c", {5, 6})},
                        Task{.id = "cb", .name = "multiply"})
                  .ok());
  EXPECT_EQ(Seen("cb"), "PENDING");
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("cb"), "SUCCESS 88");
  EXPECT_EQ(runs_["cb"], 1);
  environment_.Advance(absl::Minutes(3));
  EXPECT_EQ(runs_["cb"], 1);
}

TEST_F(LifecycleTest, AFailedLinkAbandonsWhatFollows) {
  ASSERT_TRUE(SendChain({Add("a", {1}), {.id = "b", .name = "fail"},
                         Add("c", {}), Add("d", {})})
                  .ok());
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("b"), "FAILURE boom");
  EXPECT_EQ(Seen("c"), "FAILURE link fail (b) failed: boom");
  EXPECT_EQ(Seen("d"), "FAILURE link fail (b) failed: boom");
  EXPECT_EQ(State("d")->error_type, kErrorAbandoned);
}

TEST_F(LifecycleTest, AFailedMemberEndsTheChordNamingIt) {
  ASSERT_TRUE(SendGroup("g", {Add("a", {1}), {.id = "b", .name = "fail"}},
                        Task{.id = "cb", .name = "add"})
                  .ok());
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("cb"), "FAILURE group member fail (b) failed: boom");
  EXPECT_EQ(runs_["cb"], 0);
}

TEST_F(LifecycleTest, AFailedMemberSendsWhatTheChordHasForThat) {
  const Task say{.id = "f", .name = "say", .args = {Int(7)}, .args_null = false};
  std::vector<std::string> said;
  handlers_["say"] = [&](const Task& task) {
    for (const Value& arg : task.args) said.push_back(arg.json);
    return Outcome{};
  };
  ASSERT_TRUE(SendChord({.id = "good",
                         .members = {Add("a", {1})},
                         .callback = Task{.id = "good-cb", .name = "add"},
                         .on_failure = say})
                  .ok());
  ASSERT_TRUE(
      SendChord({.id = "bad",
                 .members = {Add("b", {1}), {.id = "c", .name = "fail"}},
                 .callback = Task{.id = "bad-cb", .name = "add"},
                 .on_failure = say})
          .ok());
  EXPECT_EQ(Seen("f"), "none");
  StartWorker();
  environment_.Advance(absl::Minutes(3));
  EXPECT_EQ(Seen("good-cb"), "SUCCESS 1");
  EXPECT_EQ(Seen("bad-cb"), "FAILURE group member fail (c) failed: boom");
  EXPECT_EQ(Seen("f"), "SUCCESS");
  EXPECT_THAT(said, ElementsAre("\"group member fail (c) failed: boom\"", "7"));
}

TEST_F(LifecycleTest, ResultsThatAreTooLargeFailTheTaskForGood) {
  size_t size = (1 << 20) - 6;  // with the type "string"
  handlers_["large"] = [&](const Task&) {
    Value text{.type = "string",
               .json = absl::StrCat("\"", std::string(size - 2, 'x'), "\"")};
    return Outcome{.results = {text}};
  };
  ASSERT_TRUE(Send({.id = "fits", .name = "large"}).ok());
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(State("fits")->status, Status::kSuccess);
  ++size;
  ASSERT_TRUE(Send({.id = "large", .name = "large", .retry_count = 3}).ok());
  environment_.RunDue();
  EXPECT_THAT(Seen("large"),
              HasSubstr("FAILURE RESULT_TOO_LARGE: the results are 1048577"));
  EXPECT_EQ(State("large")->error_type, kErrorResultTooLarge);
  EXPECT_EQ(runs_["large"], 1);
}

TEST_F(LifecycleTest, AnErrorTaskGetsTheErrorFirst) {
  std::vector<Value> seen;
  handlers_["note"] = [&](const Task& task) {
    seen = task.args;
    return Success({});
  };
  Task task{.id = "t", .name = "fail"};
  task.on_error = {EncodeTask({.id = "e", .name = "note", .args = {Int(7)},
                               .args_null = false})};
  ASSERT_TRUE(Send(task).ok());
  StartWorker();
  environment_.RunDue();
  EXPECT_THAT(seen, ElementsAre(Value{.type = "string", .json = "\"boom\""},
                                Int(7)));
}

TEST_F(LifecycleTest, ARetryIsVisibleAndRunsWhenDue) {
  int calls = 0;
  handlers_["flaky"] = [&](const Task& task) {
    EXPECT_EQ(AttemptOf(task), ++calls);
    return calls < 3 ? Failure("not yet") : Success({Int(calls)});
  };
  const absl::Time sent = environment_.Now();
  ASSERT_TRUE(Send({.id = "t", .name = "flaky", .retry_count = 3}).ok());
  StartWorker();
  EXPECT_EQ(Seen("t"), "RETRY not yet");
  EXPECT_EQ(State("t")->next_attempt, 2);
  environment_.Advance(absl::Milliseconds(1100));
  EXPECT_EQ(Seen("t"), "RETRY not yet");
  EXPECT_EQ(State("t")->next_attempt, 3);
  environment_.Advance(absl::Milliseconds(2100));
  EXPECT_EQ(Seen("t"), "SUCCESS 3");
  EXPECT_LT(State("t")->create_time - sent, absl::Seconds(1));
}

// A Begin whose caller had given up arrives when another run is under way, and
// makes itself the current one. Nobody will ever end it.
TEST_F(LifecycleTest, ARetryIsNotLostToABeginThatComesLate) {
  int calls = 0;
  handlers_["flaky"] = [&](const Task&) {
    if (++calls > 1) return Success({Int(calls)});
    memory_backend_->Begin({.started = {.task_id = "t",
                                        .status = Status::kStarted,
                                        .attempt = 1,
                                        .run = "ghost"},
                            .ttl = absl::Hours(1),
                            .max_begins = 10},
                           [](absl::StatusOr<BeginAnswer>) {});
    return Failure("not yet");
  };
  ASSERT_TRUE(Send({.id = "t", .name = "flaky", .retry_count = 1}).ok());
  StartWorker();
  EXPECT_EQ(Seen("t"), "RETRY not yet");
  environment_.Advance(absl::Seconds(2));
  EXPECT_EQ(Seen("t"), "SUCCESS 2");
}

// Of two runs of an attempt the second to fail has the only delivery left.
TEST_F(LifecycleTest, ARunThatFindsItsAttemptRetriedLaysTheNextOne) {
  int calls = 0;
  handlers_["flaky"] = [&](const Task&) {
    if (++calls > 1) return Success({Int(calls)});
    TaskState retry{.task_id = "t",
                    .status = Status::kRetry,
                    .attempt = 1,
                    .run = "ghost",
                    .next_attempt = 2,
                    .next_attempt_time = environment_.Now() + absl::Seconds(1)};
    memory_backend_->Finish({.outcome = retry, .ttl = absl::Hours(1)},
                            [](absl::StatusOr<FinishAnswer>) {});
    return Failure("not yet");
  };
  ASSERT_TRUE(Send({.id = "t", .name = "flaky", .retry_count = 1}).ok());
  StartWorker();
  environment_.Advance(absl::Seconds(2));
  EXPECT_EQ(Seen("t"), "SUCCESS 2");
}

TEST_F(LifecycleTest, AHandlerMayAskForItsOwnDelay) {
  int calls = 0;
  handlers_["later"] = [&](const Task&) {
    if (++calls == 1) {
      Outcome outcome = Failure("busy");
      outcome.retry_after = absl::Milliseconds(1500);
      return outcome;
    }
    return Success({});
  };
  ASSERT_TRUE(Send({.id = "t", .name = "later"}).ok());
  StartWorker();
  environment_.Advance(absl::Milliseconds(1490));
  EXPECT_EQ(calls, 1);
  environment_.Advance(absl::Milliseconds(100));
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(Seen("t"), "SUCCESS");
}

TEST_F(LifecycleTest, ADelayedTaskRunsWhenDueAndNotBefore) {
  Task task = Add("t", {1});
  task.eta = ZonedTime{.time = environment_.Now() + absl::Seconds(10)};
  ASSERT_TRUE(Send(task).ok());
  StartWorker();
  environment_.Advance(absl::Seconds(9));
  EXPECT_EQ(Seen("t"), "PENDING");
  environment_.Advance(absl::Seconds(2));
  EXPECT_EQ(Seen("t"), "SUCCESS 1");
}

// --- submitting

TEST_F(LifecycleTest, AnUnroutableTaskLeavesNothingBehind) {
  Task task = Add("t", {1});
  task.routing_key = "nowhere";
  const absl::Status status = Send(task).status();
  EXPECT_EQ(ReasonOf(status), reason::kQueueNotFound);
  EXPECT_EQ(Seen("t"), "none");
}

TEST_F(LifecycleTest, AnUnroutableGroupLeavesNothingBehind) {
  std::vector<Task> members = {Add("a", {1}), Add("b", {1})};
  for (Task& member : members) member.routing_key = "nowhere";
  const absl::Status status =
      SendGroup("g", members, Task{.id = "cb", .name = "add"}).status();
  EXPECT_EQ(ReasonOf(status), reason::kQueueNotFound);
  for (const char* id : {"a", "b", "cb"}) EXPECT_EQ(Seen(id), "none");
  // The ids are free again.
  EXPECT_TRUE(SendGroup("g", {Add("a", {1})}, {}, "other").ok());
}

TEST_F(LifecycleTest, ACallIsToldWhenItIsRecordedAndBeforeItIsSent) {
  StartWorker();
  std::vector<std::string> told;
  auto send = [&](Task task, const std::string& hash) {
    return Call([&](Callback<Submitted> done) {
      auto on_recorded = [&](const Submitted& submitted) {
        told.push_back(absl::StrCat(submitted.replayed ? "again" : "new",
                                    ", ran ", runs_["t"]));
      };
      lifecycle_->SubmitTask(
          std::move(task), {.payload_hash = hash, .on_recorded = on_recorded},
          std::move(done));
    });
  };
  ASSERT_TRUE(send(Add("t", {1}), "h").ok());
  EXPECT_EQ(Seen("t"), "SUCCESS 1");
  ASSERT_TRUE(send(Add("t", {1}), "h").ok());
  EXPECT_FALSE(send(Add("t", {2}), "other").ok());  // records nothing
  backend_.FailNext("CreatePending", 1);
  EXPECT_FALSE(send(Add("u", {1}), "h").ok());
  EXPECT_THAT(told, ElementsAre("new, ran 0", "again, ran 1"));
}

TEST_F(LifecycleTest, AnEqualRepeatIsAcceptedOnce) {
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  const absl::StatusOr<Submitted> again = Send(Add("t", {1, 1}));
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->replayed);
  StartWorker(/*prefetch=*/1);
  environment_.RunDue();
  EXPECT_EQ(runs_["t"], 1);
  EXPECT_EQ(acks_, 2);
  const absl::StatusOr<Submitted> late = Send(Add("t", {1, 1}));
  ASSERT_TRUE(late.ok());
  EXPECT_TRUE(late->replayed);
  environment_.RunDue();
  EXPECT_EQ(runs_["t"], 1);
}

TEST_F(LifecycleTest, TasksThatAreSentTogetherHaveOutcomesOfTheirOwn) {
  ASSERT_TRUE(Send(Add("repeat", {1}), "equal").ok());
  ASSERT_TRUE(Send(Add("taken", {1}), "theirs").ok());
  ASSERT_TRUE(Send(Add("past", {1}), "equal").ok());
  Cancel("past");
  Task nowhere = Add("nowhere", {1});
  nowhere.routing_key = "nowhere";
  Task held = Add("held", {1});
  SetUniqueKey(held, "key");
  Task refused = Add("refused", {1});
  SetUniqueKey(refused, "key");
  Task later = Add("later", {1});
  later.eta = ZonedTime{.time = environment_.Now() + absl::Seconds(9)};
  EXPECT_THAT(SendTogether({{Add("a", {1, 2}), "h"},
                            {Add("repeat", {1}), "equal"},
                            {Add("taken", {2}), "ours"},
                            {Add("past", {1}), "equal"},
                            {nowhere, "h"},
                            {held, "h"},
                            {refused, "h"},
                            {later, ""},
                            {Add("b", {3}), ""}}),
              ElementsAre("sent", "replayed", "TASK_ID_EXISTS", "replayed",
                          "QUEUE_NOT_FOUND", "sent", "UNIQUE_KEY_HELD", "sent",
                          "sent"));
  EXPECT_EQ(Seen("nowhere"), "none");
  EXPECT_EQ(Seen("refused"), "none");
  EXPECT_EQ(Seen("later"), "PENDING");
  StartWorker();
  environment_.Advance(absl::Seconds(10));
  EXPECT_EQ(Seen("a"), "SUCCESS 3");
  EXPECT_EQ(Seen("b"), "SUCCESS 3");
  EXPECT_EQ(Seen("held"), "SUCCESS 1");
  EXPECT_EQ(Seen("later"), "SUCCESS 1");
  EXPECT_EQ(Seen("taken"), "SUCCESS 1");
  EXPECT_EQ(Seen("past"), "FAILURE cancelled: why");
}

// Nothing stops a client from saying an id twice.
TEST_F(LifecycleTest, TasksThatAreSentTogetherMayHaveOneId) {
  EXPECT_THAT(SendTogether({{Add("equal", {1}), "same"},
                            {Add("equal", {1}), "same"},
                            {Add("differ", {1}), "one"},
                            {Add("differ", {2}), "other"}}),
              ElementsAre("sent", "replayed", "sent", "TASK_ID_EXISTS"));
  EXPECT_EQ(Seen("equal"), "PENDING");
  EXPECT_EQ(Seen("differ"), "PENDING");  // not taken back with the other one
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("equal"), "SUCCESS 1");
  EXPECT_EQ(Seen("differ"), "SUCCESS 1");
}

TEST_F(LifecycleTest, NoTasksAreSentAtOnce) {
  std::optional<size_t> outcomes;
  lifecycle_->SubmitTasks({}, absl::InfiniteFuture(),
                          [&](absl::StatusOr<SubmittedTasks> submitted) {
                            outcomes = submitted.value().size();
                          });
  environment_.RunDue();
  EXPECT_EQ(outcomes, 0u);
}

TEST_F(LifecycleTest, ALostConfirmAmongSeveralIsOfItsTaskAlone) {
  broker_.FailNextPublish(absl::OkStatus());
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "lost"));
  EXPECT_THAT(SendTogether({{Add("a", {1}), "h"}, {Add("b", {2}), "h"}}),
              ElementsAre("sent", "BROKER_UNAVAILABLE"));
  EXPECT_EQ(Seen("b"), "PENDING");  // it may have been sent: a repeat is safe
  EXPECT_THAT(SendTogether({{Add("a", {1}), "h"}, {Add("b", {2}), "h"}}),
              ElementsAre("replayed", "replayed"));
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("b"), "SUCCESS 2");
}

TEST_F(LifecycleTest, TasksThatAreSentTogetherWithoutABackendAllFail) {
  backend_.FailNext("CreatePending", 1);
  EXPECT_THAT(SendTogether({{Add("a", {1}), "h"}, {Add("b", {2}), "h"}}),
              ElementsAre("BACKEND_UNAVAILABLE", "BACKEND_UNAVAILABLE"));
  EXPECT_EQ(Seen("a"), "none");
}

// What stands under one id must not be the others' fate.
TEST_F(LifecycleTest, AnIdThatTheBackendRefusesIsRefusedAlone) {
  backend_.RefuseForGood("odd");
  EXPECT_THAT(SendTogether({{Add("a", {1}), "h"},
                            {Add("odd", {2}), "h"},
                            {Add("b", {3}), ""}}),
              ElementsAre("sent", "INTERNAL", "sent"));
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("a"), "SUCCESS 1");
  EXPECT_EQ(Seen("b"), "SUCCESS 3");
}

TEST_F(LifecycleTest, AnotherTaskUnderATakenIdIsRefused) {
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  const absl::Status status = Send(Add("t", {2}), "other").status();
  EXPECT_TRUE(absl::IsAlreadyExists(status));
  EXPECT_EQ(ReasonOf(status), reason::kTaskIdExists);
  EXPECT_EQ(MetadataOf(status)["task_id"], "t");
}

TEST_F(LifecycleTest, ATakenIdInAGroupTakesBackTheOthers) {
  ASSERT_TRUE(Send(Add("b", {1})).ok());
  const absl::Status status =
      SendGroup("g", {Add("a", {1}), Add("b", {2})}, {}, "other").status();
  EXPECT_EQ(ReasonOf(status), reason::kTaskIdExists);
  EXPECT_EQ(Seen("a"), "none");
  EXPECT_EQ(Seen("b"), "PENDING");
}

TEST_F(LifecycleTest, ALostConfirmKeepsPendingAndARepeatSendsIt) {
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  EXPECT_TRUE(absl::IsUnavailable(Send(Add("t", {1, 1})).status()));
  EXPECT_EQ(Seen("t"), "PENDING");
  StartWorker();
  EXPECT_EQ(Seen("t"), "PENDING");
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  EXPECT_EQ(Seen("t"), "SUCCESS 2");
}

TEST_F(LifecycleTest, AHalfSentGroupSaysSoAndARepeatCompletesIt) {
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  const std::vector<Task> members = {Add("a", {1}), Add("b", {2})};
  const Task callback{.id = "cb", .name = "add"};
  const absl::Status status = SendGroup("g", members, callback).status();
  EXPECT_EQ(ReasonOf(status), reason::kGroupPartiallySent);
  EXPECT_EQ(MetadataOf(status)["sent"], "1");
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("cb"), "PENDING");
  ASSERT_TRUE(SendGroup("g", members, callback).ok());
  environment_.RunDue();
  EXPECT_EQ(Seen("cb"), "SUCCESS 3");
}

TEST_F(LifecycleTest, AGroupThatIsPartlyUnknownIsNotCalledUnsent) {
  broker_.FailNextPublish(MakeError(absl::StatusCode::kFailedPrecondition,
                                    reason::kQueueNotFound, "nowhere"));
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  const absl::Status status =
      SendGroup("g", {Add("a", {1}), Add("b", {2})}).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(Seen("a"), "PENDING");
}

// --- crashes and lost replies

TEST_F(LifecycleTest, ATaskWhoseWorkerDiedRunsAgain) {
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  hold_outcomes_ = true;  // it dies in the handler
  StartWorker();
  EXPECT_EQ(Seen("t"), "STARTED");
  CrashWorker();
  hold_outcomes_ = false;
  StartWorker();
  EXPECT_EQ(Seen("t"), "SUCCESS 2");
  EXPECT_EQ(runs_["t"], 2);
  EXPECT_EQ(State("t")->attempt, 1);
}

TEST_F(LifecycleTest, ABeginThatWasNotRecordedEndsAsAnyOther) {
  begins_ = Lifecycle::Begins::kMayDefer;
  ASSERT_TRUE(SendChain({Add("a", {1, 1}), Add("b", {3})}).ok());
  hold_outcomes_ = true;  // it dies in the handler
  StartWorker();
  EXPECT_EQ(Seen("a"), "PENDING");
  CrashWorker();
  hold_outcomes_ = false;
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("a"), "SUCCESS 2");
  EXPECT_EQ(Seen("b"), "SUCCESS 5");
  EXPECT_EQ(State("b")->attempt, 1);
}

TEST_F(LifecycleTest, ADeferredBeginIsRecordedOnceAndNotOverAnEnd) {
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  const Task task = Add("t", {1, 1});
  const BeginVerdict begun{.run = "run-1", .start_time = environment_.Now()};
  std::vector<bool> recorded;
  const auto record = [&] {
    lifecycle_->RecordBegin(task, begun, "worker",
                            [&](absl::StatusOr<bool> answer) {
                              recorded.push_back(answer.value());
                            });
    environment_.RunDue();
  };
  record();
  record();  // its first answer was lost
  EXPECT_EQ(Seen("t"), "STARTED");
  EXPECT_EQ(State("t")->begins, 1);
  EXPECT_EQ(Cancel("t"), "cancelled");
  record();
  EXPECT_EQ(State("t")->status, Status::kFailure);
  EXPECT_THAT(recorded, ElementsAre(true, true, false));
}

TEST_F(LifecycleTest, ADeathAfterTheOutcomeStillSendsTheNextLink) {
  ASSERT_TRUE(SendChain({Add("a", {1, 1}), Add("b", {3})}).ok());
  backend_.FailNext("Continue", 1, FailingBackend::kDie);  // it dies between SUCCESS and the next link
  StartWorker();
  EXPECT_EQ(Seen("a"), "SUCCESS 2");
  CrashWorker();
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("b"), "SUCCESS 5");
  EXPECT_EQ(runs_["a"], 1);
}

TEST_F(LifecycleTest, ADeathAfterTheClaimStillSendsTheCallback) {
  ASSERT_TRUE(SendGroup("g", {Add("a", {1}), Add("b", {2})},
                        Task{.id = "cb", .name = "add"})
                  .ok());
  backend_.FailNext("Continue", 1, FailingBackend::kDie);  // the callback's
  StartWorker();
  EXPECT_EQ(Seen("cb"), "PENDING");
  CrashWorker();
  StartWorker();
  environment_.Advance(absl::Seconds(20));
  EXPECT_EQ(Seen("cb"), "PENDING");
  environment_.Advance(absl::Minutes(2));
  EXPECT_EQ(Seen("cb"), "SUCCESS 3");
  EXPECT_EQ(runs_["cb"], 1);
}

TEST_F(LifecycleTest, AnOutcomeIsKeptUntilTheBackendIsBack) {
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  backend_.FailNext("Finish", 5);
  StartWorker();
  EXPECT_EQ(Seen("t"), "STARTED");
  EXPECT_EQ(acks_, 0);
  environment_.Advance(absl::Seconds(10));
  EXPECT_EQ(Seen("t"), "SUCCESS 2");
  EXPECT_EQ(acks_, 1);
  EXPECT_EQ(runs_["t"], 1);
}

TEST_F(LifecycleTest, AFinishWhoseReplyWasLostAnswersTheSame) {
  int calls = 0;
  handlers_["flaky"] = [&](const Task&) {
    return ++calls == 1 ? Failure("x") : Success({});
  };
  ASSERT_TRUE(Send({.id = "t", .name = "flaky", .retry_count = 1}).ok());
  backend_.FailNext("Finish", 1, FailingBackend::kLoseReply);
  StartWorker();
  environment_.Advance(absl::Seconds(5));
  EXPECT_EQ(Seen("t"), "SUCCESS");
  EXPECT_EQ(calls, 2);
}

TEST_F(LifecycleTest, ATaskThatKillsItsWorkerBecomesADeadLetter) {
  ASSERT_TRUE(SendChain({Add("t", {1, 1}), Add("next", {})}).ok());
  hold_outcomes_ = true;
  for (int i = 0; i < 10; ++i) {
    StartWorker();
    environment_.RunDue();
    EXPECT_EQ(Seen("t"), "STARTED");
    CrashWorker();
  }
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(runs_["t"], 10);
  EXPECT_THAT(Seen("t"), HasSubstr("FAILURE begun 10 times"));
  EXPECT_THAT(Seen("next"), HasSubstr("FAILURE link add (t) failed"));
  ASSERT_EQ(backend_.dead().size(), 1u);
  EXPECT_EQ(backend_.dead()[0].task_id, "t");
  EXPECT_EQ(backend_.dead()[0].queue, kQueue);
}

TEST_F(LifecycleTest, ARedeliveryOfAFinishedTaskIsNotRunAgain) {
  const Task task = Add("t", {1, 1});
  ASSERT_TRUE(Send(task).ok());
  StartWorker();
  EXPECT_EQ(Seen("t"), "SUCCESS 2");
  memory_broker_->Publish({.task_id = "t", .body = EncodeTask(task)},
                          [](absl::Status) {});
  environment_.RunDue();
  EXPECT_EQ(runs_["t"], 1);
  EXPECT_EQ(acks_, 2);
}

TEST_F(LifecycleTest, AnOldCopyDoesNotForkARetry) {
  handlers_["flaky"] = [](const Task& task) {
    return AttemptOf(task) == 1 ? Failure("x") : Success({});
  };
  const Task task{.id = "t", .name = "flaky", .retry_count = 1};
  ASSERT_TRUE(Send(task).ok());
  StartWorker();
  EXPECT_EQ(Seen("t"), "RETRY x");
  memory_broker_->Publish({.task_id = "t", .body = EncodeTask(task)},
                          [](absl::Status) {});
  environment_.RunDue();
  EXPECT_EQ(runs_["t"], 1);
  EXPECT_EQ(acks_, 2);
  environment_.Advance(absl::Seconds(3));
  EXPECT_EQ(Seen("t"), "SUCCESS");
  EXPECT_EQ(runs_["t"], 2);
}

// --- continuations that cannot be sent, names that are not known

TEST_F(LifecycleTest, AFollowUpThatNoQueueTakesEndsVisibly) {
  Task task = Add("t", {1});
  Task child = Add("child", {2});
  child.routing_key = "nowhere";
  child.on_success = {EncodeTask(Add("grandchild", {}))};
  task.on_success = {EncodeTask(child)};
  ASSERT_TRUE(Send(task).ok());
  StartWorker();
  environment_.Advance(absl::Seconds(50));
  EXPECT_EQ(Seen("child"), "PENDING");
  EXPECT_EQ(acks_, 0);
  environment_.Advance(absl::Seconds(20));
  EXPECT_THAT(Seen("child"), HasSubstr("FAILURE no queue takes"));
  EXPECT_THAT(Seen("grandchild"), HasSubstr("FAILURE link add (child) failed"));
  EXPECT_EQ(acks_, 1);
  ASSERT_EQ(backend_.dead().size(), 1u);
  EXPECT_EQ(backend_.dead()[0].task_id, "child");
}

TEST_F(LifecycleTest, AnOverdueTaskIsGivenTimeForItsQueueToCome) {
  lifecycle_->Stop();  // nobody moves it when it is due
  lifecycle_ = std::make_unique<Lifecycle>(&broker_, &backend_, &environment_,
                                           LifecycleOptions{});
  Task task = Add("t", {1});
  task.routing_key = "comes_late";
  task.eta = ZonedTime{.time = environment_.Now() + absl::Seconds(1)};
  ASSERT_TRUE(Send(task).ok());
  environment_.Advance(absl::Hours(1));
  lifecycle_->Start();
  environment_.Advance(absl::Seconds(5));
  EXPECT_EQ(Seen("t"), "PENDING");
  consumer_ = memory_broker_
                  ->Consume({.queues = {"comes_late"}, .prefetch = 1},
                            [this](Delivery delivery) {
                              Deliver(std::move(delivery));
                            })
                  .value();
  environment_.Advance(absl::Minutes(1));
  EXPECT_EQ(Seen("t"), "SUCCESS 1");
}

TEST_F(LifecycleTest, ADelayedTaskThatNoQueueTakesEndsVisibly) {
  Task task = Add("t", {1});
  task.routing_key = "nowhere";
  task.eta = ZonedTime{.time = environment_.Now() + absl::Seconds(5)};
  ASSERT_TRUE(Send(task).ok());
  environment_.Advance(absl::Minutes(3));
  EXPECT_THAT(Seen("t"), HasSubstr("FAILURE no queue takes"));
  ASSERT_EQ(backend_.dead().size(), 1u);
}

TEST_F(LifecycleTest, AnUnknownNameGoesRoundUntilAWorkerKnowsIt) {
  ASSERT_TRUE(Send({.id = "t", .name = "only_in_go"}).ok());
  StartWorker();
  environment_.Advance(absl::Minutes(2));
  EXPECT_EQ(Seen("t"), "PENDING");
  const int rounds = acks_;
  EXPECT_GT(rounds, 1);
  EXPECT_LT(rounds, 100);  // machinery makes 5,000 a second
  handlers_["only_in_go"] = [](const Task&) { return Success({}); };
  environment_.Advance(absl::Minutes(2));
  EXPECT_EQ(Seen("t"), "SUCCESS");
}

TEST_F(LifecycleTest, AnUnknownNameEndsVisiblyAfterAnHour) {
  ASSERT_TRUE(Send({.id = "t", .name = "typo"}).ok());
  StartWorker();
  environment_.Advance(absl::Minutes(63));
  EXPECT_EQ(Seen("t"), "FAILURE no worker has a handler named \"typo\"");
  EXPECT_EQ(State("t")->error_type, kErrorNotRegistered);
  EXPECT_EQ(backend_.dead().size(), 1u);
}

TEST_F(LifecycleTest, AnUnknownNameDoesNotEndOfABacklogAlone) {
  ASSERT_TRUE(Send({.id = "t", .name = "only_in_go"}).ok());
  StartWorker();
  environment_.RunDue();
  consumer_.reset();
  environment_.Advance(absl::Hours(3));  // no worker takes anything
  StartWorker();
  environment_.Advance(absl::Minutes(2));
  EXPECT_EQ(Seen("t"), "PENDING");
  environment_.Advance(absl::Minutes(10));
  EXPECT_EQ(Seen("t"), "FAILURE no worker has a handler named \"only_in_go\"");
}

// --- groups

TEST_F(LifecycleTest, EachMemberOfAChordIsReadABoundedNumberOfTimes) {
  for (int n : {10, 100, 1000}) {
    std::vector<Task> members;
    for (int i = 0; i < n; ++i) {
      members.push_back(Add(absl::StrCat("m", n, "_", i), {1}));
    }
    const std::string callback = absl::StrCat("cb", n);
    ASSERT_TRUE(SendGroup(absl::StrCat("g", n), members,
                          Task{.id = callback, .name = "add"})
                    .ok());
    const int read_before = backend_.states_read();
    StartWorker();
    environment_.RunDue();
    EXPECT_EQ(Seen(callback), absl::StrCat("SUCCESS ", n));
    // In order of completion: one that is final and two beyond it, each time;
    // all once more before the claim; and what the sweeper reads.
    EXPECT_LE(backend_.states_read() - read_before, 5 * n) << n << " members";
    consumer_.reset();
  }
}

TEST_F(LifecycleTest, AMemberThatEndedLongAgoStillCounts) {
  Task late = Add("late", {2});
  late.eta = ZonedTime{.time = environment_.Now() + absl::Hours(5)};
  ASSERT_TRUE(SendGroup("g", {Add("early", {1}), late},
                        Task{.id = "cb", .name = "add"})
                  .ok());
  StartWorker();
  environment_.Advance(absl::Hours(5) + absl::Seconds(1));
  EXPECT_EQ(Seen("early"), "SUCCESS 1");
  EXPECT_EQ(Seen("cb"), "SUCCESS 3");
}

TEST_F(LifecycleTest, AChordThatExpiredWhileNoOneLookedIsClosed) {
  ASSERT_TRUE(SendGroup("g", {Add("a", {1})}, Task{.id = "cb", .name = "add"})
                  .ok());
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("cb"), "SUCCESS 1");
  lifecycle_->Stop();
  environment_.Advance(absl::Hours(2));
  EXPECT_EQ(Seen("cb"), "none");
  StartLifecycle();
  environment_.Advance(absl::Minutes(3));
  EXPECT_TRUE(NothingIsOpen());
  EXPECT_EQ(Seen("a"), "none");
}

TEST_F(LifecycleTest, AnEndedChainIsClosedHoweverLongItTook) {
  Task slow{.id = "slow", .name = "slow"};
  handlers_["slow"] = [](const Task& task) {
    if (AttemptOf(task) > 1) return Success({});
    Outcome outcome = Failure("come back");
    outcome.retry_after = absl::Hours(5);
    return outcome;
  };
  ASSERT_TRUE(SendChain({Add("first", {1}), slow}).ok());
  StartWorker();
  environment_.Advance(absl::Hours(5) + absl::Minutes(1));
  EXPECT_EQ(Seen("slow"), "SUCCESS");
  EXPECT_TRUE(NothingIsOpen());
}

TEST_F(LifecycleTest, AGroupThatAGoClientLaidEndsToo) {
  WorkflowRecord go{.id = "g", .task_ids = {"a", "b"}, .nonce = "n"};
  memory_backend_->CreateRecord(go, absl::InfiniteFuture(), absl::Hours(1),
                                [](absl::StatusOr<PendingAnswer>) {});
  std::vector<Task> members = {Add("a", {1}), Add("b", {2})};
  for (Task& member : members) {
    member.group_id = "g";
    member.group_task_count = 2;
    member.chord_callback = EncodeTask({.id = "cb", .name = "add"});
    memory_broker_->Publish({.task_id = member.id, .body = EncodeTask(member)},
                            [](absl::Status) {});
  }
  backend_.HideRecords();  // only machinery's own is there
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("cb"), "SUCCESS 3");
}

TEST_F(LifecycleTest, ACallbackThatAGoWorkerSentMayWaitInABacklog) {
  ASSERT_TRUE(
      SendGroup("g", {Add("a", {1})}, Task{.id = "cb", .name = "add"}).ok());
  // A Go worker ends the member, sets the flag, writes PENDING, and publishes.
  environment_.Advance(absl::Seconds(1));
  TaskState member = *State("a");
  member.status = Status::kSuccess;
  member.results = {Int(1)};
  member.results_null = false;
  keys_->Set(member, absl::Hours(1));
  GroupMeta meta = *keys_->GetGroup("g");
  meta.chord_triggered = true;
  keys_->SetGroup(meta, absl::Hours(1));
  TaskState pending = *State("cb");
  pending.create_time = environment_.Now();
  keys_->Set(pending, absl::Hours(1));

  environment_.Advance(absl::Minutes(5));
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(acks_, 1) << "the member's; no copy of the callback was sent";
  EXPECT_EQ(Seen("cb"), "PENDING");
  environment_.Advance(absl::Minutes(10));
  EXPECT_EQ(Seen("cb"), "SUCCESS 1") << "it was lost after all";
}

TEST_F(LifecycleTest, AGroupThatWasNeverSentToItsEndIsAbandoned) {
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  ASSERT_FALSE(SendGroup("g", {Add("a", {1}), Add("b", {2})},
                         Task{.id = "cb", .name = "add"})
                   .ok());
  StartWorker();
  environment_.Advance(absl::Hours(24) + absl::Minutes(2));
  EXPECT_EQ(Seen("cb"), "FAILURE group member add (a) failed: "
                        "the group was not submitted to its end");
  EXPECT_TRUE(NothingIsOpen());
}

TEST_F(LifecycleTest, EndedWorkflowsLeaveNoOpenEntry) {
  ASSERT_TRUE(SendChain({Add("a", {1}), Add("b", {2})}).ok());
  ASSERT_TRUE(SendGroup("g", {Add("c", {1})}).ok());
  ASSERT_TRUE(SendGroup("h", {Add("d", {1})},
                        Task{.id = "cb", .name = "fail"})
                  .ok());
  StartWorker();
  environment_.Advance(absl::Minutes(2));
  EXPECT_TRUE(NothingIsOpen());
}

TEST_F(LifecycleTest, ACancelledTaskThatWaitsNeverRuns) {
  Task task = Add("t", {1, 1});
  task.on_error = {EncodeTask({.id = "e", .name = "note"})};
  handlers_["note"] = [](const Task& task) {
    return Success({{.type = "string", .json = task.args[0].json}});
  };
  ASSERT_TRUE(Send(task).ok());
  EXPECT_EQ(Cancel("t", "not needed"), "cancelled");
  EXPECT_EQ(Seen("t"), "FAILURE cancelled: not needed");
  EXPECT_EQ(Cancel("t"), "too late: FAILURE");
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(runs_["t"], 0);
  EXPECT_EQ(Seen("e"), "SUCCESS \"cancelled: not needed\"");
  EXPECT_EQ(Seen("t"), "FAILURE cancelled: not needed");
  EXPECT_EQ(acks_, 2);
}

TEST_F(LifecycleTest, WhatFollowsATaskCancelledBeforeItWasSentEndsByTheRepeat) {
  Task last = Add("b", {1});
  last.on_success = {EncodeTask(Add("s", {}))};
  const std::vector<Task> links = {Add("a", {1}), last};
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  EXPECT_TRUE(absl::IsUnavailable(SendChain(links).status()));
  EXPECT_EQ(Cancel("a"), "cancelled");
  environment_.RunDue();
  EXPECT_EQ(Seen("s"), "none");
  ASSERT_TRUE(SendChain(links).ok());
  EXPECT_THAT(Seen("b"), HasSubstr("FAILURE"));
  EXPECT_THAT(Seen("s"), HasSubstr("FAILURE"));
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(runs_["a"], 0);
  EXPECT_EQ(runs_["b"], 0);
}

TEST_F(LifecycleTest, AnUnknownTaskOrGroupCannotBeCancelled) {
  EXPECT_EQ(Cancel("t"), "unknown");
  EXPECT_EQ(CancelGroup("g"), -1);
}

TEST_F(LifecycleTest, ACancelledTaskThatIsDelayedBringsItsStepsAtOnce) {
  Task task = Add("t", {1, 1});
  task.eta = ZonedTime{.time = environment_.Now() + absl::Hours(1)};
  task.on_error = {EncodeTask(Add("e", {}))};
  handlers_["add"] = [](const Task&) { return Success({}); };
  ASSERT_TRUE(Send(task).ok());
  StartWorker();
  EXPECT_EQ(Cancel("t"), "cancelled");
  EXPECT_EQ(Seen("e"), "SUCCESS");
  environment_.Advance(absl::Hours(2));
  EXPECT_EQ(runs_["t"], 0);
  EXPECT_EQ(acks_, 1) << "it was taken out of the delayed set";
}

TEST_F(LifecycleTest, MoreDelayedTasksThanAreMovedAtOnceAllRun) {
  constexpr int kTasks = 2'500;
  for (int i = 0; i < kTasks; ++i) {
    Task task = Add(absl::StrCat("t", i), {i, 1});
    task.eta = ZonedTime{.time = environment_.Now() + absl::Hours(1)};
    ASSERT_TRUE(Send(task).ok());
  }
  StartWorker();
  environment_.Advance(absl::Hours(1) + absl::Seconds(1));
  for (int i = 0; i < kTasks; ++i) EXPECT_EQ(runs_[absl::StrCat("t", i)], 1);
}

TEST_F(LifecycleTest, ACancelledRetryIsNotTriedAgain) {
  ASSERT_TRUE(Send({.id = "t", .name = "fail", .retry_count = 5}).ok());
  StartWorker();
  EXPECT_THAT(Seen("t"), HasSubstr("RETRY"));
  EXPECT_EQ(Cancel("t"), "cancelled");
  environment_.Advance(absl::Minutes(5));
  EXPECT_EQ(Seen("t"), "FAILURE cancelled: why");
  EXPECT_EQ(runs_["t"], 1);
}

TEST_F(LifecycleTest, TheOutcomeOfACancelledRunIsDropped) {
  Task task = Add("t", {1, 1});
  task.on_success = {EncodeTask(Add("s", {}))};
  ASSERT_TRUE(Send(task).ok());
  std::vector<std::string> ended;
  handlers_["add"] = [&](const Task&) {
    EXPECT_EQ(Cancel("t"), "cancelled");
    lifecycle_->FindEnded(
        {"t"}, [&](absl::StatusOr<std::vector<std::string>> found) {
          ended = found.value();
        });
    environment_.RunDue();
    return Success({});
  };
  StartWorker();
  environment_.RunDue();
  EXPECT_THAT(ended, ElementsAre("t"));
  EXPECT_EQ(Seen("t"), "FAILURE cancelled: why");
  EXPECT_EQ(Seen("s"), "FAILURE link add (t) failed: cancelled: why");
  EXPECT_EQ(acks_, 1);
}

TEST_F(LifecycleTest, ACancelledLinkEndsWhatFollows) {
  ASSERT_TRUE(SendChain({Add("a", {1}), Add("b", {2}), Add("c", {3})}).ok());
  EXPECT_EQ(Cancel("b"), "cancelled");
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("a"), "SUCCESS 1");
  EXPECT_EQ(runs_["b"], 0);
  EXPECT_EQ(Seen("c"), "FAILURE link add (b) failed: cancelled: why");
}

TEST_F(LifecycleTest, ACancelledFirstLinkEndsWhatFollowsWithoutAWorker) {
  ASSERT_TRUE(SendChain({Add("a", {1}), Add("b", {2}), Add("c", {3})}).ok());
  EXPECT_EQ(Cancel("a"), "cancelled");
  EXPECT_EQ(Seen("c"), "FAILURE link add (a) failed: cancelled: why");
}

TEST_F(LifecycleTest, ACancelledMemberEndsItsChord) {
  ASSERT_TRUE(SendGroup("g", {Add("a", {1}), Add("b", {2})},
                        Task{.id = "cb", .name = "add"})
                  .ok());
  EXPECT_EQ(Cancel("b"), "cancelled");
  EXPECT_EQ(Seen("cb"), "PENDING") << "the other member has not ended";
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("cb"), "FAILURE group member add (b) failed: cancelled: why");
}

TEST_F(LifecycleTest, ACancelledGroupEndsWithoutAWorker) {
  Task callback{.id = "cb", .name = "add"};
  callback.on_success = {EncodeTask(Add("after", {}))};
  ASSERT_TRUE(SendGroup("g", {Add("a", {1}), Add("b", {2})}, callback).ok());
  EXPECT_EQ(CancelGroup("g"), 3);
  for (const char* id : {"a", "b", "cb"}) {
    EXPECT_EQ(Seen(id), "FAILURE cancelled: why") << id;
  }
  EXPECT_EQ(Seen("after"), "FAILURE link add (cb) failed: cancelled: why");
  EXPECT_EQ(CancelGroup("g"), 0);
  StartWorker();
  environment_.Advance(absl::Minutes(1));
  EXPECT_TRUE(NothingIsOpen());
  EXPECT_TRUE(runs_.empty());
}

TEST_F(LifecycleTest, ARequestThatAnotherCallHoldsIsWaitedFor) {
  const auto claim = [this](absl::Duration patience) {
    auto answer =
        std::make_shared<std::optional<absl::StatusOr<RequestAnswer>>>();
    lifecycle_->ClaimRequest(
        "r", "hash", environment_.Now() + patience,
        [answer](absl::StatusOr<RequestAnswer> got) { *answer = got; });
    environment_.RunDue();
    return answer;
  };
  const auto first = claim(absl::Seconds(5));
  ASSERT_TRUE(first->has_value());
  EXPECT_EQ((*first)->value().kind, RequestAnswer::kOwned);

  const auto impatient = claim(absl::Seconds(1));
  environment_.Advance(absl::Seconds(2));
  ASSERT_TRUE(impatient->has_value());
  EXPECT_EQ(ReasonOf((*impatient)->status()), reason::kRequestInProgress);

  const auto patient = claim(absl::Seconds(30));
  environment_.Advance(absl::Seconds(20));
  EXPECT_FALSE(patient->has_value()) << "the first one is still at it";
  lifecycle_->EndRequest("r", (*first)->value().nonce, RequestEnd::kAccepted,
                         [](absl::Status) {});
  environment_.Advance(absl::Seconds(1));
  ASSERT_TRUE(patient->has_value());
  EXPECT_EQ((*patient)->value().kind, RequestAnswer::kDone);
  EXPECT_EQ((*patient)->value().time, (*first)->value().time);
}

// One timer renews all leases, and stops when there are none.
TEST_F(LifecycleTest, EachRequestIsHeldWheneverItBegins) {
  std::map<std::string, std::string> nonces;
  const auto kind = [&](const std::string& id) {
    std::optional<RequestAnswer::Kind> kind;
    lifecycle_->ClaimRequest(id, "hash", environment_.Now(),
                             [&](absl::StatusOr<RequestAnswer> answer) {
                               if (!answer.ok()) return;  // it is in progress
                               kind = answer->kind;
                               nonces[id] = answer->nonce;
                             });
    environment_.RunDue();
    return kind;
  };
  const auto end = [&](const std::string& id) {
    lifecycle_->EndRequest(id, nonces[id], RequestEnd::kAccepted,
                           [](absl::Status) {});
    environment_.RunDue();
  };
  EXPECT_EQ(kind("a"), RequestAnswer::kOwned);
  environment_.Advance(absl::Seconds(1));
  EXPECT_EQ(kind("b"), RequestAnswer::kOwned);
  end("a");
  environment_.Advance(absl::Seconds(20));
  EXPECT_EQ(kind("a"), RequestAnswer::kDone);
  EXPECT_EQ(kind("b"), std::nullopt);
  end("b");
  environment_.Advance(absl::Seconds(20));  // nothing is held
  EXPECT_EQ(kind("c"), RequestAnswer::kOwned);
  environment_.Advance(absl::Seconds(20));
  EXPECT_EQ(kind("c"), std::nullopt);
}

TEST_F(LifecycleTest, ARequestWhoseGatewayDiedIsTakenOver) {
  std::vector<RequestAnswer::Kind> kinds;
  for (const absl::Duration pause :
       {absl::ZeroDuration(), absl::Seconds(10)}) {
    lifecycle_->Stop();
    StartLifecycle();
    environment_.Advance(pause);
    lifecycle_->ClaimRequest("r", "hash",
                             environment_.Now() + absl::Seconds(5),
                             [&](absl::StatusOr<RequestAnswer> answer) {
                               kinds.push_back(answer.value().kind);
                             });
    environment_.RunDue();
  }
  EXPECT_THAT(kinds,
              ElementsAre(RequestAnswer::kOwned, RequestAnswer::kOwned));
}

TEST_F(LifecycleTest, ATaskThatExpiredBeforeItBeganEndsWithItsSteps) {
  Task task = Add("t", {1});
  SetExpiry(task, environment_.Now() + absl::Minutes(1));
  task.on_success = {EncodeTask(Add("s", {}))};
  task.on_error = {EncodeTask({.id = "e", .name = "note"})};
  handlers_["note"] = [](const Task&) { return Success({}); };
  ASSERT_TRUE(Send(task).ok());
  environment_.Advance(absl::Minutes(2));
  StartWorker();
  environment_.RunDue();
  EXPECT_THAT(Seen("t"), HasSubstr("FAILURE EXPIRED: it had not begun by"));
  EXPECT_EQ(State("t")->error_type, kErrorExpired);
  EXPECT_THAT(Seen("s"), HasSubstr("FAILURE link add (t) failed: EXPIRED"));
  EXPECT_EQ(Seen("e"), "SUCCESS");
  EXPECT_EQ(runs_["t"], 0);
  EXPECT_EQ(acks_, 2);
}

// No worker meets them: the sweeper does.
TEST_F(LifecycleTest, WhatExpiresInAnOpenGroupOrChainEndsWithoutAWorker) {
  const absl::Time expiry = environment_.Now() + absl::Minutes(1);
  Task member = Add("m", {1});
  SetExpiry(member, expiry);
  Task link = Add("second", {1});
  SetExpiry(link, expiry);
  ASSERT_TRUE(SendGroup("g", {member}, Task{.id = "cb", .name = "add"}).ok());
  ASSERT_TRUE(SendChain({Add("first", {1}), link, Add("third", {})}).ok());
  environment_.Advance(absl::Seconds(59));
  EXPECT_EQ(Seen("m"), "PENDING");
  environment_.Advance(absl::Minutes(2));
  EXPECT_THAT(Seen("m"), HasSubstr("FAILURE EXPIRED: it had not begun by"));
  EXPECT_EQ(State("m")->error_type, kErrorExpired);
  EXPECT_THAT(Seen("cb"), HasSubstr("group member add (m) failed: EXPIRED"));
  EXPECT_THAT(Seen("second"), HasSubstr("FAILURE EXPIRED"));
  EXPECT_THAT(Seen("third"), HasSubstr("FAILURE link add (second) failed"));
  EXPECT_EQ(Seen("first"), "PENDING");
  StartWorker();
  environment_.Advance(absl::Minutes(2));
  EXPECT_EQ(Seen("first"), "SUCCESS 1");
  EXPECT_EQ(runs_["second"], 0);
  EXPECT_TRUE(NothingIsOpen());
}

TEST_F(LifecycleTest, ATaskThatHadBegunDoesNotExpire) {
  Task task = Add("t", {1});
  SetExpiry(task, environment_.Now() + absl::Minutes(1));
  ASSERT_TRUE(Send(task).ok());
  hold_outcomes_ = true;
  StartWorker();
  environment_.RunDue();
  CrashWorker();
  environment_.Advance(absl::Minutes(2));
  hold_outcomes_ = false;
  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("t"), "SUCCESS 1");
  EXPECT_EQ(runs_["t"], 2);
}

TEST_F(LifecycleTest, ARetryDoesNotExpire) {
  Task task{.id = "t", .name = "fail", .retry_count = 1};
  SetExpiry(task, environment_.Now() + absl::Milliseconds(500));
  ASSERT_TRUE(Send(task).ok());
  StartWorker();
  environment_.Advance(absl::Seconds(10));
  EXPECT_EQ(Seen("t"), "FAILURE boom");
  EXPECT_EQ(runs_["t"], 2);
}

Task Unique(Task task, const std::string& key) {
  SetUniqueKey(task, key);
  return task;
}

TEST_F(LifecycleTest, AUniqueKeyIsHeldUntilItsTaskIsFinal) {
  ASSERT_TRUE(Send(Unique(Add("a", {1}), "k")).ok());
  const absl::Status held = Send(Unique(Add("b", {1}), "k")).status();
  EXPECT_TRUE(absl::IsAlreadyExists(held)) << held;
  EXPECT_EQ(ReasonOf(held), reason::kUniqueKeyHeld);
  EXPECT_EQ(MetadataOf(held)["task_id"], "a");
  EXPECT_EQ(Seen("b"), "none");
  EXPECT_TRUE(Send(Unique(Add("c", {1}), "another")).ok());
  EXPECT_TRUE(Send(Unique(Add("a", {1}), "k"))->replayed);

  StartWorker();
  environment_.RunDue();
  EXPECT_EQ(Seen("a"), "SUCCESS 1");
  EXPECT_TRUE(Send(Unique(Add("b", {1}), "k")).ok());
  // A repeat of what ended is still one, whoever has the key now.
  EXPECT_TRUE(Send(Unique(Add("a", {1}), "k"))->replayed);
}

TEST_F(LifecycleTest, ARetryStillHoldsItsUniqueKey) {
  StartWorker();
  ASSERT_TRUE(
      Send(Unique({.id = "a", .name = "fail", .retry_count = 1}, "k")).ok());
  environment_.RunDue();
  EXPECT_EQ(State("a")->status, Status::kRetry);
  EXPECT_EQ(ReasonOf(Send(Unique(Add("b", {1}), "k")).status()),
            reason::kUniqueKeyHeld);
  environment_.Advance(absl::Minutes(1));
  EXPECT_EQ(State("a")->status, Status::kFailure);
  EXPECT_TRUE(Send(Unique(Add("b", {1}), "k")).ok());
}

TEST_F(LifecycleTest, AGroupThatIsRefusedHoldsNoUniqueKey) {
  ASSERT_TRUE(Send(Unique(Add("holder", {1}), "second")).ok());
  EXPECT_EQ(ReasonOf(SendGroup("g", {Unique(Add("a", {1}), "first"),
                                     Unique(Add("b", {1}), "second")})
                         .status()),
            reason::kUniqueKeyHeld);
  EXPECT_EQ(Seen("a"), "none");
  EXPECT_TRUE(Send(Unique(Add("c", {1}), "first")).ok());

  Task nowhere = Unique(Add("d", {1}), "third");
  nowhere.routing_key = "nowhere";
  EXPECT_EQ(ReasonOf(Send(nowhere).status()), reason::kQueueNotFound);
  EXPECT_TRUE(Send(Unique(Add("e", {1}), "third")).ok());
}

// It died after it took the key and before it wrote the state.
TEST_F(LifecycleTest, AUniqueKeyOfADeadGatewayIsFreeSoon) {
  memory_backend_->ClaimUnique(
      {.key = "k", .task_id = "lost", .ttl = absl::Hours(1)},
      [](absl::StatusOr<UniqueAnswer>) {});
  EXPECT_EQ(ReasonOf(Send(Unique(Add("a", {1}), "k")).status()),
            reason::kUniqueKeyHeld);
  environment_.Advance(absl::Minutes(1));
  EXPECT_TRUE(Send(Unique(Add("a", {1}), "k")).ok());
}

TEST_F(LifecycleTest, AResultLivesAsLongAsItsTaskSays) {
  Task brief = Add("brief", {1});
  SetResultTtl(brief, absl::Minutes(1));
  Task lasting{.id = "lasting", .name = "fail"};
  SetResultTtl(lasting, absl::Hours(30));
  ASSERT_TRUE(Send(brief).ok());
  ASSERT_TRUE(Send(lasting).ok());
  ASSERT_TRUE(Send(Add("other", {2})).ok());
  environment_.Advance(absl::Hours(2));  // waiting does not count
  StartWorker();
  EXPECT_EQ(Seen("brief"), "SUCCESS 1");
  environment_.Advance(absl::Minutes(1) + absl::Seconds(1));
  EXPECT_EQ(Seen("brief"), "none");
  EXPECT_EQ(Seen("other"), "SUCCESS 2");
  environment_.Advance(absl::Hours(28));
  EXPECT_EQ(Seen("other"), "none");
  EXPECT_EQ(Seen("lasting"), "FAILURE boom");
  environment_.Advance(absl::Hours(2));
  EXPECT_EQ(Seen("lasting"), "none");
}

TEST_F(LifecycleTest, WhatNeverRanLivesAsLongAsItsTaskSays) {
  Task next = Add("next", {});
  SetResultTtl(next, absl::Hours(30));
  Task late = Add("late", {});
  SetExpiry(late, environment_.Now() + absl::Minutes(1));
  SetResultTtl(late, absl::Hours(30));
  ASSERT_TRUE(SendChain({{.id = "t", .name = "fail"}, next}).ok());
  ASSERT_TRUE(Send(late).ok());
  environment_.Advance(absl::Minutes(2));
  StartWorker();
  environment_.Advance(absl::Hours(29));
  EXPECT_THAT(Seen("next"), HasSubstr("FAILURE link fail (t) failed"));
  EXPECT_THAT(Seen("late"), HasSubstr("FAILURE EXPIRED"));
  EXPECT_EQ(Seen("t"), "none");
}

TEST_F(LifecycleTest, AMemberOfAnOpenGroupLivesThoughItAskedForLess) {
  Task early = Add("early", {1});
  SetResultTtl(early, absl::Hours(1));
  Task late = Add("late", {2});
  late.eta = ZonedTime{.time = environment_.Now() + absl::Hours(5)};
  ASSERT_TRUE(
      SendGroup("g", {early, late}, Task{.id = "cb", .name = "add"}).ok());
  StartWorker();
  environment_.Advance(absl::Hours(5) + absl::Seconds(1));
  EXPECT_EQ(Seen("cb"), "SUCCESS 3");
}

// ---- dead letters

class DeadLettersTest : public LifecycleTest {
 protected:
  // Sends chain t, next, whose first link becomes a dead letter.
  void MakeDeadLink() {
    Task t = Add("t", {1, 1});
    t.retry_count = 2;
    SetExpiry(t, environment_.Now() + absl::Hours(1));
    SetStringHeader(t, "color", "blue");
    ASSERT_TRUE(SendChain({t, Add("next", {5})}).ok());
    Die("t");
  }

  // Runs it ten times without an end.
  void Die(const std::string& id) {
    hold_outcomes_ = true;
    for (int i = 0; i < 10; ++i) {
      StartWorker();
      environment_.RunDue();
      CrashWorker();
    }
    StartWorker();
    EXPECT_THAT(Seen(id), HasSubstr("FAILURE begun 10 times"));
    hold_outcomes_ = false;
    consumer_.reset();
  }

  absl::StatusOr<RetriedTask> Retry(const std::string& id,
                                    const std::string& request_id = "",
                                    const std::string& queue = "") {
    std::optional<absl::StatusOr<RetriedTask>> answer;
    lifecycle_->RetryDead(
        {.queue = queue,
         .task_id = id,
         .request_id = request_id,
         .deadline = environment_.Now() + absl::Seconds(5)},
        [&](absl::StatusOr<RetriedTask> result) { answer = result; });
    for (int i = 0; i < 200 && !answer.has_value(); ++i) {
      environment_.Advance(absl::Milliseconds(50));
    }
    return answer.value_or(absl::InternalError("no answer"));
  }

  std::vector<std::string> Listed() {
    std::vector<std::string> ids;
    lifecycle_->ListDead("", 10, std::nullopt,
                         [&](absl::StatusOr<std::vector<DeadTask>> tasks) {
                           for (const DeadTask& task : tasks.value()) {
                             ids.push_back(task.task_id);
                           }
                         });
    environment_.RunDue();
    return ids;
  }
};

TEST_F(DeadLettersTest, ACopyRunsUnderANewIdAndWhatFollowsToo) {
  MakeDeadLink();
  EXPECT_THAT(Listed(), ElementsAre("t"));
  environment_.Advance(absl::Hours(3));  // past its expiry
  std::vector<Task> ran;
  handlers_["add"] = [&](const Task& task) {
    ran.push_back(task);
    int64_t sum = 0;
    for (const Value& arg : task.args) sum += std::stoll(arg.json);
    return Success({Int(sum)});
  };
  const absl::StatusOr<RetriedTask> retried = Retry("t");
  ASSERT_TRUE(retried.ok()) << retried.status();
  EXPECT_FALSE(retried->replayed);
  const std::string id = retried->state.task_id;
  EXPECT_NE(id, "t");
  EXPECT_EQ(retried->state.status, Status::kPending);
  EXPECT_EQ(Seen(id), "PENDING");
  EXPECT_TRUE(Listed().empty());

  StartWorker();
  EXPECT_EQ(Seen(id), "SUCCESS 2");
  ASSERT_EQ(ran.size(), 2u);
  EXPECT_EQ(StringHeader(ran[0], kRetryOfHeader), "t");
  EXPECT_EQ(StringHeader(ran[0], "color"), "blue");
  EXPECT_EQ(AttemptOf(ran[0]), 1);
  EXPECT_EQ(ran[0].retry_count, 2);
  EXPECT_EQ(StringHeader(ran[1], kRetryOfHeader), "next");
  EXPECT_EQ(Seen(ran[1].id), "SUCCESS 7");
}

TEST_F(DeadLettersTest, ACopyOfAMemberDoesNotEndItsChordAgain) {
  ASSERT_TRUE(SendGroup("g", {Add("t", {1}), Add("u", {2})},
                        Task{.id = "cb", .name = "add"})
                  .ok());
  Die("t");
  StartWorker();
  environment_.Advance(absl::Minutes(1));
  const std::string ended = Seen("cb");
  EXPECT_THAT(ended, HasSubstr("FAILURE group member add (t) failed"));
  runs_.clear();
  const absl::StatusOr<RetriedTask> retried = Retry("t");
  ASSERT_TRUE(retried.ok()) << retried.status();
  environment_.Advance(absl::Minutes(5));
  EXPECT_EQ(Seen(retried->state.task_id), "SUCCESS 1");
  EXPECT_EQ(Seen("cb"), ended);
  EXPECT_EQ(runs_["cb"], 0);
  EXPECT_TRUE(NothingIsOpen());
}

TEST_F(DeadLettersTest, TheLetterStaysUntilTheCopyIsConfirmed) {
  MakeDeadLink();
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "away"));
  EXPECT_TRUE(absl::IsUnavailable(Retry("t").status()));
  EXPECT_THAT(Listed(), ElementsAre("t"));
  backend_.FailNext("RemoveDead", 1);
  const absl::Status unsure = Retry("t").status();
  EXPECT_TRUE(absl::IsUnavailable(unsure));
  EXPECT_THAT(std::string(unsure.message()), HasSubstr("the copy was sent"));
  EXPECT_THAT(Listed(), ElementsAre("t"));
  const absl::StatusOr<RetriedTask> retried = Retry("t");
  ASSERT_TRUE(retried.ok()) << retried.status();
  EXPECT_TRUE(Listed().empty());
  StartWorker();
  EXPECT_EQ(Seen(retried->state.task_id), "SUCCESS 2");
}

TEST_F(DeadLettersTest, WhatIsNotDeadIsNamed) {
  const absl::Status unknown = Retry("nobody").status();
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_EQ(ReasonOf(unknown), reason::kTaskNotFound);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("nobody"));
  MakeDeadLink();
  EXPECT_TRUE(absl::IsNotFound(Retry("t", "", "other").status()));
  EXPECT_TRUE(absl::IsNotFound(Retry("nobody", "r").status()));
  ASSERT_TRUE(Retry("t").ok());
  EXPECT_TRUE(absl::IsNotFound(Retry("t").status()));
}

TEST_F(DeadLettersTest, ARepeatUnderARequestIdIsAnsweredWithTheSameCopy) {
  MakeDeadLink();
  const absl::StatusOr<RetriedTask> first = Retry("t", "r");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::StatusOr<RetriedTask> again = Retry("t", "r");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->replayed);
  EXPECT_EQ(again->state.task_id, first->state.task_id);
  EXPECT_EQ(ReasonOf(Retry("u", "r").status()), reason::kRequestIdReused);
  StartWorker();
  EXPECT_EQ(Seen(first->state.task_id), "SUCCESS 2");
  EXPECT_EQ(runs_[first->state.task_id], 1);
}

// The letter was taken away, and then nobody said how the request had ended.
TEST_F(DeadLettersTest, ARepeatFindsTheCopyOfATryThatWasCutShort) {
  MakeDeadLink();
  backend_.FailNext("EndRequest", 1);
  const absl::StatusOr<RetriedTask> first = Retry("t", "r");
  ASSERT_TRUE(first.ok()) << first.status();
  environment_.Advance(absl::Minutes(1));  // the claim's lease
  const absl::StatusOr<RetriedTask> again = Retry("t", "r");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->replayed);
  EXPECT_EQ(again->state.task_id, first->state.task_id);
}

TEST_F(DeadLettersTest, ADeletedLetterIsGone) {
  MakeDeadLink();
  std::optional<absl::StatusOr<DeadTask>> deleted;
  lifecycle_->DeleteDead(
      "", "t", [&](absl::StatusOr<DeadTask> result) { deleted = result; });
  environment_.RunDue();
  ASSERT_TRUE(deleted.has_value() && deleted->ok());
  EXPECT_EQ((*deleted)->task_id, "t");
  EXPECT_TRUE(Listed().empty());
  lifecycle_->DeleteDead(
      "", "t", [&](absl::StatusOr<DeadTask> result) { deleted = result; });
  environment_.RunDue();
  EXPECT_TRUE(absl::IsNotFound(deleted->status()));
}

TEST_F(LifecycleTest, AfterStopNothingIsTouched) {
  ASSERT_TRUE(Send(Add("t", {1, 1})).ok());
  backend_.FailNext("Finish", 1);
  StartWorker();
  environment_.RunDue();
  lifecycle_->Stop();
  environment_.Advance(absl::Minutes(1));
  EXPECT_EQ(Seen("t"), "STARTED");
  EXPECT_EQ(acks_, 0);
}

}  // namespace
}  // namespace penstock
