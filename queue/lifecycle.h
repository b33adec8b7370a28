// The life of a task: the only code that orders backend and broker. Gateway and
// worker tell it what happened; it records that and does what the task asks for
// next, in the one order of docs/architecture.md section 4: state, then
// continuation (confirmed), then ack. Every step may run twice without harm.
//
// Callback-style: it owns no thread, callbacks run on a thread of the broker,
// the backend or the environment. Thread-safe.

#ifndef PENSTOCK_QUEUE_LIFECYCLE_H_
#define PENSTOCK_QUEUE_LIFECYCLE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/callback.h"
#include "queue/environment.h"
#include "queue/task.h"

namespace penstock {

struct LifecycleOptions {
  absl::Duration results_expire_in = absl::Hours(1);  // of a final state
  absl::Duration pending_expire_in = absl::Hours(24 * 7);
  absl::Duration request_window = absl::Hours(24);  // to finish a half submission
  absl::Duration unroutable_limit = absl::Seconds(60);
  absl::Duration not_registered_limit = absl::Hours(1);
  absl::Duration claim_age = absl::Seconds(30);  // then the sweeper continues it
  absl::Duration visit_interval = absl::Seconds(15);  // of an open group or chain
  absl::Duration lease = absl::Seconds(30);  // of a delayed task, by the mover
  int max_begins = 10;  // of one attempt, without a Finish
  int mover_batch = 100;
  // Called with each follow-up task (next link, callback, error task) before it
  // is published; from any thread, must not block. It may set headers.
  std::function<void(Task&)> before_publish;
};

// Tasks that run in parallel.
struct NewGroup {
  std::string id;
  std::vector<Task> members;
  std::optional<Task> callback;    // makes it a chord
  std::optional<Task> on_failure;  // only of a chord: sent when a member failed
  int send_concurrency = 0;  // how many publishes are in flight; 0: no limit
};

struct Submitted;

// A call from a client, already validated, its ids all given.
struct Submission {
  // Equal for a repeat of the same call. Empty, of one task only: nobody can
  // repeat it, for its id was made at random for this call. See PendingRequest.
  std::string payload_hash;
  // When to give up; the confirm deadline is the earlier of this and 5 s.
  absl::Time deadline = absl::InfiniteFuture();
  // Runs at most once, when all states of the call are recorded and before any
  // of it is sent: who waits from then on misses nothing. It gets what the answer
  // will be if the send goes well; of what was accepted before, with the time of
  // this call. On a thread of the backend; must not block.
  std::function<void(const Submitted&)> on_recorded = nullptr;
};

struct Submitted {
  bool replayed = false;  // it was accepted before: an equal call had these ids
  absl::Time create_time;
};

// One of several tasks that are sent together.
struct NewTask {
  Task task;
  // As Submission's.
  std::string payload_hash;
  std::function<void(const Submitted&)> on_recorded = nullptr;
};

// The outcome of each, in their order: SubmitTask's.
using SubmittedTasks = std::vector<absl::StatusOr<Submitted>>;

struct CancelledTask {
  TaskState state;        // what stands now
  bool accepted = false;  // by this call; false: it was final already
};

// Which dead task to send again.
struct RetryCall {
  std::string queue;
  std::string task_id;
  std::string request_id;  // empty: none
  absl::Time deadline = absl::InfiniteFuture();
};

struct RetriedTask {
  TaskState state;  // of the copy
  bool replayed = false;
};

// How a handler's run ended.
struct Outcome {
  enum Kind { kSuccess, kFailure } kind = kSuccess;
  std::vector<Value> results;
  std::string error;
  std::string error_type;
  // With kFailure: the handler asked for another attempt after this delay,
  // whatever the task's retry count says.
  std::optional<absl::Duration> retry_after;
  bool permanent = false;  // with kFailure: not retried, whatever the count says
};

// What a worker does with a delivery that it wants to run.
struct BeginVerdict {
  enum Kind {
    kRun,   // run the handler, then call Finish with this run
    kDone,  // nothing to run; all that follows is done: ack
  } kind = kRun;
  std::string run;
  absl::Time start_time;
  bool recorded = true;  // with kRun; false: RecordBegin, if it runs on
  SeenPending seen;      // with kRun: for Finish
};

// What became of an outcome.
struct FinishVerdict {
  enum Kind {
    kStands,  // recorded, or a final state stood: ack all its deliveries
    kStale,   // dropped: a later attempt is under way
  } kind = kStands;
  Status status = Status::kSuccess;  // that was recorded by this run
};

class Lifecycle {
 public:
  // None is owned; all must outlive it. Call Stop before destroying them.
  Lifecycle(Broker* broker, Backend* backend, Environment* environment,
            LifecycleOptions options);
  ~Lifecycle();

  // --- a call under a request_id: claimed before it is submitted, ended after.
  // kOwned: carry it out, as of the answer's time; kDone: it was accepted. A claim
  // that another one holds is waited for until `deadline`.
  //   ALREADY_EXISTS      REQUEST_ID_REUSED: for another payload
  //   UNAVAILABLE         REQUEST_IN_PROGRESS: another call holds it still
  //   FAILED_PRECONDITION BACKEND_UNSUPPORTED
  // `claimant`, if given, is one that several processes are by turns: who calls
  // under its name has what an earlier one claimed, without waiting.
  void ClaimRequest(std::string request_id, std::string payload_hash,
                    absl::Time deadline, Callback<RequestAnswer> done,
                    std::string claimant = "");
  void EndRequest(std::string request_id, std::string nonce, RequestEnd end,
                  Done done);

  // --- the gateway's side. PENDING first, then the publish; OK only when the
  // broker (for a delayed task: the backend) has confirmed it.
  //   ALREADY_EXISTS      TASK_ID_EXISTS (metadata task_id), GROUP_ID_EXISTS
  //   FAILED_PRECONDITION QUEUE_NOT_FOUND: nothing was kept
  //   UNAVAILABLE, DEADLINE_EXCEEDED: it may have been sent; a repeat of the same
  //                       call with the same ids is safe
  //   ABORTED             GROUP_PARTIALLY_SENT (metadata sent, total)
  void SubmitTask(Task task, Submission submission, Callback<Submitted> done);

  // The same for tasks that have nothing to do with each other, at less cost.
  // CANCELLED as a whole after Stop.
  void SubmitTasks(std::vector<NewTask> tasks, absl::Time deadline,
                   Callback<SubmittedTasks> done);

  // `links` in order, each with its id and no on_success but the last one's.
  void SubmitChain(std::vector<Task> links, Submission submission,
                   Callback<Submitted> done);

  void SubmitGroup(NewGroup group, Submission submission,
                   Callback<Submitted> done);

  // Ends a task that is not final: FAILURE, of kind kErrorCancelled, with
  // "cancelled: `reason`". What waits never starts on a Penstock worker; the
  // handler of what runs sees its stop token, and its outcome is dropped. Then
  // what follows the task is ended too. nullopt: no state of this id is known.
  void CancelTask(std::string task_id, std::string reason,
                  Callback<std::optional<CancelledTask>> done);

  // The same for all members of a group and its callback: how many this call
  // ended. nullopt: the group is not known.
  void CancelGroup(std::string group_id, std::string reason,
                   Callback<std::optional<int>> done);

  // --- dead letters (docs/architecture.md section 8) of a queue; empty: the
  // default one. All:
  //   FAILED_PRECONDITION BACKEND_UNSUPPORTED
  //   NOT_FOUND           TASK_NOT_FOUND: no such dead letter lies in that queue
  // Their heads, newest first: Backend::ListDead.
  void ListDead(std::string queue, int limit, std::optional<DeadPlace> after,
                Callback<std::vector<DeadTask>> done);

  // Sends a copy of a dead task, with SubmitTask's errors, and then takes its
  // dead letter away. The copy's id follows from the dead letter, so that two
  // calls at once send one. UNAVAILABLE: repeat it.
  void RetryDead(RetryCall call, Callback<RetriedTask> done);

  // Removes a dead letter, and answers with its head.
  void DeleteDead(std::string queue, std::string task_id,
                  Callback<DeadTask> done);

  // --- the worker's side. These repeat what fails while the backend or broker is
  // away, and so end with OK, or with CANCELLED after Stop: then do not ack.

  // The delivery of `task` begins on `worker`. UNAVAILABLE when the backend
  // cannot be reached: this one does not repeat; pause and return the delivery.
  // kMayDefer: a task that stands at PENDING may be left so, for a handler that
  // takes some milliseconds. Not for what was delivered before: it may be what
  // its workers die of, and each begin must count.
  enum class Begins { kRecorded, kMayDefer };
  void Begin(std::shared_ptr<const Task> task, std::string queue,
             std::string worker, Begins how, Callback<BeginVerdict> done);

  // A run that Begin has not recorded turns out to be longer: it is STARTED from
  // now on. One try; false when it cannot be: another run or end stands.
  void RecordBegin(const Task& task, const BeginVerdict& begun,
                   std::string worker, Callback<bool> done);

  // The run of `task` that Begin named ended with `outcome`.
  void Finish(Task task, BeginVerdict begun, std::string worker,
              Outcome outcome, Callback<FinishVerdict> done);

  // No handler of this worker has the task's name: passes it on, through the
  // delayed set, to `queue`, where another worker may know it; ends it visibly
  // after not_registered_limit. Ack when done.
  void PassOn(Task task, const std::string& queue, Done done);

  // A delivery from `queue` that could not be decoded: into the dead letters.
  void Bury(std::string body, const std::string& queue, std::string reason,
            Done done);

  // Which of these running tasks have a final state already: they were cancelled.
  void FindEnded(std::vector<std::string> task_ids,
                 Callback<std::vector<std::string>> done);

  // What the handler of `run` says of its progress, into the state. One try.
  // False: this is not the task's run any more.
  //   FAILED_PRECONDITION BACKEND_UNSUPPORTED
  void SetProgress(std::string task_id, std::string run, TaskProgress progress,
                   Callback<bool> done);

  // Keeps the states of running tasks from expiring.
  void RefreshRunning(std::vector<std::string> task_ids);

  // Starts the mover (delayed tasks to the broker) and the sweeper (open groups
  // and chains to their end). Every gateway and worker runs both.
  void Start();

  // Ends the mover, the sweeper and all repeating; the callbacks of what was
  // repeating get CANCELLED. Idempotent. Not from inside a callback, and nothing
  // is submitted, begun or finished after it.
  void Stop();

 private:
  struct Core;
  std::shared_ptr<Core> core_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_LIFECYCLE_H_
