#include "queue/continuation.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "queue/dispatch.h"
#include "queue/errors.h"
#include "queue/telemetry/log.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

// What the backend refuses for good (a foreign key under a task's id, say)
// cannot be mended by trying again: it is logged, and the other steps go on.
absl::Status LogRefusal(absl::Status status, absl::string_view what,
                        const std::string& id) {
  if (status.ok() || absl::IsCancelled(status)) return status;
  Log(LogLevel::kError, what, {{"id", id}, {"why", status.ToString()}});
  return absl::OkStatus();
}

}  // namespace

struct Continuation::Walk {
  std::vector<Step> steps;
  Done done;
  size_t next = 0;
};

void Continuation::Follow(const Task& task, const TaskState& final_state,
                          Done done) {
  int undecodable = 0;
  std::vector<Step> steps = NextSteps(task, final_state, &undecodable);
  if (undecodable > 0) {
    Log(LogLevel::kError, "follow-up tasks cannot be decoded; dropped",
        {{"task", task.id}, {"count", absl::StrCat(undecodable)}});
  }
  CarryOut(std::move(steps), std::move(done));
}

void Continuation::CarryOut(std::vector<Step> steps, Done done) {
  if (steps.empty()) return std::move(done)(absl::OkStatus());
  TakeNextStep(std::make_shared<Walk>(
      Walk{.steps = std::move(steps), .done = std::move(done)}));
}

void Continuation::TakeNextStep(std::shared_ptr<Walk> walk) {
  if (walk->next == walk->steps.size()) {
    std::move(walk->done)(absl::OkStatus());
    return;
  }
  Step step = std::move(walk->steps[walk->next++]);
  Done next = [this, walk](absl::Status status) {
    if (status.ok()) {
      TakeNextStep(walk);
    } else {
      std::move(walk->done)(std::move(status));
    }
  };
  if (auto* send = std::get_if<Send>(&step)) {
    SendTask(std::move(send->task), std::move(next));
  } else if (auto* abandon = std::get_if<Abandon>(&step)) {
    AbandonTask(*abandon, std::move(next));
  } else {
    auto& join = std::get<JoinGroup>(step);
    groups_.Join(join.group_id, std::move(join.callback),
                 [id = join.group_id,
                  next = std::move(next)](absl::Status status) mutable {
                   std::move(next)(LogRefusal(std::move(status),
                                              "chord cannot be ended", id));
                 });
  }
}

void Continuation::SendTask(Task task, Done done) {
  if (task.routing_key.empty()) {
    task.routing_key = scope_->broker->DefaultRoutingKey();
  }
  if (scope_->options.before_publish) scope_->options.before_publish(task);
  SendUntilSent(std::make_shared<const Task>(std::move(task)),
                scope_->environment->Now(), 0, std::move(done));
}

// Each try begins with the state: by the next one another process may have sent
// the task, and it may have begun.
void Continuation::SendUntilSent(std::shared_ptr<const Task> task,
                                 absl::Time first_try, int failures,
                                 Done done) {
  TaskState pending = PendingStateOf(*task, scope_->environment->Now());
  const absl::Duration ttl = PendingTtl(*scope_, *task);
  scope_->Repeat<ContinueAnswer>(
      [this, pending = std::move(pending), ttl,
       final_ttl = FinalTtl(*scope_, *task)](Callback<ContinueAnswer> cb) {
        scope_->backend->Continue(pending, ttl, final_ttl, std::move(cb));
      },
      [this, task, first_try, failures,
       done = std::move(done)](absl::StatusOr<ContinueAnswer> answer) mutable {
        if (!answer.ok()) {
          std::move(done)(LogRefusal(
              answer.status(), "follow-up task cannot be recorded", task->id));
          return;
        }
        switch (answer->kind) {
          case ContinueAnswer::kPast:
            std::move(done)(absl::OkStatus());
            return;
          case ContinueAnswer::kFinal:
            Follow(*task, answer->recorded, std::move(done));
            return;
          case ContinueAnswer::kPublish:
            PublishOnce(task, first_try, failures, std::move(done));
            return;
        }
      });
}

void Continuation::PublishOnce(std::shared_ptr<const Task> task,
                               absl::Time first_try, int failures, Done done) {
  Done then =
      scope_->GuardDone([this, task, first_try, failures,
                         done = std::move(done)](absl::Status status) mutable {
        if (status.ok() || absl::IsCancelled(status)) {
          std::move(done)(std::move(status));
          return;
        }
        const bool unroutable = ReasonOf(status) == reason::kQueueNotFound;
        const bool patient = scope_->environment->Now() - first_try <
                             scope_->options.unroutable_limit;
        if (!IsTransient(status) && !(unroutable && patient)) {
          EndReason why{.error = std::string(status.message()),
                        .error_type = std::string(kErrorUnroutable)};
          std::string queue = task->routing_key;
          End(*task, EndWhich::kNotBegun, std::move(why), std::move(queue),
              std::move(done));
          return;
        }
        scope_->After(scope_->Backoff(failures + 1),
                      [this, task, first_try, failures,
                       done = std::move(done)](absl::Status status) mutable {
                        if (!status.ok()) {
                          std::move(done)(std::move(status));
                          return;
                        }
                        SendUntilSent(task, first_try, failures + 1,
                                      std::move(done));
                      });
      });
  Dispatch(*scope_, *task, absl::InfiniteFuture(), std::move(then));
}

void Continuation::AbandonTask(const Abandon& abandon, Done done) {
  const absl::Time now = scope_->environment->Now();
  TaskState failure{.task_id = abandon.task_id,
                    .task_name = abandon.task_name,
                    .status = Status::kFailure,
                    .error = abandon.cause,
                    .create_time = now,
                    .error_type = abandon.error_type,
                    .finish_time = now};
  scope_->Repeat<bool>(
      [this, failure = std::move(failure),
       ttl = abandon.result_ttl.value_or(scope_->options.results_expire_in)](
          Callback<bool> cb) {
        scope_->backend->Abandon(failure, ttl, std::move(cb));
      },
      [id = abandon.task_id,
       done = std::move(done)](absl::StatusOr<bool> abandoned) mutable {
        std::move(done)(
            LogRefusal(abandoned.status(), "task cannot be abandoned", id));
      });
}

void Continuation::End(Task task, EndWhich which, EndReason reason,
                       std::string queue, Done done) {
  const absl::Time now = scope_->environment->Now();
  TaskState failure{.task_id = task.id,
                    .task_name = task.name,
                    .status = Status::kFailure,
                    .error = reason.error,
                    .create_time = now,
                    .attempt = AttemptOf(task),
                    .run = scope_->environment->NewUuid(),
                    .group_id = task.group_id,
                    .error_type = reason.error_type,
                    .finish_time = now};
  Log(LogLevel::kWarning, "task ended without a run",
      {{"task", task.id}, {"name", task.name}, {"why", reason.error}});
  const absl::Duration ttl = FinalTtl(*scope_, task);
  if (which == EndWhich::kNotBegun) {
    scope_->Repeat<bool>(
        [this, failure, ttl](Callback<bool> cb) {
          scope_->backend->Abandon(failure, ttl, std::move(cb));
        },
        [this, failure, task = std::move(task), reason = std::move(reason),
         queue = std::move(queue),
         done = std::move(done)](absl::StatusOr<bool> abandoned) mutable {
          if (!abandoned.ok() || !*abandoned) {
            std::move(done)(LogRefusal(abandoned.status(),
                                       "task cannot be ended", task.id));
            return;
          }
          FinishEnd(std::move(task), std::move(failure), std::move(reason),
                    std::move(queue), std::move(done));
        });
    return;
  }
  scope_->Repeat<FinishAnswer>(
      [this, failure, ttl](Callback<FinishAnswer> cb) {
        scope_->backend->Finish(
            {.outcome = failure, .ttl = ttl, .final_ttl = ttl}, std::move(cb));
      },
      [this, failure, task = std::move(task), reason = std::move(reason),
       queue = std::move(queue),
       done = std::move(done)](absl::StatusOr<FinishAnswer> answer) mutable {
        if (!answer.ok()) {
          std::move(done)(
              LogRefusal(answer.status(), "task cannot be ended", task.id));
          return;
        }
        if (answer->kind == FinishAnswer::kFinal) {
          // It ended otherwise meanwhile: no dead letter, only its steps.
          Follow(task, answer->recorded, std::move(done));
          return;
        }
        FinishEnd(std::move(task), std::move(failure), std::move(reason),
                  std::move(queue), std::move(done));
      });
}

void Continuation::FinishEnd(Task task, TaskState failure, EndReason reason,
                             std::string queue, Done done) {
  DeadTask dead{.task_id = task.id,
                .name = task.name,
                .queue = std::move(queue),
                .reason = reason.error,
                .body = EncodeTask(task),
                .time = scope_->environment->Now(),
                .attempts = AttemptOf(task)};
  Follow(task, failure,
         [this, dead = std::move(dead), wanted = reason.dead_letter,
          done = std::move(done)](absl::Status status) mutable {
           if (!status.ok() || !wanted) {
             std::move(done)(std::move(status));
             return;
           }
           std::string id = dead.task_id;
           scope_->Repeat<bool>(
               [this, dead = std::move(dead)](Callback<bool> cb) {
                 scope_->backend->LayDead(dead, AsDone(std::move(cb)));
               },
               [id = std::move(id),
                done = std::move(done)](absl::StatusOr<bool> laid) mutable {
                 std::move(done)(
                     LogRefusal(laid.status(), "dead letter is lost", id));
               });
         });
}

}  // namespace penstock
