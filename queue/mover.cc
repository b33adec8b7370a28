#include "queue/mover.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/dispatch.h"
#include "queue/errors.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

// How long to sleep when this process expects nothing: another one may have
// laid a task and died.
constexpr absl::Duration kIdle = absl::Milliseconds(500);
constexpr absl::Duration kShortestPause = absl::Milliseconds(5);
// So many are leased and on their way at a time, and a batch.
constexpr size_t kMostInFlight = 1000;

}  // namespace

void Mover::Start() {
  {
    absl::MutexLock lock(&mu_);
    started_ = true;
  }
  WakeAt(scope_->environment->Now());
}

void Mover::WakeAt(absl::Time time) {
  const absl::Time now = scope_->environment->Now();
  time = std::max(time, now);
  {
    absl::MutexLock lock(&mu_);
    // An earlier wake-up looks after this one too.
    if (!started_ || next_wake_ <= time) return;
    next_wake_ = time;
  }
  scope_->After(time - now, [this, time](absl::Status status) {
    if (!status.ok()) return;
    {
      absl::MutexLock lock(&mu_);
      if (next_wake_ != time || round_runs_) return;
      next_wake_ = absl::InfiniteFuture();
      round_runs_ = true;
    }
    Round();
  });
}

void Mover::Round() {
  const absl::Time lease_end =
      scope_->environment->Now() + scope_->options.lease;
  scope_->backend->LeaseDue(
      scope_->options.mover_batch, scope_->options.lease,
      scope_->Guard<LeasedBatch>([this, lease_end](
                                     absl::StatusOr<LeasedBatch> batch) {
        if (!batch.ok()) {
          RoundEnded(/*more=*/false, std::nullopt);
          return;
        }
        if (batch->tasks.empty()) {
          // The backend's clock may be behind ours: do not spin until then.
          std::optional<absl::Time> next = batch->next_due;
          const absl::Time soon = scope_->environment->Now() + kShortestPause;
          if (next.has_value()) next = std::max(*next, soon);
          RoundEnded(/*more=*/false, next);
          return;
        }
        const bool more = static_cast<int>(batch->tasks.size()) ==
                          scope_->options.mover_batch;
        bool go_on;
        {
          absl::MutexLock lock(&mu_);
          in_flight_ += batch->tasks.size();
          go_on = !more || in_flight_ < kMostInFlight;
          round_waits_ = !go_on;
        }
        for (LeasedTask& leased : batch->tasks) {
          Publish(std::move(leased), lease_end,
                  [this](absl::Status) { Settled(); });
        }
        if (go_on) RoundEnded(more, batch->next_due);
      }));
}

// The next round does not wait for the publishes of the last one, but for room.
void Mover::Settled() {
  {
    absl::MutexLock lock(&mu_);
    --in_flight_;
    if (!round_waits_ || in_flight_ >= kMostInFlight) return;
    round_waits_ = false;
  }
  RoundEnded(/*more=*/true, std::nullopt);
}

void Mover::RoundEnded(bool more, std::optional<absl::Time> next_due) {
  const absl::Time now = scope_->environment->Now();
  absl::Time wake = more ? now : now + kIdle;
  if (next_due.has_value()) wake = std::min(wake, *next_due);
  {
    absl::MutexLock lock(&mu_);
    round_runs_ = false;
    // What Expect asked for during the round.
    wake = std::min(wake, std::exchange(next_wake_, absl::InfiniteFuture()));
  }
  WakeAt(wake);
}

void Mover::Publish(LeasedTask leased, absl::Time lease_end, Done done) {
  Message message = MessageOf(leased.task);  // before `leased` is moved from
  scope_->broker->Publish(
      std::move(message),
      scope_->GuardDone([this, leased = std::move(leased), lease_end,
                         done = std::move(done)](absl::Status status) mutable {
        const absl::Duration unroutable = UnroutableFor(
            leased.task.task_id, ReasonOf(status) == reason::kQueueNotFound);
        if (status.ok()) {
          // A failure here lets it be published again when the lease ends.
          scope_->backend->RemoveLeased(std::move(leased),
                                        scope_->GuardDone(std::move(done)));
          return;
        }
        const absl::Time now = scope_->environment->Now();
        if (IsTransient(status) &&
            now + scope_->options.lease / 2 < lease_end) {
          scope_->After(scope_->Backoff(3), [this, leased = std::move(leased),
                                             lease_end, done = std::move(done)](
                                                absl::Status status) mutable {
            if (!status.ok()) {
              std::move(done)(std::move(status));
              return;
            }
            Publish(std::move(leased), lease_end, std::move(done));
          });
          return;
        }
        if (!absl::IsCancelled(status) && !IsTransient(status) &&
            (unroutable > scope_->options.unroutable_limit ||
             ReasonOf(status) != reason::kQueueNotFound)) {
          EndUnroutable(std::move(leased), std::move(status), std::move(done));
          return;
        }
        std::move(done)(std::move(status));
      }));
}

// How long no queue has taken this task. Once one does, it is forgotten.
absl::Duration Mover::UnroutableFor(const std::string& task_id,
                                    bool unroutable) {
  const absl::Time now = scope_->environment->Now();
  absl::MutexLock lock(&mu_);
  if (unroutable) {
    return now - unroutable_since_.try_emplace(task_id, now).first->second;
  }
  unroutable_since_.erase(task_id);
  return absl::ZeroDuration();
}

void Mover::EndUnroutable(LeasedTask leased, absl::Status why, Done done) {
  absl::StatusOr<Task> task = DecodeTask(leased.task.body);
  if (!task.ok()) {
    std::move(done)(task.status());
    return;
  }
  std::string queue =
      leased.task.queue.empty() ? leased.task.routing_key : leased.task.queue;
  continuation_->End(
      *std::move(task), Continuation::EndWhich::kNotFinal,
      {.error = std::string(why.message()),
       .error_type = std::string(kErrorUnroutable)},
      std::move(queue),
      scope_->GuardDone([this, leased = std::move(leased),
                         done = std::move(done)](absl::Status status) mutable {
        if (!status.ok()) {
          std::move(done)(std::move(status));
          return;
        }
        UnroutableFor(leased.task.task_id, /*unroutable=*/false);
        scope_->backend->RemoveLeased(std::move(leased),
                                      scope_->GuardDone(std::move(done)));
      }));
}

}  // namespace penstock
