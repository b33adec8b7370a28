// The queue between threads, and the threading primitive of Penstock: any thread
// puts, one thread takes everything at once. Batches come from queueing
// in front of the owner: while it works on one, the next gathers.

#ifndef PENSTOCK_QUEUE_MAILBOX_H_
#define PENSTOCK_QUEUE_MAILBOX_H_

#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace penstock {

template <typename T>
class Mailbox {
 public:
  // `wake` is called, on the putting thread and without a lock, each time the
  // mailbox turns from empty to non-empty: an owner that sleeps in poll() gives
  // one that writes its eventfd. An owner that uses WaitAndTake needs none.
  explicit Mailbox(absl::AnyInvocable<void()> wake = nullptr)
      : wake_(std::move(wake)) {}

  // False, and `item` is dropped by the caller's move, when closed.
  [[nodiscard]] bool Put(T item) {
    bool was_empty;
    {
      absl::MutexLock lock(&mu_);
      if (closed_) return false;
      was_empty = items_.empty();
      items_.push_back(std::move(item));
    }
    if (was_empty && wake_) wake_();
    return true;
  }

  // Everything that was put since the last call; empty when there is nothing.
  std::vector<T> Take() {
    std::vector<T> taken;
    absl::MutexLock lock(&mu_);
    taken.swap(items_);
    return taken;
  }

  // Waits until there is something, the mailbox is closed, or `deadline`.
  std::vector<T> WaitAndTake(absl::Time deadline = absl::InfiniteFuture()) {
    std::vector<T> taken;
    absl::MutexLock lock(&mu_);
    mu_.AwaitWithDeadline(absl::Condition(this, &Mailbox::Ready), deadline);
    taken.swap(items_);
    return taken;
  }

  // No more puts; what is inside can still be taken.
  void Close() {
    {
      absl::MutexLock lock(&mu_);
      closed_ = true;
    }
    if (wake_) wake_();
  }

  bool closed() const {
    absl::MutexLock lock(&mu_);
    return closed_;
  }

 private:
  bool Ready() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return closed_ || !items_.empty();
  }

  absl::AnyInvocable<void()> wake_;  // constant after construction
  mutable absl::Mutex mu_;
  std::vector<T> items_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_MAILBOX_H_
