// JSON text exactly as Go's encoding/json writes it, for values and documents.
// Rules: docs/wire-format.md section 1. Pure; thread-safe.

#ifndef PENSTOCK_QUEUE_JSON_H_
#define PENSTOCK_QUEUE_JSON_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "queue/task.h"

namespace penstock {

// Where the run of plain characters that begins at `begin` ends: ASCII that
// stands in Go's strings as it is.
size_t EndOfPlainText(std::string_view text, size_t begin);

// Appends `text` as a JSON string, quotes included, with Go's escapes; a byte
// that is not UTF-8 becomes \ufffd.
void AppendJsonString(std::string_view text, std::string* out);
std::string JsonString(std::string_view text);

// The text of a JSON string; nullopt when `json` is not one.
std::optional<std::string> ParseJsonString(std::string_view json);

// Shortest digits that read back the same, in Go's format; `value` is finite.
void AppendJsonDouble(double value, std::string* out);
void AppendJsonFloat(float value, std::string* out);

// RFC 3339 with nanoseconds, trailing zeros trimmed ("2026-11-21T23:18:33.5Z").
std::string FormatTime(const ZonedTime& time);
absl::StatusOr<ZonedTime> ParseTime(std::string_view text);

// Base64 with padding; reading ignores \r and \n as Go does.
std::string EncodeBase64(const Bytes& bytes);
absl::StatusOr<Bytes> DecodeBase64(std::string_view text);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_JSON_H_
