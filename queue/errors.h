// Errors with a reason that a program can match: absl::Status with the reason
// and its details as payloads. gateway/convert.cc turns them into google.rpc
// details; proto/penstock/v1/gateway.proto says which RPC gives which.

#ifndef PENSTOCK_QUEUE_ERRORS_H_
#define PENSTOCK_QUEUE_ERRORS_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace penstock {

namespace reason {
inline constexpr std::string_view kInvalidField = "INVALID_FIELD";
inline constexpr std::string_view kTaskNotFound = "TASK_NOT_FOUND";
inline constexpr std::string_view kGroupNotFound = "GROUP_NOT_FOUND";
inline constexpr std::string_view kTaskIdExists = "TASK_ID_EXISTS";
inline constexpr std::string_view kGroupIdExists = "GROUP_ID_EXISTS";
inline constexpr std::string_view kUniqueKeyHeld = "UNIQUE_KEY_HELD";
inline constexpr std::string_view kRequestIdReused = "REQUEST_ID_REUSED";
inline constexpr std::string_view kRequestInProgress = "REQUEST_IN_PROGRESS";
inline constexpr std::string_view kScheduleExists = "SCHEDULE_EXISTS";
inline constexpr std::string_view kScheduleNotFound = "SCHEDULE_NOT_FOUND";
inline constexpr std::string_view kQueueNotFound = "QUEUE_NOT_FOUND";
inline constexpr std::string_view kBackendUnsupported = "BACKEND_UNSUPPORTED";
inline constexpr std::string_view kTooManyInFlight = "TOO_MANY_IN_FLIGHT";
inline constexpr std::string_view kPayloadTooLarge = "PAYLOAD_TOO_LARGE";
inline constexpr std::string_view kBrokerUnavailable = "BROKER_UNAVAILABLE";
inline constexpr std::string_view kBrokerNack = "BROKER_NACK";
inline constexpr std::string_view kBackendUnavailable = "BACKEND_UNAVAILABLE";
inline constexpr std::string_view kConfirmTimeout = "CONFIRM_TIMEOUT";
inline constexpr std::string_view kGroupPartiallySent = "GROUP_PARTIALLY_SENT";
inline constexpr std::string_view kDraining = "DRAINING";
inline constexpr std::string_view kInternal = "INTERNAL";
}  // namespace reason

// A status with its reason and, for some, metadata ("task_id", "sent", ...).
absl::Status MakeError(absl::StatusCode code, std::string_view reason,
                       std::string_view message,
                       const std::map<std::string, std::string>& metadata = {});

// The reason of `status`, or a default one of its code ("UNAVAILABLE" ->
// "INTERNAL" for anything that no one gave a reason).
std::string ReasonOf(const absl::Status& status);
std::map<std::string, std::string> MetadataOf(const absl::Status& status);

// The same error with "context: " before its message; payloads are kept.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_ERRORS_H_
