// Names of the statuses, and headers that hold strings. Pure.

#include "queue/task.h"

#include <array>
#include <limits>

#include "absl/strings/numbers.h"
#include "queue/json.h"

namespace penstock {
namespace {

constexpr std::array<std::string_view, 7> kStatusNames = {
    "", "PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE"};

}  // namespace

std::optional<std::string> StringHeader(const Task& task,
                                        std::string_view key) {
  if (task.headers.empty()) return std::nullopt;
  const auto header = task.headers.find(std::string(key));
  if (header == task.headers.end()) return std::nullopt;
  return ParseJsonString(header->second);
}

std::optional<int64_t> NumberHeader(const Task& task, std::string_view key) {
  const std::optional<std::string> text = StringHeader(task, key);
  int64_t number = 0;
  if (!text.has_value() || !absl::SimpleAtoi(*text, &number)) {
    return std::nullopt;
  }
  return number;
}

void SetStringHeader(Task& task, std::string_view key, std::string_view value) {
  task.headers.insert_or_assign(std::string(key), JsonString(value));
  task.headers_null = false;
}

int AttemptOf(const Task& task) {
  const int64_t attempt = NumberHeader(task, kAttemptHeader).value_or(1);
  const bool possible = attempt >= 1 && attempt <= std::numeric_limits<int>::max();
  return possible ? static_cast<int>(attempt) : 1;
}

std::string_view StatusName(Status status) {
  return kStatusNames[static_cast<size_t>(status)];
}

Status ParseStatus(std::string_view name) {
  for (size_t i = 1; i < kStatusNames.size(); ++i) {
    if (kStatusNames[i] == name) return static_cast<Status>(i);
  }
  return Status::kUnknown;
}

}  // namespace penstock
