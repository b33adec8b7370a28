// What penstockctl asks a gateway, prints, and exits with. The gateway is one
// of the test's own on a real channel; its answers are laid out beforehand.

#include <deque>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "tools/penstockctl/args.h"
#include "tools/penstockctl/commands.h"
#include "tools/penstockctl/print.h"

namespace penstock::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FakeGateway final : public v1::GatewayService::Service {
 public:
  grpc::Status SendTask(grpc::ServerContext*,
                        const v1::SendTaskRequest* request,
                        v1::SendTaskResponse* response) override {
    sent.push_back(request->task());
    request_ids.push_back(request->request_id());
    response->set_task_id("task_1");
    send_waits.push_back(request->wait().seconds());
    if (sent_state.has_value()) *response->mutable_state() = *sent_state;
    return answer;
  }
  grpc::Status SendGroup(grpc::ServerContext*,
                         const v1::SendGroupRequest* request,
                         v1::SendGroupResponse* response) override {
    sent.assign(request->tasks().begin(), request->tasks().end());
    request_ids.push_back(request->request_id());
    response->set_group_id("group_1");
    for (size_t i = 1; i <= sent.size(); ++i) {
      response->add_task_ids("task_" + std::to_string(i));
    }
    return answer;
  }
  grpc::Status SendChain(grpc::ServerContext*,
                         const v1::SendChainRequest* request,
                         v1::SendChainResponse* response) override {
    request_ids.push_back(request->request_id());
    for (int i = 1; i <= request->tasks_size(); ++i) {
      response->add_task_ids("task_" + std::to_string(i));
    }
    return answer;
  }
  grpc::Status SendChord(grpc::ServerContext*,
                         const v1::SendChordRequest* request,
                         v1::SendChordResponse* response) override {
    sent.assign(request->tasks().begin(), request->tasks().end());
    sent.push_back(request->callback());
    request_ids.push_back(request->request_id());
    response->set_group_id("group_1");
    response->add_task_ids("task_1");
    response->set_callback_task_id("task_2");
    return answer;
  }
  grpc::Status GetState(grpc::ServerContext*,
                        const v1::GetStateRequest* request,
                        v1::GetStateResponse* response) override {
    asked.push_back(*request);
    v1::TaskState& state = *response->mutable_state();
    if (!states.empty()) {
      state = states.front();
      states.pop_front();
    }
    state.set_task_id(request->task_id());
    return answer;
  }
  grpc::Status GetGroupState(grpc::ServerContext*,
                             const v1::GetGroupStateRequest* request,
                             v1::GetGroupStateResponse* response) override {
    v1::GroupState& group = *response->mutable_group();
    group.set_group_id(request->group_id());
    group.set_total(2);
    auto* count = group.add_counts();
    count->set_status(v1::TASK_STATUS_SUCCESS);
    count->set_count(2);
    bool first = request->page_token().empty();
    group.add_tasks()->set_task_id(first ? "task_1" : "task_2");
    if (first) response->set_next_page_token("2");
    return answer;
  }
  grpc::Status CancelTask(grpc::ServerContext*,
                          const v1::CancelTaskRequest* request,
                          v1::CancelTaskResponse* response) override {
    v1::TaskState& state = *response->mutable_state();
    state.set_task_id(request->task_id());
    state.set_status(v1::TASK_STATUS_CANCELLED);
    state.mutable_error()->set_message("cancelled: " + request->reason());
    return answer;
  }
  grpc::Status CancelGroup(grpc::ServerContext*,
                           const v1::CancelGroupRequest* request,
                           v1::CancelGroupResponse* response) override {
    response->set_cancelled_count(2);
    v1::GroupState& group = *response->mutable_group();
    group.set_group_id(request->group_id());
    group.set_total(2);
    group.set_done(true);
    auto* count = group.add_counts();
    count->set_status(v1::TASK_STATUS_CANCELLED);
    count->set_count(2);
    return answer;
  }
  grpc::Status WatchState(
      grpc::ServerContext*, const v1::WatchStateRequest*,
      grpc::ServerWriter<v1::WatchStateResponse>* writer) override {
    for (const v1::TaskState& state : states) {
      v1::WatchStateResponse news;
      news.mutable_keepalive();
      writer->Write(news);
      *news.mutable_state() = state;
      writer->Write(news);
    }
    return answer;
  }

  grpc::Status answer;
  std::deque<v1::TaskState> states;
  std::vector<v1::Task> sent;
  std::vector<std::string> request_ids;
  std::vector<int64_t> send_waits;  // s
  std::optional<v1::TaskState> sent_state;
  std::vector<v1::GetStateRequest> asked;
};

class FakeAdmin final : public v1::AdminService::Service {
 public:
  grpc::Status CreateSchedule(grpc::ServerContext*,
                              const v1::CreateScheduleRequest* request,
                              v1::CreateScheduleResponse* response) override {
    created.push_back(*request);
    if (request->cron_spec() == "wrong") {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "not so");
    }
    *response->mutable_schedule() = ScheduleNamed(request->name());
    return grpc::Status::OK;
  }
  grpc::Status ListSchedules(grpc::ServerContext*,
                             const v1::ListSchedulesRequest* request,
                             v1::ListSchedulesResponse* response) override {
    const bool first = request->page_token().empty();
    *response->add_schedules() = ScheduleNamed(first ? "a" : "b");
    if (first) response->set_next_page_token("2");
    return grpc::Status::OK;
  }
  grpc::Status PauseSchedule(grpc::ServerContext*,
                             const v1::PauseScheduleRequest* request,
                             v1::PauseScheduleResponse* response) override {
    *response->mutable_schedule() = ScheduleNamed(request->name());
    response->mutable_schedule()->set_paused(true);
    return grpc::Status::OK;
  }
  grpc::Status ResumeSchedule(grpc::ServerContext*,
                              const v1::ResumeScheduleRequest* request,
                              v1::ResumeScheduleResponse* response) override {
    *response->mutable_schedule() = ScheduleNamed(request->name());
    return grpc::Status::OK;
  }
  grpc::Status DeleteSchedule(grpc::ServerContext*,
                              const v1::DeleteScheduleRequest* request,
                              v1::DeleteScheduleResponse* response) override {
    if (request->name() == "unknown") {
      return grpc::Status(grpc::StatusCode::NOT_FOUND, "not there");
    }
    *response->mutable_schedule() = ScheduleNamed(request->name());
    return grpc::Status::OK;
  }

  static v1::Schedule ScheduleNamed(const std::string& name) {
    v1::Schedule schedule;
    schedule.set_name(name);
    schedule.set_cron_spec("0 3 * * *");
    schedule.mutable_next_tick_time()->set_seconds(1'700'000'000);
    return schedule;
  }

  grpc::Status ListDeadTasks(grpc::ServerContext*,
                             const v1::ListDeadTasksRequest* request,
                             v1::ListDeadTasksResponse* response) override {
    queues.push_back(request->queue());
    const bool first = request->page_token().empty();
    v1::DeadTask& task = *response->add_dead_tasks();
    task.set_task_id(first ? "task_1" : "task_2");
    task.set_name("add");
    task.set_reason("begun 10\ntimes");
    task.mutable_time()->set_seconds(1'700'000'000);
    task.set_attempts(3);
    if (first) response->set_next_page_token("2");
    return grpc::Status::OK;
  }
  grpc::Status RetryTask(grpc::ServerContext*,
                         const v1::RetryTaskRequest* request,
                         v1::RetryTaskResponse* response) override {
    queues.push_back(request->queue());
    if (request->task_id() == "unknown") {
      return grpc::Status(grpc::StatusCode::NOT_FOUND, "not there");
    }
    response->mutable_state()->set_task_id("copy_of_" + request->task_id());
    return grpc::Status::OK;
  }
  grpc::Status DeleteDeadTask(grpc::ServerContext*,
                              const v1::DeleteDeadTaskRequest* request,
                              v1::DeleteDeadTaskResponse* response) override {
    queues.push_back(request->queue());
    response->mutable_dead_task()->set_task_id(request->task_id());
    return grpc::Status::OK;
  }

  std::vector<std::string> queues;
  std::vector<v1::CreateScheduleRequest> created;
};

v1::TaskState State(v1::TaskStatus status) {
  v1::TaskState state;
  state.set_task_id("task_1");
  state.set_status(status);
  return state;
}

v1::TaskState Success(int64_t result) {
  v1::TaskState state = State(v1::TASK_STATUS_SUCCESS);
  state.add_results()->set_int_value(result);
  return state;
}

v1::TaskState Failure(const std::string& text) {
  v1::TaskState state = State(v1::TASK_STATUS_FAILURE);
  state.mutable_error()->set_message(text);
  return state;
}

class PenstockctlTest : public ::testing::Test {
 protected:
  PenstockctlTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&gateway_);
    builder.RegisterService(&admin_);
    server_ = builder.BuildAndStart();
    const auto channel = server_->InProcessChannel({});
    stub_ = v1::GatewayService::NewStub(channel);
    admin_stub_ = v1::AdminService::NewStub(channel);
  }

  ExitStatus Run(const std::vector<std::string>& words) {
    absl::StatusOr<Command> command =
        ParseArgs(words, [](const std::string&) { return std::nullopt; });
    EXPECT_TRUE(command.ok()) << command.status();
    out_.str("");
    err_.str("");
    return RunCommand(*command, *stub_, *admin_stub_, out_, err_);
  }

  FakeGateway gateway_;
  FakeAdmin admin_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::GatewayService::Stub> stub_;
  std::unique_ptr<v1::AdminService::Stub> admin_stub_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(PenstockctlTest, SendPrintsTheIdAlone) {
  EXPECT_EQ(Run({"send", "add", "-1", "uint8:2", "--queue=q", "--id=i",
                 "--retries=3", "--priority=4", "--delay=1500ms",
                 "--unique-key=k"}),
            kExitOk);
  EXPECT_EQ(out_.str(), "task_1\n");
  ASSERT_EQ(gateway_.sent.size(), 1u);
  EXPECT_EQ(gateway_.sent[0].ShortDebugString(),
            "name: \"add\" args { int_value: -1 } args { type: \"uint8\" "
            "uint_value: 2 } id: \"i\" routing_key: \"q\" delay { seconds: 1 "
            "nanos: 500000000 } retry_count: 3 priority: 4 unique_key: \"k\"");
}

TEST_F(PenstockctlTest, EverySendTakesARequestId) {
  EXPECT_EQ(Run({"send", "add", "--request-id=a"}), kExitOk);
  EXPECT_EQ(Run({"group", "add", ":", "add", "--request-id=b"}), kExitOk);
  EXPECT_EQ(Run({"chain", "add", ":", "add", "--request-id=c"}), kExitOk);
  EXPECT_EQ(Run({"chord", "add", ":", "add", "--request-id=d"}), kExitOk);
  EXPECT_EQ(Run({"send", "add"}), kExitOk);
  EXPECT_THAT(gateway_.request_ids, ElementsAre("a", "b", "c", "d", ""));
}

TEST_F(PenstockctlTest, EveryKindOfValueReachesItsCase) {
  EXPECT_EQ(Run({"send", "all", "true", "1", "uint64:2", "1.5", "text",
                 "[]byte:aGk=", "[]bool:true", "[]int8:1", "[]uint16:2",
                 "[]float32:1.5", "[]string:a,b", "[]int64:"}),
            kExitOk);
  ASSERT_EQ(gateway_.sent.size(), 1u);
  std::vector<int> cases;
  for (const v1::Value& value : gateway_.sent[0].args()) {
    cases.push_back(value.kind_case());
  }
  EXPECT_THAT(cases, ElementsAre(3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 10));
}

TEST_F(PenstockctlTest, ASendThatWaitsIsOneCall) {
  gateway_.sent_state = Success(2);
  EXPECT_EQ(Run({"send", "add", "1", "1", "--wait=10s"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1  SUCCESS  2\n");
  EXPECT_THAT(gateway_.send_waits, ElementsAre(10));
  EXPECT_THAT(gateway_.asked, IsEmpty());
  gateway_.sent_state->set_status(v1::TASK_STATUS_FAILURE);
  EXPECT_EQ(Run({"send", "add", "--wait=10s"}), kExitTaskFailed);
}

TEST_F(PenstockctlTest, ASendWhoseWaitIsOverPrintsTheStateAsItIs) {
  gateway_.sent_state = State(v1::TASK_STATUS_PENDING);
  EXPECT_EQ(Run({"send", "add", "--wait=1m"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1  PENDING\n");
  EXPECT_THAT(gateway_.asked, IsEmpty());
}

TEST_F(PenstockctlTest, ALongWaitOfASendGoesOnByState) {
  gateway_.sent_state = State(v1::TASK_STATUS_PENDING);
  gateway_.states = {Success(2)};
  EXPECT_EQ(Run({"send", "add", "--wait=2m"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1  SUCCESS  2\n");
  EXPECT_THAT(gateway_.send_waits, ElementsAre(60));
  EXPECT_EQ(gateway_.asked.size(), 1u);
}

TEST_F(PenstockctlTest, AStateThatDidNotComeWithTheSendIsAskedFor) {
  gateway_.states = {Success(2)};
  EXPECT_EQ(Run({"send", "add", "1", "1", "--wait=10s"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1  SUCCESS  2\n");
}

TEST_F(PenstockctlTest, AFailedTaskExitsWithOne) {
  gateway_.states = {Failure("it\nbroke")};
  EXPECT_EQ(Run({"state", "task_1"}), kExitTaskFailed);
  EXPECT_EQ(out_.str(), "task_1  FAILURE  it broke\n");
}

TEST_F(PenstockctlTest, AWaitThatIsOverPrintsTheStateAsItIs) {
  gateway_.states = {State(v1::TASK_STATUS_PENDING)};
  EXPECT_EQ(Run({"state", "task_1", "--wait=1ms"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1  PENDING\n");
  EXPECT_EQ(gateway_.asked.size(), 1u);
}

// The gateway waits for 60 s at most.
TEST_F(PenstockctlTest, ALongWaitIsSeveralCalls) {
  gateway_.states = {State(v1::TASK_STATUS_PENDING),
                     State(v1::TASK_STATUS_STARTED), Success(2)};
  EXPECT_EQ(Run({"state", "task_1", "--wait=1h"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1  SUCCESS  2\n");
  ASSERT_EQ(gateway_.asked.size(), 3u);
  EXPECT_EQ(gateway_.asked[2].wait().seconds(), 60);
}

TEST_F(PenstockctlTest, WorkflowsPrintTheirIds) {
  EXPECT_EQ(Run({"group", "a", ":", "b"}), kExitOk);
  EXPECT_EQ(out_.str(), "group_1\ntask_1\ntask_2\n");
  EXPECT_EQ(Run({"chain", "a", ":", "b"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1\ntask_2\n");
  EXPECT_EQ(Run({"chord", "a", ":", "b"}), kExitOk);
  EXPECT_EQ(out_.str(), "group_1\ntask_1\ntask_2\n");
  ASSERT_EQ(gateway_.sent.size(), 2u);
  EXPECT_EQ(gateway_.sent[1].name(), "b");
}

TEST_F(PenstockctlTest, WorkflowsWaitForWhatHoldsTheResult) {
  gateway_.states = {Success(1), Failure("no")};
  EXPECT_EQ(Run({"group", "a", ":", "b", "--wait=1s"}), kExitTaskFailed);
  EXPECT_EQ(out_.str(), "group_1\ntask_1  SUCCESS  1\ntask_2  FAILURE  no\n");
  gateway_.states = {Success(60)};
  EXPECT_EQ(Run({"chain", "a", ":", "b", "--wait=1s"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_2  SUCCESS  60\n");
  gateway_.states = {Success(88)};
  EXPECT_EQ(Run({"chord", "a", ":", "b", "--wait=1s"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_2  SUCCESS  88\n");
}

TEST_F(PenstockctlTest, JsonIsOneResponseALine) {
  gateway_.sent_state = Success(2);
  EXPECT_EQ(Run({"send", "add", "--json", "--wait=1s"}), kExitOk);
  EXPECT_EQ(out_.str(),
            "{\"task_id\":\"task_1\",\"state\":{\"task_id\":\"task_1\",\"status\":"
            "\"TASK_STATUS_SUCCESS\",\"results\":[{\"int_value\":\"2\"}]}}\n");
  out_.str("");
  gateway_.sent_state.reset();
  gateway_.states = {Success(2)};
  EXPECT_EQ(Run({"send", "add", "--json", "--wait=1s"}), kExitOk);
  EXPECT_EQ(out_.str(),
            "{\"task_id\":\"task_1\"}\n"
            "{\"state\":{\"task_id\":\"task_1\",\"status\":"
            "\"TASK_STATUS_SUCCESS\",\"results\":[{\"int_value\":\"2\"}]}}\n");
}

TEST_F(PenstockctlTest, ResultsAreShownByKind) {
  v1::TaskState state = State(v1::TASK_STATUS_SUCCESS);
  state.add_results()->set_string_value("a \"b\"");
  state.add_results()->set_float_value(1.5);
  state.add_results()->set_bool_value(true);
  state.add_results()->set_bytes_value("hi");
  state.add_results()->mutable_ints();
  auto* strings = state.add_results()->mutable_strings();
  strings->add_values("a");
  strings->add_values("b");
  gateway_.states = {state};
  EXPECT_EQ(Run({"state", "task_1"}), kExitOk);
  EXPECT_EQ(out_.str(),
            "task_1  SUCCESS  \"a \\\"b\\\"\" 1.5 true aGk= [] [\"a\", "
            "\"b\"]\n");
}

TEST_F(PenstockctlTest, WatchPrintsEachStateAndNoKeepalive) {
  gateway_.states = {State(v1::TASK_STATUS_PENDING), Failure("no")};
  EXPECT_EQ(Run({"watch", "task_1"}), kExitTaskFailed);
  EXPECT_EQ(out_.str(), "task_1  PENDING\ntask_1  FAILURE  no\n");
}

TEST_F(PenstockctlTest, GroupStateReadsAllPages) {
  EXPECT_EQ(Run({"group-state", "g"}), kExitOk);
  EXPECT_EQ(out_.str(),
            "g  2 SUCCESS of 2\ntask_1  UNSPECIFIED\ntask_2  UNSPECIFIED\n");
}

TEST_F(PenstockctlTest, CancelPrintsHowEachStandsThen) {
  EXPECT_EQ(Run({"cancel", "task_1", "task_2", "--reason=not needed"}),
            kExitOk);
  EXPECT_EQ(out_.str(),
            "task_1  CANCELLED  cancelled: not needed\n"
            "task_2  CANCELLED  cancelled: not needed\n");
  EXPECT_EQ(Run({"cancel-group", "group_1"}), kExitOk);
  EXPECT_EQ(out_.str(), "cancelled 2\ngroup_1  2 CANCELLED of 2  done\n");
}

TEST_F(PenstockctlTest, SchedulesCreateSendsWhatTheSendingCommandWould) {
  EXPECT_EQ(Run({"schedules", "create", "nightly", "0 3 * * *", "send", "add",
                 "1", "1", "--retries=2", "--run-missed"}),
            kExitOk);
  EXPECT_EQ(out_.str(), "nightly  0 3 * * *  next 2023-11-14T22:13:20Z\n");
  ASSERT_EQ(admin_.created.size(), 1);
  const v1::CreateScheduleRequest& task = admin_.created[0];
  EXPECT_EQ(task.cron_spec(), "0 3 * * *");
  EXPECT_EQ(task.missed_ticks(), v1::MISSED_TICKS_RUN_ONCE);
  EXPECT_EQ(task.task().name(), "add");
  EXPECT_EQ(task.task().args_size(), 2);
  EXPECT_EQ(task.task().retry_count(), 2);

  Run({"schedules", "create", "g", "@daily", "group", "a", ":", "b"});
  Run({"schedules", "create", "c", "@daily", "chain", "a", ":", "b"});
  Run({"schedules", "create", "h", "@daily", "chord", "a", ":", "b", ":", "z"});
  ASSERT_EQ(admin_.created.size(), 4);
  EXPECT_EQ(admin_.created[1].missed_ticks(), v1::MISSED_TICKS_UNSPECIFIED);
  EXPECT_EQ(admin_.created[1].group().tasks_size(), 2);
  EXPECT_EQ(admin_.created[2].chain().tasks_size(), 2);
  EXPECT_EQ(admin_.created[3].chord().tasks_size(), 2);
  EXPECT_EQ(admin_.created[3].chord().callback().name(), "z");

  EXPECT_EQ(Run({"schedules", "create", "x", "wrong", "send", "add"}),
            kExitCallFailed);
  EXPECT_EQ(err_.str(), "penstockctl: INVALID_ARGUMENT: not so\n");
}

TEST_F(PenstockctlTest, SchedulesListReadsAllPages) {
  EXPECT_EQ(Run({"schedules", "list"}), kExitOk);
  EXPECT_EQ(out_.str(),
            "a  0 3 * * *  next 2023-11-14T22:13:20Z\n"
            "b  0 3 * * *  next 2023-11-14T22:13:20Z\n");
}

TEST_F(PenstockctlTest, SchedulesArePausedResumedAndDeletedByName) {
  EXPECT_EQ(Run({"schedules", "pause", "a", "b"}), kExitOk);
  EXPECT_EQ(out_.str(), "a  0 3 * * *  paused\nb  0 3 * * *  paused\n");
  EXPECT_EQ(Run({"schedules", "resume", "a"}), kExitOk);
  EXPECT_EQ(out_.str(), "a  0 3 * * *  next 2023-11-14T22:13:20Z\n");
  EXPECT_EQ(Run({"schedules", "delete", "a"}), kExitOk);
  EXPECT_EQ(Run({"schedules", "delete", "unknown", "a"}), kExitCallFailed);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(PenstockctlTest, AScheduleShowsWhatItSentLastAndWhatWentWrong) {
  v1::Schedule schedule = FakeAdmin::ScheduleNamed("n");
  schedule.set_missed_ticks(v1::MISSED_TICKS_RUN_ONCE);
  schedule.mutable_last_run()->mutable_tick_time()->set_seconds(1'600'000'000);
  schedule.mutable_last_run()->set_group_id("group_1");
  schedule.mutable_last_run()->set_task_id("chord_1");
  schedule.set_last_error("UNAVAILABLE\nX");
  EXPECT_EQ(ShowSchedule(schedule),
            "n  0 3 * * *  next 2023-11-14T22:13:20Z  runs missed ticks  last "
            "2020-09-13T12:26:40Z group_1 chord_1  error: UNAVAILABLE X");
}

TEST_F(PenstockctlTest, DeadListReadsAllPages) {
  EXPECT_EQ(Run({"dead", "list", "--queue=q"}), kExitOk);
  EXPECT_EQ(out_.str(),
            "task_1  2023-11-14T22:13:20Z  add  attempt 3  begun 10 times\n"
            "task_2  2023-11-14T22:13:20Z  add  attempt 3  begun 10 times\n");
  EXPECT_THAT(admin_.queues, ElementsAre("q", "q"));
}

TEST_F(PenstockctlTest, DeadRetryPrintsTheIdsOfTheCopies) {
  EXPECT_EQ(Run({"dead", "retry", "a", "b", "--queue=q"}), kExitOk);
  EXPECT_EQ(out_.str(), "copy_of_a\ncopy_of_b\n");
  EXPECT_THAT(admin_.queues, ElementsAre("q", "q"));
  EXPECT_EQ(Run({"dead", "retry", "unknown"}), kExitCallFailed);
  EXPECT_EQ(err_.str(), "penstockctl: NOT_FOUND: not there\n");
}

TEST_F(PenstockctlTest, DeadDeleteSaysWhatIsGone) {
  EXPECT_EQ(Run({"dead", "delete", "a"}), kExitOk);
  EXPECT_EQ(out_.str(), "deleted a\n");
  EXPECT_THAT(admin_.queues, ElementsAre(""));
}

TEST_F(PenstockctlTest, ProgressIsShownWhileATaskRuns) {
  v1::TaskState state = State(v1::TASK_STATUS_STARTED);
  state.set_worker_id("w");
  state.mutable_progress()->set_fraction(0.999);
  state.mutable_progress()->set_text("page\n999");
  gateway_.states = {state};
  EXPECT_EQ(Run({"state", "task_1"}), kExitOk);
  EXPECT_EQ(out_.str(), "task_1  STARTED  on w  99% page 999\n");
}

TEST_F(PenstockctlTest, ACancelledTaskExitsWithOne) {
  v1::TaskState state = Failure("cancelled: why");
  state.set_status(v1::TASK_STATUS_CANCELLED);
  gateway_.states = {state};
  EXPECT_EQ(Run({"state", "task_1", "--wait=1s"}), kExitTaskFailed);
  EXPECT_EQ(out_.str(), "task_1  CANCELLED  cancelled: why\n");
}

TEST_F(PenstockctlTest, AnArgumentThatIsNoneIsAUsageError) {
  EXPECT_EQ(Run({"send", "add", "int8:300"}), kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("\"int8:300\""));
  EXPECT_THAT(gateway_.sent, IsEmpty());
}

TEST_F(PenstockctlTest, AFailedCallShowsReasonAndEveryField) {
  google::rpc::ErrorInfo info;
  info.set_reason("INVALID_FIELD");
  google::rpc::BadRequest bad;
  for (const char* field : {"task.name", "task.args[0].int_value"}) {
    auto* violation = bad.add_field_violations();
    violation->set_field(field);
    violation->set_description("is wrong");
  }
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(1);
  google::rpc::Status details;
  details.add_details()->PackFrom(info);
  details.add_details()->PackFrom(bad);
  details.add_details()->PackFrom(retry);
  gateway_.answer =
      grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "2 fields are wrong",
                   details.SerializeAsString());
  EXPECT_EQ(Run({"send", "add"}), kExitCallFailed);
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(err_.str(),
            "penstockctl: INVALID_ARGUMENT INVALID_FIELD: 2 fields are wrong\n"
            "  task.name: is wrong\n  task.args[0].int_value: is wrong\n"
            "  try again after 1s\n");
  EXPECT_EQ(Run({"watch", "task_1"}), kExitCallFailed);
}

}  // namespace
}  // namespace penstock::ctl
