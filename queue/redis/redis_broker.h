// The broker seam over Redis, with machinery's lists and delayed set: one
// connection that publishes, one that moves delayed tasks, and in a worker a
// consumer (consumer.h). Follows docs/wire-format.md section 4.

#ifndef PENSTOCK_QUEUE_REDIS_REDIS_BROKER_H_
#define PENSTOCK_QUEUE_REDIS_REDIS_BROKER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "queue/broker.h"
#include "queue/config.h"
#include "queue/environment.h"

namespace penstock {

// Opens options.broker, a URL of Redis, and connects in the background.
// INVALID_ARGUMENT for what can never work; the text has no password.
// `environment` is not owned and must outlive the broker and its consumers.
absl::StatusOr<std::unique_ptr<Broker>> OpenRedisBroker(
    const Options& options, Environment* environment);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_REDIS_BROKER_H_
