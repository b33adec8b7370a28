// penstock-bench-worker: a worker on the SDK, with the three tasks of the bench.
// Configured by the environment (PENSTOCK_...), as any worker.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "penstock/worker.h"
#include "queue/config.h"
#include "queue/telemetry/log.h"

ABSL_FLAG(int, prefetch, 0, "deliveries held; 0: chosen from the concurrency");
ABSL_FLAG(std::vector<std::string>, queues, {}, "none: the default one");

namespace penstock {
namespace {

int64_t Add(Rest<int64_t> numbers) {
  int64_t sum = 0;
  for (int64_t number : numbers) sum += number;
  return sum;
}

// When it runs, which says how late a delayed task is.
int64_t RunTime(Rest<int64_t>) { return absl::GetCurrentTimeNanos(); }

// Fails the first time.
absl::StatusOr<int64_t> Flaky(Context& context, int64_t number,
                              int64_t one) {
  if (context.attempt == 1) return absl::UnavailableError("the first time");
  return number + one;
}

std::optional<std::string> Getenv(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

int Main() {
  SetLogLevel(LogLevel::kWarning);
  const absl::StatusOr<LoadedConfig> config =
      LoadConfig({.file = "", .environment = Getenv, .flags = {}});
  if (!config.ok()) {
    std::fprintf(stderr, "%s\n", std::string(config.status().message()).c_str());
    return 2;
  }
  Worker worker({.config = config->options,
                 .prefetch = absl::GetFlag(FLAGS_prefetch),
                 .queues = absl::GetFlag(FLAGS_queues)});
  worker.Register("add", Add);
  worker.Register("now", RunTime);
  worker.Register("flaky", Flaky);
  const absl::Status status = worker.Run();
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return penstock::Main();
}
