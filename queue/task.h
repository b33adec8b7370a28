// The vocabulary of Penstock: what gateway, worker and storage talk about. Plain
// values without I/O. A Task is neither the protobuf message nor the JSON; the
// three meet only in gateway/convert.cc and queue/wire/.
//
// Source of names and meanings: docs/wire-format.md.

#ifndef PENSTOCK_QUEUE_TASK_H_
#define PENSTOCK_QUEUE_TASK_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "queue/value.h"

namespace penstock {

// Go's zero time.Time, "0001-01-01T00:00:00Z": a time that was never set.
inline absl::Time GoZeroTime() {
  static const absl::Time zero = absl::FromCivil(
      absl::CivilSecond(1, 1, 1, 0, 0, 0), absl::UTCTimeZone());
  return zero;
}

// A point in time with the offset from UTC that its text carried.
struct ZonedTime {
  absl::Time time = GoZeroTime();
  int utc_offset_s = 0;

  bool operator==(const ZonedTime&) const = default;
};

// What to run, once it is accepted: machinery's Signature.
//
// Tasks nested in a task (its callbacks) stay JSON text until they are sent:
// what we do not understand in them survives, and a long chain is decoded in
// linear time. Decode one with DecodeTask (queue/wire/task_json.h).
struct Task {
  std::string id;
  std::string name;         // the registered name of the handler
  std::string routing_key;  // empty: the broker's default
  std::optional<ZonedTime> eta;
  std::string group_id;
  int64_t group_task_count = 0;
  std::vector<Value> args;
  std::map<std::string, std::string> headers;  // value: JSON text, as on the wire
  uint8_t priority = 0;
  bool immutable = false;  // its results are not passed on
  int64_t retry_count = 0;
  int64_t retry_timeout_s = 0;  // the last delay; the next is the next Fibonacci
  std::vector<std::string> on_success;  // JSON text of signatures
  std::vector<std::string> on_error;    // JSON text of signatures
  std::string chord_callback;           // JSON text of a signature; empty: none
  std::string broker_message_group_id;  // SQS; passed on
  std::string sqs_receipt_handle;       // SQS; passed on
  bool stop_task_deletion_on_error = false;
  bool ignore_when_not_registered = false;

  // Go spells an empty list as null or as [] (headers: null or {}). Which one it
  // was is kept, so that a task is encoded again to the same bytes.
  bool args_null = true;
  bool headers_null = false;
  bool on_success_null = true;
  bool on_error_null = true;

  bool operator==(const Task&) const = default;
};

// Header values are JSON text; ours are always strings.
std::optional<std::string> StringHeader(const Task& task, std::string_view key);
// One that is no whole number counts as not given: someone garbled it.
std::optional<int64_t> NumberHeader(const Task& task, std::string_view key);
void SetStringHeader(Task& task, std::string_view key, std::string_view value);

// The number of this attempt, from 1: the header penstock-attempt.
inline constexpr std::string_view kAttemptHeader = "penstock-attempt";
int AttemptOf(const Task& task);

// When a task first met a worker that does not know its name: Unix milliseconds.
inline constexpr std::string_view kUnknownSinceHeader =
    "penstock-unknown-since";

// Which dead task this one is a copy of: its id.
inline constexpr std::string_view kRetryOfHeader = "penstock-retry-of";

// How often such workers have passed it on.
inline constexpr std::string_view kPassesHeader = "penstock-passes";

enum class Status {
  kUnknown,  // a text that we do not know; TaskState::raw_status has it
  kPending,
  kReceived,
  kStarted,
  kRetry,
  kSuccess,
  kFailure,
};
std::string_view StatusName(Status status);  // "PENDING", ...; kUnknown: ""
Status ParseStatus(std::string_view name);

inline bool IsFinal(Status status) {
  return status == Status::kSuccess || status == Status::kFailure;
}

// Kinds of failure (TaskState::error_type). Free text otherwise: a handler's
// status code ("INVALID_ARGUMENT") or "exception".
inline constexpr std::string_view kErrorAbandoned = "abandoned";
inline constexpr std::string_view kErrorCancelled = "cancelled";
inline constexpr std::string_view kErrorExpired = "expired";
inline constexpr std::string_view kErrorTimeout = "timeout";
inline constexpr std::string_view kErrorArguments = "arguments";
inline constexpr std::string_view kErrorNotRegistered = "not_registered";
inline constexpr std::string_view kErrorWornOut = "begun_too_often";
inline constexpr std::string_view kErrorResultTooLarge = "result_too_large";
inline constexpr std::string_view kErrorUnroutable = "unroutable";

// How far the handler of a running task says that it has come.
struct TaskProgress {
  double fraction = 0;  // 0 to 1
  std::string text;     // a line for people
  absl::Time time;

  bool operator==(const TaskProgress&) const = default;
};

// How a task stands: machinery's TaskState, and behind it what machinery has no
// place for (the member "Penstock" of its JSON; unset when a Go worker wrote it).
struct TaskState {
  std::string task_id;
  std::string task_name;
  Status status = Status::kPending;
  std::string raw_status;       // only with Status::kUnknown
  std::vector<Value> results;   // only with kSuccess
  bool results_null = true;     // null or []: SUCCESS without results has []
  std::string error;            // only with kFailure (ours: also with kRetry)
  absl::Time create_time = GoZeroTime();
  int64_t ttl = 0;              // DynamoDB's; passed on

  int attempt = 0;              // from 1; 0: not known
  std::string run;              // who wrote this record: one id per begun attempt
  int begins = 0;               // how often this attempt was begun
  std::string worker;
  std::string group_id;
  std::string error_type;
  std::optional<absl::Time> expiry;  // only with kPending: must have begun by then
  std::optional<absl::Time> start_time;
  std::optional<absl::Time> finish_time;
  // With kRetry: the attempt that comes next, when, and the counters it carries.
  int next_attempt = 0;
  std::optional<absl::Time> next_attempt_time;
  int64_t next_retry_count = 0;
  int64_t next_retry_timeout_s = 0;
  std::optional<TaskProgress> progress;  // only with kStarted

  bool operator==(const TaskState&) const = default;
};

// machinery's record of a group.
struct GroupMeta {
  std::string group_id;
  std::vector<std::string> task_ids;
  bool task_ids_null = false;
  bool chord_triggered = false;
  bool lock = false;
  absl::Time create_time = GoZeroTime();
  int64_t ttl = 0;

  bool operator==(const GroupMeta&) const = default;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_TASK_H_
