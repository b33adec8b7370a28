#include "queue/canceller.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "queue/next_steps.h"
#include "queue/telemetry/log.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

constexpr size_t kChunk = 500;

using States = std::vector<std::optional<TaskState>>;

// What happens after the call was answered has no one to tell.
void LogLeft(const absl::Status& status, const std::string& task_id) {
  if (status.ok() || absl::IsCancelled(status)) return;
  Log(LogLevel::kWarning, "what follows a cancelled task is left to the sweeper",
      {{"task", task_id}, {"why", status.ToString()}});
}

}  // namespace

void Canceller::CancelTask(std::string task_id, std::string reason,
                           Callback<std::optional<CancelledTask>> done) {
  auto read = [this, reason = std::move(reason), done = std::move(done)](
                  absl::StatusOr<States> states) mutable {
    if (!states.ok()) {
      std::move(done)(states.status());
      return;
    }
    std::optional<TaskState>& known = states->front();
    if (!known.has_value()) {
      std::move(done)(std::nullopt);
      return;
    }
    if (IsFinal(known->status)) {
      std::move(done)(CancelledTask{.state = *std::move(known)});
      return;
    }
    Write(*std::move(known), reason,
          [this, done = std::move(done)](
              absl::StatusOr<CancelAnswer> answer) mutable {
            if (!answer.ok()) {
              std::move(done)(answer.status());
              return;
            }
            if (answer->kind == CancelAnswer::kUnknown) {
              std::move(done)(std::nullopt);
              return;
            }
            const TaskState state = std::move(answer->recorded);
            const bool accepted = answer->kind != CancelAnswer::kFinal;
            const bool had_begun = answer->kind == CancelAnswer::kRunning;
            std::move(done)(
                CancelledTask{.state = state, .accepted = accepted});
            if (accepted && !had_begun) {
              CarryOutSteps(state);
              EndChord(state.group_id);
            }
          });
  };
  scope_->backend->GetStates({std::move(task_id)},
                             scope_->Guard<States>(std::move(read)));
}

// Keeps what the record says of the run that it ends.
void Canceller::Write(TaskState known, const std::string& reason,
                      Callback<CancelAnswer> done) {
  TaskState cancelled{
      .task_id = std::move(known.task_id),
      .task_name = std::move(known.task_name),
      .status = Status::kFailure,
      .error = reason.empty() ? "cancelled"
                              : absl::StrCat("cancelled: ", reason),
      .create_time = known.create_time,
      .attempt = known.attempt,
      .run = scope_->environment->NewUuid(),
      .worker = std::move(known.worker),
      .group_id = std::move(known.group_id),
      .error_type = std::string(kErrorCancelled),
      .start_time = known.start_time,
      .finish_time = scope_->environment->Now()};
  scope_->backend->Cancel(std::move(cancelled),
                          scope_->options.results_expire_in,
                          scope_->Guard<CancelAnswer>(std::move(done)));
}

// A task that lies in the delayed set would bring its steps only when it is due:
// they are carried out now, and then it is taken out. One that lies in the broker
// brings them when a worker meets it; of a chain all that follows is known.
void Canceller::CarryOutSteps(const TaskState& cancelled) {
  scope_->Repeat<std::optional<LeasedTask>>(
      [this, id = cancelled.task_id](Callback<std::optional<LeasedTask>> cb) {
        scope_->backend->GetDelayed(id, std::move(cb));
      },
      [this, cancelled](absl::StatusOr<std::optional<LeasedTask>> delayed) {
        if (!delayed.ok()) {
          LogLeft(delayed.status(), cancelled.task_id);
        } else if (delayed->has_value()) {
          TakeOut(**std::move(delayed), cancelled);
        } else {
          AbandonChain(cancelled);
        }
      });
}

void Canceller::TakeOut(LeasedTask delayed, const TaskState& cancelled) {
  absl::StatusOr<Task> task = DecodeTask(delayed.task.body);
  if (!task.ok()) {
    LogLeft(task.status(), cancelled.task_id);
    return;
  }
  continuation_->Follow(
      *task, cancelled,
      scope_->GuardDone([this, delayed = std::move(delayed),
                         id = cancelled.task_id](absl::Status status) mutable {
        if (!status.ok()) {
          LogLeft(status, id);
          return;
        }
        scope_->backend->RemoveLeased(
            std::move(delayed),
            scope_->GuardDone(
                [id](absl::Status removed) { LogLeft(removed, id); }));
      }));
}

// `first` may be the first link of a chain, by whose id its record is found.
void Canceller::AbandonChain(const TaskState& first) {
  scope_->Repeat<std::optional<WorkflowRecord>>(
      [this, id = first.task_id](Callback<std::optional<WorkflowRecord>> cb) {
        scope_->backend->GetRecord(WorkflowRecord::kChain, id, std::move(cb));
      },
      [this, first](absl::StatusOr<std::optional<WorkflowRecord>> record) {
        if (!record.ok() || !record->has_value()) return;
        std::vector<Step> steps;
        const std::vector<std::string>& ids = (*record)->task_ids;
        for (size_t i = 1; i < ids.size(); ++i) {
          steps.push_back(Abandon{
              .task_id = ids[i],
              .cause = FailureCause("link", first.task_name, first.task_id,
                                    first.error)});
        }
        continuation_->CarryOut(std::move(steps),
                                [id = first.task_id](absl::Status status) {
                                  LogLeft(status, id);
                                });
      });
}

// Of a group that only a Go client knows, the callback is not known here: its
// members bring it.
void Canceller::EndChord(const std::string& group_id) {
  if (group_id.empty()) return;
  scope_->Repeat<std::optional<WorkflowRecord>>(
      [this, group_id](Callback<std::optional<WorkflowRecord>> cb) {
        scope_->backend->GetRecord(WorkflowRecord::kGroup, group_id,
                                   std::move(cb));
      },
      [this, group_id](absl::StatusOr<std::optional<WorkflowRecord>> record) {
        if (!record.ok() || !record->has_value() ||
            (*record)->callback.empty()) {
          return;
        }
        continuation_->groups().Join(group_id, (*record)->callback,
                                     [group_id](absl::Status status) {
                                       LogLeft(status, group_id);
                                     });
      });
}

// ---- groups

struct Canceller::GroupCall {
  std::string group_id;
  std::string reason;
  Callback<std::optional<int>> done;
  std::vector<std::string> ids;
  std::string callback;  // the signature's JSON; empty: none, or not known
  size_t next = 0;
  std::atomic<int> cancelled{0};
};

void Canceller::CancelGroup(std::string group_id, std::string reason,
                            Callback<std::optional<int>> done) {
  auto call = std::make_shared<GroupCall>();
  call->group_id = std::move(group_id);
  call->reason = std::move(reason);
  call->done = std::move(done);
  auto take_meta = [this,
                    call](absl::StatusOr<std::optional<GroupMeta>> meta) {
    if (!meta.ok()) return std::move(call->done)(meta.status());
    if (!meta->has_value()) return std::move(call->done)(std::nullopt);
    call->ids = std::move((*meta)->task_ids);
    CancelMembers(call);
  };
  auto take_record =
      [this, call, take_meta](
          absl::StatusOr<std::optional<WorkflowRecord>> record) mutable {
        if (!record.ok()) return std::move(call->done)(record.status());
        if (!record->has_value()) {
          scope_->backend->GetGroupMeta(
              call->group_id,
              scope_->Guard<std::optional<GroupMeta>>(std::move(take_meta)));
          return;
        }
        call->ids = std::move((*record)->task_ids);
        call->callback = std::move((*record)->callback);
        CancelMembers(call);
      };
  scope_->backend->GetRecord(
      WorkflowRecord::kGroup, call->group_id,
      scope_->Guard<std::optional<WorkflowRecord>>(std::move(take_record)));
}

void Canceller::CancelMembers(std::shared_ptr<GroupCall> call) {
  if (call->next == call->ids.size()) {
    CancelCallback(std::move(call));
    return;
  }
  const size_t end = std::min(call->ids.size(), call->next + kChunk);
  std::vector<std::string> chunk(call->ids.begin() + call->next,
                                 call->ids.begin() + end);
  call->next = end;
  scope_->backend->GetStates(
      std::move(chunk),
      scope_->Guard<States>([this, call](absl::StatusOr<States> states) {
        if (!states.ok()) return std::move(call->done)(states.status());
        CancelChunk(call, *std::move(states));
      }));
}

void Canceller::CancelChunk(std::shared_ptr<GroupCall> call, States states) {
  std::erase_if(states, [](const std::optional<TaskState>& state) {
    return !state.has_value() || IsFinal(state->status);
  });
  if (states.empty()) {
    CancelMembers(std::move(call));
    return;
  }
  struct Chunk {
    std::atomic<size_t> left;
    absl::Mutex mu;
    absl::Status error ABSL_GUARDED_BY(mu);
  };
  auto chunk = std::make_shared<Chunk>();
  chunk->left = states.size();
  for (std::optional<TaskState>& state : states) {
    Write(*std::move(state), call->reason,
          [this, call, chunk](absl::StatusOr<CancelAnswer> answer) {
            if (!answer.ok()) {
              absl::MutexLock lock(&chunk->mu);
              chunk->error = answer.status();
            } else if (answer->kind == CancelAnswer::kCancelled) {
              ++call->cancelled;
              CarryOutSteps(answer->recorded);
            } else if (answer->kind == CancelAnswer::kRunning) {
              ++call->cancelled;
            }
            if (chunk->left.fetch_sub(1) != 1) return;
            absl::Status error;
            {
              absl::MutexLock lock(&chunk->mu);
              error = chunk->error;
            }
            if (!error.ok()) return std::move(call->done)(error);
            CancelMembers(call);
          });
  }
}

// The callback itself, which has begun only when all members had ended before.
void Canceller::CancelCallback(std::shared_ptr<GroupCall> call) {
  auto end = [this, call] {
    std::move(call->done)(call->cancelled.load());
    EndChord(call->group_id);
  };
  absl::StatusOr<Task> callback = absl::NotFoundError("none");
  if (!call->callback.empty()) callback = DecodeTask(call->callback);
  if (!callback.ok()) return end();
  CancelTask(callback->id, call->reason,
             [this, call, end, task = *callback](
                 absl::StatusOr<std::optional<CancelledTask>> cancelled) {
               if (!cancelled.ok()) {
                 return std::move(call->done)(cancelled.status());
               }
               if (cancelled->has_value() && (*cancelled)->accepted) {
                 ++call->cancelled;
                 const TaskState& state = (*cancelled)->state;
                 if (!state.start_time.has_value()) {
                   continuation_->Follow(task, state,
                                         [id = task.id](absl::Status status) {
                                           LogLeft(status, id);
                                         });
                 }
               }
               end();
             });
}

}  // namespace penstock
