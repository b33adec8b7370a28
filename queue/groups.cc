#include "queue/groups.h"

#include <algorithm>
#include <utility>

#include "queue/continuation.h"
#include "queue/next_steps.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

// A member list of 10,000 ids takes half a megabyte; a lost cursor only starts
// again at 0.
constexpr size_t kMostGroups = 128;
constexpr size_t kMostStatesPerRead = 1000;

void FinishAll(std::vector<Done> joiners, const absl::Status& status) {
  for (Done& done : joiners) std::move(done)(status);
}

}  // namespace

void Groups::Join(std::string group_id, std::string callback, Done done) {
  OpenGroupPtr group;
  size_t joined;
  {
    absl::MutexLock lock(&mu_);
    group = FindOrAdd(std::move(group_id), std::move(callback));
    joined = ++group->joined;
    if (group->pass_runs) {
      // Its reads may have passed this member before it was final.
      group->waiting.push_back(std::move(done));
      return;
    }
    group->pass_runs = true;
  }
  std::vector<Done> joiners;
  joiners.push_back(std::move(done));
  StartPass(std::move(group), joined, std::move(joiners));
}

Groups::OpenGroupPtr Groups::FindOrAdd(std::string group_id,
                                       std::string callback) {
  auto it = groups_.find(group_id);
  if (it != groups_.end()) return it->second;
  DropOldest();
  auto group = std::make_shared<OpenGroup>();
  group->id = group_id;
  group->callback = std::move(callback);
  groups_[group_id] = group;
  by_age_.push_back(std::move(group_id));
  return group;
}

void Groups::DropOldest() {
  if (groups_.size() < kMostGroups) return;
  for (auto id = by_age_.begin(); id != by_age_.end(); ++id) {
    auto it = groups_.find(*id);
    if (it->second->pass_runs) continue;
    groups_.erase(it);
    by_age_.erase(id);
    return;
  }
}

void Groups::Forget(const std::string& group_id) {
  absl::MutexLock lock(&mu_);
  groups_.erase(group_id);
  by_age_.remove(group_id);
}

void Groups::StartPass(OpenGroupPtr group, size_t joined,
                       std::vector<Done> joiners) {
  auto shared = std::make_shared<std::vector<Done>>(std::move(joiners));
  Learn(group, joined, [this, group, shared](absl::Status status) mutable {
    FinishAll(std::move(*shared), status);
    std::vector<Done> next;
    size_t joined;
    {
      absl::MutexLock lock(&mu_);
      joined = group->joined;
      next = std::exchange(group->waiting, {});
      if (next.empty() || !status.ok()) group->pass_runs = false;
    }
    if (next.empty()) return;
    if (status.ok()) {
      StartPass(std::move(group), joined, std::move(next));
    } else {
      FinishAll(std::move(next), status);
    }
  });
}

// Reads the group's record once, then reads on.
void Groups::Learn(OpenGroupPtr group, size_t joined, Done done) {
  if (group->known) {
    // So many more are final, at least; but one may hold the cursor up for long.
    const size_t count = joined - std::min(joined - 1, group->cursor);
    const bool stands = group->stands;
    group->begun_at = group->cursor;
    ReadOn(std::move(group), stands ? 1 : count, stands ? count : 1,
           std::move(done));
    return;
  }
  scope_->Repeat<std::optional<WorkflowRecord>>(
      [this, id = group->id](
          Callback<std::optional<WorkflowRecord>> cb) {
        scope_->backend->GetRecord(WorkflowRecord::kGroup, id, std::move(cb));
      },
      [this, group, joined, done = std::move(done)](
          absl::StatusOr<std::optional<WorkflowRecord>> record) mutable {
        if (!record.ok()) {
          std::move(done)(record.status());
          return;
        }
        if (!record->has_value()) {
          Adopt(std::move(group), std::move(done));
          return;
        }
        group->record = **std::move(record);
        group->known = true;
        ReadOn(std::move(group), joined, 1, std::move(done));
      });
}

// A Go client laid this group: gives it a record, from machinery's own.
void Groups::Adopt(OpenGroupPtr group, Done done) {
  auto fail = [group](absl::string_view what) {
    Log(LogLevel::kWarning, "chord cannot be ended",
        {{"group", group->id}, {"why", what}});
  };
  auto adopt = [this, group, fail, done = std::move(done)](
                   absl::StatusOr<std::optional<GroupMeta>> meta) mutable {
    if (!meta.ok()) {
      std::move(done)(meta.status());
      return;
    }
    if (!meta->has_value() || (*meta)->task_ids.empty()) {
      fail("its record has expired");
      std::move(done)(absl::OkStatus());
      return;
    }
    const absl::Time now = scope_->environment->Now();
    WorkflowRecord record{.id = group->id,
                          .task_ids = std::move((*meta)->task_ids),
                          .callback = group->callback,
                          .nonce = scope_->environment->NewUuid(),
                          .create_time = now};
    auto created = [this, group, record,
                    done = std::move(done)](absl::StatusOr<bool> ok) mutable {
      if (!ok.ok()) {
        std::move(done)(ok.status());
        return;
      }
      record.submitted = true;
      group->record = std::move(record);
      group->known = true;
      ReadOn(std::move(group), 1, 1, std::move(done));
    };
    scope_->Repeat<PendingAnswer>(
        [this, record, now](Callback<PendingAnswer> cb) {
          scope_->backend->CreateRecord(record,
                                        now + scope_->options.visit_interval,
                                        scope_->options.pending_expire_in,
                                        std::move(cb));
        },
        [this, record, created = std::move(created)](
            absl::StatusOr<PendingAnswer> answer) mutable {
          if (!answer.ok()) {
            std::move(created)(answer.status());
            return;
          }
          scope_->Repeat<bool>(
              [this, id = record.id](Callback<bool> cb) {
                scope_->backend->MarkRecord(
                    WorkflowRecord::kGroup, id, RecordMark::kSubmitted,
                    scope_->environment->Now(),
                    scope_->options.pending_expire_in, std::move(cb));
              },
              std::move(created));
        });
  };
  scope_->Repeat<std::optional<GroupMeta>>(
      [this, id = group->id](Callback<std::optional<GroupMeta>> cb) {
        scope_->backend->GetGroupMeta(id, std::move(cb));
      },
      std::move(adopt));
}

// Moves the cursor over final members, `count` and then `next` at a time and then
// twice as many, until it meets one that is not.
void Groups::ReadOn(OpenGroupPtr group, size_t count, size_t next, Done done) {
  const std::vector<std::string>& ids = group->record.task_ids;
  if (group->cursor == ids.size()) {
    const WorkflowRecord record = group->record;
    // A state may still turn back (a repeated delivery on a Go worker): then the
    // next one to join starts over.
    group->cursor = 0;
    EndChord(record, [this, id = record.id,
                      done = std::move(done)](absl::Status status) mutable {
      Forget(id);
      std::move(done)(std::move(status));
    });
    return;
  }
  count = std::min({count, kMostStatesPerRead, ids.size() - group->cursor});
  std::vector<std::string> asked(ids.begin() + group->cursor,
                                 ids.begin() + group->cursor + count);
  scope_->Repeat<std::vector<std::optional<TaskState>>>(
      [this, asked = std::move(asked)](
          Callback<std::vector<std::optional<TaskState>>> cb) {
        scope_->backend->GetStates(asked, std::move(cb));
      },
      [this, group, next, done = std::move(done)](
          absl::StatusOr<std::vector<std::optional<TaskState>>> states) mutable {
        if (!states.ok()) {
          std::move(done)(states.status());
          return;
        }
        for (const std::optional<TaskState>& state : *states) {
          if (!state.has_value() || !IsFinal(state->status)) {
            group->stands = group->cursor == group->begun_at;
            std::move(done)(absl::OkStatus());
            return;
          }
          ++group->cursor;
        }
        ReadOn(std::move(group), next, 2 * next, std::move(done));
      });
}

void Groups::EndChord(WorkflowRecord record, Done done) {
  auto shared = std::make_shared<const WorkflowRecord>(std::move(record));
  scope_->Repeat<std::vector<std::optional<TaskState>>>(
      [this, shared](Callback<std::vector<std::optional<TaskState>>> cb) {
        scope_->backend->GetStates(shared->task_ids, std::move(cb));
      },
      [this, shared, done = std::move(done)](
          absl::StatusOr<std::vector<std::optional<TaskState>>> states) mutable {
        if (!states.ok()) {
          std::move(done)(states.status());
          return;
        }
        auto members = std::make_shared<std::vector<TaskState>>();
        for (std::optional<TaskState>& state : *states) {
          if (!state.has_value() || !IsFinal(state->status)) {
            std::move(done)(absl::OkStatus());
            return;
          }
          members->push_back(*std::move(state));
        }
        Claim(shared, members, scope_->environment->NewUuid(), std::move(done));
      });
}

void Groups::Claim(std::shared_ptr<const WorkflowRecord> record,
                   std::shared_ptr<const std::vector<TaskState>> members,
                   std::string token, Done done) {
  scope_->Repeat<ClaimAnswer>(
      [this, id = record->id, token](Callback<ClaimAnswer> cb) {
        scope_->backend->ClaimChord(id, token, scope_->environment->Now(),
                                    scope_->options.pending_expire_in,
                                    std::move(cb));
      },
      [this, record, members, token,
       done = std::move(done)](absl::StatusOr<ClaimAnswer> answer) mutable {
        if (!answer.ok()) {
          std::move(done)(answer.status());
          return;
        }
        if (*answer == ClaimAnswer::kWon) {
          SendChord(*record, *members, std::move(done));
          return;
        }
        if (*answer == ClaimAnswer::kRefused) {
          std::move(done)(absl::OkStatus());
          return;
        }
        // A Go worker decides about some chord, a matter of milliseconds.
        scope_->After(absl::Milliseconds(5 + 20 * scope_->environment->Random()),
                      [this, record, members, token, done = std::move(done)](
                          absl::Status status) mutable {
                        if (!status.ok()) {
                          std::move(done)(std::move(status));
                          return;
                        }
                        Claim(record, members, token, std::move(done));
                      });
      });
}

void Groups::SendChord(const WorkflowRecord& record,
                       const std::vector<TaskState>& members, Done done) {
  absl::StatusOr<std::vector<Step>> steps =
      ChordSteps(record.callback, record.on_failure, members);
  if (!steps.ok()) {
    Log(LogLevel::kError, "chord callback cannot be decoded; dropped",
        {{"group", record.id}, {"why", steps.status().ToString()}});
    steps = std::vector<Step>{};
  }
  continuation_->CarryOut(
      *std::move(steps), [this, id = record.id, done = std::move(done)](
                             absl::Status status) mutable {
        if (!status.ok()) {
          std::move(done)(std::move(status));
          return;
        }
        scope_->Repeat<bool>(
            [this, id](Callback<bool> cb) {
              scope_->backend->MarkRecord(
                  WorkflowRecord::kGroup, id, RecordMark::kSent,
                  scope_->environment->Now(), scope_->options.pending_expire_in,
                  std::move(cb));
            },
            AsCallback(std::move(done)));
      });
}

}  // namespace penstock
