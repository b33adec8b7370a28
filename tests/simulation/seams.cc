#include "tests/simulation/seams.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "queue/scope.h"
#include "queue/wire/task_json.h"

namespace penstock::simulation {
namespace {

absl::Status BackendAway() {
  return MakeError(absl::StatusCode::kUnavailable, reason::kBackendUnavailable,
                   "lost on the way");
}
absl::Status BrokerAway() {
  return MakeError(absl::StatusCode::kUnavailable, reason::kBrokerUnavailable,
                   "lost on the way");
}

class SimEnvironment : public Environment {
 public:
  explicit SimEnvironment(ProcessPtr process) : process_(std::move(process)) {}
  absl::Time Now() override {
    return world().scheduler().Now() + process_->spent();
  }
  std::string NewUuid() override { return world().NewUuid(); }
  double Random() override { return world().dice().Unit(); }
  void RunAfter(absl::Duration delay, Closure task) override {
    process_->Later(world().Stretched(delay), Scheduler::kTimer, "timer",
                    std::move(task), /*tell_dead=*/true);
  }

 private:
  World& world() { return *process_->world(); }
  const ProcessPtr process_;
};

class SimBackend : public Backend {
 public:
  SimBackend(ProcessPtr process, std::function<void()> on_run)
      : process_(std::move(process)), on_run_(std::move(on_run)) {}

  void CreatePending(std::vector<PendingRequest> requests,
                     Callback<std::vector<PendingAnswer>> done) override {
    std::vector<std::string> ids;
    for (const PendingRequest& request : requests) {
      ids.push_back(request.state.task_id);
    }
    // In Redis each id is a script of its own: a connection may end between.
    size_t reached = requests.size();
    if (requests.size() > 1 && world().Fault(world().profile().lost)) {
      reached = world().dice().Below(static_cast<int>(requests.size()));
    }
    Op<std::vector<PendingAnswer>>(
        "CreatePending", kWrites, ids, std::move(done),
        [this, requests, reached](auto cb) mutable {
          if (reached == requests.size()) {
            real().CreatePending(std::move(requests), std::move(cb));
            return;
          }
          requests.resize(reached);
          real().CreatePending(std::move(requests),
                               [cb = std::move(cb)](auto) mutable {
                                 std::move(cb)(BackendAway());
                               });
        });
  }
  void TakeBack(std::vector<std::string> ids, std::string nonce,
                Callback<bool> done) override {
    Op<bool>("TakeBack", kWrites, ids, std::move(done),
             [this, ids, nonce](auto cb) {
               if (world().bug() == Bug::kTakesBackOthers) {
                 for (const std::string& id : ids) {
                   auto state = keys().Get(id);
                   if (!state.has_value() || IsFinal(state->status)) continue;
                   keys().Set(*state, absl::ZeroDuration());
                 }
               }
               real().TakeBack(ids, nonce, std::move(cb));
             });
  }

  void SeePending(std::string id,
                  Callback<std::optional<SeenPending>> done) override {
    using Seen = std::optional<SeenPending>;
    Callback<Seen> then = [this, done = std::move(done)](
                              absl::StatusOr<Seen> answer) mutable {
      const bool runs = answer.ok() && answer->has_value();
      std::move(done)(std::move(answer));
      if (runs) on_run_();
    };
    Op<Seen>("SeePending", kWrites, {id}, std::move(then),
             [this, id](Callback<Seen> cb) {
               const std::optional<TaskState> before = keys().Get(id);
               real().SeePending(
                   id, [this, id, before, cb = std::move(cb)](
                           absl::StatusOr<Seen> answer) mutable {
                     // Asked of first attempts alone.
                     if (answer.ok() && answer->has_value()) {
                       world().history().MayRun(id, 1, before);
                     }
                     std::move(cb)(std::move(answer));
                   });
             });
  }

  void Begin(BeginRequest request, Callback<BeginAnswer> done) override {
    const std::string id = request.started.task_id;
    Callback<BeginAnswer> then =
        [this,
         done = std::move(done)](absl::StatusOr<BeginAnswer> answer) mutable {
          const bool runs = answer.ok() && answer->kind == BeginAnswer::kRun;
          std::move(done)(std::move(answer));
          if (runs) on_run_();
        };
    Op<BeginAnswer>(
        "Begin", kWrites, {id}, std::move(then),
        [this, request, id](Callback<BeginAnswer> cb) {
          const std::optional<TaskState> before = keys().Get(id);
          if (world().bug() == Bug::kRetriesFork && before.has_value() &&
              before->status == Status::kRetry) {
            TaskState forgetful = *before;
            forgetful.next_attempt = 0;
            keys().Set(std::move(forgetful), absl::Hours(1));
          }
          const int attempt = request.started.attempt;
          real().Begin(request, [this, id, attempt, before,
                                 cb = std::move(cb)](auto answer) mutable {
            if (answer.ok() && answer->kind == BeginAnswer::kRun) {
              world().history().MayRun(id, attempt, before);
            }
            if (answer.ok()) {
              Detail(absl::StrCat(id, " attempt ", attempt, " begins: answer ",
                                  static_cast<int>(answer->kind)));
            }
            std::move(cb)(std::move(answer));
          });
        });
  }

  void Finish(const FinishRequest& request,
              Callback<FinishAnswer> done) override {
    const std::string id = request.outcome.task_id;
    Op<FinishAnswer>(
        "Finish", kWrites, {id}, std::move(done),
        [this, request, id](Callback<FinishAnswer> cb) {
          const std::optional<TaskState> before = keys().Get(id);
          if (world().bug() == Bug::kFinishIsNotRepeatable &&
              before.has_value() && before->status == Status::kRetry &&
              request.outcome.status == Status::kRetry) {
            std::move(cb)(FinishAnswer{.kind = FinishAnswer::kStale});
            return;
          }
          real().Finish(request, std::move(cb));
        });
  }

  void Continue(TaskState pending, absl::Duration ttl, absl::Duration final_ttl,
                Callback<ContinueAnswer> done) override {
    Op<ContinueAnswer>("Continue", kWrites, {pending.task_id}, std::move(done),
                       [this, pending, ttl, final_ttl](auto cb) {
                         if (world().bug() == Bug::kPendingOverFinal) {
                           keys().Set(pending, ttl);
                           std::move(cb)(ContinueAnswer{});
                           return;
                         }
                         real().Continue(pending, ttl, final_ttl,
                                         std::move(cb));
                       });
  }
  void Abandon(TaskState failure, absl::Duration ttl,
               Callback<bool> done) override {
    Op<bool>("Abandon", kWrites, {failure.task_id}, std::move(done),
             [this, failure, ttl](auto cb) {
               real().Abandon(failure, ttl, std::move(cb));
             });
  }
  void Cancel(TaskState cancelled, absl::Duration final_ttl,
              Callback<CancelAnswer> done) override {
    Op<CancelAnswer>("Cancel", kWrites, {cancelled.task_id}, std::move(done),
                     [this, cancelled, final_ttl](auto cb) {
                       real().Cancel(cancelled, final_ttl, std::move(cb));
                     });
  }
  bool CanCancel() const override { return true; }
  void ClaimRequest(RequestClaim claim, Callback<RequestAnswer> done) override {
    Op<RequestAnswer>(
        "ClaimRequest", kWrites, {claim.request_id}, std::move(done),
        [this, claim](auto cb) { real().ClaimRequest(claim, std::move(cb)); });
  }
  void EndRequest(std::string request_id, std::string nonce, RequestEnd end,
                  Done done) override {
    Op<bool>("EndRequest", kWrites, {request_id}, AsCallback(std::move(done)),
             [this, request_id, nonce, end](auto cb) {
               real().EndRequest(request_id, nonce, end, AsDone(std::move(cb)));
             });
  }
  void ClaimUnique(UniqueClaim claim, Callback<UniqueAnswer> done) override {
    Op<UniqueAnswer>(
        "ClaimUnique", kWrites, {claim.key, claim.task_id}, std::move(done),
        [this, claim](auto cb) { real().ClaimUnique(claim, std::move(cb)); });
  }
  void ReleaseUnique(std::vector<UniqueClaim> claims, Done done) override {
    Op<bool>("ReleaseUnique", kWrites, {claims.front().key},
             AsCallback(std::move(done)), [this, claims](auto cb) {
               real().ReleaseUnique(claims, AsDone(std::move(cb)));
             });
  }
  void GetStates(
      std::vector<std::string> ids,
      Callback<std::vector<std::optional<TaskState>>> done) override {
    auto swept = refreshed_.find(ids);
    world().history().ReadStates(ids.size(), swept != refreshed_.end());
    if (swept != refreshed_.end()) refreshed_.erase(swept);
    Op<std::vector<std::optional<TaskState>>>(
        "GetStates", kReads, ids, std::move(done),
        [this, ids](auto cb) { real().GetStates(ids, std::move(cb)); },
        /*progress=*/false);
  }
  void Refresh(std::vector<std::string> ids, RefreshWhich which,
               absl::Duration ttl, absl::Duration final_ttl,
               Done done) override {
    if (which == RefreshWhich::kNotBegun) refreshed_.insert(ids);
    Op<bool>(
        "Refresh", kWrites, ids, AsCallback(std::move(done)),
        [this, ids, which, ttl, final_ttl](auto cb) {
          if (world().bug() == Bug::kMembersExpire) return std::move(cb)(true);
          real().Refresh(ids, which, ttl, final_ttl, AsDone(std::move(cb)));
        },
        /*progress=*/false);
  }

  void CreateRecord(WorkflowRecord record, absl::Time visit, absl::Duration ttl,
                    Callback<PendingAnswer> done) override {
    const bool cut_short = world().Fault(world().profile().lost);
    Op<PendingAnswer>("CreateRecord", kWrites, {record.id}, std::move(done),
                      [this, record, visit, ttl, cut_short](auto cb) {
                        if (cut_short) {
                          keys().OpenOnly(record, visit);
                          std::move(cb)(BackendAway());
                          return;
                        }
                        real().CreateRecord(record, visit, ttl, std::move(cb));
                      });
  }
  void GetRecord(WorkflowRecord::Kind kind, std::string id,
                 Callback<std::optional<WorkflowRecord>> done) override {
    Op<std::optional<WorkflowRecord>>(
        "GetRecord", kWrites, {id}, std::move(done),
        [this, kind, id](Callback<std::optional<WorkflowRecord>> cb) {
          real().GetRecord(kind, id,
                           [this, cb = std::move(cb)](auto record) mutable {
                             if (record->has_value()) ForgetSent(**record);
                             std::move(cb)(std::move(record));
                           });
        },
        /*progress=*/false);
  }
  void GetGroupMeta(std::string id,
                    Callback<std::optional<GroupMeta>> done) override {
    Op<std::optional<GroupMeta>>(
        "GetGroupMeta", kWrites, {id}, std::move(done),
        [this, id](auto cb) { real().GetGroupMeta(id, std::move(cb)); });
  }
  void MarkRecord(WorkflowRecord::Kind kind, std::string id, RecordMark mark,
                  absl::Time now, absl::Duration ttl,
                  Callback<bool> done) override {
    static constexpr const char* kNames[] = {"MarkSubmitted", "MarkSent",
                                             "MarkBurntSeen", "MarkVisited",
                                             "MarkClaimRenewed"};
    Op<bool>(
        kNames[static_cast<int>(mark)], kWrites, {id}, std::move(done),
        [this, kind, id, mark, now, ttl](auto cb) {
          real().MarkRecord(kind, id, mark, now, ttl, std::move(cb));
        },
        /*progress=*/mark != RecordMark::kVisited);
  }
  void RemoveRecord(WorkflowRecord::Kind kind, std::string id,
                    std::string nonce, Done done) override {
    Op<bool>("RemoveRecord", kWrites, {id}, AsCallback(std::move(done)),
             [this, kind, id, nonce](auto cb) {
               real().RemoveRecord(kind, id, nonce, AsDone(std::move(cb)));
             });
  }
  void ClaimChord(std::string group_id, std::string token, absl::Time now,
                  absl::Duration ttl, Callback<ClaimAnswer> done) override {
    Op<ClaimAnswer>(
        "ClaimChord", kWrites, {group_id}, std::move(done),
        [this, group_id, token, now, ttl](Callback<ClaimAnswer> cb) {
          real().ClaimChord(group_id, token, now, ttl,
                            [this, group_id, now, ttl, cb = std::move(cb)](
                                absl::StatusOr<ClaimAnswer> answer) mutable {
                              Claimed(group_id, now, ttl, answer);
                              std::move(cb)(answer);
                            });
        });
  }
  void LeaseOpen(absl::Time now, absl::Time next_visit, int limit,
                 Callback<std::vector<OpenEntry>> done) override {
    Op<std::vector<OpenEntry>>(
        "LeaseOpen", kWrites, {}, std::move(done),
        [this, now, next_visit, limit](auto cb) {
          real().LeaseOpen(now, next_visit, limit, std::move(cb));
        },
        /*progress=*/false);
  }
  void CloseOpen(OpenEntry entry, absl::Duration ttl, Done done) override {
    Op<bool>("CloseOpen", kWrites, {entry.id}, AsCallback(std::move(done)),
             [this, entry, ttl](auto cb) {
               real().CloseOpen(entry, ttl, AsDone(std::move(cb)));
             });
  }
  void Lay(DelayedTask task, Done done) override {
    Op<bool>("Lay", kWrites, {task.task_id}, AsCallback(std::move(done)),
             [this, task](auto cb) {
               Detail(absl::StrCat(task.task_id, " attempt ", task.attempt));
               real().Lay(task, AsDone(std::move(cb)));
             });
  }
  void LeaseDue(int limit, absl::Duration lease,
                Callback<LeasedBatch> done) override {
    Op<LeasedBatch>(
        "LeaseDue", kWrites, {}, std::move(done),
        [this, limit, lease](Callback<LeasedBatch> cb) {
          real().LeaseDue(
              limit, lease, [this, cb = std::move(cb)](auto batch) mutable {
                for (const LeasedTask& task : batch->tasks) {
                  Detail(absl::StrCat(task.task.task_id, " leased, attempt ",
                                      task.task.attempt));
                  world().Progress();
                }
                std::move(cb)(std::move(batch));
              });
        },
        /*progress=*/false);
  }
  void GetDelayed(std::string id,
                  Callback<std::optional<LeasedTask>> done) override {
    Op<std::optional<LeasedTask>>(
        "GetDelayed", kWrites, {id}, std::move(done),
        [this, id](auto cb) { real().GetDelayed(id, std::move(cb)); });
  }
  void RemoveLeased(LeasedTask leased, Done done) override {
    Op<bool>("RemoveLeased", kWrites, {leased.task.task_id},
             AsCallback(std::move(done)), [this, leased](Callback<bool> cb) {
               if (world().bug() != Bug::kMoverRemovesNextRetry) {
                 real().RemoveLeased(leased, AsDone(std::move(cb)));
                 return;
               }
               real().GetDelayed(
                   leased.task.task_id,
                   [this, leased, cb = std::move(cb)](auto there) mutable {
                     real().RemoveLeased(there->value_or(leased),
                                         AsDone(std::move(cb)));
                   });
             });
  }
  void LayDead(DeadTask task, Done done) override {
    Op<bool>(
        "LayDead", kWrites, {task.task_id}, AsCallback(std::move(done)),
        [this, task](auto cb) { real().LayDead(task, AsDone(std::move(cb))); });
  }
  // Nobody reports or looks at these here.
  void SetProgress(std::string id, std::string run, TaskProgress progress,
                   absl::Duration ttl, Callback<bool> done) override {
    Op<bool>("SetProgress", kWrites, {id}, std::move(done),
             [this, id, run, progress, ttl](auto cb) {
               real().SetProgress(id, run, progress, ttl, std::move(cb));
             });
  }
  void ListDead(std::string queue, int limit, std::optional<DeadPlace> after,
                Callback<std::vector<DeadTask>> done) override {
    real().ListDead(queue, limit, after, std::move(done));
  }
  void GetDead(std::string queue, std::string id,
               Callback<std::optional<DeadTask>> done) override {
    real().GetDead(queue, id, std::move(done));
  }
  void RemoveDead(std::string queue, std::string id,
                  std::optional<absl::Time> time,
                  Callback<std::optional<DeadTask>> done) override {
    real().RemoveDead(queue, id, time, std::move(done));
  }
  // Nor are there gateways, which alone know of schedules.
  void CreateSchedule(ScheduleRecord record,
                      Callback<ScheduleRecord> done) override {
    real().CreateSchedule(std::move(record), std::move(done));
  }
  void GetSchedule(std::string name,
                   Callback<std::optional<ScheduleRecord>> done) override {
    real().GetSchedule(std::move(name), std::move(done));
  }
  void ListSchedules(std::string after, int limit, bool with_call,
                     Callback<std::vector<ScheduleRecord>> done) override {
    real().ListSchedules(std::move(after), limit, with_call, std::move(done));
  }
  void PauseSchedule(std::string name, bool paused, absl::Time next_tick,
                     Callback<std::optional<ScheduleRecord>> done) override {
    real().PauseSchedule(std::move(name), paused, next_tick, std::move(done));
  }
  void DeleteSchedule(std::string name,
                      Callback<std::optional<ScheduleRecord>> done) override {
    real().DeleteSchedule(std::move(name), std::move(done));
  }
  void LeaseSchedules(int limit, absl::Duration lease, absl::Duration grace,
                      Callback<LeasedSchedules> done) override {
    real().LeaseSchedules(limit, lease, grace, std::move(done));
  }
  void EndTick(ScheduleTick tick, Done done) override {
    real().EndTick(std::move(tick), std::move(done));
  }
  void SubscribeHints(OnHint) override {}
  void WantHints(bool) override {}
  void Ping(Done done) override {
    Op<bool>("Ping", kWrites, {}, AsCallback(std::move(done)),
             [this](auto cb) { real().Ping(AsDone(std::move(cb))); });
  }

 private:
  World& world() { return *process_->world(); }
  Backend& real() { return world().backend(); }
  MemoryKeys& keys() { return world().keys(); }

  void Detail(const std::string& text) {
    if (world().scheduler().tracing()) {
      world().scheduler().Detail(absl::StrCat(process_->name(), " ", text));
    }
  }

  // One that does not remember what it sent, while the callback waits.
  void ForgetSent(WorkflowRecord& record) {
    if (world().bug() != Bug::kSweeperSendsAgain) return;
    absl::StatusOr<Task> callback = DecodeTask(record.callback);
    if (!callback.ok()) return;
    const std::optional<TaskState> state = keys().Get(callback->id);
    if (state.has_value() && !IsFinal(state->status)) record.sent = false;
  }

  // A claim was answered: what two known bugs do with it.
  void Claimed(const std::string& group_id, absl::Time now, absl::Duration ttl,
               absl::StatusOr<ClaimAnswer>& answer) {
    if (!answer.ok() || *answer != ClaimAnswer::kWon) return;
    bool burnt = world().bug() == Bug::kFlagBeforeSend;
    if (world().bug() == Bug::kBurntByFailedMember) {
      const std::optional<GroupMeta> meta = keys().GetGroup(group_id);
      for (const std::string& id : meta->task_ids) {
        auto state = keys().Get(id);
        if (state.has_value() && state->status == Status::kFailure) {
          burnt = true;
          answer = ClaimAnswer::kRefused;
        }
      }
    }
    if (burnt) {
      real().MarkRecord(WorkflowRecord::kGroup, group_id, RecordMark::kSent,
                        now, ttl, [](auto) {});
    }
  }

  template <typename T, typename Execute>
  void Op(const char* what, LaneId lane, std::vector<std::string> ids,
          Callback<T> done, Execute execute, bool progress = true) {
    std::string key = absl::StrJoin(ids, ",");
    process_->Request<T>(
        what, key, lane, BackendAway(), std::move(done),
        [this, ids = std::move(ids), progress,
         execute = std::move(execute)](Callback<T> cb) mutable {
          execute(std::move(cb));
          world().Drain();
          if (!progress) return;
          world().Progress();
          world().Observe(ids);
        });
  }

  const ProcessPtr process_;
  const std::function<void()> on_run_;
  // What the sweeper has refreshed, and will read next.
  std::multiset<std::vector<std::string>> refreshed_;
};

class SimConsumer : public Consumer {
 public:
  SimConsumer(ProcessPtr process, LinkPtr link)
      : process_(std::move(process)), link_(std::move(link)) {}
  ~SimConsumer() override { link_->Close(); }
  void Ack(DeliveryTag tag) override { link_->Settle(tag, false); }
  void Return(DeliveryTag tag) override {
    // A worker gives back what it could not begin.
    const bool acks = process_->world()->bug() == Bug::kAckOnBackendError;
    link_->Settle(tag, !acks);
  }
  void Pause() override { link_->SetTaking(false); }
  void Resume() override { link_->SetTaking(true); }
  void SetPrefetch(int prefetch) override { link_->SetPrefetch(prefetch); }
  void Stop(Done done) override {
    link_->SetTaking(false);
    process_->Later(absl::ZeroDuration(), Scheduler::kTimer, "stopped",
                    [done = std::move(done)]() mutable {
                      std::move(done)(absl::OkStatus());
                    });
  }
  absl::Status Health() override { return absl::OkStatus(); }

 private:
  const ProcessPtr process_;
  const LinkPtr link_;
};

class SimBroker : public Broker {
 public:
  explicit SimBroker(ProcessPtr process) : process_(std::move(process)) {}

  void Publish(Message message, Done done) override {
    const std::string id = message.task_id;
    process_->Request<bool>(
        "Publish", id, kPublishes, BrokerAway(), AsCallback(std::move(done)),
        [world = process_->world(),
         message = std::move(message)](Callback<bool> cb) mutable {
          if (world->Fault(world->profile().duplicate)) {
            world->Store(message, [](absl::Status) {});
          }
          world->Store(message, AsDone(std::move(cb)));
        });
  }
  void PublishDead(std::string queue, std::string body, std::string reason,
                   Done done) override {
    process_->Request<bool>("PublishDead", queue, kPublishes, BrokerAway(),
                            AsCallback(std::move(done)),
                            [world = process_->world(), queue, body,
                             reason](Callback<bool> cb) mutable {
                              world->broker().PublishDead(
                                  queue, body, reason, AsDone(std::move(cb)));
                              world->Drain();
                            });
  }
  bool KeepsDelayed() const override { return false; }
  void PublishAt(Message, absl::Time, Done) override {
    process_->world()->history().Violation("PublishAt was called");
  }
  absl::StatusOr<std::unique_ptr<Consumer>> Consume(
      ConsumeOptions options,
      absl::AnyInvocable<void(Delivery)> on_delivery) override {
    auto link = std::make_shared<Link>(process_, std::move(options),
                                       std::move(on_delivery));
    process_->world()->AddLink(link);
    link->Connect();
    return std::make_unique<SimConsumer>(process_, link);
  }
  std::string DefaultRoutingKey() const override { return kQueue; }
  std::string DefaultQueue() const override { return kQueue; }
  absl::Status Health() override { return absl::OkStatus(); }

 private:
  const ProcessPtr process_;
};

}  // namespace

std::unique_ptr<Environment> MakeSimEnvironment(ProcessPtr process) {
  return std::make_unique<SimEnvironment>(std::move(process));
}
std::unique_ptr<Backend> MakeSimBackend(ProcessPtr process,
                                        std::function<void()> on_run) {
  return std::make_unique<SimBackend>(std::move(process), std::move(on_run));
}
std::unique_ptr<Broker> MakeSimBroker(ProcessPtr process) {
  return std::make_unique<SimBroker>(std::move(process));
}

}  // namespace penstock::simulation
