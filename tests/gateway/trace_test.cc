// A call's trace context reaches the handlers of every task that it sends, and
// does not tell a repeat from the first call.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/gateway/gateway_fixture.h"

namespace penstock {
namespace {

constexpr char kParent[] =
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
constexpr char kOther[] =
    "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00";
constexpr char kState[] = "vendor=t61rcWkgMzE,other=1";

class TraceTest : public GatewayTest {
 protected:
  void SetUp() override {
    StartServer();
    worker_ = std::make_unique<Worker>(
        &broker_, &backend_, environment_.get(),
        WorkerOptions{.concurrency = 2, .handle_signals = false});
    worker_->Register(
        "trace", [](penstock::Context& context, penstock::Rest<std::string>) {
          return context.headers["traceparent"] + " " +
                 context.headers["tracestate"];
        });
  }

  // Nothing runs before: so what a call sends is looked at when all is sent.
  void Work() { ASSERT_TRUE(worker_->Start().ok()); }

  static std::unique_ptr<grpc::ClientContext> Traced(
      const std::string& parent = kParent, const std::string& state = kState) {
    auto context = Context();
    context->AddMetadata("traceparent", parent);
    if (!state.empty()) context->AddMetadata("tracestate", state);
    return context;
  }

  std::string AwaitText(const std::string& id) {
    const v1::TaskState state = Await(id);
    EXPECT_EQ(state.status(), v1::TASK_STATUS_SUCCESS) << state.DebugString();
    return state.results_size() == 1 ? state.results(0).string_value() : "";
  }

  const std::string both_ = std::string(kParent) + " " + kState;
};

TEST_F(TraceTest, TaskHasTheCallsContextAndWhatFollowsItToo) {
  Work();
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("trace");
  *request.mutable_task()->add_on_success() = MakeTask("trace", {}, "after");
  v1::SendTaskResponse response;
  ASSERT_TRUE(stub_->SendTask(Traced().get(), request, &response).ok());
  EXPECT_EQ(AwaitText(response.task_id()), both_);
  EXPECT_EQ(AwaitText("after"), both_);
}

TEST_F(TraceTest, ATaskKeepsItsOwnContext) {
  Work();
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("trace");
  (*request.mutable_task()->mutable_headers())["traceparent"] = kOther;
  v1::SendTaskResponse response;
  ASSERT_TRUE(stub_->SendTask(Traced().get(), request, &response).ok());
  EXPECT_EQ(AwaitText(response.task_id()), std::string(kOther) + " ");
}

TEST_F(TraceTest, EveryLinkMemberAndCallbackHasIt) {
  Work();
  v1::SendChainRequest chain;
  *chain.add_tasks() = MakeTask("trace");
  *chain.add_tasks() = MakeTask("trace");
  v1::SendChainResponse links;
  ASSERT_TRUE(stub_->SendChain(Traced().get(), chain, &links).ok());
  for (const std::string& id : links.task_ids()) {
    EXPECT_EQ(AwaitText(id), both_);
  }

  v1::SendChordRequest chord;
  *chord.add_tasks() = MakeTask("trace");
  *chord.add_tasks() = MakeTask("trace");
  *chord.mutable_callback() = MakeTask("trace");
  v1::SendChordResponse sent;
  ASSERT_TRUE(stub_->SendChord(Traced().get(), chord, &sent).ok());
  for (const std::string& id : sent.task_ids()) {
    EXPECT_EQ(AwaitText(id), both_);
  }
  EXPECT_EQ(AwaitText(sent.callback_task_id()), both_);

  chord.mutable_tasks(0)->set_name("not registered");
  chord.mutable_tasks(0)->set_ignore_when_task_not_registered(true);
  *chord.mutable_on_failure() = MakeTask("trace", {}, "failed");
  ASSERT_TRUE(stub_->SendChord(Traced().get(), chord, &sent).ok());
  // It exists from when the callback has failed.
  EXPECT_EQ(Await(sent.callback_task_id()).status(), v1::TASK_STATUS_FAILURE);
  v1::TaskState state;
  while (Get("failed", absl::ZeroDuration(), &state).error_code() ==
         grpc::StatusCode::NOT_FOUND) {
  }
  EXPECT_EQ(AwaitText("failed"), both_);

  v1::SendGroupRequest group;
  *group.add_tasks() = MakeTask("trace");
  v1::SendGroupResponse members;
  ASSERT_TRUE(stub_->SendGroup(Traced().get(), group, &members).ok());
  EXPECT_EQ(AwaitText(members.task_ids(0)), both_);
}

TEST_F(TraceTest, TasksOfABatchAndOfAStreamHaveIt) {
  Work();
  v1::BatchSendTasksRequest batch;
  *batch.add_tasks() = MakeTask("trace");
  v1::BatchSendTasksResponse results;
  ASSERT_TRUE(stub_->BatchSendTasks(Traced().get(), batch, &results).ok());
  EXPECT_EQ(AwaitText(results.results(0).task_id()), both_);

  auto context = Traced();
  auto stream = stub_->StreamTasks(context.get());
  v1::StreamTasksRequest request;
  *request.mutable_task() = MakeTask("trace");
  ASSERT_TRUE(stream->Write(request));
  stream->WritesDone();
  v1::StreamTasksResponse answer;
  ASSERT_TRUE(stream->Read(&answer));  // the credit
  ASSERT_TRUE(stream->Read(&answer));
  EXPECT_EQ(AwaitText(answer.task_id()), both_);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(TraceTest, RepeatUnderAnotherSpanIsTheSameCall) {
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("trace");
  request.set_request_id("r");
  v1::SendTaskResponse first;
  v1::SendTaskResponse again;
  ASSERT_TRUE(stub_->SendTask(Traced().get(), request, &first).ok());
  ASSERT_TRUE(stub_->SendTask(Traced(kOther).get(), request, &again).ok());
  EXPECT_EQ(again.task_id(), first.task_id());
  EXPECT_TRUE(again.replayed());

  request.clear_request_id();
  request.mutable_task()->set_id("mine");
  ASSERT_TRUE(stub_->SendTask(Traced().get(), request, &first).ok());
  ASSERT_TRUE(stub_->SendTask(Traced(kOther).get(), request, &again).ok());
  EXPECT_TRUE(again.replayed());

  v1::SendChordRequest chord;
  *chord.add_tasks() = MakeTask("trace");
  *chord.mutable_callback() = MakeTask("trace");
  chord.set_group_id("group");
  v1::SendChordResponse sent;
  ASSERT_TRUE(stub_->SendChord(Traced().get(), chord, &sent).ok());
  ASSERT_TRUE(stub_->SendChord(Traced(kOther).get(), chord, &sent).ok());
  EXPECT_TRUE(sent.replayed());
  Work();
  EXPECT_EQ(AwaitText(sent.callback_task_id()), both_);
  EXPECT_EQ(AwaitText(first.task_id()), both_);
}

TEST_F(TraceTest, RepeatThatSendsWhatTheFirstCouldNotSucceeds) {
  broker_.FailNextPublish(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable, "cut"));
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("trace");
  request.set_request_id("r");
  v1::SendTaskResponse response;
  EXPECT_EQ(stub_->SendTask(Traced().get(), request, &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(stub_->SendTask(Traced(kOther).get(), request, &response).ok());
  Work();
  EXPECT_THAT(AwaitText(response.task_id()), ::testing::EndsWith(kState));
}

TEST_F(TraceTest, WhatIsNoContextIsIgnored) {
  Work();
  const std::string parent = kParent;
  for (const std::string& bad :
       {std::string("x"), parent + "-more", parent.substr(0, 54),
        "ff" + parent.substr(2),
        "00-" + std::string(32, '0') + parent.substr(35),
        parent.substr(0, 36) + std::string(16, '0') + "-01",
        std::string("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
        "01" + parent.substr(2) + "-" + std::string(500, 'a')}) {
    v1::SendTaskRequest request;
    *request.mutable_task() = MakeTask("trace");
    v1::SendTaskResponse response;
    ASSERT_TRUE(stub_->SendTask(Traced(bad).get(), request, &response).ok());
    EXPECT_EQ(AwaitText(response.task_id()), " ") << bad;
  }
  v1::SendTaskRequest request;
  *request.mutable_task() = MakeTask("trace");
  v1::SendTaskResponse response;
  // A state that is too long is left out; a later version may say more.
  const std::string newer = "01" + parent.substr(2) + "-more";
  ASSERT_TRUE(stub_
                  ->SendTask(Traced(newer, std::string(513, 'a')).get(),
                             request, &response)
                  .ok());
  EXPECT_EQ(AwaitText(response.task_id()), newer + " ");
}

}  // namespace
}  // namespace penstock
