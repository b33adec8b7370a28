// How much work is in flight at the RPCs' edge. A call is admitted while the sum
// in flight is below the limits, whatever its own weight, so that the largest
// call that is allowed at all can always get in. Its Permit rides in the
// completion and gives the weight back when it dies. Thread-safe.

#ifndef PENSTOCK_GATEWAY_PERMITS_H_
#define PENSTOCK_GATEWAY_PERMITS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace penstock {

// What a call weighs, and what may be in flight.
struct Weight {
  int64_t tasks = 0;
  int64_t bytes = 0;
};

class Permits;

class Permit {
 public:
  Permit(Permit&& other) noexcept = default;
  Permit& operator=(Permit&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(weight_, other.weight_);
    return *this;
  }
  ~Permit();

 private:
  friend class Permits;
  struct Pool;
  Permit(std::shared_ptr<Pool> pool, Weight weight)
      : pool_(std::move(pool)), weight_(weight) {}

  std::shared_ptr<Pool> pool_;  // null: moved from
  Weight weight_;
};

class Permits {
 public:
  // `what` names the pool in errors: "sends".
  Permits(std::string what, Weight limits);

  // RESOURCE_EXHAUSTED TOO_MANY_IN_FLIGHT when the pool is full.
  absl::StatusOr<Permit> Acquire(Weight weight);

  // Waits until nothing is in flight; false: `deadline` came first.
  bool AwaitIdle(absl::Time deadline);

 private:
  std::string what_;
  std::shared_ptr<Permit::Pool> pool_;  // outlives the permits
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_PERMITS_H_
