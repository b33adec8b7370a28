// Tells ThreadSanitizer about absl's locks. Debian's absl is not instrumented:
// without this file everything that an absl::Mutex guards is reported as a
// race. The linker's --wrap (cmake/ThreadSanitizer.cmake) leads the calls of
// our code here; each says "acquire" after a lock and "release" before an
// unlock. Built and linked in the preset tsan only, and itself not instrumented:
// absl reads a waiter's Condition before that can say "acquire".

#include <sanitizer/tsan_interface.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace {

using absl::BlockingCounter;
using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Notification;
using absl::Time;

void Acquire(const void* sync) { __tsan_acquire(const_cast<void*>(sync)); }
void Release(const void* sync) { __tsan_release(const_cast<void*>(sync)); }

// A condition is evaluated with the lock held, but by whichever thread absl
// finds convenient and without passing through Lock.
struct Watched {
  Mutex* mu;
  const Condition* condition;

  static bool Eval(Watched* watched) {
    Acquire(watched->mu);
    const bool holds = watched->condition->Eval();
    Release(watched->mu);
    return holds;
  }
};

// The first member (absl/synchronization/notification.h).
Mutex* MutexOf(const Notification* event) {
  return reinterpret_cast<Mutex*>(const_cast<Notification*>(event));
}
bool IsNotified(const Notification* event) { return event->HasBeenNotified(); }

// absl's own deadlock detector is not instrumented either, and would be
// reported.
[[maybe_unused]] const bool detector_is_off = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

}  // namespace

#define REAL(name) __real_##name
#define WRAP(name) __wrap_##name

#define PENSTOCK_LOCK(name)     \
  void REAL(name)(Mutex * mu);  \
  void WRAP(name)(Mutex * mu) { \
    REAL(name)(mu);             \
    Acquire(mu);                \
  }
#define PENSTOCK_TRY_LOCK(name)       \
  bool REAL(name)(Mutex * mu);        \
  bool WRAP(name)(Mutex * mu) {       \
    const bool held = REAL(name)(mu); \
    if (held) Acquire(mu);            \
    return held;                      \
  }
#define PENSTOCK_UNLOCK(name)   \
  void REAL(name)(Mutex * mu);  \
  void WRAP(name)(Mutex * mu) { \
    Release(mu);                \
    REAL(name)(mu);             \
  }
// Await gives the lock away; LockWhen has none, but its condition may be
// evaluated by another thread, which must see what this one wrote.
#define PENSTOCK_WAIT(name)                                 \
  void REAL(name)(Mutex * mu, const Condition& condition);  \
  void WRAP(name)(Mutex * mu, const Condition& condition) { \
    Watched watched{mu, &condition};                        \
    Release(mu);                                            \
    REAL(name)(mu, Condition(&Watched::Eval, &watched));    \
    Acquire(mu);                                            \
  }
#define PENSTOCK_BOUNDED_WAIT(name, Limit)                               \
  bool REAL(name)(Mutex * mu, const Condition& condition, Limit limit);  \
  bool WRAP(name)(Mutex * mu, const Condition& condition, Limit limit) { \
    Watched watched{mu, &condition};                                     \
    Release(mu);                                                         \
    const bool holds =                                                   \
        REAL(name)(mu, Condition(&Watched::Eval, &watched), limit);      \
    Acquire(mu);                                                         \
    return holds;                                                        \
  }

extern "C" {

PENSTOCK_LOCK(_ZN4absl7debian35Mutex4LockEv)
PENSTOCK_LOCK(_ZN4absl7debian35Mutex10ReaderLockEv)
PENSTOCK_TRY_LOCK(_ZN4absl7debian35Mutex7TryLockEv)
PENSTOCK_TRY_LOCK(_ZN4absl7debian35Mutex13ReaderTryLockEv)
PENSTOCK_UNLOCK(_ZN4absl7debian35Mutex6UnlockEv)
PENSTOCK_UNLOCK(_ZN4absl7debian35Mutex12ReaderUnlockEv)

PENSTOCK_WAIT(_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE)
PENSTOCK_WAIT(_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE)
PENSTOCK_WAIT(_ZN4absl7debian35Mutex14ReaderLockWhenERKNS0_9ConditionE)
PENSTOCK_BOUNDED_WAIT(
    _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE,
    Duration)
PENSTOCK_BOUNDED_WAIT(
    _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE, Time)
PENSTOCK_BOUNDED_WAIT(
    _ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE,
    Duration)
PENSTOCK_BOUNDED_WAIT(
    _ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE,
    Time)

void REAL(_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE)(CondVar* cv, Mutex* mu);
void WRAP(_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE)(CondVar* cv, Mutex* mu) {
  Release(mu);
  REAL(_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE)(cv, mu);
  Acquire(mu);
}

#define PENSTOCK_CONDVAR_WAIT(name, Limit)                 \
  bool REAL(name)(CondVar * cv, Mutex * mu, Limit limit);  \
  bool WRAP(name)(CondVar * cv, Mutex * mu, Limit limit) { \
    Release(mu);                                           \
    const bool late = REAL(name)(cv, mu, limit);           \
    Acquire(mu);                                           \
    return late;                                           \
  }
PENSTOCK_CONDVAR_WAIT(
    _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE,
    Duration)
PENSTOCK_CONDVAR_WAIT(
    _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE, Time)

void REAL(_ZN4absl7debian312Notification6NotifyEv)(Notification* event);
void WRAP(_ZN4absl7debian312Notification6NotifyEv)(Notification* event) {
  Release(event);
  REAL(_ZN4absl7debian312Notification6NotifyEv)(event);
}
// Waits as absl does, but with a condition that is not instrumented. Notify
// evaluates it once more before it unlocks; the waiter has gone on to the
// destructor by then, whose wait for that unlock the sanitizer does not see.
void WRAP(_ZNK4absl7debian312Notification19WaitForNotificationEv)(
    const Notification* event) {
  if (!event->HasBeenNotified()) {
    MutexOf(event)->LockWhen(Condition(&IsNotified, event));
    MutexOf(event)->Unlock();
  }
  Acquire(event);
}
#define PENSTOCK_NOTIFICATION_WAIT(name, LockWhen, Limit)                   \
  bool WRAP(name)(const Notification* event, Limit limit) {                 \
    bool notified = event->HasBeenNotified();                               \
    if (!notified) {                                                        \
      notified =                                                            \
          MutexOf(event)->LockWhen(Condition(&IsNotified, event), limit);   \
      MutexOf(event)->Unlock();                                             \
    }                                                                       \
    if (notified) Acquire(event);                                           \
    return notified;                                                        \
  }
PENSTOCK_NOTIFICATION_WAIT(
    _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
    LockWhenWithTimeout, Duration)
PENSTOCK_NOTIFICATION_WAIT(
    _ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE,
    LockWhenWithDeadline, Time)

bool REAL(_ZN4absl7debian315BlockingCounter14DecrementCountEv)(
    BlockingCounter* counter);
bool WRAP(_ZN4absl7debian315BlockingCounter14DecrementCountEv)(
    BlockingCounter* counter) {
  Release(counter);
  return REAL(_ZN4absl7debian315BlockingCounter14DecrementCountEv)(counter);
}
void REAL(_ZN4absl7debian315BlockingCounter4WaitEv)(BlockingCounter* counter);
void WRAP(_ZN4absl7debian315BlockingCounter4WaitEv)(BlockingCounter* counter) {
  REAL(_ZN4absl7debian315BlockingCounter4WaitEv)(counter);
  Acquire(counter);
}

// The last owner of a shared Status frees what the others read.
void REAL(_ZN4absl7debian36Status15UnrefNonInlinedEm)(uintptr_t rep);
void WRAP(_ZN4absl7debian36Status15UnrefNonInlinedEm)(uintptr_t rep) {
  // An address of the shared object, and so the same for all its owners.
  const void* sync = reinterpret_cast<const void*>(rep & ~uintptr_t{3});
  Release(sync);
  Acquire(sync);
  REAL(_ZN4absl7debian36Status15UnrefNonInlinedEm)(rep);
}

}  // extern "C"
