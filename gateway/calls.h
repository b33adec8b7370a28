// The shapes of a call in gRPC's callback API, made safe: a call ends once, by
// whoever claims it first, and is kept alive by gRPC until OnDone and by each
// completion that still holds it. Included by .cc files only: it sees grpcpp.

#ifndef PENSTOCK_GATEWAY_CALLS_H_
#define PENSTOCK_GATEWAY_CALLS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "gateway/convert.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "queue/errors.h"

namespace penstock {

inline absl::Status Draining() {
  return MakeError(absl::StatusCode::kUnavailable, reason::kDraining,
                   "this gateway is stopping; another one takes the call");
}

inline const grpc::Status& CancelledCall() {
  static const auto* const status =
      new grpc::Status(grpc::StatusCode::CANCELLED, "the call was cancelled");
  return *status;
}

// The PlainCalls that are not answered. Thread-safe.
class OpenCalls {
 public:
  using Ticket = uint64_t;

  Ticket Add(grpc::ServerUnaryReactor* call) {
    absl::MutexLock lock(&mu_);
    open_.emplace(++last_, call);
    return last_;
  }

  // Who gets a call answers it; nullptr: someone has.
  grpc::ServerUnaryReactor* Take(Ticket ticket) {
    absl::MutexLock lock(&mu_);
    const auto found = open_.find(ticket);
    if (found == open_.end()) return nullptr;
    grpc::ServerUnaryReactor* const call = found->second;
    open_.erase(found);
    return call;
  }

  // Ends all of them, whatever they wait for.
  void EndAll(const grpc::Status& status) {
    absl::flat_hash_map<Ticket, grpc::ServerUnaryReactor*> open;
    {
      absl::MutexLock lock(&mu_);
      open.swap(open_);
    }
    for (const auto& [ticket, call] : open) call->Finish(status);
  }

 private:
  absl::Mutex mu_;
  Ticket last_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<Ticket, grpc::ServerUnaryReactor*> open_
      ABSL_GUARDED_BY(mu_);
};

// A unary call that goes on to its end whether the caller still waits or not. Its
// reactor is gRPC's, which ends on the thread that answers; one of ours, which
// hears of a cancel, ends on gRPC's executor, at a fifth of the CPU time of a
// SendTask. A handle: copies are the same call. Thread-safe.
class PlainCall {
 public:
  PlainCall(std::shared_ptr<OpenCalls> open,
            grpc::CallbackServerContext* context)
      : open_(std::move(open)),
        reactor_(context->DefaultReactor()),
        ticket_(open_->Add(reactor_)) {}

  // As UnaryCall's.
  template <typename Fill>
  void Reply(Fill fill) const {
    grpc::ServerUnaryReactor* const call = open_->Take(ticket_);
    if (call == nullptr) return;
    fill();
    call->Finish(grpc::Status::OK);
  }
  void Fail(const absl::Status& error) const {
    grpc::ServerUnaryReactor* const call = open_->Take(ticket_);
    if (call != nullptr) call->Finish(StatusOf(error));
  }

  grpc::ServerUnaryReactor* get() const { return reactor_; }

 private:
  const std::shared_ptr<OpenCalls> open_;
  grpc::ServerUnaryReactor* const reactor_;
  const OpenCalls::Ticket ticket_;
};

// A unary call. Thread-safe.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // `on_cancel` runs when the call was cancelled before it was answered; it gives
  // up what the call holds. Not run after an answer.
  static std::shared_ptr<UnaryCall> Make(
      absl::AnyInvocable<void()> on_cancel = nullptr) {
    auto call = std::shared_ptr<UnaryCall>(new UnaryCall);
    call->on_cancel_ = std::move(on_cancel);
    call->self_ = call;
    return call;
  }

  // Ends the call with what `fill` puts into its response, which is gone when
  // someone else has ended the call: only `fill` may touch it.
  template <typename Fill>
  void Reply(Fill fill) {
    if (!Claim()) return;
    fill();
    Finish(grpc::Status::OK);
  }

  void Fail(const absl::Status& error) {
    if (Claim()) Finish(StatusOf(error));
  }

  void FailWith(const grpc::Status& status) {
    if (Claim()) Finish(status);
  }

  bool ended() const { return claimed_.load(); }

 private:
  UnaryCall() = default;

  bool Claim() { return !claimed_.exchange(true); }

  void OnCancel() override {
    if (!Claim()) return;
    if (on_cancel_ != nullptr) on_cancel_();
    Finish(CancelledCall());
  }

  void OnDone() override { self_.reset(); }

  absl::AnyInvocable<void()> on_cancel_;  // constant after construction
  std::atomic<bool> claimed_{false};
  std::shared_ptr<UnaryCall> self_;  // gRPC's hold, until OnDone
};

// The writing half of a server stream: one message on its way at a time, and the
// end after the last of them. What to send next is asked of `Source`, so a slow
// reader holds nothing but what the source keeps. Thread-safe.
template <typename Response>
class StreamCall final : public grpc::ServerWriteReactor<Response> {
 public:
  // `fill` puts the next message into its argument, or returns false: nothing
  // new. `on_end` runs once, when the call was cancelled or has ended. Both run
  // on any thread, never two at a time of one call.
  using Fill = absl::AnyInvocable<bool(Response*)>;

  static std::shared_ptr<StreamCall> Make() {
    auto call = std::shared_ptr<StreamCall>(new StreamCall);
    call->self_ = call;
    return call;
  }

  // Before the first Pump.
  void SetSource(Fill fill, absl::AnyInvocable<void()> on_end) {
    absl::MutexLock lock(&mu_);
    fill_ = std::move(fill);
    on_end_ = std::move(on_end);
  }

  // Sends what there is; called when there may be something new.
  void Pump() {
    std::optional<grpc::Status> end;
    {
      absl::MutexLock lock(&mu_);
      if (writing_ || finished_) return;
      if (!dropping_ && fill_ != nullptr && fill_(&response_)) {
        writing_ = true;
      } else if (end_.has_value()) {
        finished_ = true;
        end = *end_;
      } else {
        return;
      }
    }
    if (end.has_value()) {
      Finish(*end);
    } else {
      this->StartWrite(&response_);
    }
  }

  // Ends the stream when all that there is has been sent. The first one counts.
  void End(const grpc::Status& status) {
    {
      absl::MutexLock lock(&mu_);
      if (!end_.has_value()) end_ = status;
    }
    Pump();
  }

  bool ended() const {
    absl::MutexLock lock(&mu_);
    return end_.has_value();
  }

 private:
  StreamCall() = default;

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      if (!ok) Drop();
    }
    Pump();
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mu_);
      Drop();
    }
    Pump();
  }

  // The client is gone: nothing more is written.
  void Drop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    dropping_ = true;
    if (!end_.has_value()) end_ = CancelledCall();
  }

  void OnDone() override {
    absl::AnyInvocable<void()> on_end;
    Fill fill;  // may hold what holds this call: destroyed without the lock
    {
      absl::MutexLock lock(&mu_);
      on_end = std::move(on_end_);
      fill = std::move(fill_);
      on_end_ = nullptr;
      fill_ = nullptr;
    }
    if (on_end != nullptr) on_end();
    self_.reset();
  }

  using grpc::ServerWriteReactor<Response>::Finish;

  mutable absl::Mutex mu_;
  Fill fill_ ABSL_GUARDED_BY(mu_);
  absl::AnyInvocable<void()> on_end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool dropping_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  Response response_;  // gRPC's while writing_, else guarded by mu_
  std::shared_ptr<StreamCall> self_;  // gRPC's hold, until OnDone
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_CALLS_H_
