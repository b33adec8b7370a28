// Assembly of a worker, and its end: signals, drain. What happens in between is
// runtime.cc's.

#include "penstock/worker.h"

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "queue/ids.h"
#include "queue/lifecycle.h"
#include "queue/open.h"
#include "queue/readiness.h"
#include "queue/telemetry/log.h"
#include "sdk/cpp/health_endpoint.h"
#include "sdk/cpp/periodic.h"
#include "sdk/cpp/runtime.h"

namespace penstock {
namespace {

constexpr std::array kSignals = {SIGTERM, SIGINT};
// What a tick that is being sent may take of the drain.
constexpr absl::Duration kPeriodicDrain = absl::Seconds(5);

// A signal handler reaches nothing but globals: where it writes, and how many
// signals there were.
std::atomic<int> signal_fd = -1;
std::atomic<int> signals_seen = 0;

extern "C" void OnSignal(int) {
  if (signals_seen.fetch_add(1) > 0) _exit(1);
  const int saved = errno;
  eventfd_write(signal_fd.load(), 1);
  errno = saved;
}

// Handles SIGTERM and SIGINT while it lives: the first one writes to `fd`, the
// second ends the process.
class SignalScope {
 public:
  explicit SignalScope(int fd) {
    signals_seen = 0;
    signal_fd = fd;
    struct sigaction action = {};
    action.sa_handler = OnSignal;
    action.sa_flags = SA_RESTART;
    for (size_t i = 0; i < kSignals.size(); ++i) {
      sigaction(kSignals[i], &action, &before_[i]);
    }
  }
  ~SignalScope() {
    for (size_t i = 0; i < kSignals.size(); ++i) {
      sigaction(kSignals[i], &before_[i], nullptr);
    }
  }
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

 private:
  std::array<struct sigaction, kSignals.size()> before_;
};

// A mistake in the program that uses the SDK, at its start.
[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "penstock: %s\n", message.c_str());
  std::abort();
}

std::string MakeWorkerId() {
  char host[256] = "unknown";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(host, "-", getpid(), "-", RandomUuid().substr(0, 8));
}

int ChooseConcurrency(const WorkerOptions& options) {
  if (options.concurrency > 0) return options.concurrency;
  if (options.config.concurrency > 0) return options.config.concurrency;
  return 2 * std::max(1u, std::thread::hardware_concurrency());
}

int ChoosePrefetch(const WorkerOptions& options, int concurrency) {
  if (options.prefetch > 0) return options.prefetch;
  const AmqpOptions& amqp = options.config.amqp;
  if (amqp.prefetch_set && amqp.prefetch_count > 0) return amqp.prefetch_count;
  return std::clamp(4 * concurrency, 16, 1000);
}

// With short tasks, whatever the concurrency is: enough for a round trip to the
// broker at some 20,000 tasks a second. A prefetch that someone chose stays.
int ChooseWidePrefetch(const WorkerOptions& options) {
  const bool chosen = options.prefetch > 0 ||
                      (options.config.amqp.prefetch_set &&
                       options.config.amqp.prefetch_count > 0);
  return chosen ? 0 : 400;
}

}  // namespace

struct Worker::Parts {
  explicit Parts(WorkerOptions given) : options(std::move(given)) {}
  ~Parts() { close(stop_fd); }

  // --- constant after Start
  WorkerOptions options;
  Handlers handlers;
  std::vector<PeriodicEntry> periodic_entries;
  std::string health_address;
  const int stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

  // Declared in the order of their use of each other.
  std::unique_ptr<Environment> own_environment;
  std::unique_ptr<Broker> own_broker;
  std::unique_ptr<Backend> own_backend;
  std::unique_ptr<PeriodicLock> lock;
  Environment* environment = nullptr;
  Broker* broker = nullptr;
  Backend* backend = nullptr;
  std::unique_ptr<Lifecycle> lifecycle;
  std::shared_ptr<Runtime> runtime;
  std::shared_ptr<Periodic> periodic;
  std::unique_ptr<Readiness> readiness;
  std::unique_ptr<HealthEndpoint> health;

  absl::Mutex drain_mu;  // held by who drains: the second waits for the first
  bool drained ABSL_GUARDED_BY(drain_mu) = false;
  absl::Status drain_status ABSL_GUARDED_BY(drain_mu);

  std::vector<std::jthread> runners;
};

Worker::Worker(WorkerOptions options)
    : parts_(std::make_unique<Parts>(std::move(options))) {}

Worker::Worker(Broker* broker, Backend* backend, Environment* environment,
               WorkerOptions options)
    : Worker(std::move(options)) {
  parts_->broker = broker;
  parts_->backend = backend;
  parts_->environment = environment;
}

Worker::~Worker() {
  // A failure to drain was logged; what is left is delivered again.
  (void)Drain(parts_->options.drain_deadline);
}

void Worker::RegisterHandler(std::string_view name, Handler handler) {
  if (name.empty()) Die("Register: a handler needs a name");
  if (parts_->runtime != nullptr) Die("Register: the worker has started");
  auto [at, added] =
      parts_->handlers.emplace(std::string(name), std::move(handler));
  if (!added) {
    Die(absl::StrCat("Register: \"", at->first, "\" is there already"));
  }
}

absl::Status Worker::AddPeriodic(std::string_view spec, std::string_view name,
                                 PeriodicCall call) {
  if (parts_->runtime != nullptr) Die("Schedule: the worker has started");
  absl::StatusOr<PeriodicEntry> entry =
      MakePeriodicEntry(spec, name, std::move(call));
  if (!entry.ok()) return entry.status();
  parts_->periodic_entries.push_back(*std::move(entry));
  return absl::OkStatus();
}

absl::Status Worker::Schedule(std::string_view spec, std::string_view name,
                              Task task) {
  return AddPeriodic(
      spec, name,
      {.kind = PeriodicCall::kTask, .tasks = {std::move(task)}});
}

absl::Status Worker::ScheduleChain(std::string_view spec, std::string_view name,
                                   std::vector<Task> links) {
  return AddPeriodic(spec, name,
                     {.kind = PeriodicCall::kChain, .tasks = std::move(links)});
}

absl::Status Worker::ScheduleGroup(std::string_view spec, std::string_view name,
                                   std::vector<Task> members,
                                   int send_concurrency) {
  return AddPeriodic(spec, name,
                     {.kind = PeriodicCall::kGroup,
                      .tasks = std::move(members),
                      .send_concurrency = send_concurrency});
}

absl::Status Worker::ScheduleChord(std::string_view spec, std::string_view name,
                                   std::vector<Task> members, Task callback,
                                   int send_concurrency) {
  return AddPeriodic(spec, name,
                     {.kind = PeriodicCall::kChord,
                      .tasks = std::move(members),
                      .callback = std::move(callback),
                      .send_concurrency = send_concurrency});
}

absl::Status Worker::Start() {
  Parts& parts = *parts_;
  const WorkerOptions& options = parts.options;
  if (parts.runtime != nullptr) Die("Start: the worker has started");
  if (parts.environment == nullptr) {
    parts.own_environment = MakeSystemEnvironment();
    parts.environment = parts.own_environment.get();
    auto broker = OpenBroker(options.config, parts.environment);
    if (!broker.ok()) return broker.status();
    auto backend = OpenBackend(options.config, parts.environment);
    if (!backend.ok()) return backend.status();
    parts.own_broker = *std::move(broker);
    parts.broker = parts.own_broker.get();
    parts.own_backend = *std::move(backend);
    parts.backend = parts.own_backend.get();
  }
  if (!parts.periodic_entries.empty()) {
    auto lock = OpenLock(options.config, parts.environment);
    if (!lock.ok()) return lock.status();
    parts.lock = *std::move(lock);
  }
  parts.lifecycle = std::make_unique<Lifecycle>(
      parts.broker, parts.backend, parts.environment,
      LifecycleOptions{
          .results_expire_in = options.config.results_expire_in,
          .pending_expire_in = options.config.pending_expire_in,
          .not_registered_limit = options.config.not_registered_limit,
          .before_publish = options.hooks.before_publish,
      });
  const int concurrency = ChooseConcurrency(options);
  const int prefetch = ChoosePrefetch(options, concurrency);
  std::vector<std::string> names;
  for (const auto& [name, handler] : parts.handlers) names.push_back(name);

  parts.runtime = std::make_shared<Runtime>(
      Runtime::World{.broker = parts.broker,
                     .backend = parts.backend,
                     .environment = parts.environment,
                     .lifecycle = parts.lifecycle.get()},
      std::move(parts.handlers),
      RuntimeOptions{
          .worker_id = MakeWorkerId(),
          .concurrency = concurrency,
          .prefetch = prefetch,
          .wide_prefetch = ChooseWidePrefetch(options),
          .refresh_every =
              std::min(absl::Hours(1), options.config.pending_expire_in / 4),
          .drain_grace = options.drain_grace,
          .hooks = options.hooks,
      });
  parts.lifecycle->Start();
  absl::Status started = StartHealth();
  if (started.ok()) {
    started = parts.runtime->Start({.queues = options.queues,
                                    .prefetch = prefetch,
                                    .consumer_tag = options.consumer_tag});
  }
  if (!started.ok()) {
    parts.health.reset();
    parts.readiness.reset();
    parts.lifecycle->Stop();
    parts.runtime.reset();  // nothing to drain
    return started;
  }
  for (int i = 0; i < concurrency; ++i) {
    parts.runners.emplace_back([runtime = parts.runtime, i] {
      pthread_setname_np(pthread_self(),
                         absl::StrCat("runner-", i).substr(0, 15).c_str());
      runtime->RunTasks();
    });
  }
  StartPeriodic();
  Log(LogLevel::kInfo, "worker ready",
      {{"queues", options.queues.empty() ? parts.broker->DefaultQueue()
                                         : absl::StrJoin(options.queues, ",")},
       {"concurrency", absl::StrCat(concurrency)},
       {"prefetch", absl::StrCat(prefetch)},
       {"tasks", absl::StrJoin(names, ",")}});
  return absl::OkStatus();
}

absl::Status Worker::StartHealth() {
  Parts& parts = *parts_;
  const std::string& listen = parts.options.config.health_listen;
  if (listen.empty()) return absl::OkStatus();
  parts.readiness = std::make_unique<Readiness>(Readiness::World{
      .program = [runtime = parts.runtime] { return runtime->Health(); },
      .backend = parts.backend,
      .environment = parts.environment});
  absl::StatusOr<std::unique_ptr<HealthEndpoint>> health =
      HealthEndpoint::Start(
          {.listen = listen, .ready = [readiness = parts.readiness.get()] {
             return readiness->Get();
           }});
  if (!health.ok()) return health.status();
  parts.health = *std::move(health);
  parts.health_address = parts.health->address();
  Log(LogLevel::kInfo, "answers probes", {{"address", parts.health_address}});
  return absl::OkStatus();
}

const std::string& Worker::health_address() const {
  return parts_->health_address;
}

void Worker::StartPeriodic() {
  Parts& parts = *parts_;
  if (parts.periodic_entries.empty()) return;
  if (parts.lock == nullptr) {
    Log(LogLevel::kWarning,
        "no lock is configured: every process that has these periodic tasks "
        "sends them");
  }
  const std::string& program = parts.options.config.lock_program;
  parts.periodic = std::make_shared<Periodic>(
      parts.lifecycle.get(), parts.environment, parts.lock.get(),
      program.empty() ? program_invocation_short_name : program,
      std::move(parts.periodic_entries));
  parts.periodic->Start();
}

absl::Status Worker::Drain(absl::Duration deadline) {
  Parts& parts = *parts_;
  absl::MutexLock lock(&parts.drain_mu);
  if (parts.drained || parts.runtime == nullptr) return parts.drain_status;
  parts.drained = true;
  Log(LogLevel::kInfo, "draining: no more tasks are taken");
  if (parts.periodic != nullptr) {
    parts.periodic->Drain(absl::Now() + std::min(deadline, kPeriodicDrain));
    parts.periodic->Stop();
  }
  parts.drain_status = parts.runtime->Drain(deadline);
  if (parts.drain_status.ok()) {
    Log(LogLevel::kInfo, "drained");
  } else {
    Log(LogLevel::kError, "drain gave up: the tasks are delivered again",
        {{"why", parts.drain_status.message()}});
  }
  parts.runtime->Close();
  parts.health.reset();
  parts.readiness.reset();
  parts.lifecycle->Stop();
  return parts.drain_status;
}

absl::Status Worker::Run() {
#ifdef __GLIBC__
  // An arena for each runner, which is what malloc would make, keeps a third more
  // memory, and saves no time that can be seen.
  if (getenv("MALLOC_ARENA_MAX") == nullptr) mallopt(M_ARENA_MAX, 2);
#endif
  const WorkerOptions& options = parts_->options;
  const bool handles =
      options.handle_signals && !options.config.no_unix_signals;
  std::unique_ptr<SignalScope> signals;
  if (handles) signals = std::make_unique<SignalScope>(parts_->stop_fd);

  absl::Status status = Start();
  if (!status.ok()) return status;
  struct pollfd stop = {.fd = parts_->stop_fd, .events = POLLIN, .revents = 0};
  while (poll(&stop, 1, -1) != 1) {
  }
  status = Drain(options.drain_deadline);
  // The handlers that still run cannot be ended, only left behind.
  if (handles && absl::IsDeadlineExceeded(status)) _exit(1);
  return status;
}

void Worker::Stop() { eventfd_write(parts_->stop_fd, 1); }

}  // namespace penstock
