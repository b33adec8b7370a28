// What must exist in RabbitMQ before anything can be sent or taken: the
// exchange, queues and their bindings, exactly as machinery declares them,
// since a declare that differs in any flag is refused. Runs on the owner's
// thread of a connection. Follows docs/wire-format.md (topology).

#ifndef PENSTOCK_QUEUE_AMQP_TOPOLOGY_H_
#define PENSTOCK_QUEUE_AMQP_TOPOLOGY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "queue/amqp/connection.h"
#include "queue/config.h"

namespace penstock {

// machinery's AdjustRoutingKey: what a task without a routing key is sent with.
std::string AmqpDefaultRoutingKey(const Options& options);

// An argument of a queue, with the type that it has on the wire.
struct QueueArg {
  enum Kind { kText, kInt32, kInt64 } kind = kText;
  std::string key;
  std::string text;
  int64_t number = 0;
};

// A queue that is declared for the sake of one message.
struct QueueSpec {
  std::string name;
  bool durable = true;
  bool auto_delete = false;
  bool bind = false;  // to the exchange, under its own name
  std::vector<QueueArg> args;
};

// machinery's queue of one task's states.
QueueSpec StateQueue(std::string task_id, absl::Duration expires);

// machinery's queue in which a message waits for `delay_ms` (> 0).
// `queue` not empty: it goes to that queue then, past the exchange.
QueueSpec DelayQueue(int64_t delay_ms, const Options& options,
                     const std::string& routing_key, const std::string& queue);

// Whether the exchange answers with a bind-ok besides the declare-ok.
bool HasBinding(const QueueSpec& spec, const Options& options);

// Sends declare and bind, without waiting for the answers.
absl::Status SendDeclare(AmqpConnection& connection, amqp_channel_t channel,
                         const QueueSpec& spec, const Options& options);

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
