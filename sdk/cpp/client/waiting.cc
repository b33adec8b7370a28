#include "sdk/cpp/client/waiting.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/support/client_callback.h"

namespace penstock::client::internal {
namespace {

using Rpc = v1::GatewayService::StubInterface::async_interface;

// A gateway that stops ends a wait early. Whoever asks again at once would find
// it still there.
constexpr absl::Duration kPause = absl::Milliseconds(200);

absl::Status NotFinished(std::string_view what) {
  return MakeError(
      absl::StatusCode::kDeadlineExceeded, kNotFinished,
      absl::StrCat(what.data(), " has not ended in the time that was given"));
}

// What differs between waiting for a task and for a group.
struct OfTask {
  using Request = v1::GetStateRequest;
  using Response = v1::GetStateResponse;
  using State = TaskState;
  static constexpr auto kMethod =
      static_cast<Method<Request, Response>>(&Rpc::GetState);
  static void SetId(const std::string& id, Request& request) {
    request.set_task_id(id);
  }
  static bool IsOver(const Response& response) {
    return IsFinal(response.state().status());
  }
  static State Read(const Response& response) {
    return ReadState(response.state());
  }
};

struct OfGroup {
  using Request = v1::GetGroupStateRequest;
  using Response = v1::GetGroupStateResponse;
  using State = GroupState;
  static constexpr auto kMethod =
      static_cast<Method<Request, Response>>(&Rpc::GetGroupState);
  static void SetId(const std::string& id, Request& request) {
    request.set_group_id(id);
  }
  static bool IsOver(const Response& response) {
    return response.group().done();
  }
  static State Read(const Response& response) {
    return ReadGroup(response.group());
  }
};

// Asks again and again, each time for the state as it is at the end of a wait.
template <typename Of>
class Waiting : public std::enable_shared_from_this<Waiting<Of>> {
 public:
  using Request = typename Of::Request;
  using Response = typename Of::Response;
  using State = typename Of::State;

  Waiting(std::shared_ptr<Core> core, const std::string& id, absl::Time until,
          Done<State> done)
      : done_(std::move(done)), core_(std::move(core)), id_(id), until_(until) {
    Of::SetId(id, request_);
  }

  void Ask() {
    began_ = absl::Now();
    wait_ = std::clamp(until_ - began_, absl::ZeroDuration(), kLongestWait);
    WriteDuration(wait_, request_.mutable_wait());
    CallLimits limits = LimitsOf(*core_, {});
    limits.deadline += wait_;
    // Nobody waits for what comes after `until`.
    limits.give_up = std::min(limits.give_up, std::max(until_, began_));
    Call<Request, Response>(
        core_, Of::kMethod, request_, std::move(limits),
        [self = this->shared_from_this()](absl::StatusOr<Response> response) {
          self->Take(std::move(response));
        });
  }

 private:
  void Take(absl::StatusOr<Response> response) {
    if (!response.ok()) return std::move(done_)(response.status());
    if (Of::IsOver(*response)) return std::move(done_)(Of::Read(*response));
    const absl::Time now = absl::Now();
    if (now >= until_) return std::move(done_)(NotFinished(id_));
    if (2 * (now - began_) >= wait_) return Ask();
    After(std::min(kPause, until_ - now),
          [self = this->shared_from_this()] { self->Ask(); });
  }

  Done<State> done_;  // first, so that it goes last: see Await
  const std::shared_ptr<Core> core_;
  const std::string id_;
  const absl::Time until_;
  Request request_;
  absl::Time began_;
  absl::Duration wait_;
};

// ---- WatchState -----------------------------------------------------------

// Follows tasks over one stream after the other. One reaction at a time.
class Watching : public std::enable_shared_from_this<Watching> {
 public:
  Watching(std::shared_ptr<Core> core, std::vector<std::string> ids,
           absl::Time until, std::function<bool(const TaskState&)> on_state,
           absl::AnyInvocable<void(absl::Status) &&> done,
           const CallOptions& options)
      : done_(std::move(done)),
        core_(std::move(core)),
        until_(until),
        on_state_(std::move(on_state)),
        metadata_(options.metadata),
        budget_(options.retry_budget.value_or(core_->options().retry_budget)),
        backoff_(absl::InfinitePast()) {
    for (std::string& id : ids) request_.add_task_ids(std::move(id));
  }

  void Start() {
    if (!core_->broken().ok()) return std::move(done_)(core_->broken());
    Renew();
    Open();
  }

 private:
  // One stream. Deletes itself at its end.
  class Reading final : public grpc::ClientReadReactor<v1::WatchStateResponse> {
   public:
    explicit Reading(std::shared_ptr<Watching> watching)
        : watching_(std::move(watching)),
          context_(watching_->core_->MakeContext(watching_->metadata_)) {}

    void Begin() {
      if (watching_->until_ < absl::InfiniteFuture()) {
        context_->set_deadline(absl::ToChronoTime(watching_->until_));
      }
      watching_->core_->Pick().async()->WatchState(context_.get(),
                                                   &watching_->request_, this);
      StartRead(&response_);
      StartCall();
    }

   private:
    void OnReadDone(bool ok) override {
      if (!ok) return;  // OnDone tells why
      const Reaction reaction;
      if (!watching_->Take(response_)) context_->TryCancel();
      StartRead(&response_);
    }

    void OnDone(const grpc::Status& status) override {
      const Reaction reaction;
      const auto watching = std::move(watching_);
      delete this;
      watching->End(StatusFrom(status));
    }

    std::shared_ptr<Watching> watching_;
    std::unique_ptr<grpc::ClientContext> context_;
    v1::WatchStateResponse response_;
  };

  void Open() { (new Reading(shared_from_this()))->Begin(); }

  void Renew() { backoff_.Reset(std::min(until_, absl::Now() + budget_)); }

  // Whether to read on.
  bool Take(const v1::WatchStateResponse& response) {
    if (stopped_) return false;
    Renew();
    if (!response.has_state()) return true;
    // Each stream begins with all states, told before or not.
    const v1::TaskState& state = response.state();
    std::string& told = told_[state.task_id()];
    std::string now = state.SerializeAsString();
    if (told == now) return true;
    told = std::move(now);
    stopped_ = !on_state_(ReadState(state));
    return !stopped_;
  }

  void End(const absl::Status& status) {
    if (status.ok() || stopped_) return std::move(done_)(absl::OkStatus());
    if (absl::Now() >= until_ && absl::IsDeadlineExceeded(status)) {
      return std::move(done_)(NotFinished("what is watched"));
    }
    if (IsRetryable(status)) {
      if (const auto pause = backoff_.Next(status, absl::Now())) {
        return After(*pause, [self = shared_from_this()] { self->Open(); });
      }
    }
    std::move(done_)(status);
  }

  // First, so that it goes last: see Await.
  absl::AnyInvocable<void(absl::Status) &&> done_;
  const std::shared_ptr<Core> core_;
  const absl::Time until_;
  const std::function<bool(const TaskState&)> on_state_;
  const Metadata metadata_;
  const absl::Duration budget_;
  v1::WatchStateRequest request_;
  Backoff backoff_;
  std::map<std::string, std::string> told_;  // the last state, by id
  bool stopped_ = false;
};

}  // namespace

void AwaitTask(const std::shared_ptr<Core>& core, const std::string& id,
               absl::Time until, Done<TaskState> done) {
  std::make_shared<Waiting<OfTask>>(core, id, until, std::move(done))->Ask();
}

void AwaitGroup(const std::shared_ptr<Core>& core, const std::string& id,
                absl::Time until, Done<GroupState> done) {
  std::make_shared<Waiting<OfGroup>>(core, id, until, std::move(done))->Ask();
}

void Watch(const std::shared_ptr<Core>& core, std::vector<std::string> ids,
           absl::Time until, std::function<bool(const TaskState&)> on_state,
           absl::AnyInvocable<void(absl::Status) &&> done,
           const CallOptions& options) {
  std::make_shared<Watching>(core, std::move(ids), until, std::move(on_state),
                             std::move(done), options)
      ->Start();
}

}  // namespace penstock::client::internal
