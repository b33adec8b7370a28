#include "queue/dispatch.h"

#include <algorithm>
#include <utility>

#include "queue/policy.h"
#include "queue/wire/task_json.h"

namespace penstock {

TaskState PendingStateOf(const Task& task, absl::Time now) {
  return {.task_id = task.id,
          .task_name = task.name,
          .status = Status::kPending,
          .create_time = now,
          .group_id = task.group_id,
          .expiry = ExpiryOf(task)};
}

absl::Duration PendingTtl(const Scope& scope, const Task& task) {
  absl::Duration until_due = absl::ZeroDuration();
  if (task.eta.has_value()) {
    until_due = std::max(until_due, task.eta->time - scope.environment->Now());
  }
  return until_due + scope.options.pending_expire_in;
}

absl::Duration FinalTtl(const Scope& scope, const Task& task) {
  return ResultTtlOf(task).value_or(scope.options.results_expire_in);
}

DelayedTask DelayedOf(const Task& task, absl::Time due) {
  return {.task_id = task.id,
          .attempt = AttemptOf(task),
          .due = due,
          .body = EncodeTask(task),
          .routing_key = task.routing_key,
          .priority = task.priority};
}

Message MessageOf(DelayedTask task) {
  Message message{.task_id = std::move(task.task_id),
                  .routing_key = std::move(task.routing_key),
                  .queue = std::move(task.queue),
                  .body = std::move(task.body),
                  .priority = task.priority};
  absl::StatusOr<Task> decoded = DecodeTask(message.body);
  if (decoded.ok()) message.headers = std::move(decoded->headers);
  return message;
}

void Delay(Scope& scope, DelayedTask task, Done done) {
  if (!scope.broker->KeepsDelayed()) {
    scope.backend->Lay(std::move(task), std::move(done));
    return;
  }
  const absl::Time due = task.due;
  scope.broker->PublishAt(MessageOf(std::move(task)), due, std::move(done));
}

void Dispatch(Scope& scope, const Task& task, absl::Time deadline, Done done) {
  if (task.eta.has_value() && task.eta->time > scope.environment->Now()) {
    Delay(scope, DelayedOf(task, task.eta->time), std::move(done));
    return;
  }
  scope.broker->Publish({.task_id = task.id,
                         .routing_key = task.routing_key,
                         .body = EncodeTask(task),
                         .priority = task.priority,
                         .headers = task.headers,
                         .deadline = deadline},
                        std::move(done));
}

}  // namespace penstock
