#include "queue/policy.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace penstock {
namespace {

constexpr std::string_view kTimeoutHeader = "penstock-timeout";
constexpr std::string_view kExpiresHeader = "penstock-expires";
constexpr std::string_view kUniqueKeyHeader = "penstock-unique-key";
constexpr std::string_view kBackoffHeader = "penstock-backoff";
constexpr std::string_view kResultTtlHeader = "penstock-result-ttl";

std::optional<absl::Duration> DurationHeader(const Task& task,
                                             std::string_view key) {
  const std::optional<int64_t> ms = NumberHeader(task, key);
  if (!ms.has_value() || *ms < 1) return std::nullopt;
  return absl::Milliseconds(*ms);
}

void SetDurationHeader(Task& task, std::string_view key,
                       absl::Duration duration) {
  SetStringHeader(task, key,
                  absl::StrCat(absl::ToInt64Milliseconds(
                      absl::Ceil(duration, absl::Milliseconds(1)))));
}

}  // namespace

std::optional<absl::Duration> TimeoutOf(const Task& task) {
  return DurationHeader(task, kTimeoutHeader);
}

void SetTimeout(Task& task, absl::Duration timeout) {
  SetDurationHeader(task, kTimeoutHeader, timeout);
}

std::optional<absl::Duration> ResultTtlOf(const Task& task) {
  return DurationHeader(task, kResultTtlHeader);
}

void SetResultTtl(Task& task, absl::Duration ttl) {
  SetDurationHeader(task, kResultTtlHeader, ttl);
}

std::optional<absl::Time> ExpiryOf(const Task& task) {
  const std::optional<int64_t> ms = NumberHeader(task, kExpiresHeader);
  if (!ms.has_value()) return std::nullopt;
  return absl::FromUnixMillis(*ms);
}

void SetExpiry(Task& task, absl::Time expiry) {
  SetStringHeader(task, kExpiresHeader,
                  absl::StrCat(absl::ToUnixMillis(expiry)));
}

std::optional<std::string> UniqueKeyOf(const Task& task) {
  std::optional<std::string> key = StringHeader(task, kUniqueKeyHeader);
  if (!key.has_value() || key->empty()) return std::nullopt;
  return key;
}

void SetUniqueKey(Task& task, const std::string& key) {
  SetStringHeader(task, kUniqueKeyHeader, key);
}

void DropExpiry(Task& task) { task.headers.erase(std::string(kExpiresHeader)); }

std::string ExpiryText(absl::Time expiry) {
  return absl::StrCat("EXPIRED: it had not begun by ",
                      absl::FormatTime(expiry, absl::UTCTimeZone()));
}

std::optional<ExponentialBackoff> BackoffOf(const Task& task) {
  const std::optional<std::string> text = StringHeader(task, kBackoffHeader);
  if (!text.has_value()) return std::nullopt;
  const std::vector<std::string> words = absl::StrSplit(*text, ' ');
  int64_t first_ms = 0;
  int64_t max_ms = 0;
  ExponentialBackoff backoff;
  if (words.size() != 4 || !absl::SimpleAtoi(words[0], &first_ms) ||
      !absl::SimpleAtod(words[1], &backoff.factor) ||
      !absl::SimpleAtoi(words[2], &max_ms) ||
      !absl::SimpleAtod(words[3], &backoff.jitter) || first_ms < 0 ||
      max_ms < first_ms || !(backoff.factor >= 1) || !(backoff.jitter >= 0) ||
      !(backoff.jitter <= 1)) {
    return std::nullopt;
  }
  backoff.first = absl::Milliseconds(first_ms);
  backoff.max = absl::Milliseconds(max_ms);
  return backoff;
}

void SetBackoff(Task& task, const ExponentialBackoff& backoff) {
  SetStringHeader(
      task, kBackoffHeader,
      absl::StrCat(absl::ToInt64Milliseconds(backoff.first), " ",
                   backoff.factor, " ", absl::ToInt64Milliseconds(backoff.max),
                   " ", backoff.jitter));
}

absl::Duration PauseAfter(const ExponentialBackoff& backoff, int attempt,
                          double random) {
  // In doubles, which overflow to infinity and not to nonsense.
  const double factor = std::pow(backoff.factor, std::max(attempt - 1, 0));
  const double pause = std::min(absl::ToDoubleMilliseconds(backoff.first) * factor,
                                absl::ToDoubleMilliseconds(backoff.max));
  const double spread = 1 + backoff.jitter * (2 * random - 1);
  return absl::Milliseconds(std::llround(pause * spread));
}

}  // namespace penstock
