// BatchSendTasks and StreamTasks, as clients see them.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "queue/errors.h"
#include "tests/gateway/gateway_fixture.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class BatchTest : public GatewayTest {
 protected:
  grpc::Status SendBatch(const v1::BatchSendTasksRequest& request,
                         v1::BatchSendTasksResponse* response) {
    response->Clear();
    return stub_->BatchSendTasks(Context().get(), request, response);
  }
};

TEST_F(BatchTest, EachTaskHasAResultInTheOrderOfTheRequest) {
  StartBoth();
  v1::BatchSendTasksRequest request;
  for (int i = 0; i < 100; ++i) *request.add_tasks() = MakeTask("add", {i, 1});
  v1::BatchSendTasksResponse response;
  ASSERT_TRUE(SendBatch(request, &response).ok());
  ASSERT_EQ(response.results_size(), 100);
  for (int i = 0; i < 100; ++i) {
    const v1::SendTaskResult& result = response.results(i);
    EXPECT_THAT(result.task_id(), StartsWith("task_"));
    EXPECT_FALSE(result.replayed());
    EXPECT_EQ(AwaitInt(result.task_id()), i + 1);
  }
}

TEST_F(BatchTest, ABadTaskIsToldOfAloneAndTheOthersAreSent) {
  StartBoth();
  v1::BatchSendTasksRequest request;
  *request.add_tasks() = MakeTask("add", {1, 1}, "first");
  *request.add_tasks() = MakeTask("", {}, "bad id!");
  *request.add_tasks() = MakeTask("add", {2, 1}, "first");
  *request.add_tasks() = MakeTask("add", {3, 1});
  request.mutable_tasks(3)->set_routing_key("nowhere");
  *request.add_tasks() = MakeTask("add", {4, 1}, "last");
  v1::BatchSendTasksResponse response;
  ASSERT_TRUE(SendBatch(request, &response).ok());
  ASSERT_EQ(response.results_size(), 5);
  EXPECT_EQ(response.results(0).task_id(), "first");
  EXPECT_EQ(response.results(4).task_id(), "last");

  const google::rpc::Status& bad = response.results(1).status();
  EXPECT_EQ(bad.code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(bad), reason::kInvalidField);
  const auto fields = Find<google::rpc::BadRequest>(bad);
  ASSERT_TRUE(fields.has_value());
  ASSERT_EQ(fields->field_violations_size(), 2);
  EXPECT_EQ(fields->field_violations(0).field(), "tasks[1].id");
  EXPECT_EQ(fields->field_violations(1).field(), "tasks[1].name");

  EXPECT_THAT(response.results(2).status().message(),
              HasSubstr("tasks[2].id: is also that of tasks[0].id"));
  EXPECT_EQ(ReasonIn(response.results(3).status()), reason::kQueueNotFound);
  EXPECT_EQ(AwaitInt("first"), 2);
  EXPECT_EQ(AwaitInt("last"), 5);
}

TEST_F(BatchTest, ACallWithoutTasksOrWithTooManyIsRefusedAsAWhole) {
  StartServer();
  v1::BatchSendTasksRequest request;
  v1::BatchSendTasksResponse response;
  grpc::Status status = SendBatch(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("tasks: is required"));
  for (int i = 0; i < 1001; ++i) *request.add_tasks() = MakeTask("add");
  status = SendBatch(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("at most 1000"));
}

TEST_F(BatchTest, ARepeatUnderARequestIdIsAnsweredAsTheFirstCall) {
  StartBoth();
  v1::BatchSendTasksRequest request;
  request.set_request_id("call-1");
  *request.add_tasks() = MakeTask("add", {1, 1});
  *request.add_tasks() = MakeTask("");
  *request.add_tasks() = MakeTask("add", {2, 2});
  v1::BatchSendTasksResponse first;
  v1::BatchSendTasksResponse second;
  ASSERT_TRUE(SendBatch(request, &first).ok());
  EXPECT_EQ(AwaitInt(first.results(0).task_id()), 2);
  ASSERT_TRUE(SendBatch(request, &second).ok());
  ASSERT_EQ(second.results_size(), 3);
  EXPECT_EQ(second.results(0).task_id(), first.results(0).task_id());
  EXPECT_EQ(second.results(2).task_id(), first.results(2).task_id());
  EXPECT_TRUE(second.results(0).replayed());
  EXPECT_EQ(ReasonIn(second.results(1).status()), reason::kInvalidField);

  *request.add_tasks() = MakeTask("add", {3, 3});
  EXPECT_EQ(ReasonIn(SendBatch(request, &second)), reason::kRequestIdReused);
}

TEST_F(BatchTest, ARepeatSendsWhatTheFirstCallCouldNot) {
  StartBoth();
  v1::BatchSendTasksRequest request;
  request.set_request_id("call-2");
  for (int i = 0; i < 3; ++i) *request.add_tasks() = MakeTask("add", {i, 1});
  broker_.FailNextPublish(absl::UnavailableError("the broker is away"));
  v1::BatchSendTasksResponse first;
  ASSERT_TRUE(SendBatch(request, &first).ok());
  int refused = 0;
  for (const auto& result : first.results()) refused += result.has_status();
  EXPECT_EQ(refused, 1);

  v1::BatchSendTasksResponse second;
  ASSERT_TRUE(SendBatch(request, &second).ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(second.results(i).has_task_id());
    EXPECT_EQ(AwaitInt(second.results(i).task_id()), i + 1);
    if (first.results(i).has_task_id()) {
      EXPECT_EQ(second.results(i).task_id(), first.results(i).task_id());
    }
  }
}

TEST_F(BatchTest, ATaskIsTheSameOneByWhicheverCallItComes) {
  StartServer();
  const v1::Task task = MakeTask("add", {1, 1}, "mine");
  MustSend(task);
  v1::BatchSendTasksRequest request;
  *request.add_tasks() = task;
  v1::BatchSendTasksResponse response;
  ASSERT_TRUE(SendBatch(request, &response).ok());
  EXPECT_TRUE(response.results(0).replayed());
  *request.mutable_tasks(0) = MakeTask("add", {1, 2}, "mine");
  ASSERT_TRUE(SendBatch(request, &response).ok());
  EXPECT_EQ(ReasonIn(response.results(0).status()), reason::kTaskIdExists);
}

// ---- StreamTasks ----------------------------------------------------------

class StreamTest : public GatewayTest {
 protected:
  using Stream = grpc::ClientReaderWriter<v1::StreamTasksRequest,
                                          v1::StreamTasksResponse>;

  void Open() {
    context_ = Context();
    stream_ = stub_->StreamTasks(context_.get());
  }

  bool Write(int64_t sequence, const v1::Task& task) {
    v1::StreamTasksRequest request;
    request.set_sequence(sequence);
    *request.mutable_task() = task;
    return stream_->Write(request);
  }

  // Several in one message, with the numbers from `first` on.
  bool WriteSeveral(int64_t first, const std::vector<v1::Task>& tasks) {
    return stream_->Write(Several(first, tasks));
  }

  static v1::StreamTasksRequest Several(int64_t first,
                                        const std::vector<v1::Task>& tasks) {
    v1::StreamTasksRequest request;
    for (const v1::Task& task : tasks) {
      v1::StreamTask* one = request.add_tasks();
      one->set_sequence(first++);
      *one->mutable_task() = task;
    }
    return request;
  }

  // The next answer, which must come.
  v1::StreamTasksResponse Read() {
    v1::StreamTasksResponse response;
    EXPECT_TRUE(stream_->Read(&response));
    return response;
  }

  // What the stream ends with, once nothing more comes.
  grpc::Status End() {
    v1::StreamTasksResponse response;
    EXPECT_FALSE(stream_->Read(&response)) << response.DebugString();
    return stream_->Finish();
  }

  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(StreamTest, EachTaskIsAnsweredUnderItsNumber) {
  StartBoth();
  Open();
  const v1::StreamTasksResponse opening = Read();
  EXPECT_EQ(opening.outcome_case(), v1::StreamTasksResponse::OUTCOME_NOT_SET);
  EXPECT_EQ(opening.credit(), 1000);

  constexpr int kTasks = 3000;  // three windows
  std::thread writer([this] {
    for (int i = 0; i < kTasks; ++i) {
      ASSERT_TRUE(Write(i, MakeTask("add", {i, 1})));
    }
    stream_->WritesDone();
  });
  std::map<int64_t, std::string> ids;
  for (int i = 0; i < kTasks; ++i) {
    const v1::StreamTasksResponse answer = Read();
    EXPECT_EQ(answer.credit(), 1);
    EXPECT_TRUE(ids.emplace(answer.sequence(), answer.task_id()).second);
  }
  writer.join();
  EXPECT_TRUE(End().ok());
  ASSERT_EQ(ids.size(), kTasks);
  for (int i = 0; i < kTasks; i += 97) EXPECT_EQ(AwaitInt(ids[i]), i + 1);
}

TEST_F(StreamTest, ARefusedTaskDoesNotEndTheStream) {
  StartBoth();
  Open();
  Read();
  ASSERT_TRUE(Write(7, MakeTask("", {})));
  v1::StreamTasksResponse answer = Read();
  EXPECT_EQ(answer.sequence(), 7);
  EXPECT_EQ(answer.status().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(answer.status().message(), StartsWith("task.name: is required"));

  v1::StreamTasksRequest without_task;
  ASSERT_TRUE(stream_->Write(without_task));
  EXPECT_THAT(Read().status().message(), StartsWith("task: is required"));

  v1::Task lost = MakeTask("add");
  lost.set_routing_key("nowhere");
  ASSERT_TRUE(Write(8, lost));
  EXPECT_EQ(ReasonIn(Read().status()), reason::kQueueNotFound);

  ASSERT_TRUE(Write(9, MakeTask("add", {1, 1}, "mine")));
  answer = Read();
  EXPECT_EQ(answer.task_id(), "mine");
  EXPECT_FALSE(answer.replayed());
  ASSERT_TRUE(Write(10, MakeTask("add", {1, 1}, "mine")));
  EXPECT_TRUE(Read().replayed());
  stream_->WritesDone();
  EXPECT_TRUE(End().ok());
  EXPECT_EQ(AwaitInt("mine"), 2);
}

TEST_F(StreamTest, SeveralTasksOfAMessageAreAnsweredTogether) {
  StartBoth();
  Open();
  const v1::StreamTasksResponse opening = Read();
  EXPECT_EQ(opening.max_tasks(), 100);
  EXPECT_EQ(opening.credit(), 1000);

  v1::Task lost = MakeTask("add");
  lost.set_routing_key("nowhere");
  std::vector<v1::Task> tasks = {
      MakeTask("add", {1, 1}, "first"), MakeTask("", {}),
      MakeTask("add", {2, 2}),          lost,
      MakeTask("add", {1, 1}, "first"), MakeTask("add", {2, 1}, "first")};
  ASSERT_TRUE(WriteSeveral(40, tasks));
  const v1::StreamTasksResponse answer = Read();
  EXPECT_EQ(answer.credit(), 6);
  EXPECT_EQ(answer.outcome_case(), v1::StreamTasksResponse::OUTCOME_NOT_SET);
  ASSERT_EQ(answer.results_size(), 6);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(answer.results(i).sequence(), 40 + i);
  EXPECT_EQ(answer.results(0).task_id(), "first");
  EXPECT_FALSE(answer.results(0).replayed());
  EXPECT_THAT(answer.results(1).status().message(),
              StartsWith("task.name: is required"));
  EXPECT_EQ(ReasonIn(answer.results(3).status()), reason::kQueueNotFound);
  // An equal one is a repeat, as it is in a message of its own; another is not.
  EXPECT_EQ(answer.results(4).task_id(), "first");
  EXPECT_TRUE(answer.results(4).replayed());
  EXPECT_EQ(ReasonIn(answer.results(5).status()), reason::kTaskIdExists);
  EXPECT_EQ(AwaitInt("first"), 2);
  EXPECT_EQ(AwaitInt(answer.results(2).task_id()), 4);

  // Single ones may come between them.
  ASSERT_TRUE(Write(7, MakeTask("add", {1, 2})));
  EXPECT_EQ(Read().sequence(), 7);
  ASSERT_TRUE(WriteSeveral(50, {MakeTask("add", {3, 4})}));
  stream_->WritesDone();
  const v1::StreamTasksResponse last = Read();
  EXPECT_EQ(last.credit(), 1);
  ASSERT_EQ(last.results_size(), 1);
  EXPECT_EQ(AwaitInt(last.results(0).task_id()), 7);
  EXPECT_TRUE(End().ok());
}

TEST_F(StreamTest, AMessageThatIsWrongAsAWholeEndsTheStream) {
  v1::StreamTasksRequest many =
      Several(1, std::vector<v1::Task>(101, MakeTask("add", {1, 1})));
  v1::StreamTasksRequest both = Several(1, {MakeTask("add", {1, 1})});
  *both.mutable_task() = MakeTask("add", {1, 1});
  StartBoth();
  for (const auto& [wrong, message] :
       {std::pair(many, "tasks: has 101 entries; at most 100 are allowed"),
        std::pair(both, "task: must not be set beside tasks")}) {
    Open();
    Read();
    broker_.Hold();
    ASSERT_TRUE(Write(7, MakeTask("add", {1, 1})));
    broker_.AwaitHeld(1);
    ASSERT_TRUE(stream_->Write(wrong));
    stream_->WritesDone();
    broker_.Release();
    // What was taken before is answered.
    EXPECT_EQ(Read().sequence(), 7);
    const grpc::Status status = End();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(status.error_message(), message);
    EXPECT_EQ(ReasonIn(status), reason::kInvalidField);
  }
}

TEST_F(StreamTest, ATaskOfSeveralThatIsNotThereIsRefusedAlone) {
  StartBoth();
  Open();
  Read();
  v1::StreamTasksRequest empty;
  empty.add_tasks()->set_sequence(3);
  ASSERT_TRUE(stream_->Write(empty));
  const v1::StreamTasksResponse answer = Read();
  EXPECT_EQ(answer.results(0).sequence(), 3);
  EXPECT_EQ(answer.results(0).status().message(), "task: is required");
  ASSERT_TRUE(WriteSeveral(4, {MakeTask("add", {1, 1})}));
  EXPECT_TRUE(Read().results(0).has_task_id());
  stream_->WritesDone();
  EXPECT_TRUE(End().ok());
}

TEST_F(StreamTest, NoMoreMessagesOfSeveralAreReadThanTheCredit) {
  StartServer({.sends = {.tasks = 1000, .bytes = INT64_MAX}});
  broker_.Hold();
  Open();
  Read();
  std::thread writer([this] {
    for (int i = 0; i < 12; ++i) {
      WriteSeveral(100 * i, std::vector<v1::Task>(100, MakeTask("add")));
    }
    stream_->WritesDone();
  });
  broker_.AwaitHeld(1000);
  writer.join();
  EXPECT_EQ(Get("unknown", absl::ZeroDuration(), nullptr).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(broker_.Held(), 1000u);
  broker_.Release();
  for (int i = 0; i < 12; ++i) {
    const v1::StreamTasksResponse answer = Read();
    ASSERT_EQ(answer.results_size(), 100);
    for (const v1::StreamTaskResult& result : answer.results()) {
      EXPECT_TRUE(result.has_task_id()) << result.DebugString();
    }
  }
  EXPECT_TRUE(End().ok());
}

// The credit is what is in flight at most, also for a client that ignores it.
// What was read beyond it would be one too many for the gateway.
TEST_F(StreamTest, NoMoreIsReadThanTheCredit) {
  StartServer({.sends = {.tasks = 1000, .bytes = INT64_MAX}});
  broker_.Hold();
  Open();
  EXPECT_EQ(Read().credit(), 1000);
  std::thread writer([this] {
    for (int i = 0; i < 1200; ++i) Write(i, MakeTask("add"));
    stream_->WritesDone();
  });
  broker_.AwaitHeld(1000);
  writer.join();  // all are on their way
  EXPECT_EQ(Get("unknown", absl::ZeroDuration(), nullptr).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(broker_.Held(), 1000u);
  broker_.Release();
  for (int i = 0; i < 1200; ++i) {
    const v1::StreamTasksResponse answer = Read();
    EXPECT_TRUE(answer.has_task_id()) << answer.DebugString();
  }
  EXPECT_TRUE(End().ok());
}

TEST_F(StreamTest, DrainAnswersWhatWasTakenAndEndsTheStream) {
  StartServer();
  Open();
  Read();
  broker_.Hold();
  ASSERT_TRUE(Write(1, MakeTask("add")));
  broker_.AwaitHeld(1);
  server_->BeginDrain();
  ASSERT_TRUE(Write(2, MakeTask("add")));
  const v1::StreamTasksResponse refused = Read();
  EXPECT_EQ(refused.sequence(), 2);
  EXPECT_EQ(ReasonIn(refused.status()), reason::kDraining);
  ASSERT_TRUE(WriteSeveral(3, {MakeTask("add"), MakeTask("add")}));
  const v1::StreamTasksResponse several = Read();
  ASSERT_EQ(several.results_size(), 2);
  EXPECT_EQ(several.results(1).sequence(), 4);
  EXPECT_EQ(ReasonIn(several.results(1).status()), reason::kDraining);
  broker_.Release();
  EXPECT_TRUE(Read().has_task_id());
  const grpc::Status status = End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(status), reason::kDraining);
}

TEST_F(StreamTest, AClientThatGoesAwayLeavesNothingBehind) {
  StartServer({.sends = {.tasks = 1, .bytes = INT64_MAX}});
  Open();
  Read();
  broker_.Hold();
  ASSERT_TRUE(Write(1, MakeTask("add", {}, "mine")));
  broker_.AwaitHeld(1);
  EXPECT_EQ(ReasonIn(Send(MakeTask("add"))), reason::kTooManyInFlight);
  context_->TryCancel();
  EXPECT_EQ(End().error_code(), grpc::StatusCode::CANCELLED);
  broker_.Release();
  // The task was taken, and its place is free again.
  StartWorker();
  EXPECT_EQ(AwaitInt("mine"), 0);
  EXPECT_TRUE(Send(MakeTask("add")).ok());
}

TEST_F(StreamTest, AFullGatewayRefusesTheTaskAndNotTheStream) {
  StartServer({.sends = {.tasks = 1, .bytes = INT64_MAX}});
  Open();
  Read();
  broker_.Hold();
  ASSERT_TRUE(Write(1, MakeTask("add")));
  broker_.AwaitHeld(1);
  ASSERT_TRUE(Write(2, MakeTask("add")));
  const v1::StreamTasksResponse refused = Read();
  EXPECT_EQ(refused.sequence(), 2);
  EXPECT_EQ(ReasonIn(refused.status()), reason::kTooManyInFlight);
  EXPECT_TRUE(Find<google::rpc::RetryInfo>(refused.status()).has_value());
  ASSERT_TRUE(WriteSeveral(3, {MakeTask("add"), MakeTask("add")}));
  const v1::StreamTasksResponse several = Read();
  ASSERT_EQ(several.results_size(), 2);
  EXPECT_EQ(several.results(1).sequence(), 4);
  EXPECT_EQ(ReasonIn(several.results(1).status()), reason::kTooManyInFlight);
  broker_.Release();
  EXPECT_TRUE(Read().has_task_id());
  stream_->WritesDone();
  EXPECT_TRUE(End().ok());
}

}  // namespace
}  // namespace penstock
