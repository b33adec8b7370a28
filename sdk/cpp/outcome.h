// What a handler's result means to Lifecycle. Pure; thread-safe.

#ifndef PENSTOCK_SDK_CPP_OUTCOME_H_
#define PENSTOCK_SDK_CPP_OUTCOME_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "penstock/handler.h"
#include "queue/lifecycle.h"

namespace penstock {

// A failure's error is the status' message, as Go clients compare it; its
// error_type is the name of the code, unless the status says otherwise.
Outcome ToOutcome(absl::StatusOr<Results> results);

// The status of a handler that threw `text`: error_type "exception".
absl::Status ExceptionError(std::string_view text);

// The status of an attempt that ran into its timeout: error_type "timeout".
absl::Status TimedOutError(absl::Duration timeout);

}  // namespace penstock

#endif  // PENSTOCK_SDK_CPP_OUTCOME_H_
