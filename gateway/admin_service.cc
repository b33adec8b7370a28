#include "gateway/admin_service.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gateway/calls.h"
#include "gateway/convert.h"
#include "gateway/dead_messages.h"
#include "penstock/v1/admin.grpc.pb.h"
#include "queue/errors.h"

namespace penstock {
namespace {

constexpr int64_t kCallBytes = 16 << 10;  // of a call that waits, in gRPC
constexpr absl::Duration kSendTimeout = absl::Seconds(30);

}  // namespace

// Outlives the calls' completions, which may come after the server's end.
struct AdminService::Core {
  Core(Lifecycle* lifecycle, Backend* backend, Environment* environment,
       Schedules* schedules, AdminServiceOptions options)
      : lifecycle(lifecycle),
        backend(backend),
        environment(environment),
        schedules(schedules),
        calls("admin calls", options.calls) {}

  // Constant after construction.
  Lifecycle* const lifecycle;
  Backend* const backend;
  Environment* const environment;
  Schedules* const schedules;

  // Synchronise themselves.
  Permits calls;
  std::atomic<bool> draining{false};

  absl::StatusOr<Permit> Admit(const google::protobuf::Message& request) {
    if (draining) {
      return MakeError(absl::StatusCode::kUnavailable, reason::kDraining,
                       "this gateway is stopping; another one takes the call");
    }
    return calls.Acquire(
        {.tasks = 1,
         .bytes = kCallBytes + static_cast<int64_t>(request.ByteSizeLong())});
  }
};

class AdminService::Rpc final : public v1::AdminService::CallbackService {
 public:
  explicit Rpc(std::shared_ptr<Core> core) : core_(std::move(core)) {}

  grpc::ServerUnaryReactor* CreateSchedule(
      grpc::CallbackServerContext*, const v1::CreateScheduleRequest* request,
      v1::CreateScheduleResponse* response) override {
    return Serve<v1::CreateScheduleResponse>(
        *request,
        [&](Callback<v1::CreateScheduleResponse> done) {
          core_->schedules->Create(*request, std::move(done));
        },
        [response](v1::CreateScheduleResponse answer) {
          response->Swap(&answer);
        });
  }

  grpc::ServerUnaryReactor* ListSchedules(
      grpc::CallbackServerContext*, const v1::ListSchedulesRequest* request,
      v1::ListSchedulesResponse* response) override {
    return Serve<v1::ListSchedulesResponse>(
        *request,
        [&](Callback<v1::ListSchedulesResponse> done) {
          core_->schedules->List(*request, std::move(done));
        },
        [response](v1::ListSchedulesResponse answer) {
          response->Swap(&answer);
        });
  }

  grpc::ServerUnaryReactor* PauseSchedule(
      grpc::CallbackServerContext*, const v1::PauseScheduleRequest* request,
      v1::PauseScheduleResponse* response) override {
    return ServeOne(*request, response, &Schedules::Pause);
  }

  grpc::ServerUnaryReactor* ResumeSchedule(
      grpc::CallbackServerContext*, const v1::ResumeScheduleRequest* request,
      v1::ResumeScheduleResponse* response) override {
    return ServeOne(*request, response, &Schedules::Resume);
  }

  grpc::ServerUnaryReactor* DeleteSchedule(
      grpc::CallbackServerContext*, const v1::DeleteScheduleRequest* request,
      v1::DeleteScheduleResponse* response) override {
    return ServeOne(*request, response, &Schedules::Delete);
  }

  grpc::ServerUnaryReactor* ListDeadTasks(
      grpc::CallbackServerContext*, const v1::ListDeadTasksRequest* request,
      v1::ListDeadTasksResponse* response) override {
    absl::StatusOr<DeadListCall> asked = ReadListDeadTasks(*request);
    if (!asked.ok()) return Refuse(asked.status());
    return Serve<std::vector<DeadTask>>(
        *request,
        [&](Callback<std::vector<DeadTask>> done) {
          // One more says whether there is a next page.
          core_->lifecycle->ListDead(asked->queue,
                                     static_cast<int>(asked->page_size) + 1,
                                     asked->after, std::move(done));
        },
        [response, asked = *asked](std::vector<DeadTask> tasks) {
          WriteDeadPage(asked, std::move(tasks), response);
        });
  }

  grpc::ServerUnaryReactor* RetryTask(
      grpc::CallbackServerContext* context,
      const v1::RetryTaskRequest* request,
      v1::RetryTaskResponse* response) override {
    absl::StatusOr<RetryCall> asked = ReadRetryTask(*request);
    if (!asked.ok()) return Refuse(asked.status());
    asked->deadline = DeadlineOf(*context);
    return Serve<RetriedTask>(
        *request,
        [&](Callback<RetriedTask> done) {
          core_->lifecycle->RetryDead(*std::move(asked), std::move(done));
        },
        [response](RetriedTask retried) {
          WriteState(retried.state, response->mutable_state());
          response->set_replayed(retried.replayed);
        });
  }

  grpc::ServerUnaryReactor* DeleteDeadTask(
      grpc::CallbackServerContext*, const v1::DeleteDeadTaskRequest* request,
      v1::DeleteDeadTaskResponse* response) override {
    absl::StatusOr<DeadDeleteCall> asked = ReadDeleteDeadTask(*request);
    if (!asked.ok()) return Refuse(asked.status());
    return Serve<DeadTask>(
        *request,
        [&](Callback<DeadTask> done) {
          core_->lifecycle->DeleteDead(asked->queue, asked->task_id,
                                       std::move(done));
        },
        [response](DeadTask deleted) {
          WriteDeadTask(deleted, response->mutable_dead_task());
        });
  }

 private:
  static grpc::ServerUnaryReactor* Refuse(const absl::Status& error) {
    auto call = UnaryCall::Make();
    call->Fail(error);
    return call.get();
  }

  // Of a send, on the environment's clock: the caller's, if that is earlier.
  absl::Time DeadlineOf(const grpc::CallbackServerContext& context) const {
    const absl::Time now = core_->environment->Now();
    const auto deadline = context.deadline();
    if (deadline == std::chrono::system_clock::time_point::max()) {
      return now + kSendTimeout;
    }
    return now +
           std::min(kSendTimeout, absl::FromChrono(deadline) - absl::Now());
  }

  // Admits the call, has `ask` carry it out, and lets `fill` put its answer into
  // the response. `ask` is called at once, with a Callback<Answer>.
  template <typename Answer, typename Request, typename Ask, typename Fill>
  grpc::ServerUnaryReactor* Serve(const Request& request, Ask ask, Fill fill) {
    auto call = UnaryCall::Make();
    absl::StatusOr<Permit> permit = core_->Admit(request);
    if (!permit.ok()) {
      call->Fail(permit.status());
      return call.get();
    }
    ask([call, fill = std::move(fill),
         permit = *std::move(permit)](absl::StatusOr<Answer> answer) mutable {
      if (!answer.ok()) return call->Fail(answer.status());
      call->Reply([&] { fill(*std::move(answer)); });
    });
    return call.get();
  }

  // A call about one schedule.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* ServeOne(
      const Request& request, Response* response,
      void (Schedules::*method)(const std::string&, Callback<v1::Schedule>)) {
    return Serve<v1::Schedule>(
        request,
        [&](Callback<v1::Schedule> done) {
          (core_->schedules->*method)(request.name(), std::move(done));
        },
        [response](v1::Schedule answer) {
          response->mutable_schedule()->Swap(&answer);
        });
  }

  const std::shared_ptr<Core> core_;
};

AdminService::AdminService(Lifecycle* lifecycle, Backend* backend,
                           Environment* environment, Schedules* schedules,
                           AdminServiceOptions options)
    : core_(std::make_shared<Core>(lifecycle, backend, environment, schedules,
                                   options)),
      rpc_(std::make_unique<Rpc>(core_)) {}

AdminService::~AdminService() = default;

grpc::Service* AdminService::rpc() { return rpc_.get(); }

void AdminService::BeginDrain() { core_->draining = true; }

}  // namespace penstock
