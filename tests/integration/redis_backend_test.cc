// What is Redis' own about the result backend: the bytes that Go workers share
// (docs/wire-format.md section 5), what Go writes in between, and a server that
// restarts, hangs, refuses. It starts its own server.

#include "queue/redis/redis_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/errors.h"
#include "queue/redis/connection.h"
#include "tests/conformance/await.h"
#include "tests/support/servers.h"

namespace penstock {
namespace {

using ::penstock::testing::Await;
using ::penstock::testing::AwaitDone;
using ::penstock::testing::Awaited;
using ::penstock::testing::kHang;
using ::penstock::testing::RedisServer;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::Not;

constexpr absl::Duration kTtl = absl::Hours(2);
constexpr absl::Duration kFinalTtl = absl::Hours(1);

absl::Time Ms(int64_t ms) { return absl::FromUnixMillis(ms); }

// ---- the URL --------------------------------------------------------------

TEST(RedisUrlTest, ReadsEveryPart) {
  struct Case {
    const char* url;
    RedisAddress address;
  };
  const Case cases[] = {
      {"redis://localhost", {.host = "localhost"}},
      {"redis://localhost/", {.host = "localhost"}},
      {"redis://h:7000/3", {.host = "h", .port = 7000, .database = 3}},
      {"redis://secret@h", {.host = "h", .password = "secret"}},
      {"redis://:secret@h", {.host = "h", .password = "secret"}},
      {"redis://u:p:q@h:1",
       {.host = "h", .port = 1, .user = "u", .password = "p:q"}},
      {"redis://u:a@b@h", {.host = "h", .user = "u", .password = "a@b"}},
      {"redis://u:a%40%2Fb@h", {.host = "h", .user = "u", .password = "a@/b"}},
      {"redis://[::1]:7000/1", {.host = "::1", .port = 7000, .database = 1}},
      {"rediss://u:p@h:7000/3",
       {.host = "h",
        .port = 7000,
        .user = "u",
        .password = "p",
        .database = 3,
        .tls = TlsOptions()}},
      {"redis+socket:///run/redis.sock", {.socket_path = "/run/redis.sock"}},
      {"redis+socket://secret@/run/redis.sock:/3",
       {.password = "secret", .database = 3, .socket_path = "/run/redis.sock"}},
      {"redis+socket://a:b%40@/s", {.password = "a:b%40", .socket_path = "/s"}},
      {"redis+socket:///with@sign:/1",
       {.database = 1, .socket_path = "/with@sign"}},
  };
  for (const Case& c : cases) {
    const auto address = ParseRedisUrl(c.url, TlsOptions());
    ASSERT_TRUE(address.ok()) << c.url << ": " << address.status();
    EXPECT_EQ(*address, c.address) << c.url;
  }
}

TEST(RedisUrlTest, RefusesWhatItCannotServeWithoutShowingThePassword) {
  struct Case {
    const char* url;
    const char* message;
  };
  const Case cases[] = {
      {"http://secret@h", "must begin with redis://"},
      {"rediss://secret@", "names no host"},
      {"rediss://secret@a:1,b:2", "several hosts"},
      {"redis+socket://secret@", "expected redis+socket://"},
      {"redis+socket://secret@relative.sock", "expected redis+socket://"},
      {"redis+socket://secret@/x:3", "must be /database"},
      {"redis+socket://secret@/x:/three", "number of a database"},
      {"redis+socket://secret@/x:/-1", "number of a database"},
      {"redis://secret@", "names no host"},
      {"redis://secret@h:port", "port must be a number"},
      {"redis://secret@h:0", "port must be a number"},
      {"redis://secret@h:70000", "port must be a number"},
      {"redis://secret@h/name", "number of a database"},
      {"redis://secret@h/-1", "number of a database"},
      {"redis://secret@h/1?x=y", "parameters"},
      {"redis://secret@a:1,b:2", "several hosts"},
      {"redis://secret%zz@h", "hexadecimal"},
      {"redis://secret@[::1", "not closed"},
  };
  for (const Case& c : cases) {
    const absl::Status status = ParseRedisUrl(c.url, TlsOptions()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.url;
    EXPECT_THAT(status.ToString(), HasSubstr(c.message)) << c.url;
    EXPECT_THAT(status.ToString(), Not(HasSubstr("secret"))) << c.url;
  }
}

TEST(RedisUrlTest, RefusesASocketsPathThatTheKernelCannotTake) {
  const std::string longest = "/" + std::string(106, 'x');
  EXPECT_TRUE(ParseRedisUrl("redis+socket://" + longest, TlsOptions()).ok());
  EXPECT_THAT(ParseRedisUrl("redis+socket://" + longest + "x", TlsOptions())
                  .status()
                  .ToString(),
              HasSubstr("at most 107 bytes"));
}

TEST(RedisUrlTest, AnErrorNamesTheKeyThatHoldsTheUrl) {
  EXPECT_THAT(ParseRedisUrl("x", TlsOptions(), "broker").status().ToString(),
              HasSubstr("broker: it must begin"));
}

// ---- with a server ----------------------------------------------------------

class RedisBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status started = server_.Start();
    ASSERT_TRUE(started.ok()) << started;
    backend_ = Open(server_.url());
    ASSERT_NE(backend_, nullptr);
  }

  std::unique_ptr<Backend> Open(std::string url) {
    Options options;
    options.result_backend = std::move(url);
    options.amqp.exchange = "machinery_exchange";
    auto backend = OpenRedisBackend(options, environment_.get());
    EXPECT_TRUE(backend.ok()) << backend.status();
    return backend.ok() ? *std::move(backend) : nullptr;
  }

  // What redis-cli prints, without the line's end.
  std::string Cli(const std::vector<std::string>& words) {
    auto output = server_.Command(words);
    EXPECT_TRUE(output.ok()) << output.status();
    std::string text = output.value_or("");
    if (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  }

  int SecondsToLive(const std::string& key) {
    int seconds = -3;
    EXPECT_TRUE(absl::SimpleAtoi(Cli({"TTL", key}), &seconds));
    return seconds;
  }

  static TaskState Pending(std::string id) {
    return {.task_id = std::move(id),
            .task_name = "add",
            .status = Status::kPending,
            .create_time = absl::FromUnixNanos(1'700'000'000'123'456'789)};
  }

  static TaskState Started(std::string id, int attempt, std::string run) {
    return {.task_id = std::move(id),
            .status = Status::kStarted,
            .attempt = attempt,
            .run = std::move(run),
            .worker = "w"};
  }

  static TaskState Success(std::string id, int attempt, std::string run) {
    TaskState state = Started(std::move(id), attempt, std::move(run));
    state.status = Status::kSuccess;
    state.results = {{.type = "int64", .json = "3"}};
    state.results_null = false;
    return state;
  }

  static TaskState Retry(std::string id, int attempt, std::string run) {
    TaskState state = Started(std::move(id), attempt, std::move(run));
    state.status = Status::kRetry;
    state.next_attempt = attempt + 1;
    return state;
  }

  static TaskState Abandonment(std::string id, std::string error) {
    TaskState state = Pending(std::move(id));
    state.status = Status::kFailure;
    state.error = std::move(error);
    state.error_type = std::string(kErrorAbandoned);
    return state;
  }

  absl::StatusOr<PendingAnswer> TryCreate(const std::string& id,
                                          Backend* backend = nullptr) {
    if (backend == nullptr) backend = backend_.get();
    auto answers = Await<std::vector<PendingAnswer>>([&](auto done) {
      backend->CreatePending({{.state = Pending(id),
                               .payload_hash = "hash",
                               .nonce = "nonce",
                               .ttl = kTtl}},
                             std::move(done));
    });
    if (!answers.ok()) return answers.status();
    return answers->front();
  }

  absl::StatusOr<BeginAnswer> Begin(const std::string& id, int attempt,
                                    std::string run) {
    return Await<BeginAnswer>([&](auto done) {
      backend_->Begin({.started = Started(id, attempt, std::move(run)),
                       .ttl = kTtl,
                       .final_ttl = kFinalTtl,
                       .max_begins = 10},
                      std::move(done));
    });
  }

  std::optional<SeenPending> See(const std::string& id) {
    return Await<std::optional<SeenPending>>([&](auto done) {
             backend_->SeePending(id, std::move(done));
           }).value();
  }

  absl::StatusOr<FinishAnswer> Finish(TaskState outcome,
                                      SeenPending seen = {}) {
    return Await<FinishAnswer>([&](auto done) {
      backend_->Finish({.outcome = std::move(outcome),
                        .ttl = kTtl,
                        .final_ttl = kFinalTtl,
                        .seen = std::move(seen)},
                       std::move(done));
    });
  }

  absl::StatusOr<bool> Abandon(TaskState failure) {
    return Await<bool>([&](auto done) {
      backend_->Abandon(std::move(failure), kTtl, std::move(done));
    });
  }

  absl::StatusOr<std::vector<std::optional<TaskState>>> GetStates(
      std::vector<std::string> ids) {
    return Await<std::vector<std::optional<TaskState>>>(
        [&](auto done) { backend_->GetStates(ids, std::move(done)); });
  }

  absl::Status Ping(Backend* backend = nullptr) {
    if (backend == nullptr) backend = backend_.get();
    return AwaitDone([&](auto done) { backend->Ping(std::move(done)); });
  }

  // Until it works again: the connections come back by themselves.
  absl::Status PingUntilOk() {
    const absl::Time limit = absl::Now() + kHang;
    absl::Status status;
    do {
      status = Ping();
    } while (!status.ok() && absl::Now() < limit);
    return status;
  }

  static WorkflowRecord Group(std::string id) {
    return {.kind = WorkflowRecord::kGroup,
            .id = std::move(id),
            .task_ids = {"task_a", "task_b"},
            .callback = "{}",
            .payload_hash = "hash",
            .nonce = "nonce",
            .create_time = Ms(1'700'000'000'456)};
  }

  absl::StatusOr<PendingAnswer> CreateRecord(WorkflowRecord record) {
    return Await<PendingAnswer>([&](auto done) {
      backend_->CreateRecord(std::move(record), Ms(1'000), kTtl,
                             std::move(done));
    });
  }

  absl::StatusOr<ClaimAnswer> Claim(const std::string& id, std::string token) {
    return Await<ClaimAnswer>([&](auto done) {
      backend_->ClaimChord(id, std::move(token), Ms(7'000), kTtl,
                           std::move(done));
    });
  }

  const std::unique_ptr<Environment> environment_ = MakeSystemEnvironment();
  RedisServer server_;
  std::unique_ptr<Backend> backend_;
};

// What Go writes.
std::string GoState(const std::string& id, const std::string& state) {
  return absl::StrCat(R"({"TaskUUID":")", id,
                      R"(","TaskName":"go \"name\" \\","State":")", state,
                      R"(","Results":null,"Error":"",)"
                      R"("CreatedAt":"2026-11-21T23:18:35.5Z","TTL":0})");
}

// ---- bytes
// --------------------------------------------------------------------

TEST_F(RedisBackendTest, StatesAreMachinerysJsonWithATimeToLive) {
  ASSERT_EQ(TryCreate("task_x").value(), PendingAnswer::kCreated);
  EXPECT_EQ(Cli({"GET", "task_x"}),
            R"({"TaskUUID":"task_x","TaskName":"add","State":"PENDING",)"
            R"("Results":null,"Error":"",)"
            R"("CreatedAt":"2023-11-14T22:13:20.123456789Z","TTL":0})");
  EXPECT_THAT(SecondsToLive("task_x"), AllOf(Ge(7'100), Le(7'200)));
  EXPECT_EQ(Cli({"GET", "penstock:submit:{task_x}"}), "hash\nnonce\n2023-11-14T22:13:20.123456789Z");
  EXPECT_THAT(SecondsToLive("penstock:submit:{task_x}"),
              AllOf(Ge(7'100), Le(7'200)));

  ASSERT_EQ(Begin("task_x", 1, "run-1")->kind, BeginAnswer::kRun);
  ASSERT_EQ(Begin("task_x", 1, "run-2")->kind, BeginAnswer::kRun);
  EXPECT_EQ(Cli({"GET", "task_x"}),
            R"({"TaskUUID":"task_x","TaskName":"add","State":"STARTED",)"
            R"("Results":null,"Error":"",)"
            R"("CreatedAt":"2023-11-14T22:13:20.123456789Z","TTL":0,)"
            R"("Penstock":{"Attempt":1,"Run":"run-2","Begins":2,)"
            R"("Worker":"w"}})");

  ASSERT_EQ(Finish(Success("task_x", 1, "run-2"))->kind,
            FinishAnswer::kWritten);
  EXPECT_EQ(Cli({"GET", "task_x"}),
            R"({"TaskUUID":"task_x","TaskName":"add","State":"SUCCESS",)"
            R"("Results":[{"Type":"int64","Value":3}],"Error":"",)"
            R"("CreatedAt":"2023-11-14T22:13:20.123456789Z","TTL":0,)"
            R"("Penstock":{"Attempt":1,"Run":"run-2","Worker":"w"}})");
  EXPECT_THAT(SecondsToLive("task_x"), AllOf(Ge(3'500), Le(3'600)));
  // Its claim on the id lasts no longer than the result.
  EXPECT_THAT(SecondsToLive("penstock:submit:{task_x}"),
              AllOf(Ge(3'500), Le(3'600)));
}

// The submit key is written beside the state, not with it: whatever stands there
// counts only for the state that it was written for.
TEST_F(RedisBackendTest, AClaimExplainsOnlyItsOwnState) {
  const std::string key = "penstock:submit:{t}";
  // A Go client's state: what was laid beside it is taken away again.
  Cli({"SET", "t", GoState("t", "PENDING")});
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kTaken);
  EXPECT_EQ(Cli({"EXISTS", key}), "0");

  // A claim that outlived its state, with another one over it since.
  Cli({"SET", key, "hash\nnonce\n2020-01-01T00:00:00Z"});
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kTaken);
  EXPECT_FALSE(Await<bool>([&](auto done) {
                 backend_->TakeBack({"t"}, "nonce", std::move(done));
               }).value());

  // With none over it a new one takes its place.
  Cli({"DEL", "t"});
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
  EXPECT_EQ(Cli({"GET", key}), "hash\nnonce\n2023-11-14T22:13:20.123456789Z");
  EXPECT_THAT(SecondsToLive(key), AllOf(Ge(7'100), Le(7'200)));
}

TEST_F(RedisBackendTest, AClaimHoldsOnWhatGoWritesOver) {
  ASSERT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
  // Go keeps the create time, unless it could not read the state.
  for (const char* created :
       {"2023-11-14T22:13:20.123456789Z", "0001-01-01T00:00:00Z"}) {
    Cli({"SET", "t",
         absl::StrCat(R"({"TaskUUID":"t","TaskName":"add","State":"SUCCESS",)"
                      R"("Results":[{"Type":"map","Value":{"CreatedAt":"x"}}],)"
                      R"("Error":"","CreatedAt":")",
                      created, R"(","TTL":0})")});
    EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kPast);
  }
}

TEST_F(RedisBackendTest, AClaimOfAnOlderGatewayHolds) {
  ASSERT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
  Cli({"SET", "penstock:submit:{t}", "hash\nother"});
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kRepeat);
  Cli({"SET", "penstock:submit:{t}", "different\nother"});
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kTaken);
}

// A gateway that was lost after it wrote the state, beside the claim of an earlier
// one with this id.
TEST_F(RedisBackendTest, AnEqualCallsStateBesideAnOldClaimIsTakenUp) {
  ASSERT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
  const std::string key = "penstock:submit:{t}";
  const std::string text = absl::StrReplaceAll(
      Cli({"GET", "t"}), {{"2023-11-14T22:13:20.123456789Z", "2024-01-01T00:00:00Z"}});
  Cli({"SET", "t", text});
  Cli({"SET", key, "different\nold\n2020-01-01T00:00:00Z"});
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kTaken);
  Cli({"SET", key, "hash\nold\n2020-01-01T00:00:00Z"});
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kRepeat);
  EXPECT_EQ(Cli({"GET", "t"}), text);
  EXPECT_EQ(Cli({"GET", key}), "hash\nnonce\n2024-01-01T00:00:00Z");
}

TEST_F(RedisBackendTest, AnIdThatNobodyElseCanHaveGetsNoKeyButItsState) {
  auto answers = Await<std::vector<PendingAnswer>>([&](auto done) {
    backend_->CreatePending({{.state = Pending("t"), .nonce = "n", .ttl = kTtl}},
                            std::move(done));
  });
  EXPECT_THAT(answers.value(), ElementsAre(PendingAnswer::kCreated));
  EXPECT_EQ(Cli({"KEYS", "*"}), "t");
  EXPECT_THAT(SecondsToLive("t"), AllOf(Ge(7'100), Le(7'200)));
}

TEST_F(RedisBackendTest, ALongPipelineIsAnsweredInItsOrder) {
  Cli({"SET", "t3", GoState("t3", "PENDING")});
  Cli({"RPUSH", "t5", "a queue"});
  std::vector<PendingRequest> requests;
  std::vector<PendingAnswer> expected;
  for (int i = 0; i < 3'000; ++i) {
    requests.push_back({.state = Pending(absl::StrCat("t", i)),
                        .payload_hash = i % 2 == 0 ? "" : "hash",
                        .nonce = "nonce",
                        .ttl = kTtl});
    expected.push_back(i == 3 || i == 5 ? PendingAnswer::kTaken
                                        : PendingAnswer::kCreated);
  }
  auto answers = Await<std::vector<PendingAnswer>>([&](auto done) {
    backend_->CreatePending(std::move(requests), std::move(done));
  });
  EXPECT_EQ(answers.value(), expected);
  EXPECT_EQ(Cli({"LLEN", "t5"}), "1");
}

// The quick way of Finish, beside the long one.
TEST_F(RedisBackendTest, AnOutcomeOverWhatWasSeenHasItsCreateTimeAndLife) {
  ASSERT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
  TaskState outcome = Success("t", 1, "run-1");
  ASSERT_EQ(Finish(outcome)->kind, FinishAnswer::kWritten);
  const std::string slow = Cli({"GET", "t"});
  Cli({"DEL", "t", "penstock:submit:{t}"});
  Cli({"CONFIG", "RESETSTAT"});

  ASSERT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
  const std::optional<SeenPending> seen = See("t");
  ASSERT_TRUE(seen.has_value());
  outcome.task_name = "add";  // as Lifecycle has it from the task
  ASSERT_EQ(Finish(outcome, *seen)->kind, FinishAnswer::kWritten);
  // What was seen, and whether it stands still; the long way has a GET besides.
  EXPECT_THAT(Cli({"INFO", "commandstats"}),
              AllOf(HasSubstr("cmdstat_mget:calls=2,"),
                    Not(HasSubstr("cmdstat_get:"))));
  EXPECT_EQ(Cli({"GET", "t"}), slow);
  EXPECT_THAT(SecondsToLive("t"), AllOf(Ge(3'500), Le(3'600)));
  EXPECT_THAT(SecondsToLive("penstock:submit:{t}"),
              AllOf(Ge(3'500), Le(3'600)));
}

TEST_F(RedisBackendTest, ProgressIsTheLastMemberAndLeavesTheRestAsItIs) {
  ASSERT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
  ASSERT_EQ(Begin("t", 1, "run-1")->kind, BeginAnswer::kRun);
  const std::string started = Cli({"GET", "t"});
  const std::string head = started.substr(0, started.size() - 2);
  const auto report = [&](TaskProgress progress) {
    return *Await<bool>([&](auto done) {
      backend_->SetProgress("t", "run-1", std::move(progress), kTtl,
                            std::move(done));
    });
  };
  EXPECT_TRUE(report({.fraction = 0.5, .text = "a\"}}", .time = Ms(1'500)}));
  EXPECT_EQ(Cli({"GET", "t"}),
            head + R"(,"Progress":{"Fraction":0.5,"Text":"a\"}}",)"
                   R"("Time":"1970-01-01T00:00:01.5Z"}}})");
  EXPECT_TRUE(report({.fraction = 1, .text = "b", .time = Ms(2'000)}));
  EXPECT_EQ(Cli({"GET", "t"}),
            head + R"(,"Progress":{"Fraction":1,"Text":"b",)"
                   R"("Time":"1970-01-01T00:00:02Z"}}})");
  EXPECT_THAT(SecondsToLive("t"), AllOf(Ge(7'100), Le(7'200)));

  // What a Go worker writes has no run.
  const std::string by_go =
      R"({"TaskUUID":"t","TaskName":"","State":"STARTED","Results":null,)"
      R"("Error":"","CreatedAt":"0001-01-01T00:00:00Z","TTL":0})";
  Cli({"SET", "t", by_go});
  EXPECT_FALSE(report({.fraction = 1}));
  EXPECT_EQ(Cli({"GET", "t"}), by_go);
}

TEST_F(RedisBackendTest, AnAbandonedTaskHasAMark) {
  ASSERT_TRUE(Abandon(Abandonment("t", "link a failed")).value());
  EXPECT_EQ(Cli({"GET", "t"}),
            R"({"TaskUUID":"t","TaskName":"add","State":"FAILURE",)"
            R"("Results":null,"Error":"link a failed",)"
            R"("CreatedAt":"2023-11-14T22:13:20.123456789Z","TTL":0,)"
            R"("Penstock":{"ErrorType":"abandoned"}})");
  EXPECT_EQ(Cli({"GET", "penstock:mark:{t}"}), Cli({"GET", "t"}));
  EXPECT_THAT(SecondsToLive("penstock:mark:{t}"), AllOf(Ge(7'100), Le(7'200)));
}

TEST_F(RedisBackendTest, AGroupHasMachinerysMetaAndARecord) {
  ASSERT_EQ(CreateRecord(Group("group_x")).value(), PendingAnswer::kCreated);
  const std::string meta =
      R"({"GroupUUID":"group_x","TaskUUIDs":["task_a","task_b"],)"
      R"("ChordTriggered":false,"Lock":false,)"
      R"("CreatedAt":"2023-11-14T22:13:20.456Z","TTL":0})";
  EXPECT_EQ(Cli({"GET", "group_x"}), meta);
  EXPECT_THAT(SecondsToLive("group_x"), AllOf(Ge(7'100), Le(7'200)));
  EXPECT_EQ(Cli({"HGET", "penstock:group:{group_x}", "ids"}),
            R"(["task_a","task_b"])");
  EXPECT_THAT(SecondsToLive("penstock:group:{group_x}"),
              AllOf(Ge(7'100), Le(7'200)));
  EXPECT_EQ(Cli({"ZRANGE", "penstock:open", "0", "-1", "WITHSCORES"}),
            "g:group_x\n1000");
  EXPECT_EQ(Cli({"HGETALL", "{penstock:open}:since"}),
            "g:group_x\n1700000000456 nonce");

  ASSERT_EQ(Claim("group_x", "token").value(), ClaimAnswer::kWon);
  EXPECT_EQ(Cli({"GET", "group_x"}),
            absl::StrReplaceAll(meta, {{"\"ChordTriggered\":false",
                                        "\"ChordTriggered\":true"}}));
}

TEST_F(RedisBackendTest, DelayedTasksAndDeadLettersHaveTheirKeys) {
  ASSERT_TRUE(AwaitDone([&](auto done) {
                backend_->Lay({.task_id = "t",
                               .attempt = 2,
                               .due = Ms(1'234),
                               .body = "{}",
                               .routing_key = "key",
                               .queue = "queue",
                               .priority = 7},
                              std::move(done));
              }).ok());
  EXPECT_EQ(Cli({"ZRANGE", "penstock:delayed:{machinery_exchange}", "0", "-1",
                 "WITHSCORES"}),
            "t\n1234");
  EXPECT_EQ(Cli({"HGETALL", "penstock:delayed:{machinery_exchange}:tasks"}),
            "t\n2 1234 7 3 5\nkeyqueue{}");

  ASSERT_TRUE(AwaitDone([&](auto done) {
                backend_->LayDead({.task_id = "t",
                                   .name = "add",
                                   .queue = "q",
                                   .reason = "begun \"too\" often",
                                   .body = "not json",
                                   .time = Ms(1'700'000'000'456),
                                   .attempts = 10},
                                  std::move(done));
              }).ok());
  EXPECT_EQ(Cli({"ZRANGE", "penstock:dead:q", "0", "-1", "WITHSCORES"}),
            "t\n1700000000456");
  EXPECT_EQ(Cli({"HGET", "{penstock:dead:q}:tasks", "t"}),
            R"({"TaskUUID":"t","Name":"add","Queue":"q",)"
            R"("Reason":"begun \"too\" often","Attempts":10,)"
            R"("Time":"2023-11-14T22:13:20.456Z"})"
            "\nnot json");
}

TEST_F(RedisBackendTest, ARefreshNeverShortensALife) {
  ASSERT_TRUE(TryCreate("t").ok());
  Cli({"EXPIRE", "t", "90000"});
  ASSERT_TRUE(AwaitDone([&](auto done) {
                backend_->Refresh({"t"}, Backend::RefreshWhich::kNotBegun, kTtl,
                                  kTtl, std::move(done));
              }).ok());
  EXPECT_THAT(SecondsToLive("t"), Ge(89'000));
}

TEST_F(RedisBackendTest, TheUrlNamesTheDatabase) {
  auto other = Open(server_.url() + "/5");
  ASSERT_EQ(TryCreate("t", other.get()).value(), PendingAnswer::kCreated);
  EXPECT_EQ(Cli({"EXISTS", "t"}), "0");
  EXPECT_EQ(Cli({"-n", "5", "EXISTS", "t"}), "1");
}

TEST_F(RedisBackendTest, ATaskThatGoRecordedRunsAndKeepsItsOrigin) {
  for (const char* state : {"PENDING", "RECEIVED", "STARTED", "RETRY"}) {
    SCOPED_TRACE(state);
    Cli({"SET", "t", GoState("t", state), "EX", "100"});
    ASSERT_EQ(Begin("t", 1, "run-1")->kind, BeginAnswer::kRun);
    ASSERT_EQ(Finish(Success("t", 1, "run-1"))->kind, FinishAnswer::kWritten);
    const auto states = GetStates({"t"});
    ASSERT_TRUE(states.ok()) << states.status();
    EXPECT_EQ(states->front()->status, Status::kSuccess);
    EXPECT_EQ(states->front()->task_name, "go \"name\" \\");
    EXPECT_EQ(states->front()->create_time,
              absl::FromCivil(absl::CivilSecond(2026, 11, 21, 23, 18, 35),
                              absl::UTCTimeZone()) +
                  absl::Milliseconds(500));
  }
}

TEST_F(RedisBackendTest, ATaskThatGoFinishedIsFinal) {
  Cli({"SET", "t", GoState("t", "SUCCESS")});
  const auto begun = Begin("t", 1, "run-1");
  EXPECT_EQ(begun->kind, BeginAnswer::kFinal);
  EXPECT_EQ(begun->recorded.task_name, "go \"name\" \\");
  const auto finished = Finish(Success("t", 1, ""));
  EXPECT_EQ(finished->kind, FinishAnswer::kFinal);
  EXPECT_EQ(finished->recorded.run, "");
}

TEST_F(RedisBackendTest, AResultThatLooksLikeAStateIsNone) {
  Cli({"SET", "t",
       R"({"TaskUUID":"t","TaskName":"a","State":"SUCCESS","Results":[{"Type":)"
       R"("map","Value":{"State":"PENDING"}}],"Error":"","CreatedAt":)"
       R"("2026-11-21T23:18:35Z","TTL":0})"});
  EXPECT_EQ(See("t"), std::nullopt);
}

TEST_F(RedisBackendTest, ARetryIsWrittenOverAGoGhostsRecord) {
  ASSERT_EQ(Begin("t", 1, "run-1")->kind, BeginAnswer::kRun);
  Cli({"SET", "t", GoState("t", "STARTED")});
  EXPECT_EQ(Finish(Retry("t", 1, "run-1"))->kind, FinishAnswer::kWritten);
  EXPECT_EQ(Begin("t", 1, "run-2")->kind, BeginAnswer::kMove);
}

TEST_F(RedisBackendTest, AMarkRestoresTheFailureThatGoOverwrote) {
  const TaskState failure = Abandonment("t", "link a failed");
  ASSERT_TRUE(Abandon(failure).value());
  for (const char* state : {"PENDING", "STARTED", "RETRY"}) {
    SCOPED_TRACE(state);
    auto overwrite = [&] { Cli({"SET", "t", GoState("t", state)}); };
    auto restored = [&] {
      const auto states = GetStates({"t"});
      return states.ok() && states->front() == failure;
    };
    overwrite();
    const auto begun = Begin("t", 1, "run");
    EXPECT_EQ(begun->kind, BeginAnswer::kFinal);
    EXPECT_EQ(begun->recorded, failure);
    EXPECT_TRUE(restored());
    EXPECT_THAT(SecondsToLive("t"), AllOf(Ge(3'500), Le(3'600)));

    overwrite();
    EXPECT_EQ(See("t"), std::nullopt);

    overwrite();
    EXPECT_EQ(Finish(Success("t", 1, "run"))->recorded, failure);
    EXPECT_TRUE(restored());

    overwrite();
    const auto continued = Await<ContinueAnswer>([&](auto done) {
      backend_->Continue(Pending("t"), kTtl, kFinalTtl, std::move(done));
    });
    EXPECT_EQ(continued->kind, ContinueAnswer::kFinal);
    EXPECT_EQ(continued->recorded, failure);
    EXPECT_TRUE(restored());

    overwrite();
    EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kTaken);
    EXPECT_TRUE(restored());

    overwrite();
    EXPECT_TRUE(Abandon(failure).value()) << "a repeat";
    EXPECT_TRUE(restored());

    overwrite();
    EXPECT_FALSE(Abandon(Abandonment("t", "another cause")).value());
    EXPECT_TRUE(restored());
  }
  EXPECT_THAT(SecondsToLive("penstock:mark:{t}"), Ge(7'000));
}

TEST_F(RedisBackendTest, ForeignTextDoesNotBreakAScript) {
  for (const char* text :
       {"not json", "", "{\"TaskName\":\"", "{\"TaskName\":\"\\",
        R"({"Error":"x","State":"STARTED","CreatedAt":"\u0022","X":{}})",
        R"({"State":"RETRY","Penstock":7})", R"([{"Penstock":{}}])"}) {
    SCOPED_TRACE(text);
    Cli({"SET", "t", text});
    const auto begun = Begin("t", 1, "run-1");
    ASSERT_TRUE(begun.ok()) << begun.status();
    EXPECT_EQ(begun->kind, BeginAnswer::kRun);
    const auto states = GetStates({"t"});
    ASSERT_TRUE(states.ok()) << states.status();
    EXPECT_EQ(states->front()->status, Status::kStarted);
  }
}

TEST_F(RedisBackendTest, AStateThatCannotBeDecodedIsNamed) {
  Cli({"SET", "broken_task", "not json"});
  const absl::Status status = GetStates({"unknown", "broken_task"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.ToString(), HasSubstr("broken_task"));
}

TEST_F(RedisBackendTest, AQueuesNameIsNoTaskId) {
  Cli({"RPUSH", "machinery_tasks", "{}"});
  EXPECT_EQ(TryCreate("machinery_tasks").value(), PendingAnswer::kTaken);
  const absl::Status status = Begin("machinery_tasks", 1, "run").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.ToString(), HasSubstr("WRONGTYPE"));
  EXPECT_EQ(CreateRecord(Group("machinery_tasks")).value(),
            PendingAnswer::kTaken);
}

// ---- chords of a mixed fleet
// ------------------------------------------------------

TEST_F(RedisBackendTest, AClaimWaitsForTheLockOfAGoWorker) {
  ASSERT_TRUE(CreateRecord(Group("g")).ok());
  Cli({"SET", "TriggerChordMutex", "x", "PX", "100000"});
  EXPECT_EQ(Claim("g", "token").value(), ClaimAnswer::kLocked);
  Cli({"DEL", "TriggerChordMutex"});
  EXPECT_EQ(Claim("g", "token").value(), ClaimAnswer::kWon);
  Cli({"SET", "TriggerChordMutex", "x", "PX", "100000"});
  EXPECT_EQ(Claim("g", "token").value(), ClaimAnswer::kWon) << "a repeat";
}

TEST_F(RedisBackendTest, AFlagThatGoSetRefusesTheClaim) {
  ASSERT_TRUE(CreateRecord(Group("g")).ok());
  Cli({"SET", "g",
       R"({"GroupUUID":"g","TaskUUIDs":["task_a","task_b"],)"
       R"("ChordTriggered":true,"Lock":false,)"
       R"("CreatedAt":"2026-11-21T23:18:35.5Z","TTL":0})"});
  EXPECT_EQ(Claim("g", "token").value(), ClaimAnswer::kRefused);
  const auto record = Await<std::optional<WorkflowRecord>>([&](auto done) {
    backend_->GetRecord(WorkflowRecord::kGroup, "g", std::move(done));
  });
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_TRUE((*record)->chord_triggered);
  EXPECT_EQ((*record)->claim_time, std::nullopt);
}

TEST_F(RedisBackendTest, AClaimChangesNothingButTheFlagOfTheMeta) {
  // Spaces and an unknown member: some other writer's.
  Cli({"SET", "g",
       R"({"X":[1, 2],"TaskUUIDs":["task_a","task_b"],)"
       R"("ChordTriggered": false,"GroupUUID":"g"})",
       "EX", "90000"});
  ASSERT_EQ(CreateRecord(Group("g")).value(), PendingAnswer::kCreated);
  ASSERT_EQ(Claim("g", "token").value(), ClaimAnswer::kWon);
  EXPECT_EQ(Cli({"GET", "g"}), R"({"X":[1, 2],"TaskUUIDs":["task_a","task_b"],)"
                               R"("ChordTriggered":true,"GroupUUID":"g"})");
  EXPECT_THAT(SecondsToLive("g"), Ge(89'000));
}

TEST_F(RedisBackendTest, AChordWhoseMetaExpiredIsClaimedByItsRecord) {
  ASSERT_TRUE(CreateRecord(Group("g")).ok());
  Cli({"DEL", "g"});
  EXPECT_EQ(Claim("g", "token").value(), ClaimAnswer::kWon);
  EXPECT_EQ(Claim("g", "other").value(), ClaimAnswer::kRefused);
  const auto record = Await<std::optional<WorkflowRecord>>([&](auto done) {
    backend_->GetRecord(WorkflowRecord::kGroup, "g", std::move(done));
  });
  EXPECT_TRUE((*record)->chord_triggered);
}

TEST_F(RedisBackendTest, AGroupOfGoIsAdoptedOnlyWithItsOwnMembers) {
  const std::string meta =
      R"({"GroupUUID":"g","TaskUUIDs":["task_a","task_b"],)"
      R"("ChordTriggered":true,"Lock":false,)"
      R"("CreatedAt":"2026-11-21T23:18:35.5Z","TTL":0})";
  Cli({"SET", "g", meta});
  WorkflowRecord other = Group("g");
  other.task_ids = {"task_a"};
  EXPECT_EQ(CreateRecord(other).value(), PendingAnswer::kTaken);
  EXPECT_EQ(CreateRecord(Group("g")).value(), PendingAnswer::kCreated);
  EXPECT_EQ(Cli({"GET", "g"}), meta) << "its flag is kept";
  // A task's id is no group's.
  ASSERT_TRUE(TryCreate("t").ok());
  EXPECT_EQ(CreateRecord(Group("t")).value(), PendingAnswer::kTaken);
  const auto none = Await<std::optional<GroupMeta>>(
      [&](auto done) { backend_->GetGroupMeta("t", std::move(done)); });
  EXPECT_EQ(none.value(), std::nullopt);
}

TEST_F(RedisBackendTest, AnEntryThatWasOpenedAnewIsNotClosedByAnOldVisit) {
  ASSERT_TRUE(CreateRecord(Group("g")).ok());
  WorkflowRecord later = Group("g");
  later.create_time += absl::Seconds(1);
  ASSERT_TRUE(CreateRecord(later).ok());
  ASSERT_TRUE(AwaitDone([&](auto done) {
                backend_->CloseOpen(
                    {WorkflowRecord::kGroup, "g", Group("g").create_time},
                    absl::Minutes(1), std::move(done));
              }).ok());
  EXPECT_EQ(Cli({"ZRANGE", "penstock:open", "0", "-1"}), "g:g");
  EXPECT_GT(std::stoi(Cli({"TTL", "penstock:group:{g}"})), 60);
}

TEST_F(RedisBackendTest, AClosedRecordLivesAsLongAsItsResults) {
  ASSERT_TRUE(CreateRecord(Group("g")).ok());
  ASSERT_TRUE(AwaitDone([&](auto done) {
                backend_->CloseOpen(
                    {WorkflowRecord::kGroup, "g", Group("g").create_time},
                    absl::Minutes(1), std::move(done));
              }).ok());
  EXPECT_EQ(Cli({"ZRANGE", "penstock:open", "0", "-1"}), "");
  for (const char* key : {"penstock:group:{g}", "g"}) {
    const int ttl = std::stoi(Cli({"TTL", key}));
    EXPECT_GT(ttl, 0) << key;
    EXPECT_LE(ttl, 60) << key;
  }
}

// ---- a server that comes and goes
// ---------------------------------------------------

TEST_F(RedisBackendTest, ScriptsAreLoadedAgainAfterAFlush) {
  ASSERT_EQ(TryCreate("a").value(), PendingAnswer::kCreated);
  Cli({"SCRIPT", "FLUSH"});
  EXPECT_EQ(TryCreate("b").value(), PendingAnswer::kCreated);
  EXPECT_EQ(Begin("b", 1, "run")->kind, BeginAnswer::kRun);
}

TEST_F(RedisBackendTest, TenThousandOperationsArePipelined) {
  constexpr int kCount = 10'000;
  std::vector<Awaited<BeginAnswer>> answers(kCount);
  for (int i = 0; i < kCount; ++i) {
    backend_->Begin({.started = Started(absl::StrCat("task", i), 1, "run"),
                     .ttl = kTtl,
                     .final_ttl = kFinalTtl,
                     .max_begins = 1},
                    answers[i].callback());
  }
  for (auto& answer : answers) {
    const auto result = answer.Wait();
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->kind, BeginAnswer::kRun);
  }
  std::vector<std::string> ids;
  for (int i = 0; i < kCount; ++i) ids.push_back(absl::StrCat("task", i));
  const auto states = GetStates(ids);
  ASSERT_TRUE(states.ok()) << states.status();
  for (int i = 0; i < kCount; ++i) {
    ASSERT_TRUE((*states)[i].has_value()) << i;
    ASSERT_EQ((*states)[i]->task_id, ids[i]);
  }
}

TEST_F(RedisBackendTest, WithoutAServerOperationsFailUntilItIsBack) {
  ASSERT_TRUE(Ping().ok());
  ASSERT_TRUE(server_.Stop().ok());
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = Ping();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(ReasonOf(status), reason::kBackendUnavailable);
  }
  EXPECT_TRUE(absl::IsUnavailable(GetStates({"t"}).status()));
  ASSERT_TRUE(server_.Start().ok());
  EXPECT_TRUE(PingUntilOk().ok());
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
}

TEST_F(RedisBackendTest, ABackendMayBeOpenedBeforeItsServer) {
  ASSERT_TRUE(server_.Stop().ok());
  backend_ = Open(server_.url());
  EXPECT_TRUE(absl::IsUnavailable(Ping()));
  ASSERT_TRUE(server_.Start().ok());
  EXPECT_TRUE(PingUntilOk().ok());
}

TEST_F(RedisBackendTest, AServerThatHangsIsGivenUp) {
  ASSERT_TRUE(Ping().ok());
  ASSERT_TRUE(GetStates({"t"}).ok());
  ASSERT_TRUE(server_.Pause().ok());
  const absl::Status status = TryCreate("t").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.ToString(), HasSubstr("no reply"));
  EXPECT_THAT(status.ToString(), HasSubstr("may have taken place"));
  EXPECT_EQ(ReasonOf(status), reason::kBackendUnavailable);
  ASSERT_TRUE(server_.Continue().ok());
  EXPECT_TRUE(PingUntilOk().ok());
  // Whether or not it had taken place, the repeat answers as the first time.
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
}

TEST_F(RedisBackendTest, ACutConnectionIsOpenedAgain) {
  ASSERT_TRUE(Ping().ok());
  ASSERT_TRUE(GetStates({"t"}).ok());
  Cli({"CLIENT", "KILL", "TYPE", "normal"});
  EXPECT_TRUE(PingUntilOk().ok());
  EXPECT_EQ(TryCreate("t").value(), PendingAnswer::kCreated);
}

TEST_F(RedisBackendTest, DestructionFailsWhatIsPending) {
  ASSERT_TRUE(Ping().ok());
  ASSERT_TRUE(server_.Pause().ok());
  std::vector<Awaited<bool>> pings(100);
  for (auto& ping : pings) backend_->Ping(ping.done());
  // The first is on its way, the others wait for it.
  std::vector<Awaited<bool>> removals(3);
  for (auto& removal : removals) {
    backend_->RemoveLeased({.task = {.task_id = "t"}}, removal.done());
  }
  Awaited<std::vector<std::optional<TaskState>>> read;
  backend_->GetStates({"t"}, read.callback());
  Awaited<bool> follow_up;
  Backend* backend = backend_.get();
  backend->Ping([backend, done = follow_up.done()](absl::Status) mutable {
    // One that is sent by a callback of the very end.
    backend->Ping(std::move(done));
  });
  backend_.reset();
  for (auto& ping : pings) {
    ASSERT_TRUE(ping.HasArrived());
    EXPECT_TRUE(absl::IsUnavailable(ping.Wait().status()));
  }
  for (auto& removal : removals) {
    ASSERT_TRUE(removal.HasArrived());
    EXPECT_TRUE(absl::IsUnavailable(removal.Wait().status()));
  }
  ASSERT_TRUE(read.HasArrived());
  EXPECT_TRUE(absl::IsUnavailable(read.Wait().status()));
  ASSERT_TRUE(follow_up.HasArrived());
  EXPECT_TRUE(absl::IsUnavailable(follow_up.Wait().status()));
}

// Long ones, and those of the long way, are read by who waits for them.
TEST_F(RedisBackendTest, AShortOutcomeComesWithItsHint) {
  absl::Mutex mu;
  std::map<std::string, std::string> hints;
  backend_->SubscribeHints([&](std::string_view id, std::string_view outcome) {
    absl::MutexLock lock(&mu);
    hints.emplace(id, outcome);
  });
  auto hint_of = [&](const std::string& id) {
    auto is_there = [&] { return hints.contains(id); };
    absl::MutexLock lock(&mu, absl::Condition(&is_there));
    return hints[id];
  };
  auto end = [&](TaskState outcome, bool seen) {
    const std::string id = outcome.task_id;
    ASSERT_EQ(TryCreate(id).value(), PendingAnswer::kCreated);
    outcome.task_name = "add";  // as Lifecycle has it from the task
    EXPECT_EQ(Finish(std::move(outcome), seen ? *See(id) : "")->kind,
              FinishAnswer::kWritten);
  };
  backend_->WantHints(true);
  EXPECT_EQ(hint_of(""), "");  // they come from here on
  end(Success("short", 1, "run"), true);
  EXPECT_EQ(hint_of("short"), Cli({"GET", "short"}));
  TaskState long_one = Success("long", 1, "run");
  long_one.results = {{.type = "string",
                       .json = absl::StrCat("\"", std::string(2048, 'x'), "\"")}};
  end(long_one, true);
  EXPECT_EQ(hint_of("long"), "");
  end(Success("unseen", 1, "run"), false);
  EXPECT_EQ(hint_of("unseen"), "");
  backend_.reset();  // before what its subscriber uses
}

class HintsTest : public RedisBackendTest {
 protected:
  void SetUp() override {
    RedisBackendTest::SetUp();
    backend_->SubscribeHints([&](std::string_view id, std::string_view) {
      absl::MutexLock lock(&mu_);
      hints_.emplace_back(id);
    });
  }
  void TearDown() override {
    backend_.reset();  // before what its subscriber uses
    RedisBackendTest::TearDown();
  }

  // Takes hints until `id` is among them; false: it is not, or the other one is.
  bool Hinted(const std::string& id, const std::string& not_before = "-") {
    absl::MutexLock lock(&mu_);
    auto has = [&](const std::string& one) {
      mu_.AssertHeld();
      return std::find(hints_.begin(), hints_.end(), one) != hints_.end();
    };
    auto there = [&] { return has(id); };
    const bool hinted = mu_.AwaitWithTimeout(absl::Condition(&there), kHang);
    const bool other = has(not_before);
    hints_.clear();
    return hinted && !other;
  }

  std::string Subscribers() {
    return Cli({"PUBSUB", "NUMSUB", "penstock:hint"});
  }

  absl::Mutex mu_;
  std::vector<std::string> hints_;  // guarded by mu_
};

TEST_F(HintsTest, ComeAgainAfterARestart) {
  backend_->WantHints(true);
  EXPECT_TRUE(Hinted(""));
  EXPECT_TRUE(Finish(Success("first", 1, "run")).ok());
  EXPECT_TRUE(Hinted("first"));
  ASSERT_TRUE(server_.Restart().ok());
  EXPECT_TRUE(Hinted(""));
  const absl::Time limit = absl::Now() + kHang;
  while (!Finish(Success("second", 1, "run")).ok() && absl::Now() < limit) {
  }
  EXPECT_TRUE(Hinted("second"));
}

TEST_F(HintsTest, ComeOnceTheChannelIsAllowed) {
  Cli({"ACL", "SETUSER", "default", "resetchannels"});
  backend_->WantHints(true);
  const absl::Time limit = absl::Now() + kHang;
  auto refused = [&] {
    return absl::StrContains(Cli({"INFO", "commandstats"}), "cmdstat_subscribe");
  };
  while (!refused() && absl::Now() < limit) {
  }
  EXPECT_TRUE(refused());
  Cli({"ACL", "SETUSER", "default", "allchannels"});
  EXPECT_TRUE(Hinted(""));
}

TEST_F(HintsTest, WhoMayNotLeaveTheChannelStaysConnected) {
  Cli({"ACL", "SETUSER", "default", "-unsubscribe"});
  backend_->WantHints(true);
  EXPECT_TRUE(Hinted(""));
  auto id = [&] {
    const std::string client = Cli({"CLIENT", "LIST", "TYPE", "pubsub"});
    return client.substr(0, client.find(' '));
  };
  const std::string before = id();
  backend_->WantHints(false);
  const absl::Time limit = absl::Now() + kHang;
  auto refused = [&] {
    return absl::StrContains(Cli({"INFO", "commandstats"}),
                             "cmdstat_unsubscribe");
  };
  while (!refused() && absl::Now() < limit) {
  }
  EXPECT_TRUE(refused());
  backend_->WantHints(true);
  EXPECT_TRUE(Hinted(""));
  EXPECT_EQ(id(), before);
  Cli({"ACL", "SETUSER", "default", "+unsubscribe"});
}

TEST_F(HintsTest, ComeOnlyWhileTheyAreWanted) {
  const std::string nobody = Subscribers();
  backend_->WantHints(true);
  EXPECT_TRUE(Hinted(""));
  EXPECT_NE(Subscribers(), nobody);
  backend_->WantHints(false);
  const absl::Time limit = absl::Now() + kHang;
  while (Subscribers() != nobody && absl::Now() < limit) {
  }
  EXPECT_EQ(Subscribers(), nobody);
  EXPECT_TRUE(Finish(Success("unwanted", 1, "run")).ok());
  backend_->WantHints(true);
  EXPECT_TRUE(Hinted("", /*not_before=*/"unwanted"));
  EXPECT_TRUE(Finish(Success("wanted", 1, "run")).ok());
  EXPECT_TRUE(Hinted("wanted"));
}

// ---- a server that refuses
// -------------------------------------------------------------

TEST_F(RedisBackendTest, AFullServerIsUnavailableForWritesOnly) {
  ASSERT_TRUE(TryCreate("t").ok());
  Cli({"CONFIG", "SET", "maxmemory", "1"});
  const absl::Status status = TryCreate("u").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.ToString(), HasSubstr("OOM"));
  EXPECT_THAT(Ping().ToString(), HasSubstr("OOM"));
  EXPECT_TRUE(GetStates({"t"}).ok());
  Cli({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_EQ(TryCreate("u").value(), PendingAnswer::kCreated);
}

TEST_F(RedisBackendTest, AReplicaIsUnavailable) {
  ASSERT_TRUE(Ping().ok());
  Cli({"REPLICAOF", "127.0.0.1", "1"});
  const absl::Status status = Ping();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.ToString(), HasSubstr("READONLY"));
  Cli({"REPLICAOF", "NO", "ONE"});
  EXPECT_TRUE(PingUntilOk().ok());
}

TEST_F(RedisBackendTest, AWrongPasswordIsNamedButNotShown) {
  Cli({"CONFIG", "SET", "requirepass", "right"});
  const std::string host = absl::StrCat("127.0.0.1:", server_.port());
  struct Case {
    std::string url;
    const char* message;
  };
  for (const Case& c :
       {Case{absl::StrCat("redis://wrong-one@", host), "WRONGPASS"},
        Case{absl::StrCat("redis://nobody:wrong-one@", host), "WRONGPASS"},
        Case{absl::StrCat("redis://", host), "NOAUTH"}}) {
    auto refused = Open(c.url);
    const absl::Status status = Ping(refused.get());
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(status.ToString(), HasSubstr(c.message));
    EXPECT_THAT(status.ToString(), HasSubstr(host));
    EXPECT_THAT(status.ToString(), Not(HasSubstr("wrong-one")));
  }
  for (const char* login : {"right@", ":right@", "default:right@"}) {
    auto accepted = Open(absl::StrCat("redis://", login, host));
    EXPECT_TRUE(Ping(accepted.get()).ok()) << login;
  }
}

TEST_F(RedisBackendTest, AnUnknownDatabaseIsNamed) {
  auto refused = Open(server_.url() + "/999");
  const absl::Status status = Ping(refused.get());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.ToString(), HasSubstr("DB index is out of range"));
}

}  // namespace
}  // namespace penstock
