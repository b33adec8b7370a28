// What a worker does with its deliveries: docs/architecture.md section 4.
//
//   delivery -> decode -> backlog -> Lifecycle::Begin -> ready -> a runner's
//   handler -> Lifecycle::Finish -> ack
//
// OnDelivery runs on the consumer's thread, RunTasks on each runner's, the rest
// on threads of Lifecycle, environment and backend, whose callbacks share in
// owning the runtime: some come when the worker is already gone. What they
// would do to the outside then, `Outside` withholds.

#ifndef PENSTOCK_SDK_CPP_RUNTIME_H_
#define PENSTOCK_SDK_CPP_RUNTIME_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "penstock/handler.h"
#include "penstock/worker.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"
#include "queue/task.h"
#include "sdk/cpp/ready_queue.h"

namespace penstock {

class ProgressReport;

using Handlers = std::map<std::string, Handler, std::less<>>;

struct RuntimeOptions {
  std::string worker_id;
  int concurrency = 1;
  int prefetch = 1;
  int wide_prefetch = 0;  // while tasks are short; 0: as prefetch
  absl::Duration refresh_every = absl::Hours(1);  // states of running tasks
  absl::Duration drain_grace = absl::Seconds(1);
  absl::Duration timeout_grace = absl::Seconds(1);
  absl::Duration typical_run = absl::Seconds(1);  // until there is experience
  WorkerHooks hooks;
};

class Runtime : public std::enable_shared_from_this<Runtime> {
 public:
  // What the outside is, none owned: good until Close has returned.
  struct World {
    Broker* broker;
    Backend* backend;
    Environment* environment;
    Lifecycle* lifecycle;
  };

  Runtime(World world, Handlers handlers, RuntimeOptions options);

  // Starts to consume.
  absl::Status Start(ConsumeOptions consume);

  // A runner's life: runs handlers until Drain or Close.
  void RunTasks();

  // Runs one task that has begun, if there is one: a runner's step, for who owns
  // no thread (the simulator).
  void RunOneTask();

  // As Worker::Drain, but for the disconnecting.
  absl::Status Drain(absl::Duration deadline);

  // Whether tasks are taken: OK, or UNAVAILABLE with a text that says why not.
  // The backend is not asked.
  absl::Status Health();

  // Ends the consumer. From here on nothing is asked of the world, and the
  // outcome of a handler that still runs is dropped.
  void Close();

 private:
  struct Taken {  // a delivery that was decoded
    DeliveryTag tag;
    std::string queue;
    bool redelivered = false;
    Task task;
  };

  // A task id that this process is at work on, from Begin to the ack.
  struct Run {
    // --- constant
    std::string id;
    int attempt = 1;
    const Handlers::value_type* handler = nullptr;  // name and handler
    std::stop_source stop;                          // synchronises itself
    Lifecycle::Begins begins = Lifecycle::Begins::kRecorded;

    // --- of the step that is under way
    Taken first;  // the delivery; Finish takes the task out of it
    BeginVerdict begun;

    // --- guarded by mu_
    absl::Time run_time = absl::InfiniteFuture();  // its handler's start
    bool recorded = true;                    // its begin is, or was sent to be
    bool warned = false;                           // that it runs for long
    bool timed_out = false;
    bool finish_sent = false;
    bool given_up = false;  // finished for it while its handler goes on
    std::vector<Taken> joined;   // copies, acked with it
    std::vector<Taken> waiting;  // other attempts, late copies: begin after it
  };

  void OnDelivery(Delivery delivery);
  void Take(std::vector<Taken> deliveries);
  bool IsLiveLocked(const Taken& taken) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AttachLocked(Taken& taken) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::shared_ptr<Run> NextToBeginLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BeginMore();
  void OnBegun(const std::shared_ptr<Run>& run, absl::StatusOr<BeginVerdict> verdict);
  void RunTask(const std::shared_ptr<Run>& run);
  std::shared_ptr<ProgressReport> MakeProgress(const std::shared_ptr<Run>& run);
  void PlanRecording();
  void RecordLongRuns();
  void RecordBegin(const std::shared_ptr<Run>& run);
  bool MayWidenLocked(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WidenPrefetch();
  void NarrowPrefetch();
  void OnFinished(const std::shared_ptr<Run>& run,
                  absl::StatusOr<FinishVerdict> verdict);

  // The ends of a run: acked; given back to the broker; left unacked.
  enum class End { kAck, kAckFirst, kGiveBack, kForget };
  void EndRun(const std::shared_ptr<Run>& run, End end);

  // A delivery that leads to no run: acked when `Done` comes with OK.
  Done AckAfter(DeliveryTag tag);

  void PauseForBackend(const absl::Status& why);
  void PollBackend(absl::Duration delay);
  void Tick();
  void WatchDeadline(const std::shared_ptr<Run>& run, absl::Time deadline);
  void OnDeadline();
  void ArmDeadlineLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void GiveUp(const std::shared_ptr<Run>& run);
  void LookForCancelled();
  void StopEnded(const std::vector<std::string>& task_ids);

  void Return(const std::vector<Taken>& deliveries);
  void ReportError(const absl::Status& error, const Task* task) const;
  bool QuietLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string UnfinishedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Does `call` to the world, unless closed; Close waits for it. `call` must
  // not block; not to be nested.
  template <typename Call>
  void Outside(Call call) {
    absl::ReaderMutexLock lock(&gate_);
    if (consumer_ != nullptr) call();
  }

  // --- constant after construction
  const World world_;
  const Handlers handlers_;
  const RuntimeOptions options_;

  // --- synchronise themselves
  ReadyQueue<std::shared_ptr<Run>> ready_;  // begun, for the runners

  absl::Mutex gate_;  // taken for reading while the world is called
  std::unique_ptr<Consumer> consumer_ ABSL_GUARDED_BY(gate_);

  absl::Mutex mu_;
  // Of the connection that delivered last (DeliveryTag).
  uint64_t generation_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Taken> backlog_ ABSL_GUARDED_BY(mu_);  // not begun
  std::unordered_map<std::string, std::shared_ptr<Run>> runs_
      ABSL_GUARDED_BY(mu_);
  int begun_ ABSL_GUARDED_BY(mu_) = 0;  // of runs_: up to the handler's end
  // Runs whose handler has a deadline, the earliest first, and the time for which
  // a look at them is planned. Those that have ended are dropped by that look.
  std::multimap<absl::Time, std::weak_ptr<Run>> deadlines_
      ABSL_GUARDED_BY(mu_);
  absl::Time next_look_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  bool recording_planned_ ABSL_GUARDED_BY(mu_) = false;
  // Given up, with the handler still at it.
  std::vector<std::shared_ptr<Run>> stuck_ ABSL_GUARDED_BY(mu_);
  // Besides runs_: being buried, passed on, or ended.
  int in_hand_ ABSL_GUARDED_BY(mu_) = 0;
  // A sliding mean of how long a handler runs.
  absl::Duration typical_run_ ABSL_GUARDED_BY(mu_);
  bool wide_ ABSL_GUARDED_BY(mu_) = false;  // consumes with wide_prefetch
  absl::Time narrow_until_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time refreshed_ ABSL_GUARDED_BY(mu_);
  bool paused_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool consumer_stopped_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace penstock

#endif  // PENSTOCK_SDK_CPP_RUNTIME_H_
