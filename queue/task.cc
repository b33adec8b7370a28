// Names of the statuses, and headers that hold strings. Pure.

#include "queue/task.h"

#include <array>

#include "absl/strings/numbers.h"
#include "queue/json.h"

namespace penstock {
namespace {

constexpr std::array<std::string_view, 7> kStatusNames = {
    "", "PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE"};

}  // namespace

std::optional<std::string> StringHeader(const Task& task,
                                        std::string_view key) {
  const auto header = task.headers.find(std::string(key));
  if (header == task.headers.end()) return std::nullopt;
  return ParseJsonString(header->second);
}

void SetStringHeader(Task& task, std::string_view key, std::string_view value) {
  task.headers.insert_or_assign(std::string(key), JsonString(value));
  task.headers_null = false;
}

int AttemptOf(const Task& task) {
  const std::optional<std::string> text = StringHeader(task, kAttemptHeader);
  int attempt = 0;
  // A header that someone garbled counts as the first attempt.
  if (!text.has_value() || !absl::SimpleAtoi(*text, &attempt)) return 1;
  return attempt < 1 ? 1 : attempt;
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
