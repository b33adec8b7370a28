// See fields.h.

#include "queue/wire/fields.h"

#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "queue/json.h"

namespace penstock {
namespace {

// Debian's absl::string_view is a type of its own.
absl::string_view View(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

}  // namespace

std::optional<size_t> FieldReader::NextField(
    std::span<const std::string_view> names, size_t expected) {
  if (!ok()) return std::nullopt;
  for (size_t i = expected; i < names.size(); ++i) {
    if (json_.TakeMember(names[i])) return i;
  }
  if (!json_.NextMember(&key_)) return std::nullopt;
  for (size_t i = 0; i < names.size(); ++i) {
    if (absl::EqualsIgnoreCase(View(names[i]), View(key_))) return i;
  }
  return names.size();
}

void FieldReader::Fail(std::string_view field, std::string_view text) {
  if (!ok()) return;
  status_ =
      absl::InvalidArgumentError(absl::StrCat(View(field), ": ", View(text)));
}

void FieldReader::Within(std::string_view list, size_t index) {
  if (status_.ok()) return;
  status_ = absl::InvalidArgumentError(
      absl::StrCat(View(list), "[", index, "].", status_.message()));
}

bool FieldReader::TakeNull() {
  if (json_.Kind() != JsonKind::kNull) return false;
  json_.Skip();
  return true;
}

bool FieldReader::Expect(std::string_view field, JsonKind kind,
                         std::string_view expected) {
  if (!ok()) return false;
  const JsonKind found = json_.Kind();
  if (found == kind) return true;
  if (found == JsonKind::kNull || found == JsonKind::kNone) {
    json_.Skip();  // of no kind: says what is not JSON here
    return false;
  }
  Fail(field, absl::StrCat("found ", View(KindName(found)), ", expected ",
                           View(expected)));
  return false;
}

bool FieldReader::EnterObject(std::string_view field) {
  if (!Expect(field, JsonKind::kObject, "an object")) return false;
  json_.Enter();
  return true;
}

bool FieldReader::EnterArray(std::string_view field) {
  if (!Expect(field, JsonKind::kArray, "an array")) return false;
  json_.Enter();
  return true;
}

void FieldReader::Read(std::string_view field, std::string* out) {
  if (std::string_view plain; ok() && json_.TakePlainString(&plain)) {
    out->assign(plain);
    return;
  }
  if (!Expect(field, JsonKind::kString, "a string")) return;
  if (auto text = ParseJsonString(json_.Skip())) *out = *std::move(text);
}

void FieldReader::Read(std::string_view field, bool* out) {
  if (!Expect(field, JsonKind::kBool, "a boolean")) return;
  *out = json_.Skip() == "true";
}

void FieldReader::Read(std::string_view field, int64_t* out) {
  if (!Expect(field, JsonKind::kNumber, "an integer")) return;
  const std::string_view text = json_.Skip();
  if (!ok() || absl::SimpleAtoi(View(text), out)) return;
  Fail(field, absl::StrCat("found ", View(text.substr(0, 40)),
                           ", expected an integer"));
}

void FieldReader::Read(std::string_view field, int* out) {
  int64_t wide = *out;
  Read(field, &wide);
  if (!std::in_range<int>(wide)) {
    Fail(field, absl::StrCat("found ", wide, ", expected a 32-bit integer"));
  } else {
    *out = static_cast<int>(wide);
  }
}

void FieldReader::Read(std::string_view field, uint8_t* out) {
  int64_t wide = *out;
  Read(field, &wide);
  if (!std::in_range<uint8_t>(wide)) {
    Fail(field,
         absl::StrCat("found ", wide, ", expected an integer from 0 to 255"));
  } else {
    *out = static_cast<uint8_t>(wide);
  }
}

void FieldReader::Read(std::string_view field, double* out) {
  if (!Expect(field, JsonKind::kNumber, "a number")) return;
  const std::string_view text = json_.Skip();
  if (!ok() || absl::SimpleAtod(View(text), out)) return;
  Fail(field, absl::StrCat("found ", View(text.substr(0, 40)),
                           ", expected a number"));
}

void FieldReader::Read(std::string_view field, ZonedTime* out) {
  if (!Expect(field, JsonKind::kString, "a time in a string")) return;
  const auto text = ParseJsonString(json_.Skip());
  if (!text.has_value()) return;
  if (const absl::StatusOr<ZonedTime> time = ParseTime(*text); time.ok()) {
    *out = *time;
  } else {
    Fail(field, std::string(time.status().message()));
  }
}

void FieldReader::Read(std::string_view field, absl::Time* out) {
  ZonedTime zoned{.time = *out};
  Read(field, &zoned);
  *out = zoned.time;
}

void FieldReader::Read(std::string_view field, std::vector<std::string>* out,
                       bool* is_null) {
  out->clear();
  *is_null = true;
  if (!EnterArray(field)) return;
  *is_null = false;
  while (ok() && json_.NextElement()) {
    Read(field, &out->emplace_back());
  }
}

}  // namespace penstock
