// A broker whose publishes fail on command, around a real one: the third
// implementation of the seam.

#ifndef PENSTOCK_TESTS_SUPPORT_FAILING_BROKER_H_
#define PENSTOCK_TESTS_SUPPORT_FAILING_BROKER_H_

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "queue/broker.h"
#include "queue/environment.h"

namespace penstock {

// Thread-safe.
class FailingBroker : public Broker {
 public:
  // Neither is owned; both must outlive it.
  FailingBroker(Broker* real, Environment* environment)
      : real_(real), environment_(environment) {}

  // The next publish that no earlier call has spoken for ends with `status`, and
  // the message does not arrive.
  void FailNextPublish(absl::Status status) {
    absl::MutexLock lock(&mu_);
    failures_.push_back(std::move(status));
  }

  void Publish(Message message, Done done) override {
    absl::Status failure;
    {
      absl::MutexLock lock(&mu_);
      if (!failures_.empty()) {
        failure = std::move(failures_.front());
        failures_.pop_front();
      }
    }
    if (failure.ok()) {
      real_->Publish(std::move(message), std::move(done));
      return;
    }
    environment_->RunAfter(absl::ZeroDuration(),
                           [done = std::move(done), failure]() mutable {
                             std::move(done)(failure);
                           });
  }
  void PublishDead(std::string queue, std::string body, std::string reason,
                   Done done) override {
    real_->PublishDead(std::move(queue), std::move(body), std::move(reason),
                       std::move(done));
  }
  bool KeepsDelayed() const override { return real_->KeepsDelayed(); }
  void PublishAt(Message message, absl::Time due, Done done) override {
    real_->PublishAt(std::move(message), due, std::move(done));
  }
  absl::StatusOr<std::unique_ptr<Consumer>> Consume(
      ConsumeOptions options,
      absl::AnyInvocable<void(Delivery)> on_delivery) override {
    return real_->Consume(std::move(options), std::move(on_delivery));
  }
  std::string DefaultRoutingKey() const override {
    return real_->DefaultRoutingKey();
  }
  std::string DefaultQueue() const override { return real_->DefaultQueue(); }
  absl::Status Health() override { return real_->Health(); }

 private:
  Broker* const real_;
  Environment* const environment_;

  absl::Mutex mu_;
  std::deque<absl::Status> failures_ ABSL_GUARDED_BY(mu_);
};

}  // namespace penstock

#endif  // PENSTOCK_TESTS_SUPPORT_FAILING_BROKER_H_
