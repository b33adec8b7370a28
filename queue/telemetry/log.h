// Structured log lines on standard error: time, level, message, key=value. Only
// the place that handles an error logs it. Never give it a password or a task's
// arguments. Thread-safe.

#ifndef PENSTOCK_QUEUE_TELEMETRY_LOG_H_
#define PENSTOCK_QUEUE_TELEMETRY_LOG_H_

#include <initializer_list>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/string_view.h"

namespace penstock {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

using LogField = std::pair<absl::string_view, absl::string_view>;

// Log(LogLevel::kWarning, "connection lost", {{"server", url}, {"why", text}});
void Log(LogLevel level, absl::string_view message,
         std::initializer_list<LogField> fields = {});

// "debug", "info", "warning" or "error"; nullopt for anything else.
std::optional<LogLevel> ParseLogLevel(absl::string_view name);

// Lines below this level are dropped; kInfo at first.
void SetLogLevel(LogLevel level);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_TELEMETRY_LOG_H_
