// What follows an outcome, in one pure place: the continuation rules of
// machinery (docs/wire-format.md), for every actor that ends a task. Lifecycle
// carries the steps out; each may be carried out twice without harm.

#ifndef PENSTOCK_QUEUE_NEXT_STEPS_H_
#define PENSTOCK_QUEUE_NEXT_STEPS_H_

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "queue/task.h"

namespace penstock {

// Send a follow-up task: the next link of a chain, an error task.
struct Send {
  Task task;
  bool operator==(const Send&) const = default;
};
// A promised task that can never run now ends in FAILURE.
struct Abandon {
  std::string task_id;
  std::string task_name;
  std::string cause;
  std::string error_type{kErrorAbandoned};
  std::optional<absl::Duration> result_ttl;  // its own, where it is known
  bool operator==(const Abandon&) const = default;
};
// This was a member of a group with a callback.
struct JoinGroup {
  std::string group_id;
  std::string callback;  // JSON text of a signature
  bool operator==(const JoinGroup&) const = default;
};
using Step = std::variant<Send, Abandon, JoinGroup>;

// The steps after `task` ended as `final_state` (SUCCESS or FAILURE). A nested
// signature that cannot be decoded makes no step: it is counted in `undecodable`.
std::vector<Step> NextSteps(const Task& task, const TaskState& final_state,
                            int* undecodable = nullptr);

// The steps that end a chord whose members are all final, `members` in group
// order: Send the callback with all results, or abandon all that the callback
// promised and then the callback itself, naming the failed member, and Send
// `on_failure` (empty: none) with that text before its own arguments.
// INVALID_ARGUMENT when callback or on_failure cannot be decoded.
absl::StatusOr<std::vector<Step>> ChordSteps(
    const std::string& callback, const std::string& on_failure,
    const std::vector<TaskState>& members);

// The ids (and names) that are promised after `task`: its on_success tasks, and
// theirs, depth first. Not its error tasks.
struct Promised {
  std::string task_id;
  std::string task_name;
  std::optional<absl::Duration> result_ttl;
};
std::vector<Promised> PromisedAfter(const Task& task);

// "link add (task_x) failed: ...": what is said of a task that was abandoned.
std::string FailureCause(absl::string_view what, const std::string& name,
                         const std::string& id, const std::string& error);

// Whether and how a failed attempt is tried again: by machinery's rules, or the
// task's own backoff (queue/policy.h), which takes `random` in [0, 1). nullopt:
// no more, FAILURE. `retry_after`: the handler asked for it, which uses up no
// retry.
struct RetryPlan {
  absl::Time due;
  int attempt = 0;  // the next one
  int64_t retry_count = 0;
  int64_t retry_timeout_s = 0;
};
std::optional<RetryPlan> PlanRetry(const Task& task,
                                   std::optional<absl::Duration> retry_after,
                                   bool permanent, absl::Time now,
                                   double random);

// `task` as its next attempt carries it.
Task NextAttempt(Task task, const RetryPlan& plan);

// The smallest Fibonacci number greater than `seconds` (0 -> 1 -> 2 -> 3 -> 5).
int64_t NextFibonacci(int64_t seconds);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_NEXT_STEPS_H_
