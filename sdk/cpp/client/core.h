// What a Client and its handles share: the channels, and how one call is made,
// and made again. Owns no thread: all runs on the callers' and on gRPC's.
// Included by .cc files only: it sees grpcpp.

#ifndef PENSTOCK_SDK_CPP_CLIENT_CORE_H_
#define PENSTOCK_SDK_CPP_CLIENT_CORE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "penstock/client.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "sdk/cpp/client/messages.h"
#include "sdk/cpp/client/retry.h"

namespace penstock::client::internal {

using Stub = v1::GatewayService::Stub;

// Stands in every reaction that gRPC runs, before anything that may hold a
// Core.
class Reaction {
 public:
  Reaction() : outer_(std::exchange(running_, true)) {}
  ~Reaction() { running_ = outer_; }
  Reaction(const Reaction&) = delete;
  Reaction& operator=(const Reaction&) = delete;

  // Whether this thread runs one.
  static bool IsRunning() { return running_; }

 private:
  static thread_local bool running_;
  const bool outer_;
};

class Core {
 public:
  Core(const std::vector<std::string>& addresses, ClientOptions options);
  ~Core();

  const ClientOptions& options() const { return options_; }

  // Why no call can be made; OK: they can.
  const absl::Status& broken() const { return broken_; }

  // The gateway of the next call: in turn, of those that are connected; if none
  // is, one that may become so. Must not be called when `broken`.
  Stub& Pick();

  // A context with the metadata of the options.
  std::unique_ptr<grpc::ClientContext> MakeContext(
      const Metadata& metadata) const;

 private:
  struct Gateway {
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<Stub> stub;
  };

  const ClientOptions options_;
  absl::Status broken_;            // constant after construction
  std::vector<Gateway> gateways_;  // constant after construction
  std::atomic<size_t> turn_{0};
};

// Runs `then` after `delay`, on a thread of gRPC's.
void After(absl::Duration delay, std::function<void()> then);

// 36 characters at random.
std::string NewUuid();

// How long one try may take, when tries end, and what goes with each.
struct CallLimits {
  absl::Duration deadline;
  absl::Time give_up;
  Metadata metadata;
};
CallLimits LimitsOf(const Core& core, const CallOptions& options);

template <typename Request, typename Response>
using Method = void (v1::GatewayService::StubInterface::async_interface::*)(
    grpc::ClientContext*, const Request*, Response*,
    std::function<void(grpc::Status)>);

// One unary call: tried until it goes well, fails for good, or its time is
// over.
template <typename Request, typename Response>
class RepeatedCall
    : public std::enable_shared_from_this<RepeatedCall<Request, Response>> {
 public:
  // Whether an answer that came well asks for another try: OK if not.
  using Judge = std::function<absl::Status(const Response&)>;

  RepeatedCall(std::shared_ptr<Core> core, Method<Request, Response> method,
               Request request, CallLimits limits, Judge judge,
               Done<Response> done)
      : done_(std::move(done)),
        core_(std::move(core)),
        method_(method),
        request_(std::move(request)),
        limits_(std::move(limits)),
        backoff_(limits_.give_up),
        judge_(std::move(judge)) {}

  void Try() {
    if (!core_->broken().ok()) return std::move(done_)(core_->broken());
    context_ = core_->MakeContext(limits_.metadata);
    // The first try has its full time, the others what is left.
    absl::Time deadline = absl::Now() + limits_.deadline;
    if (tried_) deadline = std::min(deadline, limits_.give_up);
    tried_ = true;
    if (deadline < absl::InfiniteFuture()) {
      context_->set_deadline(absl::ToChronoTime(deadline));
    }
    response_.Clear();
    (core_->Pick().async()->*method_)(
        context_.get(), &request_, &response_,
        [self = this->shared_from_this()](const grpc::Status& status) mutable {
          const Reaction reaction;
          const auto held = std::move(self);
          held->Take(StatusFrom(status));
        });
  }

 private:
  void Take(absl::Status error) {
    const bool answered = error.ok();
    if (answered && judge_ != nullptr) error = judge_(response_);
    if (!error.ok() && IsRetryable(error)) {
      if (const auto pause = backoff_.Next(error, absl::Now())) {
        if (answered) kept_ = std::move(response_);
        return After(*pause,
                     [self = this->shared_from_this()] { self->Try(); });
      }
    }
    if (answered) return std::move(done_)(std::move(response_));
    // An earlier answer, if only a part of what was asked for, tells more.
    if (kept_.has_value()) return std::move(done_)(*std::move(kept_));
    std::move(done_)(std::move(error));
  }

  Done<Response> done_;  // first, so that it goes last: see Await
  const std::shared_ptr<Core> core_;
  const Method<Request, Response> method_;
  const Request request_;
  const CallLimits limits_;
  Backoff backoff_;
  Judge judge_;
  bool tried_ = false;
  std::unique_ptr<grpc::ClientContext> context_;
  Response response_;
  std::optional<Response> kept_;  // the last one that `judge_` found wanting
};

template <typename Request, typename Response>
void Call(const std::shared_ptr<Core>& core, Method<Request, Response> method,
          Request request, CallLimits limits, Done<Response> done,
          std::function<absl::Status(const Response&)> judge = nullptr) {
  std::make_shared<RepeatedCall<Request, Response>>(
      core, method, std::move(request), std::move(limits), std::move(judge),
      std::move(done))
      ->Try();
}

// Blocks until the `done` that `start` is given has run, and is gone, and with
// it all that the call held: so the last hold on a Core is the caller's. Then:
// with what `done` ran.
template <typename T, typename Start>
T Await(Start start) {
  absl::Notification gone;
  std::optional<T> answer;
  const auto notify = [](absl::Notification* notification) {
    notification->Notify();
  };
  start([&answer, last = std::unique_ptr<absl::Notification, decltype(notify)>(
                      &gone)](T value) { answer = std::move(value); });
  gone.WaitForNotification();
  return *std::move(answer);
}

}  // namespace penstock::client::internal

#endif  // PENSTOCK_SDK_CPP_CLIENT_CORE_H_
