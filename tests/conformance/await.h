// Waits in a test for what a callback gets: event-driven, with a bound that
// only a hang reaches.

#ifndef PENSTOCK_TESTS_CONFORMANCE_AWAIT_H_
#define PENSTOCK_TESTS_CONFORMANCE_AWAIT_H_

#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "queue/callback.h"

namespace penstock::testing {

inline constexpr absl::Duration kHang = absl::Seconds(60);

// One expected result. The callback may outlive it.
template <typename T>
class Awaited {
 public:
  Callback<T> callback() {
    return [shared = shared_](absl::StatusOr<T> result) {
      shared->result = std::move(result);
      shared->arrived.Notify();
    };
  }
  Done done() {
    return [shared = shared_](absl::Status status) {
      if (status.ok()) {
        shared->result = T();
      } else {
        shared->result = status;
      }
      shared->arrived.Notify();
    };
  }

  bool HasArrived() const { return shared_->arrived.HasBeenNotified(); }

  absl::StatusOr<T> Wait() {
    if (!shared_->arrived.WaitForNotificationWithTimeout(kHang)) {
      return absl::DeadlineExceededError("the callback never ran");
    }
    return *shared_->result;
  }

 private:
  struct Shared {
    absl::Notification arrived;
    std::optional<absl::StatusOr<T>> result;
  };
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

// Await<bool>([&](auto done) { backend.Abandon(..., std::move(done)); })
template <typename T, typename Start>
absl::StatusOr<T> Await(Start start) {
  Awaited<T> awaited;
  start(awaited.callback());
  return awaited.Wait();
}

template <typename Start>
absl::Status AwaitDone(Start start) {
  Awaited<bool> awaited;
  start(awaited.done());
  return awaited.Wait().status();
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_CONFORMANCE_AWAIT_H_
