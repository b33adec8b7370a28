// What every Backend answers (queue/backend.h, docs/architecture.md sections 4
// to 8): one suite for memory and Redis. New semantics enter here first.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "queue/backend.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/ids.h"
#include "queue/memory/memory_backend.h"
#include "queue/redis/redis_backend.h"
#include "queue/wire/state_json.h"
#include "tests/conformance/await.h"
#include "tests/support/redis_probe.h"

namespace penstock {

// For messages of failed tests.
void PrintTo(const TaskState& state, std::ostream* out) {
  *out << EncodeState(state);
}

namespace {

using ::penstock::testing::Await;
using ::penstock::testing::AwaitDone;
using ::penstock::testing::Awaited;
using ::penstock::testing::kHang;
using ::testing::ElementsAre;

constexpr absl::Duration kTtl = absl::Hours(2);
constexpr absl::Duration kFinalTtl = absl::Hours(1);
constexpr int kMaxBegins = 3;

absl::Time Created() { return absl::FromUnixNanos(1'700'000'000'123'456'789); }
absl::Time Ms(int64_t ms) { return absl::FromUnixMillis(ms); }

// What a task's record may be when an operation meets it.
enum class Recorded {
  kNothing,
  kPending,
  kStarted1,   // attempt 1 of run "run-1"
  kStarted2,   // attempt 2 of run "run-2"
  kRetry,      // of attempt 1 by "run-1"; next is attempt 2
  kSuccess,    // of attempt 1 by "run-1"
  kFailure,    // of attempt 1 by "run-1"
  kAbandoned,  // FAILURE and its mark
};

std::string Name(Recorded recorded) {
  constexpr const char* kNames[] = {"nothing",   "PENDING",  "STARTED 1",
                                    "STARTED 2", "RETRY",    "SUCCESS",
                                    "FAILURE",   "abandoned"};
  return kNames[static_cast<int>(recorded)];
}

class BackendTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ASSERT_TRUE(Open(0)); }

  void TearDown() override {
    if (database_ == 0) return;
    backend_.reset();
    Probe(database_).Call({"FLUSHDB"});
    Probe(0).Call({"DEL", ClaimOf(database_)});
  }

  // In a database of Redis that no other test uses meanwhile, since the open set
  // is one for a database. tests/interop claims them in the same way.
  bool OpenAlone() {
    if (std::string(GetParam()) == "memory") return Open(0);
    testing::RedisProbe claims = Probe(0);
    const absl::Time limit = absl::Now() + absl::Minutes(2);
    for (; absl::Now() < limit; absl::SleepFor(absl::Milliseconds(50))) {
      for (int database = 1; database <= 15; ++database) {
        const RedisReply claimed = claims.Call(
            {"SET", ClaimOf(database), "conformance", "NX", "EX", "600"});
        if (claimed.kind == RedisReply::kNil) continue;
        database_ = database;
        Probe(database).Call({"FLUSHDB"});
        return Open(database);
      }
    }
    ADD_FAILURE() << "all databases of Redis are taken";
    return false;
  }

  static std::string ClaimOf(int database) {
    return absl::StrCat("penstock-interop:", database);
  }
  testing::RedisProbe Probe(int database) {
    return testing::RedisProbe(
        absl::StrCat(testing::TestRedisUrl(), "/", database),
        environment_.get());
  }

  bool Open(int database) {
    backend_.reset();
    if (std::string(GetParam()) == "memory") {
      backend_ = MakeMemoryBackend(environment_.get());
      return true;
    }
    const bool tls = std::string(GetParam()) == "rediss";
    const char* variable =
        tls ? "PENSTOCK_TEST_REDISS_URL" : "PENSTOCK_TEST_REDIS_URL";
    const char* url = getenv(variable);
    const char* ca_file = tls ? getenv("PENSTOCK_TEST_CA_FILE") : "";
    if (url == nullptr || ca_file == nullptr) {
      ADD_FAILURE() << variable << " is not set: use tests/run";
      return false;
    }
    Options options;
    options.tls.ca_file = ca_file;
    options.result_backend = absl::StrCat(url, "/", database);
    options.amqp.exchange = Id("exchange");
    auto opened = OpenRedisBackend(options, environment_.get());
    if (!opened.ok()) {
      ADD_FAILURE() << opened.status();
      return false;
    }
    backend_ = *std::move(opened);
    return true;
  }

  // Different in each test and each run.
  std::string Id(const std::string& name) { return absl::StrCat(name, tail_); }

  static TaskState State(std::string id, Status status) {
    return {.task_id = std::move(id),
            .task_name = "add",
            .status = status,
            .create_time = Created()};
  }

  static TaskState Started(std::string id, int attempt, std::string run) {
    TaskState state = State(std::move(id), Status::kStarted);
    state.task_name = "";
    state.create_time = GoZeroTime();
    state.attempt = attempt;
    state.run = std::move(run);
    state.worker = "worker-1";
    state.start_time = Ms(1'700'000'001'000);
    return state;
  }

  static TaskState Outcome(std::string id, Status status, int attempt,
                           std::string run) {
    TaskState state = Started(std::move(id), attempt, std::move(run));
    state.status = status;
    state.finish_time = Ms(1'700'000'002'000);
    if (status == Status::kSuccess) {
      state.results = {{.type = "int64", .json = "3"}};
      state.results_null = false;
    } else {
      state.error = "it \"broke\" {\\} \"State\":\"SUCCESS\"";
      state.error_type = "exception";
    }
    if (status == Status::kRetry) {
      state.next_attempt = attempt + 1;
      state.next_attempt_time = Ms(1'700'000'009'000);
      state.next_retry_count = 2;
      state.next_retry_timeout_s = 1;
    }
    return state;
  }

  static TaskState Abandonment(std::string id, std::string error) {
    TaskState state = State(std::move(id), Status::kFailure);
    state.error = std::move(error);
    state.error_type = std::string(kErrorAbandoned);
    state.finish_time = Ms(1'700'000'003'000);
    return state;
  }

  static TaskState Cancellation(std::string id, std::string error,
                                std::string run = "run-c1") {
    TaskState state = State(std::move(id), Status::kFailure);
    state.error = std::move(error);
    state.error_type = std::string(kErrorCancelled);
    state.run = std::move(run);
    state.finish_time = Ms(1'700'000'004'000);
    return state;
  }

  // ---- operations as verbs

  PendingAnswer CreatePending(const std::string& id, std::string hash,
                              std::string nonce, absl::Duration ttl = kTtl) {
    auto answers = Await<std::vector<PendingAnswer>>([&](auto done) {
      backend_->CreatePending({{.state = State(id, Status::kPending),
                                .payload_hash = std::move(hash),
                                .nonce = std::move(nonce),
                                .ttl = ttl}},
                              std::move(done));
    });
    EXPECT_TRUE(answers.ok()) << answers.status();
    return answers.ok() && answers->size() == 1 ? answers->front()
                                                : PendingAnswer::kTaken;
  }

  BeginAnswer Begin(const std::string& id, int attempt, std::string run) {
    auto answer = Await<BeginAnswer>([&](auto done) {
      backend_->Begin({.started = Started(id, attempt, std::move(run)),
                       .ttl = kTtl,
                       .final_ttl = kFinalTtl,
                       .max_begins = kMaxBegins},
                      std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(BeginAnswer{BeginAnswer::kStale, {}});
  }

  std::optional<SeenPending> See(const std::string& id) {
    auto seen = Await<std::optional<SeenPending>>(
        [&](auto done) { backend_->SeePending(id, std::move(done)); });
    EXPECT_TRUE(seen.ok()) << seen.status();
    return seen.value_or(std::nullopt);
  }

  FinishAnswer Finish(TaskState outcome, SeenPending seen = {}) {
    auto answer = Await<FinishAnswer>([&](auto done) {
      backend_->Finish({.outcome = std::move(outcome),
                        .ttl = kTtl,
                        .final_ttl = kFinalTtl,
                        .seen = std::move(seen)},
                       std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(FinishAnswer{FinishAnswer::kStale, {}});
  }

  bool SetProgress(const std::string& id, std::string run,
                   TaskProgress progress, absl::Duration ttl = kTtl) {
    auto answer = Await<bool>([&](auto done) {
      backend_->SetProgress(id, std::move(run), std::move(progress), ttl,
                            std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(false);
  }

  ContinueAnswer Continue(const std::string& id) {
    auto answer = Await<ContinueAnswer>([&](auto done) {
      backend_->Continue(State(id, Status::kPending), kTtl, kFinalTtl,
                         std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(ContinueAnswer{ContinueAnswer::kPast, {}});
  }

  bool Abandon(TaskState failure) {
    auto answer = Await<bool>([&](auto done) {
      backend_->Abandon(std::move(failure), kTtl, std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(false);
  }

  CancelAnswer Cancel(TaskState cancelled, absl::Duration final_ttl = kTtl) {
    auto answer = Await<CancelAnswer>([&](auto done) {
      backend_->Cancel(std::move(cancelled), final_ttl, std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(CancelAnswer{});
  }

  bool TakeBack(std::vector<std::string> ids, std::string nonce) {
    auto answer = Await<bool>([&](auto done) {
      backend_->TakeBack(std::move(ids), std::move(nonce), std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(false);
  }

  std::vector<std::optional<TaskState>> GetStates(
      std::vector<std::string> ids) {
    auto states = Await<std::vector<std::optional<TaskState>>>(
        [&](auto done) { backend_->GetStates(ids, std::move(done)); });
    EXPECT_TRUE(states.ok()) << states.status();
    return states.value_or(std::vector<std::optional<TaskState>>(ids.size()));
  }

  std::optional<TaskState> Get(const std::string& id) {
    return GetStates({id}).front();
  }

  // The status that stands; kUnknown for none.
  Status StatusOf(const std::string& id) {
    const auto state = Get(id);
    return state.has_value() ? state->status : Status::kUnknown;
  }

  void Arrange(const std::string& id, Recorded recorded) {
    if (recorded == Recorded::kNothing) return;
    if (recorded == Recorded::kAbandoned) {
      ASSERT_TRUE(Abandon(Abandonment(id, "link a failed")));
      return;
    }
    ASSERT_EQ(CreatePending(id, "hash", "nonce"), PendingAnswer::kCreated);
    ArrangeFromPending(id, recorded);
  }

  void ArrangeFromPending(const std::string& id, Recorded recorded) {
    switch (recorded) {
      case Recorded::kStarted1:
        Begin(id, 1, "run-1");
        break;
      case Recorded::kStarted2:
        Begin(id, 2, "run-2");
        break;
      case Recorded::kRetry:
      case Recorded::kSuccess:
      case Recorded::kFailure: {
        Begin(id, 1, "run-1");
        const Status status = recorded == Recorded::kRetry ? Status::kRetry
                              : recorded == Recorded::kSuccess
                                  ? Status::kSuccess
                                  : Status::kFailure;
        ASSERT_EQ(Finish(Outcome(id, status, 1, "run-1")).kind,
                  FinishAnswer::kWritten);
        break;
      }
      default:
        break;
    }
  }

  // ---- groups and chains

  WorkflowRecord Group(const std::string& id) {
    return {.kind = WorkflowRecord::kGroup,
            .id = id,
            .task_ids = {id + "-a", id + "-b"},
            .callback = R"({"UUID":"cb","Args":["\"quoted\"\n"]})",
            .on_failure = R"({"UUID":"onf"})",
            .payload_hash = "hash",
            .nonce = "nonce",
            .create_time = Ms(1'700'000'000'456)};
  }

  PendingAnswer CreateRecord(WorkflowRecord record,
                             absl::Time visit = Ms(1'000)) {
    auto answer = Await<PendingAnswer>([&](auto done) {
      backend_->CreateRecord(std::move(record), visit, kTtl, std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(PendingAnswer::kTaken);
  }

  std::optional<WorkflowRecord> GetRecord(WorkflowRecord::Kind kind,
                                          const std::string& id) {
    auto record = Await<std::optional<WorkflowRecord>>(
        [&](auto done) { backend_->GetRecord(kind, id, std::move(done)); });
    EXPECT_TRUE(record.ok()) << record.status();
    return record.value_or(std::nullopt);
  }

  std::optional<GroupMeta> GetMeta(const std::string& id) {
    auto meta = Await<std::optional<GroupMeta>>(
        [&](auto done) { backend_->GetGroupMeta(id, std::move(done)); });
    EXPECT_TRUE(meta.ok()) << meta.status();
    return meta.value_or(std::nullopt);
  }

  bool Mark(WorkflowRecord::Kind kind, const std::string& id, RecordMark mark,
            absl::Time now = Ms(1'700'000'000'000)) {
    auto found = Await<bool>([&](auto done) {
      backend_->MarkRecord(kind, id, mark, now, kTtl, std::move(done));
    });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(false);
  }

  void RemoveRecord(const std::string& id, std::string nonce) {
    const absl::Status status = AwaitDone([&](auto done) {
      backend_->RemoveRecord(WorkflowRecord::kGroup, id, std::move(nonce),
                             std::move(done));
    });
    EXPECT_TRUE(status.ok()) << status;
  }

  ClaimAnswer Claim(const std::string& id, std::string token,
                    absl::Time now = Ms(1'700'000'007'000)) {
    auto answer = Await<ClaimAnswer>([&](auto done) {
      backend_->ClaimChord(id, std::move(token), now, kTtl, std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(ClaimAnswer::kLocked);
  }

  // Of this test only: others may share the server.
  std::vector<OpenEntry> LeaseOpen(absl::Time now, absl::Time next,
                                   int limit = 1000) {
    auto entries = Await<std::vector<OpenEntry>>([&](auto done) {
      backend_->LeaseOpen(now, next, limit, std::move(done));
    });
    EXPECT_TRUE(entries.ok()) << entries.status();
    if (!entries.ok()) return {};
    std::erase_if(*entries, [this](const OpenEntry& entry) {
      return entry.id.find(tail_) == std::string::npos;
    });
    std::sort(entries->begin(), entries->end(),
              [](const auto& a, const auto& b) { return a.id < b.id; });
    return *std::move(entries);
  }

  // ---- schedules

  ScheduleRecord Scheduled(const std::string& name) {
    return {.name = name,
            .nonce = "nonce",
            .payload_hash = "hash",
            .cron_spec = "0 3 * * *",
            .call = std::string("bytes\0\n\xff", 8),
            .create_time = Ms(1'700'000'000'456),
            .next_tick = Ms(4'000'000'000'000)};
  }

  ScheduleRecord CreateSchedule(ScheduleRecord record) {
    auto stands = Await<ScheduleRecord>([&](auto done) {
      backend_->CreateSchedule(std::move(record), std::move(done));
    });
    EXPECT_TRUE(stands.ok()) << stands.status();
    return stands.value_or(ScheduleRecord{});
  }

  std::optional<ScheduleRecord> GetSchedule(const std::string& name) {
    auto found = Await<std::optional<ScheduleRecord>>(
        [&](auto done) { backend_->GetSchedule(name, std::move(done)); });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(std::nullopt);
  }

  std::optional<ScheduleRecord> DeleteSchedule(const std::string& name) {
    auto found = Await<std::optional<ScheduleRecord>>(
        [&](auto done) { backend_->DeleteSchedule(name, std::move(done)); });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(std::nullopt);
  }

  LeasedSchedules LeaseSchedules(
      absl::Duration lease = absl::Hours(10),
      absl::Duration grace = absl::Hours(24 * 365 * 100)) {
    auto leased = Await<LeasedSchedules>([&](auto done) {
      backend_->LeaseSchedules(20, lease, grace, std::move(done));
    });
    EXPECT_TRUE(leased.ok()) << leased.status();
    return leased.value_or(LeasedSchedules{});
  }

  void EndTick(ScheduleTick tick) {
    const absl::Status status = AwaitDone([&](auto done) {
      backend_->EndTick(std::move(tick), std::move(done));
    });
    EXPECT_TRUE(status.ok()) << status;
  }

  // ---- delayed tasks

  DelayedTask Delayed(const std::string& id, absl::Time due, int attempt = 1) {
    return {.task_id = id,
            .attempt = attempt,
            .due = due,
            .body = absl::StrCat("{\"UUID\":\"", id, "\"}"),
            .routing_key = "machinery_task",
            .queue = "",
            .priority = 0};
  }

  void Lay(DelayedTask task) {
    const absl::Status status = AwaitDone(
        [&](auto done) { backend_->Lay(std::move(task), std::move(done)); });
    EXPECT_TRUE(status.ok()) << status;
  }

  LeasedBatch LeaseDue(int limit = 100,
                       absl::Duration lease = absl::Hours(10)) {
    auto batch = Await<LeasedBatch>(
        [&](auto done) { backend_->LeaseDue(limit, lease, std::move(done)); });
    EXPECT_TRUE(batch.ok()) << batch.status();
    return batch.value_or(LeasedBatch{});
  }

  void RemoveLeased(LeasedTask leased) {
    const absl::Status status = AwaitDone([&](auto done) {
      backend_->RemoveLeased(std::move(leased), std::move(done));
    });
    EXPECT_TRUE(status.ok()) << status;
  }

  // ---- dead letters

  DeadTask Dead(const std::string& id, absl::Time time) {
    return {.task_id = id,
            .name = "add",
            .queue = Id("queue"),
            .reason = "begun \"too often\"\n",
            .body = std::string("\xff\0{\n", 4),
            .time = time,
            .attempts = 10};
  }

  void LayDead(const DeadTask& task) {
    const absl::Status status =
        AwaitDone([&](auto done) { backend_->LayDead(task, std::move(done)); });
    EXPECT_TRUE(status.ok()) << status;
  }

  std::vector<DeadTask> ListDead(int limit = 100,
                                 std::optional<DeadPlace> after = {}) {
    auto tasks = Await<std::vector<DeadTask>>([&](auto done) {
      backend_->ListDead(Id("queue"), limit, after, std::move(done));
    });
    EXPECT_TRUE(tasks.ok()) << tasks.status();
    return tasks.value_or(std::vector<DeadTask>());
  }

  std::vector<std::string> IdsOfDead(int limit = 100,
                                     std::optional<DeadPlace> after = {}) {
    std::vector<std::string> ids;
    for (const DeadTask& task : ListDead(limit, after)) {
      ids.push_back(task.task_id);
    }
    return ids;
  }

  std::optional<DeadTask> GetDead(const std::string& id) {
    auto task = Await<std::optional<DeadTask>>([&](auto done) {
      backend_->GetDead(Id("queue"), id, std::move(done));
    });
    EXPECT_TRUE(task.ok()) << task.status();
    return task.value_or(std::nullopt);
  }

  std::optional<DeadTask> RemoveDead(const std::string& id,
                                     std::optional<absl::Time> time = {}) {
    auto task = Await<std::optional<DeadTask>>([&](auto done) {
      backend_->RemoveDead(Id("queue"), id, time, std::move(done));
    });
    EXPECT_TRUE(task.ok()) << task.status();
    return task.value_or(std::nullopt);
  }

  const std::string tail_ = absl::StrCat("-", RandomUuid());
  const std::unique_ptr<Environment> environment_ = MakeSystemEnvironment();
  int database_ = 0;  // that was claimed; 0: none
  std::unique_ptr<Backend> backend_;
};

INSTANTIATE_TEST_SUITE_P(All, BackendTest,
                         ::testing::Values("memory", "redis", "rediss"),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

// ---- claiming ids -----------------------------------------------------------

TEST_P(BackendTest, AnUnusedIdIsCreatedAsPending) {
  const std::string id = Id("task");
  EXPECT_EQ(CreatePending(id, "hash", "nonce"), PendingAnswer::kCreated);
  EXPECT_EQ(Get(id), State(id, Status::kPending));
}

TEST_P(BackendTest, ARepeatOfTheSameSubmissionIsCreatedAgain) {
  const std::string id = Id("task");
  CreatePending(id, "hash", "nonce");
  EXPECT_EQ(CreatePending(id, "hash", "nonce"), PendingAnswer::kCreated);
}

TEST_P(BackendTest, AnotherSubmissionOfAnEqualPayloadIsARepeat) {
  const std::string id = Id("task");
  CreatePending(id, "hash", "nonce");
  EXPECT_EQ(CreatePending(id, "hash", "other"), PendingAnswer::kRepeat);
  // It does not own it: the first one still does.
  EXPECT_FALSE(TakeBack({id}, "other"));
  EXPECT_TRUE(TakeBack({id}, "nonce"));
}

TEST_P(BackendTest, AnotherPayloadFindsTheIdTaken) {
  const std::string id = Id("task");
  CreatePending(id, "hash", "nonce");
  EXPECT_EQ(CreatePending(id, "different", "other"), PendingAnswer::kTaken);
  EXPECT_EQ(CreatePending(id, "different", "nonce"), PendingAnswer::kTaken);
  Begin(id, 1, "run-1");
  EXPECT_EQ(CreatePending(id, "different", "other"), PendingAnswer::kTaken);
}

TEST_P(BackendTest, AnEqualPayloadBeyondPendingIsPast) {
  for (Recorded recorded : {Recorded::kStarted1, Recorded::kRetry,
                            Recorded::kSuccess, Recorded::kFailure}) {
    const std::string id = Id(absl::StrCat("task", static_cast<int>(recorded)));
    Arrange(id, recorded);
    const Status before = StatusOf(id);
    EXPECT_EQ(CreatePending(id, "hash", "other"), PendingAnswer::kPast)
        << Name(recorded);
    EXPECT_EQ(CreatePending(id, "hash", "nonce"), PendingAnswer::kPast)
        << Name(recorded);
    EXPECT_EQ(StatusOf(id), before) << Name(recorded);
  }
}

TEST_P(BackendTest, AStateThatNoSubmissionMadeIsTaken) {
  const std::string follow_up = Id("follow-up");
  Continue(follow_up);
  EXPECT_EQ(CreatePending(follow_up, "hash", "nonce"), PendingAnswer::kTaken);
  const std::string abandoned = Id("abandoned");
  Arrange(abandoned, Recorded::kAbandoned);
  EXPECT_EQ(CreatePending(abandoned, "hash", "nonce"), PendingAnswer::kTaken);
  EXPECT_EQ(StatusOf(abandoned), Status::kFailure);
}

TEST_P(BackendTest, SeveralIdsAreAnsweredInOrder) {
  const std::string repeat = Id("repeat");
  const std::string past = Id("past");
  const std::string taken = Id("taken");
  CreatePending(repeat, "hash", "other");
  Arrange(past, Recorded::kStarted1);
  CreatePending(taken, "different", "other");
  std::vector<PendingRequest> requests;
  for (const std::string& id : {repeat, Id("new"), past, taken}) {
    requests.push_back({.state = State(id, Status::kPending),
                        .payload_hash = "hash",
                        .nonce = "mine",
                        .ttl = kTtl});
  }
  auto answers = Await<std::vector<PendingAnswer>>([&](auto done) {
    backend_->CreatePending(std::move(requests), std::move(done));
  });
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_THAT(*answers,
              ElementsAre(PendingAnswer::kRepeat, PendingAnswer::kCreated,
                          PendingAnswer::kPast, PendingAnswer::kTaken));
}

TEST_P(BackendTest, ManyIdsAreAnsweredEachByItself) {
  std::map<size_t, PendingAnswer> unusual;
  std::vector<PendingRequest> requests;
  for (size_t i = 0; i < 250; ++i) {
    const std::string id = Id(absl::StrCat("many_", i));
    if (i == 0 || i == 99 || i == 100 || i == 249) {
      CreatePending(id, "different", "other");
      unusual[i] = PendingAnswer::kTaken;
    } else if (i == 120 && backend_->CanCancel()) {
      CreatePending(id, "hash", "other");
      Cancel(Cancellation(id, "x"));
      unusual[i] = PendingAnswer::kPast;
    }
    // Some are made up for this call alone.
    requests.push_back({.state = State(id, Status::kPending),
                        .payload_hash = i % 7 == 3 ? "" : "hash",
                        .nonce = absl::StrCat("mine/", i),
                        .ttl = kTtl});
  }
  auto answers = Await<std::vector<PendingAnswer>>([&](auto done) {
    backend_->CreatePending(std::move(requests), std::move(done));
  });
  ASSERT_TRUE(answers.ok()) << answers.status();
  ASSERT_EQ(answers->size(), 250u);
  for (size_t i = 0; i < answers->size(); ++i) {
    const auto found = unusual.find(i);
    EXPECT_EQ((*answers)[i], found == unusual.end() ? PendingAnswer::kCreated
                                                    : found->second)
        << i;
    EXPECT_EQ(StatusOf(Id(absl::StrCat("many_", i))),
              i == 120 && backend_->CanCancel() ? Status::kFailure
                                                : Status::kPending)
        << i;
  }
}

TEST_P(BackendTest, NothingAskedIsAnsweredWithNothing) {
  auto answers = Await<std::vector<PendingAnswer>>(
      [&](auto done) { backend_->CreatePending({}, std::move(done)); });
  ASSERT_TRUE(answers.ok()) << answers.status();
  EXPECT_TRUE(answers->empty());
  EXPECT_TRUE(GetStates({}).empty());
  EXPECT_TRUE(TakeBack({}, "nonce"));
  EXPECT_TRUE(AwaitDone([&](auto done) {
                backend_->Refresh({}, Backend::RefreshWhich::kAll, kTtl,
                                  kFinalTtl, std::move(done));
              }).ok());
}

TEST_P(BackendTest, TakeBackRemovesWhatItsSubmissionWrote) {
  const std::string a = Id("a");
  const std::string b = Id("b");
  CreatePending(a, "hash", "nonce");
  CreatePending(b, "hash", "nonce");
  EXPECT_TRUE(TakeBack({a, b}, "nonce"));
  EXPECT_EQ(Get(a), std::nullopt);
  EXPECT_EQ(Get(b), std::nullopt);
  EXPECT_TRUE(TakeBack({a, b}, "nonce")) << "a repeat answers the same";
  EXPECT_EQ(CreatePending(a, "different", "other"), PendingAnswer::kCreated);
}

TEST_P(BackendTest, TakeBackLeavesWhatHasBegun) {
  const std::string pending = Id("pending");
  const std::string begun = Id("begun");
  CreatePending(pending, "hash", "nonce");
  Arrange(begun, Recorded::kStarted1);
  EXPECT_FALSE(TakeBack({pending, begun}, "nonce"));
  EXPECT_EQ(Get(pending), std::nullopt);
  EXPECT_EQ(StatusOf(begun), Status::kStarted);
}

TEST_P(BackendTest, AnIdThatNobodyElseCanHaveNeedsNoHash) {
  const std::string id = Id("task");
  const std::string claimed = Id("claimed");
  EXPECT_EQ(CreatePending(id, "", "nonce"), PendingAnswer::kCreated);
  EXPECT_EQ(StatusOf(id), Status::kPending);
  EXPECT_EQ(CreatePending(id, "", "other"), PendingAnswer::kTaken);
  EXPECT_EQ(CreatePending(id, "hash", "other"), PendingAnswer::kTaken);
  EXPECT_FALSE(TakeBack({id}, "nonce"));
  EXPECT_FALSE(TakeBack({id}, "other"));

  CreatePending(claimed, "hash", "nonce");
  EXPECT_FALSE(TakeBack({id, claimed}, ""));
  EXPECT_EQ(Get(id), std::nullopt);
  EXPECT_EQ(StatusOf(claimed), Status::kPending);
  EXPECT_TRUE(TakeBack({id}, "")) << "a repeat answers the same";
}

// ---- begin
// --------------------------------------------------------------------

struct BeginCase {
  Recorded recorded;
  int attempt;
  const char* run;
  BeginAnswer::Kind answer;
  Status stands;
  int begins;  // of the state that stands; -1: not looked at
};

TEST_P(BackendTest, BeginOverEveryRecordedState) {
  using R = Recorded;
  using A = BeginAnswer;
  const BeginCase cases[] = {
      {R::kNothing, 1, "new", A::kRun, Status::kStarted, 1},
      {R::kNothing, 3, "new", A::kRun, Status::kStarted, 1},
      {R::kPending, 1, "new", A::kRun, Status::kStarted, 1},
      {R::kPending, 2, "new", A::kRun, Status::kStarted, 1},
      {R::kStarted1, 1, "run-1", A::kRun, Status::kStarted, 1},
      {R::kStarted1, 1, "new", A::kRun, Status::kStarted, 2},
      {R::kStarted1, 2, "new", A::kRun, Status::kStarted, 1},
      {R::kStarted2, 1, "new", A::kStale, Status::kStarted, 1},
      {R::kStarted2, 2, "new", A::kRun, Status::kStarted, 2},
      {R::kRetry, 1, "new", A::kMove, Status::kRetry, -1},
      {R::kRetry, 1, "run-1", A::kMove, Status::kRetry, -1},
      {R::kRetry, 2, "new", A::kRun, Status::kStarted, 1},
      {R::kRetry, 3, "new", A::kRun, Status::kStarted, 1},
      {R::kSuccess, 1, "run-1", A::kFinal, Status::kSuccess, -1},
      {R::kSuccess, 1, "new", A::kFinal, Status::kSuccess, -1},
      {R::kSuccess, 2, "new", A::kFinal, Status::kSuccess, -1},
      {R::kFailure, 1, "new", A::kFinal, Status::kFailure, -1},
      {R::kFailure, 2, "new", A::kFinal, Status::kFailure, -1},
      {R::kAbandoned, 1, "new", A::kFinal, Status::kFailure, -1},
  };
  int number = 0;
  for (const BeginCase& c : cases) {
    SCOPED_TRACE(
        absl::StrCat(Name(c.recorded), ", attempt ", c.attempt, " of ", c.run));
    const std::string id = Id(absl::StrCat("task", ++number));
    ASSERT_NO_FATAL_FAILURE(Arrange(id, c.recorded));
    const auto before = Get(id);
    const BeginAnswer answer = Begin(id, c.attempt, c.run);
    EXPECT_EQ(answer.kind, c.answer);
    const auto after = Get(id);
    ASSERT_TRUE(after.has_value());
    EXPECT_EQ(after->status, c.stands);
    if (c.begins >= 0) {
      EXPECT_EQ(after->begins, c.begins);
    }
    if (c.answer == A::kRun) {
      EXPECT_EQ(after->run, c.run);
      EXPECT_EQ(after->attempt, c.attempt);
    } else {
      EXPECT_EQ(after, before) << "nothing may be written";
    }
    if (c.answer == A::kFinal || c.answer == A::kMove) {
      EXPECT_EQ(answer.recorded, *before);
    }
    EXPECT_EQ(Begin(id, c.attempt, c.run).kind, c.answer) << "a repeat";
    EXPECT_EQ(Get(id), after) << "a repeat changes nothing";
  }
}

TEST_P(BackendTest, OnlyPendingIsSeen) {
  for (Recorded recorded :
       {Recorded::kNothing, Recorded::kPending, Recorded::kStarted1,
        Recorded::kStarted2, Recorded::kRetry, Recorded::kSuccess,
        Recorded::kFailure, Recorded::kAbandoned}) {
    SCOPED_TRACE(Name(recorded));
    const std::string id =
        Id(absl::StrCat("task", static_cast<int>(recorded)));
    ASSERT_NO_FATAL_FAILURE(Arrange(id, recorded));
    const auto before = Get(id);
    EXPECT_EQ(See(id).has_value(), recorded == Recorded::kPending);
    EXPECT_EQ(Get(id), before);
  }
}

TEST_P(BackendTest, BeginKeepsCreateTimeAndNameOfTheRecord) {
  const std::string id = Id("task");
  Arrange(id, Recorded::kPending);
  Begin(id, 1, "run-1");
  TaskState expected = Started(id, 1, "run-1");
  expected.begins = 1;
  expected.task_name = "add";
  expected.create_time = Created();
  EXPECT_EQ(Get(id), expected);
}

TEST_P(BackendTest, ATaskThatIsBegunTooOftenIsWornOut) {
  const std::string id = Id("task");
  Arrange(id, Recorded::kPending);
  for (int i = 1; i <= kMaxBegins; ++i) {
    EXPECT_EQ(Begin(id, 1, absl::StrCat("run-", i)).kind, BeginAnswer::kRun);
  }
  const auto before = Get(id);
  EXPECT_EQ(before->begins, kMaxBegins);
  const BeginAnswer answer = Begin(id, 1, "one-more");
  EXPECT_EQ(answer.kind, BeginAnswer::kWornOut);
  EXPECT_EQ(answer.recorded, *before);
  EXPECT_EQ(Get(id), before);
  // A repeat of the last good one is still the same run; a new attempt counts
  // from one.
  EXPECT_EQ(Begin(id, 1, absl::StrCat("run-", kMaxBegins)).kind,
            BeginAnswer::kRun);
  EXPECT_EQ(Begin(id, 2, "next").kind, BeginAnswer::kRun);
  EXPECT_EQ(Get(id)->begins, 1);
}

// ---- finish
// -------------------------------------------------------------------

struct FinishCase {
  Recorded recorded;
  Status outcome;
  const char* run;
  FinishAnswer::Kind answer;
  Status stands;
};

TEST_P(BackendTest, FinishOverEveryRecordedState) {
  using R = Recorded;
  using A = FinishAnswer;
  constexpr Status kS = Status::kSuccess;
  constexpr Status kF = Status::kFailure;
  constexpr Status kR = Status::kRetry;
  const FinishCase cases[] = {
      {R::kNothing, kS, "run-1", A::kWritten, kS},
      {R::kNothing, kF, "run-1", A::kWritten, kF},
      {R::kNothing, kR, "run-1", A::kWritten, kR},
      {R::kPending, kS, "run-1", A::kWritten, kS},
      {R::kPending, kF, "run-1", A::kWritten, kF},
      {R::kPending, kR, "run-1", A::kWritten, kR},
      {R::kStarted1, kS, "run-1", A::kWritten, kS},
      {R::kStarted1, kF, "run-1", A::kWritten, kF},
      {R::kStarted1, kR, "run-1", A::kWritten, kR},
      {R::kStarted1, kS, "other", A::kWritten, kS},
      {R::kStarted1, kF, "other", A::kWritten, kF},
      {R::kStarted1, kR, "other", A::kWritten, kR},
      {R::kStarted2, kS, "run-1", A::kWritten, kS},
      {R::kStarted2, kR, "run-1", A::kStale, Status::kStarted},
      {R::kStarted2, kR, "run-2", A::kStale, Status::kStarted},
      {R::kRetry, kS, "run-1", A::kWritten, kS},
      {R::kRetry, kF, "other", A::kWritten, kF},
      {R::kRetry, kR, "run-1", A::kWritten, kR},
      {R::kRetry, kR, "other", A::kRetried, kR},
      {R::kSuccess, kS, "run-1", A::kWritten, kS},
      {R::kSuccess, kS, "other", A::kFinal, kS},
      {R::kSuccess, kF, "other", A::kFinal, kS},
      {R::kSuccess, kR, "other", A::kFinal, kS},
      {R::kFailure, kF, "run-1", A::kWritten, kF},
      {R::kFailure, kS, "other", A::kFinal, kF},
      {R::kFailure, kR, "other", A::kFinal, kF},
      {R::kAbandoned, kS, "run-1", A::kFinal, kF},
      {R::kAbandoned, kF, "run-1", A::kFinal, kF},
      {R::kAbandoned, kR, "run-1", A::kFinal, kF},
  };
  int number = 0;
  for (const FinishCase& c : cases) {
    SCOPED_TRACE(absl::StrCat(Name(c.recorded), ", ",
                              std::string(StatusName(c.outcome)), " of ",
                              c.run));
    const std::string id = Id(absl::StrCat("task", ++number));
    ASSERT_NO_FATAL_FAILURE(Arrange(id, c.recorded));
    const auto before = Get(id);
    const TaskState outcome = Outcome(id, c.outcome, 1, c.run);
    const FinishAnswer answer = Finish(outcome);
    EXPECT_EQ(answer.kind, c.answer);
    const auto after = Get(id);
    ASSERT_TRUE(after.has_value());
    EXPECT_EQ(after->status, c.stands);
    if (c.answer == A::kWritten) {
      TaskState expected = outcome;
      if (before.has_value()) {
        expected.task_name = "add";
        expected.create_time = Created();
      }
      EXPECT_EQ(*after, expected);
    } else {
      EXPECT_EQ(after, before) << "nothing may be written";
    }
    if (c.answer == A::kFinal || c.answer == A::kRetried) {
      EXPECT_EQ(answer.recorded, *before);
    }
    EXPECT_EQ(Finish(outcome).kind, c.answer) << "a repeat answers the same";
    EXPECT_EQ(Get(id), after) << "a repeat changes nothing";
  }
}

TEST_P(BackendTest, WhatARunHasSeenChangesNoOutcome) {
  int number = 0;
  for (Recorded recorded : {Recorded::kPending, Recorded::kStarted1,
                            Recorded::kStarted2, Recorded::kRetry,
                            Recorded::kSuccess, Recorded::kFailure}) {
    for (Status status :
         {Status::kSuccess, Status::kFailure, Status::kRetry}) {
      SCOPED_TRACE(absl::StrCat(Name(recorded), ", ",
                                std::string(StatusName(status))));
      ++number;
      const std::string id = Id(absl::StrCat("seen", number));
      const std::string twin = Id(absl::StrCat("unseen", number));
      ASSERT_EQ(CreatePending(id, "hash", "nonce"), PendingAnswer::kCreated);
      const SeenPending seen = See(id).value_or("");
      ArrangeFromPending(id, recorded);
      ASSERT_NO_FATAL_FAILURE(Arrange(twin, recorded));

      TaskState outcome = Outcome(id, status, 1, "run-9");
      outcome.task_name = "add";  // as Lifecycle has it: the short way needs it
      EXPECT_EQ(Finish(outcome, seen).kind,
                Finish(Outcome(twin, status, 1, "run-9")).kind);
      std::optional<TaskState> expected = Get(twin);
      expected->task_id = id;
      EXPECT_EQ(Get(id), expected);
      EXPECT_EQ(Finish(outcome, seen).kind,
                Finish(Outcome(twin, status, 1, "run-9")).kind)
          << "a repeat answers the same";
      EXPECT_EQ(Get(id), expected) << "a repeat changes nothing";
    }
  }
}

TEST_P(BackendTest, AnOutcomeThatSawPendingDoesNotUndoACancel) {
  const std::string id = Id("task");
  CreatePending(id, "hash", "nonce");
  const SeenPending seen = See(id).value_or("");
  if (!backend_->CanCancel()) return;  // all that this is about
  EXPECT_EQ(Cancel(Cancellation(id, "x")).kind, CancelAnswer::kCancelled);
  const auto cancelled = Get(id);
  TaskState outcome = Outcome(id, Status::kSuccess, 1, "run-1");
  outcome.task_name = "add";
  EXPECT_EQ(Finish(outcome, seen).kind, FinishAnswer::kFinal);
  EXPECT_EQ(Get(id), cancelled);
}

// ---- continue, abandon
// ----------------------------------------------------------

TEST_P(BackendTest, ProgressStandsInTheStateOfItsRunUntilItEnds) {
  const std::string id = Id("task");
  Arrange(id, Recorded::kStarted1);
  const TaskState started = *Get(id);
  const TaskProgress first{
      .fraction = 0.25,
      .text = "\"a\" {,\"Progress\":{ \\ ,\"State\":\"SUCCESS\" \xff",
      .time = Ms(1'700'000'001'500)};
  EXPECT_TRUE(SetProgress(id, "run-1", first));
  const TaskProgress second{
      .fraction = 1, .text = "b", .time = Ms(1'700'000'001'999)};
  ASSERT_TRUE(Get(id)->progress.has_value());
  EXPECT_EQ(Get(id)->progress->fraction, 0.25);
  EXPECT_EQ(Get(id)->status, Status::kStarted);
  EXPECT_TRUE(SetProgress(id, "run-1", second));
  TaskState expected = started;
  expected.progress = second;
  EXPECT_EQ(Get(id), expected);

  EXPECT_EQ(Finish(Outcome(id, Status::kSuccess, 1, "run-1")).kind,
            FinishAnswer::kWritten);
  EXPECT_EQ(Get(id)->progress, std::nullopt);
}

TEST_P(BackendTest, ANewRunBeginsWithoutTheProgressOfTheLastOne) {
  const std::string id = Id("task");
  Arrange(id, Recorded::kStarted1);
  EXPECT_TRUE(SetProgress(id, "run-1", {.fraction = 0.5}));
  Begin(id, 1, "run-9");
  EXPECT_EQ(Get(id)->progress, std::nullopt);
  EXPECT_FALSE(SetProgress(id, "run-1", {.fraction = 0.6}));
  EXPECT_EQ(Get(id)->progress, std::nullopt);
}

TEST_P(BackendTest, ProgressIsWrittenOverNothingButItsOwnRun) {
  for (const Recorded recorded :
       {Recorded::kNothing, Recorded::kPending, Recorded::kStarted2,
        Recorded::kRetry, Recorded::kSuccess, Recorded::kFailure,
        Recorded::kAbandoned}) {
    const std::string id = Id(absl::StrCat("task", static_cast<int>(recorded)));
    Arrange(id, recorded);
    const std::optional<TaskState> before = Get(id);
    EXPECT_FALSE(SetProgress(id, "run-1", {.fraction = 0.5})) << Name(recorded);
    EXPECT_EQ(Get(id), before) << Name(recorded);
  }
}

TEST_P(BackendTest, ContinueWritesPendingOnlyWhereNothingStands) {
  const std::string id = Id("task");
  EXPECT_EQ(Continue(id).kind, ContinueAnswer::kPublish);
  EXPECT_EQ(Get(id), State(id, Status::kPending));
  EXPECT_EQ(Continue(id).kind, ContinueAnswer::kPublish) << "published again";
  Begin(id, 1, "run-1");
  EXPECT_EQ(Continue(id).kind, ContinueAnswer::kPast);
  EXPECT_EQ(StatusOf(id), Status::kStarted);
}

TEST_P(BackendTest, ContinueOfWhatHasBegunOrEndedWritesNothing) {
  struct Case {
    Recorded recorded;
    ContinueAnswer::Kind answer;
  };
  for (const Case& c : {Case{Recorded::kPending, ContinueAnswer::kPublish},
                        Case{Recorded::kStarted2, ContinueAnswer::kPast},
                        Case{Recorded::kRetry, ContinueAnswer::kPast},
                        Case{Recorded::kSuccess, ContinueAnswer::kFinal},
                        Case{Recorded::kFailure, ContinueAnswer::kFinal},
                        Case{Recorded::kAbandoned, ContinueAnswer::kFinal}}) {
    SCOPED_TRACE(Name(c.recorded));
    const std::string id =
        Id(absl::StrCat("task", static_cast<int>(c.recorded)));
    Arrange(id, c.recorded);
    const auto before = Get(id);
    const ContinueAnswer answer = Continue(id);
    EXPECT_EQ(answer.kind, c.answer);
    if (c.answer == ContinueAnswer::kFinal) {
      EXPECT_EQ(answer.recorded, *before);
    }
    EXPECT_EQ(Get(id), before);
  }
}

TEST_P(BackendTest, AUniqueKeyHasOneHolder) {
  const std::string key = Id("a {key} of \"ours\"");
  using A = UniqueAnswer;
  const auto claim = [&](const std::string& task, const std::string& ended = "",
                         absl::Duration ttl = absl::Hours(1)) {
    auto answer = Await<UniqueAnswer>([&](auto done) {
      backend_->ClaimUnique({.key = key,
                             .task_id = task,
                             .ended_holder = ended,
                             .ttl = ttl},
                            std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(A{});
  };
  const auto release = [&](const std::string& task) {
    EXPECT_TRUE(AwaitDone([&](auto done) {
                  backend_->ReleaseUnique({{.key = key, .task_id = task}},
                                          std::move(done));
                }).ok());
  };
  EXPECT_EQ(claim("a").kind, A::kTaken);
  EXPECT_EQ(claim("a").kind, A::kStands);
  const A held = claim("b");
  EXPECT_EQ(held.kind, A::kHeld);
  EXPECT_EQ(held.holder, "a");
  EXPECT_GE(held.age, absl::ZeroDuration());
  EXPECT_EQ(claim("b", "c").kind, A::kHeld);
  release("b");  // does not hold it
  EXPECT_EQ(claim("b").kind, A::kHeld);
  EXPECT_EQ(claim("b", "a").kind, A::kTaken);
  EXPECT_EQ(claim("c", "a").holder, "b") << "another one was quicker";
  release("b");
  EXPECT_EQ(claim("c", "", absl::Milliseconds(1)).kind, A::kTaken);
  const absl::Time limit = absl::Now() + kHang;
  A::Kind last = A::kHeld;
  while ((last = claim("d").kind) == A::kHeld && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(last, A::kTaken) << "it has expired";
}

TEST_P(BackendTest, AbandonEndsOnlyWhatHasNotBegun) {
  struct Case {
    Recorded recorded;
    bool abandoned;
  };
  for (const Case& c :
       {Case{Recorded::kNothing, true}, Case{Recorded::kPending, true},
        Case{Recorded::kStarted1, false}, Case{Recorded::kRetry, false},
        Case{Recorded::kSuccess, false}, Case{Recorded::kFailure, false},
        Case{Recorded::kAbandoned, false}}) {
    SCOPED_TRACE(Name(c.recorded));
    const std::string id =
        Id(absl::StrCat("task", static_cast<int>(c.recorded)));
    Arrange(id, c.recorded);
    const auto before = Get(id);
    const TaskState failure = Abandonment(id, "link \"b\" failed: {x}");
    EXPECT_EQ(Abandon(failure), c.abandoned);
    EXPECT_EQ(Get(id), c.abandoned ? failure : before);
    EXPECT_EQ(Abandon(failure), c.abandoned) << "a repeat answers the same";
  }
}

TEST_P(BackendTest, AnAbandonedTaskIsFinal) {
  const std::string id = Id("task");
  Arrange(id, Recorded::kPending);
  const TaskState failure = Abandonment(id, "gone");
  Abandon(failure);
  EXPECT_EQ(Begin(id, 1, "run").recorded, failure);
  EXPECT_EQ(Finish(Outcome(id, Status::kSuccess, 1, "run")).recorded, failure);
  EXPECT_EQ(Continue(id).recorded, failure);
  EXPECT_FALSE(TakeBack({id}, "nonce"));
  EXPECT_EQ(Get(id), failure);
}

TEST_P(BackendTest, CancelEndsWhatIsNotFinal) {
  struct Case {
    Recorded recorded;
    CancelAnswer::Kind answer;
  };
  using A = CancelAnswer;
  for (const Case& c : {Case{Recorded::kNothing, A::kUnknown},
                        Case{Recorded::kPending, A::kCancelled},
                        Case{Recorded::kStarted1, A::kRunning},
                        Case{Recorded::kRetry, A::kCancelled},
                        Case{Recorded::kSuccess, A::kFinal},
                        Case{Recorded::kFailure, A::kFinal},
                        Case{Recorded::kAbandoned, A::kFinal}}) {
    SCOPED_TRACE(Name(c.recorded));
    const std::string id =
        Id(absl::StrCat("task", static_cast<int>(c.recorded)));
    Arrange(id, c.recorded);
    const auto before = Get(id);
    const TaskState cancelled = Cancellation(id, "cancelled: \"by\" {me}");
    const CancelAnswer answer = Cancel(cancelled);
    EXPECT_EQ(answer.kind, c.answer);
    if (c.answer == A::kUnknown || c.answer == A::kFinal) {
      EXPECT_EQ(Get(id), before);
      continue;
    }
    EXPECT_EQ(Get(id), cancelled);
    EXPECT_EQ(answer.recorded, cancelled);
    EXPECT_EQ(Cancel(cancelled).kind, A::kCancelled)
        << "a repeat of the same cancellation is no other one";
    EXPECT_EQ(Cancel(Cancellation(id, "another", "run-c2")).kind, A::kFinal);
  }
}

TEST_P(BackendTest, ACancelledTaskIsFinal) {
  const std::string id = Id("task");
  Arrange(id, Recorded::kStarted1);
  const TaskState cancelled = Cancellation(id, "cancelled: enough");
  Cancel(cancelled);
  EXPECT_EQ(Finish(Outcome(id, Status::kSuccess, 1, "run-1")).recorded,
            cancelled);
  EXPECT_EQ(Begin(id, 2, "run").recorded, cancelled);
  EXPECT_EQ(Continue(id).recorded, cancelled);
  EXPECT_FALSE(Abandon(Abandonment(id, "link a failed")));
  EXPECT_EQ(Get(id), cancelled);
}

TEST_P(BackendTest, ACancelledTaskStaysSoWhenItsStateHasExpired) {
  const std::string id = Id("task");
  Arrange(id, Recorded::kPending);
  const TaskState cancelled = Cancellation(id, "cancelled: enough");
  Cancel(cancelled, absl::Seconds(1));
  const absl::Time limit = absl::Now() + kHang;
  while (Get(id).has_value() && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  const BeginAnswer answer = Begin(id, 1, "late");
  EXPECT_EQ(answer.kind, BeginAnswer::kFinal);
  EXPECT_EQ(answer.recorded, cancelled);
}

TEST_P(BackendTest, ARequestIsItsClaimantsUntilItEnds) {
  using A = RequestAnswer;
  const std::string id = Id("request");
  const auto claim = [&](const std::string& hash, const std::string& nonce,
                         int64_t ms, absl::Duration lease = absl::Hours(1)) {
    auto answer = Await<RequestAnswer>([&](auto done) {
      backend_->ClaimRequest({.request_id = id,
                              .payload_hash = hash,
                              .nonce = nonce,
                              .time = Ms(ms) + absl::Nanoseconds(7),
                              .lease = lease,
                              .window = absl::Hours(1)},
                             std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(RequestAnswer{});
  };
  const auto end = [&](const std::string& nonce, RequestEnd how) {
    EXPECT_TRUE(AwaitDone([&](auto done) {
                  backend_->EndRequest(id, nonce, how, std::move(done));
                }).ok());
  };
  const RequestAnswer first = claim("hash", "n1", 1'000);
  EXPECT_EQ(first.kind, A::kOwned);
  EXPECT_EQ(first.nonce, "n1");
  EXPECT_EQ(first.time, Ms(1'000) + absl::Nanoseconds(7));
  EXPECT_EQ(claim("hash", "n1", 1'000).kind, A::kOwned) << "a lost reply";
  EXPECT_EQ(claim("hash", "n2", 2'000).kind, A::kBusy);
  EXPECT_EQ(claim("other", "n2", 2'000).kind, A::kTaken);
  end("n2", RequestEnd::kAccepted);  // not its claimant
  EXPECT_EQ(claim("hash", "n2", 2'000).kind, A::kBusy);

  end("n1", RequestEnd::kRefused);
  const RequestAnswer second = claim("hash", "n3", 3'000);
  EXPECT_EQ(second.kind, A::kOwned);
  EXPECT_EQ(second.time, Ms(3'000) + absl::Nanoseconds(7));
  end("n3", RequestEnd::kOpen);
  const RequestAnswer third = claim("hash", "n4", 4'000, absl::ZeroDuration());
  EXPECT_EQ(third.kind, A::kOwned);
  EXPECT_EQ(third.time, second.time) << "delays count from the first claim";
  EXPECT_EQ(claim("hash", "n5", 5'000).kind, A::kOwned) << "the lease is over";
  end("n4", RequestEnd::kAccepted);  // too late
  end("n5", RequestEnd::kAccepted);
  end("n5", RequestEnd::kRefused);  // a repeat changes nothing
  const RequestAnswer done = claim("hash", "n6", 6'000);
  EXPECT_EQ(done.kind, A::kDone);
  EXPECT_EQ(done.time, second.time);
}

// ---- schedules
// -------------------------------------------------------------

TEST_P(BackendTest, AScheduleIsKeptUnlessAnotherStands) {
  ScheduleRecord record = Scheduled(Id("schedule"));
  ScheduleRecord bare = record;
  bare.call.clear();
  EXPECT_EQ(CreateSchedule(record), bare);
  EXPECT_EQ(GetSchedule(record.name), record);
  ScheduleRecord other = record;
  other.nonce = "other";
  other.cron_spec = "@daily";
  other.call = "other";
  EXPECT_EQ(CreateSchedule(other), bare);
  EXPECT_EQ(GetSchedule(record.name), record);
  EXPECT_EQ(GetSchedule(Id("unknown")), std::nullopt);

  EXPECT_EQ(DeleteSchedule(record.name), bare);
  EXPECT_EQ(DeleteSchedule(record.name), std::nullopt);
  EXPECT_EQ(GetSchedule(record.name), std::nullopt);
  other.call.clear();
  EXPECT_EQ(CreateSchedule(other), other);
  DeleteSchedule(record.name);
}

TEST_P(BackendTest, SchedulesAreListedInTheOrderOfTheirNames) {
  const std::string prefix = Id("list");
  for (const char* name : {"-c", "-a", "-b"}) {
    CreateSchedule(Scheduled(prefix + name));
  }
  const auto names = [&](const std::string& after, int limit) {
    auto found = Await<std::vector<ScheduleRecord>>([&](auto done) {
      backend_->ListSchedules(after, limit, false, std::move(done));
    });
    EXPECT_TRUE(found.ok()) << found.status();
    std::vector<std::string> names;
    for (const ScheduleRecord& record : *found) {
      EXPECT_EQ(record.call, "");
      names.push_back(record.name.substr(prefix.size()));
    }
    return names;
  };
  EXPECT_THAT(names(prefix, 2), ElementsAre("-a", "-b"));
  EXPECT_THAT(names(prefix + "-a", 2), ElementsAre("-b", "-c"));
  EXPECT_THAT(names(prefix + "-aa", 1), ElementsAre("-b"));
  auto full = Await<std::vector<ScheduleRecord>>([&](auto done) {
    backend_->ListSchedules(prefix, 1, true, std::move(done));
  });
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_THAT(*full, ElementsAre(Scheduled(prefix + "-a")));
  for (const char* name : {"-c", "-a", "-b"}) DeleteSchedule(prefix + name);
}

TEST_P(BackendTest, ATickIsLeasedOnceAndEndsOnce) {
  ScheduleRecord record = Scheduled(Id("schedule"));
  const absl::Time now = absl::FromUnixSeconds(absl::ToUnixSeconds(
      environment_->Now()));
  record.next_tick = now - absl::Seconds(1);
  CreateSchedule(record);
  auto leased = LeaseSchedules();
  ASSERT_EQ(leased.due.size(), 1);
  EXPECT_EQ(leased.due[0].record, record);
  EXPECT_TRUE(leased.due[0].run);
  EXPECT_GT(leased.next_due, leased.now) << "the end of its lease";
  EXPECT_THAT(LeaseSchedules().due, ::testing::IsEmpty()) << "it is leased";

  const ScheduleRun run{
      .tick = record.next_tick, .task_id = "task", .group_id = "group"};
  ScheduleTick tick{.name = record.name,
                    .nonce = record.nonce,
                    .tick = record.next_tick,
                    .next_tick = now + absl::Hours(1),
                    .visit = now + absl::Hours(1),
                    .last_error = "trouble",
                    .run = run};
  ScheduleTick others = tick;
  others.nonce = "other";
  EndTick(others);
  EXPECT_EQ(GetSchedule(record.name), record) << "it is another's";
  EndTick(tick);
  ScheduleRecord after = record;
  after.last_tick = record.next_tick;
  after.next_tick = tick.next_tick;
  after.last_error = "trouble";
  after.last_run = run;
  EXPECT_EQ(GetSchedule(record.name), after);
  tick.last_error = "late";
  tick.next_tick = now;
  EndTick(tick);  // of a tick that is over
  EXPECT_EQ(GetSchedule(record.name), after);
  leased = LeaseSchedules();
  EXPECT_THAT(leased.due, ::testing::IsEmpty());
  EXPECT_EQ(leased.next_due, after.next_tick);

  // One that is skipped, or to be tried again, is not the last one.
  EndTick({.name = record.name,
           .nonce = record.nonce,
           .tick = after.next_tick,
           .next_tick = after.next_tick,
           .visit = now,
           .skipped = true,
           .last_error = "again"});
  after.last_error = "again";
  leased = LeaseSchedules();
  ASSERT_EQ(leased.due.size(), 1);
  EXPECT_EQ(leased.due[0].record, after);
  DeleteSchedule(record.name);
}

TEST_P(BackendTest, AMissedTickIsRunOnlyIfAskedForOrBegun) {
  const absl::Time now = absl::FromUnixSeconds(absl::ToUnixSeconds(
      environment_->Now()));
  ScheduleRecord skips = Scheduled(Id("skips"));
  skips.next_tick = now - absl::Hours(1);
  ScheduleRecord runs = Scheduled(Id("runs"));
  runs.next_tick = skips.next_tick;
  runs.run_missed = true;
  CreateSchedule(skips);
  CreateSchedule(runs);
  const auto lease = [&](absl::Duration grace) {
    std::map<std::string, bool> run;
    for (const LeasedSchedule& due :
         LeaseSchedules(absl::ZeroDuration(), grace).due) {
      run[due.record.name] = due.run;
    }
    return run;
  };
  using ::testing::Pair;
  using ::testing::UnorderedElementsAre;
  EXPECT_THAT(lease(absl::Minutes(59)),
              UnorderedElementsAre(Pair(skips.name, false),
                                   Pair(runs.name, true)));
  EXPECT_THAT(lease(absl::Minutes(61)),
              UnorderedElementsAre(Pair(skips.name, true),
                                   Pair(runs.name, true)));
  EXPECT_THAT(lease(absl::Minutes(1)),
              UnorderedElementsAre(Pair(skips.name, true),
                                   Pair(runs.name, true)))
      << "it was begun in time";
  EndTick({.name = skips.name,
           .nonce = skips.nonce,
           .tick = skips.next_tick,
           .next_tick = skips.next_tick + absl::Minutes(1),
           .visit = now});
  EXPECT_FALSE(lease(absl::Minutes(1))[skips.name]) << "the next one was not";
  DeleteSchedule(skips.name);
  DeleteSchedule(runs.name);
}

TEST_P(BackendTest, APausedScheduleIsNotLeasedAndGoesOnWhereItIsTold) {
  const absl::Time now = absl::FromUnixSeconds(absl::ToUnixSeconds(
      environment_->Now()));
  ScheduleRecord record = Scheduled(Id("schedule"));
  record.next_tick = now - absl::Seconds(1);
  CreateSchedule(record);
  record.call.clear();
  const auto pause = [&](bool paused, absl::Time next) {
    auto found = Await<std::optional<ScheduleRecord>>([&](auto done) {
      backend_->PauseSchedule(record.name, paused, next, std::move(done));
    });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(std::nullopt);
  };
  EXPECT_EQ(pause(false, now), record) << "it is not paused";
  record.paused = true;
  EXPECT_EQ(pause(true, now), record);
  EXPECT_EQ(pause(true, now), record) << "a repeat";
  EXPECT_THAT(LeaseSchedules().due, ::testing::IsEmpty());
  // The end of a tick that was under way leaves it paused.
  EndTick({.name = record.name,
           .nonce = record.nonce,
           .tick = record.next_tick,
           .next_tick = now,
           .visit = now});
  EXPECT_THAT(LeaseSchedules().due, ::testing::IsEmpty());

  record.paused = false;
  record.last_tick = record.next_tick;
  record.next_tick = now - absl::Seconds(2);
  EXPECT_EQ(pause(false, record.next_tick), record);
  EXPECT_EQ(pause(false, now), record) << "a repeat";
  EXPECT_THAT(LeaseSchedules().due, ::testing::SizeIs(1));
  DeleteSchedule(record.name);
  record.name = Id("unknown");
  EXPECT_EQ(pause(true, now), std::nullopt);
}

// ---- reads, times to live
// -------------------------------------------------------

TEST_P(BackendTest, ManyStatesComeInRequestOrder) {
  std::vector<PendingRequest> requests;
  std::vector<std::string> ids;
  for (int i = 0; i < 1'201; ++i) {
    ids.push_back(Id(absl::StrCat("task", i)));
    if (i % 3 == 0) continue;
    requests.push_back({.state = State(ids.back(), Status::kPending),
                        .payload_hash = "hash",
                        .nonce = "nonce",
                        .ttl = kTtl});
  }
  ASSERT_TRUE(Await<std::vector<PendingAnswer>>([&](auto done) {
                backend_->CreatePending(std::move(requests), std::move(done));
              }).ok());
  const auto states = GetStates(ids);
  ASSERT_EQ(states.size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(states[i].has_value(), i % 3 != 0) << i;
    if (states[i].has_value()) {
      EXPECT_EQ(states[i]->task_id, ids[i]);
    }
  }
}

TEST_P(BackendTest, AStateExpiresUnlessItIsRefreshed) {
  // `all` and `begun` are refreshed, the one with kAll, the other as what has
  // not begun: only the first may live on. `fresh` is pending and refreshed so.
  const std::string all = Id("all");
  const std::string begun = Id("begun");
  const std::string fresh = Id("fresh");
  const std::string left = Id("left");
  const absl::Duration shortly = absl::Seconds(3);
  for (const std::string& id : {all, begun, fresh, left}) {
    CreatePending(id, "hash", "nonce", shortly);
  }
  for (const std::string& id : {all, begun}) {
    ASSERT_TRUE(Await<BeginAnswer>([&](auto done) {
                  backend_->Begin({.started = Started(id, 1, "run"),
                                   .ttl = shortly,
                                   .final_ttl = shortly,
                                   .max_begins = 1},
                                  std::move(done));
                }).ok());
  }
  using Which = Backend::RefreshWhich;
  auto refresh = [&](std::vector<std::string> ids, Which which) {
    ASSERT_TRUE(AwaitDone([&](auto done) {
                  backend_->Refresh(std::move(ids), which, kTtl, kFinalTtl,
                                    std::move(done));
                }).ok());
  };
  refresh({all}, Which::kAll);
  refresh({begun, fresh, Id("unknown")}, Which::kNotBegun);
  const absl::Time limit = absl::Now() + kHang;
  while ((Get(left).has_value() || Get(begun).has_value()) &&
         absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(Get(left), std::nullopt);
  EXPECT_EQ(Get(begun), std::nullopt);
  EXPECT_EQ(StatusOf(all), Status::kStarted);
  EXPECT_EQ(StatusOf(fresh), Status::kPending);
  // The claim on the id lives on with the state.
  EXPECT_EQ(CreatePending(fresh, "hash", "other"), PendingAnswer::kRepeat);
}

TEST_P(BackendTest, AnExpiredIdIsFreeAgain) {
  const std::string id = Id("task");
  CreatePending(id, "hash", "nonce", absl::Seconds(1));
  const absl::Time limit = absl::Now() + kHang;
  while (Get(id).has_value() && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_EQ(CreatePending(id, "different", "other"), PendingAnswer::kCreated);
}

// ---- groups and chains
// ------------------------------------------------------------

TEST_P(BackendTest, AGroupsRecordIsReadBackAsItWasCreated) {
  const WorkflowRecord record = Group(Id("group"));
  EXPECT_EQ(CreateRecord(record), PendingAnswer::kCreated);
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, record.id), record);
  EXPECT_EQ(GetMeta(record.id), (GroupMeta{.group_id = record.id,
                                           .task_ids = record.task_ids,
                                           .create_time = record.create_time}));
  EXPECT_EQ(GetRecord(WorkflowRecord::kChain, record.id), std::nullopt);
}

TEST_P(BackendTest, AChainsRecordHasNoMeta) {
  WorkflowRecord record = Group(Id("first-link"));
  record.kind = WorkflowRecord::kChain;
  record.callback = record.on_failure = "";
  EXPECT_EQ(CreateRecord(record), PendingAnswer::kCreated);
  EXPECT_EQ(GetRecord(WorkflowRecord::kChain, record.id), record);
  EXPECT_EQ(GetMeta(record.id), std::nullopt);
}

TEST_P(BackendTest, UnknownRecordsAreNotThere) {
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, Id("none")), std::nullopt);
  EXPECT_EQ(GetMeta(Id("none")), std::nullopt);
  EXPECT_FALSE(Mark(WorkflowRecord::kGroup, Id("none"), RecordMark::kSent));
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, Id("none")), std::nullopt);
  EXPECT_EQ(Claim(Id("none"), "token"), ClaimAnswer::kRefused);
}

TEST_P(BackendTest, ARecordIsCreatedOnce) {
  const WorkflowRecord record = Group(Id("group"));
  CreateRecord(record);
  EXPECT_EQ(CreateRecord(record), PendingAnswer::kCreated) << "a repeat";
  WorkflowRecord equal = record;
  equal.nonce = "other";
  EXPECT_EQ(CreateRecord(equal), PendingAnswer::kRepeat);
  WorkflowRecord different = equal;
  different.payload_hash = "different";
  EXPECT_EQ(CreateRecord(different), PendingAnswer::kTaken);
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, record.id), record);
}

TEST_P(BackendTest, MarksOfARecordStay) {
  WorkflowRecord record = Group(Id("group"));
  CreateRecord(record);
  constexpr auto kGroup = WorkflowRecord::kGroup;
  EXPECT_TRUE(Mark(kGroup, record.id, RecordMark::kSubmitted));
  record.submitted = true;
  EXPECT_EQ(GetRecord(kGroup, record.id), record);
  EXPECT_TRUE(Mark(kGroup, record.id, RecordMark::kBurntSeen, Ms(5'000)));
  EXPECT_TRUE(Mark(kGroup, record.id, RecordMark::kBurntSeen, Ms(9'000)));
  record.burnt_time = Ms(5'000);  // the first time it was seen
  EXPECT_EQ(GetRecord(kGroup, record.id), record);
  EXPECT_TRUE(Mark(kGroup, record.id, RecordMark::kSent));
  EXPECT_TRUE(Mark(kGroup, record.id, RecordMark::kSent)) << "a repeat";
  record.sent = true;
  EXPECT_EQ(GetRecord(kGroup, record.id), record);
}

TEST_P(BackendTest, OnlyItsSubmissionRemovesARecord) {
  ASSERT_TRUE(OpenAlone());
  const WorkflowRecord record = Group(Id("group"));
  CreateRecord(record, Ms(1'000));
  RemoveRecord(record.id, "other");
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, record.id), record);
  RemoveRecord(record.id, "nonce");
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, record.id), std::nullopt);
  EXPECT_EQ(GetMeta(record.id), std::nullopt);
  EXPECT_TRUE(LeaseOpen(Ms(2'000), Ms(3'000)).empty());
  RemoveRecord(record.id, "nonce");  // a repeat does no harm
  WorkflowRecord other = record;
  other.payload_hash = "different";
  EXPECT_EQ(CreateRecord(other), PendingAnswer::kCreated);
}

TEST_P(BackendTest, AChordIsClaimedOnce) {
  WorkflowRecord record = Group(Id("group"));
  CreateRecord(record);
  EXPECT_EQ(Claim(record.id, "mine", Ms(7'000)), ClaimAnswer::kWon);
  EXPECT_EQ(Claim(record.id, "mine", Ms(8'000)), ClaimAnswer::kWon)
      << "a repeat with the same token wins again";
  EXPECT_EQ(Claim(record.id, "theirs"), ClaimAnswer::kRefused);
  record.claim_time = Ms(7'000);
  record.chord_triggered = true;
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, record.id), record);
  const auto meta = GetMeta(record.id);
  ASSERT_TRUE(meta.has_value());
  EXPECT_TRUE(meta->chord_triggered);
  EXPECT_EQ(meta->task_ids, record.task_ids);
}

TEST_P(BackendTest, OpenEntriesAreVisitedWhenDue) {
  ASSERT_TRUE(OpenAlone());
  const WorkflowRecord group = Group(Id("group"));
  WorkflowRecord chain = Group(Id("chain"));
  chain.kind = WorkflowRecord::kChain;
  CreateRecord(group, Ms(1'000));
  CreateRecord(chain, Ms(2'000));
  const OpenEntry group_entry{WorkflowRecord::kGroup, group.id,
                              group.create_time};
  const OpenEntry chain_entry{WorkflowRecord::kChain, chain.id,
                              chain.create_time};
  EXPECT_THAT(LeaseOpen(Ms(999), Ms(5'000)), ElementsAre());
  EXPECT_THAT(LeaseOpen(Ms(1'000), Ms(5'000)), ElementsAre(group_entry));
  EXPECT_THAT(LeaseOpen(Ms(4'999), Ms(5'000)), ElementsAre(chain_entry));
  EXPECT_THAT(LeaseOpen(Ms(4'999), Ms(5'000)), ElementsAre());
  // A repeated creation makes no second entry and does not hasten its visit.
  CreateRecord(group, Ms(1'000));
  EXPECT_THAT(LeaseOpen(Ms(4'999), Ms(5'000)), ElementsAre());
  EXPECT_THAT(LeaseOpen(Ms(5'000), Ms(6'000)),
              ElementsAre(chain_entry, group_entry));
  for (const OpenEntry& entry : {group_entry, group_entry}) {
    EXPECT_TRUE(AwaitDone([&](auto done) {
                  backend_->CloseOpen(entry, kFinalTtl, std::move(done));
                }).ok());
  }
  EXPECT_THAT(LeaseOpen(Ms(6'000), Ms(7'000)), ElementsAre(chain_entry));
  // Its record stays.
  EXPECT_EQ(GetRecord(WorkflowRecord::kGroup, group.id), group);
  EXPECT_TRUE(AwaitDone([&](auto done) {
                backend_->CloseOpen(chain_entry, kFinalTtl, std::move(done));
              }).ok());
}

TEST_P(BackendTest, WhoClosesAnEntryThatWasOpenedAgainIsTooLate) {
  ASSERT_TRUE(OpenAlone());
  WorkflowRecord first = Group(Id("group"));
  first.create_time = Ms(1'000);
  CreateRecord(first, Ms(1'000));
  WorkflowRecord again = first;
  again.create_time = Ms(9'000);
  again.nonce = "again";
  EXPECT_EQ(CreateRecord(again, Ms(9'000)), PendingAnswer::kRepeat);
  const OpenEntry older{WorkflowRecord::kGroup, first.id, first.create_time};
  const OpenEntry newer{WorkflowRecord::kGroup, first.id, again.create_time};
  EXPECT_TRUE(AwaitDone([&](auto done) {
                backend_->CloseOpen(older, kFinalTtl, std::move(done));
              }).ok());
  EXPECT_THAT(LeaseOpen(Ms(1'000), Ms(2'000)), ElementsAre(newer));
  EXPECT_TRUE(AwaitDone([&](auto done) {
                backend_->CloseOpen(newer, kFinalTtl, std::move(done));
              }).ok());
  EXPECT_THAT(LeaseOpen(Ms(2'000), Ms(3'000)), ElementsAre());
}

TEST_P(BackendTest, OpenEntriesAreLeasedUpToTheLimit) {
  ASSERT_TRUE(OpenAlone());
  for (int i = 0; i < 5; ++i) {
    // Before anything that another test may have left.
    CreateRecord(Group(Id(absl::StrCat("group", i))), Ms(i));
  }
  EXPECT_EQ(LeaseOpen(Ms(10), Ms(100), 2).size(), 2);
  EXPECT_EQ(LeaseOpen(Ms(10), Ms(100), 2).size(), 2);
  EXPECT_EQ(LeaseOpen(Ms(10), Ms(100), 2).size(), 1);
  EXPECT_EQ(LeaseOpen(Ms(10), Ms(100), 2).size(), 0);
  for (int i = 0; i < 5; ++i) {
    RemoveRecord(Id(absl::StrCat("group", i)), "nonce");
  }
}

// ---- delayed tasks
// ------------------------------------------------------------------

TEST_P(BackendTest, DueTasksAreLeasedOldestFirstAndOnce) {
  DelayedTask second = Delayed(Id("second"), Ms(2'000), 3);
  second.body = "line\nline\r\n\"\\ 12 7\n";
  second.routing_key = "key with space\n";
  second.queue = "machinery_tasks";
  second.priority = 255;
  const DelayedTask first = Delayed(Id("first"), Ms(1'001));
  DelayedTask empty = Delayed(Id("third"), Ms(3'000));
  empty.body = empty.routing_key = "";
  Lay(second);
  Lay(empty);
  Lay(first);
  const LeasedBatch batch = LeaseDue();
  ASSERT_EQ(batch.tasks.size(), 3);
  EXPECT_EQ(batch.tasks[0].task, first);
  EXPECT_EQ(batch.tasks[1].task, second);
  EXPECT_EQ(batch.tasks[2].task, empty);
  EXPECT_EQ(LeaseDue().tasks.size(), 0) << "they are leased";
}

TEST_P(BackendTest, WhatIsNotDueIsNotLeasedButAnnounced) {
  EXPECT_EQ(LeaseDue().next_due, std::nullopt);
  const absl::Time due = Ms(absl::ToUnixMillis(absl::Now()) + 3'600'000);
  Lay(Delayed(Id("later"), due + absl::Hours(1)));
  Lay(Delayed(Id("soon"), due));
  const LeasedBatch batch = LeaseDue();
  EXPECT_EQ(batch.tasks.size(), 0);
  EXPECT_EQ(batch.next_due, due);
}

TEST_P(BackendTest, LeasesAreLimited) {
  for (int i = 0; i < 5; ++i) {
    Lay(Delayed(Id(absl::StrCat("task", i)), Ms(1'000 + i)));
  }
  const LeasedBatch batch = LeaseDue(/*limit=*/2);
  ASSERT_EQ(batch.tasks.size(), 2);
  EXPECT_EQ(batch.tasks[0].task.task_id, Id("task0"));
  EXPECT_EQ(batch.tasks[1].task.task_id, Id("task1"));
  EXPECT_EQ(LeaseDue(/*limit=*/1'000'000).tasks.size(), 3);
}

TEST_P(BackendTest, ALeaseThatRunsOutIsLeasedAgain) {
  const DelayedTask task = Delayed(Id("task"), Ms(1'000));
  Lay(task);
  ASSERT_EQ(LeaseDue(100, absl::Milliseconds(1)).tasks.size(), 1);
  const absl::Time limit = absl::Now() + kHang;
  LeasedBatch again;
  while (again.tasks.empty() && absl::Now() < limit) again = LeaseDue();
  ASSERT_EQ(again.tasks.size(), 1);
  EXPECT_EQ(again.tasks[0].task, task);
}

TEST_P(BackendTest, ARemovedTaskIsGone) {
  Lay(Delayed(Id("task"), Ms(1'000)));
  const LeasedBatch batch = LeaseDue();
  ASSERT_EQ(batch.tasks.size(), 1);
  RemoveLeased(batch.tasks[0]);
  RemoveLeased(batch.tasks[0]);  // a repeat does no harm
  EXPECT_EQ(LeaseDue().next_due, std::nullopt);
}

TEST_P(BackendTest, OfManyRemovalsAtOnceEachCountsForItself) {
  constexpr int kTasks = 500;
  for (int i = 0; i < kTasks; ++i) {
    Lay(Delayed(Id(absl::StrCat("task", i)), Ms(1'000)));
  }
  const LeasedBatch batch = LeaseDue(kTasks);
  ASSERT_EQ(batch.tasks.size(), static_cast<size_t>(kTasks));
  const DelayedTask again = Delayed(Id("task77"), Ms(2'000), 2);
  Lay(again);
  absl::BlockingCounter removed(kTasks);
  for (const LeasedTask& leased : batch.tasks) {
    backend_->RemoveLeased(leased, [&](absl::Status status) {
      EXPECT_TRUE(status.ok()) << status;
      removed.DecrementCount();
    });
  }
  removed.Wait();
  const LeasedBatch rest = LeaseDue(kTasks);
  ASSERT_EQ(rest.tasks.size(), 1);
  EXPECT_EQ(rest.tasks[0].task, again);
  RemoveLeased(rest.tasks[0]);
  EXPECT_EQ(LeaseDue().next_due, std::nullopt);
}

TEST_P(BackendTest, ADelayedTaskIsFoundByItsIdAndMayBeRemoved) {
  const DelayedTask task = Delayed(Id("task"), Ms(1'000));
  Lay(task);
  auto get = [&](const std::string& id) {
    auto found = Await<std::optional<LeasedTask>>(
        [&](auto done) { backend_->GetDelayed(id, std::move(done)); });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(std::nullopt);
  };
  EXPECT_FALSE(get(Id("other")).has_value());
  const std::optional<LeasedTask> found = get(task.task_id);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->task, task);
  LeaseDue();  // a mover takes it on: what was found is another lease
  RemoveLeased(*found);
  ASSERT_TRUE(get(task.task_id).has_value());
  RemoveLeased(*get(task.task_id));
  EXPECT_FALSE(get(task.task_id).has_value());
}

TEST_P(BackendTest, ATaskThatWasLaidAgainIsNotRemovedByAnOldLease) {
  const std::string id = Id("task");
  Lay(Delayed(id, Ms(1'000), 1));
  const LeasedBatch batch = LeaseDue();
  ASSERT_EQ(batch.tasks.size(), 1);
  const DelayedTask again = Delayed(id, Ms(2'000), 2);
  Lay(again);
  RemoveLeased(batch.tasks[0]);
  const LeasedBatch second = LeaseDue();
  ASSERT_EQ(second.tasks.size(), 1);
  EXPECT_EQ(second.tasks[0].task, again);
}

TEST_P(BackendTest, ATaskThatAnotherMoverHasLeasedIsNotRemoved) {
  Lay(Delayed(Id("task"), Ms(1'000)));
  const LeasedBatch first = LeaseDue(100, absl::Milliseconds(1));
  ASSERT_EQ(first.tasks.size(), 1);
  const absl::Time limit = absl::Now() + kHang;
  LeasedBatch second;
  while (second.tasks.empty() && absl::Now() < limit) second = LeaseDue();
  ASSERT_EQ(second.tasks.size(), 1);
  RemoveLeased(first.tasks[0]);
  EXPECT_EQ(LeaseDue().next_due, Ms((second.tasks[0].lease + 1) / 2));
  RemoveLeased(second.tasks[0]);
  EXPECT_EQ(LeaseDue().next_due, std::nullopt);
}

TEST_P(BackendTest, ATaskLaidAgainWithADueTimeEqualToTheLeaseStays) {
  const std::string id = Id("task");
  Lay(Delayed(id, Ms(1'000), 1));
  const LeasedBatch batch = LeaseDue();
  ASSERT_EQ(batch.tasks.size(), 1);
  // Of the same attempt: a task whose name a worker did not know.
  const absl::Time due = Ms(batch.tasks[0].lease / 2);
  Lay(Delayed(id, due, 1));
  RemoveLeased(batch.tasks[0]);
  EXPECT_EQ(LeaseDue().next_due, due);
  const absl::Time later = Ms((batch.tasks[0].lease + 1) / 2);
  Lay(Delayed(id, later, 1));
  RemoveLeased(batch.tasks[0]);
  EXPECT_EQ(LeaseDue().next_due, later);
}

TEST_P(BackendTest, LayReplacesTheTaskOfTheSameId) {
  const std::string id = Id("task");
  Lay(Delayed(id, Ms(1'000), 1));
  const DelayedTask replaced = Delayed(id, Ms(500), 2);
  Lay(replaced);
  const LeasedBatch batch = LeaseDue();
  ASSERT_EQ(batch.tasks.size(), 1);
  EXPECT_EQ(batch.tasks[0].task, replaced);
}

TEST_P(BackendTest, ADeadLetterIsReadBackAsItWasLaid) {
  const DeadTask dead = Dead(Id("task"), Ms(1'000));
  LayDead(dead);
  LayDead(dead);
  EXPECT_EQ(GetDead(dead.task_id), dead);
  EXPECT_EQ(GetDead(Id("other")), std::nullopt);
  DeadTask head = dead;
  head.body.clear();
  EXPECT_THAT(ListDead(), ElementsAre(head));
  EXPECT_EQ(RemoveDead(dead.task_id), head);
  EXPECT_EQ(RemoveDead(dead.task_id), std::nullopt);
  EXPECT_EQ(GetDead(dead.task_id), std::nullopt);
  EXPECT_TRUE(ListDead().empty());
}

TEST_P(BackendTest, DeadLettersAreListedNewestFirstPageByPage) {
  EXPECT_TRUE(ListDead().empty());
  LayDead(Dead("old", Ms(1'000)));
  for (const char* id : {"a", "b", "c"}) LayDead(Dead(id, Ms(2'000)));
  LayDead(Dead("new", Ms(3'000)));
  EXPECT_THAT(IdsOfDead(), ElementsAre("new", "c", "b", "a", "old"));
  EXPECT_THAT(IdsOfDead(2), ElementsAre("new", "c"));
  EXPECT_THAT(IdsOfDead(2, DeadPlace{Ms(2'000), "c"}), ElementsAre("b", "a"));
  EXPECT_THAT(IdsOfDead(2, DeadPlace{Ms(2'000), "a"}), ElementsAre("old"));
  EXPECT_TRUE(IdsOfDead(2, DeadPlace{Ms(1'000), "old"}).empty());
}

TEST_P(BackendTest, APageBeginsWhereTheLastOneEndedThoughThatIsGone) {
  for (const char* id : {"a", "b", "c"}) LayDead(Dead(id, Ms(2'000)));
  LayDead(Dead("old", Ms(1'000)));
  RemoveDead("b");
  EXPECT_THAT(IdsOfDead(9, DeadPlace{Ms(2'000), "b"}), ElementsAre("a", "old"));
  // Laid again since: it stands further in front.
  LayDead(Dead("c", Ms(5'000)));
  EXPECT_THAT(IdsOfDead(9, DeadPlace{Ms(2'000), "c"}), ElementsAre("a", "old"));
  EXPECT_THAT(IdsOfDead(), ElementsAre("c", "a", "old"));
}

TEST_P(BackendTest, ADeadLetterThatWasLaidAgainIsNotRemovedByItsOldTime) {
  LayDead(Dead("task", Ms(1'000)));
  LayDead(Dead("task", Ms(2'000)));
  EXPECT_EQ(RemoveDead("task", Ms(1'000)), std::nullopt);
  EXPECT_TRUE(GetDead("task").has_value());
  EXPECT_TRUE(RemoveDead("task", Ms(2'000)).has_value());
  EXPECT_FALSE(GetDead("task").has_value());
}

// ---- hints, and the shape of completion
// ------------------------------------------------

TEST_P(BackendTest, ANewStateIsHintedAt) {
  absl::Mutex mu;
  std::vector<std::string> hints;
  backend_->SubscribeHints([&](std::string_view id, std::string_view outcome) {
    absl::MutexLock lock(&mu);
    hints.emplace_back(id);
    if (outcome.empty()) return;
    const absl::StatusOr<TaskState> state = DecodeState(outcome);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(state->task_id, id);
    EXPECT_TRUE(IsFinal(state->status));
  });
  auto hinted = [&](const std::string& id, absl::Duration patience) {
    absl::MutexLock lock(&mu);
    auto seen = [&] {
      return std::find(hints.begin(), hints.end(), id) != hints.end();
    };
    return mu.AwaitWithTimeout(absl::Condition(&seen), patience);
  };
  backend_->WantHints(true);
  ASSERT_TRUE(hinted("", kHang));  // they come from here on
  Begin(Id("progress"), 1, "run");  // this one need not be told of
  {
    absl::MutexLock lock(&mu);
    hints.clear();
  }
  SetProgress(Id("progress"), "run", {.fraction = 0.5});
  EXPECT_TRUE(hinted(Id("progress"), kHang));
  Finish(Outcome(Id("finished"), Status::kSuccess, 1, "run"));
  EXPECT_TRUE(hinted(Id("finished"), kHang));
  Abandon(Abandonment(Id("abandoned"), "why"));
  EXPECT_TRUE(hinted(Id("abandoned"), kHang));
  backend_.reset();  // before what its subscriber uses
}

TEST_P(BackendTest, CallbacksRunOnAThreadOfTheBackend) {
  Awaited<std::thread::id> thread;
  backend_->Ping([callback = thread.callback()](absl::Status status) mutable {
    if (status.ok()) {
      std::move(callback)(std::this_thread::get_id());
    } else {
      std::move(callback)(status);
    }
  });
  const auto id = thread.Wait();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_NE(*id, std::this_thread::get_id());
}

}  // namespace
}  // namespace penstock
