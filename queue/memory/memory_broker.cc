#include "queue/memory/memory_broker.h"

#include <algorithm>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "queue/errors.h"

namespace penstock {
namespace {

struct Stored {
  std::string body;
  uint8_t priority = 0;
  bool redelivered = false;
};

// One queue: higher priorities first, each in the order of arrival.
class Lane {
 public:
  void PushBack(Stored message) {
    by_priority_[message.priority].push_back(std::move(message));
  }
  void PushFront(Stored message) {
    by_priority_[message.priority].push_front(std::move(message));
  }
  bool empty() const { return by_priority_.empty(); }
  Stored Pop() {
    auto highest = std::prev(by_priority_.end());
    Stored message = std::move(highest->second.front());
    highest->second.pop_front();
    if (highest->second.empty()) by_priority_.erase(highest);
    return message;
  }

 private:
  std::map<uint8_t, std::deque<Stored>> by_priority_;
};

struct Unacked {
  std::string queue;
  Stored message;
};

// A consumer as the broker sees it.
struct Subscription {
  uint64_t generation = 0;
  std::vector<std::string> queues;
  int prefetch = 0;
  absl::AnyInvocable<void(Delivery)> on_delivery;  // environment's thread only
  bool taking = true;    // neither paused nor stopped
  bool stopped = false;
  bool running = false;  // inside on_delivery
  Done on_stopped;
  std::map<uint64_t, Unacked> unacked;
  std::map<std::string, int> held;  // unacked deliveries by queue
};

// Shared by the broker, its consumers and what they have asked the environment
// to run, so that it outlives each of them.
class State : public std::enable_shared_from_this<State> {
 public:
  explicit State(MemoryBrokerOptions options) : options_(std::move(options)) {
    queues_[options_.default_queue];
  }

  const MemoryBrokerOptions& options() const { return options_; }

  // False when there is no such queue.
  bool Store(const std::string& queue, Stored message) {
    {
      absl::MutexLock lock(&mu_);
      auto it = queues_.find(queue);
      if (it == queues_.end()) return false;
      it->second.PushBack(std::move(message));
    }
    ScheduleDeliveries();
    return true;
  }

  void Declare(const std::string& queue) {
    absl::MutexLock lock(&mu_);
    queues_[queue];
  }

  std::shared_ptr<Subscription> Subscribe(
      ConsumeOptions options, absl::AnyInvocable<void(Delivery)> on_delivery) {
    auto subscription = std::make_shared<Subscription>();
    subscription->queues = std::move(options.queues);
    subscription->prefetch = options.prefetch;
    subscription->on_delivery = std::move(on_delivery);
    {
      absl::MutexLock lock(&mu_);
      subscription->generation = ++generations_;
      for (const std::string& queue : subscription->queues) queues_[queue];
      subscriptions_.push_back(subscription);
    }
    ScheduleDeliveries();
    return subscription;
  }

  void Settle(Subscription& subscription, DeliveryTag tag, bool requeue) {
    {
      absl::MutexLock lock(&mu_);
      if (tag.generation != subscription.generation) return;
      auto it = subscription.unacked.find(tag.tag);
      if (it == subscription.unacked.end()) return;
      if (requeue) Requeue(it->second);
      --subscription.held[it->second.queue];
      subscription.unacked.erase(it);
    }
    ScheduleDeliveries();
  }

  void SetTaking(Subscription& subscription, bool taking) {
    {
      absl::MutexLock lock(&mu_);
      if (!subscription.stopped) subscription.taking = taking;
    }
    ScheduleDeliveries();
  }

  void SetPrefetch(Subscription& subscription, int prefetch) {
    {
      absl::MutexLock lock(&mu_);
      subscription.prefetch = prefetch;
    }
    ScheduleDeliveries();
  }

  void Stop(const std::shared_ptr<Subscription>& subscription, Done done) {
    {
      absl::MutexLock lock(&mu_);
      subscription->stopped = true;
      subscription->taking = false;
    }
    // Behind a delivery that is being handed out, which is on the same thread.
    options_.environment->RunAfter(
        absl::ZeroDuration(), [done = std::move(done)]() mutable {
          std::move(done)(absl::OkStatus());
        });
  }

  // What it held goes back to the queues. Waits for a delivery that is being
  // handed out; call it from another thread.
  void Unsubscribe(const std::shared_ptr<Subscription>& subscription) {
    {
      absl::MutexLock lock(&mu_);
      subscription->taking = false;
      subscription->stopped = true;
      mu_.Await(absl::Condition(
          +[](Subscription* s) { return !s->running; }, subscription.get()));
      // From the back, so that the first delivered is the first again.
      for (auto it = subscription->unacked.rbegin();
           it != subscription->unacked.rend(); ++it) {
        Requeue(it->second);
      }
      subscription->unacked.clear();
      std::erase(subscriptions_, subscription);
    }
    ScheduleDeliveries();
  }

 private:
  void Requeue(Unacked& unacked) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    unacked.message.redelivered = true;
    queues_[unacked.queue].PushFront(std::move(unacked.message));
  }

  void ScheduleDeliveries() {
    {
      absl::MutexLock lock(&mu_);
      if (scheduled_) return;
      scheduled_ = true;
    }
    options_.environment->RunAfter(
        absl::ZeroDuration(), [self = shared_from_this()] { self->Deliver(); });
  }

  // Hands out what can be handed out, one message to each consumer in turn.
  void Deliver() {
    {
      absl::MutexLock lock(&mu_);
      scheduled_ = false;
    }
    while (true) {
      std::shared_ptr<Subscription> taker;
      Delivery delivery;
      {
        absl::MutexLock lock(&mu_);
        if (!TakeNext(taker, delivery)) return;
        taker->running = true;
      }
      taker->on_delivery(std::move(delivery));
      absl::MutexLock lock(&mu_);
      taker->running = false;
    }
  }

  bool TakeNext(std::shared_ptr<Subscription>& taker, Delivery& delivery)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (size_t i = 0; i < subscriptions_.size(); ++i) {
      const std::shared_ptr<Subscription>& candidate =
          subscriptions_[(next_ + i) % subscriptions_.size()];
      if (!candidate->taking) continue;
      for (const std::string& queue : candidate->queues) {
        Lane& lane = queues_[queue];
        if (lane.empty() || candidate->held[queue] >= candidate->prefetch) {
          continue;
        }
        Stored message = lane.Pop();
        const uint64_t tag = ++tags_;
        delivery = {.tag = {.generation = candidate->generation, .tag = tag},
                    .queue = queue,
                    .body = message.body,
                    .redelivered = message.redelivered};
        candidate->unacked[tag] = {queue, std::move(message)};
        ++candidate->held[queue];
        taker = candidate;
        next_ = (next_ + i + 1) % subscriptions_.size();
        return true;
      }
    }
    return false;
  }

  const MemoryBrokerOptions options_;

  absl::Mutex mu_;
  std::map<std::string, Lane> queues_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<Subscription>> subscriptions_
      ABSL_GUARDED_BY(mu_);
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;  // whose turn it is
  uint64_t generations_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t tags_ ABSL_GUARDED_BY(mu_) = 0;
  bool scheduled_ ABSL_GUARDED_BY(mu_) = false;
};

class MemoryConsumer : public Consumer {
 public:
  MemoryConsumer(std::shared_ptr<State> state,
                 std::shared_ptr<Subscription> subscription)
      : state_(std::move(state)), subscription_(std::move(subscription)) {}

  ~MemoryConsumer() override { state_->Unsubscribe(subscription_); }

  void Ack(DeliveryTag tag) override {
    state_->Settle(*subscription_, tag, /*requeue=*/false);
  }
  void Return(DeliveryTag tag) override {
    state_->Settle(*subscription_, tag, /*requeue=*/true);
  }
  void Pause() override { state_->SetTaking(*subscription_, false); }
  void Resume() override { state_->SetTaking(*subscription_, true); }
  void SetPrefetch(int prefetch) override {
    state_->SetPrefetch(*subscription_, prefetch);
  }
  void Stop(Done done) override { state_->Stop(subscription_, std::move(done)); }
  absl::Status Health() override { return absl::OkStatus(); }

 private:
  const std::shared_ptr<State> state_;
  const std::shared_ptr<Subscription> subscription_;
};

class MemoryBroker : public Broker {
 public:
  explicit MemoryBroker(MemoryBrokerOptions options)
      : state_(std::make_shared<State>(std::move(options))) {}

  void Publish(Message message, Done done) override {
    const std::string& queue = !message.queue.empty() ? message.queue
                               : !message.routing_key.empty()
                                   ? message.routing_key
                                   : state_->options().default_queue;
    absl::Status status;
    if (message.body.size() > kMaxMessageBytes) {
      status = MakeError(absl::StatusCode::kResourceExhausted,
                         reason::kPayloadTooLarge,
                         absl::StrCat("the message of task ", message.task_id,
                                      " has ", message.body.size(),
                                      " bytes; the limit is ",
                                      kMaxMessageBytes));
    } else if (!state_->Store(queue, {.body = std::move(message.body),
                                      .priority = message.priority})) {
      status = MakeError(
          absl::StatusCode::kFailedPrecondition, reason::kQueueNotFound,
          absl::StrCat("no queue takes the routing key \"", queue, "\""));
    }
    Complete(std::move(done), std::move(status));
  }

  void PublishDead(std::string queue, std::string body, std::string /*reason*/,
                   Done done) override {
    const std::string dead = absl::StrCat("penstock.dead.", queue);
    state_->Declare(dead);
    state_->Store(dead, {.body = std::move(body)});
    Complete(std::move(done), absl::OkStatus());
  }

  bool KeepsDelayed() const override { return false; }
  void PublishAt(Message, absl::Time, Done done) override {
    Complete(std::move(done),
             absl::UnimplementedError("delays are the backend's"));
  }

  absl::StatusOr<std::unique_ptr<Consumer>> Consume(
      ConsumeOptions options,
      absl::AnyInvocable<void(Delivery)> on_delivery) override {
    if (options.prefetch <= 0) {
      return absl::InvalidArgumentError("prefetch must be at least 1");
    }
    if (options.queues.empty()) options.queues = {DefaultQueue()};
    return std::make_unique<MemoryConsumer>(
        state_, state_->Subscribe(std::move(options), std::move(on_delivery)));
  }

  std::string DefaultRoutingKey() const override { return DefaultQueue(); }
  std::string DefaultQueue() const override {
    return state_->options().default_queue;
  }
  absl::Status Health() override { return absl::OkStatus(); }

 private:
  void Complete(Done done, absl::Status status) {
    state_->options().environment->RunAfter(
        absl::ZeroDuration(),
        [done = std::move(done), status = std::move(status)]() mutable {
          std::move(done)(std::move(status));
        });
  }

  const std::shared_ptr<State> state_;
};

}  // namespace

std::unique_ptr<Broker> MakeMemoryBroker(MemoryBrokerOptions options) {
  return std::make_unique<MemoryBroker>(std::move(options));
}

}  // namespace penstock
