// The reason and each metadata entry of an error are one payload of its
// absl::Status; the type URLs below never leave the process.

#include "queue/errors.h"

#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace penstock {
namespace {

constexpr absl::string_view kReasonUrl = "penstock.v1/reason";
constexpr absl::string_view kMetadataUrl = "penstock.v1/metadata/";  // + key

// Debian's absl::string_view is a type of its own.
absl::string_view View(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, std::string_view reason,
                       std::string_view message,
                       const std::map<std::string, std::string>& metadata) {
  absl::Status status(code, View(message));
  status.SetPayload(kReasonUrl, absl::Cord(View(reason)));
  for (const auto& [key, value] : metadata) {
    status.SetPayload(absl::StrCat(kMetadataUrl, key), absl::Cord(value));
  }
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  if (auto payload = status.GetPayload(kReasonUrl); payload.has_value()) {
    return std::string(*payload);
  }
  if (absl::IsInvalidArgument(status))
    return std::string(reason::kInvalidField);
  return std::string(reason::kInternal);
}

std::map<std::string, std::string> MetadataOf(const absl::Status& status) {
  std::map<std::string, std::string> metadata;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    if (absl::ConsumePrefix(&url, kMetadataUrl)) {
      metadata.emplace(url, std::string(payload));
    }
  });
  return metadata;
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(),
                         absl::StrCat(View(context), ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace penstock
