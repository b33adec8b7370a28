// How an owner that sleeps in poll() is woken, and how the wakes of a burst
// become one.

#ifndef PENSTOCK_QUEUE_WAKER_H_
#define PENSTOCK_QUEUE_WAKER_H_

#include <memory>
#include <vector>

#include "absl/time/time.h"

namespace penstock {

class EventFd;

// Wakes an owner. Signal is thread-safe.
class Waker {
 public:
  Waker();
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;

  // At once; within a WakeLater of the calling thread, at its end.
  void Signal();

  // --- by the owner
  int fd() const;  // readable: signalled
  void Drain();    // takes the signals

  // Sleeps until a signal or for `duration`, and takes the signal.
  void Sleep(absl::Duration duration);

 private:
  const std::shared_ptr<const EventFd> fd_;
};

// While it lives, the signals that its thread gives are gathered; each owner gets
// one at the end. For a thread that works through a batch: an owner that is woken
// by the first item takes that alone, sleeps, and is woken again by the next,
// and a switch of threads costs more than the work on an item.
//
// Its thread must not wait, while it lives, for an owner. May be nested: the
// outermost one counts.
class WakeLater {
 public:
  WakeLater();
  ~WakeLater();
  WakeLater(const WakeLater&) = delete;
  WakeLater& operator=(const WakeLater&) = delete;

 private:
  friend class Waker;

  // A waker may be gone before its signal is given: its descriptor is not.
  std::vector<std::shared_ptr<const EventFd>> due_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_WAKER_H_
