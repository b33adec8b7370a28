// How long the parts of Lifecycle live, and what they work with. Each callback
// that they hand out holds the whole Lifecycle core alive and passes a gate: once
// Stop has closed it, a callback gets CANCELLED and touches neither broker nor
// backend, which may then be destroyed in any order.

#ifndef PENSTOCK_QUEUE_SCOPE_H_
#define PENSTOCK_QUEUE_SCOPE_H_

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/callback.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"

namespace penstock {

// Counts who is inside; closing waits until all have left. Do not close it from
// the inside.
class Gate {
 public:
  bool Enter() {
    if ((state_.fetch_add(kOne) & kClosed) == 0) return true;
    Leave();
    return false;
  }
  void Leave() {
    if (state_.fetch_sub(kOne) - kOne == kClosed) state_.notify_all();
  }
  void Close() {
    state_.fetch_or(kClosed);
    for (uint32_t state = state_.load(); state != kClosed;
         state = state_.load()) {
      state_.wait(state);
    }
  }

 private:
  static constexpr uint32_t kClosed = 1;
  static constexpr uint32_t kOne = 2;
  std::atomic<uint32_t> state_{0};
};

// Whether the same request may succeed later, all by itself.
inline bool IsTransient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

struct Scope {
  Broker* broker;
  Backend* backend;
  Environment* environment;
  LifecycleOptions options;
  Gate gate;
  std::weak_ptr<void> owner;  // the core; set once, before the first callback

  // Wraps `then`, which takes a StatusOr<T>.
  template <typename T, typename Then>
  Callback<T> Guard(Then then) {
    return [this, hold = owner.lock(),
            then = std::move(then)](absl::StatusOr<T> result) mutable {
      if (!gate.Enter()) {
        std::move(then)(absl::StatusOr<T>(absl::CancelledError("stopped")));
        return;
      }
      std::move(then)(std::move(result));
      gate.Leave();
    };
  }

  // Wraps `then`, which takes a Status.
  template <typename Then>
  Done GuardDone(Then then) {
    return [this, hold = owner.lock(),
            then = std::move(then)](absl::Status status) mutable {
      if (!gate.Enter()) {
        std::move(then)(absl::CancelledError("stopped"));
        return;
      }
      std::move(then)(std::move(status));
      gate.Leave();
    };
  }

  // Runs `then` (which takes a Status: OK or CANCELLED) after `delay`.
  template <typename Then>
  void After(absl::Duration delay, Then then) {
    environment->RunAfter(
        delay, [done = GuardDone(std::move(then))]() mutable {
          std::move(done)(absl::OkStatus());
        });
  }

  // The pause before try number `failures` + 1: 50 ms doubling to 2 s, with
  // jitter so that the processes of a fleet do not come back in step.
  absl::Duration Backoff(int failures) {
    const absl::Duration longest = absl::Seconds(2);
    absl::Duration pause = absl::Milliseconds(50);
    for (int i = 1; i < failures && pause < longest; ++i) pause *= 2;
    return std::min(pause, longest) * (0.5 + environment->Random() / 2);
  }

  // Runs `request`, which takes a Callback<T>, until its outcome is not
  // transient; then `done` gets it, or CANCELLED after Stop.
  template <typename T, typename Request>
  void Repeat(Request request, Callback<T> done, int failures = 0) {
    auto shared = std::make_shared<Request>(std::move(request));
    RepeatShared<T>(std::move(shared), std::move(done), failures);
  }

 private:
  template <typename T, typename Request>
  void RepeatShared(std::shared_ptr<Request> request, Callback<T> done,
                    int failures) {
    (*request)(Guard<T>([this, request, failures, done = std::move(done)](
                            absl::StatusOr<T> result) mutable {
      if (result.ok() || !IsTransient(result.status())) {
        std::move(done)(std::move(result));
        return;
      }
      After(Backoff(failures + 1),
            [this, request, failures,
             done = std::move(done)](absl::Status status) mutable {
              if (!status.ok()) {
                std::move(done)(status);
                return;
              }
              RepeatShared<T>(request, std::move(done), failures + 1);
            });
    }));
  }
};

// A Done as a Callback<bool> and back, for operations without a result.
inline Done AsDone(Callback<bool> done) {
  return [done = std::move(done)](absl::Status status) mutable {
    if (status.ok()) {
      std::move(done)(true);
    } else {
      std::move(done)(status);
    }
  };
}
inline Callback<bool> AsCallback(Done done) {
  return [done = std::move(done)](absl::StatusOr<bool> result) mutable {
    std::move(done)(result.status());
  };
}

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_SCOPE_H_
