// What tests of a broker do: publish and wait for the answer, take deliveries
// as they come. Waits have a limit that only a failing test reaches.

#ifndef PENSTOCK_TESTS_SUPPORT_BROKER_VERBS_H_
#define PENSTOCK_TESTS_SUPPORT_BROKER_VERBS_H_

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "queue/broker.h"

namespace penstock::testing {

inline constexpr absl::Duration kPatience = absl::Seconds(30);

// An answer that will come: Done() is given away, Wait() has it.
class Answer {
 public:
  Done TakeDone() {
    return [state = state_](absl::Status status) {
      state->status = std::move(status);
      state->came.Notify();  // twice would crash: exactly once is asserted
    };
  }

  absl::Status Wait() {
    if (!state_->came.WaitForNotificationWithTimeout(kPatience)) {
      return absl::InternalError("the test waited in vain for an answer");
    }
    return state_->status;
  }

  bool HasCome() const { return state_->came.HasBeenNotified(); }

 private:
  struct State {
    absl::Status status;
    absl::Notification came;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

inline absl::Status PublishAndWait(Broker& broker, Message message) {
  Answer answer;
  broker.Publish(std::move(message), answer.TakeDone());
  return answer.Wait();
}

inline absl::Status StopAndWait(Consumer& consumer) {
  Answer answer;
  consumer.Stop(answer.TakeDone());
  return answer.Wait();
}

// Deliveries in their order. Must outlive the consumer that fills it.
class Inbox {
 public:
  absl::AnyInvocable<void(Delivery)> Sink() {
    return [this](Delivery delivery) {
      absl::MutexLock lock(&mu_);
      deliveries_.push_back(std::move(delivery));
    };
  }

  // The next one; fails the test when none comes.
  Delivery Next() {
    absl::MutexLock lock(&mu_);
    const auto filled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return !deliveries_.empty();
    };
    if (!mu_.AwaitWithTimeout(absl::Condition(&filled), kPatience)) {
      ADD_FAILURE() << "the test waited in vain for a delivery";
      return {};
    }
    Delivery delivery = std::move(deliveries_.front());
    deliveries_.pop_front();
    return delivery;
  }

  std::vector<Delivery> Next(size_t count) {
    std::vector<Delivery> taken;
    for (size_t i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
      taken.push_back(Next());
    }
    return taken;
  }

  size_t size() const {
    absl::MutexLock lock(&mu_);
    return deliveries_.size();
  }

 private:
  mutable absl::Mutex mu_;
  std::deque<Delivery> deliveries_ ABSL_GUARDED_BY(mu_);
};

// For what has no event to wait for: looks each 10 ms.
template <typename Predicate>
bool Eventually(Predicate holds) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (!holds()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return true;
}

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_BROKER_VERBS_H_
