// See amqp_broker.h. Thread-safe: it only hands over to the owners' mailboxes.

#include "queue/amqp/amqp_broker.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "queue/amqp/connection.h"
#include "queue/amqp/consumer.h"
#include "queue/amqp/publisher.h"
#include "queue/amqp/topology.h"

namespace penstock {
namespace {

constexpr size_t kMaxShortString = 255;
constexpr int kMaxPrefetch = 65'535;  // AMQP's field has 16 bits

bool HasAmqpBackend(const Options& options) {
  return absl::StartsWith(options.result_backend, "amqp://") ||
         absl::StartsWith(options.result_backend, "amqps://");
}

class AmqpBroker : public Broker {
 public:
  AmqpBroker(AmqpAddress address, const Options& options,
             Environment* environment)
      : address_(std::move(address)),
        options_(options),
        environment_(environment),
        keeps_delayed_(HasAmqpBackend(options)),
        // The default queue too: a task that is sent before the first worker
        // has started is kept.
        publisher_(address_, options_, {.queues = {options.default_queue}},
                   environment) {}

  void Publish(Message message, Done done) override {
    publisher_.Publish(std::move(message), std::move(done));
  }

  void PublishDead(std::string queue, std::string body, std::string reason,
                   Done done) override {
    publisher_.PublishDead(std::move(queue), std::move(body), std::move(reason),
                           std::move(done));
  }

  // A result backend in RabbitMQ has no place for delayed tasks.
  bool KeepsDelayed() const override { return keeps_delayed_; }
  void PublishAt(Message message, absl::Time due, Done done) override {
    publisher_.PublishAt(std::move(message), due, std::move(done));
  }

  absl::StatusOr<std::unique_ptr<Consumer>> Consume(
      ConsumeOptions options,
      absl::AnyInvocable<void(Delivery)> on_delivery) override {
    if (options.queues.empty()) options.queues = {options_.default_queue};
    if (options.prefetch < 1 || options.prefetch > kMaxPrefetch) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prefetch is ", options.prefetch, "; expected 1 to ", kMaxPrefetch));
    }
    std::set<std::string> seen;
    for (const std::string& queue : options.queues) {
      if (queue.empty() || queue.size() > kMaxShortString) {
        return absl::InvalidArgumentError(absl::StrCat(
            "queue name \"", queue, "\" is not 1 to 255 bytes long"));
      }
      if (!seen.insert(queue).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("queue \"", queue, "\" is named twice"));
      }
    }
    if (options.consumer_tag.empty()) {
      options.consumer_tag = absl::StrCat("penstock-", environment_->NewUuid());
    }
    for (const std::string& queue : options.queues) {
      // A slash between them, and in front which time it is that it consumes.
      if (options.consumer_tag.size() + 12 + queue.size() > kMaxShortString) {
        return absl::InvalidArgumentError(absl::StrCat(
            "consumer tag and queue \"", queue, "\" have over 243 bytes"));
      }
    }
    return std::make_unique<AmqpConsumer>(address_, options_,
                                          std::move(options),
                                          std::move(on_delivery), environment_);
  }

  std::string DefaultRoutingKey() const override {
    return AmqpDefaultRoutingKey(options_);
  }
  std::string DefaultQueue() const override { return options_.default_queue; }

  absl::Status Health() override { return publisher_.Health(); }

 private:
  // Constant after construction.
  const AmqpAddress address_;
  const Options options_;
  Environment* const environment_;
  const bool keeps_delayed_;

  AmqpPublisher publisher_;  // synchronises itself
};

}  // namespace

absl::StatusOr<std::unique_ptr<Broker>> OpenAmqpBroker(
    const Options& options, Environment* environment) {
  absl::StatusOr<AmqpAddress> address =
      ParseAmqpUrl(options.broker, options.tls);
  if (!address.ok()) return address.status();
  if (options.default_queue.empty() ||
      options.default_queue.size() > kMaxShortString) {
    return absl::InvalidArgumentError(
        "default_queue is not 1 to 255 bytes long");
  }
  return std::make_unique<AmqpBroker>(*std::move(address), options,
                                      environment);
}

}  // namespace penstock
