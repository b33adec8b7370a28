// See redis_broker.h. Thread-safe: it hands over to the owners of connections.

#include "queue/redis/redis_broker.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/synchronization/mutex.h"
#include "queue/errors.h"
#include "queue/redis/broker_scripts.h"
#include "queue/redis/connection.h"
#include "queue/redis/consumer.h"
#include "queue/redis/delayed.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

constexpr int kMostPrefetch = 65'535;  // as with RabbitMQ
constexpr size_t kMostQueueName = 255;
constexpr absl::Duration kMostBlock = absl::Seconds(1);
constexpr absl::Duration kLeastBlock = absl::Milliseconds(10);
// By then the connection has answered, failed or given up.
constexpr absl::Duration kOwnLimit = absl::Seconds(7);

// What the connection says, in the words of a broker.
absl::Status BrokerStatus(const absl::Status& status,
                          const std::string& queue) {
  const std::string text = absl::StrReplaceAll(
      status.message(), {{"the result backend", "the broker"}});
  if (absl::IsUnavailable(status)) {
    return MakeError(absl::StatusCode::kUnavailable, reason::kBrokerUnavailable,
                     text);
  }
  if (absl::StrContains(text, "WRONGTYPE")) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     reason::kQueueNotFound,
                     absl::StrCat("the key \"", queue,
                                  "\" of Redis is no list, so it cannot be a "
                                  "queue"));
  }
  return status;
}

// A callback that may be called from two sides; the first one counts.
class Once {
 public:
  explicit Once(Done done) : done_(std::move(done)) {}

  void Run(absl::Status status) {
    Done done;
    {
      absl::MutexLock lock(&mu_);
      done = std::exchange(done_, nullptr);
    }
    if (done) std::move(done)(std::move(status));
  }

 private:
  absl::Mutex mu_;
  Done done_ ABSL_GUARDED_BY(mu_);
};

class RedisBroker : public Broker {
 public:
  RedisBroker(RedisAddress address, const Options& options,
              Environment* environment)
      : address_(std::move(address)),
        options_(options),
        environment_(environment),
        health_(absl::UnavailableError("redis: not connected yet")),
        known_(options.redis.queues.begin(), options.redis.queues.end()),
        publisher_({.address = address_, .name = "redis-publish"},
                   environment_),
        delayed_({.address = address_,
                  .key = options_.redis.delayed_tasks_key,
                  .default_queue = options_.default_queue,
                  .poll_period = options_.redis.delayed_tasks_poll_period,
                  .on_poll = [this] { LookAtHealth(); }},
                 environment_) {}

  // `done` of what is pending may use this object.
  ~RedisBroker() override { publisher_.Stop(); }

  void Publish(Message message, Done done) override {
    const std::string queue = QueueOf(message);
    if (absl::Status refused = Refuse(message, queue); !refused.ok()) {
      Later(std::move(done), std::move(refused));
      return;
    }
    Send({"RPUSH", queue, std::move(message.body)}, nullptr, queue,
         Until(message.deadline, message.task_id, std::move(done)));
  }

  void PublishDead(std::string queue, std::string body, std::string reason,
                   Done done) override {
    const std::vector<std::string> keys = DeadKeysOfQueue(queue);
    const RedisScript& bury = BrokerScripts().bury;
    Send({"EVALSHA", bury.sha1, "2", keys[0], keys[1], std::move(body),
          DeadReason(reason, environment_->Now())},
         &bury, keys[0], std::move(done));
  }

  bool KeepsDelayed() const override { return true; }

  void PublishAt(Message message, absl::Time due, Done done) override {
    const std::string queue = QueueOf(message);
    absl::Status refused = Refuse(message, queue);
    if (refused.ok() && !message.queue.empty()) {
      // The set keeps the task's JSON and nothing beside it.
      absl::StatusOr<Task> task = DecodeTask(message.body);
      if (task.ok()) {
        task->routing_key = queue;
        message.body = EncodeTask(*task);
      } else {
        refused = task.status();
      }
    }
    if (!refused.ok()) {
      Later(std::move(done), std::move(refused));
      return;
    }
    Send({"ZADD", options_.redis.delayed_tasks_key,
          absl::StrCat(absl::ToUnixNanos(due)), std::move(message.body)},
         nullptr, options_.redis.delayed_tasks_key,
         [this, due, done = std::move(done)](absl::Status status) mutable {
           if (status.ok()) delayed_.Expect(due);
           std::move(done)(std::move(status));
         });
  }

  absl::StatusOr<std::unique_ptr<Consumer>> Consume(
      ConsumeOptions options,
      absl::AnyInvocable<void(Delivery)> on_delivery) override {
    if (options.queues.empty()) options.queues = {DefaultQueue()};
    if (options.prefetch < 1 || options.prefetch > kMostPrefetch) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prefetch is ", options.prefetch, "; expected 1 to ", kMostPrefetch));
    }
    std::set<std::string> seen;
    for (const std::string& queue : options.queues) {
      if (queue.empty() || queue.size() > kMostQueueName) {
        return absl::InvalidArgumentError(absl::StrCat(
            "queue name \"", queue, "\" is not 1 to 255 bytes long"));
      }
      if (!seen.insert(queue).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("queue \"", queue, "\" is named twice"));
      }
    }
    {
      absl::MutexLock lock(&mu_);
      if (!known_.empty()) known_.insert(seen.begin(), seen.end());
    }
    const absl::Duration lease = options_.redis.lease;
    return std::make_unique<RedisConsumer>(
        RedisConsumer::Options{
            .address = address_,
            .consume = std::move(options),
            .lease = lease,
            .block = std::clamp(options_.redis.normal_tasks_poll_period,
                                kLeastBlock, std::min(kMostBlock, lease / 4))},
        std::move(on_delivery), environment_);
  }

  std::string DefaultRoutingKey() const override { return DefaultQueue(); }
  std::string DefaultQueue() const override { return options_.default_queue; }

  absl::Status Health() override {
    absl::MutexLock lock(&mu_);
    return health_;
  }

 private:
  std::string QueueOf(const Message& message) const {
    if (!message.queue.empty()) return message.queue;
    return message.routing_key.empty() ? options_.default_queue
                                       : message.routing_key;
  }

  absl::Status Refuse(const Message& message, const std::string& queue) {
    if (message.body.size() > kMaxMessageBytes) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       reason::kPayloadTooLarge,
                       absl::StrCat("the message of task ", message.task_id,
                                    " has ", message.body.size(),
                                    " bytes; the limit is ", kMaxMessageBytes));
    }
    absl::MutexLock lock(&mu_);
    if (known_.empty() || queue == options_.default_queue ||
        known_.contains(queue)) {
      return absl::OkStatus();
    }
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     reason::kQueueNotFound,
                     absl::StrCat("there is no queue \"", queue,
                                  "\": redis.queues does not name it"));
  }

  void Send(std::vector<std::string> words, const RedisScript* script,
            std::string queue, Done done) {
    publisher_.Send(
        {.words = std::move(words),
         .script = script,
         .done = [this, queue = std::move(queue), done = std::move(done)](
                     absl::StatusOr<RedisReply> reply) mutable {
           absl::Status status = reply.status();
           if (!status.ok()) status = BrokerStatus(status, queue);
           if (status.ok() || absl::IsUnavailable(status)) SetHealth(status);
           std::move(done)(std::move(status));
         }});
  }

  // `done`, or that the time is over, if that comes first.
  Done Until(absl::Time deadline, const std::string& task_id, Done done) {
    const absl::Duration left = deadline - environment_->Now();
    if (left > kOwnLimit) return done;
    auto once = std::make_shared<Once>(std::move(done));
    environment_->RunAfter(
        std::max(left, absl::ZeroDuration()), [once, task_id] {
          once->Run(MakeError(absl::StatusCode::kDeadlineExceeded,
                              reason::kConfirmTimeout,
                              absl::StrCat("the broker did not confirm task ",
                                           task_id, " in time")));
        });
    return [once](absl::Status status) { once->Run(std::move(status)); };
  }

  void Later(Done done, absl::Status status) {
    environment_->RunAfter(
        absl::ZeroDuration(),
        [done = std::move(done), status = std::move(status)]() mutable {
          std::move(done)(std::move(status));
        });
  }

  void LookAtHealth() {
    publisher_.Send(
        {.words = {"PING"}, .done = [this](absl::StatusOr<RedisReply> reply) {
           SetHealth(reply.ok() ? absl::OkStatus()
                                : BrokerStatus(reply.status(), ""));
         }});
  }

  void SetHealth(const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    health_ = status;
  }

  // Constant after construction.
  const RedisAddress address_;
  const Options options_;
  Environment* const environment_;

  absl::Mutex mu_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> known_ ABSL_GUARDED_BY(mu_);  // empty: any queue

  // Synchronise themselves.
  RedisConnection publisher_;
  RedisDelayed delayed_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Broker>> OpenRedisBroker(
    const Options& options, Environment* environment) {
  absl::StatusOr<RedisAddress> address =
      ParseRedisUrl(options.broker, options.tls, "broker");
  if (!address.ok()) return address.status();
  if (options.default_queue.empty() ||
      options.default_queue.size() > kMostQueueName) {
    return absl::InvalidArgumentError(
        "default_queue is not 1 to 255 bytes long");
  }
  return std::make_unique<RedisBroker>(*std::move(address), options,
                                       environment);
}

}  // namespace penstock
