// A worker: takes tasks from its queues and runs their handlers.
//
//   penstock::Worker worker({.config = options});
//   worker.Register("add", [](int64_t a, int64_t b) { return a + b; });
//   absl::Status status = worker.Run();  // until SIGTERM
//
// How to write handlers: docs/workers.md. What is done around them, and in
// which order: docs/architecture.md section 4.

#ifndef PENSTOCK_WORKER_H_
#define PENSTOCK_WORKER_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "penstock/context.h"
#include "penstock/errors.h"
#include "penstock/handler.h"
#include "queue/config.h"
#include "queue/task.h"

namespace penstock {

class Backend;
class Broker;
class Environment;
struct PeriodicCall;

// Called at the named moments; each may be left empty. They must not throw.
struct WorkerHooks {
  // Before the first delivery is asked for; on the thread that calls Start.
  std::function<void()> on_consume_start;

  // Before a follow-up task (next link, callback, error task) is published; it
  // may set headers. On a thread of the broker or the backend: must not block.
  std::function<void(Task&)> before_publish;

  // Around a handler, on its own thread. after_task runs also after a failure.
  std::function<void(const Task&)> before_task;
  std::function<void(const Task&)> after_task;

  // A handler failed (`task` is its task; on its thread; also when it will be
  // tried again), or the worker has a trouble of its own (`task` is null:
  // result backend away, undecodable delivery; on any thread: must not block).
  std::function<void(const absl::Status& error, const Task* task)> on_error;
};

struct WorkerOptions {
  Options config;  // broker, result_backend, default_queue, ...

  // Handlers that run at the same time. 0: config.concurrency, or if that is 0
  // too, twice the cores.
  int concurrency = 0;

  // Deliveries held, per queue. 0: config.amqp.prefetch_count if it was set,
  // else four times the concurrency, between 16 and 1000, and 400 while tasks take
  // less than a millisecond.
  int prefetch = 0;

  std::vector<std::string> queues;  // empty: the default queue
  std::string consumer_tag;         // empty: the broker chooses

  // How long Run lets handlers finish once it was told to stop, and then, with
  // their stop tokens fired, to notice that.
  absl::Duration drain_deadline = absl::Seconds(30);
  absl::Duration drain_grace = absl::Seconds(1);

  // Whether Run handles SIGTERM and SIGINT (not with config.no_unix_signals).
  bool handle_signals = true;

  WorkerHooks hooks;
};

// Thread-safe, but for Register.
class Worker {
 public:
  // Connects, at Start, to what options.config names.
  explicit Worker(WorkerOptions options);

  // Works on what is there already; none is owned, all must outlive the worker.
  Worker(Broker* broker, Backend* backend, Environment* environment,
         WorkerOptions options);

  // Drains by options.drain_deadline, if that was not done. A handler that does
  // not return keeps it waiting.
  ~Worker();

  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Tasks named `name` are run by `handler` (penstock/handler.h), from several
  // threads at once. Before Start only; an empty or a repeated name is a
  // mistake in the program, and ends it.
  template <typename F>
  void Register(std::string_view name, F handler) {
    RegisterHandler(name, MakeHandler(std::move(handler)));
  }

  // Sends a task at each tick of `spec`: five fields or a descriptor, as
  // machinery's RegisterPeriodicTask takes them ("57 9 * * ?", "@every 90s",
  // "CRON_TZ=Europe/Berlin 0 6 * * *"; docs/workers.md). With config.lock, of all
  // workers that have the same name and spec, Go ones too, one sends it; without,
  // each does. Ids must be empty: each tick sends new tasks. A tick that no one
  // could take is not made up for. INVALID_ARGUMENT names what is wrong. Before
  // Start only.
  absl::Status Schedule(std::string_view spec, std::string_view name, Task task);
  absl::Status ScheduleChain(std::string_view spec, std::string_view name,
                             std::vector<Task> links);
  absl::Status ScheduleGroup(std::string_view spec, std::string_view name,
                             std::vector<Task> members,
                             int send_concurrency = 0);
  absl::Status ScheduleChord(std::string_view spec, std::string_view name,
                             std::vector<Task> members, Task callback,
                             int send_concurrency = 0);

  // Starts to take and run tasks, and returns. Servers that are away are no
  // error: they are waited for in the background. INVALID_ARGUMENT for options
  // that can never work, UNAVAILABLE when config.health_listen cannot be had.
  // Once only.
  absl::Status Start();

  // Where probes are answered (config.health_listen), with the real port;
  // empty: nowhere. After Start.
  const std::string& health_address() const;

  // Takes no more tasks, gives back what was not begun, lets what runs finish
  // and be recorded, and disconnects. DEADLINE_EXCEEDED, naming the tasks, when
  // some had not ended `deadline` from now, nor within options.drain_grace
  // after: these are delivered again, to anyone. Blocks; a second call waits
  // for the first.
  absl::Status Drain(absl::Duration deadline);

  // Start, then waits for SIGTERM, SIGINT or Stop, then Drain. A second signal
  // ends the process at once, with exit status 1; so does, if Run handles
  // signals, a handler that outlives the drain. glibc's malloc gets two arenas
  // (M_ARENA_MAX) for the process, unless MALLOC_ARENA_MAX is set.
  absl::Status Run();

  // Makes Run drain and return; from any thread, a hook or a handler too.
  void Stop();

 private:
  struct Parts;

  void RegisterHandler(std::string_view name, Handler handler);
  absl::Status AddPeriodic(std::string_view spec, std::string_view name,
                           PeriodicCall call);
  void StartPeriodic();
  absl::Status StartHealth();

  std::unique_ptr<Parts> parts_;
};

}  // namespace penstock

#endif  // PENSTOCK_WORKER_H_
