// The broker seam over RabbitMQ: one publisher (thread `amqp-publish`) and, in
// a worker, consumers (thread `amqp-consume` each), every one with a connection
// of its own. Follows docs/architecture.md section 9, docs/wire-format.md.

#ifndef PENSTOCK_QUEUE_AMQP_AMQP_BROKER_H_
#define PENSTOCK_QUEUE_AMQP_AMQP_BROKER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "queue/broker.h"
#include "queue/config.h"
#include "queue/environment.h"

namespace penstock {

// Opens options.broker, an amqp:// URL, and connects in the background.
// INVALID_ARGUMENT for what can never work; the text has no password.
// `environment` is not owned and must outlive the broker and its consumers.
absl::StatusOr<std::unique_ptr<Broker>> OpenAmqpBroker(
    const Options& options, Environment* environment);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_AMQP_BROKER_H_
