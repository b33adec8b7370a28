#include "gateway/send_and_wait.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace penstock {
namespace {

// Whether a worker has had the task, so that the broker took it. What was
// cancelled or has expired may have met none.
bool HasMetAWorker(const TaskState& state) {
  return state.attempt > 0 || state.status == Status::kSuccess;
}

}  // namespace

SendAndWait::SendAndWait(World world, Waiters::Ticket ticket, absl::Time until,
                         const Task& task, Permit permit,
                         std::shared_ptr<UnaryCall> call, Fill fill)
    : world_(std::move(world)),
      ticket_(ticket),
      id_(task.id),
      until_(until),
      call_(std::move(call)),
      pending_{.task_id = task.id, .task_name = task.name},
      permit_(std::move(permit)),
      fill_(std::move(fill)) {}

void SendAndWait::OnRecorded(const Submitted& submitted) {
  {
    absl::MutexLock lock(&mu_);
    submitted_ = submitted;
  }
  Begin(submitted);
}

void SendAndWait::OnSent(absl::StatusOr<Sent> sent) {
  if (!sent.ok()) {
    call_->Fail(sent.status());
    world_.waiters->Forget(ticket_);
    return;
  }
  bool begun;
  {
    absl::MutexLock lock(&mu_);
    begun = submitted_.has_value();
    submitted_ = sent->submitted;
    accepted_ = true;
  }
  // A repeat of a request that was accepted before records nothing.
  if (!begun) return Begin(sent->submitted);
  AnswerIfDone();
}

void SendAndWait::Begin(const Submitted& submitted) {
  if (!submitted.replayed) {
    pending_.create_time = submitted.create_time;
    return Wait(std::move(pending_));
  }
  // It may have ended long ago.
  using States = std::vector<State>;
  world_.backend->GetStates(
      {id_},
      [self = shared_from_this()](absl::StatusOr<States> states) {
        if (!states.ok()) {
          if (absl::IsUnavailable(states.status())) {
            return self->Wait(std::nullopt);
          }
          return self->OnWaited(states.status());
        }
        State state = std::move(states->front());
        if (!state.has_value() || IsFinal(state->status)) {
          return self->OnWaited(std::move(state));
        }
        self->Wait(std::move(state));
      });
}

void SendAndWait::Wait(State known) {
  world_.waiters->Wait(
      ticket_, id_, Waiters::Until::kFinal, std::move(known), until_,
      [self = shared_from_this(),
       permit = std::move(permit_)](absl::StatusOr<State> state) {
        self->OnWaited(std::move(state));
      });
  // It may have ended before that wait could be forgotten.
  if (call_->ended()) world_.waiters->Forget(ticket_);
}

void SendAndWait::OnWaited(absl::StatusOr<State> state) {
  {
    absl::MutexLock lock(&mu_);
    waited_ = true;
    if (state.ok()) state_ = *std::move(state);
  }
  AnswerIfDone();
}

void SendAndWait::AnswerIfDone() {
  Submitted submitted;
  State state;
  {
    absl::MutexLock lock(&mu_);
    const bool ran = state_.has_value() && HasMetAWorker(*state_);
    if (answered_ || !waited_ || !(accepted_ || ran)) return;
    answered_ = true;
    submitted = *submitted_;
    state = std::move(state_);
    // An equal call came before: its time is the one that counts.
    if (!accepted_ && submitted.replayed) {
      submitted.create_time = state->create_time;
    }
  }
  call_->Reply([&] { fill_(submitted, state); });
}

}  // namespace penstock
