// The gateway as clients see it: a real channel to a server in this process, over
// the memory twins, with the example worker.

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "penstock/v1/admin.grpc.pb.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "queue/errors.h"
#include "queue/wire/task_json.h"
#include "tests/gateway/gateway_fixture.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// ---- sending --------------------------------------------------------------

TEST_F(GatewayTest, TaskIsSentAndItsResultRead) {
  StartBoth();
  v1::SendTaskResponse sent;
  ASSERT_TRUE(Send(MakeTask("add", {1, 1}), &sent).ok());
  EXPECT_THAT(sent.task_id(), StartsWith("task_"));
  EXPECT_FALSE(sent.replayed());
  EXPECT_TRUE(sent.has_create_time());
  EXPECT_EQ(AwaitInt(sent.task_id()), 2);
  const v1::TaskState state = Peek(sent.task_id());
  EXPECT_EQ(state.name(), "add");
  EXPECT_EQ(state.attempt(), 1);
  EXPECT_EQ(state.create_time().seconds(), sent.create_time().seconds());
  EXPECT_TRUE(state.has_start_time());
  EXPECT_TRUE(state.has_finish_time());
  EXPECT_NE(state.worker_id(), "");
}

TEST_F(GatewayTest, ChainPassesResultsOn) {
  StartBoth();
  v1::SendChainRequest request;
  *request.add_tasks() = MakeTask("add", {2, 2});
  *request.add_tasks() = MakeTask("add", {5, 6});
  *request.add_tasks() = MakeTask("multiply", {4});
  v1::SendChainResponse response;
  ASSERT_TRUE(stub_->SendChain(Context().get(), request, &response).ok());
  ASSERT_EQ(response.task_ids_size(), 3);
  EXPECT_EQ(AwaitInt(response.task_ids(2)), 60);
  EXPECT_EQ(AwaitInt(response.task_ids(0)), 4);
}

TEST_F(GatewayTest, ChordGivesAllResultsToItsCallback) {
  StartBoth();
  const auto chord = SendChord(
      {MakeTask("add", {1, 1}), MakeTask("add", {2, 2}), MakeTask("add", {5, 6})},
      MakeTask("multiply"));
  EXPECT_THAT(chord.callback_task_id(), StartsWith("chord_"));
  EXPECT_EQ(AwaitInt(chord.callback_task_id()), 88);

  v1::GetGroupStateRequest request;
  request.set_group_id(chord.group_id());
  const v1::GroupState group = GetGroup(request).group();
  EXPECT_EQ(group.total(), 3);
  EXPECT_TRUE(group.chord_triggered());
  EXPECT_TRUE(group.done());
  EXPECT_EQ(group.callback().task_id(), chord.callback_task_id());
  ASSERT_EQ(group.counts_size(), 1);
  EXPECT_EQ(group.counts(0).status(), v1::TASK_STATUS_SUCCESS);
  EXPECT_EQ(group.counts(0).count(), 3);
  EXPECT_EQ(group.tasks_size(), 0);
}

TEST_F(GatewayTest, GroupWaitLastsUntilTheCallbackHasEnded) {
  StartServer();
  std::vector<v1::Task> members;
  for (int i = 0; i < 50; ++i) members.push_back(MakeTask("add", {i}));
  const auto chord = SendChord(members, MakeTask("add"));
  v1::GetGroupStateRequest request;
  request.set_group_id(chord.group_id());
  request.mutable_wait()->set_nanos(1'000'000);
  EXPECT_FALSE(GetGroup(request).group().done());
  request.mutable_wait()->set_seconds(30);
  StartWorker();
  const v1::GroupState group = GetGroup(request).group();
  EXPECT_TRUE(group.done());
  EXPECT_EQ(group.callback().status(), v1::TASK_STATUS_SUCCESS);
  EXPECT_EQ(group.callback().results(0).int_value(), 50 * 49 / 2);
}

TEST_F(GatewayTest, GroupIsReadPageByPage) {
  StartBoth();
  v1::SendGroupRequest request;
  for (int i = 0; i < 5; ++i) *request.add_tasks() = MakeTask("add", {i, 1});
  request.set_group_id("my-group");
  request.set_send_concurrency(2);
  v1::SendGroupResponse sent;
  ASSERT_TRUE(stub_->SendGroup(Context().get(), request, &sent).ok());
  EXPECT_EQ(sent.group_id(), "my-group");
  ASSERT_EQ(sent.task_ids_size(), 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(AwaitInt(sent.task_ids(i)), i + 1);

  v1::GetGroupStateRequest get;
  get.set_group_id("my-group");
  get.set_include_tasks(true);
  get.set_page_size(2);
  std::vector<std::string> ids;
  std::vector<int> sizes;
  do {
    const v1::GetGroupStateResponse page = GetGroup(get);
    EXPECT_EQ(page.group().total(), 5);
    EXPECT_TRUE(page.group().done());
    EXPECT_FALSE(page.group().has_callback());
    sizes.push_back(page.group().tasks_size());
    for (const auto& task : page.group().tasks()) ids.push_back(task.task_id());
    get.set_page_token(page.next_page_token());
  } while (!get.page_token().empty());
  EXPECT_THAT(sizes, ElementsAre(2, 2, 1));
  EXPECT_EQ(ids, std::vector<std::string>(sent.task_ids().begin(),
                                          sent.task_ids().end()));
}

TEST_F(GatewayTest, DelayedTaskRunsWhenDue) {
  StartBoth();
  lifecycle_.Start();
  v1::Task task = MakeTask("add", {1, 2});
  task.mutable_delay()->set_nanos(200'000'000);
  const absl::Time before = absl::Now();
  EXPECT_EQ(AwaitInt(MustSend(task)), 3);
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(200));
}

TEST_F(GatewayTest, MessagesOverGrpcsDefaultAreTaken) {
  StartServer();
  v1::SendGroupRequest request;
  for (int i = 0; i < 10; ++i) {
    *request.add_tasks() = MakeTask("concat");
    request.mutable_tasks(i)->add_args()->set_string_value(
        std::string(600'000, 'x'));
  }
  v1::SendGroupResponse response;
  const grpc::Status status =
      stub_->SendGroup(Context().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(GatewayTest, EqualRepeatIsReplayedAndAnotherTaskIsRefused) {
  StartServer();
  const v1::Task task = MakeTask("add", {1, 1}, "mine");
  v1::SendTaskResponse response;
  ASSERT_TRUE(Send(task, &response).ok());
  EXPECT_FALSE(response.replayed());
  ASSERT_TRUE(Send(task, &response).ok());
  EXPECT_TRUE(response.replayed());
  EXPECT_EQ(response.task_id(), "mine");

  const grpc::Status refused = Send(MakeTask("add", {1, 2}, "mine"));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(ReasonIn(refused), "TASK_ID_EXISTS");
  EXPECT_EQ(Find<google::rpc::ErrorInfo>(refused)->metadata().at("task_id"),
            "mine");
}

TEST_F(GatewayTest, EqualGroupIsReplayedWithTheSameIds) {
  StartServer();
  v1::SendChordRequest request;
  *request.add_tasks() = MakeTask("add", {1});
  *request.mutable_callback() = MakeTask("add");
  request.set_group_id("mine");
  v1::SendChordResponse first;
  v1::SendChordResponse second;
  ASSERT_TRUE(stub_->SendChord(Context().get(), request, &first).ok());
  ASSERT_TRUE(stub_->SendChord(Context().get(), request, &second).ok());
  EXPECT_TRUE(second.replayed());
  EXPECT_EQ(first.task_ids(0), second.task_ids(0));
  EXPECT_EQ(first.callback_task_id(), second.callback_task_id());

  *request.add_tasks() = MakeTask("add", {2});
  v1::SendChordResponse third;
  const grpc::Status refused =
      stub_->SendChord(Context().get(), request, &third);
  EXPECT_EQ(ReasonIn(refused), "GROUP_ID_EXISTS");
}

TEST_F(GatewayTest, KeyWithoutAQueueIsRefusedAndNothingIsKept) {
  StartServer();
  v1::Task task = MakeTask("add", {}, "lost");
  task.set_routing_key("nowhere");
  const grpc::Status status = Send(task);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonIn(status), "QUEUE_NOT_FOUND");
  EXPECT_EQ(
      Find<google::rpc::PreconditionFailure>(status)->violations(0).type(),
      "QUEUE_NOT_FOUND");
  EXPECT_EQ(ReasonIn(Get("lost", absl::ZeroDuration(), nullptr)),
            "TASK_NOT_FOUND");
}

TEST_F(GatewayTest, BadFieldsAreNamed) {
  StartServer();
  v1::Task task = MakeTask("", {300});
  task.mutable_args(0)->set_type("int8");
  const grpc::Status status = Send(task);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(status), "INVALID_FIELD");
  std::vector<std::string> paths;
  const auto bad = Find<google::rpc::BadRequest>(status);
  ASSERT_TRUE(bad.has_value());
  for (const auto& each : bad->field_violations()) {
    paths.push_back(each.field());
  }
  EXPECT_THAT(paths, ElementsAre("task.name", "task.args[0].int_value"));
}

// A client takes 8 kB of metadata and ends the connection at more.
TEST_F(GatewayTest, ManyBadFieldsReachTheClient) {
  StartServer();
  v1::SendGroupRequest request;
  for (int i = 0; i < 10'000; ++i) {
    request.add_tasks()->set_id("\xc3\xa4 " + std::string(300, 'i'));
  }
  v1::SendGroupResponse response;
  const grpc::Status status =
      stub_->SendGroup(Context().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_GT(Find<google::rpc::BadRequest>(status)->field_violations_size(), 10);
}

// ---- failing --------------------------------------------------------------

TEST_F(GatewayTest, FailedTaskIsNoFailedCall) {
  StartBoth();
  const v1::TaskState state = Await(MustSend(MakeTask("panic_task")));
  EXPECT_EQ(state.status(), v1::TASK_STATUS_FAILURE);
  EXPECT_THAT(state.error().message(), HasSubstr("oops"));
  EXPECT_FALSE(state.error().retryable());
}

TEST_F(GatewayTest, FailedLinkAbandonsWhatFollows) {
  StartBoth();
  v1::SendChainRequest request;
  *request.add_tasks() = MakeTask("panic_task", {}, "first");
  *request.add_tasks() = MakeTask("add", {1});
  *request.add_tasks() = MakeTask("add", {1});
  v1::SendChainResponse response;
  ASSERT_TRUE(stub_->SendChain(Context().get(), request, &response).ok());
  for (const int link : {1, 2}) {
    const v1::TaskState state = Await(response.task_ids(link));
    EXPECT_EQ(state.status(), v1::TASK_STATUS_FAILURE);
    EXPECT_EQ(state.error().type(), "abandoned");
    EXPECT_THAT(state.error().message(), HasSubstr("first"));
  }
}

TEST_F(GatewayTest, CallUnderARequestIdIsCarriedOutOnce) {
  StartServer();
  v1::SendChordRequest request;
  *request.add_tasks() = MakeTask("add", {1});
  *request.add_tasks() = MakeTask("add", {2});
  *request.mutable_callback() = MakeTask("add");
  request.set_request_id("order-7");
  v1::SendChordResponse first;
  ASSERT_TRUE(stub_->SendChord(Context().get(), request, &first).ok());
  EXPECT_FALSE(first.replayed());
  EXPECT_THAT(first.group_id(), StartsWith("group_"));

  v1::SendChordResponse again;
  ASSERT_TRUE(stub_->SendChord(Context().get(), request, &again).ok());
  EXPECT_TRUE(again.replayed());
  again.set_replayed(false);
  EXPECT_EQ(again.ShortDebugString(), first.ShortDebugString());

  StartWorker();
  EXPECT_EQ(Await(first.callback_task_id()).results(0).int_value(), 3);
  EXPECT_EQ(backend_.Calls("Begin"), 3);
  *request.add_tasks() = MakeTask("add", {3});
  const grpc::Status other =
      stub_->SendChord(Context().get(), request, &again);
  EXPECT_EQ(other.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Find<google::rpc::ErrorInfo>(other)->reason(),
            "REQUEST_ID_REUSED");
}

TEST_F(GatewayTest, RefusedCallLeavesItsRequestIdFree) {
  StartServer();
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("add", {1});
  request.mutable_task()->set_routing_key("nowhere");
  request.set_request_id("r");
  v1::SendTaskResponse response;
  EXPECT_EQ(stub_->SendTask(Context().get(), request, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  request.mutable_task()->clear_routing_key();
  ASSERT_TRUE(stub_->SendTask(Context().get(), request, &response).ok());
  EXPECT_FALSE(response.replayed());
}

TEST_F(GatewayTest, UnknownEndIsCarriedOnByARepeat) {
  StartServer();
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                     reason::kBrokerUnavailable, "cut"));
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("add", {1});
  request.set_request_id("r");
  v1::SendTaskResponse response;
  EXPECT_EQ(stub_->SendTask(Context().get(), request, &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(stub_->SendTask(Context().get(), request, &response).ok());
  StartWorker();
  EXPECT_EQ(Await(response.task_id()).status(), v1::TASK_STATUS_SUCCESS);
}

TEST_F(GatewayTest, CancelledTaskNeverRuns) {
  StartServer();
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("add", {1}, "t");
  v1::SendTaskResponse response;
  ASSERT_TRUE(stub_->SendTask(Context().get(), request, &response).ok());
  v1::CancelTaskRequest cancel;
  cancel.set_task_id("t");
  cancel.set_reason("not needed");
  v1::CancelTaskResponse cancelled;
  ASSERT_TRUE(stub_->CancelTask(Context().get(), cancel, &cancelled).ok());
  EXPECT_TRUE(cancelled.accepted());
  EXPECT_EQ(cancelled.state().status(), v1::TASK_STATUS_CANCELLED);
  EXPECT_EQ(cancelled.state().error().message(), "cancelled: not needed");
  EXPECT_EQ(cancelled.state().error().type(), "cancelled");
  ASSERT_TRUE(stub_->CancelTask(Context().get(), cancel, &cancelled).ok());
  EXPECT_FALSE(cancelled.accepted());

  StartWorker();
  *request.mutable_task() = MakeTask("add", {1}, "next");
  ASSERT_TRUE(stub_->SendTask(Context().get(), request, &response).ok());
  EXPECT_EQ(Await("next").status(), v1::TASK_STATUS_SUCCESS);
  EXPECT_EQ(Await("t").status(), v1::TASK_STATUS_CANCELLED);
  EXPECT_EQ(Await("t").attempt(), 0);
}

TEST_F(GatewayTest, CancelledGroupEndsWithItsCallback) {
  StartServer();
  v1::SendChordRequest request;
  *request.add_tasks() = MakeTask("add", {1}, "a");
  *request.add_tasks() = MakeTask("add", {2}, "b");
  *request.mutable_callback() = MakeTask("add", {}, "cb");
  request.set_group_id("g");
  v1::SendChordResponse response;
  ASSERT_TRUE(stub_->SendChord(Context().get(), request, &response).ok());
  v1::CancelGroupRequest cancel;
  cancel.set_group_id("g");
  v1::CancelGroupResponse cancelled;
  ASSERT_TRUE(stub_->CancelGroup(Context().get(), cancel, &cancelled).ok());
  EXPECT_EQ(cancelled.cancelled_count(), 3);
  EXPECT_EQ(cancelled.group().group_id(), "g");
  EXPECT_EQ(cancelled.group().total(), 2);
  EXPECT_TRUE(cancelled.group().done());
  ASSERT_EQ(cancelled.group().counts_size(), 1);
  EXPECT_EQ(cancelled.group().counts(0).status(), v1::TASK_STATUS_CANCELLED);
  EXPECT_EQ(cancelled.group().callback().error().message(), "cancelled");
}

TEST_F(GatewayTest, CancelNamesWhatIsWrong) {
  StartServer();
  v1::CancelTaskRequest cancel;
  cancel.set_reason(std::string(1001, 'x'));
  v1::CancelTaskResponse cancelled;
  const grpc::Status bad =
      stub_->CancelTask(Context().get(), cancel, &cancelled);
  EXPECT_EQ(bad.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto fields = Find<google::rpc::BadRequest>(bad);
  ASSERT_TRUE(fields.has_value());
  ASSERT_EQ(fields->field_violations_size(), 2);
  EXPECT_EQ(fields->field_violations(0).field(), "task_id");
  EXPECT_EQ(fields->field_violations(1).field(), "reason");
  cancel.set_task_id("unknown");
  cancel.clear_reason();
  EXPECT_EQ(
      stub_->CancelTask(Context().get(), cancel, &cancelled).error_code(),
      grpc::StatusCode::NOT_FOUND);
  v1::CancelGroupRequest group;
  group.set_group_id("unknown");
  v1::CancelGroupResponse answer;
  EXPECT_EQ(stub_->CancelGroup(Context().get(), group, &answer).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(GatewayTest, FailedMemberEndsTheChordAndIsNamed) {
  StartBoth();
  const auto chord = SendChord(
      {MakeTask("add", {1, 1}), MakeTask("panic_task", {}, "culprit")},
      MakeTask("multiply"));
  const v1::TaskState state = Await(chord.callback_task_id());
  EXPECT_EQ(state.status(), v1::TASK_STATUS_FAILURE);
  EXPECT_THAT(state.error().message(), HasSubstr("culprit"));
}

// ---- reading --------------------------------------------------------------

TEST_F(GatewayTest, UnknownIsNotPending) {
  StartServer();
  EXPECT_EQ(Peek(MustSend(MakeTask("add", {1}))).status(),
            v1::TASK_STATUS_PENDING);
  const grpc::Status status = Get("nobody", absl::Seconds(50), nullptr);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(status), "TASK_NOT_FOUND");
  EXPECT_EQ(Find<google::rpc::ResourceInfo>(status)->resource_name(), "nobody");

  v1::GetGroupStateRequest group;
  group.set_group_id("nobody");
  v1::GetGroupStateResponse response;
  EXPECT_EQ(ReasonIn(stub_->GetGroupState(Context().get(), group, &response)),
            "GROUP_NOT_FOUND");
}

TEST_F(GatewayTest, WaitThatIsOverIsOkWithTheStateAsItIs) {
  StartServer();
  const std::string id = MustSend(MakeTask("add", {1}));
  v1::TaskState state;
  ASSERT_TRUE(Get(id, absl::Seconds(1), &state).ok());
  EXPECT_EQ(state.status(), v1::TASK_STATUS_PENDING);
}

TEST_F(GatewayTest, WaitEndsBeforeTheCallersDeadline) {
  StartServer();
  const std::string id = MustSend(MakeTask("add", {1}));
  v1::TaskState state;
  const grpc::Status status =
      Get(id, absl::Seconds(50), &state, absl::Seconds(2));
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(state.status(), v1::TASK_STATUS_PENDING);
}

TEST_F(GatewayTest, ManyStatesAreReadAtOnce) {
  StartBoth();
  const std::string id = MustSend(MakeTask("add", {20, 22}));
  ASSERT_EQ(AwaitInt(id), 42);
  v1::BatchGetStatesRequest request;
  request.add_task_ids("nobody");
  request.add_task_ids(id);
  v1::BatchGetStatesResponse response;
  ASSERT_TRUE(stub_->BatchGetStates(Context().get(), request, &response).ok());
  ASSERT_EQ(response.states_size(), 1);
  EXPECT_EQ(response.states(0).results(0).int_value(), 42);
  EXPECT_THAT(response.missing_task_ids(), ElementsAre("nobody"));
}

TEST_F(GatewayTest, WatchTellsEachStateAndEndsWhenAllAreFinal) {
  StartServer();
  v1::WatchStateRequest request;
  request.add_task_ids(MustSend(MakeTask("add", {1, 1}, "b")));
  request.add_task_ids(MustSend(MakeTask("panic_task", {}, "a")));
  auto context = Context();
  auto stream = stub_->WatchState(context.get(), request);
  v1::WatchStateResponse news;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(stream->Read(&news));
    EXPECT_EQ(news.sequence(), i + 1);
    EXPECT_EQ(news.state().task_id(), request.task_ids(i));
    EXPECT_EQ(news.state().status(), v1::TASK_STATUS_PENDING);
  }
  StartWorker();
  std::map<std::string, v1::TaskStatus> last;
  int64_t sequence = 2;
  while (stream->Read(&news)) {
    EXPECT_EQ(news.sequence(), ++sequence);
    last[news.state().task_id()] = news.state().status();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(last["b"], v1::TASK_STATUS_SUCCESS);
  EXPECT_EQ(last["a"], v1::TASK_STATUS_FAILURE);
}

TEST_F(GatewayTest, WatchTellsWhenOnlyTheProgressHasChanged) {
  StartServer();
  absl::Notification first_seen;
  absl::Notification second_seen;
  worker_ = std::make_unique<Worker>(
      &broker_, &backend_, environment_.get(),
      WorkerOptions{.concurrency = 1, .handle_signals = false});
  worker_->Register("steps", [&](penstock::Context& context) {
    context.SetProgress(0.25, "first");
    first_seen.WaitForNotification();
    context.SetProgress(0.75, "second");
    second_seen.WaitForNotification();
  });
  ASSERT_TRUE(worker_->Start().ok());
  const std::string id = MustSend(MakeTask("steps"));
  v1::WatchStateRequest request;
  request.add_task_ids(id);
  auto context = Context();
  auto stream = stub_->WatchState(context.get(), request);
  v1::WatchStateResponse news;
  v1::TaskState first;
  v1::TaskState last;
  while (stream->Read(&news)) {
    if (news.state().progress().fraction() == 0.25 &&
        !first_seen.HasBeenNotified()) {
      first = news.state();
      EXPECT_EQ(Peek(id).progress().text(), "first");
      first_seen.Notify();
    } else if (news.state().progress().fraction() == 0.75 &&
               !second_seen.HasBeenNotified()) {
      EXPECT_GT(news.state().progress().update_time().seconds() * 1e9 +
                    news.state().progress().update_time().nanos(),
                first.progress().update_time().seconds() * 1e9 +
                    first.progress().update_time().nanos());
      second_seen.Notify();
    }
    last = news.state();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(first.status(), v1::TASK_STATUS_STARTED);
  EXPECT_EQ(first.progress().text(), "first");
  EXPECT_TRUE(second_seen.HasBeenNotified());
  EXPECT_EQ(last.status(), v1::TASK_STATUS_SUCCESS);
  EXPECT_FALSE(last.has_progress());
  // Where something failed, the handler is still waiting.
  if (!first_seen.HasBeenNotified()) first_seen.Notify();
  if (!second_seen.HasBeenNotified()) second_seen.Notify();
}

TEST_F(GatewayTest, WatchOfFinishedTasksEndsAtOnce) {
  StartBoth();
  const std::string id = MustSend(MakeTask("add", {1, 1}));
  AwaitInt(id);
  v1::WatchStateRequest request;
  request.add_task_ids(id);
  auto context = Context();
  auto stream = stub_->WatchState(context.get(), request);
  v1::WatchStateResponse news;
  ASSERT_TRUE(stream->Read(&news));
  EXPECT_EQ(news.state().results(0).int_value(), 2);
  EXPECT_FALSE(stream->Read(&news));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GatewayTest, WatchGoesOnAfterTheEndWhenAskedTo) {
  StartServer({.keepalive = absl::Milliseconds(30)});
  StartWorker();
  const std::string id = MustSend(MakeTask("add", {1, 1}));
  AwaitInt(id);
  v1::WatchStateRequest request;
  request.add_task_ids(id);
  request.set_until_terminal(false);
  auto context = Context();
  auto stream = stub_->WatchState(context.get(), request);
  v1::WatchStateResponse news;
  ASSERT_TRUE(stream->Read(&news));
  EXPECT_EQ(news.state().status(), v1::TASK_STATUS_SUCCESS);
  ASSERT_TRUE(stream->Read(&news));
  EXPECT_TRUE(news.has_keepalive());
  context->TryCancel();
  while (stream->Read(&news)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GatewayTest, WatchOfAnUnknownIdIsNotFound) {
  StartServer();
  v1::WatchStateRequest request;
  request.add_task_ids(MustSend(MakeTask("add")));
  request.add_task_ids("nobody");
  auto context = Context();
  auto stream = stub_->WatchState(context.get(), request);
  v1::WatchStateResponse news;
  EXPECT_FALSE(stream->Read(&news));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(status), "TASK_NOT_FOUND");
}

TEST_F(GatewayTest, QuietWatchIsKeptAlive) {
  StartServer({.keepalive = absl::Milliseconds(30)});
  v1::WatchStateRequest request;
  request.add_task_ids(MustSend(MakeTask("add")));
  auto context = Context();
  auto stream = stub_->WatchState(context.get(), request);
  v1::WatchStateResponse news;
  ASSERT_TRUE(stream->Read(&news));
  EXPECT_TRUE(news.has_state());
  for (int i = 2; i <= 3; ++i) {
    ASSERT_TRUE(stream->Read(&news));
    EXPECT_TRUE(news.has_keepalive());
    EXPECT_EQ(news.sequence(), i);
  }
  context->TryCancel();
  while (stream->Read(&news)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// ---- dead letters -----------------------------------------------------------

class DeadLettersTest : public GatewayTest {
 protected:
  void Start() {
    StartServer();
    admin_ = v1::AdminService::NewStub(channel_);
  }

  void Lay(const std::string& id, const std::string& name, int64_t ms) {
    Task task{.id = id, .name = name};
    task.args.push_back(*MakeValue(int64_t{2}));
    task.args_null = false;
    absl::Notification laid;
    memory_backend_->LayDead({.task_id = id,
                              .name = name,
                              .queue = broker_.DefaultQueue(),
                              .reason = "begun 10 times",
                              .body = EncodeTask(task),
                              .time = absl::FromUnixMillis(ms),
                              .attempts = 3},
                             [&](absl::Status status) {
                               EXPECT_TRUE(status.ok()) << status;
                               laid.Notify();
                             });
    laid.WaitForNotification();
  }

  v1::ListDeadTasksResponse List(const v1::ListDeadTasksRequest& request = {}) {
    v1::ListDeadTasksResponse response;
    const grpc::Status status =
        admin_->ListDeadTasks(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::unique_ptr<v1::AdminService::Stub> admin_;
};

TEST_F(DeadLettersTest, AreListedNewestFirstPageByPage) {
  Start();
  EXPECT_EQ(List().dead_tasks_size(), 0);
  Lay("old", "add", 1'000);
  Lay("new", "multiply", 3'500);
  v1::ListDeadTasksRequest request;
  request.set_page_size(1);
  v1::ListDeadTasksResponse page = List(request);
  ASSERT_EQ(page.dead_tasks_size(), 1);
  const v1::DeadTask& dead = page.dead_tasks(0);
  EXPECT_EQ(dead.task_id(), "new");
  EXPECT_EQ(dead.name(), "multiply");
  EXPECT_EQ(dead.queue(), broker_.DefaultQueue());
  EXPECT_EQ(dead.reason(), "begun 10 times");
  EXPECT_EQ(dead.time().seconds(), 3);
  EXPECT_EQ(dead.time().nanos(), 500'000'000);
  EXPECT_EQ(dead.attempts(), 3);
  const std::string token = page.next_page_token();
  EXPECT_NE(token, "");
  request.set_page_token(token);
  page = List(request);
  ASSERT_EQ(page.dead_tasks_size(), 1);
  EXPECT_EQ(page.dead_tasks(0).task_id(), "old");
  EXPECT_EQ(page.next_page_token(), "");

  request.set_queue("other");  // a token is its queue's
  v1::ListDeadTasksResponse response;
  EXPECT_EQ(ReasonIn(admin_->ListDeadTasks(Context().get(), request, &response)),
            "INVALID_FIELD");
  request.clear_page_token();
  EXPECT_EQ(List(request).dead_tasks_size(), 0);
}

TEST_F(DeadLettersTest, ARetriedOneRunsAsACopy) {
  Start();
  Lay("dead", "add", 1'000);
  v1::RetryTaskRequest request;
  request.set_task_id("dead");
  request.set_request_id("again");
  v1::RetryTaskResponse response;
  grpc::Status status = admin_->RetryTask(Context().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const std::string copy = response.state().task_id();
  EXPECT_THAT(copy, StartsWith("task_"));
  EXPECT_EQ(response.state().status(), v1::TASK_STATUS_PENDING);
  EXPECT_EQ(response.state().name(), "add");
  EXPECT_FALSE(response.replayed());
  EXPECT_EQ(List().dead_tasks_size(), 0);

  status = admin_->RetryTask(Context().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.state().task_id(), copy);
  EXPECT_TRUE(response.replayed());
  StartWorker();
  EXPECT_EQ(AwaitInt(copy), 2);
}

TEST_F(DeadLettersTest, ADeletedOneIsGone) {
  Start();
  Lay("dead", "add", 1'000);
  v1::DeleteDeadTaskRequest request;
  request.set_task_id("dead");
  v1::DeleteDeadTaskResponse response;
  ASSERT_TRUE(admin_->DeleteDeadTask(Context().get(), request, &response).ok());
  EXPECT_EQ(response.dead_task().task_id(), "dead");
  const grpc::Status again =
      admin_->DeleteDeadTask(Context().get(), request, &response);
  EXPECT_EQ(again.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(again), "TASK_NOT_FOUND");
  EXPECT_THAT(again.error_message(), HasSubstr("ListDeadTasks"));
}

TEST_F(DeadLettersTest, WhatIsWrongIsNamed) {
  Start();
  const auto fields = [](const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    std::vector<std::string> names;
    const auto bad = Find<google::rpc::BadRequest>(status);
    if (!bad.has_value()) return names;
    for (const auto& field : bad->field_violations()) {
      names.push_back(field.field());
    }
    return names;
  };
  v1::ListDeadTasksRequest list;
  list.set_queue(std::string(256, 'q'));
  list.set_page_size(-1);
  list.set_page_token("1000.x.dead");
  v1::ListDeadTasksResponse listed;
  EXPECT_THAT(fields(admin_->ListDeadTasks(Context().get(), list, &listed)),
              ElementsAre("queue", "page_size", "page_token"));
  v1::RetryTaskRequest retry;
  retry.set_request_id("two words");
  v1::RetryTaskResponse retried;
  EXPECT_THAT(fields(admin_->RetryTask(Context().get(), retry, &retried)),
              ElementsAre("task_id", "request_id"));
  retry.set_task_id("nobody");
  retry.clear_request_id();
  EXPECT_EQ(ReasonIn(admin_->RetryTask(Context().get(), retry, &retried)),
            "TASK_NOT_FOUND");
  v1::DeleteDeadTaskRequest remove;
  v1::DeleteDeadTaskResponse removed;
  EXPECT_THAT(fields(admin_->DeleteDeadTask(Context().get(), remove, &removed)),
              ElementsAre("task_id"));
}

TEST_F(GatewayTest, BackendThatIsAwayIsUnavailable) {
  StartServer();
  const std::string id = MustSend(MakeTask("add"));
  backend_.SetMode(FailingBackend::kRefuse);
  for (const absl::Duration wait : {absl::ZeroDuration(), absl::Seconds(1)}) {
    const grpc::Status status = Get(id, wait, nullptr);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(ReasonIn(status), "BACKEND_UNAVAILABLE");
    EXPECT_TRUE(Find<google::rpc::RetryInfo>(status).has_value());
  }
  EXPECT_EQ(ReasonIn(Send(MakeTask("add"))), "BACKEND_UNAVAILABLE");
  backend_.SetMode(FailingBackend::kWork);
  EXPECT_EQ(Peek(id).status(), v1::TASK_STATUS_PENDING);
}

// ---- limits and cancelling ------------------------------------------------

// A call that was begun and is waited for later.
struct Pending {
  std::unique_ptr<grpc::ClientContext> context;
  v1::GetStateRequest get_request;
  v1::GetStateResponse get_response;
  v1::SendTaskRequest send_request;
  v1::SendTaskResponse send_response;
  grpc::Status status;
  absl::Notification ended;

  std::function<void(grpc::Status)> OnEnd() {
    return [this](grpc::Status s) {
      status = std::move(s);
      ended.Notify();
    };
  }
};

TEST_F(GatewayTest, SendsBeyondTheLimitAreRefusedUntilOthersEnd) {
  StartServer({.sends = {.tasks = 1, .bytes = 1 << 30}});
  broker_.Hold();
  Pending first{.context = Context()};
  *first.send_request.mutable_task() = MakeTask("add");
  stub_->async()->SendTask(first.context.get(), &first.send_request,
                           &first.send_response, first.OnEnd());
  broker_.AwaitHeld(1);
  const grpc::Status refused = Send(MakeTask("add"));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonIn(refused), "TOO_MANY_IN_FLIGHT");
  EXPECT_TRUE(Find<google::rpc::RetryInfo>(refused).has_value());
  EXPECT_TRUE(Find<google::rpc::QuotaFailure>(refused).has_value());
  broker_.Release();
  first.ended.WaitForNotification();
  EXPECT_TRUE(first.status.ok()) << first.status.error_message();
  // The permit is given back just after the answer.
  while (ReasonIn(Send(MakeTask("add"))) == "TOO_MANY_IN_FLIGHT") {
  }
}

TEST_F(GatewayTest, CancelledSendEndsOnceAndKeepsItsPermitWhileInFlight) {
  StartServer({.sends = {.tasks = 1, .bytes = 1 << 30}});
  broker_.Hold();
  Pending first{.context = Context()};
  *first.send_request.mutable_task() = MakeTask("add", {}, "cancelled");
  stub_->async()->SendTask(first.context.get(), &first.send_request,
                           &first.send_response, first.OnEnd());
  broker_.AwaitHeld(1);
  first.context->TryCancel();
  first.ended.WaitForNotification();
  EXPECT_EQ(first.status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(ReasonIn(Send(MakeTask("add"))), "TOO_MANY_IN_FLIGHT");
  broker_.Release();
  while (ReasonIn(Send(MakeTask("add"))) == "TOO_MANY_IN_FLIGHT") {
  }
  EXPECT_EQ(Peek("cancelled").status(), v1::TASK_STATUS_PENDING);
}

TEST_F(GatewayTest, CancelledWaitGivesItsPlaceBack) {
  StartServer({.waits = {.tasks = 1, .bytes = 1 << 30}});
  const std::string id = MustSend(MakeTask("add"));
  Pending first{.context = Context()};
  first.get_request.set_task_id(id);
  first.get_request.mutable_wait()->set_seconds(50);
  const int reads = backend_.Calls("GetStates");
  stub_->async()->GetState(first.context.get(), &first.get_request,
                           &first.get_response, first.OnEnd());
  // Its own read, and one of the waiters': it is parked.
  backend_.AwaitCalls("GetStates", reads + 2);
  EXPECT_EQ(ReasonIn(Get(id, absl::Seconds(1), nullptr)), "TOO_MANY_IN_FLIGHT");
  EXPECT_EQ(Peek(id).status(), v1::TASK_STATUS_PENDING);  // reads go on
  first.context->TryCancel();
  first.ended.WaitForNotification();
  EXPECT_EQ(first.status.error_code(), grpc::StatusCode::CANCELLED);
  while (ReasonIn(Get(id, absl::Seconds(1), nullptr)) == "TOO_MANY_IN_FLIGHT") {
  }
}

TEST_F(GatewayTest, ThousandsWaitAtOnce) {
  constexpr int kWaits = 2000;
  StartServer();
  v1::SendGroupRequest request;
  for (int i = 0; i < kWaits; ++i) *request.add_tasks() = MakeTask("add", {i});
  v1::SendGroupResponse sent;
  ASSERT_TRUE(stub_->SendGroup(Context().get(), request, &sent).ok());

  struct Wait {
    grpc::ClientContext context;
    v1::GetStateRequest request;
    v1::GetStateResponse response;
  };
  std::vector<std::unique_ptr<Wait>> waits;
  absl::BlockingCounter open(kWaits);
  std::atomic<int> succeeded{0};
  const int reads = backend_.Calls("GetStates");
  for (int i = 0; i < kWaits; ++i) {
    Wait& wait = *waits.emplace_back(std::make_unique<Wait>());
    wait.request.set_task_id(sent.task_ids(i));
    wait.request.mutable_wait()->set_seconds(60);
    stub_->async()->GetState(
        &wait.context, &wait.request, &wait.response,
        [&, i](const grpc::Status& status) {
          const auto& state = wait.response.state();
          if (status.ok() && state.status() == v1::TASK_STATUS_SUCCESS &&
              state.results(0).int_value() == i) {
            ++succeeded;
          }
          open.DecrementCount();
        });
  }
  // Each has been read once by its call: all are parked, or will be at once.
  backend_.AwaitCalls("GetStates", reads + kWaits);
  StartWorker();
  open.Wait();
  EXPECT_EQ(succeeded, kWaits);
}

// ---- a send that waits ------------------------------------------------------

class SendAndWaitTest : public GatewayTest {
 protected:
  void Begin(v1::SendTaskRequest request, Pending& send) {
    send.send_request = std::move(request);
    stub_->async()->SendTask(send.context.get(), &send.send_request,
                             &send.send_response, send.OnEnd());
  }

  // A call is cancelled while it waits; its task runs.
  void CancelAWait() {
    StartServer({.waits = {.tasks = 1, .bytes = 1 << 30}});
    Pending send{.context = Context()};
    Begin(Waiting(MakeTask("add", {1, 1}, "t")), send);
    backend_.AwaitCalls("GetStates", 1);  // it waits
    send.context->TryCancel();
    send.ended.WaitForNotification();
    EXPECT_EQ(send.status.error_code(), grpc::StatusCode::CANCELLED);
    broker_.Release();
    StartWorker();
    v1::TaskState state;
    while (ReasonIn(Get("t", absl::Seconds(50), &state)) ==
           "TOO_MANY_IN_FLIGHT") {
    }
    EXPECT_EQ(state.status(), v1::TASK_STATUS_SUCCESS);
  }
};

TEST_F(SendAndWaitTest, TheResultComesInTheSameCall) {
  StartBoth();
  const v1::SendTaskResponse sent = MustSend(Waiting(MakeTask("add", {1, 1})));
  EXPECT_THAT(sent.task_id(), StartsWith("task_"));
  EXPECT_FALSE(sent.replayed());
  EXPECT_EQ(sent.state().task_id(), sent.task_id());
  EXPECT_EQ(sent.state().status(), v1::TASK_STATUS_SUCCESS);
  ASSERT_EQ(sent.state().results_size(), 1);
  EXPECT_EQ(sent.state().results(0).int_value(), 2);
  EXPECT_EQ(sent.state().create_time().nanos(), sent.create_time().nanos());
  EXPECT_EQ(sent.state().DebugString(), Peek(sent.task_id()).DebugString());
}

TEST_F(SendAndWaitTest, AFailedTaskIsNoFailedCall) {
  StartBoth();
  const v1::SendTaskResponse sent = MustSend(Waiting(MakeTask("panic_task")));
  EXPECT_EQ(sent.state().status(), v1::TASK_STATUS_FAILURE);
  EXPECT_THAT(sent.state().error().message(), HasSubstr("oops"));
}

TEST_F(SendAndWaitTest, ADelayedTaskIsWaitedFor) {
  StartBoth();
  lifecycle_.Start();
  v1::Task task = MakeTask("add", {1, 2});
  task.mutable_delay()->set_nanos(200'000'000);
  EXPECT_EQ(MustSend(Waiting(task)).state().results(0).int_value(), 3);
}

TEST_F(SendAndWaitTest, AWaitThatIsOverIsOkWithTheStateAsItIs) {
  StartServer();
  for (const absl::Duration wait : {absl::Milliseconds(1), absl::Seconds(1)}) {
    const v1::SendTaskResponse sent = MustSend(Waiting(MakeTask("add"), wait));
    EXPECT_EQ(sent.state().status(), v1::TASK_STATUS_PENDING);
    EXPECT_EQ(sent.state().DebugString(), Peek(sent.task_id()).DebugString());
  }
}

TEST_F(SendAndWaitTest, ItsWaitEndsBeforeTheCallersDeadline) {
  StartServer();
  const v1::SendTaskResponse sent =
      MustSend(Waiting(MakeTask("add")), absl::Seconds(2));
  EXPECT_EQ(sent.state().status(), v1::TASK_STATUS_PENDING);
}

TEST_F(SendAndWaitTest, WithoutAWaitThereIsNoState) {
  StartServer();
  v1::SendTaskRequest request = Waiting(MakeTask("add"), absl::ZeroDuration());
  EXPECT_FALSE(MustSend(request).has_state());
  request.clear_wait();
  EXPECT_FALSE(MustSend(request).has_state());
}

TEST_F(SendAndWaitTest, ABadWaitIsNamedBesideOtherBadFields) {
  StartServer();
  v1::SendTaskRequest request = Waiting(MakeTask(""));
  request.mutable_wait()->set_seconds(-1);
  v1::SendTaskResponse response;
  const grpc::Status status =
      stub_->SendTask(Context().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = Find<google::rpc::BadRequest>(status);
  ASSERT_TRUE(bad.has_value());
  ASSERT_EQ(bad->field_violations_size(), 2);
  EXPECT_EQ(bad->field_violations(0).field(), "wait");
  EXPECT_EQ(bad->field_violations(1).field(), "task.name");
}

TEST_F(SendAndWaitTest, AnEndedTaskAnswersBeforeTheConfirm) {
  StartServer({.sends = {.tasks = 1, .bytes = 1 << 30}});
  StartWorker();
  for (const std::string request_id : {"", "r"}) {
    broker_.HoldConfirms();
    v1::SendTaskResponse sent;
    grpc::Status status;
    // The permit of the one before is given back just after it has ended.
    do {
      status = stub_->SendTask(
          Context().get(),
          Waiting(MakeTask("add", {1, 1}), absl::Seconds(50), request_id),
          &sent);
    } while (ReasonIn(status) == "TOO_MANY_IN_FLIGHT");
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(sent.state().status(), v1::TASK_STATUS_SUCCESS);
    EXPECT_FALSE(sent.replayed());
    EXPECT_EQ(sent.state().create_time().nanos(), sent.create_time().nanos());
    // The send is still under way, and has its permit.
    EXPECT_EQ(broker_.Held(), 1u);
    EXPECT_EQ(ReasonIn(Send(MakeTask("add"))), "TOO_MANY_IN_FLIGHT");
    broker_.Release();
  }
}

TEST_F(SendAndWaitTest, TheErrorIsTheSends) {
  StartBoth();
  v1::SendTaskResponse response;
  v1::SendTaskRequest request = Waiting(MakeTask("add"));
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  EXPECT_EQ(ReasonIn(stub_->SendTask(Context().get(), request, &response)),
            "BROKER_UNAVAILABLE");
  request.mutable_task()->set_routing_key("nowhere");
  EXPECT_EQ(ReasonIn(stub_->SendTask(Context().get(), request, &response)),
            "QUEUE_NOT_FOUND");
  // That of another task has ended, and is not this one's.
  MustSend(Waiting(MakeTask("add", {1}, "mine")));
  request = Waiting(MakeTask("add", {2}, "mine"));
  EXPECT_EQ(ReasonIn(stub_->SendTask(Context().get(), request, &response)),
            "TASK_ID_EXISTS");
}

TEST_F(SendAndWaitTest, ACancelledTaskSaysNothingOfTheSend) {
  StartServer({.waits = {.tasks = 1, .bytes = 1 << 30}});
  broker_.Hold();
  Pending send{.context = Context()};
  Begin(Waiting(MakeTask("add", {}, "t")), send);
  broker_.AwaitHeld(1);
  v1::CancelTaskRequest cancel;
  cancel.set_task_id("t");
  v1::CancelTaskResponse cancelled;
  ASSERT_TRUE(stub_->CancelTask(Context().get(), cancel, &cancelled).ok());
  // Its wait has ended with that.
  while (ReasonIn(Get("t", absl::Seconds(1), nullptr)) ==
         "TOO_MANY_IN_FLIGHT") {
  }
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  broker_.Release();
  send.ended.WaitForNotification();
  EXPECT_EQ(ReasonIn(send.status), "BROKER_UNAVAILABLE");
}

TEST_F(SendAndWaitTest, WhatCannotBeReadIsAcceptedAllTheSame) {
  StartServer();
  backend_.FailNext("GetStates", 1'000'000);
  const v1::SendTaskResponse sent =
      MustSend(Waiting(MakeTask("add"), absl::Seconds(1)));
  EXPECT_NE(sent.task_id(), "");
  EXPECT_TRUE(sent.has_create_time());
  EXPECT_FALSE(sent.has_state());
}

TEST_F(SendAndWaitTest, TheBackendMayBeAwayForAWhile) {
  StartBoth();
  backend_.FailNext("GetStates", 3);
  EXPECT_EQ(MustSend(Waiting(MakeTask("add", {1, 1}))).state().status(),
            v1::TASK_STATUS_SUCCESS);
}

TEST_F(SendAndWaitTest, ACancelledCallSendsItsTaskAndGivesItsPlaceBack) {
  CancelAWait();
}

TEST_F(SendAndWaitTest, ACallMayBeCancelledBeforeTheConfirm) {
  broker_.Hold();
  CancelAWait();
}

TEST_F(SendAndWaitTest, ARepeatWithAnotherWaitIsTheSameCall) {
  StartServer();
  const v1::Task task = MakeTask("add", {1, 1});
  const auto first = MustSend(Waiting(task, absl::Milliseconds(1), "r"));
  EXPECT_EQ(first.state().status(), v1::TASK_STATUS_PENDING);
  const auto second = MustSend(Waiting(task, absl::Milliseconds(50), "r"));
  EXPECT_EQ(second.state().status(), v1::TASK_STATUS_PENDING);
  StartWorker();
  for (const bool ended : {false, true}) {
    const auto again = MustSend(Waiting(task, absl::Seconds(50), "r"));
    EXPECT_TRUE(again.replayed()) << ended;
    EXPECT_EQ(again.task_id(), first.task_id());
    EXPECT_EQ(again.state().status(), v1::TASK_STATUS_SUCCESS);
  }
  const auto last = MustSend(Waiting(task, absl::ZeroDuration(), "r"));
  EXPECT_TRUE(last.replayed());
  EXPECT_FALSE(last.has_state());
}

TEST_F(SendAndWaitTest, ARepeatUnderAnIdOfTheCallersIsWaitedForToo) {
  StartServer();
  const v1::Task task = MakeTask("add", {1, 1}, "mine");
  const auto first = MustSend(Waiting(task, absl::Milliseconds(1)));
  EXPECT_FALSE(first.replayed());
  StartWorker();
  for (const bool ended : {false, true}) {
    const auto again = MustSend(Waiting(task));
    EXPECT_TRUE(again.replayed()) << ended;
    EXPECT_EQ(again.state().status(), v1::TASK_STATUS_SUCCESS);
    EXPECT_EQ(again.create_time().DebugString(),
              first.create_time().DebugString());
  }
}

TEST_F(SendAndWaitTest, TooManyWaitsAreRefusedBeforeAnythingIsSent) {
  StartServer({.sends = {.tasks = 1, .bytes = 1 << 30},
               .waits = {.tasks = 1, .bytes = 1 << 30}});
  Pending first{.context = Context()};
  Begin(Waiting(MakeTask("add", {1, 1})), first);
  backend_.AwaitCalls("GetStates", 1);  // it waits
  v1::SendTaskResponse response;
  grpc::Status refused;
  // The permit of the send is given back when the task is accepted.
  do {
    refused = stub_->SendTask(Context().get(),
                              Waiting(MakeTask("add", {}, "never")), &response);
    EXPECT_EQ(ReasonIn(refused), "TOO_MANY_IN_FLIGHT");
  } while (Find<google::rpc::QuotaFailure>(refused)
               ->violations(0)
               .subject() != "waits");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(backend_.Calls("CreatePending"), 1);
  do {
    refused = Send(MakeTask("add"));  // other sends go on
  } while (ReasonIn(refused) == "TOO_MANY_IN_FLIGHT");
  EXPECT_TRUE(refused.ok()) << refused.error_message();
  StartWorker();
  first.ended.WaitForNotification();
  EXPECT_EQ(first.send_response.state().status(), v1::TASK_STATUS_SUCCESS);
}

TEST_F(SendAndWaitTest, DrainEndsItsWait) {
  StartServer();
  Pending send{.context = Context()};
  Begin(Waiting(MakeTask("add", {1, 1})), send);
  backend_.AwaitCalls("GetStates", 1);  // it waits
  server_->BeginDrain();
  send.ended.WaitForNotification();
  EXPECT_TRUE(send.status.ok()) << send.status.error_message();
  EXPECT_EQ(send.send_response.state().status(), v1::TASK_STATUS_PENDING);
}

TEST_F(SendAndWaitTest, DrainLetsItsSendEnd) {
  StartServer();
  broker_.Hold();
  Pending send{.context = Context()};
  Begin(Waiting(MakeTask("add", {1, 1})), send);
  broker_.AwaitHeld(1);
  server_->BeginDrain();
  broker_.Release();
  server_->Drain(absl::Now() + kPatience);
  send.ended.WaitForNotification();
  EXPECT_TRUE(send.status.ok()) << send.status.error_message();
  EXPECT_EQ(send.send_response.state().status(), v1::TASK_STATUS_PENDING);
}

TEST_F(SendAndWaitTest, ADrainsDeadlineEndsIt) {
  StartServer();
  broker_.Hold();
  Pending send{.context = Context()};
  Begin(Waiting(MakeTask("add", {1, 1})), send);
  broker_.AwaitHeld(1);
  server_->Drain(absl::Now());
  send.ended.WaitForNotification();
  EXPECT_FALSE(send.status.ok());
  server_.reset();
  broker_.Release();  // its completion finds nobody, and harms nothing
}

// ---- the server -----------------------------------------------------------

TEST_F(GatewayTest, DrainEndsWaitsAndWatchesAndRefusesSends) {
  StartServer();
  const std::string id = MustSend(MakeTask("add"));
  v1::WatchStateRequest watched;
  watched.add_task_ids(id);
  auto watch_context = Context();
  auto stream = stub_->WatchState(watch_context.get(), watched);
  v1::WatchStateResponse news;
  ASSERT_TRUE(stream->Read(&news));
  Pending wait{.context = Context()};
  wait.get_request.set_task_id(id);
  wait.get_request.mutable_wait()->set_seconds(50);
  stub_->async()->GetState(wait.context.get(), &wait.get_request,
                           &wait.get_response, wait.OnEnd());

  server_->BeginDrain();
  wait.ended.WaitForNotification();
  EXPECT_TRUE(wait.status.ok()) << wait.status.error_message();
  EXPECT_EQ(wait.get_response.state().status(), v1::TASK_STATUS_PENDING);
  EXPECT_FALSE(stream->Read(&news));
  const grpc::Status ended = stream->Finish();
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(ended), "DRAINING");
  const grpc::Status refused = Send(MakeTask("add"));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(refused), "DRAINING");
  EXPECT_TRUE(Find<google::rpc::RetryInfo>(refused).has_value());
  EXPECT_EQ(Peek(id).status(), v1::TASK_STATUS_PENDING);  // reads go on
}

TEST_F(GatewayTest, DrainEndsWatchesOfFinishedTasksToo) {
  StartBoth();
  const std::string id = MustSend(MakeTask("add", {1, 1}));
  AwaitInt(id);
  v1::WatchStateRequest request;
  request.add_task_ids(id);
  request.set_until_terminal(false);
  auto context = Context();
  auto stream = stub_->WatchState(context.get(), request);
  v1::WatchStateResponse news;
  ASSERT_TRUE(stream->Read(&news));
  server_->BeginDrain();
  while (stream->Read(&news)) {
  }
  EXPECT_EQ(ReasonIn(stream->Finish()), "DRAINING");
}

TEST_F(GatewayTest, DrainLetsSendsEnd) {
  StartServer();
  broker_.Hold();
  Pending send{.context = Context()};
  *send.send_request.mutable_task() = MakeTask("add");
  stub_->async()->SendTask(send.context.get(), &send.send_request,
                           &send.send_response, send.OnEnd());
  broker_.AwaitHeld(1);
  server_->BeginDrain();
  broker_.Release();
  server_->Drain(absl::Now() + kPatience);
  send.ended.WaitForNotification();
  EXPECT_TRUE(send.status.ok()) << send.status.error_message();
}

TEST_F(GatewayTest, DrainIsBoundedByItsDeadline) {
  StartServer();
  broker_.Hold();
  Pending send{.context = Context()};
  *send.send_request.mutable_task() = MakeTask("add");
  stub_->async()->SendTask(send.context.get(), &send.send_request,
                           &send.send_response, send.OnEnd());
  broker_.AwaitHeld(1);
  server_->Drain(absl::Now());  // returns though the send has not ended
  send.ended.WaitForNotification();
  EXPECT_FALSE(send.status.ok());
  server_.reset();
  broker_.Release();  // its completion finds nobody, and harms nothing
}

TEST_F(GatewayTest, TakenPortIsAnErrorThatNamesIt) {
  StartServer();
  auto second = Server::Start(&lifecycle_, &broker_, &backend_,
                              environment_.get(), {.listen = server_->address()});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(server_->address()));
}

TEST_F(GatewayTest, HealthFollowsTheBackendAndTheDrain) {
  StartServer();
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  HealthCheckRequest gateway;
  gateway.set_service("penstock.v1.GatewayService");
  auto context = Context();
  auto stream = stub->Watch(context.get(), gateway);
  HealthCheckResponse response;
  auto await = [&](HealthCheckResponse::ServingStatus status) {
    while (response.status() != status) ASSERT_TRUE(stream->Read(&response));
  };
  await(HealthCheckResponse::SERVING);
  HealthCheckResponse checked;
  ASSERT_TRUE(stub->Check(Context().get(), gateway, &checked).ok());
  EXPECT_EQ(checked.status(), HealthCheckResponse::SERVING);

  backend_.SetMode(FailingBackend::kRefuse);
  await(HealthCheckResponse::NOT_SERVING);
  ASSERT_TRUE(stub->Check(Context().get(), {}, &checked).ok());
  EXPECT_EQ(checked.status(), HealthCheckResponse::SERVING);  // it lives
  backend_.SetMode(FailingBackend::kWork);
  await(HealthCheckResponse::SERVING);

  server_->BeginDrain();
  await(HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GatewayTest, ASchedulesTickIsRun) {
  StartBoth();
  auto admin = v1::AdminService::NewStub(channel_);
  v1::CreateScheduleRequest request;
  request.set_name("often");
  request.set_cron_spec("@every 1s");
  *request.mutable_task() = MakeTask("add", {2, 3});
  v1::CreateScheduleResponse created;
  ASSERT_TRUE(admin->CreateSchedule(Context().get(), request, &created).ok());
  EXPECT_EQ(created.schedule().name(), "often");
  v1::ListSchedulesResponse list;
  while (list.schedules_size() != 1 || !list.schedules(0).has_last_run()) {
    absl::SleepFor(absl::Milliseconds(20));
    ASSERT_TRUE(admin->ListSchedules(Context().get(), {}, &list).ok());
  }
  const v1::TaskState state = Await(list.schedules(0).last_run().task_id());
  EXPECT_EQ(state.status(), v1::TASK_STATUS_SUCCESS);
  EXPECT_EQ(state.results(0).int_value(), 5);

  v1::DeleteScheduleRequest gone;
  gone.set_name("often");
  v1::DeleteScheduleResponse deleted;
  ASSERT_TRUE(admin->DeleteSchedule(Context().get(), gone, &deleted).ok());
  EXPECT_EQ(deleted.schedule().name(), "often");
  const grpc::Status again =
      admin->DeleteSchedule(Context().get(), gone, &deleted);
  EXPECT_EQ(again.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(again), "SCHEDULE_NOT_FOUND");
  EXPECT_EQ(Find<google::rpc::ResourceInfo>(again)->resource_name(), "often");
}

TEST_F(GatewayTest, ADrainingGatewayTakesNoAdminCalls) {
  StartServer();
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  HealthCheckRequest health;
  health.set_service("penstock.v1.AdminService");
  auto context = Context();
  auto stream = stub->Watch(context.get(), health);
  HealthCheckResponse response;
  while (response.status() != HealthCheckResponse::SERVING) {
    ASSERT_TRUE(stream->Read(&response));
  }
  auto admin = v1::AdminService::NewStub(channel_);
  server_->BeginDrain();
  v1::ListSchedulesResponse list;
  const grpc::Status refused =
      admin->ListSchedules(Context().get(), {}, &list);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(refused), "DRAINING");
}

TEST_F(GatewayTest, HealthOfAnUnknownServiceIsNotFound) {
  StartServer();
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  HealthCheckRequest request;
  request.set_service("nobody");
  HealthCheckResponse response;
  EXPECT_EQ(stub->Check(Context().get(), request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  auto context = Context();
  auto stream = stub->Watch(context.get(), request);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  context->TryCancel();
  stream->Finish();
}

// One request to grpc.reflection.v1alpha, given and answered as bytes: its
// generated code is not installed.
std::string Reflect(const std::shared_ptr<grpc::Channel>& channel,
                    const std::string& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  auto stream = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
      &queue);
  auto next = [&] { return queue.Next(&tag, &ok) && ok; };
  stream->StartCall(nullptr);
  EXPECT_TRUE(next());
  grpc::Slice slice(request);
  stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  EXPECT_TRUE(next());
  grpc::ByteBuffer answer;
  stream->Read(&answer, nullptr);
  EXPECT_TRUE(next());
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(answer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& each : slices) {
    bytes.append(reinterpret_cast<const char*>(each.begin()), each.size());
  }
  context.TryCancel();
  grpc::Status status;
  stream->Finish(&status, nullptr);
  next();
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return bytes;
}

TEST_F(GatewayTest, ReflectionKnowsTheServicesAndTheErrorDetails) {
  StartServer();
  const std::string services = Reflect(channel_, std::string("\x3a\0", 2));
  EXPECT_THAT(services, HasSubstr("penstock.v1.GatewayService"));
  EXPECT_THAT(services, HasSubstr("grpc.health.v1.Health"));
  for (const std::string symbol :
       {"google.rpc.BadRequest", "google.rpc.ErrorInfo",
        "grpc.health.v1.Health", "penstock.v1.GatewayService"}) {
    std::string request = "\x22";  // file_containing_symbol
    request.push_back(static_cast<char>(symbol.size()));
    const std::string file = Reflect(channel_, request + symbol);
    EXPECT_THAT(file, HasSubstr(".proto")) << symbol;
  }
}

}  // namespace
}  // namespace penstock
