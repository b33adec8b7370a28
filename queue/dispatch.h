// The way of one task out of this process: to the broker, or, when its time has
// not come, into the delayed set. One try; who calls it decides about another.

#ifndef PENSTOCK_QUEUE_DISPATCH_H_
#define PENSTOCK_QUEUE_DISPATCH_H_

#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/scope.h"
#include "queue/task.h"

namespace penstock {

// The PENDING that is recorded before `task` is sent, and how long it lives.
TaskState PendingStateOf(const Task& task, absl::Time now);
absl::Duration PendingTtl(const Scope& scope, const Task& task);

// How long the final state of `task` lives.
absl::Duration FinalTtl(const Scope& scope, const Task& task);

// `task` as a member of the delayed set.
DelayedTask DelayedOf(const Task& task, absl::Time due);

// The message that a delayed task becomes when its time has come. Its headers
// are read from its body: the delayed set has no other place for them.
Message MessageOf(DelayedTask task);

// Lets `task` wait until it is due: in the broker if that keeps such tasks,
// otherwise in the backend's delayed set. One try; errors of whichever it is.
void Delay(Scope& scope, DelayedTask task, Done done);

// Sends `task`, whose PENDING stands. OK when broker or backend has confirmed
// it; otherwise Broker::Publish's errors, or the backend's.
void Dispatch(Scope& scope, const Task& task, absl::Time deadline, Done done);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_DISPATCH_H_
