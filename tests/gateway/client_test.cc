// The C++ client against a gateway, and against one that does as a test tells
// it to: errors, breaks, silence.

#include "penstock/client.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "tests/gateway/gateway_fixture.h"
#include "tests/support/certificates.h"
#include "tests/support/process.h"

namespace penstock {
namespace {

using client::CallOptions;
using client::Client;
using client::ClientOptions;
using client::ErrorOf;
using client::GroupHandle;
using client::MakeTask;
using client::TaskHandle;
using client::TaskStatus;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Le;
using ::testing::SizeIs;

// ---- against a gateway ----------------------------------------------------

class ClientTest : public GatewayTest {
 protected:
  void SetUp() override {
    StartBoth();
    client_ = std::make_unique<Client>(server_->address());
  }

  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, ResultsComeAsTheTypesThatAreAskedFor) {
  const auto sum = client_->Send("add", 1, 2);
  ASSERT_TRUE(sum.ok()) << sum.status();
  EXPECT_FALSE(sum->replayed());
  EXPECT_EQ(*sum->Result<int64_t>(kPatience), 3);
  EXPECT_EQ(*sum->Result<double>(kPatience), 3.0);
  EXPECT_EQ(ErrorOf(sum->Result<std::string>(kPatience).status()).reason,
            "RESULT_TYPE");

  const auto swapped = client_->Send("swap", "a", "b");
  ASSERT_TRUE(swapped.ok()) << swapped.status();
  EXPECT_EQ((*swapped->Result<std::pair<std::string, std::string>>(kPatience)),
            (std::pair<std::string, std::string>("b", "a")));
}

TEST_F(ClientTest, ARunBringsTheResult) {
  EXPECT_EQ(*client_->Run<int64_t>(MakeTask("add", 1, 2), kPatience), 3);
  const auto failed = client_->Run<int64_t>(MakeTask("panic"), kPatience);
  EXPECT_EQ(ErrorOf(failed.status()).reason, "TASK_FAILED");
  const auto late = client_->Run<int64_t>(
      {.name = "add", .delay = absl::Hours(1)}, absl::Milliseconds(50));
  EXPECT_EQ(ErrorOf(late.status()).reason, "NOT_FINISHED");
  const auto bad = client_->Run<int64_t>(MakeTask(""), kPatience);
  EXPECT_EQ(ErrorOf(bad.status()).reason, "INVALID_FIELD");
  absl::Notification ended;
  client_->RunAsync<int64_t>(MakeTask("add", 2, 2), kPatience,
                             [&](absl::StatusOr<int64_t> sum) {
                               EXPECT_EQ(*sum, 4);
                               ended.Notify();
                             });
  ended.WaitForNotification();
}

TEST_F(ClientTest, GroupTellsOfEachMember) {
  const auto group = client_->SendGroup(
      {.tasks = {MakeTask("add", 1), MakeTask("return_just_error", "bad", true),
                 MakeTask("add", 2, 3)}});
  ASSERT_TRUE(group.ok()) << group.status();
  ASSERT_THAT(group->task_ids(), SizeIs(3));
  for (const GroupHandle& handle : {*group, client_->group(group->id())}) {
    const auto results = handle.Results<int64_t>(kPatience);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_THAT(*results, SizeIs(3));
    EXPECT_EQ(*(*results)[0], 1);
    EXPECT_EQ(*(*results)[2], 5);
    const auto error = ErrorOf((*results)[1].status());
    EXPECT_EQ(error.reason, "TASK_FAILED");
    ASSERT_TRUE(error.task.has_value());
    EXPECT_EQ(error.task->task_id, group->task_ids()[1]);
    EXPECT_EQ(error.task->message, "bad");
  }
  const auto state = group->State();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(state->done);
  EXPECT_EQ(state->counts.at(TaskStatus::kSuccess), 2);
}

TEST_F(ClientTest, ChainAndChordGiveTheirResultsToTheLast) {
  const auto chain = client_->SendChain(
      {MakeTask("add", 2, 2), MakeTask("add", 5, 6), MakeTask("multiply", 4)});
  ASSERT_TRUE(chain.ok()) << chain.status();
  ASSERT_THAT(*chain, SizeIs(3));
  EXPECT_EQ(*chain->back().Result<int64_t>(kPatience), 60);

  const auto chord = client_->SendChord(
      {.tasks = {MakeTask("add", 1, 1), MakeTask("add", 5, 6)},
       .callback = MakeTask("multiply")});
  ASSERT_TRUE(chord.ok()) << chord.status();
  EXPECT_EQ(*chord->callback.Result<int64_t>(kPatience), 22);
  const auto state = chord->group.Wait(kPatience);
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_TRUE(state->callback.has_value());
  EXPECT_EQ(state->callback->task_id, chord->callback.id());
}

TEST_F(ClientTest, FailureAndBadFieldsAreTold) {
  const auto task = client_->Send("panic");
  ASSERT_TRUE(task.ok()) << task.status();
  const auto result = task->Result<int64_t>(kPatience);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kAborted);
  const auto failure = ErrorOf(result.status()).task;
  ASSERT_TRUE(failure.has_value());
  EXPECT_EQ(failure->status, TaskStatus::kFailure);
  EXPECT_EQ(failure->type, "exception");
  EXPECT_EQ(failure->message, "oops");

  const auto bad = client_->Send("", client::Value::Typed("int8", 300));
  const auto error = ErrorOf(bad.status());
  EXPECT_EQ(error.code, absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error.reason, "INVALID_FIELD");
  ASSERT_THAT(error.violations, SizeIs(2));
  EXPECT_EQ(error.violations[0].field, "task.name");
  EXPECT_EQ(error.violations[1].field, "task.args[0].int_value");
}

TEST_F(ClientTest, TaskThatWaitsIsCancelled) {
  const auto task =
      client_->Send({.name = "add", .args = {1}, .delay = absl::Hours(1)});
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(task->State()->status, TaskStatus::kPending);
  const auto none = task->Result<int64_t>(absl::Milliseconds(50));
  EXPECT_EQ(none.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ErrorOf(none.status()).reason, "NOT_FINISHED");

  const auto cancelled = task->Cancel("not needed");
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_TRUE(cancelled->accepted);
  EXPECT_EQ(cancelled->state.status, TaskStatus::kCancelled);
  EXPECT_FALSE(task->Cancel()->accepted);
  const auto error =
      ErrorOf(client_->task(task->id()).Result<int64_t>(kPatience).status());
  EXPECT_EQ(error.code, absl::StatusCode::kCancelled);
  EXPECT_EQ(error.reason, "TASK_CANCELLED");
  EXPECT_EQ(error.task->message, "cancelled: not needed");

  const auto group =
      client_->SendGroup({.tasks = {{.name = "add", .delay = absl::Hours(1)},
                                    {.name = "add", .delay = absl::Hours(1)}}});
  EXPECT_EQ(group->Cancel()->count, 2);
}

TEST_F(ClientTest, WatchTellsTheLastState) {
  const auto task = client_->Send("add", 1);
  TaskStatus last = TaskStatus::kUnknown;
  EXPECT_TRUE(task->Watch(kPatience,
                          [&](const client::TaskState& state) {
                            last = state.status;
                            return true;
                          })
                  .ok());
  EXPECT_EQ(last, TaskStatus::kSuccess);

  const auto waits = client_->Send({.name = "add", .delay = absl::Hours(1)});
  const auto all = [](const client::TaskState&) { return true; };
  EXPECT_EQ(ErrorOf(waits->Watch(absl::Milliseconds(50), all)).reason,
            "NOT_FINISHED");
  EXPECT_TRUE(waits->Watch(kPatience, [](const auto&) { return false; }).ok());
  EXPECT_EQ(ErrorOf(client_->Watch({"nobody"}, kPatience, all)).reason,
            "TASK_NOT_FOUND");
}

TEST_F(ClientTest, ManyTasksHaveAnOutcomeEach) {
  std::vector<client::Task> tasks(1200, MakeTask("add", 1));
  tasks[600].name = "";
  tasks[700].eta = absl::InfiniteFuture();  // which the client refuses itself
  const client::ManyHandles handles = client_->SendMany(tasks);
  ASSERT_THAT(handles, SizeIs(1200));
  std::vector<std::string> ids;
  for (size_t i = 0; i < handles.size(); ++i) {
    EXPECT_EQ(handles[i].ok(), i != 600 && i != 700) << i;
    if (i % 100 == 1) ids.push_back(handles[i]->id());
  }
  EXPECT_EQ(ErrorOf(handles[600].status()).reason, "INVALID_FIELD");
  ids.push_back("nobody");
  const auto states = client_->States(ids);
  ASSERT_TRUE(states.ok()) << states.status();
  EXPECT_FALSE(states->back().has_value());
  EXPECT_EQ((*states)[3]->task_id, ids[3]);
  EXPECT_EQ(*handles[1199]->Result<int64_t>(kPatience), 1);
  EXPECT_THAT(client_->SendMany({}), IsEmpty());
}

TEST_F(ClientTest, StreamAnswersEachTask) {
  client::TaskStream stream = client_->OpenStream();
  constexpr int kTasks = 2500;  // more than the credit
  absl::Mutex mu;
  std::map<int, std::string> ids;
  std::vector<std::string> refused;
  for (int i = 0; i < kTasks; ++i) {
    stream.Send(i == 7 ? MakeTask("") : MakeTask("add", i),
                [&, i](absl::StatusOr<TaskHandle> task) {
                  absl::MutexLock lock(&mu);
                  if (task.ok()) {
                    ids[i] = task->id();
                  } else {
                    refused.push_back(ErrorOf(task.status()).reason);
                  }
                });
  }
  stream.Close();
  EXPECT_THAT(refused, ElementsAre("INVALID_FIELD"));
  ASSERT_EQ(ids.size(), kTasks - 1);
  EXPECT_EQ(*client_->task(ids[2499]).Result<int64_t>(kPatience), 2499);
}

TEST_F(ClientTest, CallsThatDoNotBlockGiveTheSame) {
  absl::Notification done;
  absl::StatusOr<int64_t> sum = absl::UnknownError("");
  client_->SendChordAsync({.tasks = {MakeTask("add", 1), MakeTask("add", 2)},
                           .callback = MakeTask("add")},
                          [&](absl::StatusOr<client::ChordHandle> chord) {
                            ASSERT_TRUE(chord.ok()) << chord.status();
                            chord->callback.ResultAsync<int64_t>(
                                kPatience, [&](absl::StatusOr<int64_t> result) {
                                  sum = std::move(result);
                                  done.Notify();
                                });
                          });
  done.WaitForNotification();
  EXPECT_EQ(*sum, 3);
}

TEST_F(ClientTest, HandlesOutliveTheirClient) {
  const auto task = client_->Send("add", 4);
  client_.reset();
  EXPECT_EQ(*task->Result<int64_t>(kPatience), 4);
}

TEST_F(ClientTest, AClientMayGoInsideOfItsOwnCallback) {
  for (int i = 0; i < 5; ++i) {
    absl::Notification done;
    auto client = std::make_shared<Client>(server_->address());
    Client* const raw = client.get();
    raw->SendAsync(MakeTask("add", 1),
                   [&done, client = std::move(client)](
                       absl::StatusOr<TaskHandle> task) mutable {
                     EXPECT_TRUE(task.ok()) << task.status();
                     task = absl::UnknownError("gone");
                     client.reset();
                     done.Notify();
                   });
    done.WaitForNotification();
  }
}

TEST_F(ClientTest, AGatewayThatIsAwayIsLeftOut) {
  const std::string away =
      absl::StrCat("127.0.0.1:", penstock::testing::FreePort());
  Client both({away, server_->address()});
  for (int i = 0; i < 20; ++i) {
    const auto task = both.Send("add", i);
    ASSERT_TRUE(task.ok()) << task.status();
  }
}

TEST_F(ClientTest, CallsUnderOneRequestIdAreOneCall) {
  const CallOptions options{.request_id = "order-7"};
  const auto first = client_->Send(MakeTask("add", 1), options);
  const auto again = client_->Send(MakeTask("add", 1), options);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(first->id(), again->id());
  EXPECT_TRUE(again->replayed());
  EXPECT_EQ(ErrorOf(client_->Send(MakeTask("add", 2), options).status()).reason,
            "REQUEST_ID_REUSED");
}

// ---- against one that does as it is told ----------------------------------

grpc::Status ErrorWith(grpc::StatusCode code, const std::string& reason,
                       absl::Duration retry_delay = absl::ZeroDuration()) {
  google::rpc::Status rich;
  rich.set_code(code);
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  rich.add_details()->PackFrom(info);
  if (retry_delay > absl::ZeroDuration()) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(retry_delay)));
    rich.add_details()->PackFrom(retry);
  }
  return grpc::Status(code, reason, rich.SerializeAsString());
}

grpc::Status Unavailable() {
  return ErrorWith(grpc::StatusCode::UNAVAILABLE, "BROKER_UNAVAILABLE");
}

class ScriptedGateway final : public v1::GatewayService::Service {
 public:
  using Stream =
      grpc::ServerReaderWriter<v1::StreamTasksResponse, v1::StreamTasksRequest>;

  explicit ScriptedGateway(
      std::shared_ptr<grpc::ServerCredentials> credentials =
          grpc::InsecureServerCredentials()) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("localhost:0", credentials, &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }

  ~ScriptedGateway() override {
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
  }

  std::string address() const { return absl::StrCat("localhost:", port_); }

  // What each call does, from 1: set before the first one.
  std::function<grpc::Status(int call, grpc::ServerContext&,
                             const v1::SendTaskRequest&, v1::SendTaskResponse*)>
      on_send;
  std::function<grpc::Status(int call, const v1::BatchSendTasksRequest&,
                             v1::BatchSendTasksResponse*)>
      on_batch;
  std::function<grpc::Status(int call, v1::GetStateResponse*)> on_get;
  std::function<grpc::Status(int call,
                             grpc::ServerWriter<v1::WatchStateResponse>*)>
      on_watch;
  std::function<grpc::Status(int call, Stream*)> on_stream;

  std::atomic<int> calls{0};

 private:
  grpc::Status SendTask(grpc::ServerContext* context,
                        const v1::SendTaskRequest* request,
                        v1::SendTaskResponse* response) override {
    return on_send(++calls, *context, *request, response);
  }
  grpc::Status BatchSendTasks(grpc::ServerContext*,
                              const v1::BatchSendTasksRequest* request,
                              v1::BatchSendTasksResponse* response) override {
    return on_batch(++calls, *request, response);
  }
  grpc::Status GetState(grpc::ServerContext*, const v1::GetStateRequest*,
                        v1::GetStateResponse* response) override {
    return on_get(++calls, response);
  }
  grpc::Status WatchState(
      grpc::ServerContext*, const v1::WatchStateRequest*,
      grpc::ServerWriter<v1::WatchStateResponse>* writer) override {
    return on_watch(++calls, writer);
  }
  grpc::Status StreamTasks(grpc::ServerContext*, Stream* stream) override {
    return on_stream(++calls, stream);
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST(ClientRetriesTest, TriesAgainUnderTheSameRequestId) {
  ScriptedGateway gateway;
  absl::Mutex mu;
  std::set<std::string> request_ids;
  gateway.on_send = [&](int call, grpc::ServerContext&,
                        const v1::SendTaskRequest& request,
                        v1::SendTaskResponse* response) {
    absl::MutexLock lock(&mu);
    request_ids.insert(request.request_id());
    if (call == 1) return Unavailable();
    if (call == 2) {
      return ErrorWith(grpc::StatusCode::DEADLINE_EXCEEDED, "CONFIRM_TIMEOUT");
    }
    if (call == 3) {
      return ErrorWith(grpc::StatusCode::RESOURCE_EXHAUSTED,
                       "TOO_MANY_IN_FLIGHT", absl::Milliseconds(10));
    }
    response->set_task_id("t");
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  const auto task = client.Send("f");
  ASSERT_TRUE(task.ok()) << task.status();
  EXPECT_EQ(gateway.calls, 4);
  ASSERT_THAT(request_ids, SizeIs(1));
  EXPECT_THAT(*request_ids.begin(), SizeIs(36));
  ASSERT_TRUE(client.Send("f").ok());
  EXPECT_THAT(request_ids, SizeIs(2));  // another call
}

TEST(ClientRetriesTest, ARunIsRepeatedWithoutItsWait) {
  ScriptedGateway gateway;
  absl::Mutex mu;
  std::vector<v1::SendTaskRequest> sent;
  gateway.on_send = [&](int call, grpc::ServerContext&,
                        const v1::SendTaskRequest& request,
                        v1::SendTaskResponse* response) {
    absl::MutexLock lock(&mu);
    sent.push_back(request);
    if (call == 1) return Unavailable();
    response->set_task_id("t");
    response->mutable_state()->set_status(v1::TASK_STATUS_SUCCESS);
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  EXPECT_TRUE(client.Run<std::tuple<>>(MakeTask("f"), absl::Seconds(7)).ok());
  ASSERT_THAT(sent, SizeIs(2));
  EXPECT_EQ(sent[0].wait().seconds(), 7);
  EXPECT_FALSE(sent[1].has_wait());
  EXPECT_EQ(sent[0].request_id(), sent[1].request_id());

  gateway.on_send = [&](int, auto&, auto&, auto*) { return Unavailable(); };
  gateway.calls = 0;
  EXPECT_FALSE(client
                   .Run<std::tuple<>>(MakeTask("f"), absl::Seconds(7),
                                      {.retry_budget = absl::ZeroDuration()})
                   .ok());
  EXPECT_EQ(gateway.calls, 1);
  EXPECT_FALSE(
      client.Run<std::tuple<>>(MakeTask("f"), absl::Milliseconds(200)).ok());
}

TEST(ClientRetriesTest, ARunThatHasNotEndedIsWaitedFor) {
  ScriptedGateway gateway;
  gateway.on_send = [](int, grpc::ServerContext&,
                       const v1::SendTaskRequest& request,
                       v1::SendTaskResponse* response) {
    EXPECT_EQ(request.wait().seconds(), 30);
    response->set_task_id("t");
    response->mutable_state()->set_status(v1::TASK_STATUS_STARTED);
    return grpc::Status::OK;
  };
  gateway.on_get = [](int, v1::GetStateResponse* response) {
    response->mutable_state()->set_status(v1::TASK_STATUS_SUCCESS);
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  EXPECT_TRUE(client.Run<std::tuple<>>(MakeTask("f"), absl::Hours(1)).ok());
  EXPECT_EQ(gateway.calls, 2);
}

TEST(ClientRetriesTest, GivesUpWhenItsBudgetIsOver) {
  ScriptedGateway gateway;
  gateway.on_send = [&](int, auto&, auto&, auto*) { return Unavailable(); };
  Client client(gateway.address(), {.retry_budget = absl::Milliseconds(300)});
  const auto task = client.Send("f");
  EXPECT_EQ(ErrorOf(task.status()).reason, "BROKER_UNAVAILABLE");
  EXPECT_THAT(gateway.calls.load(), AllOf(Ge(2), Le(8)));

  gateway.calls = 0;
  EXPECT_FALSE(
      client.Send(MakeTask("f"), {.retry_budget = absl::ZeroDuration()}).ok());
  EXPECT_EQ(gateway.calls, 1);
}

TEST(ClientRetriesTest, WhatCannotPassIsTriedOnce) {
  ScriptedGateway gateway;
  gateway.on_send = [&](int, auto&, auto&, auto*) {
    return ErrorWith(grpc::StatusCode::RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE");
  };
  Client client(gateway.address());
  EXPECT_EQ(ErrorOf(client.Send("f").status()).reason, "PAYLOAD_TOO_LARGE");
  EXPECT_EQ(gateway.calls, 1);
}

TEST(ClientRetriesTest, SilenceEndsWithTheDeadline) {
  ScriptedGateway gateway;
  absl::Notification over;
  gateway.on_send = [&](int, auto&, auto&, auto*) {
    over.WaitForNotification();
    return grpc::Status::OK;
  };
  Client client(gateway.address(), {.deadline = absl::Seconds(60)});
  const auto task =
      client.Send(MakeTask("f"), {.deadline = absl::Milliseconds(50)});
  EXPECT_EQ(task.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(gateway.calls, 1);
  over.Notify();
}

TEST(ClientRetriesTest, MetadataGoesWithTheCall) {
  ScriptedGateway gateway;
  std::multimap<std::string, std::string> seen;
  gateway.on_send = [&](int, grpc::ServerContext& context, auto&, auto*) {
    for (const auto& [key, value] : context.client_metadata()) {
      seen.emplace(std::string(key.data(), key.size()),
                   std::string(value.data(), value.size()));
    }
    return grpc::Status::OK;
  };
  Client client(gateway.address(), {.metadata = {{"x-team", "a"}}});
  ASSERT_TRUE(
      client.Send(MakeTask("f"), {.metadata = {{"traceparent", "00-1"}}}).ok());
  EXPECT_EQ(seen.find("x-team")->second, "a");
  EXPECT_EQ(seen.find("traceparent")->second, "00-1");
}

TEST(ClientRetriesTest, BatchIsRepeatedForWhatWasNotSent) {
  ScriptedGateway gateway;
  absl::Mutex mu;
  std::set<std::string> calls;
  gateway.on_batch = [&](int call, const v1::BatchSendTasksRequest& request,
                         v1::BatchSendTasksResponse* response) {
    absl::MutexLock lock(&mu);
    calls.insert(request.SerializeAsString());
    for (int i = 0; i < request.tasks_size(); ++i) {
      v1::SendTaskResult* result = response->add_results();
      if (i == 1 && call == 1) {
        result->mutable_status()->set_code(grpc::StatusCode::UNAVAILABLE);
      } else if (i == 2) {
        result->mutable_status()->set_code(grpc::StatusCode::INVALID_ARGUMENT);
      } else {
        result->set_task_id(absl::StrCat("t", i));
      }
    }
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  const auto handles = client.SendMany(
      {MakeTask("f"), MakeTask("f"), MakeTask(""), MakeTask("f")});
  EXPECT_EQ(gateway.calls, 2);
  EXPECT_THAT(calls, SizeIs(1));
  EXPECT_EQ(handles[1]->id(), "t1");
  EXPECT_EQ(handles[2].status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ClientRetriesTest, WhatABatchHasSentIsToldWhenTheRestCannotBe) {
  ScriptedGateway gateway;
  gateway.on_batch = [&](int call, const v1::BatchSendTasksRequest&,
                         v1::BatchSendTasksResponse* response) {
    if (call > 1) return Unavailable();
    response->add_results()->set_task_id("t0");
    response->add_results()->mutable_status()->set_code(
        grpc::StatusCode::UNAVAILABLE);
    return grpc::Status::OK;
  };
  Client client(gateway.address(), {.retry_budget = absl::Milliseconds(200)});
  const auto handles = client.SendMany({MakeTask("f"), MakeTask("f")});
  EXPECT_GE(gateway.calls, 2);
  EXPECT_EQ(handles[0]->id(), "t0");
  EXPECT_EQ(handles[1].status().code(), absl::StatusCode::kUnavailable);
}

TEST(ClientRetriesTest, AWaitThatEndsEarlyIsNotAskedForInALoop) {
  ScriptedGateway gateway;
  gateway.on_get = [&](int call, v1::GetStateResponse* response) {
    response->mutable_state()->set_status(call <= 3 ? v1::TASK_STATUS_STARTED
                                                    : v1::TASK_STATUS_SUCCESS);
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  const absl::Time began = absl::Now();
  EXPECT_TRUE(client.task("t").Wait(kPatience).ok());
  EXPECT_EQ(gateway.calls, 4);
  EXPECT_GE(absl::Now() - began, absl::Milliseconds(500));
}

TEST(ClientRetriesTest, WatchGoesOnAfterABreakAndRepeatsNothing) {
  ScriptedGateway gateway;
  gateway.on_watch = [&](int call,
                         grpc::ServerWriter<v1::WatchStateResponse>* writer) {
    v1::WatchStateResponse news;
    news.mutable_keepalive();
    writer->Write(news);
    news.mutable_state()->set_task_id("t");
    news.mutable_state()->set_status(v1::TASK_STATUS_STARTED);
    writer->Write(news);
    if (call < 3) return Unavailable();
    news.mutable_state()->set_status(v1::TASK_STATUS_SUCCESS);
    writer->Write(news);
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  std::vector<TaskStatus> told;
  const absl::Status end =
      client.Watch({"t"}, kPatience, [&](const client::TaskState& state) {
        told.push_back(state.status);
        return true;
      });
  EXPECT_TRUE(end.ok()) << end;
  EXPECT_EQ(gateway.calls, 3);
  EXPECT_THAT(told, ElementsAre(TaskStatus::kStarted, TaskStatus::kSuccess));
}

// Collects what a stream answers.
class Answers {
 public:
  client::TaskStream::Answer Next() {
    return [this](absl::StatusOr<TaskHandle> task) {
      absl::MutexLock lock(&mu_);
      task.ok() ? ids_.push_back(task->id()) : errors_.push_back(task.status());
    };
  }
  std::vector<std::string> ids() {
    absl::MutexLock lock(&mu_);
    return ids_;
  }
  std::vector<absl::Status> errors() {
    absl::MutexLock lock(&mu_);
    return errors_;
  }

 private:
  absl::Mutex mu_;
  std::vector<std::string> ids_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::Status> errors_ ABSL_GUARDED_BY(mu_);
};

void GiveCredit(ScriptedGateway::Stream& stream, int credit,
                int max_tasks = 0) {
  v1::StreamTasksResponse opening;
  opening.set_credit(credit);
  opening.set_max_tasks(max_tasks);
  stream.Write(opening);
}

void Accept(const v1::StreamTasksRequest& request,
            ScriptedGateway::Stream& stream) {
  v1::StreamTasksResponse answer;
  answer.set_sequence(request.sequence());
  answer.set_task_id(request.task().id());
  answer.set_credit(1);
  stream.Write(answer);
}

TEST(ClientStreamTest, UnansweredTasksGoOverTheNextConnectionUnderTheirIds) {
  ScriptedGateway gateway;
  absl::Mutex mu;
  std::vector<std::string> lost;
  std::vector<std::string> came;
  gateway.on_stream = [&](int call, ScriptedGateway::Stream* stream) {
    GiveCredit(*stream, 10);
    v1::StreamTasksRequest request;
    while (stream->Read(&request)) {
      absl::MutexLock lock(&mu);
      if (call == 1) {
        if (lost.size() == 5) return Unavailable();
        lost.push_back(request.task().id());
      } else {
        came.push_back(request.task().id());
        Accept(request, *stream);
      }
    }
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  Answers answers;
  client::TaskStream stream = client.OpenStream();
  for (int i = 0; i < 30; ++i) stream.Send(MakeTask("f"), answers.Next());
  stream.Close();
  EXPECT_EQ(gateway.calls, 2);
  ASSERT_THAT(came, SizeIs(30));
  EXPECT_EQ(std::vector(came.begin(), came.begin() + 5), lost);
  EXPECT_EQ(answers.ids(), came);
  EXPECT_EQ(std::set(came.begin(), came.end()).size(), 30);
}

TEST(ClientStreamTest, NoMoreIsSentThanTheCredit) {
  ScriptedGateway gateway;
  std::atomic<int> most{0};
  gateway.on_stream = [&](int, ScriptedGateway::Stream* stream) {
    GiveCredit(*stream, 3);
    std::vector<v1::StreamTasksRequest> open;
    v1::StreamTasksRequest request;
    // A fourth one before an answer would be too many: it is looked for in vain
    // only if the client keeps to its credit, so what is read is answered by
    // threes.
    while (stream->Read(&request)) {
      open.push_back(request);
      most = std::max<int>(most, static_cast<int>(open.size()));
      if (open.size() < 3 && request.task().name() != "last") continue;
      for (const auto& each : open) Accept(each, *stream);
      open.clear();
    }
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  Answers answers;
  client::TaskStream stream = client.OpenStream();
  for (int i = 0; i < 10; ++i) {
    stream.Send(MakeTask(i == 9 ? "last" : "f"), answers.Next());
  }
  stream.Close();
  EXPECT_EQ(most, 3);
  EXPECT_THAT(answers.ids(), SizeIs(10));
}

TEST(ClientStreamTest, RefusedForNowIsSentAgain) {
  ScriptedGateway gateway;
  std::atomic<int> tries{0};
  gateway.on_stream = [&](int, ScriptedGateway::Stream* stream) {
    GiveCredit(*stream, 10);
    v1::StreamTasksRequest request;
    while (stream->Read(&request)) {
      if (++tries == 3) {
        Accept(request, *stream);
        continue;
      }
      v1::StreamTasksResponse answer;
      answer.set_sequence(request.sequence());
      answer.set_credit(1);
      answer.mutable_status()->set_code(grpc::StatusCode::UNAVAILABLE);
      stream->Write(answer);
    }
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  Answers answers;
  client::TaskStream stream = client.OpenStream();
  stream.Send({.name = "f", .id = "mine"}, answers.Next());
  stream.Close();
  EXPECT_EQ(tries, 3);
  EXPECT_THAT(answers.ids(), ElementsAre("mine"));
}

TEST(ClientStreamTest, TasksThatAreReadyTogetherShareAMessage) {
  ScriptedGateway gateway;
  absl::Notification all_are_ready;
  std::vector<std::vector<std::string>> messages;  // the tasks of each
  gateway.on_stream = [&](int call, ScriptedGateway::Stream* stream) {
    all_are_ready.WaitForNotification();
    GiveCredit(*stream, 10, /*max_tasks=*/4);
    v1::StreamTasksRequest request;
    while (stream->Read(&request)) {
      std::vector<std::string>& ids = messages.emplace_back();
      v1::StreamTasksResponse answer;
      for (const v1::StreamTask& task : request.tasks()) {
        ids.push_back(task.task().id());
        v1::StreamTaskResult* result = answer.add_results();
        result->set_sequence(task.sequence());
        if (call == 1 && task.task().id() == "task_1") {
          result->mutable_status()->set_code(grpc::StatusCode::UNAVAILABLE);
        } else {
          result->set_task_id(task.task().id());
        }
      }
      if (request.has_task()) {
        ids.push_back(request.task().id());
        Accept(request, *stream);
        continue;
      }
      answer.set_credit(request.tasks_size());
      stream->Write(answer);
      // The rest of them goes over the next one.
      if (call == 1 && messages.size() == 2) return Unavailable();
    }
    return grpc::Status::OK;
  };
  Client client(gateway.address());
  Answers answers;
  client::TaskStream stream = client.OpenStream();
  for (int i = 0; i < 13; ++i) {
    stream.Send({.name = "f", .id = absl::StrCat("task_", i)}, answers.Next());
  }
  all_are_ready.Notify();
  stream.Close();
  EXPECT_EQ(gateway.calls, 2);
  EXPECT_THAT(answers.ids(), SizeIs(13));
  ASSERT_GE(messages.size(), 4u);
  EXPECT_THAT(messages[0], ElementsAre("task_0", "task_1", "task_2", "task_3"));
  EXPECT_THAT(messages[1], ElementsAre("task_4", "task_5", "task_6", "task_7"));
  // One was refused for now, none of the others is sent twice.
  std::multiset<std::string> sent;
  for (const auto& ids : messages) sent.insert(ids.begin(), ids.end());
  EXPECT_EQ(sent.count("task_1"), 2u);
  EXPECT_EQ(sent.size(), 14u);
}

TEST(ClientStreamTest, GivesUpWhenNothingIsAnswered) {
  ScriptedGateway gateway;
  gateway.on_stream = [&](int, ScriptedGateway::Stream*) {
    return Unavailable();
  };
  Client client(gateway.address(), {.retry_budget = absl::Milliseconds(200)});
  Answers answers;
  client::TaskStream stream = client.OpenStream();
  stream.Send(MakeTask("f"), answers.Next());
  stream.Send(MakeTask("f"), answers.Next());
  stream.Close();
  EXPECT_GE(gateway.calls, 2);
  ASSERT_THAT(answers.errors(), SizeIs(2));
  EXPECT_EQ(ErrorOf(answers.errors()[0]).reason, "BROKER_UNAVAILABLE");
}

// ---- TLS ------------------------------------------------------------------

std::string Contents(const std::string& file) {
  return penstock::testing::TailOfFile(file, 1 << 20);
}

TEST(ClientTlsTest, BothSidesShowTheirCertificates) {
  const penstock::testing::Authority authority;
  const auto own = authority.Issue("gateway", "DNS:localhost");
  const auto users = authority.Issue("client", "DNS:client");
  grpc::SslServerCredentialsOptions ssl(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = Contents(authority.ca_file());
  ssl.pem_key_cert_pairs = {{Contents(own.key_file), Contents(own.cert_file)}};
  ScriptedGateway gateway(grpc::SslServerCredentials(ssl));
  gateway.on_send = [](int, auto&, auto&, v1::SendTaskResponse* response) {
    response->set_task_id("t");
    return grpc::Status::OK;
  };
  const auto send = [&](client::TlsOptions tls) {
    Client client(gateway.address(),
                  {.tls = tls, .retry_budget = absl::ZeroDuration()});
    return client.Send("f").status();
  };
  EXPECT_TRUE(send({.ca_file = authority.ca_file(),
                    .cert_file = users.cert_file,
                    .key_file = users.key_file})
                  .ok());
  // The system's certificates do not know this one; and it asks for one.
  EXPECT_TRUE(absl::IsUnavailable(
      send({.cert_file = users.cert_file, .key_file = users.key_file})));
  EXPECT_TRUE(absl::IsUnavailable(send({.ca_file = authority.ca_file()})));
  EXPECT_EQ(send({.ca_file = "/nowhere/ca.pem"}).message(),
            "cannot read /nowhere/ca.pem");
  EXPECT_TRUE(absl::IsInvalidArgument(send({.cert_file = users.cert_file})));
}

TEST(ClientOptionsTest, NoAddressIsAnErrorOfEachCall) {
  Client client(std::vector<std::string>{});
  EXPECT_TRUE(absl::IsInvalidArgument(client.Send("f").status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(client.SendMany({MakeTask("f")})[0].status()));
  Answers answers;
  client::TaskStream stream = client.OpenStream();
  stream.Send(MakeTask("f"), answers.Next());
  stream.Close();
  EXPECT_THAT(answers.errors(), SizeIs(1));
}

}  // namespace
}  // namespace penstock
