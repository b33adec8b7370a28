// What must exist in RabbitMQ before anything can be sent or taken: the
// exchange, queues and their bindings, exactly as machinery declares them,
// since a declare that differs in any flag is refused. Runs on the owner's
// thread of a connection. Follows docs/wire-format.md (topology).

#ifndef PENSTOCK_QUEUE_AMQP_TOPOLOGY_H_
#define PENSTOCK_QUEUE_AMQP_TOPOLOGY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "queue/amqp/connection.h"
#include "queue/config.h"

namespace penstock {

// machinery's AdjustRoutingKey: what a task without a routing key is sent with.
std::string AmqpDefaultRoutingKey(const Options& options);

// Where deliveries of `queue` that cannot be decoded are laid.
std::string DeadQueueName(absl::string_view queue);

// Declares the exchange, and each of `queues` with its binding: the default
// queue by the binding key, another one by its own name (direct exchange; with
// other types by the binding key, as machinery does). Waits for the answers, so
// only before confirm.select and basic.consume. UNAVAILABLE names what was
// refused, with the server's words; the connection is of no use then.
absl::Status DeclareTopology(AmqpConnection& connection, const Options& options,
                             const std::vector<std::string>& queues);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_TOPOLOGY_H_
