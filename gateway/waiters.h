// Who waits for a task's state. One shared reader asks the backend for all
// waited ids at once: each 20 ms for ids waited for less than a second, each
// 250 ms after that; a hint from the backend makes it sooner, or needless where it
// brings the outcome (docs/adr/0008). So a waiter costs neither a thread nor a poll
// of its own, and what Go workers write (they send no hints) is seen too. Hints are
// asked for only while somebody waits, and some seconds longer. Owns no thread: runs
// on those of environment and backend.
// Thread-safe. docs/architecture.md section 9.

#ifndef PENSTOCK_GATEWAY_WAITERS_H_
#define PENSTOCK_GATEWAY_WAITERS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/environment.h"
#include "queue/task.h"

namespace penstock {

class Waiters {
 public:
  // Both must outlive it. Subscribes to the backend's hints.
  Waiters(Backend* backend, Environment* environment);

  // Stops.
  ~Waiters();

  enum class Until {
    kFinal,   // the state is final
    kChange,  // the state differs from the one that the waiter knows
  };

  // Names a caller, whose waits can be forgotten together.
  using Ticket = uint64_t;
  Ticket NewTicket();

  // Runs `done` once, when the state of `id` is as `until` says, when `deadline`
  // has passed, or at Drain, with
  //   the state      as it was last read (`known`: as the caller last read it)
  //   nullopt        the backend has no state of `id` (any more)
  //   UNAVAILABLE    the wait is over while the backend cannot be read
  // It runs on a thread of the backend or the environment; after Drain, at once,
  // within this call.
  void Wait(Ticket ticket, std::string id, Until until,
            std::optional<TaskState> known, absl::Time deadline,
            Callback<std::optional<TaskState>> done);

  // Drops the waits of `ticket` without running them; one that is being run now
  // may still run. A Wait that comes after it is not dropped.
  void Forget(Ticket ticket);

  // Ends all waits, and from now on each new one, with the state as it is known.
  void Drain();

  // Drops what still waits, without running it; a new wait ends as after Drain.
  // No call to the backend is made after it. Idempotent.
  void Stop();

  // How many waits there are.
  size_t size() const;

 private:
  struct Core;
  std::shared_ptr<Core> core_;
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_WAITERS_H_
