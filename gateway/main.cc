// penstock-gateway: parses, opens and runs. docs/configuration.md lists the
// settings. Exit status: 0 drained after a signal, 1 it could not run, 2 usage
// or configuration; with --check_health 0 ready, 1 not ready.

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/health_check.h"
#include "gateway/server.h"
#include "queue/command_line.h"
#include "queue/config.h"
#include "queue/lifecycle.h"
#include "queue/open.h"
#include "queue/telemetry/log.h"
#include "worker/example_tasks.h"

ABSL_FLAG(std::string, config, "", "machinery's config.yml");
ABSL_FLAG(std::string, broker, "", "URL of the broker: amqp://, memory://");
ABSL_FLAG(std::string, result_backend, "",
          "URL of the result backend: redis://, memory://");
ABSL_FLAG(std::string, default_queue, "", "the queue of tasks without one");
ABSL_FLAG(std::string, listen, "", "host:port to serve; 127.0.0.1:50051");
ABSL_FLAG(int, concurrency, 0,
          "with --embedded: handlers at once; 0: twice the cores");
ABSL_FLAG(bool, embedded, false,
          "broker, result backend and the example worker in this process");
ABSL_FLAG(absl::Duration, drain_deadline, absl::Seconds(30),
          "how long open calls may go on after SIGTERM");
ABSL_FLAG(absl::Duration, max_connection_age, absl::Minutes(5),
          "after it a client must connect anew, perhaps elsewhere; inf: never");
ABSL_FLAG(absl::Duration, max_connection_age_grace, absl::Seconds(90),
          "how long its open calls may go on then");
ABSL_FLAG(std::string, check_health, "",
          "HOST:PORT; asks the gateway there whether it is ready, and ends");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning or error");

namespace penstock {
namespace {

constexpr int kDrained = 0;
constexpr int kCannotRun = 1;
constexpr int kUsage = 2;
constexpr absl::Duration kCheckLimit = absl::Seconds(3);

constexpr const char* kFlags[] = {"config",
                                  "broker",
                                  "result_backend",
                                  "default_queue",
                                  "listen",
                                  "concurrency",
                                  "embedded",
                                  "drain_deadline",
                                  "max_connection_age",
                                  "max_connection_age_grace",
                                  "check_health",
                                  "log_level"};
// Those that LoadConfig does not know.
constexpr const char* kOwnFlags[] = {"config",
                                     "embedded",
                                     "drain_deadline",
                                     "max_connection_age",
                                     "max_connection_age_grace",
                                     "log_level"};

absl::StatusOr<Options> Configure(std::map<std::string, std::string> given) {
  const bool embedded = absl::GetFlag(FLAGS_embedded);
  const auto level = ParseLogLevel(absl::GetFlag(FLAGS_log_level));
  if (!level.has_value()) {
    return absl::InvalidArgumentError(
        "--log_level must be debug, info, warning or error");
  }
  SetLogLevel(*level);
  if (absl::GetFlag(FLAGS_drain_deadline) < absl::ZeroDuration()) {
    return absl::InvalidArgumentError("--drain_deadline must not be negative");
  }
  if (absl::GetFlag(FLAGS_max_connection_age) <= absl::ZeroDuration() ||
      absl::GetFlag(FLAGS_max_connection_age_grace) < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        "--max_connection_age must be more than 0, and its grace not negative");
  }
  for (const char* ours : kOwnFlags) given.erase(ours);
  if (embedded) {
    for (const char* url : {"broker", "result_backend"}) {
      if (given.contains(url)) {
        return absl::InvalidArgumentError(
            absl::StrCat("--embedded has its own ", url, "; leave --", url,
                         " out"));
      }
      given[url] = "memory://";
    }
  }
  absl::StatusOr<LoadedConfig> loaded = LoadConfig(
      {.file = absl::GetFlag(FLAGS_config),
       .environment =
           [](const std::string& name) -> std::optional<std::string> {
         const char* value = std::getenv(name.c_str());
         if (value == nullptr) return std::nullopt;
         return value;
       },
       .flags = std::move(given)});
  if (!loaded.ok()) return loaded.status();
  for (const std::string& warning : loaded->warnings) {
    Log(LogLevel::kWarning, warning);
  }
  return std::move(loaded->options);
}

// The signals that end the gateway, kept for sigwait: blocked before the first
// thread starts, so that none of them takes one.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);  // a lost connection is an error of its write
  return signals;
}

int Fail(int exit_status, const absl::Status& why) {
  std::fprintf(stderr, "penstock-gateway: %s\n",
               std::string(why.message()).c_str());
  return exit_status;
}

int Run(const Options& options, const sigset_t& signals) {
  const std::unique_ptr<Environment> environment = MakeSystemEnvironment();
  auto broker = OpenBroker(options, environment.get());
  if (!broker.ok()) return Fail(kUsage, broker.status());
  auto backend = OpenBackend(options, environment.get());
  if (!backend.ok()) return Fail(kUsage, backend.status());
  Lifecycle lifecycle(broker->get(), backend->get(), environment.get(),
                      {.results_expire_in = options.results_expire_in,
                       .pending_expire_in = options.pending_expire_in});
  lifecycle.Start();

  auto server = Server::Start(
      &lifecycle, broker->get(), backend->get(), environment.get(),
      {.listen = options.listen,
       .max_connection_age = absl::GetFlag(FLAGS_max_connection_age),
       .max_connection_age_grace =
           absl::GetFlag(FLAGS_max_connection_age_grace)});
  if (!server.ok()) {
    lifecycle.Stop();
    return Fail(kCannotRun, server.status());
  }

  std::unique_ptr<Worker> worker;
  if (absl::GetFlag(FLAGS_embedded)) {
    worker = std::make_unique<Worker>(broker->get(), backend->get(),
                                      environment.get(),
                                      WorkerOptions{.config = options});
    RegisterExampleTasks(*worker);
    if (absl::Status status = worker->Start(); !status.ok()) {
      lifecycle.Stop();
      return Fail(kCannotRun, status);
    }
  }
  Log(LogLevel::kInfo, "listening", {{"address", (*server)->address()}});

  int received = 0;
  sigwait(&signals, &received);
  // A second signal has its default effect: it ends the process at once.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  const absl::Time deadline =
      absl::Now() + absl::GetFlag(FLAGS_drain_deadline);
  Log(LogLevel::kInfo, "gateway draining");
  (*server)->Drain(deadline);
  if (worker != nullptr) {
    const absl::Status drained = worker->Drain(
        std::max(deadline - absl::Now(), absl::ZeroDuration()));
    if (!drained.ok()) {
      Log(LogLevel::kWarning, "worker", {{"why", drained.message()}});
    }
  }
  lifecycle.Stop();
  Log(LogLevel::kInfo, "gateway drained");
  return kDrained;
}

int Main(int argc, char** argv) {
  if (AsksForHelp(argc, argv)) {
    PrintHelp("usage: penstock-gateway [--FLAG=VALUE]...", kFlags);
    return 0;
  }
  auto given = ParseFlags(argc, argv, kFlags);
  if (!given.ok()) return Fail(kUsage, given.status());
  if (given->contains("check_health")) {
    const absl::Status health =
        CheckGatewayHealth(absl::GetFlag(FLAGS_check_health), kCheckLimit);
    if (!health.ok()) return Fail(kCannotRun, health);
    std::puts("ready");
    return 0;
  }
  auto options = Configure(*std::move(given));
  if (!options.ok()) return Fail(kUsage, options.status());
  const sigset_t signals = BlockSignals();
  return Run(*options, signals);
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) { return penstock::Main(argc, argv); }
