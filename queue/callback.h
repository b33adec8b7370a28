// The shapes of completion. A callback runs exactly once, on failure and on
// shutdown too, on a thread of the one that was called; it must not block, is
// never run inside the call that took it, and never with a lock held.

#ifndef PENSTOCK_QUEUE_CALLBACK_H_
#define PENSTOCK_QUEUE_CALLBACK_H_

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace penstock {

using Done = absl::AnyInvocable<void(absl::Status) &&>;

template <typename T>
using Callback = absl::AnyInvocable<void(absl::StatusOr<T>) &&>;

using Closure = absl::AnyInvocable<void() &&>;

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_CALLBACK_H_
