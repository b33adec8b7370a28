// A gateway as clients see it: a real channel to a server in this process, over
// the memory twins, with the example worker.

#ifndef PENSTOCK_TESTS_GATEWAY_GATEWAY_FIXTURE_H_
#define PENSTOCK_TESTS_GATEWAY_GATEWAY_FIXTURE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/server.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "queue/memory/memory_backend.h"
#include "queue/memory/memory_broker.h"
#include "tests/support/failing_backend.h"
#include "tests/support/failing_broker.h"
#include "worker/example_tasks.h"

namespace penstock {

// Long enough to be never reached where things work.
inline constexpr absl::Duration kPatience = absl::Seconds(60);

// A broker that can hold back what it is given to publish, or only the confirms.
class HoldingBroker final : public FailingBroker {
 public:
  using FailingBroker::FailingBroker;

  void Hold() {
    absl::MutexLock lock(&mu_);
    holding_ = true;
  }
  void HoldConfirms() {
    absl::MutexLock lock(&mu_);
    holding_confirms_ = true;
  }
  void Release() {
    std::vector<Closure> held;
    {
      absl::MutexLock lock(&mu_);
      holding_ = false;
      holding_confirms_ = false;
      held.swap(held_);
    }
    for (Closure& publish : held) std::move(publish)();
  }
  size_t Held() {
    absl::MutexLock lock(&mu_);
    return held_.size();
  }
  // Waits until `count` publishes or confirms are held.
  void AwaitHeld(size_t count) {
    auto reached = [&] {
      mu_.AssertReaderHeld();
      return held_.size() >= count;
    };
    absl::MutexLock lock(&mu_, absl::Condition(&reached));
  }

  void Publish(Message message, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      if (holding_) {
        held_.push_back([this, message = std::move(message),
                         done = std::move(done)]() mutable {
          FailingBroker::Publish(std::move(message), std::move(done));
        });
        return;
      }
      if (holding_confirms_) {
        done = [this, done = std::move(done)](absl::Status status) mutable {
          absl::MutexLock lock(&mu_);
          held_.push_back([done = std::move(done), status]() mutable {
            std::move(done)(status);
          });
        };
      }
    }
    FailingBroker::Publish(std::move(message), std::move(done));
  }

 private:
  absl::Mutex mu_;
  bool holding_ ABSL_GUARDED_BY(mu_) = false;
  bool holding_confirms_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Closure> held_ ABSL_GUARDED_BY(mu_);
};

inline v1::Task MakeTask(const std::string& name,
                         std::vector<int64_t> args = {},
                         const std::string& id = "") {
  v1::Task task;
  task.set_name(name);
  task.set_id(id);
  for (int64_t arg : args) task.add_args()->set_int_value(arg);
  return task;
}

template <typename Detail>
std::optional<Detail> Find(const google::rpc::Status& status) {
  for (const auto& any : status.details()) {
    Detail detail;
    if (any.Is<Detail>() && any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

template <typename Detail>
std::optional<Detail> Find(const grpc::Status& status) {
  google::rpc::Status all;
  EXPECT_TRUE(all.ParseFromString(status.error_details()));
  return Find<Detail>(all);
}

// Of an RPC's status, or of one within an answer.
template <typename Status>
std::string ReasonIn(const Status& status) {
  const auto info = Find<google::rpc::ErrorInfo>(status);
  return info.has_value() ? info->reason() : "";
}

class GatewayTest : public ::testing::Test {
 protected:
  void StartServer(GatewayServiceOptions options = {}) {
    auto server =
        Server::Start(&lifecycle_, &broker_, &backend_, environment_.get(),
                      {.listen = "127.0.0.1:0", .service = options});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address(),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::GatewayService::NewStub(channel_);
  }

  void StartWorker() {
    Options config;
    config.concurrency = 2;
    worker_ = std::make_unique<Worker>(
        &broker_, &backend_, environment_.get(),
        WorkerOptions{.config = config, .handle_signals = false});
    RegisterExampleTasks(*worker_);
    ASSERT_TRUE(worker_->Start().ok());
  }

  void StartBoth() {
    StartServer();
    StartWorker();
  }

  void TearDown() override {
    if (server_ != nullptr) server_->Drain(absl::Now() + kPatience);
    if (worker_ != nullptr) {
      EXPECT_TRUE(worker_->Drain(kPatience).ok());
    }
    lifecycle_.Stop();
  }

  static std::unique_ptr<grpc::ClientContext> Context(
      absl::Duration timeout = kPatience) {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    return context;
  }

  grpc::Status Send(const v1::Task& task, v1::SendTaskResponse* out = nullptr) {
    v1::SendTaskRequest request;
    *request.mutable_task() = task;
    v1::SendTaskResponse response;
    auto status = stub_->SendTask(Context().get(), request,
                                  out != nullptr ? out : &response);
    return status;
  }

  static v1::SendTaskRequest Waiting(const v1::Task& task,
                                     absl::Duration wait = absl::Seconds(50),
                                     const std::string& request_id = "") {
    v1::SendTaskRequest request;
    *request.mutable_task() = task;
    request.set_request_id(request_id);
    request.mutable_wait()->set_seconds(absl::ToInt64Seconds(wait));
    request.mutable_wait()->set_nanos(static_cast<int>(
        absl::ToInt64Nanoseconds(wait % absl::Seconds(1))));
    return request;
  }

  // Sends a task and waits for it by one call.
  v1::SendTaskResponse MustSend(const v1::SendTaskRequest& request,
                                absl::Duration timeout = kPatience) {
    v1::SendTaskResponse response;
    const grpc::Status status =
        stub_->SendTask(Context(timeout).get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::string MustSend(const v1::Task& task) {
    v1::SendTaskResponse response;
    const grpc::Status status = Send(task, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.task_id();
  }

  grpc::Status Get(const std::string& id, absl::Duration wait,
                   v1::TaskState* out, absl::Duration timeout = kPatience) {
    v1::GetStateRequest request;
    request.set_task_id(id);
    request.mutable_wait()->set_seconds(absl::ToInt64Seconds(wait));
    v1::GetStateResponse response;
    auto status = stub_->GetState(Context(timeout).get(), request, &response);
    if (out != nullptr) *out = response.state();
    return status;
  }

  v1::TaskState Await(const std::string& id) {
    v1::TaskState state;
    const grpc::Status status = Get(id, absl::Seconds(50), &state);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return state;
  }

  v1::TaskState Peek(const std::string& id) {
    v1::TaskState state;
    const grpc::Status status = Get(id, absl::ZeroDuration(), &state);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return state;
  }

  int64_t AwaitInt(const std::string& id) {
    const v1::TaskState state = Await(id);
    EXPECT_EQ(state.status(), v1::TASK_STATUS_SUCCESS) << state.DebugString();
    if (state.results_size() != 1) return -1;
    EXPECT_EQ(state.results(0).type(), "int64");
    return state.results(0).int_value();
  }

  v1::SendChordResponse SendChord(const std::vector<v1::Task>& tasks,
                                  const v1::Task& callback) {
    v1::SendChordRequest request;
    for (const v1::Task& task : tasks) *request.add_tasks() = task;
    *request.mutable_callback() = callback;
    v1::SendChordResponse response;
    const grpc::Status status =
        stub_->SendChord(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  v1::GetGroupStateResponse GetGroup(const v1::GetGroupStateRequest& request) {
    v1::GetGroupStateResponse response;
    const grpc::Status status =
        stub_->GetGroupState(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  // In order of construction; what is below uses what is above.
  std::unique_ptr<Environment> environment_ = MakeSystemEnvironment();
  std::unique_ptr<Broker> memory_broker_ =
      MakeMemoryBroker({.environment = environment_.get()});
  HoldingBroker broker_{memory_broker_.get(), environment_.get()};
  std::unique_ptr<Backend> memory_backend_ =
      MakeMemoryBackend(environment_.get());
  FailingBackend backend_{memory_backend_.get(), environment_.get()};
  Lifecycle lifecycle_{&broker_, &backend_, environment_.get(), {}};
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GatewayService::Stub> stub_;
};

}  // namespace penstock

#endif  // PENSTOCK_TESTS_GATEWAY_GATEWAY_FIXTURE_H_
