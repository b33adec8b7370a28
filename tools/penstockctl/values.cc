// The grammar of an argument: what a word looks like, and what a type takes.

#include "tools/penstockctl/values.h"

#include <cctype>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "queue/json.h"

namespace penstock::ctl {
namespace {

bool ParseScalar(const std::string& text, bool& out) {
  out = text == "true";
  return out || text == "false";
}
bool ParseScalar(const std::string& text, int64_t& out) {
  return absl::SimpleAtoi(text, &out);
}
bool ParseScalar(const std::string& text, uint64_t& out) {
  return absl::SimpleAtoi(text, &out);
}
bool ParseScalar(const std::string& text, double& out) {
  return absl::SimpleAtod(text, &out);
}
bool ParseScalar(const std::string& text, std::string& out) {
  out = text;
  return true;
}

absl::Status Refuse(const std::string& word, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", word, "\": ", why));
}

// `text` as a T, or as a list of them.
template <typename T>
absl::StatusOr<TypedValue> Parse(const std::string& text, bool list,
                                 const std::string& what) {
  if (!list) {
    T value{};
    if (ParseScalar(text, value)) return TypedValue(std::move(value));
    return absl::InvalidArgumentError(absl::StrCat("expected ", what));
  }
  std::vector<T> values;
  if (text.empty()) return TypedValue(std::move(values));
  for (const std::string& element :
       std::vector<std::string>(absl::StrSplit(text, ','))) {
    T value{};
    if (!ParseScalar(element, value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("element ", values.size(), ": expected ", what));
    }
    values.push_back(std::move(value));
  }
  return TypedValue(std::move(values));
}

absl::StatusOr<TypedValue> ParseAs(const std::string& type,
                                   const std::string& text) {
  if (type == "[]byte" || type == "[]uint8") {
    absl::StatusOr<Bytes> bytes = DecodeBase64(text);
    if (!bytes.ok()) return absl::InvalidArgumentError("expected base64");
    return TypedValue(*std::move(bytes));
  }
  bool list = type.starts_with("[]");
  std::string scalar = list ? type.substr(2) : type;
  if (scalar == "bool") return Parse<bool>(text, list, "true or false");
  if (scalar == "string") return Parse<std::string>(text, list, "text");
  if (scalar.starts_with("float")) return Parse<double>(text, list, "a number");
  if (scalar.starts_with("uint")) {
    return Parse<uint64_t>(text, list,
                           "a whole number from 0 to 18446744073709551615");
  }
  return Parse<int64_t>(text, list,
                        "a whole number from -9223372036854775808 to "
                        "9223372036854775807");
}

size_t SkipDigits(const std::string& text, size_t at) {
  while (at < text.size() &&
         std::isdigit(static_cast<unsigned char>(text[at]))) {
    ++at;
  }
  return at;
}

enum class Look { kWhole, kFraction, kText };

// How an untyped word looks. JSON's numbers, and ".5".
Look LookOf(const std::string& text) {
  size_t begin = text.starts_with("-") ? 1 : 0;
  size_t end = SkipDigits(text, begin);
  bool whole = end > begin;
  if (whole && text[begin] == '0' && end > begin + 1) return Look::kText;
  if (end == text.size()) return whole ? Look::kWhole : Look::kText;
  if (text[end] == '.') {
    size_t fraction = SkipDigits(text, end + 1);
    if (fraction == end + 1) return Look::kText;
    end = fraction;
  } else if (!whole) {
    return Look::kText;
  }
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    size_t sign = end + 1;
    if (sign < text.size() && (text[sign] == '-' || text[sign] == '+')) ++sign;
    end = SkipDigits(text, sign);
    if (end == sign) return Look::kText;
  }
  return end == text.size() ? Look::kFraction : Look::kText;
}

absl::StatusOr<TypedArg> ParseUntyped(const std::string& word) {
  if (word == "true" || word == "false") return TypedArg{"", word == "true"};
  Look look = LookOf(word);
  if (look == Look::kWhole) {
    int64_t number = 0;
    if (absl::SimpleAtoi(word, &number)) return TypedArg{"", number};
    return Refuse(word,
                  "does not fit in int64; write uint64:, float64: or "
                  "string: before it");
  }
  if (look == Look::kFraction) {
    double number = 0;
    if (absl::SimpleAtod(word, &number) && std::isfinite(number)) {
      return TypedArg{"", number};
    }
    return Refuse(word, "does not fit in float64; write string: before it");
  }
  return TypedArg{"", word};
}

}  // namespace

absl::StatusOr<TypedArg> ParseArg(const std::string& word) {
  size_t colon = word.find(':');
  if (colon == std::string::npos || !IsKnownType(word.substr(0, colon))) {
    return ParseUntyped(word);
  }
  std::string type = word.substr(0, colon);
  absl::StatusOr<TypedValue> value = ParseAs(type, word.substr(colon + 1));
  if (!value.ok()) return Refuse(word, std::string(value.status().message()));
  // The gateway checks the range too, but would name a field, not the word.
  absl::StatusOr<Value> made = MakeValue(*value, type);
  if (!made.ok()) return Refuse(word, std::string(made.status().message()));
  return TypedArg{std::move(type), *std::move(value)};
}

}  // namespace penstock::ctl
