#include "queue/sweeper.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/next_steps.h"
#include "queue/policy.h"
#include "queue/telemetry/log.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

constexpr int kEntriesPerRound = 100;
// Visits at the same time: each is a handful of round trips that wait.
constexpr int kLanes = 8;

using States = std::vector<std::optional<TaskState>>;

bool Ended(const std::optional<TaskState>& state) {
  return state.has_value() && IsFinal(state->status);
}

// A Go worker writes PENDING anew just before it sends a callback. Then a backlog
// keeps that waiting, and not a worker's death; a second copy would be run again
// by a Go worker, which does not know the one from the other.
bool GoWrotePending(const std::optional<TaskState>& callback,
                    const WorkflowRecord& record) {
  return callback.has_value() && callback->status == Status::kPending &&
         absl::ToUnixMillis(callback->create_time) !=
             absl::ToUnixMillis(record.create_time);
}

// Ends what should have begun by now. Their own steps come with their deliveries.
std::vector<Step> ExpireSteps(const States& states, absl::Time now) {
  std::vector<Step> steps;
  for (const std::optional<TaskState>& state : states) {
    if (!state.has_value() || state->status != Status::kPending ||
        now < state->expiry.value_or(absl::InfiniteFuture())) {
      continue;
    }
    steps.push_back(Abandon{.task_id = state->task_id,
                            .task_name = state->task_name,
                            .cause = ExpiryText(*state->expiry),
                            .error_type = std::string(kErrorExpired)});
  }
  return steps;
}

// The callback of a chord and what it promises, callback first.
std::vector<std::string> CallbackIds(const WorkflowRecord& record) {
  std::vector<std::string> ids;
  if (record.callback.empty()) return ids;
  absl::StatusOr<Task> callback = DecodeTask(record.callback);
  if (!callback.ok()) return ids;
  ids.push_back(callback->id);
  for (Promised& promised : PromisedAfter(*callback)) {
    ids.push_back(std::move(promised.task_id));
  }
  return ids;
}

}  // namespace

// One visit of one entry. Whatever it does, it calls `done` once at the end.
struct Sweeper::Visit {
  OpenEntry entry;
  Done done;
  WorkflowRecord record;
  size_t members = 0;  // the first of `states`; the others are the callback's
  States states;

  void End() { std::move(done)(absl::OkStatus()); }
};

// The entries of one round; each lane takes the next one that is left.
struct Sweeper::Visits {
  std::vector<OpenEntry> entries;  // constant
  std::atomic<size_t> next{0};
  std::atomic<int> ended{0};  // lanes that found nothing more
};

void Sweeper::Start() {
  scope_->After(scope_->options.visit_interval *
                    (0.5 + scope_->environment->Random() / 2),
                [this](absl::Status status) {
                  if (status.ok()) Round();
                });
}

void Sweeper::Round() {
  const absl::Time now = scope_->environment->Now();
  scope_->backend->LeaseOpen(
      now, now + scope_->options.visit_interval, kEntriesPerRound,
      scope_->Guard<std::vector<OpenEntry>>(
          [this](absl::StatusOr<std::vector<OpenEntry>> entries) {
            if (absl::IsCancelled(entries.status())) return;
            if (!entries.ok() || entries->empty()) {
              Start();
              return;
            }
            auto visits = std::make_shared<Visits>();
            visits->entries = *std::move(entries);
            for (int lane = 0; lane < kLanes; ++lane) VisitNext(visits);
          }));
}

void Sweeper::VisitNext(std::shared_ptr<Visits> visits) {
  const size_t next = visits->next.fetch_add(1);
  if (next >= visits->entries.size()) {
    if (visits->ended.fetch_add(1) + 1 < kLanes) return;
    if (visits->entries.size() == kEntriesPerRound) {
      Round();
    } else {
      Start();
    }
    return;
  }
  StartVisit(visits->entries[next], [this, visits](absl::Status status) {
    // What could not be done now is done at the next visit.
    if (!absl::IsCancelled(status)) VisitNext(visits);
  });
}

void Sweeper::StartVisit(OpenEntry entry, Done done) {
  auto visit =
      std::make_shared<Visit>(Visit{.entry = entry, .done = std::move(done)});
  scope_->backend->GetRecord(
      entry.kind, entry.id,
      scope_->Guard<std::optional<WorkflowRecord>>(
          [this, visit](absl::StatusOr<std::optional<WorkflowRecord>> record) {
            if (!record.ok()) {
              std::move(visit->done)(record.status());
              return;
            }
            if (record->has_value()) {
              visit->record = **std::move(record);
              ReadStates(visit);
              return;
            }
            // A submission that died before it wrote the record; its client may
            // still come back with the same call.
            if (scope_->environment->Now() - visit->entry.open_time >
                scope_->options.request_window) {
              Close(visit);
              return;
            }
            visit->End();
          }));
}

void Sweeper::ReadStates(VisitPtr visit) {
  std::vector<std::string> ids = visit->record.task_ids;
  visit->members = ids.size();
  for (std::string& id : CallbackIds(visit->record))
    ids.push_back(std::move(id));
  auto read = [this, visit, ids](absl::Status status) {
    if (!status.ok()) {
      std::move(visit->done)(std::move(status));
      return;
    }
    scope_->backend->GetStates(
        ids,
        scope_->Guard<States>([this, visit](absl::StatusOr<States> states) {
          if (!states.ok()) {
            std::move(visit->done)(states.status());
            return;
          }
          visit->states = *std::move(states);
          std::vector<Step> expired =
              ExpireSteps(visit->states, scope_->environment->Now());
          if (!expired.empty()) {
            continuation_->CarryOut(std::move(expired),
                                    std::move(visit->done));
          } else if (visit->record.kind == WorkflowRecord::kChain) {
            VisitChain(visit);
          } else {
            VisitGroup(visit);
          }
        }));
  };
  auto refresh = [this, ids,
                  read = std::move(read)](absl::StatusOr<bool> marked) mutable {
    if (!marked.ok()) {
      std::move(read)(marked.status());
      return;
    }
    // Not what has begun: a STARTED that no worker refreshes is a ghost's.
    scope_->backend->Refresh(ids, Backend::RefreshWhich::kNotBegun,
                             scope_->options.pending_expire_in,
                             scope_->options.results_expire_in,
                             scope_->GuardDone(std::move(read)));
  };
  scope_->backend->MarkRecord(visit->record.kind, visit->record.id,
                              RecordMark::kVisited, scope_->environment->Now(),
                              scope_->options.pending_expire_in,
                              scope_->Guard<bool>(std::move(refresh)));
}

void Sweeper::VisitChain(VisitPtr visit) {
  const WorkflowRecord& record = visit->record;
  if (!record.submitted && scope_->environment->Now() - record.create_time >
                               scope_->options.request_window) {
    GiveUp(visit, "the chain was not submitted to its end");
    return;
  }
  auto failed = std::find_if(
      visit->states.begin(), visit->states.end(), [](const auto& state) {
        return state.has_value() && state->status == Status::kFailure;
      });
  if (failed != visit->states.end()) {
    const size_t index = failed - visit->states.begin();
    std::vector<std::string> rest(record.task_ids.begin() + index + 1,
                                  record.task_ids.end());
    std::erase_if(rest, [&](const std::string& id) {
      const size_t at =
          std::find(record.task_ids.begin(), record.task_ids.end(), id) -
          record.task_ids.begin();
      return Ended(visit->states[at]);
    });
    if (!rest.empty()) {
      AbandonAll(std::move(rest),
                 FailureCause("link", (*failed)->task_name,
                              record.task_ids[index], (*failed)->error),
                 std::move(visit->done));
      return;
    }
  }
  if (std::all_of(visit->states.begin(), visit->states.end(), Ended)) {
    Close(visit);
    return;
  }
  visit->End();
}

void Sweeper::VisitGroup(VisitPtr visit) {
  const WorkflowRecord& record = visit->record;
  const auto members_end = visit->states.begin() + visit->members;
  if (!record.submitted) {
    if (scope_->environment->Now() - record.create_time >
        scope_->options.request_window) {
      GiveUp(visit, "the group was not submitted to its end");
      return;
    }
  } else if (record.sent && members_end != visit->states.end() &&
             !members_end->has_value()) {
    // Its callback has ended, and expired while no one looked; so may members.
    Close(visit);
    return;
  } else {
    std::vector<std::string> lost;
    for (size_t i = 0; i < visit->members; ++i) {
      if (!visit->states[i].has_value()) lost.push_back(record.task_ids[i]);
    }
    if (!lost.empty()) {
      AbandonAll(std::move(lost), "lost: its state has expired",
                 std::move(visit->done));
      return;
    }
  }
  if (!std::all_of(visit->states.begin(), members_end, Ended)) {
    visit->End();
    return;
  }
  if (record.callback.empty() || members_end == visit->states.end()) {
    if (record.submitted) {
      Close(visit);
    } else {
      visit->End();
    }
    return;
  }
  EndGroup(visit, *members_end, States(members_end + 1, visit->states.end()));
}

// All members are final: what is left is the callback and what follows it.
void Sweeper::EndGroup(VisitPtr visit, const std::optional<TaskState>& callback,
                       const States& promised) {
  const WorkflowRecord& record = visit->record;
  const absl::Time now = scope_->environment->Now();
  auto send = [this, visit] {
    std::vector<TaskState> members;
    for (size_t i = 0; i < visit->members; ++i) {
      members.push_back(*visit->states[i]);
    }
    continuation_->groups().SendChord(visit->record, members,
                                      std::move(visit->done));
  };
  if (record.sent) {
    if (!Ended(callback)) {
      visit->End();
    } else if (callback->status == Status::kFailure &&
               !std::all_of(promised.begin(), promised.end(), Ended)) {
      std::vector<std::string> ids = CallbackIds(record);
      ids.erase(ids.begin());
      AbandonAll(std::move(ids),
                 FailureCause("link", callback->task_name, callback->task_id,
                              callback->error),
                 std::move(visit->done));
    } else if (record.submitted) {
      Close(visit);
    } else {
      visit->End();
    }
  } else if (record.claim_time.has_value()) {
    // Whoever claimed it may have died; every step of it may run twice.
    if (now - *record.claim_time > scope_->options.claim_age) {
      Log(LogLevel::kInfo, "continuing a chord's end that was cut short",
          {{"group", record.id}});
      // So that the next visitor does not join in while this one is at it.
      scope_->backend->MarkRecord(
          WorkflowRecord::kGroup, record.id, RecordMark::kClaimRenewed, now,
          scope_->options.pending_expire_in,
          scope_->Guard<bool>([visit, send](absl::StatusOr<bool> renewed) {
            if (renewed.ok()) {
              send();
            } else {
              std::move(visit->done)(renewed.status());
            }
          }));
    } else {
      visit->End();
    }
  } else if (!record.chord_triggered) {
    continuation_->groups().EndChord(record, std::move(visit->done));
  } else if (!record.burnt_time.has_value()) {
    // A Go worker set the flag: it may be about to send the callback.
    MarkThenEnd(visit, RecordMark::kBurntSeen);
  } else if (now - *record.burnt_time >
             (GoWrotePending(callback, record) ? 20 : 2) *
                 scope_->options.claim_age) {
    // It did not, or it did: then the callback's record says so.
    const bool go_sent = callback.has_value() &&
                         callback->status != Status::kPending &&
                         !Ended(callback);
    if (go_sent) {
      MarkThenEnd(visit, RecordMark::kSent);
    } else {
      send();
    }
  } else {
    visit->End();
  }
}

void Sweeper::AbandonAll(std::vector<std::string> task_ids, std::string cause,
                         Done done) {
  std::vector<Step> steps;
  for (std::string& id : task_ids) {
    steps.push_back(Abandon{.task_id = std::move(id), .cause = cause});
  }
  continuation_->CarryOut(std::move(steps), std::move(done));
}

// Its client does not come back: what was not sent never will be.
void Sweeper::GiveUp(VisitPtr visit, std::string cause) {
  AbandonAll(visit->record.task_ids, std::move(cause),
             [this, visit](absl::Status status) {
               if (status.ok()) {
                 MarkThenEnd(visit, RecordMark::kSubmitted);
               } else {
                 std::move(visit->done)(std::move(status));
               }
             });
}

void Sweeper::MarkThenEnd(VisitPtr visit, RecordMark mark) {
  scope_->backend->MarkRecord(
      visit->record.kind, visit->record.id, mark, scope_->environment->Now(),
      scope_->options.pending_expire_in,
      scope_->Guard<bool>([visit](absl::StatusOr<bool> marked) {
        std::move(visit->done)(marked.status());
      }));
}

void Sweeper::Close(VisitPtr visit) {
  scope_->backend->CloseOpen(visit->entry, scope_->options.results_expire_in,
                             scope_->GuardDone([visit](absl::Status status) {
                               std::move(visit->done)(std::move(status));
                             }));
}

}  // namespace penstock
