#include "worker/example_tasks.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

// Sums and products wrap around as Go's do; in C++ only unsigned ones may.
template <typename Numbers>
int64_t Sum(const Numbers& numbers) {
  uint64_t sum = 0;
  for (int64_t number : numbers) sum += static_cast<uint64_t>(number);
  return static_cast<int64_t>(sum);
}

int64_t Add(Rest<int64_t> numbers) { return Sum(numbers); }

int64_t Multiply(Rest<int64_t> numbers) {
  uint64_t product = 1;
  for (int64_t number : numbers) product *= static_cast<uint64_t>(number);
  return static_cast<int64_t>(product);
}

int64_t SumInts(const std::vector<int64_t>& numbers) { return Sum(numbers); }

double SumFloats(const std::vector<double>& numbers) {
  double sum = 0;
  for (double number : numbers) sum += number;
  return sum;
}

std::string Concat(const std::vector<std::string>& texts) {
  return absl::StrJoin(texts, "");
}

// By UTF-8 characters.
std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> characters;
  for (char c : text) {
    const bool continues = (c & 0xC0) == 0x80;
    if (!continues || characters.empty()) characters.emplace_back();
    characters.back() += c;
  }
  return characters;
}

std::pair<std::string, std::string> Swap(std::string a, std::string b) {
  return {std::move(b), std::move(a)};
}

void Panic() { throw std::runtime_error("oops"); }

absl::Status ReturnJustError(const std::string& text, bool fail) {
  return fail ? absl::UnknownError(text) : absl::OkStatus();
}

absl::StatusOr<std::pair<std::string, std::string>> ReturnMultipleValues(
    std::string a, std::string b, bool fail) {
  if (fail) return absl::UnknownError("some error");
  return std::pair(std::move(a), std::move(b));
}

int64_t DelayTest() { return absl::GetCurrentTimeNanos(); }

// Waits a second ten times, or until the worker wants to end.
absl::Status LongRunningTask(Context& context) {
  Log(LogLevel::kInfo, "long running task started",
      {{"task", context.task_id}});
  std::mutex mu;
  std::condition_variable_any stopped;
  std::unique_lock lock(mu);
  for (int left = 10; left > 0; --left) {
    Log(LogLevel::kInfo, "long running task",
        {{"task", context.task_id}, {"seconds_left", absl::StrCat(left)}});
    context.SetProgress((10 - left) / 10.0, absl::StrCat(left, " seconds left"));
    stopped.wait_for(lock, context.stop, std::chrono::seconds(1),
                     [] { return false; });
    if (context.stop.stop_requested()) {
      return RetryAfter(absl::ZeroDuration(), "the worker is stopping");
    }
  }
  Log(LogLevel::kInfo, "long running task finished",
      {{"task", context.task_id}});
  return absl::OkStatus();
}

}  // namespace

void RegisterExampleTasks(Worker& worker) {
  worker.Register("add", Add);
  worker.Register("multiply", Multiply);
  worker.Register("sum_ints", SumInts);
  worker.Register("sum_floats", SumFloats);
  worker.Register("concat", Concat);
  worker.Register("split", Split);
  worker.Register("panic_task", Panic);
  worker.Register("long_running_task", LongRunningTask);

  worker.Register("sum", SumInts);
  worker.Register("swap", Swap);
  worker.Register("return_just_error", ReturnJustError);
  worker.Register("return_multiple_values", ReturnMultipleValues);
  worker.Register("panic", Panic);
  worker.Register("delay_test", DelayTest);
}

}  // namespace penstock
