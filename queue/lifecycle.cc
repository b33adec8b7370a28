#include "queue/lifecycle.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/canceller.h"
#include "queue/continuation.h"
#include "queue/dead_letters.h"
#include "queue/dispatch.h"
#include "queue/errors.h"
#include "queue/mover.h"
#include "queue/next_steps.h"
#include "queue/policy.h"
#include "queue/requests.h"
#include "queue/scope.h"
#include "queue/submitter.h"
#include "queue/sweeper.h"
#include "queue/telemetry/log.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

// What a handler's outcome becomes on record: SUCCESS, FAILURE or RETRY.
TaskState RecordOf(const Task& task, const BeginVerdict& begun,
                   std::string worker, Outcome& outcome,
                   const std::optional<RetryPlan>& retry, absl::Time now) {
  TaskState state{.task_id = task.id,
                  .task_name = task.name,
                  .create_time = now,
                  .attempt = AttemptOf(task),
                  .run = begun.run,
                  .worker = std::move(worker),
                  .group_id = task.group_id,
                  .start_time = begun.start_time};
  if (outcome.kind == Outcome::kSuccess) {
    state.status = Status::kSuccess;
    state.results = std::move(outcome.results);
    state.results_null = false;
    state.finish_time = now;
    return state;
  }
  state.error = std::move(outcome.error);
  state.error_type = std::move(outcome.error_type);
  if (!retry.has_value()) {
    state.status = Status::kFailure;
    state.finish_time = now;
    return state;
  }
  state.status = Status::kRetry;
  state.next_attempt = retry->attempt;
  state.next_attempt_time = retry->due;
  state.next_retry_count = retry->retry_count;
  state.next_retry_timeout_s = retry->retry_timeout_s;
  return state;
}

// A state is read whole by everyone who waits for it, and results travel on with
// what follows.
constexpr size_t kMaxResults = 1 << 20;

void RefuseLargeResults(Outcome& outcome) {
  size_t bytes = 0;
  for (const Value& result : outcome.results) {
    bytes += result.type.size() + result.json.size();
  }
  if (bytes <= kMaxResults) return;
  outcome = {.kind = Outcome::kFailure,
             .error = absl::StrCat(
                 "RESULT_TOO_LARGE: the results are ", bytes,
                 " bytes as encoded; at most 1 MiB: keep them elsewhere and "
                 "return where they are"),
             .error_type = std::string(kErrorResultTooLarge),
             .permanent = true};
}

// A task that a long backlog held up has met few workers, for all its age.
constexpr int kLeastPasses = 5;

RetryPlan PlanOf(const TaskState& retry, absl::Time now) {
  return {.due = retry.next_attempt_time.value_or(now),
          .attempt = retry.next_attempt,
          .retry_count = retry.next_retry_count,
          .retry_timeout_s = retry.next_retry_timeout_s};
}

}  // namespace

struct Lifecycle::Core {
  Core(Broker* broker, Backend* backend, Environment* environment,
       LifecycleOptions options)
      : scope{.broker = broker,
              .backend = backend,
              .environment = environment,
              .options = std::move(options)},
        continuation(&scope),
        mover(&scope, &continuation),
        sweeper(&scope, &continuation),
        submitter(&scope, &mover, &continuation),
        canceller(&scope, &continuation),
        requests(&scope),
        dead_letters(&scope, &submitter, &requests) {}

  void BeginRun(std::shared_ptr<const Task> task, std::string queue,
                std::string worker, Begins how, Callback<BeginVerdict> done);
  void BeginRecorded(std::shared_ptr<const Task> task, std::string queue,
                     std::string worker, BeginVerdict verdict,
                     Callback<BeginVerdict> done);
  BeginRequest RequestOf(const Task& task, const BeginVerdict& begun,
                         std::string worker);
  void Begun(const Task& task, const std::string& queue, BeginVerdict verdict,
             BeginAnswer answer, Callback<BeginVerdict> done);
  void NothingToRun(Callback<BeginVerdict> done, absl::Status status) {
    if (status.ok()) {
      std::move(done)(BeginVerdict{.kind = BeginVerdict::kDone});
    } else {
      std::move(done)(std::move(status));
    }
  }
  void LayNextAttempt(const Task& task, const RetryPlan& plan, Done done);
  void FollowOutcome(const Task& task, const TaskState& outcome,
                     FinishAnswer answer, Callback<FinishVerdict> done);
  void BuryDelivery(std::string body, std::string queue, std::string reason,
                    Done done);

  Scope scope;
  Continuation continuation;
  Mover mover;
  Sweeper sweeper;
  Submitter submitter;
  Canceller canceller;
  Requests requests;
  DeadLetters dead_letters;
};

Lifecycle::Lifecycle(Broker* broker, Backend* backend, Environment* environment,
                     LifecycleOptions options)
    : core_(std::make_shared<Core>(broker, backend, environment,
                                   std::move(options))) {
  core_->scope.owner = core_;
}

Lifecycle::~Lifecycle() { Stop(); }

void Lifecycle::Start() {
  core_->mover.Start();
  core_->sweeper.Start();
}

void Lifecycle::Stop() { core_->scope.gate.Close(); }

void Lifecycle::ClaimRequest(std::string request_id, std::string payload_hash,
                             absl::Time deadline, Callback<RequestAnswer> done,
                             std::string claimant) {
  core_->requests.Claim(std::move(request_id), std::move(payload_hash),
                        std::move(claimant), deadline, std::move(done));
}

void Lifecycle::EndRequest(std::string request_id, std::string nonce,
                           RequestEnd end, Done done) {
  core_->requests.End(std::move(request_id), std::move(nonce), end,
                      std::move(done));
}

void Lifecycle::SubmitTask(Task task, Submission submission,
                           Callback<Submitted> done) {
  core_->submitter.SubmitTask(std::move(task), std::move(submission),
                              std::move(done));
}

void Lifecycle::SubmitTasks(std::vector<NewTask> tasks, absl::Time deadline,
                            Callback<SubmittedTasks> done) {
  core_->submitter.SubmitTasks(std::move(tasks), deadline, std::move(done));
}

void Lifecycle::SubmitChain(std::vector<Task> links, Submission submission,
                            Callback<Submitted> done) {
  core_->submitter.SubmitChain(std::move(links), std::move(submission),
                               std::move(done));
}

void Lifecycle::SubmitGroup(NewGroup group, Submission submission,
                            Callback<Submitted> done) {
  core_->submitter.SubmitGroup(std::move(group), std::move(submission),
                               std::move(done));
}

void Lifecycle::CancelTask(std::string task_id, std::string reason,
                           Callback<std::optional<CancelledTask>> done) {
  core_->canceller.CancelTask(std::move(task_id), std::move(reason),
                              std::move(done));
}

void Lifecycle::CancelGroup(std::string group_id, std::string reason,
                            Callback<std::optional<int>> done) {
  core_->canceller.CancelGroup(std::move(group_id), std::move(reason),
                               std::move(done));
}

void Lifecycle::ListDead(std::string queue, int limit,
                         std::optional<DeadPlace> after,
                         Callback<std::vector<DeadTask>> done) {
  core_->dead_letters.List(std::move(queue), limit, std::move(after),
                           std::move(done));
}

void Lifecycle::RetryDead(RetryCall call, Callback<RetriedTask> done) {
  core_->dead_letters.Retry(std::move(call), std::move(done));
}

void Lifecycle::DeleteDead(std::string queue, std::string task_id,
                           Callback<DeadTask> done) {
  core_->dead_letters.Delete(std::move(queue), std::move(task_id),
                             std::move(done));
}

// One that has expired begins only if it had begun before: then this is another
// delivery of a run that was cut short.
void Lifecycle::Begin(std::shared_ptr<const Task> task, std::string queue,
                      std::string worker, Begins how,
                      Callback<BeginVerdict> done) {
  Core* core = core_.get();
  const std::optional<absl::Time> expiry = ExpiryOf(*task);
  const absl::Time now = core->scope.environment->Now();
  if (!expiry.has_value() || now < *expiry || AttemptOf(*task) > 1) {
    core->BeginRun(std::move(task), std::move(queue), std::move(worker), how,
                   std::move(done));
    return;
  }
  TaskState expired{.task_id = task->id,
                    .task_name = task->name,
                    .status = Status::kFailure,
                    .error = ExpiryText(*expiry),
                    .create_time = now,
                    .group_id = task->group_id,
                    .error_type = std::string(kErrorExpired),
                    .finish_time = now};
  core->scope.backend->Abandon(
      expired, FinalTtl(core->scope, *task),
      core->scope.Guard<bool>(
          [core, task, queue = std::move(queue), expired, how,
           worker = std::move(worker),
           done = std::move(done)](absl::StatusOr<bool> ended) mutable {
            if (!ended.ok()) {
              std::move(done)(ended.status());
            } else if (*ended) {
              core->continuation.Follow(
                  *task, expired,
                  [core, done = std::move(done)](absl::Status status) mutable {
                    core->NothingToRun(std::move(done), std::move(status));
                  });
            } else {
              core->BeginRun(std::move(task), std::move(queue),
                             std::move(worker), how, std::move(done));
            }
          }));
}

BeginRequest Lifecycle::Core::RequestOf(const Task& task,
                                        const BeginVerdict& begun,
                                        std::string worker) {
  return {.started = {.task_id = task.id,
                      .task_name = task.name,
                      .status = Status::kStarted,
                      .create_time = begun.start_time,
                      .attempt = AttemptOf(task),
                      .run = begun.run,
                      .worker = std::move(worker),
                      .group_id = task.group_id,
                      .start_time = begun.start_time},
          .ttl = scope.options.pending_expire_in,
          .final_ttl = FinalTtl(scope, task),
          .max_begins = scope.options.max_begins};
}

void Lifecycle::Core::BeginRun(std::shared_ptr<const Task> task,
                               std::string queue, std::string worker,
                               Begins how, Callback<BeginVerdict> done) {
  BeginVerdict verdict{.run = scope.environment->NewUuid(),
                       .start_time = scope.environment->Now()};
  if (how == Begins::kRecorded) {
    BeginRecorded(std::move(task), std::move(queue), std::move(worker),
                  std::move(verdict), std::move(done));
    return;
  }
  using Seen = std::optional<SeenPending>;
  std::string id = task->id;
  scope.backend->SeePending(
      std::move(id),
      scope.Guard<Seen>([core = this, task = std::move(task),
                         queue = std::move(queue), worker = std::move(worker),
                         verdict = std::move(verdict), done = std::move(done)](
                            absl::StatusOr<Seen> pending) mutable {
        if (pending.ok() && pending->has_value()) {
          verdict.recorded = false;
          verdict.seen = **std::move(pending);
          std::move(done)(std::move(verdict));
        } else if (absl::IsCancelled(pending.status())) {
          std::move(done)(pending.status());
        } else {
          core->BeginRecorded(std::move(task), std::move(queue),
                              std::move(worker), std::move(verdict),
                              std::move(done));
        }
      }));
}

void Lifecycle::Core::BeginRecorded(std::shared_ptr<const Task> task,
                                    std::string queue, std::string worker,
                                    BeginVerdict verdict,
                                    Callback<BeginVerdict> done) {
  BeginRequest request = RequestOf(*task, verdict, std::move(worker));
  scope.backend->Begin(
      std::move(request),
      scope.Guard<BeginAnswer>(
          [core = this, task = std::move(task), queue = std::move(queue),
           verdict = std::move(verdict),
           done = std::move(done)](absl::StatusOr<BeginAnswer> answer) mutable {
            if (answer.ok()) {
              core->Begun(*task, queue, std::move(verdict), *std::move(answer),
                          std::move(done));
            } else if (IsTransient(answer.status()) ||
                       absl::IsCancelled(answer.status())) {
              std::move(done)(answer.status());
            } else {
              // The backend refuses this id for good: nothing can be recorded
              // under it.
              core->BuryDelivery(
                  EncodeTask(*task), queue, answer.status().ToString(),
                  [core, done = std::move(done)](absl::Status status) mutable {
                    core->NothingToRun(std::move(done), std::move(status));
                  });
            }
          }));
}

void Lifecycle::RecordBegin(const Task& task, const BeginVerdict& begun,
                            std::string worker, Callback<bool> done) {
  core_->scope.backend->Begin(
      core_->RequestOf(task, begun, std::move(worker)),
      core_->scope.Guard<BeginAnswer>(
          [done = std::move(done)](absl::StatusOr<BeginAnswer> answer) mutable {
            if (!answer.ok()) return std::move(done)(answer.status());
            std::move(done)(answer->kind == BeginAnswer::kRun);
          }));
}

void Lifecycle::Core::Begun(const Task& task, const std::string& queue,
                            BeginVerdict verdict, BeginAnswer answer,
                            Callback<BeginVerdict> done) {
  if (answer.kind == BeginAnswer::kRun) {
    std::move(done)(std::move(verdict));
    return;
  }
  Done followed = [this, done = std::move(done)](absl::Status status) mutable {
    NothingToRun(std::move(done), std::move(status));
  };
  switch (answer.kind) {
    case BeginAnswer::kRun:
    case BeginAnswer::kStale:
      std::move(followed)(absl::OkStatus());
      return;
    case BeginAnswer::kFinal:
      continuation.Follow(task, answer.recorded, std::move(followed));
      return;
    case BeginAnswer::kMove:
      LayNextAttempt(task, PlanOf(answer.recorded, scope.environment->Now()),
                     std::move(followed));
      return;
    case BeginAnswer::kWornOut:
      continuation.End(task, Continuation::EndWhich::kNotFinal,
                       {.error = absl::StrCat(
                            "begun ", scope.options.max_begins,
                            " times without an end: its worker dies of it"),
                        .error_type = std::string(kErrorWornOut)},
                       queue, std::move(followed));
      return;
  }
}

void Lifecycle::Finish(Task task, BeginVerdict begun, std::string worker,
                       Outcome outcome, Callback<FinishVerdict> done) {
  Core* core = core_.get();
  const LifecycleOptions& options = core->scope.options;
  const absl::Time now = core->scope.environment->Now();
  RefuseLargeResults(outcome);
  std::optional<RetryPlan> retry;
  if (outcome.kind == Outcome::kFailure) {
    retry = PlanRetry(task, outcome.retry_after, outcome.permanent, now,
                      core->scope.environment->Random());
  }
  const absl::Duration final_ttl = FinalTtl(core->scope, task);
  const absl::Duration ttl = retry.has_value()
                                 ? retry->due - now + options.pending_expire_in
                                 : final_ttl;
  TaskState record =
      RecordOf(task, begun, std::move(worker), outcome, retry, now);
  struct End {
    Task task;
    FinishRequest request;
  };
  auto end = std::make_shared<const End>(
      End{.task = std::move(task),
          .request = {.outcome = std::move(record),
                      .ttl = ttl,
                      .final_ttl = final_ttl,
                      .seen = std::move(begun.seen)}});
  core->scope.Repeat<FinishAnswer>(
      [core, end](Callback<FinishAnswer> cb) {
        core->scope.backend->Finish(end->request, std::move(cb));
      },
      [core, end,
       done = std::move(done)](absl::StatusOr<FinishAnswer> answer) mutable {
        const TaskState& outcome = end->request.outcome;
        if (answer.ok()) {
          core->FollowOutcome(end->task, outcome, *std::move(answer),
                              std::move(done));
        } else if (absl::IsCancelled(answer.status())) {
          std::move(done)(answer.status());
        } else {
          // The backend refuses the outcome for good.
          core->BuryDelivery(
              EncodeTask(end->task), end->task.routing_key,
              answer.status().ToString(),
              [status = outcome.status,
               done = std::move(done)](absl::Status buried) mutable {
                if (buried.ok()) {
                  std::move(done)(FinishVerdict{.status = status});
                } else {
                  std::move(done)(std::move(buried));
                }
              });
        }
      });
}

void Lifecycle::Core::FollowOutcome(const Task& task, const TaskState& outcome,
                                    FinishAnswer answer,
                                    Callback<FinishVerdict> done) {
  if (answer.kind == FinishAnswer::kStale) {
    std::move(done)(
        FinishVerdict{.kind = FinishVerdict::kStale, .status = outcome.status});
    return;
  }
  const TaskState& stands =
      answer.kind == FinishAnswer::kWritten ? outcome : answer.recorded;
  Done followed = [status = stands.status,
                   done = std::move(done)](absl::Status followed) mutable {
    if (followed.ok()) {
      std::move(done)(FinishVerdict{.status = status});
    } else {
      std::move(done)(std::move(followed));
    }
  };
  if (stands.status == Status::kRetry) {
    LayNextAttempt(task, PlanOf(stands, scope.environment->Now()),
                   std::move(followed));
  } else {
    continuation.Follow(task, stands, std::move(followed));
  }
}

void Lifecycle::Core::LayNextAttempt(const Task& task, const RetryPlan& plan,
                                     Done done) {
  DelayedTask delayed = DelayedOf(NextAttempt(task, plan), plan.due);
  scope.Repeat<bool>(
      [this, delayed = std::move(delayed)](Callback<bool> cb) {
        Delay(scope, delayed, AsDone(std::move(cb)));
      },
      [this, task, due = plan.due,
       done = std::move(done)](absl::StatusOr<bool> laid) mutable {
        if (laid.ok() || absl::IsCancelled(laid.status())) {
          mover.Expect(due);
          std::move(done)(laid.status());
        } else {
          // The backend refuses it for good.
          BuryDelivery(EncodeTask(task), task.routing_key,
                       laid.status().ToString(), std::move(done));
        }
      });
}

void Lifecycle::PassOn(Task task, const std::string& queue, Done done) {
  Core* core = core_.get();
  Scope& scope = core->scope;
  const absl::Time now = scope.environment->Now();
  absl::Duration waited = absl::ZeroDuration();
  if (std::optional<int64_t> since = NumberHeader(task, kUnknownSinceHeader)) {
    waited = now - absl::FromUnixMillis(*since);
  } else {
    SetStringHeader(task, kUnknownSinceHeader,
                    absl::StrCat(absl::ToUnixMillis(now)));
  }
  const int64_t passes = NumberHeader(task, kPassesHeader).value_or(0);
  if (task.ignore_when_not_registered ||
      (waited > scope.options.not_registered_limit && passes >= kLeastPasses)) {
    const std::string name = task.name;
    const bool ignored = task.ignore_when_not_registered;
    core->continuation.End(
        std::move(task), Continuation::EndWhich::kNotFinal,
        {.error = absl::StrCat("no worker has a handler named \"", name, "\"",
                               ignored ? "; the task says to ignore that" : ""),
         .error_type = std::string(kErrorNotRegistered),
         .dead_letter = !ignored},
        queue, std::move(done));
    return;
  }
  SetStringHeader(task, kPassesHeader, absl::StrCat(passes + 1));
  // More seldom as time goes by, but by little each time: where most of the
  // workers on a queue do not know the name, it takes many passes to meet one
  // that does, and a pause that doubled would outgrow them.
  const absl::Duration pause =
      std::clamp(waited / 20, absl::Milliseconds(500), absl::Minutes(1));
  DelayedTask delayed = DelayedOf(task, now + pause);
  delayed.queue = queue;
  scope.Repeat<bool>(
      [&scope, delayed = std::move(delayed)](Callback<bool> cb) {
        Delay(scope, delayed, AsDone(std::move(cb)));
      },
      [core, due = now + pause,
       done = std::move(done)](absl::StatusOr<bool> laid) mutable {
        core->mover.Expect(due);
        std::move(done)(laid.status());
      });
}

void Lifecycle::Bury(std::string body, const std::string& queue,
                     std::string reason, Done done) {
  core_->BuryDelivery(std::move(body), queue, std::move(reason),
                      std::move(done));
}

void Lifecycle::Core::BuryDelivery(std::string body, std::string queue,
                                   std::string reason, Done done) {
  Log(LogLevel::kError, "delivery goes to the dead letters",
      {{"queue", queue},
       {"why", reason},
       {"begins", absl::string_view(body).substr(0, 200)}});
  if (body.size() >= kMaxMessageBytes) {
    body.resize(kMaxMessageBytes - 1);  // its beginning tells what it was
  }
  scope.Repeat<bool>(
      [this, body = std::move(body), queue = std::move(queue),
       reason = std::move(reason)](Callback<bool> cb) {
        scope.broker->PublishDead(queue, body, reason, AsDone(std::move(cb)));
      },
      AsCallback(std::move(done)));
}

void Lifecycle::FindEnded(std::vector<std::string> task_ids,
                          Callback<std::vector<std::string>> done) {
  // Reading is not free everywhere: RabbitMQ's states are taken and put back.
  if (!core_->scope.backend->CanCancel()) {
    core_->scope.After(absl::ZeroDuration(),
                       [done = std::move(done)](absl::Status) mutable {
                         std::move(done)(std::vector<std::string>());
                       });
    return;
  }
  using States = std::vector<std::optional<TaskState>>;
  core_->scope.backend->GetStates(
      std::move(task_ids),
      core_->scope.Guard<States>(
          [done = std::move(done)](absl::StatusOr<States> states) mutable {
            if (!states.ok()) {
              std::move(done)(states.status());
              return;
            }
            std::vector<std::string> ended;
            for (const std::optional<TaskState>& state : *states) {
              if (state.has_value() && IsFinal(state->status)) {
                ended.push_back(state->task_id);
              }
            }
            std::move(done)(std::move(ended));
          }));
}

void Lifecycle::SetProgress(std::string task_id, std::string run,
                            TaskProgress progress, Callback<bool> done) {
  core_->scope.backend->SetProgress(
      std::move(task_id), std::move(run), std::move(progress),
      core_->scope.options.pending_expire_in,
      core_->scope.Guard<bool>(std::move(done)));
}

void Lifecycle::RefreshRunning(std::vector<std::string> task_ids) {
  // A failure is mended by the next one; states live for days.
  core_->scope.backend->Refresh(
      std::move(task_ids), Backend::RefreshWhich::kAll,
      core_->scope.options.pending_expire_in,
      core_->scope.options.results_expire_in, [](absl::Status) {});
}

}  // namespace penstock
