#include "queue/next_steps.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "queue/json.h"
#include "queue/policy.h"
#include "queue/wire/task_json.h"
#include "queue/workflow.h"

namespace penstock {
namespace {

// The tasks nested in `list`, each with an id. What cannot be decoded is left
// out and counted.
std::vector<Task> DecodeChildren(const Task& parent, const std::string& list,
                                 const std::vector<std::string>& texts,
                                 int* undecodable) {
  std::vector<Task> children;
  const std::optional<std::string> retry_of =
      StringHeader(parent, kRetryOfHeader);
  for (size_t i = 0; i < texts.size(); ++i) {
    absl::StatusOr<Task> child = DecodeTask(texts[i]);
    if (!child.ok()) {
      if (undecodable != nullptr) ++*undecodable;
      continue;
    }
    if (retry_of.has_value()) {
      // The end of those that followed the task which this is a copy of was told.
      const std::string old_id =
          child->id.empty() ? ChildId(*retry_of, list, i) : child->id;
      DetachCopy(*child, old_id, ChildId(parent.id, list, i));
    }
    if (child->id.empty()) child->id = ChildId(parent.id, list, i);
    // What is sent by itself always has headers, as Go's SendTask makes them.
    child->headers_null = false;
    children.push_back(*std::move(child));
  }
  return children;
}

void AppendResults(const std::vector<Value>& results, Task& task) {
  for (const Value& result : results) {
    task.args.push_back({.type = result.type, .json = result.json});
  }
  task.args_null = false;
}

// As machinery gives an error task what went wrong.
void PrependText(const std::string& text, Task& task) {
  task.args.insert(task.args.begin(),
                   {.type = "string", .json = JsonString(text)});
  task.args_null = false;
}

std::vector<Step> AfterSuccess(const Task& task, const TaskState& state,
                               int* undecodable) {
  std::vector<Step> steps;
  for (Task& child :
       DecodeChildren(task, "on_success", task.on_success, undecodable)) {
    if (!task.immutable) AppendResults(state.results, child);
    steps.push_back(Send{std::move(child)});
  }
  return steps;
}

std::vector<Step> AfterFailure(const Task& task, const TaskState& state,
                               int* undecodable) {
  std::vector<Step> steps;
  // An abandoned task never ran: its error tasks are not sent.
  if (state.error_type != kErrorAbandoned) {
    for (Task& child :
         DecodeChildren(task, "on_error", task.on_error, undecodable)) {
      PrependText(state.error, child);
      steps.push_back(Send{std::move(child)});
    }
  }
  for (Promised& promised : PromisedAfter(task)) {
    steps.push_back(Abandon{
        .task_id = std::move(promised.task_id),
        .task_name = std::move(promised.task_name),
        .cause = FailureCause("link", task.name, task.id, state.error),
        .result_ttl = promised.result_ttl});
  }
  return steps;
}

}  // namespace

std::string FailureCause(absl::string_view what, const std::string& name,
                         const std::string& id, const std::string& error) {
  return absl::StrCat(what, " ", name, name.empty() ? "" : " ", "(", id,
                      ") failed: ", error);
}

std::vector<Promised> PromisedAfter(const Task& task) {
  std::vector<Promised> promised;
  // A stack of tasks and not of calls: each link of a chain holds the text of
  // all that follow it, and only one of them is in memory at a time.
  std::vector<Task> open;
  auto push_children = [&open](const Task& parent) {
    std::vector<Task> children =
        DecodeChildren(parent, "on_success", parent.on_success, nullptr);
    std::move(children.rbegin(), children.rend(), std::back_inserter(open));
  };
  push_children(task);
  while (!open.empty()) {
    const Task next = std::move(open.back());
    open.pop_back();
    promised.push_back({.task_id = next.id,
                        .task_name = next.name,
                        .result_ttl = ResultTtlOf(next)});
    push_children(next);
  }
  return promised;
}

std::vector<Step> NextSteps(const Task& task, const TaskState& final_state,
                            int* undecodable) {
  std::vector<Step> steps = final_state.status == Status::kSuccess
                                ? AfterSuccess(task, final_state, undecodable)
                                : AfterFailure(task, final_state, undecodable);
  if (!task.group_id.empty() && !task.chord_callback.empty()) {
    steps.push_back(
        JoinGroup{.group_id = task.group_id, .callback = task.chord_callback});
  }
  return steps;
}

absl::StatusOr<std::vector<Step>> ChordSteps(
    const std::string& callback, const std::string& on_failure,
    const std::vector<TaskState>& members) {
  absl::StatusOr<Task> decoded = DecodeTask(callback);
  if (!decoded.ok()) return decoded.status();
  Task task = *std::move(decoded);
  task.headers_null = false;
  if (task.id.empty() && !members.empty()) {
    task.id = ChildId(members.front().task_id, "chord_callback", 0);
  }

  std::vector<Step> steps;
  for (const TaskState& member : members) {
    if (member.status == Status::kSuccess) continue;
    const std::string cause = FailureCause("group member", member.task_name,
                                           member.task_id, member.error);
    std::vector<Promised> promised = PromisedAfter(task);
    for (auto it = promised.rbegin(); it != promised.rend(); ++it) {
      steps.push_back(Abandon{.task_id = it->task_id,
                              .task_name = it->task_name,
                              .cause = cause,
                              .result_ttl = it->result_ttl});
    }
    steps.push_back(Abandon{.task_id = task.id,
                            .task_name = task.name,
                            .cause = cause,
                            .result_ttl = ResultTtlOf(task)});
    if (on_failure.empty()) return steps;
    absl::StatusOr<Task> follower = DecodeTask(on_failure);
    if (!follower.ok()) return follower.status();
    PrependText(cause, *follower);
    steps.push_back(Send{*std::move(follower)});
    return steps;
  }

  if (!task.immutable) {
    for (const TaskState& member : members) AppendResults(member.results, task);
  }
  steps.push_back(Send{std::move(task)});
  return steps;
}

int64_t NextFibonacci(int64_t seconds) {
  int64_t current = 1;
  int64_t next = 2;
  while (current <= seconds &&
         next <= std::numeric_limits<int64_t>::max() - current) {
    const int64_t sum = current + next;
    current = next;
    next = sum;
  }
  return current;
}

std::optional<RetryPlan> PlanRetry(const Task& task,
                                   std::optional<absl::Duration> retry_after,
                                   bool permanent, absl::Time now,
                                   double random) {
  if (permanent) return std::nullopt;
  RetryPlan plan{.attempt = AttemptOf(task) + 1,
                 .retry_count = task.retry_count,
                 .retry_timeout_s = task.retry_timeout_s};
  if (retry_after.has_value()) {
    plan.due = now + *retry_after;
    return plan;
  }
  if (task.retry_count <= 0) return std::nullopt;
  plan.retry_count = task.retry_count - 1;
  if (std::optional<ExponentialBackoff> backoff = BackoffOf(task)) {
    const absl::Duration pause =
        PauseAfter(*backoff, AttemptOf(task), random);
    plan.due = now + pause;
    plan.retry_timeout_s =
        absl::ToInt64Seconds(absl::Ceil(pause, absl::Seconds(1)));
    return plan;
  }
  plan.retry_timeout_s = NextFibonacci(task.retry_timeout_s);
  plan.due = now + absl::Seconds(plan.retry_timeout_s);
  return plan;
}

Task NextAttempt(Task task, const RetryPlan& plan) {
  task.eta = ZonedTime{.time = plan.due};
  task.retry_count = plan.retry_count;
  task.retry_timeout_s = plan.retry_timeout_s;
  SetStringHeader(task, kAttemptHeader, absl::StrCat(plan.attempt));
  // It has met a worker that knows it.
  task.headers.erase(std::string(kUnknownSinceHeader));
  task.headers.erase(std::string(kPassesHeader));
  return task;
}

}  // namespace penstock
