// The Penstock half of the interop tests: a worker whose tasks its Go twin
// (tasks_test.go) has as well, under the same names and, so that a test can say
// who is to run one, under "cpp.NAME" and "go.NAME". Configured by the
// environment alone. Each run of a handler is a line in the file
// INTEROP_RUNS: "ID NAME". INTEROP_PERIODIC is the spec of a periodic task.

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "penstock/worker.h"
#include "queue/json.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

// The headers of the task that this thread runs; Context shows only those that
// are strings.
thread_local std::map<std::string, std::string> headers_of_this_run;

template <typename F>
void RegisterBoth(Worker& worker, std::string_view name, F handler) {
  worker.Register(name, handler);
  worker.Register(absl::StrCat("cpp.", std::string(name)), handler);
}

template <typename T>
void RegisterEcho(Worker& worker, std::string_view type) {
  RegisterBoth(worker, absl::StrCat("echo.", std::string(type)),
               [](T value) { return value; });
}

template <typename T>
void RegisterEchoes(Worker& worker, std::string_view type) {
  RegisterEcho<T>(worker, type);
  RegisterEcho<std::vector<T>>(worker, absl::StrCat("[]", std::string(type)));
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

void RegisterTasks(Worker& worker) {
  RegisterEchoes(worker);
  RegisterBoth(worker, "who", [] { return std::string("cpp"); });
  RegisterBoth(worker, "nothing", [] {});
  RegisterBoth(worker, "now", [] { return absl::GetCurrentTimeNanos(); });
  RegisterBoth(worker, "several", [](int64_t number, const std::string& text) {
    return std::tuple(number, text, true, 0.25,
                      std::vector<std::string>{text, ""});
  });
  RegisterBoth(worker, "add", [](Rest<int64_t> numbers) {
    int64_t sum = 0;
    for (int64_t number : numbers) sum += number;
    return sum;
  });
  RegisterBoth(worker, "concat", [](Rest<std::string> texts) {
    return absl::StrJoin(texts.values, "|");
  });
  RegisterBoth(worker, "fail", [](const std::string& text) {
    return absl::UnknownError(text);
  });
  RegisterBoth(worker, "panic",
               [](const std::string& text) { throw std::runtime_error(text); });
  RegisterBoth(worker, "flaky",
               [](Context& task, int64_t failures) -> absl::StatusOr<int64_t> {
                 if (task.attempt <= failures) {
                   return absl::UnknownError(
                       absl::StrCat("attempt ", task.attempt, " failed"));
                 }
                 return task.attempt;
               });
  RegisterBoth(worker, "later",
               [](Context& task, int64_t failures,
                  int64_t pause_ms) -> absl::StatusOr<int64_t> {
                 if (task.attempt <= failures) {
                   return RetryAfter(absl::Milliseconds(pause_ms), "not yet");
                 }
                 return task.attempt;
               });
  RegisterBoth(worker, "nap", [](int64_t ms) {
    absl::SleepFor(absl::Milliseconds(ms));
    return ms;
  });
  RegisterBoth(worker, "headers", [] {
    return absl::StrCat("{",
                        absl::StrJoin(headers_of_this_run, ",",
                                      [](std::string* out, const auto& header) {
                                        AppendJsonString(header.first, out);
                                        absl::StrAppend(out, ":",
                                                        header.second);
                                      }),
                        "}");
  });
}

// One write a line: lines of several workers do not mix.
void NoteRun(int file, const Task& task) {
  const std::string line = absl::StrCat(task.id, " ", task.name, "\n");
  if (write(file, line.data(), line.size()) < 0) std::perror("INTEROP_RUNS");
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
  const char* runs = std::getenv("INTEROP_RUNS");
  const int file = open(runs == nullptr ? "/dev/null" : runs,
                        O_WRONLY | O_APPEND | O_CREAT, 0600);
  if (file < 0) {
    std::perror("INTEROP_RUNS");
    return 2;
  }
  std::vector<std::string> queues;
  if (const char* queue = std::getenv("INTEROP_QUEUE"); queue != nullptr) {
    queues.push_back(queue);
  }
  Worker worker({.config = config->options,
                 .queues = queues,
                 .hooks = {.before_task = [file](const Task& task) {
                   headers_of_this_run = task.headers;
                   NoteRun(file, task);
                 }}});
  RegisterTasks(worker);
  absl::Status status;
  if (const char* spec = std::getenv("INTEROP_PERIODIC"); spec != nullptr) {
    status = worker.Schedule(spec, "periodic task", Task{.name = "nothing"});
  }
  if (status.ok()) status = worker.Run();
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return EXIT_FAILURE;
}

}  // namespace
}  // namespace penstock

int main() { return penstock::Main(); }
