// machinery's lock of periodic tasks, as machinery keeps it in Redis. One
// connection and its thread, "redis-lock".

#ifndef PENSTOCK_QUEUE_REDIS_PERIODIC_LOCK_H_
#define PENSTOCK_QUEUE_REDIS_PERIODIC_LOCK_H_

#include <memory>

#include "absl/status/statusor.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/lock.h"

namespace penstock {

// Uses options.lock (the URL). Connects in the background. INVALID_ARGUMENT for
// a URL that can never work, without its password. `environment` is not owned
// and must outlive the lock.
absl::StatusOr<std::unique_ptr<PeriodicLock>> OpenRedisLock(
    const Options& options, Environment* environment);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_PERIODIC_LOCK_H_
