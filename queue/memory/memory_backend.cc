#include "queue/memory/memory_backend.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "queue/wire/state_json.h"

namespace penstock {
namespace {

// A map whose entries end at a time of their own.
template <typename T>
class ExpiringMap {
 public:
  T* Find(const std::string& key, absl::Time now) {
    auto it = entries_.find(key);
    if (it == entries_.end()) return nullptr;
    if (it->second.expires > now) return &it->second.value;
    entries_.erase(it);
    return nullptr;
  }
  T& Put(const std::string& key, T value, absl::Time expires) {
    Entry& entry = entries_[key];
    entry = {std::move(value), expires};
    return entry.value;
  }
  // Never shortens a life.
  void Extend(const std::string& key, absl::Time expires) {
    auto it = entries_.find(key);
    if (it != entries_.end()) {
      it->second.expires = std::max(it->second.expires, expires);
    }
  }
  void Expire(const std::string& key, absl::Time expires) {
    auto it = entries_.find(key);
    if (it != entries_.end()) it->second.expires = expires;
  }
  absl::Time ExpiresAt(const std::string& key) const {
    auto it = entries_.find(key);
    return it == entries_.end() ? absl::InfinitePast() : it->second.expires;
  }
  void Erase(const std::string& key) { entries_.erase(key); }
  void DropExpired(absl::Time now) {
    std::erase_if(entries_,
                  [now](const auto& e) { return e.second.expires <= now; });
  }

 private:
  struct Entry {
    T value;
    absl::Time expires;
  };
  std::map<std::string, Entry> entries_;
};

struct Submit {
  std::string payload_hash;
  std::string nonce;
};
struct UniqueHold {
  std::string task_id;
  absl::Time since;
};

struct Request {
  std::string payload_hash;
  std::string nonce;
  absl::Time time;
  absl::Time leased_until;
  bool accepted = false;
};
struct Record {
  WorkflowRecord workflow;
  std::string token;  // of the claim
};

// A member of the delayed set: ordered by score (LeasedTask::lease), then id, as
// Redis orders.
struct Delayed {
  DelayedTask task;
  int64_t score;
};

struct Scheduled {
  ScheduleRecord record;
  absl::Time due;  // the next tick, or the end of a lease
  std::optional<absl::Time> begun;
};

ScheduleRecord WithoutCall(ScheduleRecord record) {
  record.call.clear();
  return record;
}

std::string RecordKey(WorkflowRecord::Kind kind, const std::string& id) {
  return absl::StrCat(kind == WorkflowRecord::kGroup ? "g:" : "c:", id);
}

class MemoryBackend : public Backend, public MemoryKeys {
 public:
  explicit MemoryBackend(Environment* environment)
      : environment_(environment) {}

  void CreatePending(std::vector<PendingRequest> requests,
                     Callback<std::vector<PendingAnswer>> done) override {
    std::vector<PendingAnswer> answers;
    {
      absl::MutexLock lock(&mu_);
      Tick();
      for (PendingRequest& request : requests) {
        answers.push_back(CreateOne(std::move(request)));
      }
    }
    Complete(std::move(done), std::move(answers));
  }

  void TakeBack(std::vector<std::string> task_ids, std::string nonce,
                Callback<bool> done) override {
    bool all_gone = true;
    {
      absl::MutexLock lock(&mu_);
      for (const std::string& id : task_ids) {
        TaskState* state = states_.Find(id, Now());
        if (state == nullptr) continue;
        Submit* submit = submits_.Find(id, Now());
        if (state->status == Status::kPending &&
            (submit == nullptr ? "" : submit->nonce) == nonce) {
          states_.Erase(id);
          submits_.Erase(id);
        } else {
          all_gone = false;
        }
      }
    }
    Complete(std::move(done), all_gone);
  }

  void SeePending(std::string task_id,
                  Callback<std::optional<SeenPending>> done) override {
    std::optional<SeenPending> pending;
    {
      absl::MutexLock lock(&mu_);
      const TaskState* state = states_.Find(task_id, Now());
      if (state != nullptr && state->status == Status::kPending &&
          marks_.Find(task_id, Now()) == nullptr) {
        pending.emplace();  // Finish looks for itself
      }
    }
    Complete(std::move(done), std::move(pending));
  }

  void Begin(BeginRequest request, Callback<BeginAnswer> done) override {
    BeginAnswer answer;
    {
      absl::MutexLock lock(&mu_);
      Tick();
      answer = BeginOne(std::move(request));
    }
    Complete(std::move(done), std::move(answer));
  }

  void Finish(const FinishRequest& request,
              Callback<FinishAnswer> done) override {
    FinishAnswer answer;
    {
      absl::MutexLock lock(&mu_);
      answer = FinishOne(request);
    }
    Complete(std::move(done), std::move(answer));
  }

  void SetProgress(std::string task_id, std::string run, TaskProgress progress,
                   absl::Duration ttl, Callback<bool> done) override {
    bool written = false;
    {
      absl::MutexLock lock(&mu_);
      TaskState* state = states_.Find(task_id, Now());
      written = state != nullptr && state->status == Status::kStarted &&
                state->run == run;
      if (written) {
        TaskState with_progress = *state;
        with_progress.progress = std::move(progress);
        Write(std::move(with_progress), ttl);
        Hint(task_id);
      }
    }
    Complete(std::move(done), written);
  }

  void Continue(TaskState pending, absl::Duration ttl, absl::Duration final_ttl,
                Callback<ContinueAnswer> done) override {
    ContinueAnswer answer;
    {
      absl::MutexLock lock(&mu_);
      TaskState* state = FindRestored(pending.task_id, final_ttl);
      if (state == nullptr) {
        Write(std::move(pending), ttl);
      } else if (IsFinal(state->status)) {
        answer = {.kind = ContinueAnswer::kFinal, .recorded = *state};
      } else if (state->status != Status::kPending) {
        answer.kind = ContinueAnswer::kPast;
      }
    }
    Complete(std::move(done), std::move(answer));
  }

  void Abandon(TaskState failure, absl::Duration ttl,
               Callback<bool> done) override {
    bool abandoned = false;
    {
      absl::MutexLock lock(&mu_);
      TaskState* state = FindRestored(failure.task_id, ttl);
      const TaskState* mark = marks_.Find(failure.task_id, Now());
      if (state != nullptr && IsFinal(state->status)) {
        // A repeat answers as the first time did.
        abandoned = mark != nullptr && mark->error == failure.error &&
                    state->error == failure.error;
      } else if (state == nullptr || state->status == Status::kPending) {
        abandoned = true;
        const std::string id = failure.task_id;
        marks_.Put(id, *WriteOver(state, std::move(failure), ttl), Now() + ttl);
      }
    }
    Complete(std::move(done), abandoned);
  }

  void Cancel(TaskState cancelled, absl::Duration final_ttl,
              Callback<CancelAnswer> done) override {
    CancelAnswer answer;
    {
      absl::MutexLock lock(&mu_);
      answer = CancelOne(std::move(cancelled), final_ttl);
    }
    Complete(std::move(done), std::move(answer));
  }

  bool CanCancel() const override { return true; }

  void ClaimRequest(RequestClaim claim,
                    Callback<RequestAnswer> done) override {
    RequestAnswer answer;
    {
      absl::MutexLock lock(&mu_);
      Tick();
      Request* stands = requests_.Find(claim.request_id, Now());
      if (stands == nullptr) {
        answer = {.time = claim.time, .nonce = claim.nonce};
        requests_.Put(claim.request_id,
                      {.payload_hash = claim.payload_hash,
                       .nonce = claim.nonce,
                       .time = claim.time,
                       .leased_until = Now() + claim.lease},
                      Now() + claim.window);
      } else {
        answer = {.time = stands->time, .nonce = claim.nonce};
        if (stands->payload_hash != claim.payload_hash) {
          answer.kind = RequestAnswer::kTaken;
        } else if (stands->accepted) {
          answer.kind = RequestAnswer::kDone;
        } else if (stands->nonce != claim.nonce &&
                   Now() < stands->leased_until) {
          answer.kind = RequestAnswer::kBusy;
        } else {
          stands->nonce = claim.nonce;
          stands->leased_until = Now() + claim.lease;
        }
      }
    }
    Complete(std::move(done), std::move(answer));
  }

  void EndRequest(std::string request_id, std::string nonce, RequestEnd end,
                  Done done) override {
    {
      absl::MutexLock lock(&mu_);
      Request* stands = requests_.Find(request_id, Now());
      if (stands != nullptr && stands->nonce == nonce && !stands->accepted) {
        if (end == RequestEnd::kRefused) {
          requests_.Erase(request_id);
        } else {
          stands->accepted = end == RequestEnd::kAccepted;
          stands->leased_until = Now();
        }
      }
    }
    CompleteDone(std::move(done));
  }

  void ClaimUnique(UniqueClaim claim, Callback<UniqueAnswer> done) override {
    UniqueAnswer answer{.holder = claim.task_id};
    {
      absl::MutexLock lock(&mu_);
      Tick();
      const UniqueHold* stands = unique_.Find(claim.key, Now());
      if (stands != nullptr && stands->task_id == claim.task_id) {
        answer.kind = UniqueAnswer::kStands;
      } else if (stands != nullptr && stands->task_id != claim.ended_holder) {
        answer = {.kind = UniqueAnswer::kHeld,
                  .holder = stands->task_id,
                  .age = Now() - stands->since};
      } else {
        unique_.Put(claim.key, {.task_id = claim.task_id, .since = Now()},
                    Now() + claim.ttl);
      }
    }
    Complete(std::move(done), std::move(answer));
  }

  void ReleaseUnique(std::vector<UniqueClaim> claims, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      for (const UniqueClaim& claim : claims) {
        const UniqueHold* stands = unique_.Find(claim.key, Now());
        if (stands != nullptr && stands->task_id == claim.task_id) {
          unique_.Erase(claim.key);
        }
      }
    }
    CompleteDone(std::move(done));
  }

  void GetStates(std::vector<std::string> task_ids,
                 Callback<std::vector<std::optional<TaskState>>> done) override {
    std::vector<std::optional<TaskState>> states;
    {
      absl::MutexLock lock(&mu_);
      for (const std::string& id : task_ids) {
        TaskState* state = states_.Find(id, Now());
        states.push_back(state == nullptr ? std::nullopt
                                          : std::make_optional(*state));
      }
    }
    Complete(std::move(done), std::move(states));
  }

  void Refresh(std::vector<std::string> task_ids, RefreshWhich which,
               absl::Duration ttl, absl::Duration final_ttl,
               Done done) override {
    {
      absl::MutexLock lock(&mu_);
      for (const std::string& id : task_ids) {
        TaskState* state = states_.Find(id, Now());
        if (state == nullptr) continue;
        if (IsFinal(state->status)) {
          states_.Extend(id, Now() + final_ttl);
          submits_.Extend(id, Now() + final_ttl);
          continue;
        }
        if (which == RefreshWhich::kNotBegun &&
            state->status != Status::kPending &&
            state->status != Status::kRetry) {
          continue;
        }
        states_.Extend(id, Now() + ttl);
        submits_.Extend(id, Now() + ttl);
      }
    }
    CompleteDone(std::move(done));
  }

  void CreateRecord(WorkflowRecord record, absl::Time visit, absl::Duration ttl,
                    Callback<PendingAnswer> done) override {
    PendingAnswer answer;
    {
      absl::MutexLock lock(&mu_);
      answer = CreateRecordLocked(std::move(record), visit, ttl);
    }
    Complete(std::move(done), answer);
  }

  void GetRecord(WorkflowRecord::Kind kind, std::string id,
                 Callback<std::optional<WorkflowRecord>> done) override {
    std::optional<WorkflowRecord> found;
    {
      absl::MutexLock lock(&mu_);
      if (Record* record = records_.Find(RecordKey(kind, id), Now())) {
        found = record->workflow;
        GroupMeta* meta = metas_.Find(id, Now());
        found->chord_triggered = kind == WorkflowRecord::kGroup &&
                                 meta != nullptr && meta->chord_triggered;
      }
    }
    Complete(std::move(done), std::move(found));
  }

  void GetGroupMeta(std::string group_id,
                    Callback<std::optional<GroupMeta>> done) override {
    std::optional<GroupMeta> found;
    {
      absl::MutexLock lock(&mu_);
      if (GroupMeta* meta = metas_.Find(group_id, Now())) found = *meta;
    }
    Complete(std::move(done), std::move(found));
  }

  void MarkRecord(WorkflowRecord::Kind kind, std::string id, RecordMark mark,
                  absl::Time now, absl::Duration ttl,
                  Callback<bool> done) override {
    bool found = false;
    {
      absl::MutexLock lock(&mu_);
      const std::string key = RecordKey(kind, id);
      if (Record* record = records_.Find(key, Now())) {
        found = true;
        WorkflowRecord& workflow = record->workflow;
        switch (mark) {
          case RecordMark::kSubmitted:
            workflow.submitted = true;
            break;
          case RecordMark::kSent:
            workflow.sent = true;
            break;
          case RecordMark::kBurntSeen:
            if (!workflow.burnt_time.has_value()) workflow.burnt_time = now;
            break;
          case RecordMark::kVisited:
            break;
          case RecordMark::kClaimRenewed:
            workflow.claim_time = now;
            break;
        }
        records_.Extend(key, Now() + ttl);
        metas_.Extend(id, Now() + ttl);
      }
    }
    Complete(std::move(done), found);
  }

  void RemoveRecord(WorkflowRecord::Kind kind, std::string id,
                    std::string nonce, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      const std::string key = RecordKey(kind, id);
      Record* record = records_.Find(key, Now());
      if (record != nullptr && record->workflow.nonce == nonce) {
        records_.Erase(key);
        if (kind == WorkflowRecord::kGroup) metas_.Erase(id);
        open_.erase(key);
      }
    }
    CompleteDone(std::move(done));
  }

  void ClaimChord(std::string group_id, std::string token, absl::Time now,
                  absl::Duration ttl, Callback<ClaimAnswer> done) override {
    ClaimAnswer answer = ClaimAnswer::kRefused;
    {
      absl::MutexLock lock(&mu_);
      const std::string key = RecordKey(WorkflowRecord::kGroup, group_id);
      Record* record = records_.Find(key, Now());
      GroupMeta* meta = metas_.Find(group_id, Now());
      const bool triggered = meta != nullptr && meta->chord_triggered;
      if (record != nullptr && record->token == token) {
        answer = ClaimAnswer::kWon;
      } else if (chord_lock_ends_ > Now()) {
        answer = ClaimAnswer::kLocked;
      } else if (record != nullptr && !triggered &&
                 !record->workflow.claim_time.has_value()) {
        record->token = token;
        record->workflow.claim_time = now;
        if (meta != nullptr) meta->chord_triggered = true;
        records_.Extend(key, Now() + ttl);
        metas_.Extend(group_id, Now() + ttl);
        answer = ClaimAnswer::kWon;
      }
    }
    Complete(std::move(done), answer);
  }

  void LeaseOpen(absl::Time now, absl::Time next_visit, int limit,
                 Callback<std::vector<OpenEntry>> done) override {
    std::vector<OpenEntry> entries;
    {
      absl::MutexLock lock(&mu_);
      for (auto& [key, open] : open_) {
        if (static_cast<int>(entries.size()) == limit) break;
        if (open.visit > now) continue;
        open.visit = next_visit;
        entries.push_back(open.entry);
      }
    }
    Complete(std::move(done), std::move(entries));
  }

  void CloseOpen(OpenEntry entry, absl::Duration ttl, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      const std::string key = RecordKey(entry.kind, entry.id);
      auto open = open_.find(key);
      if (open != open_.end() && open->second.entry == entry) {
        open_.erase(open);
        records_.Expire(key, Now() + ttl);
        if (entry.kind == WorkflowRecord::kGroup) {
          metas_.Expire(entry.id, Now() + ttl);
        }
      }
    }
    CompleteDone(std::move(done));
  }

  void Lay(DelayedTask task, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      task.due = absl::FromUnixMillis(absl::ToUnixMillis(task.due));
      std::string id = task.task_id;
      const int64_t score = 2 * absl::ToUnixMillis(task.due);
      Reschedule(id, score);
      delayed_[std::move(id)] = {std::move(task), score};
    }
    CompleteDone(std::move(done));
  }

  void LeaseDue(int limit, absl::Duration lease,
                Callback<LeasedBatch> done) override {
    LeasedBatch batch;
    {
      absl::MutexLock lock(&mu_);
      const int64_t now = absl::ToUnixMillis(Now());
      const int64_t until = 2 * (now + absl::ToInt64Milliseconds(lease)) + 1;
      std::vector<std::string> due;
      for (const auto& [score, id] : due_order_) {
        if (score > 2 * now || static_cast<int>(due.size()) == limit) break;
        due.push_back(id);
      }
      for (const std::string& id : due) {
        Reschedule(id, until);
        Delayed& delayed = delayed_[id];
        delayed.score = until;
        batch.tasks.push_back({.task = delayed.task, .lease = until});
      }
      if (!due_order_.empty()) {
        batch.next_due =
            absl::FromUnixMillis((due_order_.begin()->first + 1) / 2);
      }
    }
    Complete(std::move(done), std::move(batch));
  }

  void GetDelayed(std::string task_id,
                  Callback<std::optional<LeasedTask>> done) override {
    std::optional<LeasedTask> found;
    {
      absl::MutexLock lock(&mu_);
      auto it = delayed_.find(task_id);
      if (it != delayed_.end()) {
        found = LeasedTask{.task = it->second.task, .lease = it->second.score};
      }
    }
    Complete(std::move(done), std::move(found));
  }

  void RemoveLeased(LeasedTask leased, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      auto it = delayed_.find(leased.task.task_id);
      if (it != delayed_.end() && it->second.score == leased.lease &&
          it->second.task.attempt == leased.task.attempt) {
        due_order_.erase({it->second.score, it->first});
        delayed_.erase(it);
      }
    }
    CompleteDone(std::move(done));
  }

  void LayDead(DeadTask task, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      std::string key = absl::StrCat(task.queue, "\n", task.task_id);
      dead_[std::move(key)] = std::move(task);
    }
    CompleteDone(std::move(done));
  }

  void ListDead(std::string queue, int limit, std::optional<DeadPlace> after,
                Callback<std::vector<DeadTask>> done) override {
    std::vector<DeadTask> tasks;
    {
      absl::MutexLock lock(&mu_);
      const std::string prefix = absl::StrCat(queue, "\n");
      for (auto it = dead_.lower_bound(prefix);
           it != dead_.end() && absl::StartsWith(it->first, prefix); ++it) {
        tasks.push_back(it->second);
        tasks.back().body.clear();
      }
    }
    const auto place = [](const DeadTask& task) {
      return std::make_pair(absl::ToUnixMillis(task.time), task.task_id);
    };
    if (after.has_value()) {
      const auto last =
          std::make_pair(absl::ToUnixMillis(after->time), after->task_id);
      std::erase_if(tasks,
                    [&](const DeadTask& task) { return place(task) >= last; });
    }
    std::sort(tasks.begin(), tasks.end(), [&](const auto& a, const auto& b) {
      return place(a) > place(b);
    });
    tasks.resize(std::min<size_t>(tasks.size(), std::max(limit, 1)));
    Complete(std::move(done), std::move(tasks));
  }

  void GetDead(std::string queue, std::string task_id,
               Callback<std::optional<DeadTask>> done) override {
    std::optional<DeadTask> found;
    {
      absl::MutexLock lock(&mu_);
      auto it = dead_.find(absl::StrCat(queue, "\n", task_id));
      if (it != dead_.end()) found = it->second;
    }
    Complete(std::move(done), std::move(found));
  }

  void RemoveDead(std::string queue, std::string task_id,
                  std::optional<absl::Time> time,
                  Callback<std::optional<DeadTask>> done) override {
    std::optional<DeadTask> found;
    {
      absl::MutexLock lock(&mu_);
      auto it = dead_.find(absl::StrCat(queue, "\n", task_id));
      if (it != dead_.end() &&
          (!time.has_value() || absl::ToUnixMillis(*time) ==
                                    absl::ToUnixMillis(it->second.time))) {
        found = std::move(it->second);
        found->body.clear();
        dead_.erase(it);
      }
    }
    Complete(std::move(done), std::move(found));
  }

  void CreateSchedule(ScheduleRecord record,
                      Callback<ScheduleRecord> done) override {
    ScheduleRecord stands;
    {
      absl::MutexLock lock(&mu_);
      std::string name = record.name;
      const absl::Time due = record.next_tick;
      auto [it, is_new] = schedules_.try_emplace(
          std::move(name), Scheduled{.record = std::move(record), .due = due});
      stands = WithoutCall(it->second.record);
    }
    Complete(std::move(done), std::move(stands));
  }

  void GetSchedule(std::string name,
                   Callback<std::optional<ScheduleRecord>> done) override {
    std::optional<ScheduleRecord> found;
    {
      absl::MutexLock lock(&mu_);
      auto it = schedules_.find(name);
      if (it != schedules_.end()) found = it->second.record;
    }
    Complete(std::move(done), std::move(found));
  }

  void ListSchedules(std::string after, int limit, bool with_call,
                     Callback<std::vector<ScheduleRecord>> done) override {
    std::vector<ScheduleRecord> found;
    {
      absl::MutexLock lock(&mu_);
      for (auto it = schedules_.upper_bound(after);
           it != schedules_.end() && static_cast<int>(found.size()) < limit;
           ++it) {
        const ScheduleRecord& record = it->second.record;
        found.push_back(with_call ? record : WithoutCall(record));
      }
    }
    Complete(std::move(done), std::move(found));
  }

  void PauseSchedule(std::string name, bool paused, absl::Time next_tick,
                     Callback<std::optional<ScheduleRecord>> done) override {
    std::optional<ScheduleRecord> found;
    {
      absl::MutexLock lock(&mu_);
      auto it = schedules_.find(name);
      if (it != schedules_.end()) {
        ScheduleRecord& record = it->second.record;
        if (!paused && record.paused) {
          record.next_tick = next_tick;
          it->second.due = next_tick;
        }
        record.paused = paused;
        found = WithoutCall(record);
      }
    }
    Complete(std::move(done), std::move(found));
  }

  void DeleteSchedule(std::string name,
                      Callback<std::optional<ScheduleRecord>> done) override {
    std::optional<ScheduleRecord> found;
    {
      absl::MutexLock lock(&mu_);
      auto it = schedules_.find(name);
      if (it != schedules_.end()) {
        found = WithoutCall(std::move(it->second.record));
        schedules_.erase(it);
      }
    }
    Complete(std::move(done), std::move(found));
  }

  void LeaseSchedules(int limit, absl::Duration lease, absl::Duration grace,
                      Callback<LeasedSchedules> done) override {
    LeasedSchedules leased{.now = Now()};
    {
      absl::MutexLock lock(&mu_);
      for (auto& [name, scheduled] : schedules_) {
        ScheduleRecord& record = scheduled.record;
        if (record.paused) continue;
        if (scheduled.due <= leased.now &&
            static_cast<int>(leased.due.size()) < limit) {
          const bool run = record.run_missed ||
                           scheduled.begun == record.next_tick ||
                           record.next_tick >= leased.now - grace;
          if (run) scheduled.begun = record.next_tick;
          scheduled.due = leased.now + lease;
          leased.due.push_back({.record = record, .run = run});
        }
        leased.next_due =
            std::min(leased.next_due.value_or(scheduled.due), scheduled.due);
      }
    }
    Complete(std::move(done), std::move(leased));
  }

  void EndTick(ScheduleTick tick, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      auto it = schedules_.find(tick.name);
      if (it != schedules_.end() && it->second.record.nonce == tick.nonce &&
          it->second.record.next_tick == tick.tick) {
        ScheduleRecord& record = it->second.record;
        record.next_tick = tick.next_tick;
        record.last_error = std::move(tick.last_error);
        if (!tick.skipped) record.last_tick = tick.tick;
        if (tick.run.has_value()) record.last_run = std::move(tick.run);
        it->second.due = tick.visit;
      }
    }
    CompleteDone(std::move(done));
  }

  void SubscribeHints(OnHint on_hint) override {
    absl::MutexLock lock(&mu_);
    on_hint_ = std::make_shared<OnHint>(std::move(on_hint));
  }

  void WantHints(bool wanted) override {
    absl::MutexLock lock(&mu_);
    if (std::exchange(wants_hints_, wanted) != wanted && wanted) Hint("");
  }

  void Ping(Done done) override { CompleteDone(std::move(done)); }

  // --- MemoryKeys

  std::optional<TaskState> Get(const std::string& task_id) override {
    absl::MutexLock lock(&mu_);
    const TaskState* state = states_.Find(task_id, Now());
    return state == nullptr ? std::nullopt : std::make_optional(*state);
  }
  void Set(TaskState state, absl::Duration ttl) override {
    absl::MutexLock lock(&mu_);
    Write(std::move(state), ttl);
  }
  std::optional<GroupMeta> GetGroup(const std::string& group_id) override {
    absl::MutexLock lock(&mu_);
    const GroupMeta* meta = metas_.Find(group_id, Now());
    return meta == nullptr ? std::nullopt : std::make_optional(*meta);
  }
  void SetGroup(GroupMeta meta, absl::Duration ttl) override {
    absl::MutexLock lock(&mu_);
    const std::string id = meta.group_id;
    metas_.Put(id, std::move(meta), Now() + ttl);
  }
  bool LockChords(absl::Duration ttl) override {
    absl::MutexLock lock(&mu_);
    if (chord_lock_ends_ > Now()) return false;
    chord_lock_ends_ = Now() + ttl;
    return true;
  }
  void UnlockChords() override {
    absl::MutexLock lock(&mu_);
    chord_lock_ends_ = absl::InfinitePast();
  }
  void OpenOnly(const WorkflowRecord& record, absl::Time visit) override {
    absl::MutexLock lock(&mu_);
    OpenEntryOf(record, visit);
  }
  std::vector<std::string> Open() override {
    absl::MutexLock lock(&mu_);
    std::vector<std::string> keys;
    for (const auto& [key, entry] : open_) keys.push_back(key);
    return keys;
  }
  std::vector<std::string> Waiting() override {
    absl::MutexLock lock(&mu_);
    std::vector<std::string> ids;
    for (const auto& [id, delayed] : delayed_) ids.push_back(id);
    return ids;
  }

 private:
  struct Entry {
    OpenEntry entry;
    absl::Time visit;
  };

  absl::Time Now() const { return environment_->Now(); }

  // Each minute, what has expired is dropped.
  void Tick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (Now() < next_sweep_) return;
    next_sweep_ = Now() + absl::Minutes(1);
    states_.DropExpired(Now());
    submits_.DropExpired(Now());
    marks_.DropExpired(Now());
    records_.DropExpired(Now());
    metas_.DropExpired(Now());
    requests_.DropExpired(Now());
    unique_.DropExpired(Now());
  }

  // The state of `id`, after a mark over one that is not final has been turned
  // into the FAILURE that it stands for.
  TaskState* FindRestored(const std::string& id, absl::Duration final_ttl)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    TaskState* state = states_.Find(id, Now());
    if (state != nullptr && IsFinal(state->status)) return state;
    const TaskState* mark = marks_.Find(id, Now());
    if (mark == nullptr) return state;
    marks_.Extend(id, Now() + final_ttl);
    TaskState* restored = Write(*mark, final_ttl);
    Hint(id);
    return restored;
  }

  TaskState* Write(TaskState state, absl::Duration ttl)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const std::string id = state.task_id;
    return &states_.Put(id, std::move(state), Now() + ttl);
  }

  // Writes `state` and keeps what was known from the start, as Go's merge does.
  TaskState* WriteOver(const TaskState* old, TaskState state,
                       absl::Duration ttl) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (old != nullptr) {
      state.create_time = old->create_time;
      if (!old->task_name.empty()) state.task_name = old->task_name;
    }
    const std::string id = state.task_id;
    TaskState* written = Write(std::move(state), ttl);
    const bool is_told = on_hint_ != nullptr && IsFinal(written->status);
    Hint(id, is_told ? EncodeState(*written) : "");
    return written;
  }

  PendingAnswer CreateOne(PendingRequest request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const std::string id = request.state.task_id;
    TaskState* state = FindRestored(id, request.ttl);
    if (state == nullptr) {
      if (!request.payload_hash.empty()) {
        submits_.Put(id, {request.payload_hash, request.nonce},
                     Now() + request.ttl);
      }
      Write(std::move(request.state), request.ttl);
      return PendingAnswer::kCreated;
    }
    Submit* submit = submits_.Find(id, Now());
    if (submit == nullptr || submit->payload_hash != request.payload_hash) {
      return PendingAnswer::kTaken;
    }
    if (state->status != Status::kPending) return PendingAnswer::kPast;
    return submit->nonce == request.nonce ? PendingAnswer::kCreated
                                          : PendingAnswer::kRepeat;
  }

  BeginAnswer BeginOne(BeginRequest request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    TaskState& started = request.started;
    started.begins = 1;
    TaskState* state = FindRestored(started.task_id, request.final_ttl);
    if (state != nullptr) {
      if (IsFinal(state->status)) return {BeginAnswer::kFinal, *state};
      if (state->status == Status::kRetry &&
          started.attempt < state->next_attempt) {
        return {BeginAnswer::kMove, *state};
      }
      if (state->status == Status::kStarted) {
        if (started.attempt < state->attempt) {
          return {BeginAnswer::kStale, *state};
        }
        if (started.attempt == state->attempt) {
          if (state->run == started.run) return {BeginAnswer::kRun, {}};
          started.begins = state->begins + 1;
        }
      }
      if (started.begins > request.max_begins) {
        return {BeginAnswer::kWornOut, *state};
      }
    }
    WriteOver(state, std::move(started), request.ttl);
    return {BeginAnswer::kRun, {}};
  }

  FinishAnswer FinishOne(const FinishRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const TaskState& outcome = request.outcome;
    TaskState* state = states_.Find(outcome.task_id, Now());
    if (state != nullptr && IsFinal(state->status)) {
      if (!outcome.run.empty() && state->run == outcome.run) {
        return {FinishAnswer::kWritten, {}};
      }
      return {FinishAnswer::kFinal, *state};
    }
    state = FindRestored(outcome.task_id, request.final_ttl);
    if (state != nullptr && IsFinal(state->status)) {
      return {FinishAnswer::kFinal, *state};
    }
    // A record without a run is a Go writer's.
    if (outcome.status == Status::kRetry && state != nullptr &&
        !state->run.empty()) {
      if (state->status == Status::kRetry &&
          state->attempt == outcome.attempt) {
        if (state->run == outcome.run) return {FinishAnswer::kWritten, {}};
        return {FinishAnswer::kRetried, *state};
      }
      // Another run of this attempt does not count: its Begin may have come
      // late, when nobody waited for it any more.
      if (state->attempt > outcome.attempt) return {FinishAnswer::kStale, {}};
    }
    WriteOver(state, outcome, request.ttl);
    return {FinishAnswer::kWritten, {}};
  }

  CancelAnswer CancelOne(TaskState cancelled, absl::Duration final_ttl)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const std::string id = cancelled.task_id;
    TaskState* state = states_.Find(id, Now());
    if (state != nullptr && IsFinal(state->status) &&
        state->run == cancelled.run) {
      return {CancelAnswer::kCancelled, *state};
    }
    state = FindRestored(id, final_ttl);
    if (state == nullptr) return {CancelAnswer::kUnknown, {}};
    if (IsFinal(state->status)) return {CancelAnswer::kFinal, *state};
    const bool begun = state->status != Status::kPending &&
                       state->status != Status::kRetry;
    // The delivery may come as late as the state would have lived.
    const absl::Time until =
        std::max(states_.ExpiresAt(id), Now() + final_ttl);
    const TaskState& written =
        *WriteOver(state, std::move(cancelled), final_ttl);
    marks_.Put(id, written, until);
    return {begun ? CancelAnswer::kRunning : CancelAnswer::kCancelled, written};
  }

  PendingAnswer CreateRecordLocked(WorkflowRecord record, absl::Time visit,
                                   absl::Duration ttl)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    // First the entry, as in Redis, where the two are two steps.
    OpenEntryOf(record, visit);
    const std::string key = RecordKey(record.kind, record.id);
    if (Record* existing = records_.Find(key, Now())) {
      if (existing->workflow.nonce == record.nonce) {
        return PendingAnswer::kCreated;
      }
      return existing->workflow.payload_hash == record.payload_hash
                 ? PendingAnswer::kRepeat
                 : PendingAnswer::kTaken;
    }
    if (record.kind == WorkflowRecord::kGroup) {
      GroupMeta* meta = metas_.Find(record.id, Now());
      if (meta != nullptr && meta->task_ids != record.task_ids) {
        return PendingAnswer::kTaken;
      }
      if (meta == nullptr) {
        metas_.Put(record.id,
                   {.group_id = record.id,
                    .task_ids = record.task_ids,
                    .create_time = record.create_time},
                   Now() + ttl);
      }
    }
    records_.Put(key, {std::move(record), ""}, Now() + ttl);
    return PendingAnswer::kCreated;
  }

  void OpenEntryOf(const WorkflowRecord& record, absl::Time visit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto [open, is_new] = open_.try_emplace(
        RecordKey(record.kind, record.id),
        Entry{{record.kind, record.id, record.create_time}, visit});
    // Who closes it by the older time is too late: this caller counts on it.
    if (!is_new) open->second.entry.open_time = record.create_time;
  }

  void Reschedule(const std::string& id, int64_t score)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto it = delayed_.find(id);
    if (it != delayed_.end()) due_order_.erase({it->second.score, id});
    due_order_.insert({score, id});
  }

  void Hint(const std::string& id, std::string outcome = "")
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (on_hint_ == nullptr || !wants_hints_) return;
    environment_->RunAfter(
        absl::ZeroDuration(),
        [on_hint = on_hint_, id, outcome = std::move(outcome)] {
          (*on_hint)(id, outcome);
        });
  }

  template <typename T>
  void Complete(Callback<T> done, T result) {
    environment_->RunAfter(
        absl::ZeroDuration(),
        [done = std::move(done), result = std::move(result)]() mutable {
          std::move(done)(std::move(result));
        });
  }
  void CompleteDone(Done done) {
    environment_->RunAfter(absl::ZeroDuration(),
                           [done = std::move(done)]() mutable {
                             std::move(done)(absl::OkStatus());
                           });
  }

  Environment* const environment_;

  absl::Mutex mu_;
  ExpiringMap<TaskState> states_ ABSL_GUARDED_BY(mu_);
  ExpiringMap<Submit> submits_ ABSL_GUARDED_BY(mu_);
  ExpiringMap<TaskState> marks_ ABSL_GUARDED_BY(mu_);
  ExpiringMap<Record> records_ ABSL_GUARDED_BY(mu_);
  ExpiringMap<GroupMeta> metas_ ABSL_GUARDED_BY(mu_);
  ExpiringMap<Request> requests_ ABSL_GUARDED_BY(mu_);
  ExpiringMap<UniqueHold> unique_ ABSL_GUARDED_BY(mu_);  // by key
  std::map<std::string, Entry> open_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Delayed> delayed_ ABSL_GUARDED_BY(mu_);
  std::set<std::pair<int64_t, std::string>> due_order_ ABSL_GUARDED_BY(mu_);
  // By queue, newline, id.
  std::map<std::string, DeadTask> dead_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Scheduled> schedules_ ABSL_GUARDED_BY(mu_);
  absl::Time chord_lock_ends_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time next_sweep_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::shared_ptr<OnHint> on_hint_ ABSL_GUARDED_BY(mu_);
  bool wants_hints_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

std::unique_ptr<Backend> MakeMemoryBackend(Environment* environment,
                                           MemoryKeys** keys) {
  auto backend = std::make_unique<MemoryBackend>(environment);
  if (keys != nullptr) *keys = backend.get();
  return backend;
}

}  // namespace penstock
