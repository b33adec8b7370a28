// The queue between one who puts work and many threads that run it, the runners.
// A burst of short work is done by the one or two that are awake, not by as many
// as there is work: to wake a thread costs more than a short handler.

#ifndef PENSTOCK_SDK_CPP_READY_QUEUE_H_
#define PENSTOCK_SDK_CPP_READY_QUEUE_H_

#include <deque>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace penstock {

template <typename T>
class ReadyQueue {
 public:
  // False, and `item` is dropped by the caller's move, when closed.
  [[nodiscard]] bool Put(T item) {
    absl::MutexLock lock(&mu_);
    if (closed_) return false;
    items_.push_back(std::move(item));
    WakeOneLocked();
    return true;
  }

  // Waits for an item; false when the queue is closed and empty.
  bool WaitAndTake(T& item) {
    absl::MutexLock lock(&mu_);
    while (items_.empty() && !closed_) SleepLocked();
    return TakeLocked(item);
  }

  // The same without waiting: false when there is nothing.
  bool Take(T& item) {
    absl::MutexLock lock(&mu_);
    return TakeLocked(item);
  }

  // No more puts; what is inside can still be taken.
  void Close() {
    absl::MutexLock lock(&mu_);
    closed_ = true;
    for (Sleeper* sleeper : sleepers_) WakeLocked(sleeper);
    sleepers_.clear();
  }

 private:
  struct Sleeper {
    absl::CondVar signal;
    bool woken = false;
  };

  bool TakeLocked(T& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (items_.empty()) return false;
    item = std::move(items_.front());
    items_.pop_front();
    WakeOneLocked();
    return true;
  }

  // Each that wakes wakes the next one before it goes to work, if work is left:
  // so one at a time is on its way, and nobody waits while there is work.
  void WakeOneLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (items_.empty() || waking_ || sleepers_.empty()) return;
    waking_ = true;
    // The one that slept last: its memory is warm.
    WakeLocked(sleepers_.back());
    sleepers_.pop_back();
  }

  void WakeLocked(Sleeper* sleeper) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    sleeper->woken = true;
    sleeper->signal.Signal();
  }

  void SleepLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Sleeper self;
    sleepers_.push_back(&self);
    while (!self.woken) self.signal.Wait(&mu_);
    waking_ = false;
  }

  absl::Mutex mu_;
  std::deque<T> items_ ABSL_GUARDED_BY(mu_);
  std::vector<Sleeper*> sleepers_ ABSL_GUARDED_BY(mu_);
  bool waking_ ABSL_GUARDED_BY(mu_) = false;  // one has been signalled
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace penstock

#endif  // PENSTOCK_SDK_CPP_READY_QUEUE_H_
