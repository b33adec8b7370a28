// The seam to the message broker: tasks as messages, published durably and
// delivered at least once. Implementations: amqp/ (RabbitMQ), memory/ (embedded
// and unit tests), and the failing one of the tests. All pass
// tests/conformance/broker_conformance_test.cc.

#ifndef PENSTOCK_QUEUE_BROKER_H_
#define PENSTOCK_QUEUE_BROKER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "queue/callback.h"

namespace penstock {

// A message that is larger is not sent.
inline constexpr size_t kMaxMessageBytes = 16 << 20;

struct Message {
  std::string task_id;      // rides as AMQP's message_id: a returned message has no tag
  std::string routing_key;  // empty: the broker's default
  std::string queue;        // not empty: straight to this queue, past the exchange
  std::string body;         // the signature's JSON
  uint8_t priority = 0;
  std::map<std::string, std::string> headers;  // value: JSON text (Task::headers)
  // When to give up waiting for the confirm. Infinite: the broker's own (5 s).
  absl::Time deadline = absl::InfiniteFuture();
};

// Which delivery is meant. A tag is good only on the connection that delivered
// it: the generation counts connections, and an ack of an older one is dropped.
struct DeliveryTag {
  uint64_t generation = 0;
  uint64_t tag = 0;

  bool operator==(const DeliveryTag&) const = default;
};

struct Delivery {
  DeliveryTag tag;
  std::string queue;
  std::string body;
  bool redelivered = false;  // a hint only: re-published copies carry none
};

struct ConsumeOptions {
  std::vector<std::string> queues;  // empty: the default queue
  int prefetch = 0;                 // deliveries held unacked, per queue; > 0
  std::string consumer_tag;         // empty: the broker chooses
};

// A worker's hold on its queues, from Broker::Consume. Reconnects by itself; the
// broker delivers again what was not acked. Thread-safe; nothing blocks.
class Consumer {
 public:
  // Ends the consumer as Stop does, but waits for it.
  virtual ~Consumer() = default;

  // The task is done with: the broker forgets the delivery.
  virtual void Ack(DeliveryTag tag) = 0;

  // Not begun: the broker delivers it again, to anyone. Several keep their order
  // if the last is returned first.
  virtual void Return(DeliveryTag tag) = 0;

  // Stops taking deliveries, and goes on. Acks and returns work meanwhile.
  virtual void Pause() = 0;
  virtual void Resume() = 0;

  // From now on so many deliveries (> 0) are held unacked at most, per queue. What
  // is held already stays; RabbitMQ does not count it among them.
  virtual void SetPrefetch(int prefetch) = 0;

  // Takes no more deliveries, for good; `done` runs when the last delivery has
  // been handed out. Acks and returns work until the consumer is destroyed.
  virtual void Stop(Done done) = 0;

  // OK while the queues can be taken from, paused or stopped or not; otherwise
  // the text says why not.
  virtual absl::Status Health() = 0;
};

class Broker {
 public:
  // Fails what is still pending (UNAVAILABLE), then ends the threads.
  virtual ~Broker() = default;

  // Publishes `message` durably and runs `done` once, on the broker's own thread:
  //   OK                  the broker confirmed it (on disk for a durable queue)
  //   FAILED_PRECONDITION QUEUE_NOT_FOUND: no queue took it; it was not kept
  //   UNAVAILABLE         BROKER_UNAVAILABLE, BROKER_NACK: it may or may not
  //                       have arrived
  //   DEADLINE_EXCEEDED   CONFIRM_TIMEOUT: the same
  //   RESOURCE_EXHAUSTED  PAYLOAD_TOO_LARGE: over 16 MiB; it was not sent
  // Never blocks and never runs `done` inside this call. Thread-safe.
  virtual void Publish(Message message, Done done) = 0;

  // Lays a delivery that cannot be decoded into penstock.dead.<queue>, with the
  // reason; the results are Publish's.
  virtual void PublishDead(std::string queue, std::string body,
                           std::string reason, Done done) = 0;

  // Whether the broker itself keeps messages until they are due: machinery's
  // delayed_tasks in Redis, its delay queues in RabbitMQ. Otherwise the backend's
  // delayed set does, and the mover publishes what is due.
  virtual bool KeepsDelayed() const = 0;

  // Publishes `message` when `due` has come; OK when the broker has it for good.
  // Otherwise Publish's results. Only where KeepsDelayed.
  virtual void PublishAt(Message message, absl::Time due, Done done) = 0;

  // Starts to consume. `on_delivery` is called on the consumer's own thread, one
  // delivery at a time, and must not block; it may call the Consumer.
  // INVALID_ARGUMENT for options that can never work.
  virtual absl::StatusOr<std::unique_ptr<Consumer>> Consume(
      ConsumeOptions options,
      absl::AnyInvocable<void(Delivery)> on_delivery) = 0;

  // What a task without a routing key is sent with (machinery's
  // AdjustRoutingKey), and the queue that a worker takes by default.
  virtual std::string DefaultRoutingKey() const = 0;
  virtual std::string DefaultQueue() const = 0;

  // Whether messages can be published right now; the text says why not.
  virtual absl::Status Health() = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_BROKER_H_
