#include "sdk/cpp/periodic.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/ids.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

// A timer is set anew so often, lest a clock that is set makes it late for
// long.
constexpr absl::Duration kLongestWait = absl::Seconds(30);
// How long a tick is tried to be sent.
constexpr absl::Duration kSendTime = absl::Seconds(30);
constexpr absl::Duration kRetry = absl::Seconds(1);

absl::Status Wrong(std::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("Schedule \"", std::string(name), "\": ", what));
}

absl::Status CheckTask(std::string_view name, const Task& task) {
  if (task.name.empty()) return Wrong(name, "a task has no name");
  if (!task.id.empty()) {
    return Wrong(name, absl::StrCat("task ", task.name,
                                    " has an id; leave it empty: each tick "
                                    "sends a new task"));
  }
  if (task.eta.has_value()) {
    return Wrong(name, absl::StrCat("task ", task.name,
                                    " has an eta, which is one time for all "
                                    "ticks; leave it out"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PeriodicEntry> MakePeriodicEntry(std::string_view spec,
                                                std::string_view name,
                                                PeriodicCall call) {
  if (name.empty()) return Wrong(name, "a schedule needs a name");
  if (call.tasks.empty()) return Wrong(name, "there is no task to send");
  for (const Task& task : call.tasks) {
    if (absl::Status status = CheckTask(name, task); !status.ok())
      return status;
  }
  for (size_t i = 0;
       call.kind == PeriodicCall::kChain && i + 1 < call.tasks.size(); ++i) {
    if (!call.tasks[i].on_success.empty()) {
      return Wrong(name, "only the last link of a chain may have on_success");
    }
  }
  if (call.callback.has_value()) {
    absl::Status status = CheckTask(name, *call.callback);
    if (!status.ok()) return status;
  }
  absl::StatusOr<CronSpec> cron = CronSpec::Parse(spec);
  if (!cron.ok()) {
    return Wrong(name, absl::StrCat("spec \"", std::string(spec),
                                    "\": ", cron.status().message()));
  }
  return PeriodicEntry{.name = std::string(name),
                       .spec = std::string(spec),
                       .cron = *cron,
                       .call = std::move(call)};
}

// A tick that has the lock: its tasks with their ids, which a repeat keeps.
struct Periodic::Sending {
  std::string name;
  PeriodicCall call;
  std::string group_id;
  Submission submission;
};

Periodic::Periodic(Lifecycle* lifecycle, Environment* environment,
                   PeriodicLock* lock, std::string program,
                   std::vector<PeriodicEntry> entries)
    : lifecycle_(lifecycle),
      environment_(environment),
      lock_(lock),
      program_(std::move(program)),
      entries_(std::move(entries)) {}

void Periodic::Start() {
  for (size_t i = 0; i < entries_.size(); ++i) {
    Arm(i, entries_[i].cron.Next(environment_->Now()));
  }
}

void Periodic::Drain(absl::Time deadline) {
  auto idle = [this] {
    mu_.AssertReaderHeld();
    return sending_ == 0;
  };
  absl::MutexLock lock(&mu_);
  draining_ = true;
  mu_.AwaitWithDeadline(absl::Condition(&idle), deadline);
}

void Periodic::Stop() { gate_.Close(); }

void Periodic::Arm(size_t index, absl::Time tick) {
  const absl::Duration wait =
      std::min(tick - environment_->Now(), kLongestWait);
  environment_->RunAfter(wait, [weak = weak_from_this(), index, tick] {
    auto self = weak.lock();
    if (self == nullptr || !self->gate_.Enter()) return;
    self->OnTime(index, tick);
    self->gate_.Leave();
  });
}

void Periodic::OnTime(size_t index, absl::Time tick) {
  const absl::Time now = environment_->Now();
  if (now < tick) return Arm(index, tick);
  {
    absl::MutexLock lock(&mu_);
    if (draining_) return;
    ++sending_;
  }
  const absl::Time next = entries_[index].cron.Next(now);
  Arm(index, next);
  if (lock_ == nullptr) return Fire(index);
  const PeriodicEntry& entry = entries_[index];
  lock_->TryLock(
      absl::StrCat("machinery_lock_", program_, entry.name, entry.spec), next,
      [self = shared_from_this(), index](absl::StatusOr<bool> locked) {
        if (!self->gate_.Enter()) return;
        if (locked.ok() && *locked) {
          self->Fire(index);
        } else {
          if (!locked.ok()) {
            Log(LogLevel::kWarning, "a periodic task is not sent: no lock",
                {{"schedule", self->entries_[index].name},
                 {"why", locked.status().message()}});
          }
          self->Ended();
        }
        self->gate_.Leave();
      });
}

void Periodic::Fire(size_t index) {
  const PeriodicEntry& entry = entries_[index];
  auto sending = std::make_shared<Sending>(
      Sending{.name = entry.name, .call = entry.call});
  PeriodicCall& call = sending->call;
  for (Task& task : call.tasks) task.id = "task_" + environment_->NewUuid();
  if (call.callback.has_value()) {
    call.callback->id = "chord_" + environment_->NewUuid();
  }
  sending->group_id = "group_" + environment_->NewUuid();
  sending->submission = {.payload_hash = Fingerprint(absl::StrCat(
                             "periodic\n", entry.name, "\n", call.tasks[0].id)),
                         .deadline = environment_->Now() + kSendTime};
  Send(std::move(sending));
}

void Periodic::Send(std::shared_ptr<Sending> sending) {
  auto done = [self = shared_from_this(),
               sending](absl::StatusOr<Submitted> submitted) {
    if (!self->gate_.Enter()) return;
    self->OnSent(sending, submitted.status());
    self->gate_.Leave();
  };
  const PeriodicCall& call = sending->call;
  switch (call.kind) {
    case PeriodicCall::kTask:
      return lifecycle_->SubmitTask(call.tasks[0], sending->submission,
                                    std::move(done));
    case PeriodicCall::kChain:
      return lifecycle_->SubmitChain(call.tasks, sending->submission,
                                     std::move(done));
    case PeriodicCall::kGroup:
    case PeriodicCall::kChord:
      return lifecycle_->SubmitGroup(
          {.id = sending->group_id,
           .members = call.tasks,
           .callback = call.callback,
           .send_concurrency = call.send_concurrency},
          sending->submission, std::move(done));
  }
}

void Periodic::OnSent(std::shared_ptr<Sending> sending,
                      const absl::Status& status) {
  // With the same ids, so what was sent already is not sent again.
  if ((IsTransient(status) || absl::IsAborted(status)) &&
      environment_->Now() + kRetry < sending->submission.deadline) {
    environment_->RunAfter(kRetry, [self = shared_from_this(), sending] {
      if (!self->gate_.Enter()) return;
      self->Send(sending);
      self->gate_.Leave();
    });
    return;
  }
  if (!status.ok() && !absl::IsCancelled(status)) {
    Log(LogLevel::kError, "a periodic task could not be sent",
        {{"schedule", sending->name}, {"why", status.message()}});
  }
  Ended();
}

void Periodic::Ended() {
  absl::MutexLock lock(&mu_);
  --sending_;
}

}  // namespace penstock
