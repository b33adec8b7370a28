// penstock-worker: a worker with the example tasks, configured by machinery's
// config.yml, the environment and flags. Exit status: 0 drained, 1 could not
// run or drain, 2 wrong usage or configuration; with --check_health 0 ready, 1
// not ready.

#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "penstock/worker.h"
#include "queue/command_line.h"
#include "queue/config.h"
#include "queue/telemetry/log.h"
#include "sdk/cpp/health_endpoint.h"
#include "worker/example_tasks.h"

ABSL_FLAG(std::string, config, "", "machinery's config.yml");
ABSL_FLAG(std::string, broker, "", "URL of the broker: amqp://...");
ABSL_FLAG(std::string, result_backend, "",
          "URL of the result backend: redis://...");
ABSL_FLAG(std::string, default_queue, "",
          "queue of tasks without a routing key");
ABSL_FLAG(int, concurrency, 0,
          "tasks that run at the same time; 0: twice the cores");
ABSL_FLAG(
    std::vector<std::string>, queues, {},
    "queues to take tasks from, separated by commas; none: default_queue");
ABSL_FLAG(int, prefetch, 0,
          "deliveries held per queue; 0: chosen from the concurrency");
ABSL_FLAG(std::string, consumer_tag, "",
          "name of this worker at the broker; empty: the broker chooses");
ABSL_FLAG(std::string, health_listen, "",
          "host:port that answers GET /livez and GET /readyz; none: nowhere");
ABSL_FLAG(std::string, check_health, "",
          "HOST:PORT; asks the worker whose --health_listen that is whether it "
          "is ready, and ends; HOST:PORT/livez: whether it is alive");
ABSL_FLAG(absl::Duration, drain_deadline, absl::Seconds(30),
          "how long running tasks may go on after SIGTERM");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning or error");

namespace penstock {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr absl::Duration kCheckLimit = absl::Seconds(3);

constexpr const char* kFlags[] = {
    "config",        "broker",       "result_backend", "default_queue",
    "queues",        "concurrency",  "prefetch",       "consumer_tag",
    "health_listen", "check_health", "drain_deadline", "log_level"};

int Usage(const std::string& text) {
  std::fprintf(stderr, "penstock-worker: %s\n", text.c_str());
  return kExitUsage;
}

std::optional<std::string> Getenv(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

// LoadConfig knows the rest of the settings.
std::map<std::string, std::string> ForConfig(
    std::map<std::string, std::string> given) {
  std::erase_if(given, [](const auto& flag) {
    return flag.first != "broker" && flag.first != "result_backend" &&
           flag.first != "default_queue" && flag.first != "concurrency" &&
           flag.first != "health_listen";
  });
  return given;
}

int Main(int argc, char** argv) {
  if (AsksForHelp(argc, argv)) {
    PrintHelp("usage: penstock-worker [--FLAG=VALUE]...", kFlags);
    return EXIT_SUCCESS;
  }
  auto given = ParseFlags(argc, argv, kFlags);
  if (!given.ok()) return Usage(std::string(given.status().message()));

  const std::optional<LogLevel> level =
      ParseLogLevel(absl::GetFlag(FLAGS_log_level));
  if (!level.has_value()) {
    return Usage("--log_level must be debug, info, warning or error");
  }
  SetLogLevel(*level);
  if (absl::GetFlag(FLAGS_drain_deadline) < absl::ZeroDuration()) {
    return Usage("--drain_deadline must not be negative");
  }
  if (const int prefetch = absl::GetFlag(FLAGS_prefetch);
      prefetch < 0 || prefetch > 65535) {
    return Usage("--prefetch must be between 0 and 65535");
  }

  if (given->contains("check_health")) {
    const absl::StatusOr<std::string> health =
        CheckHealth(absl::GetFlag(FLAGS_check_health), kCheckLimit);
    if (health.ok()) {
      std::puts(health->c_str());
      return EXIT_SUCCESS;
    }
    std::fprintf(stderr, "penstock-worker: %s\n",
                 std::string(health.status().message()).c_str());
    return kExitFailed;
  }

  absl::StatusOr<LoadedConfig> config =
      LoadConfig({.file = absl::GetFlag(FLAGS_config),
                  .environment = Getenv,
                  .flags = ForConfig(*std::move(given))});
  if (!config.ok()) return Usage(std::string(config.status().message()));
  for (const std::string& warning : config->warnings) {
    Log(LogLevel::kWarning, warning);
  }
  const Options& options = config->options;
  Log(LogLevel::kInfo, "penstock-worker starts",
      {{"broker", RedactUrl(options.broker)},
       {"result_backend", RedactUrl(options.result_backend)}});

  Worker worker({
      .config = options,
      .prefetch = absl::GetFlag(FLAGS_prefetch),
      .queues = absl::GetFlag(FLAGS_queues),
      .consumer_tag = absl::GetFlag(FLAGS_consumer_tag),
      .drain_deadline = absl::GetFlag(FLAGS_drain_deadline),
  });
  RegisterExampleTasks(worker);
  const absl::Status status = worker.Run();
  if (status.ok()) return EXIT_SUCCESS;
  if (absl::IsInvalidArgument(status)) {
    return Usage(std::string(status.message()));
  }
  Log(LogLevel::kError, "penstock-worker failed", {{"why", status.message()}});
  return kExitFailed;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) { return penstock::Main(argc, argv); }
