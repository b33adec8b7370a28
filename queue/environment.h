// What the rules need of the world besides broker and backend: the time, fresh
// ids, and something later. Injected, so that tests and the simulator decide it.

#ifndef PENSTOCK_QUEUE_ENVIRONMENT_H_
#define PENSTOCK_QUEUE_ENVIRONMENT_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "queue/callback.h"

namespace penstock {

class Environment {
 public:
  virtual ~Environment() = default;

  virtual absl::Time Now() = 0;

  // A random UUID (version 4), 36 characters.
  virtual std::string NewUuid() = 0;

  // Uniform in [0, 1): jitter.
  virtual double Random() = 0;

  // Runs `task` once, on the environment's own thread, `delay` from now; what has
  // not run when the environment ends is dropped. `task` must not block.
  // Thread-safe.
  virtual void RunAfter(absl::Duration delay, Closure task) = 0;
};

// The real one: the system's clock, OpenSSL's randomness, and the timer thread,
// which ends with it.
std::unique_ptr<Environment> MakeSystemEnvironment();

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_ENVIRONMENT_H_
