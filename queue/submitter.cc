#include "queue/submitter.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "queue/dispatch.h"
#include "queue/errors.h"
#include "queue/policy.h"
#include "queue/waker.h"
#include "queue/wire/task_json.h"
#include "queue/workflow.h"

namespace penstock {
namespace {

// A confirm's deadline starts at its publish: so many are on the way at most.
constexpr size_t kMostInFlight = 1000;

// A unique key is held until its task is final, however often that is tried
// again; but not for ever, since no one tells when it ends.
constexpr absl::Duration kUniqueKeptOn = absl::Hours(24 * 30);

// Whether no run of the task's wrote its final state.
bool WasEndedByUs(const TaskState& state) {
  return state.status == Status::kFailure &&
         (state.error_type == kErrorCancelled ||
          state.error_type == kErrorExpired ||
          state.error_type == kErrorAbandoned);
}

}  // namespace

// One call of a client. Its parts are written by one callback after the other;
// only the count of publishes is shared between callbacks that may run at once.
struct Submitter::Call {
  Submission submission;
  Callback<Submitted> done;
  std::string nonce;
  absl::Time create_time;
  absl::Duration ttl;

  std::vector<Task> to_send;        // the task, the first link, the members
  std::vector<TaskState> promised;  // PENDING without a publish of ours
  std::optional<WorkflowRecord> record;
  size_t window = kMostInFlight;

  std::vector<UniqueClaim> unique;  // claimed before anything is written
  std::vector<UniqueClaim> taken;   // those that this call took

  std::vector<PendingAnswer> answers;  // of to_send, then of promised
  bool replayed = false;
  std::atomic<bool> stopped{false};  // amid following what had ended

  absl::Mutex mu;
  size_t next ABSL_GUARDED_BY(mu) = 0;  // the next of to_send to look at
  size_t in_flight ABSL_GUARDED_BY(mu) = 0;
  size_t sent ABSL_GUARDED_BY(mu) = 0;     // confirmed, or past PENDING before
  size_t unknown ABSL_GUARDED_BY(mu) = 0;  // may have been sent
  absl::Status failure ABSL_GUARDED_BY(mu);
  bool settled ABSL_GUARDED_BY(mu) = false;

  // Whether no other submission may have sent any of it.
  bool OwnsAll() const {
    return std::all_of(answers.begin(), answers.end(), [](PendingAnswer a) {
      return a == PendingAnswer::kCreated;
    });
  }
  std::vector<std::string> AllIds() const {
    std::vector<std::string> ids;
    for (const Task& task : to_send) ids.push_back(task.id);
    for (const TaskState& state : promised) ids.push_back(state.task_id);
    return ids;
  }
};

// Tasks that are sent together and have nothing to do with each other. One that
// meets nothing unusual goes all the way here, any other by a Call of its own.
struct Submitter::Batch {
  // Constant, but for the tasks that CallOf takes.
  std::vector<NewTask> tasks;
  absl::Time deadline;
  std::string nonce;
  absl::Time create_time;
  Callback<SubmittedTasks> done;

  SubmittedTasks outcomes;  // each written by its own callback
  std::atomic<size_t> open;
  std::atomic<bool> stopped{false};

  // What one of them takes back is not another one's, even under the same id.
  std::string NonceOf(size_t place) const {
    return absl::StrCat(nonce, "/", place);
  }

  void Settle(size_t place, absl::StatusOr<Submitted> outcome) {
    if (absl::IsCancelled(outcome.status())) stopped = true;
    outcomes[place] = std::move(outcome);
    if (--open > 0) return;
    if (stopped) {
      std::move(done)(absl::CancelledError("stopped"));
    } else {
      std::move(done)(std::move(outcomes));
    }
  }
};

void Submitter::SubmitTasks(std::vector<NewTask> tasks, absl::Time deadline,
                            Callback<SubmittedTasks> done) {
  if (tasks.empty()) {
    scope_->After(absl::ZeroDuration(),
                  [done = std::move(done)](absl::Status status) mutable {
                    if (!status.ok()) return std::move(done)(status);
                    std::move(done)(SubmittedTasks());
                  });
    return;
  }
  auto batch = std::make_shared<Batch>();
  batch->tasks = std::move(tasks);
  batch->deadline = deadline;
  batch->nonce = scope_->environment->NewUuid();
  batch->create_time = scope_->environment->Now();
  batch->done = std::move(done);
  batch->outcomes.resize(batch->tasks.size());
  batch->open = batch->tasks.size();
  std::vector<size_t> places;
  places.reserve(batch->tasks.size());
  WakeLater later;
  // Those of a Call first: while the others are open the batch is not answered.
  for (size_t i = 0; i < batch->tasks.size(); ++i) {
    Task& task = batch->tasks[i].task;
    if (UniqueKeyOf(task).has_value()) {
      Start(CallOf(batch, i));
      continue;
    }
    if (task.routing_key.empty()) {
      task.routing_key = scope_->broker->DefaultRoutingKey();
    }
    places.push_back(i);
  }
  if (!places.empty()) CreateStates(std::move(batch), std::move(places));
}

void Submitter::CreateStates(BatchPtr batch, std::vector<size_t> places) {
  std::vector<PendingRequest> requests;
  requests.reserve(places.size());
  for (const size_t place : places) {
    const NewTask& one = batch->tasks[place];
    requests.push_back({.state = PendingStateOf(one.task, batch->create_time),
                        .payload_hash = one.payload_hash,
                        .nonce = batch->NonceOf(place),
                        .ttl = PendingTtl(*scope_, one.task)});
  }
  scope_->backend->CreatePending(
      std::move(requests),
      scope_->Guard<std::vector<PendingAnswer>>(
          [this, batch, places = std::move(places)](
              absl::StatusOr<std::vector<PendingAnswer>> answers) {
            const absl::Status& status = answers.status();
            const bool all_fail =
                IsTransient(status) || absl::IsCancelled(status);
            for (size_t i = 0; i < places.size(); ++i) {
              const size_t place = places[i];
              if (all_fail) {
                batch->Settle(place, status);
              } else if (!status.ok()) {
                // One of them is refused for good: which, the next try tells.
                TryAlone(batch, place);
              } else if ((*answers)[i] == PendingAnswer::kCreated) {
                const NewTask& one = batch->tasks[place];
                if (one.on_recorded != nullptr) {
                  one.on_recorded({.create_time = batch->create_time});
                }
                SendOne(batch, place);
              } else {
                CallPtr call = CallOf(batch, place);
                call->answers = {(*answers)[i]};
                OnCreated(std::move(call));
              }
            }
          }));
}

void Submitter::SendOne(BatchPtr batch, size_t place) {
  const Task& task = batch->tasks[place].task;
  Dispatch(*scope_, task, batch->deadline,
           scope_->GuardDone([this, batch, place](absl::Status status) {
             if (!status.ok()) {
               CallPtr call = CallOf(batch, place);
               call->answers = {PendingAnswer::kCreated};
               {
                 absl::MutexLock lock(&call->mu);
                 call->next = call->in_flight = 1;
               }
               OnSent(std::move(call), 0, std::move(status));
               return;
             }
             const std::optional<ZonedTime>& eta = batch->tasks[place].task.eta;
             if (eta.has_value()) mover_->Expect(eta->time);
             batch->Settle(place, Submitted{.create_time = batch->create_time});
           }));
}

// The task at `place`, which may have its state already.
void Submitter::TryAlone(const BatchPtr& batch, size_t place) {
  CallPtr call = CallOf(batch, place);
  // Without a claim it would find its own state to be another one's.
  if (!call->submission.payload_hash.empty()) return Start(std::move(call));
  std::string id = call->to_send.front().id;
  scope_->backend->TakeBack(
      {std::move(id)}, "",
      scope_->Guard<bool>([this, call](absl::StatusOr<bool> taken_back) {
        if (absl::IsCancelled(taken_back.status())) {
          std::move(call->done)(taken_back.status());
        } else {
          Start(call);
        }
      }));
}

// The task at `place`, from here on by itself.
Submitter::CallPtr Submitter::CallOf(const BatchPtr& batch, size_t place) {
  NewTask& one = batch->tasks[place];
  auto call = std::make_shared<Call>();
  call->submission = {.payload_hash = std::move(one.payload_hash),
                      .deadline = batch->deadline,
                      .on_recorded = std::move(one.on_recorded)};
  call->done = [batch, place](absl::StatusOr<Submitted> outcome) {
    batch->Settle(place, std::move(outcome));
  };
  call->nonce = batch->NonceOf(place);
  call->create_time = batch->create_time;
  call->ttl = PendingTtl(*scope_, one.task);
  call->to_send.push_back(std::move(one.task));
  call->unique = UniqueKeys::ClaimsOf(call->to_send);
  return call;
}

void Submitter::SubmitTask(Task task, Submission submission,
                           Callback<Submitted> done) {
  std::vector<NewTask> tasks;
  tasks.push_back({.task = std::move(task),
                   .payload_hash = std::move(submission.payload_hash),
                   .on_recorded = std::move(submission.on_recorded)});
  SubmitTasks(std::move(tasks), submission.deadline,
              [done = std::move(done)](
                  absl::StatusOr<SubmittedTasks> submitted) mutable {
                if (submitted.ok()) {
                  std::move(done)(std::move(submitted->front()));
                } else {
                  std::move(done)(submitted.status());
                }
              });
}

void Submitter::SubmitChain(std::vector<Task> links, Submission submission,
                            Callback<Submitted> done) {
  if (links.size() == 1) {
    SubmitTask(std::move(links.front()), std::move(submission),
               std::move(done));
    return;
  }
  auto call = std::make_shared<Call>();
  call->submission = std::move(submission);
  call->done = std::move(done);
  const absl::Time now = scope_->environment->Now();
  call->record =
      WorkflowRecord{.kind = WorkflowRecord::kChain, .id = links.front().id};
  for (const Task& link : links) {
    call->record->task_ids.push_back(link.id);
    if (&link != &links.front()) {
      call->promised.push_back(PendingStateOf(link, now));
    }
  }
  call->unique = UniqueKeys::ClaimsOf(links);
  call->to_send.push_back(LinkChain(std::move(links)));
  Start(std::move(call));
}

void Submitter::SubmitGroup(NewGroup group, Submission submission,
                            Callback<Submitted> done) {
  auto call = std::make_shared<Call>();
  call->submission = std::move(submission);
  call->done = std::move(done);
  if (group.send_concurrency > 0) {
    call->window = std::min<size_t>(group.send_concurrency, kMostInFlight);
  }
  call->record = WorkflowRecord{.kind = WorkflowRecord::kGroup, .id = group.id};
  for (const Task& member : group.members) {
    call->record->task_ids.push_back(member.id);
  }
  if (group.callback.has_value()) {
    call->record->callback = EncodeTask(*group.callback);
    call->promised.push_back(
        PendingStateOf(*group.callback, scope_->environment->Now()));
  }
  if (group.on_failure.has_value()) {
    call->record->on_failure = EncodeTask(*group.on_failure);
  }
  call->unique = UniqueKeys::ClaimsOf(group.members);
  LinkGroup(group.members, group.id, call->record->callback);
  call->to_send = std::move(group.members);
  Start(std::move(call));
}

void Submitter::Start(CallPtr call) {
  if (call->nonce.empty()) {
    call->nonce = scope_->environment->NewUuid();
    call->create_time = scope_->environment->Now();
  }
  // The same as the record's: a PENDING of another time is a Go worker's.
  for (TaskState& state : call->promised) {
    state.create_time = call->create_time;
  }
  call->ttl = scope_->options.pending_expire_in;
  for (Task& task : call->to_send) {
    if (task.routing_key.empty()) {
      task.routing_key = scope_->broker->DefaultRoutingKey();
    }
    call->ttl = std::max(call->ttl, PendingTtl(*scope_, task));
  }
  if (call->unique.empty()) {
    CreateRecord(std::move(call));
    return;
  }
  for (UniqueClaim& claim : call->unique) {
    claim.ttl = call->ttl + kUniqueKeptOn;
  }
  unique_keys_.Claim(
      std::move(call->unique),
      [this, call](absl::StatusOr<std::vector<UniqueClaim>> taken) {
        if (!taken.ok()) {
          std::move(call->done)(taken.status());
          return;
        }
        call->taken = *std::move(taken);
        CreateRecord(call);
      });
}

void Submitter::CreateRecord(CallPtr call) {
  if (!call->record.has_value()) {
    CreateStates(std::move(call));
    return;
  }
  call->record->payload_hash = call->submission.payload_hash;
  call->record->nonce = call->nonce;
  call->record->create_time = call->create_time;
  scope_->backend->CreateRecord(
      *call->record, call->create_time + scope_->options.visit_interval,
      call->ttl,
      scope_->Guard<PendingAnswer>(
          [this, call](absl::StatusOr<PendingAnswer> answer) {
            if (!answer.ok()) {
              std::move(call->done)(answer.status());
              return;
            }
            if (*answer == PendingAnswer::kTaken) {
              const bool chain = call->record->kind == WorkflowRecord::kChain;
              Refuse(call, MakeError(
                  absl::StatusCode::kAlreadyExists,
                  chain ? reason::kTaskIdExists : reason::kGroupIdExists,
                  absl::StrCat(chain ? "a chain that begins with task "
                                     : "another group with the id ",
                               call->record->id, " exists already"),
                  {{chain ? "task_id" : "group_id", call->record->id}}));
              return;
            }
            CreateStates(call);
          }));
}

void Submitter::CreateStates(CallPtr call) {
  std::vector<PendingRequest> requests;
  auto add = [&](TaskState state) {
    requests.push_back({.state = std::move(state),
                        .payload_hash = call->submission.payload_hash,
                        .nonce = call->nonce,
                        .ttl = call->ttl});
  };
  for (const Task& task : call->to_send) {
    add(PendingStateOf(task, call->create_time));
  }
  for (const TaskState& state : call->promised) add(state);
  scope_->backend->CreatePending(
      std::move(requests),
      scope_->Guard<std::vector<PendingAnswer>>(
          [this, call](absl::StatusOr<std::vector<PendingAnswer>> answers) {
            if (!answers.ok()) {
              std::move(call->done)(answers.status());
              return;
            }
            call->answers = *std::move(answers);
            OnCreated(call);
          }));
}

void Submitter::OnCreated(CallPtr call) {
  auto taken = std::find(call->answers.begin(), call->answers.end(),
                         PendingAnswer::kTaken);
  if (taken != call->answers.end()) {
    const std::string id = call->AllIds()[taken - call->answers.begin()];
    TakeBack(call, MakeError(absl::StatusCode::kAlreadyExists,
                             reason::kTaskIdExists,
                             absl::StrCat("another task with the id ", id,
                                          " exists already"),
                             {{"task_id", id}}));
    return;
  }
  call->replayed = !call->OwnsAll();
  if (call->submission.on_recorded != nullptr) {
    call->submission.on_recorded(
        {.replayed = call->replayed, .create_time = call->create_time});
  }
  SendNext(std::move(call));
}

// Sends what the window lets through; the last one to settle goes on.
void Submitter::SendNext(CallPtr call) {
  std::vector<size_t> now;
  bool settled;
  {
    absl::MutexLock lock(&call->mu);
    while (call->next < call->to_send.size() &&
           call->in_flight < call->window) {
      const size_t index = call->next++;
      if (call->answers[index] == PendingAnswer::kPast) {
        ++call->sent;
        continue;
      }
      ++call->in_flight;
      now.push_back(index);
    }
    settled = call->in_flight == 0 && !call->settled;
    if (settled) call->settled = true;
  }
  for (size_t index : now) SendOne(call, index);
  if (settled) AllSettled(std::move(call));
}

void Submitter::SendOne(CallPtr call, size_t index) {
  Done settled = scope_->GuardDone([this, call, index](absl::Status status) {
    OnSent(call, index, std::move(status));
  });
  Dispatch(*scope_, call->to_send[index], call->submission.deadline,
           std::move(settled));
}

void Submitter::OnSent(CallPtr call, size_t index, absl::Status status) {
  if (status.ok() && call->to_send[index].eta.has_value()) {
    mover_->Expect(call->to_send[index].eta->time);
  }
  bool next;
  {
    absl::MutexLock lock(&call->mu);
    --call->in_flight;
    if (status.ok()) {
      ++call->sent;
    } else {
      // Only a returned message, or one too large, surely was not sent; and
      // not even that when another submission sends the same task.
      const bool surely_not = !IsTransient(status) &&
                              !absl::IsCancelled(status) &&
                              call->answers[index] == PendingAnswer::kCreated;
      if (!surely_not) ++call->unknown;
      // After Stop nothing more is asked of the broker, which may be gone.
      if (absl::IsCancelled(status)) call->next = call->to_send.size();
      if (call->failure.ok()) call->failure = std::move(status);
    }
    next = call->in_flight == 0 || call->next < call->to_send.size();
  }
  if (next) SendNext(std::move(call));
}

void Submitter::AllSettled(CallPtr call) {
  absl::Status failure;
  size_t sent;
  bool nothing_sent;
  {
    absl::MutexLock lock(&call->mu);
    failure = call->failure;
    sent = call->sent;
    nothing_sent = call->sent == 0 && call->unknown == 0;
  }
  if (failure.ok()) {
    FollowEnded(std::move(call));
    return;
  }
  if (nothing_sent && call->OwnsAll()) {
    TakeBack(std::move(call), std::move(failure));
    return;
  }
  if (sent > 0) {
    std::move(call->done)(MakeError(
        absl::StatusCode::kAborted, reason::kGroupPartiallySent,
        absl::StrCat(sent, " of ", call->to_send.size(),
                     " tasks were sent; repeat the call with the same ids to "
                     "send the rest: ",
                     std::string(failure.message())),
        {{"sent", absl::StrCat(sent)},
         {"total", absl::StrCat(call->to_send.size())}}));
    return;
  }
  if (!IsTransient(failure) && !absl::IsCancelled(failure)) {
    // One was refused for good, but another one, or another call's, may be
    // there.
    failure =
        MakeError(absl::StatusCode::kUnavailable, reason::kBrokerUnavailable,
                  absl::StrCat("some of it may have been sent: ",
                               std::string(failure.message())));
  }
  std::move(call->done)(std::move(failure));
}

// Nothing was sent, so nothing of this call stays; it answers `why`, or, where
// another call has taken up its states meanwhile, that it cannot tell.
void Submitter::TakeBack(CallPtr call, absl::Status why) {
  auto removed = [this, call](const absl::Status& answer) {
    Refuse(call, answer);
  };
  auto taken_back = [this, call, why,
                     removed](absl::StatusOr<bool> all_gone) mutable {
    const bool ours = call->OwnsAll();
    if (ours && (!all_gone.ok() || !*all_gone)) {
      std::move(call->done)(MakeError(
          absl::StatusCode::kUnavailable, reason::kBackendUnavailable,
          absl::StrCat("not sent, but its states could not be taken back: ",
                       std::string(why.message()))));
    } else if (!call->record.has_value()) {
      removed(why);
    } else {
      scope_->backend->RemoveRecord(
          call->record->kind, call->record->id, call->nonce,
          scope_->GuardDone([removed, why](absl::Status) { removed(why); }));
    }
  };
  scope_->backend->TakeBack(
      call->AllIds(), call->submission.payload_hash.empty() ? "" : call->nonce,
      scope_->Guard<bool>(std::move(taken_back)));
}

// Nothing of the call was kept.
void Submitter::Refuse(CallPtr call, absl::Status why) {
  unique_keys_.Release(std::move(call->taken), [call, why](absl::Status) {
    std::move(call->done)(why);
  });
}

// A task that was ended before an earlier try of this call could send it has
// never met a worker, which would end what follows it: so that is done here.
void Submitter::FollowEnded(CallPtr call) {
  std::vector<size_t> past;
  std::vector<std::string> ids;
  for (size_t i = 0; i < call->to_send.size(); ++i) {
    if (call->answers[i] != PendingAnswer::kPast) continue;
    past.push_back(i);
    ids.push_back(call->to_send[i].id);
  }
  if (past.empty()) {
    MarkSubmitted(std::move(call));
    return;
  }
  using States = std::vector<std::optional<TaskState>>;
  scope_->backend->GetStates(
      std::move(ids),
      scope_->Guard<States>([this, call, past = std::move(past)](
                                absl::StatusOr<States> states) {
        if (!states.ok()) {
          std::move(call->done)(states.status());
          return;
        }
        // One more, for this loop.
        auto open = std::make_shared<std::atomic<size_t>>(1);
        auto followed = [this, call, open](absl::Status status) {
          if (absl::IsCancelled(status)) call->stopped = true;
          if (--*open > 0) return;
          if (call->stopped) {
            std::move(call->done)(absl::CancelledError("stopped"));
          } else {
            MarkSubmitted(call);
          }
        };
        for (size_t i = 0; i < past.size(); ++i) {
          const std::optional<TaskState>& state = (*states)[i];
          if (!state.has_value() || !WasEndedByUs(*state)) continue;
          ++*open;
          continuation_->Follow(call->to_send[past[i]], *state, followed);
        }
        followed(absl::OkStatus());
      }));
}

void Submitter::MarkSubmitted(CallPtr call) {
  if (!call->record.has_value()) {
    Accept(std::move(call));
    return;
  }
  scope_->backend->MarkRecord(
      call->record->kind, call->record->id, RecordMark::kSubmitted,
      scope_->environment->Now(), call->ttl,
      scope_->Guard<bool>([this, call](absl::StatusOr<bool> marked) {
        if (!marked.ok()) {
          std::move(call->done)(marked.status());
          return;
        }
        if (!*marked) {
          std::move(call->done)(MakeError(
              absl::StatusCode::kUnavailable, reason::kBackendUnavailable,
              "the workflow's record is gone; it may or may not run to its "
              "end: repeat the call with the same ids"));
          return;
        }
        Accept(call);
      }));
}

void Submitter::Accept(CallPtr call) {
  if (!call->replayed) {
    std::move(call->done)(Submitted{.create_time = call->create_time});
    return;
  }
  // An equal call came before: its time is the one that counts.
  const std::string id = call->to_send.front().id;
  scope_->backend->GetStates(
      {id},
      scope_->Guard<std::vector<std::optional<TaskState>>>(
          [call](absl::StatusOr<std::vector<std::optional<TaskState>>> states) {
            Submitted submitted{.replayed = true,
                                .create_time = call->create_time};
            if (states.ok() && states->front().has_value()) {
              submitted.create_time = states->front()->create_time;
            }
            std::move(call->done)(submitted);
          }));
}

}  // namespace penstock
