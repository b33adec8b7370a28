#include "gateway/health_service.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gateway/calls.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using WatchCall = StreamCall<HealthCheckResponse>;

constexpr char kGateway[] = "penstock.v1.GatewayService";
constexpr char kAdmin[] = "penstock.v1.AdminService";  // is there as that is
// A probe needs one watch; more of them than this are someone's mistake.
constexpr size_t kMaxWatches = 1000;

}  // namespace

struct HealthService::Core : std::enable_shared_from_this<Core> {
  // A client that follows one service's status.
  struct Follower {
    std::string service;
    HealthCheckResponse::ServingStatus sent = HealthCheckResponse::UNKNOWN;
    std::weak_ptr<WatchCall> call;
  };

  const Readiness* readiness = nullptr;  // set before the first call

  absl::Mutex mu;
  bool draining ABSL_GUARDED_BY(mu) = false;
  std::vector<std::shared_ptr<Follower>> followers ABSL_GUARDED_BY(mu);

  void OnChange(const absl::Status& status) {
    if (status.ok()) {
      Log(LogLevel::kInfo, "ready: broker and result backend are there");
    } else {
      Log(LogLevel::kWarning, "not ready", {{"why", status.message()}});
    }
    Tell();
  }

  // nullopt: there is no such service.
  std::optional<HealthCheckResponse::ServingStatus> StatusOfService(
      const std::string& service) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (service.empty()) return HealthCheckResponse::SERVING;
    if (service != kGateway && service != kAdmin) return std::nullopt;
    return !draining && readiness->Get().ok()
               ? HealthCheckResponse::SERVING
               : HealthCheckResponse::NOT_SERVING;
  }

  // Lets the followers look again.
  void Tell() {
    std::vector<std::shared_ptr<WatchCall>> calls;
    {
      absl::MutexLock lock(&mu);
      std::erase_if(followers,
                    [](const auto& each) { return each->call.expired(); });
      for (const auto& follower : followers) {
        if (auto call = follower->call.lock()) calls.push_back(std::move(call));
      }
    }
    for (const auto& call : calls) call->Pump();
  }

  // The next message for `follower`: its status, if that is a new one.
  bool Fill(Follower& follower, HealthCheckResponse* out) {
    absl::MutexLock lock(&mu);
    const auto status = StatusOfService(follower.service)
                            .value_or(HealthCheckResponse::SERVICE_UNKNOWN);
    if (status == follower.sent) return false;
    follower.sent = status;
    out->set_status(status);
    return true;
  }

  // False when there are too many.
  bool Follow(const std::string& service,
              const std::shared_ptr<WatchCall>& call) {
    auto follower =
        std::make_shared<Follower>(Follower{.service = service, .call = call});
    {
      absl::MutexLock lock(&mu);
      std::erase_if(followers,
                    [](const auto& each) { return each->call.expired(); });
      if (draining || followers.size() >= kMaxWatches) return false;
      followers.push_back(follower);
    }
    call->SetSource(
        [core = shared_from_this(), follower](HealthCheckResponse* out) {
          return core->Fill(*follower, out);
        },
        nullptr);
    call->Pump();
    return true;
  }
};

class HealthService::Rpc final
    : public grpc::health::v1::Health::CallbackService {
 public:
  explicit Rpc(std::shared_ptr<HealthService::Core> core)
      : core_(std::move(core)) {}

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext*,
                                  const HealthCheckRequest* request,
                                  HealthCheckResponse* response) override {
    auto call = UnaryCall::Make();
    std::optional<HealthCheckResponse::ServingStatus> status;
    {
      absl::MutexLock lock(&core_->mu);
      status = core_->StatusOfService(request->service());
    }
    if (status.has_value()) {
      call->Reply([&] { response->set_status(*status); });
    } else {
      call->FailWith(
          grpc::Status(grpc::StatusCode::NOT_FOUND, "no such service here"));
    }
    return call.get();
  }

  grpc::ServerWriteReactor<HealthCheckResponse>* Watch(
      grpc::CallbackServerContext*,
      const HealthCheckRequest* request) override {
    auto call = WatchCall::Make();
    if (!core_->Follow(request->service(), call)) {
      call->End(grpc::Status(grpc::StatusCode::UNAVAILABLE,
                             "stopping, or too many watches"));
    }
    return call.get();
  }

 private:
  const std::shared_ptr<HealthService::Core> core_;
};

HealthService::HealthService(Broker* broker, Backend* backend,
                             Environment* environment)
    : core_(std::make_shared<Core>()),
      rpc_(std::make_unique<Rpc>(core_)),
      readiness_(
          Readiness::World{.program =
                               [broker] {
                                 const absl::Status health = broker->Health();
                                 if (health.ok()) return health;
                                 return absl::UnavailableError(absl::StrCat(
                                     "broker: ", health.message()));
                               },
                           .backend = backend,
                           .environment = environment,
                           .on_change =
                               [core = core_](const absl::Status& status) {
                                 core->OnChange(status);
                               }}) {
  core_->readiness = &readiness_;
}

HealthService::~HealthService() = default;

grpc::Service* HealthService::rpc() { return rpc_.get(); }

void HealthService::BeginDrain() {
  std::vector<std::shared_ptr<WatchCall>> calls;
  {
    absl::MutexLock lock(&core_->mu);
    core_->draining = true;
    for (const auto& follower : core_->followers) {
      if (auto call = follower->call.lock()) calls.push_back(std::move(call));
    }
  }
  for (const auto& call : calls) {
    call->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "stopping"));
  }
}

}  // namespace penstock
