// The worker behind the clients' table of cases (README.md): the example tasks,
// and tasks that show a client every type, every kind of result and every end.
// Configured by the environment alone. Each run of `record` is a line in the file
// CLIENTS_RUNS.

#include <fcntl.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "penstock/worker.h"
#include "queue/config.h"
#include "worker/example_tasks.h"

namespace penstock {
namespace {

template <typename T>
void RegisterEcho(Worker& worker, const std::string& type) {
  worker.Register("echo." + type, [](T value) { return value; });
}

template <typename T>
void RegisterEchoes(Worker& worker, const std::string& type) {
  RegisterEcho<T>(worker, type);
  RegisterEcho<std::vector<T>>(worker, "[]" + type);
}

void RegisterEchoes(Worker& worker) {
  RegisterEchoes<bool>(worker, "bool");
  RegisterEchoes<int64_t>(worker, "int");
  RegisterEchoes<int8_t>(worker, "int8");
  RegisterEchoes<int16_t>(worker, "int16");
  RegisterEchoes<int32_t>(worker, "int32");
  RegisterEchoes<int64_t>(worker, "int64");
  RegisterEchoes<uint64_t>(worker, "uint");
  RegisterEchoes<uint8_t>(worker, "uint8");
  RegisterEchoes<uint16_t>(worker, "uint16");
  RegisterEchoes<uint32_t>(worker, "uint32");
  RegisterEchoes<uint64_t>(worker, "uint64");
  RegisterEchoes<float>(worker, "float32");
  RegisterEchoes<double>(worker, "float64");
  RegisterEchoes<std::string>(worker, "string");
  RegisterEcho<std::vector<uint8_t>>(worker, "[]byte");
}

// Fails `failures` times for each key, then returns how many runs there were.
absl::StatusOr<int64_t> Flaky(const std::string& key, int64_t failures) {
  static std::mutex mu;
  static auto& runs = *new std::map<std::string, int64_t>;
  std::lock_guard lock(mu);
  const int64_t run = ++runs[key];
  if (run <= failures) {
    return absl::UnknownError(absl::StrCat("run ", run, " failed"));
  }
  return run;
}

// Runs until it is told to stop.
absl::Status WaitStop(Context& task) {
  std::mutex mu;
  std::condition_variable_any stopped;
  std::unique_lock lock(mu);
  stopped.wait(lock, task.stop, [] { return false; });
  // Of a task that was cancelled or has timed out this is dropped.
  return RetryAfter(absl::ZeroDuration(), "the worker is stopping");
}

void RegisterTasks(Worker& worker, int runs_file) {
  RegisterExampleTasks(worker);
  RegisterEchoes(worker);
  worker.Register("several", [] {
    return std::tuple(int64_t{-9007199254740993}, std::string("zwölf 🎻"), true,
                      0.1);
  });
  worker.Register("nothing", [] {});
  worker.Register("fail", [](const std::string& text) {
    return absl::UnknownError(text);
  });
  worker.Register("header", [](Context& task, const std::string& key) {
    const auto found = task.headers.find(key);
    return found == task.headers.end() ? std::string() : found->second;
  });
  worker.Register("flaky", Flaky);
  worker.Register("wait_stop", WaitStop);
  // One write a line: lines of several runs do not mix.
  worker.Register(
      "record",
      [runs_file](const std::string& key) -> absl::StatusOr<std::string> {
        const std::string line = key + "\n";
        if (write(runs_file, line.data(), line.size()) !=
            static_cast<ssize_t>(line.size())) {
          return absl::InternalError("CLIENTS_RUNS cannot be written");
        }
        return key;
      });
}

int Main() {
  absl::StatusOr<LoadedConfig> config = LoadConfig(
      {.environment =
           [](const std::string& name) -> std::optional<std::string> {
        const char* value = std::getenv(name.c_str());
        if (value == nullptr) return std::nullopt;
        return value;
      }});
  if (!config.ok()) {
    std::fprintf(stderr, "%s\n", config.status().ToString().c_str());
    return 2;
  }
  const char* runs = std::getenv("CLIENTS_RUNS");
  const int runs_file = open(runs == nullptr ? "/dev/null" : runs,
                             O_WRONLY | O_APPEND | O_CREAT, 0600);
  if (runs_file < 0) {
    std::perror("CLIENTS_RUNS");
    return 2;
  }
  // More than twice the cores: a task that waits must not hold up the others.
  Worker worker({.config = config->options, .concurrency = 8});
  RegisterTasks(worker, runs_file);
  const absl::Status status = worker.Run();
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return EXIT_FAILURE;
}

}  // namespace
}  // namespace penstock

int main() { return penstock::Main(); }
