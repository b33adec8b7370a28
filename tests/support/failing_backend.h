// A result backend that fails on command, around a real one: the third
// implementation of the seam. Tests use it to take the backend away from those
// who depend on it.

#ifndef PENSTOCK_TESTS_SUPPORT_FAILING_BACKEND_H_
#define PENSTOCK_TESTS_SUPPORT_FAILING_BACKEND_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "queue/backend.h"
#include "queue/environment.h"
#include "queue/errors.h"

namespace penstock {

// Thread-safe. Names of operations are those of the methods: "Begin".
class FailingBackend : public Backend {
 public:
  enum Mode {
    kWork,
    kRefuse,     // UNAVAILABLE; nothing was done
    kLoseReply,  // UNAVAILABLE; but it was done
    kDie,        // nothing, ever: who asked is dead
  };

  // Neither is owned; both must outlive it.
  FailingBackend(Backend* real, Environment* environment)
      : real_(real), environment_(environment) {}

  // From now on every operation does so.
  void SetMode(Mode mode) {
    absl::MutexLock lock(&mu_);
    mode_ = mode;
  }

  // The next `count` calls of this operation do so, whatever the mode.
  void FailNext(const std::string& operation, int count, Mode mode = kRefuse) {
    absl::MutexLock lock(&mu_);
    next_[operation] = {count, mode};
  }

  int Calls(const std::string& operation) const {
    absl::MutexLock lock(&mu_);
    auto found = calls_.find(operation);
    return found == calls_.end() ? 0 : found->second;
  }

  bool wants_hints() const {
    absl::MutexLock lock(&mu_);
    return wants_hints_;
  }

  // Waits until the operation was called `count` times in all.
  void AwaitCalls(const std::string& operation, int count) const {
    auto reached = [&] {
      mu_.AssertReaderHeld();
      auto found = calls_.find(operation);
      return found != calls_.end() && found->second >= count;
    };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&reached));
  }

  // How many states were read.
  int states_read() const {
    absl::MutexLock lock(&mu_);
    return states_read_;
  }

  // The dead letters that were laid.
  std::vector<DeadTask> dead() const {
    absl::MutexLock lock(&mu_);
    return dead_;
  }

  void CreatePending(std::vector<PendingRequest> requests,
                     Callback<std::vector<PendingAnswer>> done) override {
    Pass("CreatePending", std::move(done), [&](auto callback) {
      real_->CreatePending(std::move(requests), std::move(callback));
    });
  }
  void TakeBack(std::vector<std::string> task_ids, std::string nonce,
                Callback<bool> done) override {
    Pass("TakeBack", std::move(done), [&](auto callback) {
      real_->TakeBack(std::move(task_ids), std::move(nonce),
                      std::move(callback));
    });
  }
  void SeePending(std::string task_id,
                  Callback<std::optional<SeenPending>> done) override {
    Pass("SeePending", std::move(done), [&](auto callback) {
      real_->SeePending(std::move(task_id), std::move(callback));
    });
  }
  void Begin(BeginRequest request, Callback<BeginAnswer> done) override {
    Pass("Begin", std::move(done), [&](auto callback) {
      real_->Begin(std::move(request), std::move(callback));
    });
  }
  void Finish(const FinishRequest& request,
              Callback<FinishAnswer> done) override {
    Pass("Finish", std::move(done), [&](auto callback) {
      real_->Finish(request, std::move(callback));
    });
  }
  void SetProgress(std::string task_id, std::string run, TaskProgress progress,
                   absl::Duration ttl, Callback<bool> done) override {
    Pass("SetProgress", std::move(done), [&](auto callback) {
      real_->SetProgress(std::move(task_id), std::move(run),
                         std::move(progress), ttl, std::move(callback));
    });
  }
  void Continue(TaskState pending, absl::Duration ttl, absl::Duration final_ttl,
                Callback<ContinueAnswer> done) override {
    Pass("Continue", std::move(done), [&](auto callback) {
      real_->Continue(std::move(pending), ttl, final_ttl, std::move(callback));
    });
  }
  void Abandon(TaskState failure, absl::Duration ttl,
               Callback<bool> done) override {
    Pass("Abandon", std::move(done), [&](auto callback) {
      real_->Abandon(std::move(failure), ttl, std::move(callback));
    });
  }
  void Cancel(TaskState cancelled, absl::Duration final_ttl,
              Callback<CancelAnswer> done) override {
    Pass("Cancel", std::move(done), [&](auto callback) {
      real_->Cancel(std::move(cancelled), final_ttl, std::move(callback));
    });
  }
  bool CanCancel() const override { return real_->CanCancel(); }
  void ClaimRequest(RequestClaim claim,
                    Callback<RequestAnswer> done) override {
    Pass("ClaimRequest", std::move(done), [&](auto callback) {
      real_->ClaimRequest(std::move(claim), std::move(callback));
    });
  }
  void EndRequest(std::string request_id, std::string nonce, RequestEnd end,
                  Done done) override {
    Pass("EndRequest", std::move(done), [&](auto callback) {
      real_->EndRequest(std::move(request_id), std::move(nonce), end,
                        std::move(callback));
    });
  }
  void ClaimUnique(UniqueClaim claim, Callback<UniqueAnswer> done) override {
    Pass("ClaimUnique", std::move(done), [&](auto callback) {
      real_->ClaimUnique(std::move(claim), std::move(callback));
    });
  }
  void ReleaseUnique(std::vector<UniqueClaim> claims, Done done) override {
    Pass("ReleaseUnique", std::move(done), [&](auto callback) {
      real_->ReleaseUnique(std::move(claims), std::move(callback));
    });
  }
  void GetStates(
      std::vector<std::string> task_ids,
      Callback<std::vector<std::optional<TaskState>>> done) override {
    {
      absl::MutexLock lock(&mu_);
      states_read_ += static_cast<int>(task_ids.size());
    }
    Pass("GetStates", std::move(done), [&](auto callback) {
      real_->GetStates(std::move(task_ids), std::move(callback));
    });
  }
  void Refresh(std::vector<std::string> task_ids, RefreshWhich which,
               absl::Duration ttl, absl::Duration final_ttl,
               Done done) override {
    Pass("Refresh", std::move(done), [&](auto callback) {
      real_->Refresh(std::move(task_ids), which, ttl, final_ttl,
                     std::move(callback));
    });
  }
  void CreateRecord(WorkflowRecord record, absl::Time visit, absl::Duration ttl,
                    Callback<PendingAnswer> done) override {
    Pass("CreateRecord", std::move(done), [&](auto callback) {
      real_->CreateRecord(std::move(record), visit, ttl, std::move(callback));
    });
  }
  void GetRecord(WorkflowRecord::Kind kind, std::string id,
                 Callback<std::optional<WorkflowRecord>> done) override {
    Pass("GetRecord", std::move(done), [&](auto callback) {
      real_->GetRecord(kind, std::move(id), std::move(callback));
    });
  }
  void GetGroupMeta(std::string group_id,
                    Callback<std::optional<GroupMeta>> done) override {
    Pass("GetGroupMeta", std::move(done), [&](auto callback) {
      real_->GetGroupMeta(std::move(group_id), std::move(callback));
    });
  }
  void MarkRecord(WorkflowRecord::Kind kind, std::string id, RecordMark mark,
                  absl::Time now, absl::Duration ttl,
                  Callback<bool> done) override {
    Pass("MarkRecord", std::move(done), [&](auto callback) {
      real_->MarkRecord(kind, std::move(id), mark, now, ttl,
                        std::move(callback));
    });
  }
  void RemoveRecord(WorkflowRecord::Kind kind, std::string id,
                    std::string nonce, Done done) override {
    Pass("RemoveRecord", std::move(done), [&](auto callback) {
      real_->RemoveRecord(kind, std::move(id), std::move(nonce),
                          std::move(callback));
    });
  }
  void ClaimChord(std::string group_id, std::string token, absl::Time now,
                  absl::Duration ttl, Callback<ClaimAnswer> done) override {
    Pass("ClaimChord", std::move(done), [&](auto callback) {
      real_->ClaimChord(std::move(group_id), std::move(token), now, ttl,
                        std::move(callback));
    });
  }
  void LeaseOpen(absl::Time now, absl::Time next_visit, int limit,
                 Callback<std::vector<OpenEntry>> done) override {
    Pass("LeaseOpen", std::move(done), [&](auto callback) {
      real_->LeaseOpen(now, next_visit, limit, std::move(callback));
    });
  }
  void CloseOpen(OpenEntry entry, absl::Duration ttl, Done done) override {
    Pass("CloseOpen", std::move(done), [&](auto callback) {
      real_->CloseOpen(std::move(entry), ttl, std::move(callback));
    });
  }
  void Lay(DelayedTask task, Done done) override {
    Pass("Lay", std::move(done), [&](auto callback) {
      real_->Lay(std::move(task), std::move(callback));
    });
  }
  void LeaseDue(int limit, absl::Duration lease,
                Callback<LeasedBatch> done) override {
    Pass("LeaseDue", std::move(done), [&](auto callback) {
      real_->LeaseDue(limit, lease, std::move(callback));
    });
  }
  void GetDelayed(std::string task_id,
                  Callback<std::optional<LeasedTask>> done) override {
    Pass("GetDelayed", std::move(done), [&](auto callback) {
      real_->GetDelayed(std::move(task_id), std::move(callback));
    });
  }
  void RemoveLeased(LeasedTask leased, Done done) override {
    Pass("RemoveLeased", std::move(done), [&](auto callback) {
      real_->RemoveLeased(std::move(leased), std::move(callback));
    });
  }
  void LayDead(DeadTask task, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      dead_.push_back(task);
    }
    Pass("LayDead", std::move(done), [&](auto callback) {
      real_->LayDead(std::move(task), std::move(callback));
    });
  }
  void ListDead(std::string queue, int limit, std::optional<DeadPlace> after,
                Callback<std::vector<DeadTask>> done) override {
    Pass("ListDead", std::move(done), [&](auto callback) {
      real_->ListDead(std::move(queue), limit, std::move(after),
                      std::move(callback));
    });
  }
  void GetDead(std::string queue, std::string task_id,
               Callback<std::optional<DeadTask>> done) override {
    Pass("GetDead", std::move(done), [&](auto callback) {
      real_->GetDead(std::move(queue), std::move(task_id),
                     std::move(callback));
    });
  }
  void RemoveDead(std::string queue, std::string task_id,
                  std::optional<absl::Time> time,
                  Callback<std::optional<DeadTask>> done) override {
    Pass("RemoveDead", std::move(done), [&](auto callback) {
      real_->RemoveDead(std::move(queue), std::move(task_id), time,
                        std::move(callback));
    });
  }
  void CreateSchedule(ScheduleRecord record,
                      Callback<ScheduleRecord> done) override {
    Pass("CreateSchedule", std::move(done), [&](auto callback) {
      real_->CreateSchedule(std::move(record), std::move(callback));
    });
  }
  void GetSchedule(std::string name,
                   Callback<std::optional<ScheduleRecord>> done) override {
    Pass("GetSchedule", std::move(done), [&](auto callback) {
      real_->GetSchedule(std::move(name), std::move(callback));
    });
  }
  void ListSchedules(std::string after, int limit, bool with_call,
                     Callback<std::vector<ScheduleRecord>> done) override {
    Pass("ListSchedules", std::move(done), [&](auto callback) {
      real_->ListSchedules(std::move(after), limit, with_call,
                           std::move(callback));
    });
  }
  void PauseSchedule(std::string name, bool paused, absl::Time next_tick,
                     Callback<std::optional<ScheduleRecord>> done) override {
    Pass("PauseSchedule", std::move(done), [&](auto callback) {
      real_->PauseSchedule(std::move(name), paused, next_tick,
                           std::move(callback));
    });
  }
  void DeleteSchedule(std::string name,
                      Callback<std::optional<ScheduleRecord>> done) override {
    Pass("DeleteSchedule", std::move(done), [&](auto callback) {
      real_->DeleteSchedule(std::move(name), std::move(callback));
    });
  }
  void LeaseSchedules(int limit, absl::Duration lease, absl::Duration grace,
                      Callback<LeasedSchedules> done) override {
    Pass("LeaseSchedules", std::move(done), [&](auto callback) {
      real_->LeaseSchedules(limit, lease, grace, std::move(callback));
    });
  }
  void EndTick(ScheduleTick tick, Done done) override {
    Pass("EndTick", std::move(done), [&](auto callback) {
      real_->EndTick(std::move(tick), std::move(callback));
    });
  }
  void SubscribeHints(OnHint on_hint) override {
    real_->SubscribeHints(std::move(on_hint));
  }
  void WantHints(bool wanted) override {
    {
      absl::MutexLock lock(&mu_);
      wants_hints_ = wanted;
    }
    real_->WantHints(wanted);
  }
  void Ping(Done done) override {
    Pass("Ping", std::move(done),
         [&](auto callback) { real_->Ping(std::move(callback)); });
  }

 private:
  static absl::Status Away() {
    return MakeError(absl::StatusCode::kUnavailable,
                     reason::kBackendUnavailable, "the test took it away");
  }

  template <typename Completion, typename Call>
  void Pass(const std::string& operation, Completion done, Call call) {
    switch (NextMode(operation)) {
      case kWork:
        call(std::move(done));
        break;
      case kRefuse:
        environment_->RunAfter(
            absl::ZeroDuration(),
            [done = std::move(done)]() mutable { std::move(done)(Away()); });
        break;
      case kDie:
        break;
      case kLoseReply:
        call([done = std::move(done)](auto&&) mutable {
          std::move(done)(Away());
        });
        break;
    }
  }

  Mode NextMode(const std::string& operation) {
    absl::MutexLock lock(&mu_);
    ++calls_[operation];
    auto found = next_.find(operation);
    if (found == next_.end() || found->second.first == 0) return mode_;
    --found->second.first;
    return found->second.second;
  }

  Backend* const real_;
  Environment* const environment_;

  mutable absl::Mutex mu_;
  Mode mode_ ABSL_GUARDED_BY(mu_) = kWork;
  std::map<std::string, std::pair<int, Mode>> next_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> calls_ ABSL_GUARDED_BY(mu_);
  int states_read_ ABSL_GUARDED_BY(mu_) = 0;
  bool wants_hints_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<DeadTask> dead_ ABSL_GUARDED_BY(mu_);
};

}  // namespace penstock

#endif  // PENSTOCK_TESTS_SUPPORT_FAILING_BACKEND_H_
