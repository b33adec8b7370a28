#include "gateway/permits.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "queue/errors.h"

namespace penstock {

struct Permit::Pool {
  explicit Pool(Weight limits) : limits(limits) {}

  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return calls == 0; }

  const Weight limits;
  absl::Mutex mu;
  int64_t calls ABSL_GUARDED_BY(mu) = 0;
  Weight in_flight ABSL_GUARDED_BY(mu);
};

Permit::~Permit() {
  if (pool_ == nullptr) return;
  absl::MutexLock lock(&pool_->mu);
  --pool_->calls;
  pool_->in_flight.tasks -= weight_.tasks;
  pool_->in_flight.bytes -= weight_.bytes;
}

Permits::Permits(std::string what, Weight limits)
    : what_(std::move(what)), pool_(std::make_shared<Permit::Pool>(limits)) {}

absl::StatusOr<Permit> Permits::Acquire(Weight weight) {
  absl::MutexLock lock(&pool_->mu);
  Weight& in_flight = pool_->in_flight;
  if (in_flight.tasks >= pool_->limits.tasks ||
      in_flight.bytes >= pool_->limits.bytes) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     reason::kTooManyInFlight,
                     "too many " + what_ + " are in flight; try again shortly",
                     {{"limit", what_}});
  }
  ++pool_->calls;
  in_flight.tasks += weight.tasks;
  in_flight.bytes += weight.bytes;
  return Permit(pool_, weight);
}

bool Permits::AwaitIdle(absl::Time deadline) {
  absl::MutexLock lock(&pool_->mu);
  return pool_->mu.AwaitWithDeadline(
      absl::Condition(pool_.get(), &Permit::Pool::Idle), deadline);
}

}  // namespace penstock
