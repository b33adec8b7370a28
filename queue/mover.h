// Moves delayed tasks to the broker when they are due: leases them, publishes
// each with a confirm, then removes it, unless it was laid anew meanwhile. At
// least once, never lost. Every gateway and worker runs one; the lease keeps them
// apart. docs/architecture.md section 7.
//
// Owns no thread: runs on those of environment, backend and broker.

#ifndef PENSTOCK_QUEUE_MOVER_H_
#define PENSTOCK_QUEUE_MOVER_H_

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/continuation.h"
#include "queue/scope.h"

namespace penstock {

class Mover {
 public:
  Mover(Scope* scope, Continuation* continuation)
      : scope_(scope), continuation_(continuation) {}

  void Start();

  // A task was laid that is due at `due`: look then, if not earlier.
  void Expect(absl::Time due) { WakeAt(due); }

 private:
  void WakeAt(absl::Time time);
  void Round();
  void RoundEnded(bool more, std::optional<absl::Time> next_due);
  void Settled();
  void Publish(LeasedTask leased, absl::Time lease_end, Done done);
  absl::Duration UnroutableFor(const std::string& task_id, bool unroutable);
  void EndUnroutable(LeasedTask leased, absl::Status why, Done done);

  Scope* const scope_;
  Continuation* const continuation_;

  absl::Mutex mu_;
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool round_runs_ ABSL_GUARDED_BY(mu_) = false;
  bool round_waits_ ABSL_GUARDED_BY(mu_) = false;  // for room in flight
  size_t in_flight_ ABSL_GUARDED_BY(mu_) = 0;      // leased, not settled
  absl::Time next_wake_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  // Since when no queue has taken a task, by its id.
  std::map<std::string, absl::Time> unroutable_since_ ABSL_GUARDED_BY(mu_);
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_MOVER_H_
