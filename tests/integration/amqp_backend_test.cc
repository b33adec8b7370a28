// RabbitMQ as result backend, and its delay queues, on a real server: what lies
// on the wire is what machinery lays, reads leave it as it was, what cannot be
// done is refused with a way out, and outages end. Runs on the server of
// PENSTOCK_TEST_AMQP_URL through a TCP proxy; restarts have a server of their
// own.

#include "queue/amqp/amqp_backend.h"

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "queue/amqp/amqp_broker.h"
#include "queue/amqp/connection.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/errors.h"
#include "queue/ids.h"
#include "queue/lifecycle.h"
#include "queue/wire/state_json.h"
#include "queue/wire/task_json.h"
#include "tests/conformance/await.h"
#include "tests/support/amqp_probe.h"
#include "tests/support/broker_verbs.h"
#include "tests/support/servers.h"
#include "tests/support/tcp_cutter.h"

namespace penstock {
namespace {

using ::penstock::testing::AmqpProbe;
using ::penstock::testing::Answer;
using ::penstock::testing::Await;
using ::penstock::testing::AwaitDone;
using ::penstock::testing::Eventually;
using ::penstock::testing::Inbox;
using ::penstock::testing::RabbitServer;
using ::penstock::testing::TcpCutter;
using ::penstock::testing::TestAmqpUrl;
using ::penstock::testing::WithPort;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using States = std::vector<std::optional<TaskState>>;

const absl::Time kCreated = absl::FromUnixMillis(1'800'000'000'123);

// Plays machinery: declares as the Go library does, with its types of numbers.
// False when the server refuses.
class GoDeclarer {
 public:
  explicit GoDeclarer(const std::string& url) {
    std::string text = url;
    amqp_connection_info info;
    if (amqp_parse_url(text.data(), &info) != AMQP_STATUS_OK) abort();
    connection_ = amqp_new_connection();
    amqp_socket_t* socket = amqp_tcp_socket_new(connection_);
    if (amqp_socket_open(socket, info.host, info.port) != AMQP_STATUS_OK) {
      abort();
    }
    amqp_login(connection_, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
               info.user, info.password);
    amqp_channel_open(connection_, ++channel_);
  }
  ~GoDeclarer() {
    amqp_connection_close(connection_, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(connection_);
  }
  GoDeclarer(const GoDeclarer&) = delete;
  GoDeclarer& operator=(const GoDeclarer&) = delete;

  bool DeclareStateQueue(const std::string& id, int32_t expires_ms) {
    amqp_table_entry_t entries[] = {Number("x-message-ttl"),
                                    Number("x-expires")};
    for (amqp_table_entry_t& entry : entries) {
      entry.value.kind = AMQP_FIELD_KIND_I32;
      entry.value.value.i32 = expires_ms;
    }
    return Declare(id, /*durable=*/false, /*auto_delete=*/true, {2, entries});
  }

  bool DeclareDelayQueue(const std::string& name, int64_t ms,
                         const std::string& exchange, const std::string& key) {
    amqp_table_entry_t entries[] = {Text("x-dead-letter-exchange", exchange),
                                    Text("x-dead-letter-routing-key", key),
                                    Number("x-message-ttl"),
                                    Number("x-expires")};
    entries[2].value.value.i64 = ms;
    entries[3].value.value.i64 = 2 * ms;
    return Declare(name, /*durable=*/true, /*auto_delete=*/false, {4, entries});
  }

 private:
  static amqp_table_entry_t Number(const char* key) {
    amqp_table_entry_t entry;
    entry.key = amqp_cstring_bytes(key);
    entry.value.kind = AMQP_FIELD_KIND_I64;
    return entry;
  }
  static amqp_table_entry_t Text(const char* key, const std::string& text) {
    amqp_table_entry_t entry;
    entry.key = amqp_cstring_bytes(key);
    entry.value.kind = AMQP_FIELD_KIND_UTF8;
    entry.value.value.bytes = ToBytes(text);
    return entry;
  }
  bool Declare(const std::string& name, bool durable, bool auto_delete,
               amqp_table_t arguments) {
    const bool declared =
        amqp_queue_declare(connection_, channel_, ToBytes(name), 0, durable, 0,
                           auto_delete, arguments) != nullptr;
    if (!declared) amqp_channel_open(connection_, ++channel_);
    return declared;
  }

  amqp_connection_state_t connection_;
  amqp_channel_t channel_ = 0;
};

Options UniqueOptions(const std::string& url) {
  const std::string unique = RandomUuid();
  Options options;
  options.broker = url;
  options.result_backend = url;
  options.default_queue = absl::StrCat("penstock-test-", unique);
  options.amqp.exchange = absl::StrCat("penstock-test-exchange-", unique);
  options.amqp.binding_key = absl::StrCat("penstock-test-key-", unique);
  return options;
}

TaskState StateOf(const std::string& id, Status status) {
  return {.task_id = id,
          .task_name = "add",
          .status = status,
          .create_time = kCreated};
}

TaskState RunOf(const std::string& id, Status status) {
  TaskState state = StateOf(id, status);
  state.attempt = 1;
  state.run = "run-1";
  if (status == Status::kSuccess) {
    state.results_null = false;
    state.results = {{.type = "int64", .json = "3"}};
  }
  if (status == Status::kFailure) state.error = "boom";
  return state;
}

class AmqpBackendTest : public ::testing::Test {
 protected:
  AmqpBackendTest()
      : environment_(MakeSystemEnvironment()),
        probe_(TestAmqpUrl()),
        cutter_(ParseAmqpUrl(TestAmqpUrl(), TlsOptions())->port),
        options_(UniqueOptions(WithPort(TestAmqpUrl(), cutter_.port()))) {
    Open();
  }

  ~AmqpBackendTest() override {
    lifecycle_.reset();
    broker_.reset();
    backend_.reset();
    for (const std::string& queue : queues_) probe_.DeleteQueue(queue);
    probe_.DeleteQueue(options_.default_queue);
    probe_.DeleteQueue(absl::StrCat("penstock.dead.", options_.default_queue));
    probe_.DeleteExchange(options_.amqp.exchange);
  }

  void Open() {
    auto backend = OpenAmqpBackend(options_, environment_.get());
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    AwaitReady();
  }
  void AwaitReady() {
    ASSERT_TRUE(Eventually([&] {
      return AwaitDone([&](Done done) { backend_->Ping(std::move(done)); })
          .ok();
    }));
  }

  void OpenBroker() {
    auto broker = OpenAmqpBroker(options_, environment_.get());
    ASSERT_TRUE(broker.ok()) << broker.status();
    broker_ = *std::move(broker);
    ASSERT_TRUE(Eventually([&] { return broker_->Health().ok(); }));
  }

  void OpenLifecycle() {
    OpenBroker();
    lifecycle_ = std::make_unique<Lifecycle>(
        broker_.get(), backend_.get(), environment_.get(), LifecycleOptions());
  }

  // An id whose queue is deleted at the end.
  std::string NewId() {
    queues_.push_back(absl::StrCat("task_", RandomUuid()));
    return queues_.back();
  }

  absl::StatusOr<std::vector<PendingAnswer>> CreatePending(
      const std::vector<std::string>& ids) {
    std::vector<PendingRequest> requests;
    for (const std::string& id : ids) {
      requests.push_back({.state = StateOf(id, Status::kPending),
                          .payload_hash = "hash",
                          .nonce = "nonce",
                          .ttl = absl::Hours(1)});
    }
    return Await<std::vector<PendingAnswer>>([&](auto done) {
      backend_->CreatePending(std::move(requests), std::move(done));
    });
  }
  BeginAnswer Begin(const std::string& id, int attempt = 1,
                    int max_begins = 10) {
    TaskState started = RunOf(id, Status::kStarted);
    started.attempt = attempt;
    auto answer = Await<BeginAnswer>([&](auto done) {
      backend_->Begin({.started = started, .max_begins = max_begins},
                      std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(BeginAnswer{.kind = BeginAnswer::kStale});
  }
  absl::Status Finish(const TaskState& outcome) {
    return Await<FinishAnswer>([&](auto done) {
             backend_->Finish({.outcome = outcome}, std::move(done));
           })
        .status();
  }
  absl::StatusOr<States> GetStates(const std::vector<std::string>& ids) {
    return Await<States>(
        [&](auto done) { backend_->GetStates(ids, std::move(done)); });
  }
  std::optional<TaskState> GetState(const std::string& id) {
    absl::StatusOr<States> states = GetStates({id});
    EXPECT_TRUE(states.ok()) << states.status();
    return states.ok() ? states->front() : std::nullopt;
  }

  const std::unique_ptr<Environment> environment_;
  AmqpProbe probe_;
  TcpCutter cutter_;
  Options options_;
  std::vector<std::string> queues_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Broker> broker_;
  std::unique_ptr<Lifecycle> lifecycle_;
};

TEST_F(AmqpBackendTest, LaysStatesAsMachineryDoesOldestFirst) {
  const std::string id = NewId();
  ASSERT_TRUE(CreatePending({id}).ok());
  ASSERT_EQ(Begin(id).kind, BeginAnswer::kRun);
  ASSERT_TRUE(Finish(RunOf(id, Status::kSuccess)).ok());

  EXPECT_TRUE(GoDeclarer(TestAmqpUrl()).DeclareStateQueue(id, 3'600'000));
  // What was read on the way is on its way back.
  ASSERT_TRUE(Eventually([&] { return probe_.MessagesReady(id) == 3; }));
  // As a Go reader gets them: one at a time, each gone then.
  std::vector<std::string> names;
  for (int i = 0; i < 3; ++i) {
    const std::optional<AmqpProbe::Message> message = probe_.Take(id);
    ASSERT_TRUE(message.has_value());
    EXPECT_EQ(message->content_type, "application/json");
    EXPECT_EQ(message->delivery_mode, 2);
    EXPECT_EQ(message->message_id, "");
    EXPECT_FALSE(message->priority.has_value());
    EXPECT_THAT(message->headers, IsEmpty());
    const absl::StatusOr<TaskState> state = DecodeState(message->body);
    ASSERT_TRUE(state.ok()) << message->body;
    EXPECT_EQ(state->task_id, id);
    EXPECT_EQ(state->task_name, "add");
    EXPECT_EQ(state->create_time, kCreated);
    names.push_back(std::string(StatusName(state->status)));
    if (i == 0) {
      EXPECT_EQ(message->body, EncodeState(StateOf(id, Status::kPending)));
    }
  }
  EXPECT_THAT(names, ElementsAre("PENDING", "STARTED", "SUCCESS"));
  EXPECT_FALSE(probe_.Take(id).has_value());
}

TEST_F(AmqpBackendTest, ReadsAgainAndAgainAndLeavesTheHistory) {
  const std::string id = NewId();
  ASSERT_TRUE(CreatePending({id}).ok());
  EXPECT_EQ(GetState(id)->status, Status::kPending);
  Begin(id);
  EXPECT_EQ(GetState(id)->status, Status::kStarted);
  ASSERT_TRUE(Finish(RunOf(id, Status::kSuccess)).ok());
  for (int i = 0; i < 20; ++i) {
    const std::optional<TaskState> state = GetState(id);
    ASSERT_TRUE(state.has_value());
    ASSERT_EQ(state->status, Status::kSuccess);
    ASSERT_EQ(state->results,
              (std::vector<Value>{{.type = "int64", .json = "3"}}));
  }
  ASSERT_TRUE(Eventually([&] { return probe_.MessagesReady(id) == 3; }));
  EXPECT_EQ(DecodeState(probe_.Take(id)->body)->status, Status::kPending);
}

TEST_F(AmqpBackendTest, ReadsWhatGoWroteWithNameAndTimeOfItsFirstState) {
  const std::string id = NewId();
  ASSERT_TRUE(GoDeclarer(TestAmqpUrl()).DeclareStateQueue(id, 3'600'000));
  TaskState pending = StateOf(id, Status::kPending);
  TaskState success = RunOf(id, Status::kSuccess);
  success.task_name.clear();
  success.create_time = GoZeroTime();
  success.attempt = 0;
  success.run.clear();
  probe_.Publish(id, EncodeState(pending));
  probe_.Publish(id, EncodeState(success));

  const std::optional<TaskState> state = GetState(id);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->status, Status::kSuccess);
  EXPECT_EQ(state->task_name, "add");
  EXPECT_EQ(state->create_time, kCreated);
}

TEST_F(AmqpBackendTest, ReadsManyOfWhichSomeAreUnknown) {
  std::vector<std::string> ids;
  std::vector<std::string> known;
  for (int i = 0; i < 60; ++i) {
    ids.push_back(i % 3 == 0 ? absl::StrCat("task_", RandomUuid()) : NewId());
    if (i % 3 != 0) known.push_back(ids.back());
  }
  ids.push_back("");
  ids.push_back(std::string(300, 'x'));
  ASSERT_TRUE(CreatePending(known).ok());
  const absl::StatusOr<States> states = GetStates(ids);
  ASSERT_TRUE(states.ok()) << states.status();
  ASSERT_EQ(states->size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ((*states)[i].has_value(), i < 60 && i % 3 != 0) << i;
    if ((*states)[i]) {
      EXPECT_EQ((*states)[i]->task_id, ids[i]);
    }
  }
  // Looking made no queue.
  EXPECT_FALSE(probe_.MessagesReady(ids[0]).has_value());
}

TEST_F(AmqpBackendTest, ManyReadersOfOneTaskAllSeeIt) {
  const std::string id = NewId();
  ASSERT_TRUE(CreatePending({id}).ok());
  Begin(id);
  ASSERT_TRUE(Finish(RunOf(id, Status::kSuccess)).ok());
  std::vector<penstock::testing::Awaited<States>> reads(50);
  for (auto& read : reads) backend_->GetStates({id}, read.callback());
  for (auto& read : reads) {
    absl::StatusOr<States> states = read.Wait();
    // They take turns, and on a busy machine one's time may be over before its
    // turn: its caller asks again.
    while (absl::IsUnavailable(states.status())) {
      states = Await<States>(
          [&](auto done) { backend_->GetStates({id}, std::move(done)); });
    }
    ASSERT_TRUE(states.ok()) << states.status();
    ASSERT_TRUE(states->front().has_value());
    EXPECT_EQ(states->front()->status, Status::kSuccess);
  }
}

TEST_F(AmqpBackendTest, AQueueThatAGoReaderEmptiedIsPendingWithoutATime) {
  const std::string id = NewId();
  ASSERT_TRUE(CreatePending({id}).ok());
  ASSERT_TRUE(probe_.Take(id).has_value());
  const std::optional<TaskState> state = GetState(id);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->status, Status::kPending);
  EXPECT_EQ(state->create_time, GoZeroTime());
}

TEST_F(AmqpBackendTest, KeepsOnlyTheNewestOfALongHistory) {
  const std::string id = NewId();
  for (int i = 0; i < 130; ++i) {
    TaskState retry = RunOf(id, Status::kRetry);
    retry.attempt = i + 1;
    ASSERT_TRUE(Finish(retry).ok());
  }
  EXPECT_EQ(GetState(id)->attempt, 130);
  ASSERT_TRUE(Eventually([&] { return probe_.MessagesReady(id) == 1; }));
  EXPECT_EQ(GetState(id)->attempt, 130);
}

TEST_F(AmqpBackendTest, BeginFollowsWhatStands) {
  const std::string id = NewId();
  ASSERT_TRUE(CreatePending({id}).ok());
  EXPECT_EQ(Begin(id).kind, BeginAnswer::kRun);
  // Its worker died: another one begins it again, but not for ever.
  EXPECT_EQ(Begin(id, 1, 2).kind, BeginAnswer::kRun);
  EXPECT_EQ(Begin(id, 1, 2).kind, BeginAnswer::kWornOut);

  TaskState retry = RunOf(id, Status::kRetry);
  retry.next_attempt = 2;
  ASSERT_TRUE(Finish(retry).ok());
  const BeginAnswer move = Begin(id, 1);
  EXPECT_EQ(move.kind, BeginAnswer::kMove);
  EXPECT_EQ(move.recorded.next_attempt, 2);
  EXPECT_EQ(Begin(id, 2).kind, BeginAnswer::kRun);
  EXPECT_EQ(Begin(id, 1).kind, BeginAnswer::kStale);

  ASSERT_TRUE(Finish(RunOf(id, Status::kSuccess)).ok());
  const BeginAnswer final = Begin(id, 2);
  EXPECT_EQ(final.kind, BeginAnswer::kFinal);
  EXPECT_EQ(final.recorded.status, Status::kSuccess);
}

TEST_F(AmqpBackendTest, ContinueAndAbandonLeaveWhatHasBegun) {
  auto resume = [&](const std::string& id) {
    auto answer = Await<ContinueAnswer>([&](auto done) {
      backend_->Continue(StateOf(id, Status::kPending), absl::Hours(1),
                         absl::Hours(1), std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(ContinueAnswer{}).kind;
  };
  auto abandon = [&](const std::string& id) {
    auto answer = Await<bool>([&](auto done) {
      backend_->Abandon(RunOf(id, Status::kFailure), absl::Hours(1),
                        std::move(done));
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(false);
  };
  const std::string unknown = NewId();
  EXPECT_EQ(resume(unknown), ContinueAnswer::kPublish);
  EXPECT_EQ(resume(unknown), ContinueAnswer::kPublish);
  EXPECT_TRUE(Eventually([&] { return probe_.MessagesReady(unknown) == 1; }));
  Begin(unknown);
  EXPECT_EQ(resume(unknown), ContinueAnswer::kPast);
  EXPECT_FALSE(abandon(unknown));
  ASSERT_TRUE(Finish(RunOf(unknown, Status::kSuccess)).ok());
  EXPECT_EQ(resume(unknown), ContinueAnswer::kFinal);
  EXPECT_FALSE(abandon(unknown));

  const std::string waiting = NewId();
  ASSERT_TRUE(CreatePending({waiting}).ok());
  EXPECT_TRUE(abandon(waiting));
  EXPECT_TRUE(abandon(waiting));  // a repeat
  EXPECT_EQ(GetState(waiting)->error, "boom");
  EXPECT_EQ(GetState(waiting)->create_time, kCreated);
}

TEST_F(AmqpBackendTest, TakesPendingBackWithItsQueue) {
  const std::string waiting = NewId();
  const std::string begun = NewId();
  ASSERT_TRUE(CreatePending({waiting, begun}).ok());
  auto take_back = [&](std::vector<std::string> ids) {
    return Await<bool>([&](auto done) {
      backend_->TakeBack(std::move(ids), "nonce", std::move(done));
    });
  };
  EXPECT_EQ(take_back({waiting, "task_never_seen"}).value_or(false), true);
  EXPECT_FALSE(probe_.MessagesReady(waiting).has_value());
  Begin(begun);
  EXPECT_EQ(take_back({begun}).value_or(true), false);
  EXPECT_EQ(GetState(begun)->status, Status::kStarted);
}

TEST_F(AmqpBackendTest, CountsTheEndedMembersOfAGroupAsMachineryDoes) {
  const std::string group = NewId();
  for (Status status : {Status::kSuccess, Status::kFailure, Status::kRetry}) {
    TaskState outcome = RunOf(NewId(), status);
    outcome.group_id = group;
    ASSERT_TRUE(Finish(outcome).ok());
  }
  EXPECT_TRUE(Eventually([&] { return probe_.MessagesReady(group) == 2; }));
  EXPECT_TRUE(GoDeclarer(TestAmqpUrl()).DeclareStateQueue(group, 3'600'000));
}

TEST_F(AmqpBackendTest, AnIdThatNamesAForeignQueueIsRefusedAndHarmsNoOther) {
  const std::string foreign = NewId();
  ASSERT_TRUE(probe_.DeclareQueue(foreign));
  std::vector<penstock::testing::Awaited<FinishAnswer>> others(20);
  penstock::testing::Awaited<FinishAnswer> refused;
  for (size_t i = 0; i < others.size(); ++i) {
    if (i == 10) {
      backend_->Finish({.outcome = RunOf(foreign, Status::kSuccess)},
                       refused.callback());
    }
    backend_->Finish({.outcome = RunOf(NewId(), Status::kSuccess)},
                     others[i].callback());
  }
  for (auto& other : others) EXPECT_TRUE(other.Wait().ok());
  EXPECT_EQ(refused.Wait().status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(probe_.MessagesReady(foreign), 0);
}

TEST_F(AmqpBackendTest, WhatItCannotDoNamesTheSettingAndTheWayOut) {
  std::vector<absl::Status> refused;
  refused.push_back(Await<PendingAnswer>([&](auto done) {
                      backend_->CreateRecord({.id = "group_1"}, kCreated,
                                             absl::Hours(1), std::move(done));
                    }).status());
  refused.push_back(Await<std::optional<GroupMeta>>([&](auto done) {
                      backend_->GetGroupMeta("group_1", std::move(done));
                    }).status());
  refused.push_back(Await<ClaimAnswer>([&](auto done) {
                      backend_->ClaimChord("group_1", "token", kCreated,
                                           absl::Hours(1), std::move(done));
                    }).status());
  refused.push_back(Await<CancelAnswer>([&](auto done) {
                      backend_->Cancel(StateOf("t", Status::kFailure),
                                       absl::Hours(1), std::move(done));
                    }).status());
  refused.push_back(
      AwaitDone([&](Done done) { backend_->Lay({}, std::move(done)); }));
  refused.push_back(Await<bool>([&](auto done) {
                      backend_->SetProgress("t", "run", {}, absl::Hours(1),
                                            std::move(done));
                    }).status());
  refused.push_back(Await<std::vector<DeadTask>>([&](auto done) {
                      backend_->ListDead("q", 1, {}, std::move(done));
                    }).status());
  refused.push_back(Await<std::optional<DeadTask>>([&](auto done) {
                      backend_->GetDead("q", "t", std::move(done));
                    }).status());
  refused.push_back(Await<std::optional<DeadTask>>([&](auto done) {
                      backend_->RemoveDead("q", "t", {}, std::move(done));
                    }).status());
  for (const absl::Status& status : refused) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(status), reason::kBackendUnsupported);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("result_backend"), HasSubstr("redis://")));
  }
}

TEST_F(AmqpBackendTest, ALifeThatMachineryCannotSayIsRefusedAtTheStart) {
  options_.results_expire_in = absl::Seconds(2'147'484);
  const auto backend = OpenAmqpBackend(options_, environment_.get());
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(backend.status().message()),
              HasSubstr("results_expire_in"));
}

TEST_F(AmqpBackendTest, LaysDeadLettersAside) {
  const absl::Status laid = AwaitDone([&](Done done) {
    backend_->LayDead({.queue = options_.default_queue,
                       .reason = "unroutable",
                       .body = "{\"UUID\":\"t\"}"},
                      std::move(done));
  });
  ASSERT_TRUE(laid.ok()) << laid;
  const auto dead =
      probe_.Take(absl::StrCat("penstock.dead.", options_.default_queue));
  ASSERT_TRUE(dead.has_value());
  EXPECT_EQ(dead->body, "{\"UUID\":\"t\"}");
  EXPECT_EQ(dead->headers.at("penstock-reason"), "S:unroutable");
}

TEST_F(AmqpBackendTest, SaysUnavailableWhileTheServerIsAwayAndComesBack) {
  const std::string id = NewId();
  ASSERT_TRUE(CreatePending({id}).ok());
  cutter_.Refuse(true);
  cutter_.Cut();
  const absl::Status read = GetStates({id}).status();
  EXPECT_EQ(read.code(), absl::StatusCode::kUnavailable) << read;
  EXPECT_EQ(ReasonOf(read), reason::kBackendUnavailable);
  const absl::Status written = Finish(RunOf(id, Status::kSuccess));
  EXPECT_EQ(written.code(), absl::StatusCode::kUnavailable) << written;
  EXPECT_EQ(ReasonOf(written), reason::kBackendUnavailable);
  EXPECT_THAT(std::string(written.message()), Not(HasSubstr("guest")));
  cutter_.Refuse(false);
  ASSERT_TRUE(
      Eventually([&] { return Finish(RunOf(id, Status::kSuccess)).ok(); }));
  ASSERT_TRUE(Eventually([&] { return GetStates({id}).ok(); }));
  EXPECT_EQ(GetState(id)->status, Status::kSuccess);
}

TEST_F(AmqpBackendTest, EndsEveryCallWhenTheServerIsSilent) {
  const std::string id = NewId();
  ASSERT_TRUE(CreatePending({id}).ok());
  cutter_.Stall(true);
  penstock::testing::Awaited<States> read;
  penstock::testing::Awaited<FinishAnswer> finish;
  backend_->GetStates({id}, read.callback());
  backend_->Finish({.outcome = RunOf(id, Status::kSuccess)}, finish.callback());
  EXPECT_EQ(read.Wait().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(finish.Wait().status().code(), absl::StatusCode::kUnavailable);
  cutter_.Stall(false);
  ASSERT_TRUE(Eventually([&] { return GetStates({id}).ok(); }));
}

TEST_F(AmqpBackendTest, AnswersAllThatIsPendingWhenItIsDestroyed) {
  const std::string id = NewId();
  cutter_.Stall(true);
  penstock::testing::Awaited<States> read;
  penstock::testing::Awaited<FinishAnswer> finish;
  backend_->GetStates({id}, read.callback());
  backend_->Finish({.outcome = RunOf(id, Status::kSuccess)}, finish.callback());
  backend_.reset();
  EXPECT_TRUE(read.HasArrived());
  EXPECT_TRUE(finish.HasArrived());
}

TEST_F(AmqpBackendTest, AGroupIsRefusedBeforeAnythingIsSent) {
  OpenLifecycle();
  const std::string id = NewId();
  const absl::Status sent =
      Await<Submitted>([&](auto done) {
        lifecycle_->SubmitGroup({.id = absl::StrCat("group_", id),
                                 .members = {{.id = id, .name = "add"}}},
                                {.payload_hash = "hash"}, std::move(done));
      }).status();
  EXPECT_EQ(ReasonOf(sent), reason::kBackendUnsupported) << sent;
  EXPECT_FALSE(probe_.MessagesReady(id).has_value());
  EXPECT_EQ(probe_.MessagesReady(options_.default_queue), 0);
}

TEST_F(AmqpBackendTest, AFailedLinkEndsTheRestOfItsChain) {
  OpenLifecycle();
  const std::string first = NewId();
  const std::string second = NewId();
  const absl::Status sent =
      Await<Submitted>([&](auto done) {
        lifecycle_->SubmitChain(
            {{.id = first, .name = "add"}, {.id = second, .name = "multiply"}},
            {.payload_hash = "hash"}, std::move(done));
      }).status();
  ASSERT_TRUE(sent.ok()) << sent;
  const auto delivery = probe_.Take(options_.default_queue);
  ASSERT_TRUE(delivery.has_value());
  const absl::StatusOr<Task> task = DecodeTask(delivery->body);
  ASSERT_TRUE(task.ok());
  const auto begun = Await<BeginVerdict>([&](auto done) {
    lifecycle_->Begin(std::make_shared<const Task>(*task),
                      options_.default_queue, "worker",
                      Lifecycle::Begins::kRecorded, std::move(done));
  });
  ASSERT_TRUE(begun.ok()) << begun.status();
  ASSERT_EQ(begun->kind, BeginVerdict::kRun);
  const auto ended = Await<FinishVerdict>([&](auto done) {
    lifecycle_->Finish(*task, *begun, "worker",
                       {.kind = Outcome::kFailure, .error = "boom"},
                       std::move(done));
  });
  ASSERT_TRUE(ended.ok()) << ended.status();
  EXPECT_EQ(GetState(first)->status, Status::kFailure);
  EXPECT_EQ(GetState(second)->status, Status::kFailure);
  EXPECT_THAT(GetState(second)->error, HasSubstr("boom"));
}

// A Go client's chord: the worker goes on, and does not hold the delivery.
TEST_F(AmqpBackendTest, AGoChordsMemberEndsWithoutItsCallback) {
  OpenLifecycle();
  Task member = {.id = NewId(), .name = "add", .group_id = NewId()};
  member.group_task_count = 1;
  member.chord_callback = EncodeTask({.id = NewId(), .name = "sum"});
  const auto begun = Await<BeginVerdict>([&](auto done) {
    lifecycle_->Begin(std::make_shared<const Task>(member),
                      options_.default_queue, "worker",
                      Lifecycle::Begins::kRecorded,
                      std::move(done));
  });
  ASSERT_TRUE(begun.ok()) << begun.status();
  const auto ended = Await<FinishVerdict>([&](auto done) {
    lifecycle_->Finish(member, *begun, "worker", {.kind = Outcome::kSuccess},
                       std::move(done));
  });
  ASSERT_TRUE(ended.ok()) << ended.status();
  EXPECT_EQ(GetState(member.id)->status, Status::kSuccess);
  EXPECT_EQ(probe_.MessagesReady(member.group_id), 1);
  EXPECT_EQ(probe_.MessagesReady(options_.default_queue), 0);
}

// ---- delay queues -----------------------------------------------------------

TEST_F(AmqpBackendTest, OnlyWithResultsInRabbitMqDoesTheBrokerKeepDelays) {
  OpenBroker();
  EXPECT_TRUE(broker_->KeepsDelayed());
  options_.result_backend = "redis://127.0.0.1:6379";
  OpenBroker();
  EXPECT_FALSE(broker_->KeepsDelayed());
}

// The delay queue of a task that is due about `ms` from now, as its name says.
std::optional<int64_t> FindDelay(AmqpProbe& probe, int64_t ms,
                                 const std::string& suffix) {
  for (int64_t at = ms; at > ms - 2'000; --at) {
    if (probe.MessagesReady(absl::StrCat("delay.", at, ".", suffix)) == 1) {
      return at;
    }
  }
  return std::nullopt;
}

TEST_F(AmqpBackendTest, ADelayedTaskWaitsInMachinerysDelayQueue) {
  OpenBroker();
  Answer answer;
  broker_->PublishAt({.task_id = "task_1",
                      .routing_key = "some_key",
                      .body = "{\"later\":1}",
                      .priority = 4,
                      .headers = {{"text", "\"a\""}}},
                     environment_->Now() + absl::Seconds(60),
                     answer.TakeDone());
  ASSERT_TRUE(answer.Wait().ok());
  const std::string suffix = absl::StrCat(options_.amqp.exchange, ".some_key");
  const std::optional<int64_t> ms = FindDelay(probe_, 60'000, suffix);
  ASSERT_TRUE(ms.has_value());
  const std::string name = absl::StrCat("delay.", *ms, ".", suffix);
  queues_.push_back(name);
  EXPECT_TRUE(
      GoDeclarer(TestAmqpUrl())
          .DeclareDelayQueue(name, *ms, options_.amqp.exchange, "some_key"));
  const auto message = probe_.Take(name);
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->body, "{\"later\":1}");
  EXPECT_EQ(message->content_type, "application/json");
  EXPECT_EQ(message->delivery_mode, 2);
  EXPECT_EQ(message->priority, 4);
  EXPECT_EQ(message->headers.at("text"), "S:a");
}

TEST_F(AmqpBackendTest, ADelayedTaskForOneQueueComesBackPastTheExchange) {
  OpenBroker();
  const std::string target = NewId();
  Answer answer;
  broker_->PublishAt({.task_id = "task_1", .queue = target, .body = "{}"},
                     environment_->Now() + absl::Seconds(60),
                     answer.TakeDone());
  ASSERT_TRUE(answer.Wait().ok());
  const std::string suffix = absl::StrCat(".", target);
  const std::optional<int64_t> ms = FindDelay(probe_, 60'000, suffix);
  ASSERT_TRUE(ms.has_value());
  queues_.push_back(absl::StrCat("delay.", *ms, ".", suffix));
  EXPECT_TRUE(GoDeclarer(TestAmqpUrl())
                  .DeclareDelayQueue(queues_.back(), *ms, "", target));
}

TEST_F(AmqpBackendTest, DelayedTasksArriveWhenTheyAreDueAndNotBefore) {
  OpenBroker();
  Inbox inbox;
  auto consumer = broker_->Consume({.prefetch = 100}, inbox.Sink());
  ASSERT_TRUE(consumer.ok()) << consumer.status();
  // Past, now, and both sides of what the publisher keeps itself.
  const std::vector<int> delays_ms = {-5, 0, 1, 2, 100, 249, 251, 400, 900};
  const absl::Time begin = environment_->Now();
  std::vector<Answer> answers(delays_ms.size());
  for (size_t i = 0; i < delays_ms.size(); ++i) {
    broker_->PublishAt({.task_id = absl::StrCat("task_", i),
                        .body = absl::StrCat(delays_ms[i])},
                       begin + absl::Milliseconds(delays_ms[i]),
                       answers[i].TakeDone());
  }
  std::vector<std::string> bodies;
  for (size_t i = 0; i < delays_ms.size(); ++i) {
    const Delivery delivery = inbox.Next();
    (*consumer)->Ack(delivery.tag);
    bodies.push_back(delivery.body);
    // RabbitMQ's clock and ours are one; its timers may be a little early.
    EXPECT_GE(environment_->Now(),
              begin + absl::Milliseconds(std::stoi(delivery.body) - 5));
  }
  for (Answer& answer : answers) EXPECT_TRUE(answer.Wait().ok());
  EXPECT_THAT(bodies,
              ::testing::UnorderedElementsAre("-5", "0", "1", "2", "100", "249",
                                              "251", "400", "900"));
}

TEST_F(AmqpBackendTest, ManyDelayedTasksAllArrive) {
  OpenBroker();
  Inbox inbox;
  auto consumer = broker_->Consume({.prefetch = 2'000}, inbox.Sink());
  ASSERT_TRUE(consumer.ok()) << consumer.status();
  constexpr int kTasks = 200;
  std::vector<Answer> answers(kTasks);
  const absl::Time begin = environment_->Now();
  for (int i = 0; i < kTasks; ++i) {
    broker_->PublishAt(
        {.task_id = absl::StrCat("task_", i), .body = absl::StrCat(i)},
        begin + absl::Milliseconds(300 + i % 20), answers[i].TakeDone());
  }
  for (Answer& answer : answers) ASSERT_TRUE(answer.Wait().ok());
  std::set<std::string> seen;
  while (seen.size() < kTasks) {
    const Delivery delivery = inbox.Next();
    ASSERT_FALSE(delivery.body.empty()) << seen.size();
    (*consumer)->Ack(delivery.tag);
    seen.insert(delivery.body);
  }
}

TEST_F(AmqpBackendTest, ADelayThatRabbitMqCannotKeepIsRefused) {
  OpenBroker();
  Answer answer;
  broker_->PublishAt({.task_id = "task_1", .routing_key = "k", .body = "{}"},
                     environment_->Now() + absl::Hours(24 * 365 * 20),
                     answer.TakeDone());
  EXPECT_EQ(answer.Wait().code(), absl::StatusCode::kInternal);
  // The others go on.
  EXPECT_TRUE(penstock::testing::PublishAndWait(
                  *broker_, {.task_id = "task_2", .body = "{}"})
                  .ok());
}

// ---- a server of its own ----------------------------------------------------

TEST(AmqpBackendRestartTest, WorksAgainAfterARestart) {
  RabbitServer server;
  ASSERT_TRUE(server.Start().ok());
  const auto environment = MakeSystemEnvironment();
  const Options options = UniqueOptions(server.url());
  auto backend = OpenAmqpBackend(options, environment.get());
  ASSERT_TRUE(backend.ok());
  auto finish = [&](const std::string& id) {
    return Await<FinishAnswer>([&](auto done) {
             (*backend)->Finish({.outcome = RunOf(id, Status::kSuccess)},
                                std::move(done));
           })
        .status();
  };
  auto read = [&](const std::string& id) {
    return Await<States>(
        [&](auto done) { (*backend)->GetStates({id}, std::move(done)); });
  };
  ASSERT_TRUE(Eventually([&] { return finish("task_1").ok(); }));
  ASSERT_TRUE(server.Restart().ok());
  ASSERT_TRUE(Eventually([&] { return finish("task_2").ok(); }));
  ASSERT_TRUE(Eventually([&] { return read("task_2").ok(); }));
  EXPECT_EQ(read("task_2")->front()->status, Status::kSuccess);
  // States are not kept through a restart, and that shows.
  EXPECT_FALSE(read("task_1")->front().has_value());
}

TEST(AmqpBackendRestartTest, AnAlarmEndsWritesAtTheirDeadline) {
  RabbitServer server;
  ASSERT_TRUE(server.Start().ok());
  const auto environment = MakeSystemEnvironment();
  auto backend =
      OpenAmqpBackend(UniqueOptions(server.url()), environment.get());
  ASSERT_TRUE(backend.ok());
  auto finish = [&] {
    return Await<FinishAnswer>([&](auto done) {
             (*backend)->Finish({.outcome = RunOf("task_1", Status::kSuccess)},
                                std::move(done));
           })
        .status();
  };
  ASSERT_TRUE(Eventually([&] { return finish().ok(); }));
  ASSERT_TRUE(server.Control({"set_vm_memory_high_watermark", "0"}).ok());
  ASSERT_TRUE(Eventually([&] {
    const absl::Status status = finish();
    return status.code() == absl::StatusCode::kUnavailable;
  }));
  // Reads go on: only what publishes is blocked.
  const auto states = Await<States>(
      [&](auto done) { (*backend)->GetStates({"task_1"}, std::move(done)); });
  ASSERT_TRUE(states.ok()) << states.status();
  EXPECT_EQ(states->front()->status, Status::kSuccess);
  ASSERT_TRUE(server.Control({"set_vm_memory_high_watermark", "0.4"}).ok());
  EXPECT_TRUE(Eventually([&] { return finish().ok(); }));
}

}  // namespace
}  // namespace penstock
