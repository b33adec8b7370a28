#include "queue/dead_letters.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/dispatch.h"
#include "queue/errors.h"
#include "queue/ids.h"
#include "queue/policy.h"
#include "queue/wire/task_json.h"
#include "queue/workflow.h"

namespace penstock {
namespace {

using States = std::vector<std::optional<TaskState>>;

absl::Status NotDead(const std::string& queue, const std::string& task_id) {
  return MakeError(
      absl::StatusCode::kNotFound, reason::kTaskNotFound,
      absl::StrCat("no dead letter of task ", task_id, " lies in queue ", queue,
                   ": ListDeadTasks shows what does; it may have been sent "
                   "again or deleted, or lie in another queue"),
      {{"task_id", task_id}, {"queue", queue}});
}

// As the backend keeps it, and a claim.
absl::Time ToMillis(absl::Time time) {
  return absl::FromUnixMillis(absl::ToUnixMillis(time));
}

// Of one death there is one copy, whoever asks for it and however often.
std::string CopyId(const std::string& task_id, absl::Time time_of_death) {
  return absl::StrCat("task_", NamedUuid(absl::StrCat(
                                   "retry\n", absl::ToUnixMillis(time_of_death),
                                   "\n", task_id)));
}

// The same work, as if it were sent now. It has as many retries left as the
// dead one had.
Task CopyOf(Task dead, const std::string& dead_id, std::string copy_id) {
  DetachCopy(dead, dead_id, std::move(copy_id));
  dead.eta.reset();
  dead.headers.erase(std::string(kAttemptHeader));
  dead.headers.erase(std::string(kUnknownSinceHeader));
  dead.headers.erase(std::string(kPassesHeader));
  DropExpiry(dead);
  return dead;
}

// Whether nothing of the call was kept, so that a repeat is a new call.
bool WasRefused(const absl::Status& status) {
  return !status.ok() && !IsTransient(status) && !absl::IsAborted(status) &&
         !absl::IsCancelled(status);
}

}  // namespace

// One Retry. One callback at a time, so it needs no lock.
struct DeadLetters::Call {
  RetryCall asked;
  Callback<RetriedTask> done;
  std::optional<DeadTask> letter;
  absl::Time time_of_death;
  std::string nonce;  // of the claim; empty: none
  Task copy;
  Submitted submitted;

  void Fail(absl::Status why) { std::move(done)(std::move(why)); }
};

std::string DeadLetters::QueueOf(std::string queue) const {
  return queue.empty() ? scope_->broker->DefaultQueue() : std::move(queue);
}

void DeadLetters::List(std::string queue, int limit,
                       std::optional<DeadPlace> after,
                       Callback<std::vector<DeadTask>> done) {
  scope_->backend->ListDead(
      QueueOf(std::move(queue)), limit, std::move(after),
      scope_->Guard<std::vector<DeadTask>>(std::move(done)));
}

void DeadLetters::Delete(std::string queue, std::string task_id,
                         Callback<DeadTask> done) {
  queue = QueueOf(std::move(queue));
  scope_->backend->RemoveDead(
      queue, task_id, std::nullopt,
      scope_->Guard<std::optional<DeadTask>>(
          [queue, task_id, done = std::move(done)](
              absl::StatusOr<std::optional<DeadTask>> removed) mutable {
            if (!removed.ok()) {
              std::move(done)(removed.status());
            } else if (!removed->has_value()) {
              std::move(done)(NotDead(queue, task_id));
            } else {
              std::move(done)(**std::move(removed));
            }
          }));
}

void DeadLetters::Retry(RetryCall asked, Callback<RetriedTask> done) {
  auto call = std::make_shared<Call>();
  call->asked = std::move(asked);
  call->asked.queue = QueueOf(std::move(call->asked.queue));
  call->done = std::move(done);
  scope_->backend->GetDead(
      call->asked.queue, call->asked.task_id,
      scope_->Guard<std::optional<DeadTask>>(
          [this, call](absl::StatusOr<std::optional<DeadTask>> letter) {
            if (!letter.ok()) return call->Fail(letter.status());
            call->letter = *std::move(letter);
            if (!call->asked.request_id.empty()) return Claim(call);
            if (!call->letter.has_value()) {
              return call->Fail(
                  NotDead(call->asked.queue, call->asked.task_id));
            }
            call->time_of_death = ToMillis(call->letter->time);
            SendCopy(call);
          }));
}

// The claim remembers the time of death, from which the copy's id follows: so a
// repeat knows it when the dead letter is gone.
void DeadLetters::Claim(CallPtr call) {
  const absl::Time time =
      ToMillis(call->letter.has_value() ? call->letter->time
                                        : scope_->environment->Now());
  requests_->ClaimAsOf(
      time, call->asked.request_id,
      Fingerprint(absl::StrCat("RetryTask\n", call->asked.queue, "\n",
                               call->asked.task_id)),
      call->asked.deadline, [this, call](absl::StatusOr<RequestAnswer> claim) {
        if (!claim.ok()) return call->Fail(claim.status());
        OnClaimed(call, *std::move(claim));
      });
}

void DeadLetters::OnClaimed(CallPtr call, RequestAnswer claim) {
  call->time_of_death = ToMillis(claim.time);
  if (claim.kind == RequestAnswer::kDone) {
    call->submitted.replayed = true;
    return TakeAway(std::move(call));
  }
  call->nonce = std::move(claim.nonce);
  if (call->letter.has_value() &&
      ToMillis(call->letter->time) == call->time_of_death) {
    return SendCopy(std::move(call));
  }
  // It was never there, or an earlier try has taken it away and then died.
  const std::string id = CopyId(call->asked.task_id, call->time_of_death);
  scope_->backend->GetStates(
      {id}, scope_->Guard<States>([this, call](absl::StatusOr<States> states) {
        if (!states.ok()) return EndRequest(call, states.status());
        if (!states->front().has_value()) {
          return EndRequest(call,
                            NotDead(call->asked.queue, call->asked.task_id));
        }
        call->submitted.replayed = true;
        EndRequest(call, absl::OkStatus());
      }));
}

void DeadLetters::SendCopy(CallPtr call) {
  absl::StatusOr<Task> dead = DecodeTask(call->letter->body);
  if (!dead.ok()) {
    return EndRequest(
        call,
        MakeError(absl::StatusCode::kInternal, reason::kInternal,
                  absl::StrCat("the dead letter of ", call->asked.task_id,
                               " is no task: ", dead.status().message())));
  }
  call->copy = CopyOf(*std::move(dead), call->asked.task_id,
                      CopyId(call->asked.task_id, call->time_of_death));
  submitter_->SubmitTask(call->copy,
                         {.payload_hash = Fingerprint(absl::StrCat(
                              "RetryTask\n", EncodeTask(call->copy))),
                          .deadline = call->asked.deadline},
                         [this, call](absl::StatusOr<Submitted> submitted) {
                           if (submitted.ok()) call->submitted = *submitted;
                           EndRequest(call, submitted.status());
                         });
}

// Says how the request ended, if there is one, and goes on.
void DeadLetters::EndRequest(CallPtr call, absl::Status how) {
  auto go_on = [this, call, how](absl::Status ended) {
    if (!how.ok()) return call->Fail(how);
    // After Stop nothing is asked of the backend.
    if (absl::IsCancelled(ended)) return call->Fail(std::move(ended));
    TakeAway(call);
  };
  if (call->nonce.empty()) return go_on(absl::OkStatus());
  const RequestEnd end = how.ok()          ? RequestEnd::kAccepted
                         : WasRefused(how) ? RequestEnd::kRefused
                                           : RequestEnd::kOpen;
  requests_->End(call->asked.request_id, call->nonce, end, std::move(go_on));
}

// Only now: the copy was confirmed.
void DeadLetters::TakeAway(CallPtr call) {
  scope_->backend->RemoveDead(
      call->asked.queue, call->asked.task_id, call->time_of_death,
      scope_->Guard<std::optional<DeadTask>>(
          [this, call](absl::StatusOr<std::optional<DeadTask>> removed) {
            if (removed.ok()) return Answer(call);
            call->Fail(Annotate(removed.status(),
                                "the copy was sent, but its dead letter still "
                                "lies there; repeat the call"));
          }));
}

void DeadLetters::Answer(CallPtr call) {
  const std::string id = CopyId(call->asked.task_id, call->time_of_death);
  if (!call->submitted.replayed) {
    std::move(call->done)(RetriedTask{
        .state = PendingStateOf(call->copy, call->submitted.create_time)});
    return;
  }
  scope_->backend->GetStates(
      {id}, scope_->Guard<States>([call, id](absl::StatusOr<States> states) {
        if (!states.ok()) return call->Fail(states.status());
        std::optional<TaskState>& state = states->front();
        // It may have ended long ago: then its id is all that is left.
        std::move(call->done)(RetriedTask{
            .state = state.has_value()
                         ? *std::move(state)
                         : TaskState{.task_id = id, .status = Status::kUnknown},
            .replayed = true});
      }));
}

}  // namespace penstock
