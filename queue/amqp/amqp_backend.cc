// See amqp_backend.h. Thread-safe: it only hands over to the mailboxes of the
// reader and the publisher, and goes on in their callbacks.

#include "queue/amqp/amqp_backend.h"

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "queue/amqp/connection.h"
#include "queue/amqp/publisher.h"
#include "queue/amqp/state_reader.h"
#include "queue/amqp/topology.h"
#include "queue/errors.h"
#include "queue/wire/state_json.h"

namespace penstock {
namespace {

using Contents = std::vector<QueueContent>;
using States = std::vector<std::optional<TaskState>>;

constexpr size_t kMostRunning = 100'000;
constexpr absl::string_view kNoDeadLetters =
    "dead letters lie in queues penstock.dead.<queue> and cannot be listed, "
    "retried or deleted";

absl::Status Unsupported(absl::string_view what) {
  return MakeError(
      absl::StatusCode::kFailedPrecondition, reason::kBackendUnsupported,
      absl::StrCat(what,
                   " with a result_backend in RabbitMQ (amqp://), which "
                   "keeps states of tasks only; set result_backend to a "
                   "redis:// URL, in the gateway and all workers"));
}

absl::Status Internal(absl::string_view text) {
  return MakeError(absl::StatusCode::kInternal, reason::kInternal,
                   std::string(text));
}

// What the publisher and the reader say, as a backend says it.
absl::Status AsBackends(const absl::Status& status) {
  if (status.ok() || absl::IsInternal(status) ||
      absl::IsResourceExhausted(status)) {
    return status;
  }
  return MakeError(
      absl::StatusCode::kUnavailable, reason::kBackendUnavailable,
      absl::StrCat("result_backend: ", std::string(status.message())));
}

// How the task stands: the newest state, with the name and the create time of
// the oldest that has them, since machinery's later ones have neither.
absl::StatusOr<std::optional<TaskState>> StandingOf(
    const std::string& task_id, const QueueContent& content) {
  if (!content.has_value()) return std::nullopt;
  // Another reader took what was here, and with it what the task stood at: the
  // queue still says that the task is known.
  TaskState standing = {.task_id = task_id, .status = Status::kPending};
  std::string name;
  absl::Time create_time = GoZeroTime();
  absl::Status undecodable;
  bool decoded = content->empty();
  for (const std::string& body : *content) {
    absl::StatusOr<TaskState> state = DecodeState(body);
    if (!state.ok()) {
      undecodable = state.status();
      continue;
    }
    decoded = true;
    if (name.empty()) name = state->task_name;
    if (create_time == GoZeroTime()) create_time = state->create_time;
    standing = *std::move(state);
  }
  if (!decoded) {
    return Internal(absl::StrCat(
        "the state of task ", task_id,
        " cannot be decoded: ", std::string(undecodable.message())));
  }
  if (standing.task_name.empty()) standing.task_name = std::move(name);
  if (create_time != GoZeroTime()) standing.create_time = create_time;
  return standing;
}

class AmqpBackend : public Backend {
 public:
  AmqpBackend(const AmqpAddress& address, const Options& options,
              Environment* environment)
      : options_(options),
        environment_(environment),
        publisher_(address, options,
                   {.name = "results publisher", .thread = "amqp-results"},
                   environment),
        reader_(address, environment) {}

  // A callback may use either: both threads end before the first of them goes.
  ~AmqpBackend() override {
    publisher_.Stop();
    reader_.Stop();
    bool left = true;
    while (left) {
      left = publisher_.FailLeftovers();
      left = reader_.FailLeftovers() || left;
    }
  }

  // Every id is taken for new: two submissions cannot be told apart here.
  void CreatePending(std::vector<PendingRequest> requests,
                     Callback<std::vector<PendingAnswer>> done) override {
    if (requests.empty()) {
      return Soon([done = std::move(done)]() mutable {
        std::move(done)(std::vector<PendingAnswer>());
      });
    }
    struct Gather {
      absl::Mutex mu;
      size_t left ABSL_GUARDED_BY(mu) = 0;
      absl::Status status ABSL_GUARDED_BY(mu);
      size_t count = 0;
      Callback<std::vector<PendingAnswer>> done;
    };
    auto gather = std::make_shared<Gather>();
    gather->count = requests.size();
    gather->done = std::move(done);
    {
      absl::MutexLock lock(&gather->mu);
      gather->left = requests.size();
    }
    for (const PendingRequest& request : requests) {
      Write(request.state, [gather](absl::Status status) {
        absl::Status all;
        {
          absl::MutexLock lock(&gather->mu);
          gather->status.Update(status);
          if (--gather->left > 0) return;
          all = gather->status;
        }
        if (!all.ok()) return std::move(gather->done)(all);
        std::move(gather->done)(
            std::vector<PendingAnswer>(gather->count, PendingAnswer::kCreated));
      });
    }
  }

  // Nothing was sent, and only PENDING stands: the queue goes.
  void TakeBack(std::vector<std::string> task_ids, std::string,
                Callback<bool> done) override {
    Read(task_ids, /*single=*/true,
         [this, task_ids,
          done = std::move(done)](absl::StatusOr<States> states) mutable {
           if (!states.ok()) return std::move(done)(states.status());
           std::vector<std::string> ours;
           bool all_gone = true;
           for (size_t i = 0; i < task_ids.size(); ++i) {
             const std::optional<TaskState>& state = (*states)[i];
             if (!state.has_value()) continue;
             if (state->status == Status::kPending) {
               ours.push_back(task_ids[i]);
             } else {
               all_gone = false;
             }
           }
           DeleteAll(std::move(ours), all_gone, std::move(done));
         });
  }

  // To read a state is to take it and put it back: no cheaper than a Begin.
  void SeePending(std::string,
                  Callback<std::optional<SeenPending>> done) override {
    environment_->RunAfter({}, [done = std::move(done)]() mutable {
      std::move(done)(std::nullopt);
    });
  }

  void Begin(BeginRequest request, Callback<BeginAnswer> done) override {
    const std::string id = request.started.task_id;
    Read({id}, /*single=*/true,
         [this, started = std::move(request.started),
          max_begins = request.max_begins,
          done = std::move(done)](absl::StatusOr<States> states) mutable {
           if (!states.ok()) return std::move(done)(states.status());
           BeginOver(std::move(states->front()), std::move(started), max_begins,
                     std::move(done));
         });
  }

  void Finish(const FinishRequest& request,
              Callback<FinishAnswer> done) override {
    TaskState outcome = request.outcome;
    outcome.create_time = CreateTimeOf(outcome.task_id);
    auto written = [this, id = outcome.task_id,
                    done = std::move(done)](absl::Status status) mutable {
      if (!status.ok()) return std::move(done)(std::move(status));
      ForgetCreateTime(id);
      std::move(done)(FinishAnswer{});
    };
    if (!IsFinal(outcome.status) || outcome.group_id.empty()) {
      return Write(std::move(outcome), std::move(written));
    }
    // As machinery counts the members of a group that have ended.
    QueueSpec group = StateQueue(outcome.group_id, options_.results_expire_in);
    std::string body = EncodeState(outcome);
    Write(std::move(outcome),
          [this, group = std::move(group), body = std::move(body),
           written = std::move(written)](absl::Status status) mutable {
            if (!status.ok()) return std::move(written)(std::move(status));
            publisher_.PublishInto(
                std::move(group), std::move(body),
                [written = std::move(written)](absl::Status status) mutable {
                  std::move(written)(AsBackends(status));
                });
          });
  }

  // Each would be one more message in the state's queue.
  void SetProgress(std::string, std::string, TaskProgress, absl::Duration,
                   Callback<bool> done) override {
    Refuse(std::move(done), "progress is not kept");
  }

  void Continue(TaskState pending, absl::Duration, absl::Duration,
                Callback<ContinueAnswer> done) override {
    const std::string id = pending.task_id;
    Read({id}, /*single=*/true,
         [this, pending = std::move(pending),
          done = std::move(done)](absl::StatusOr<States> states) mutable {
           if (!states.ok()) return std::move(done)(states.status());
           std::optional<TaskState>& state = states->front();
           ContinueAnswer answer;
           if (state.has_value() && state->status != Status::kPending) {
             answer.kind = IsFinal(state->status) ? ContinueAnswer::kFinal
                                                  : ContinueAnswer::kPast;
             answer.recorded = *std::move(state);
             return std::move(done)(std::move(answer));
           }
           if (state.has_value() && state->create_time != GoZeroTime()) {
             return std::move(done)(std::move(answer));
           }
           Write(std::move(pending),
                 [answer = std::move(answer),
                  done = std::move(done)](absl::Status status) mutable {
                   if (!status.ok()) return std::move(done)(status);
                   std::move(done)(std::move(answer));
                 });
         });
  }

  void Abandon(TaskState failure, absl::Duration,
               Callback<bool> done) override {
    const std::string id = failure.task_id;
    Read({id}, /*single=*/true,
         [this, failure = std::move(failure),
          done = std::move(done)](absl::StatusOr<States> states) mutable {
           if (!states.ok()) return std::move(done)(states.status());
           const std::optional<TaskState>& state = states->front();
           if (state.has_value() && state->status != Status::kPending) {
             // A repeat answers as the first time did.
             return std::move(done)(state->status == Status::kFailure &&
                                    state->error == failure.error);
           }
           if (state.has_value()) failure.create_time = state->create_time;
           Write(std::move(failure),
                 [done = std::move(done)](absl::Status status) mutable {
                   if (!status.ok()) return std::move(done)(status);
                   std::move(done)(true);
                 });
         });
  }

  void Cancel(TaskState, absl::Duration, Callback<CancelAnswer> done) override {
    Refuse(std::move(done), "a task cannot be cancelled");
  }

  bool CanCancel() const override { return false; }

  void ClaimRequest(RequestClaim, Callback<RequestAnswer> done) override {
    Refuse(std::move(done), "a request_id is not remembered");
  }
  void EndRequest(std::string, std::string, RequestEnd, Done done) override {
    Succeed(std::move(done));
  }

  void ClaimUnique(UniqueClaim, Callback<UniqueAnswer> done) override {
    Refuse(std::move(done), "a unique_key cannot be held");
  }
  void ReleaseUnique(std::vector<UniqueClaim>, Done done) override {
    Succeed(std::move(done));
  }

  void GetStates(std::vector<std::string> task_ids,
                 Callback<States> done) override {
    Read(std::move(task_ids), /*single=*/false, std::move(done));
  }

  // A message's life cannot be made longer: see docs/configuration.md.
  void Refresh(std::vector<std::string>, RefreshWhich, absl::Duration,
               absl::Duration, Done done) override {
    Succeed(std::move(done));
  }

  // A chain lives in its messages alone, as machinery's do.
  void CreateRecord(WorkflowRecord record, absl::Time, absl::Duration,
                    Callback<PendingAnswer> done) override {
    if (record.kind == WorkflowRecord::kGroup) {
      return Refuse(std::move(done), "groups and chords do not work");
    }
    Answer(std::move(done), PendingAnswer::kCreated);
  }
  void GetRecord(WorkflowRecord::Kind kind, std::string,
                 Callback<std::optional<WorkflowRecord>> done) override {
    if (kind == WorkflowRecord::kGroup) {
      return Refuse(std::move(done), "groups and chords do not work");
    }
    Answer(std::move(done), std::optional<WorkflowRecord>());
  }
  void GetGroupMeta(std::string,
                    Callback<std::optional<GroupMeta>> done) override {
    Refuse(std::move(done), "groups and chords do not work");
  }
  void MarkRecord(WorkflowRecord::Kind kind, std::string, RecordMark,
                  absl::Time, absl::Duration, Callback<bool> done) override {
    if (kind == WorkflowRecord::kGroup) {
      return Refuse(std::move(done), "groups and chords do not work");
    }
    Answer(std::move(done), true);
  }
  void RemoveRecord(WorkflowRecord::Kind, std::string, std::string,
                    Done done) override {
    Succeed(std::move(done));
  }
  void ClaimChord(std::string, std::string, absl::Time, absl::Duration,
                  Callback<ClaimAnswer> done) override {
    Refuse(std::move(done), "groups and chords do not work");
  }
  void LeaseOpen(absl::Time, absl::Time, int,
                 Callback<std::vector<OpenEntry>> done) override {
    Answer(std::move(done), std::vector<OpenEntry>());
  }
  void CloseOpen(OpenEntry, absl::Duration, Done done) override {
    Succeed(std::move(done));
  }

  // Delayed tasks wait in the broker, RabbitMQ or Redis.
  void Lay(DelayedTask, Done done) override {
    Soon([done = std::move(done)]() mutable {
      std::move(done)(Unsupported("a task cannot be delayed"));
    });
  }
  void LeaseDue(int, absl::Duration, Callback<LeasedBatch> done) override {
    Answer(std::move(done), LeasedBatch());
  }
  void GetDelayed(std::string,
                  Callback<std::optional<LeasedTask>> done) override {
    Answer(std::move(done), std::optional<LeasedTask>());
  }
  void RemoveLeased(LeasedTask, Done done) override {
    Succeed(std::move(done));
  }

  void LayDead(DeadTask task, Done done) override {
    publisher_.PublishDead(
        task.queue.empty() ? options_.default_queue : std::move(task.queue),
        std::move(task.body), std::move(task.reason),
        [done = std::move(done)](absl::Status status) mutable {
          std::move(done)(AsBackends(status));
        });
  }

  void ListDead(std::string, int, std::optional<DeadPlace>,
                Callback<std::vector<DeadTask>> done) override {
    Refuse(std::move(done), kNoDeadLetters);
  }
  void GetDead(std::string, std::string,
               Callback<std::optional<DeadTask>> done) override {
    Refuse(std::move(done), kNoDeadLetters);
  }
  void RemoveDead(std::string, std::string, std::optional<absl::Time>,
                  Callback<std::optional<DeadTask>> done) override {
    Refuse(std::move(done), kNoDeadLetters);
  }

  void CreateSchedule(ScheduleRecord,
                      Callback<ScheduleRecord> done) override {
    Refuse(std::move(done), "schedules cannot be kept");
  }
  void GetSchedule(std::string,
                   Callback<std::optional<ScheduleRecord>> done) override {
    Refuse(std::move(done), "schedules cannot be kept");
  }
  void ListSchedules(std::string, int, bool,
                     Callback<std::vector<ScheduleRecord>> done) override {
    Refuse(std::move(done), "schedules cannot be kept");
  }
  void PauseSchedule(std::string, bool, absl::Time,
                     Callback<std::optional<ScheduleRecord>> done) override {
    Refuse(std::move(done), "schedules cannot be kept");
  }
  void DeleteSchedule(std::string,
                      Callback<std::optional<ScheduleRecord>> done) override {
    Refuse(std::move(done), "schedules cannot be kept");
  }
  void LeaseSchedules(int, absl::Duration, absl::Duration,
                      Callback<LeasedSchedules> done) override {
    Refuse(std::move(done), "schedules cannot be kept");
  }
  void EndTick(ScheduleTick, Done done) override { Succeed(std::move(done)); }

  void SubscribeHints(OnHint on_hint) override {
    on_hint_ = std::make_shared<OnHint>(std::move(on_hint));
  }
  // Hints are of this process's own writes: they cost nothing, and always come.
  void WantHints(bool wanted) override {
    if (!wanted || on_hint_ == nullptr) return;
    Soon([on_hint = on_hint_] { (*on_hint)("", ""); });
  }

  void Ping(Done done) override {
    absl::Status status = AsBackends(publisher_.Health());
    status.Update(AsBackends(reader_.Health()));
    Soon([status = std::move(status), done = std::move(done)]() mutable {
      std::move(done)(std::move(status));
    });
  }

 private:
  void Soon(Closure closure) {
    environment_->RunAfter(absl::ZeroDuration(), std::move(closure));
  }
  template <typename T>
  void Answer(Callback<T> done, T answer) {
    Soon([done = std::move(done), answer = std::move(answer)]() mutable {
      std::move(done)(std::move(answer));
    });
  }
  void Succeed(Done done) {
    Soon([done = std::move(done)]() mutable {
      std::move(done)(absl::OkStatus());
    });
  }
  template <typename T>
  void Refuse(Callback<T> done, absl::string_view what) {
    Soon([done = std::move(done), what]() mutable {
      std::move(done)(Unsupported(what));
    });
  }

  void Write(const TaskState& state, Done done) {
    if (state.task_id.empty()) {
      return Soon([done = std::move(done)]() mutable {
        std::move(done)(Internal("a task without an id has no state"));
      });
    }
    publisher_.PublishInto(
        StateQueue(state.task_id, options_.results_expire_in),
        EncodeState(state),
        [this, id = state.task_id,
         done = std::move(done)](absl::Status status) mutable {
          if (status.ok() && on_hint_ != nullptr) (*on_hint_)(id, "");
          std::move(done)(AsBackends(status));
        });
  }

  void Read(std::vector<std::string> task_ids, bool single,
            Callback<States> done) {
    auto decode = [task_ids, done = std::move(done)](
                      absl::StatusOr<Contents> contents) mutable {
      if (!contents.ok()) {
        return std::move(done)(AsBackends(contents.status()));
      }
      States states;
      for (size_t i = 0; i < task_ids.size(); ++i) {
        auto state = StandingOf(task_ids[i], (*contents)[i]);
        if (!state.ok()) return std::move(done)(state.status());
        states.push_back(*std::move(state));
      }
      std::move(done)(std::move(states));
    };
    reader_.Read(std::move(task_ids), single, std::move(decode));
  }

  void BeginOver(std::optional<TaskState> standing, TaskState started,
                 int max_begins, Callback<BeginAnswer> done) {
    BeginAnswer answer;
    started.begins = 1;
    started.create_time = GoZeroTime();
    if (standing.has_value()) {
      const TaskState& old = *standing;
      started.create_time = old.create_time;
      if (IsFinal(old.status)) {
        answer.kind = BeginAnswer::kFinal;
      } else if (old.status == Status::kRetry &&
                 old.next_attempt > started.attempt) {
        answer.kind = BeginAnswer::kMove;
      } else if (old.status == Status::kStarted &&
                 old.attempt > started.attempt) {
        answer.kind = BeginAnswer::kStale;
      } else if (old.status == Status::kStarted &&
                 old.attempt == started.attempt) {
        started.begins = old.begins + 1;
        if (started.begins > max_begins) answer.kind = BeginAnswer::kWornOut;
      }
    }
    if (answer.kind != BeginAnswer::kRun) {
      answer.recorded = *std::move(standing);
      return std::move(done)(std::move(answer));
    }
    KeepCreateTime(started);
    Write(started, [done = std::move(done)](absl::Status status) mutable {
      if (!status.ok()) return std::move(done)(std::move(status));
      std::move(done)(BeginAnswer{});
    });
  }

  // From Begin to Finish: an outcome is written without reading what stands.
  void KeepCreateTime(const TaskState& started) {
    absl::MutexLock lock(&mu_);
    if (create_times_.size() >= kMostRunning) create_times_.clear();
    create_times_[started.task_id] = started.create_time;
  }
  absl::Time CreateTimeOf(const std::string& task_id) {
    absl::MutexLock lock(&mu_);
    auto found = create_times_.find(task_id);
    return found == create_times_.end() ? GoZeroTime() : found->second;
  }
  void ForgetCreateTime(const std::string& task_id) {
    absl::MutexLock lock(&mu_);
    create_times_.erase(task_id);
  }

  void DeleteAll(std::vector<std::string> ids, bool all_gone,
                 Callback<bool> done) {
    reader_.Delete(std::move(ids), [all_gone, done = std::move(done)](
                                       absl::Status status) mutable {
      if (!status.ok()) return std::move(done)(AsBackends(status));
      std::move(done)(all_gone);
    });
  }

  // Constant after construction.
  const Options options_;
  Environment* const environment_;

  std::shared_ptr<OnHint> on_hint_;  // before the first use

  absl::Mutex mu_;
  std::map<std::string, absl::Time> create_times_ ABSL_GUARDED_BY(mu_);

  // Synchronise themselves.
  AmqpPublisher publisher_;
  StateReader reader_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> OpenAmqpBackend(
    const Options& options, Environment* environment) {
  absl::StatusOr<AmqpAddress> address =
      ParseAmqpUrl(options.result_backend, options.tls);
  if (!address.ok()) {
    return Annotate(address.status(), "result_backend");
  }
  constexpr absl::Duration kLongest =
      absl::Milliseconds(std::numeric_limits<int32_t>::max());
  if (options.results_expire_in > kLongest ||
      options.results_expire_in < absl::Milliseconds(1)) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, reason::kInvalidField,
        absl::StrCat("results_expire_in is ",
                     absl::ToInt64Seconds(options.results_expire_in),
                     "; with a result_backend in RabbitMQ at most ",
                     absl::ToInt64Seconds(kLongest), " seconds are possible"));
  }
  return std::make_unique<AmqpBackend>(*address, options, environment);
}

}  // namespace penstock
