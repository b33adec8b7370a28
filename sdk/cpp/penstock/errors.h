// How a handler's error asks for more than "failed". Any other absl::Status
// fails the task with its message, and is tried again while the task has
// retries left. Pure functions, thread-safe.

#ifndef PENSTOCK_ERRORS_H_
#define PENSTOCK_ERRORS_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace penstock {

// UNAVAILABLE with the text `why`: the task is tried again after `delay`,
// whatever its retry count says. There is no limit to how often.
absl::Status RetryAfter(absl::Duration delay, std::string_view why);

// `error`, which must not be OK, but never tried again.
absl::Status Permanent(absl::Status error);

}  // namespace penstock

#endif  // PENSTOCK_ERRORS_H_
