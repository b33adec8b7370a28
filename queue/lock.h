// The seam to machinery's lock of periodic tasks, which lets one of several
// processes run a tick: docs/wire-format.md section 6. Implemented in redis/.

#ifndef PENSTOCK_QUEUE_LOCK_H_
#define PENSTOCK_QUEUE_LOCK_H_

#include <string>

#include "absl/time/time.h"
#include "queue/callback.h"

namespace penstock {

// Thread-safe; never blocks.
class PeriodicLock {
 public:
  // Fails what is still pending (UNAVAILABLE), then ends the thread.
  virtual ~PeriodicLock() = default;

  // Whether this process has the lock `key` until `until`, the next tick.
  // False: another one has. It is never given back: it ends by itself.
  // UNAVAILABLE when the server cannot be reached.
  virtual void TryLock(std::string key, absl::Time until,
                       Callback<bool> done) = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_LOCK_H_
