// Whether a program can do its work now: what the gateway's health service and
// a worker's health endpoint answer. Asks the result backend once a second, on
// the environment's thread, so that an answer costs no round trip.

#ifndef PENSTOCK_QUEUE_READINESS_H_
#define PENSTOCK_QUEUE_READINESS_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "queue/backend.h"
#include "queue/environment.h"

namespace penstock {

// Thread-safe.
class Readiness {
 public:
  struct World {
    // What must be OK besides the backend; its text says what is wrong. Must
    // not block.
    std::function<absl::Status()> program;
    Backend* backend;
    Environment* environment;
    // Runs with what Get would say: when that is first known, and each time
    // that it changes between good and bad. On any thread; may be empty.
    std::function<void(const absl::Status&)> on_change = {};
  };

  // Neither backend nor environment is owned; both must outlive it.
  explicit Readiness(World world);

  // From then on nothing of the world is called. Not from within the world.
  ~Readiness();

  // OK, or UNAVAILABLE with a text that says why not. Does not block.
  absl::Status Get() const;

 private:
  struct Core;
  const std::shared_ptr<Core> core_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_READINESS_H_
