// The backend seam over RabbitMQ, as machinery keeps results there: the states
// of a task are messages in a queue of its id. It keeps states and nothing
// else: no groups of Penstock's, no cancelling, no delayed set, no claims that
// are atomic. Threads: amqp-results writes, amqp-states reads, each with a
// connection of its own. Follows docs/wire-format.md
// (RabbitMQ as result backend).

#ifndef PENSTOCK_QUEUE_AMQP_AMQP_BACKEND_H_
#define PENSTOCK_QUEUE_AMQP_AMQP_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "queue/backend.h"
#include "queue/config.h"
#include "queue/environment.h"

namespace penstock {

// Opens options.result_backend, an amqp:// or amqps:// URL, and connects in the
// background. INVALID_ARGUMENT for what can never work; the text has no
// password. `environment` is not owned and must outlive the backend.
absl::StatusOr<std::unique_ptr<Backend>> OpenAmqpBackend(
    const Options& options, Environment* environment);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_AMQP_BACKEND_H_
