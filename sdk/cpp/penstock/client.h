// A client of Penstock's gateway: sends tasks and waits for their results.
//
//   namespace pc = penstock::client;
//   pc::Client client("localhost:50051");
//   absl::StatusOr<pc::TaskHandle> task = client.Send("add", 1, 2);
//   absl::StatusOr<int64_t> sum = task->Result<int64_t>(absl::Seconds(10));
//
// Calls that the gateway, or its network, could not carry out are repeated for
// a while (ClientOptions::retry_budget), under one request_id, so that what
// they send is sent once. Each call has a variant that does not block: its
// `done` runs once, on a thread of gRPC's, and must not block, so it makes no
// blocking call of this client. All is thread-safe unless it says otherwise; a
// Client and a handle are cheap to copy, and a handle outlives its Client. How
// to use it: docs/clients.md. What the calls mean:
// proto/penstock/v1/gateway.proto.

#ifndef PENSTOCK_CLIENT_H_
#define PENSTOCK_CLIENT_H_

#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "penstock/client_value.h"

namespace penstock::client {

// Runs once, with what came of a call.
template <typename T>
using Done = absl::AnyInvocable<void(absl::StatusOr<T>) &&>;

using Metadata = std::vector<std::pair<std::string, std::string>>;

// ---- what is sent ---------------------------------------------------------

// Retries that wait ever longer: first_delay, then factor times that, and so
// on.
struct ExponentialBackoff {
  absl::Duration first_delay;               // 1 ms to 30 days
  double factor = 0;                        // 1 to 100; 0: 2
  std::optional<absl::Duration> max_delay;  // none: 1 hour
  double jitter = 0;                        // 0 to 1: the share that is random
};

// What to run. Only the name is required. The limits of all fields are those of
// Task in proto/penstock/v1/messages.proto.
struct Task {
  std::string name;         // under which a worker registered the handler
  std::vector<Value> args;  // in order

  // Empty: it follows from the call's request_id. With an id of your own an
  // equal task is not run twice, however often it is sent.
  std::string id;
  std::string routing_key;  // empty: the default queue

  // When to run, at the earliest: one of these, or none for at once.
  std::optional<absl::Time> eta;
  std::optional<absl::Duration> delay;  // from when the gateway takes the call

  int32_t retry_count = 0;  // how many times a failed run is tried again
  // How long retries wait: 1 s, 2 s, 3 s, 5 s... (the Fibonacci numbers), from
  // the first one that is at least retry_delay; or as exponential_backoff says.
  std::optional<absl::Duration> retry_delay;
  std::optional<ExponentialBackoff> exponential_backoff;

  uint32_t priority = 0;  // 0 to 255; higher is taken first
  // Its results are not passed on; a chord's callback: it takes none.
  bool immutable = false;

  // Text that travels with the task to the handler.
  std::map<std::string, std::string> headers;

  std::vector<Task> on_success;  // each gets this task's results
  std::vector<Task> on_error;    // each gets the text of the error

  // A worker without a handler of this name drops the task instead of passing
  // it on.
  bool ignore_when_task_not_registered = false;

  std::optional<absl::Duration> timeout;       // of one run
  std::optional<absl::Duration> expire_after;  // must have begun by then
  // While a task that was sent under this name is not final, another one is
  // refused: ALREADY_EXISTS UNIQUE_KEY_HELD.
  std::string unique_key;
  std::optional<absl::Duration> result_ttl;  // how long the final state lives
};

// MakeTask("add", 1, 2)
template <typename... Args>
Task MakeTask(std::string_view name, Args&&... args) {
  Task task;
  task.name = name;
  (task.args.emplace_back(std::forward<Args>(args)), ...);
  return task;
}

// Tasks that run in parallel: 1 to 10,000.
struct Group {
  std::vector<Task> tasks;
  std::string id;            // empty: it follows from the request_id
  int send_concurrency = 0;  // messages sent at once; 0: no limit of its own
};

// A group and what follows it.
struct Chord {
  std::vector<Task> tasks;
  Task callback;                   // gets all results, member by member
  std::optional<Task> on_failure;  // sent instead when a member failed
  std::string group_id;
  int send_concurrency = 0;
};

// ---- how tasks stand ------------------------------------------------------

enum class TaskStatus {
  kUnknown,   // one that this version does not know: see TaskState::raw_status
  kPending,   // it waits
  kReceived,  // a Go worker has taken it
  kStarted,   // its handler runs
  kRetry,     // a run failed; another one follows
  kSuccess,   // final
  kFailure,   // final
  kCancelled  // final
};
std::string_view StatusName(TaskStatus status);  // "PENDING", ...; kUnknown: ""
bool IsFinal(TaskStatus status);

struct TaskError {
  std::string message;
  std::string type;  // "exception", a status code, or one of Penstock's own
  bool retryable = false;  // another run follows
};

// How far the handler says that it has come.
struct TaskProgress {
  double fraction = 0;  // 0 to 1
  std::string text;
  absl::Time update_time;
};

// How a task stands. What is optional is unset where it is not known, as where
// a Go worker wrote the state.
struct TaskState {
  std::string task_id;
  TaskStatus status = TaskStatus::kUnknown;
  std::vector<Value> results;  // only with kSuccess
  std::optional<TaskError> error;
  std::string name;
  std::optional<absl::Time> create_time;
  std::optional<absl::Time> start_time;
  std::optional<absl::Time> finish_time;
  int attempt = 0;  // from 1; 0: it has not run
  std::optional<absl::Time> next_attempt_time;
  std::string worker_id;
  std::string group_id;
  std::optional<TaskProgress> progress;
  std::string raw_status;  // only with kUnknown
};

struct GroupState {
  std::string group_id;
  int total = 0;
  std::map<TaskStatus, int> counts;  // kUnknown: the state has expired
  bool chord_triggered = false;
  std::optional<TaskState> callback;  // of a chord
  bool done = false;  // all are final, and in a chord the callback too
};

// ---- errors ---------------------------------------------------------------

struct FieldViolation {
  std::string field;  // "task.args[0].int_value"
  std::string description;

  bool operator==(const FieldViolation&) const = default;
};

// How a task ended that did not end well.
struct TaskFailure {
  std::string task_id;
  TaskStatus status = TaskStatus::kFailure;  // or kCancelled
  std::string message;
  std::string type;  // TaskError::type
};

// What the status of a call of this client tells besides its code and message.
// The reasons are those that proto/penstock/v1/gateway.proto names, and of the
// client's own: TASK_FAILED (ABORTED) and TASK_CANCELLED (CANCELLED), when a
// result is asked of a task that ended so; NOT_FINISHED (DEADLINE_EXCEEDED),
// when the time to wait is over; RESULT_TYPE (INVALID_ARGUMENT), when the
// results are not of the type that was asked for.
struct Error {
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;
  std::string reason;  // empty: it did not come from a gateway
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> violations;  // with INVALID_FIELD
  std::optional<absl::Duration>
      retry_delay;                  // the gateway asks to wait so long
  std::optional<TaskFailure> task;  // with TASK_FAILED and TASK_CANCELLED
};
Error ErrorOf(const absl::Status& status);

// ---- calls ----------------------------------------------------------------

struct TlsOptions {
  std::string ca_file;  // in PEM; empty: the system's certificates
  // The client's own certificate and key, in PEM; empty: none.
  std::string cert_file;
  std::string key_file;
};

struct ClientOptions {
  std::optional<TlsOptions> tls;  // none: plain text

  // How long one try of a call may take, and how long tries go on. Both may be
  // set for each call.
  absl::Duration deadline = absl::Seconds(10);
  absl::Duration retry_budget = absl::Seconds(30);

  Metadata metadata;  // of every call; keys are in lower case
};

struct CallOptions {
  std::optional<absl::Duration> deadline;      // of one try
  std::optional<absl::Duration> retry_budget;  // 0: one try

  // Besides ClientOptions::metadata. A W3C trace context (traceparent,
  // tracestate) becomes headers of the tasks that the call sends.
  Metadata metadata;

  // Of a Send: names the call, so that your own repeat of it, for 24 hours,
  // sends nothing twice. Empty: the client makes one. 1 to 200 characters of
  // A-Z a-z 0-9 _ . : -
  std::string request_id;
};

namespace internal {
class Core;
class Stream;

template <typename T>
absl::StatusOr<T> ReadResults(absl::StatusOr<std::vector<Value>> results) {
  if (!results.ok()) return results.status();
  return FromResults<T>::Read(*std::move(results));
}

// For what gives the results: `done` gets them as a T.
template <typename T>
Done<std::vector<Value>> ReadingResults(Done<T> done) {
  return [done = std::move(done)](
             absl::StatusOr<std::vector<Value>> results) mutable {
    std::move(done)(ReadResults<T>(std::move(results)));
  };
}
}  // namespace internal

struct CancelledTask {
  TaskState state;        // that stands now
  bool accepted = false;  // false: it was final already
};

// A task that was sent.
class TaskHandle {
 public:
  TaskHandle(std::shared_ptr<internal::Core> core, std::string id,
             bool replayed);

  const std::string& id() const { return id_; }
  // An equal task had been accepted under this id before: it runs once.
  bool replayed() const { return replayed_; }

  // Waits, for `timeout` at most, for the task to end well, and reads its
  // results as a T: one result as what Value::As takes, several as a std::tuple
  // or std::pair of these, none as std::tuple<>, any as std::vector<Value>.
  // Errors: those of Error, and of the RPC GetState.
  template <typename T>
  absl::StatusOr<T> Result(absl::Duration timeout) const {
    return internal::ReadResults<T>(Results(timeout));
  }
  template <typename T>
  void ResultAsync(absl::Duration timeout, Done<T> done) const {
    ResultsAsync(timeout, internal::ReadingResults<T>(std::move(done)));
  }
  absl::StatusOr<std::vector<Value>> Results(absl::Duration timeout) const;
  void ResultsAsync(absl::Duration timeout,
                    Done<std::vector<Value>> done) const;

  // Waits for the task to end, well or not; NOT_FINISHED when it has not.
  absl::StatusOr<TaskState> Wait(absl::Duration timeout) const;
  void WaitAsync(absl::Duration timeout, Done<TaskState> done) const;

  // How it stands now.
  absl::StatusOr<TaskState> State(const CallOptions& options = {}) const;
  void StateAsync(Done<TaskState> done, const CallOptions& options = {}) const;

  // Ends the task, if it is not final. `reason` is for people.
  absl::StatusOr<CancelledTask> Cancel(std::string reason = "",
                                       const CallOptions& options = {}) const;
  void CancelAsync(std::string reason, Done<CancelledTask> done,
                   const CallOptions& options = {}) const;

  // Client::Watch of this task.
  absl::Status Watch(absl::Duration timeout,
                     std::function<bool(const TaskState&)> on_state) const;

 private:
  std::shared_ptr<internal::Core> core_;
  std::string id_;
  bool replayed_;
};

struct CancelledGroup {
  GroupState state;  // that stands now
  int count = 0;     // how many tasks this call cancelled
};

// A group that was sent.
class GroupHandle {
 public:
  GroupHandle(std::shared_ptr<internal::Core> core, std::string id,
              std::vector<std::string> task_ids, bool replayed);

  const std::string& id() const { return id_; }
  bool replayed() const { return replayed_; }
  // In the order of the group. None where the handle is that of Client::group.
  const std::vector<std::string>& task_ids() const { return task_ids_; }
  std::vector<TaskHandle> tasks() const;

  // Waits, for `timeout` at most, for all members to end (and for the callback
  // of a chord), and reads what each ended with, in the order of the group: its
  // results as a T (see TaskHandle::Result), or why it has none.
  template <typename T>
  absl::StatusOr<std::vector<absl::StatusOr<T>>> Results(
      absl::Duration timeout) const {
    auto states = States(timeout);
    if (!states.ok()) return states.status();
    return ReadAll<T>(*std::move(states));
  }
  template <typename T>
  void ResultsAsync(absl::Duration timeout,
                    Done<std::vector<absl::StatusOr<T>>> done) const {
    StatesAsync(timeout,
                [done = std::move(done)](
                    absl::StatusOr<std::vector<TaskState>> all) mutable {
                  if (!all.ok()) return std::move(done)(all.status());
                  std::move(done)(ReadAll<T>(*std::move(all)));
                });
  }

  // The same, as the members' final states. One that has expired is kUnknown.
  absl::StatusOr<std::vector<TaskState>> States(absl::Duration timeout) const;
  void StatesAsync(absl::Duration timeout,
                   Done<std::vector<TaskState>> done) const;

  // Waits for the group to be done; NOT_FINISHED when it is not.
  absl::StatusOr<GroupState> Wait(absl::Duration timeout) const;
  void WaitAsync(absl::Duration timeout, Done<GroupState> done) const;

  // How it stands now.
  absl::StatusOr<GroupState> State(const CallOptions& options = {}) const;
  void StateAsync(Done<GroupState> done, const CallOptions& options = {}) const;

  // Ends every member that is not final, and a chord's callback.
  absl::StatusOr<CancelledGroup> Cancel(std::string reason = "",
                                        const CallOptions& options = {}) const;
  void CancelAsync(std::string reason, Done<CancelledGroup> done,
                   const CallOptions& options = {}) const;

 private:
  // The results of a state that is final, or why it has none.
  static absl::StatusOr<std::vector<Value>> ResultsOf(TaskState state);

  template <typename T>
  static std::vector<absl::StatusOr<T>> ReadAll(std::vector<TaskState> states) {
    std::vector<absl::StatusOr<T>> all;
    all.reserve(states.size());
    for (TaskState& state : states) {
      all.push_back(internal::ReadResults<T>(ResultsOf(std::move(state))));
    }
    return all;
  }

  std::shared_ptr<internal::Core> core_;
  std::string id_;
  std::vector<std::string> task_ids_;
  bool replayed_;
};

struct ChordHandle {
  GroupHandle group;
  TaskHandle callback;  // holds the chord's result
};

// Sends tasks as they come, many at once, and tells of each when the gateway
// has accepted or refused it. When the connection breaks the tasks that were
// not answered go over another one; each has an id of the client's own (or
// yours), so it is accepted once.
class TaskStream {
 public:
  using Answer = Done<TaskHandle>;

  explicit TaskStream(std::shared_ptr<internal::Stream> stream);
  ~TaskStream();  // Close
  TaskStream(TaskStream&&) = default;
  TaskStream& operator=(TaskStream&&) = delete;

  // Takes a task; blocks while as many are without an answer as the gateway
  // allows (1,000). `answer` runs once, on a thread of gRPC's, and must not
  // block: it may not call Send. Not after Close.
  void Send(Task task, Answer answer);

  // Waits until every task has been answered.
  void Close();

 private:
  std::shared_ptr<internal::Stream> stream_;
};

// What came of each of many tasks, in their order.
using ManyHandles = std::vector<absl::StatusOr<TaskHandle>>;

class Client {
 public:
  // "host:port", or any name that gRPC resolves: behind "dns:///gateway:50051"
  // may be several gateways. With several addresses calls go to them in turn;
  // one that is away is left out. Connects when the first call is made. A bad
  // option, such as a file that cannot be read, is what each call ends with.
  template <std::convertible_to<std::string_view> Address>
  explicit Client(const Address& address, ClientOptions options = {})
      : Client(std::vector<std::string>{std::string(std::string_view(address))},
               std::move(options)) {}
  explicit Client(std::vector<std::string> addresses,
                  ClientOptions options = {});

  // Sends one task: by its name and arguments, or with all that Task has.
  template <typename... Args>
  requires(std::convertible_to<Args, Value>&&...)
      absl::StatusOr<TaskHandle> Send(std::string_view name, Args&&... args) {
    return Send(MakeTask(name, std::forward<Args>(args)...));
  }
  absl::StatusOr<TaskHandle> Send(Task task, const CallOptions& options = {});
  void SendAsync(Task task, Done<TaskHandle> done,
                 const CallOptions& options = {});

  // Sends one task and waits, for `timeout` at most, for it to end well: Send
  // and then TaskHandle::Result, in one call where the end comes within 30 s. A
  // task that has not ended in time goes on.
  template <typename T>
  absl::StatusOr<T> Run(Task task, absl::Duration timeout,
                        const CallOptions& options = {}) {
    return internal::ReadResults<T>(
        RunForResults(std::move(task), timeout, options));
  }
  template <typename T>
  void RunAsync(Task task, absl::Duration timeout, Done<T> done,
                const CallOptions& options = {}) {
    RunForResultsAsync(std::move(task), timeout,
                       internal::ReadingResults<T>(std::move(done)), options);
  }

  // Sends tasks that run in parallel.
  absl::StatusOr<GroupHandle> SendGroup(Group group,
                                        const CallOptions& options = {});
  void SendGroupAsync(Group group, Done<GroupHandle> done,
                      const CallOptions& options = {});

  // Sends tasks that run one after the other; each gets the results of the one
  // before it after its own arguments. The last one's handle has the result.
  absl::StatusOr<std::vector<TaskHandle>> SendChain(
      std::vector<Task> tasks, const CallOptions& options = {});
  void SendChainAsync(std::vector<Task> tasks,
                      Done<std::vector<TaskHandle>> done,
                      const CallOptions& options = {});

  // Sends a group and, for when all its members have succeeded, a callback.
  absl::StatusOr<ChordHandle> SendChord(Chord chord,
                                        const CallOptions& options = {});
  void SendChordAsync(Chord chord, Done<ChordHandle> done,
                      const CallOptions& options = {});

  // Sends any number of tasks that have nothing to do with each other, up to a
  // thousand in one call. Each has an outcome of its own.
  ManyHandles SendMany(std::vector<Task> tasks,
                       const CallOptions& options = {});
  void SendManyAsync(std::vector<Task> tasks,
                     absl::AnyInvocable<void(ManyHandles) &&> done,
                     const CallOptions& options = {});

  // Of `options`, deadline and request_id are not used.
  TaskStream OpenStream(const CallOptions& options = {});

  // What was sent earlier, or elsewhere.
  TaskHandle task(std::string id) const;
  GroupHandle group(std::string id) const;

  // The states of up to 1,000 tasks, in that order; none of those that are not
  // known.
  absl::StatusOr<std::vector<std::optional<TaskState>>> States(
      const std::vector<std::string>& task_ids,
      const CallOptions& options = {}) const;

  // Tells the state of each task (1 to 1,000) at once, and then each change
  // that is seen: quick ones may be skipped, the final one never. Ends with OK
  // when all are final or `on_state` returned false, with NOT_FINISHED when
  // `timeout` is over. `on_state` runs on a thread of gRPC's, one call at a
  // time.
  absl::Status Watch(const std::vector<std::string>& task_ids,
                     absl::Duration timeout,
                     std::function<bool(const TaskState&)> on_state,
                     const CallOptions& options = {}) const;
  void WatchAsync(const std::vector<std::string>& task_ids,
                  absl::Duration timeout,
                  std::function<bool(const TaskState&)> on_state,
                  absl::AnyInvocable<void(absl::Status) &&> done,
                  const CallOptions& options = {}) const;

 private:
  absl::StatusOr<std::vector<Value>> RunForResults(Task task,
                                                   absl::Duration timeout,
                                                   const CallOptions& options);
  void RunForResultsAsync(Task task, absl::Duration timeout,
                          Done<std::vector<Value>> done,
                          const CallOptions& options);

  std::shared_ptr<internal::Core> core_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_H_
