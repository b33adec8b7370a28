// machinery's 29 types, and values between their JSON text and C++.

#include "queue/value.h"

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "queue/errors.h"
#include "queue/json.h"
#include "queue/json_reader.h"

namespace penstock {
namespace {

enum class Kind { kBool, kInt, kUint, kFloat, kString, kBytes };

struct Type {
  absl::string_view name;
  Kind kind;
  bool list = false;
  int bits = 64;
};

constexpr std::array<Type, 29> kTypes = {{
    {"bool", Kind::kBool},
    {"int", Kind::kInt},
    {"int8", Kind::kInt, false, 8},
    {"int16", Kind::kInt, false, 16},
    {"int32", Kind::kInt, false, 32},
    {"int64", Kind::kInt},
    {"uint", Kind::kUint},
    {"uint8", Kind::kUint, false, 8},
    {"uint16", Kind::kUint, false, 16},
    {"uint32", Kind::kUint, false, 32},
    {"uint64", Kind::kUint},
    {"float32", Kind::kFloat, false, 32},
    {"float64", Kind::kFloat},
    {"string", Kind::kString},
    {"[]bool", Kind::kBool, true},
    {"[]int", Kind::kInt, true},
    {"[]int8", Kind::kInt, true, 8},
    {"[]int16", Kind::kInt, true, 16},
    {"[]int32", Kind::kInt, true, 32},
    {"[]int64", Kind::kInt, true},
    {"[]uint", Kind::kUint, true},
    {"[]uint8", Kind::kBytes},
    {"[]uint16", Kind::kUint, true, 16},
    {"[]uint32", Kind::kUint, true, 32},
    {"[]uint64", Kind::kUint, true},
    {"[]float32", Kind::kFloat, true, 32},
    {"[]float64", Kind::kFloat, true},
    {"[]string", Kind::kString, true},
    {"[]byte", Kind::kBytes},
}};

// An element of []byte when it is written or read as a list of numbers.
constexpr Type kByte = {"uint8", Kind::kUint, false, 8};

const Type* FindType(std::string_view name) {
  for (const Type& type : kTypes) {
    if (std::string_view(type.name.data(), type.name.size()) == name) {
      return &type;
    }
  }
  return nullptr;
}

absl::Status UnknownType(std::string_view name) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", std::string(name), "\" is not a type of a task's ",
                   "arguments (bool, int64, float64, string, []byte, ...)"));
}

int64_t MinInt(int bits) {
  return std::numeric_limits<int64_t>::min() >> (64 - bits);
}
int64_t MaxInt(int bits) {
  return std::numeric_limits<int64_t>::max() >> (64 - bits);
}
uint64_t MaxUint(int bits) {
  return std::numeric_limits<uint64_t>::max() >> (64 - bits);
}

std::string Range(const Type& type) {
  return type.kind == Kind::kInt
             ? absl::StrCat(MinInt(type.bits), " to ", MaxInt(type.bits))
             : absl::StrCat("0 to ", MaxUint(type.bits));
}

// "[]int8" -> "int8": what an error about one element names.
absl::string_view ElementName(const Type& type) {
  return type.list ? type.name.substr(2) : type.name;
}

absl::Status DoesNotFit(absl::string_view value, const Type& type) {
  return absl::InvalidArgumentError(absl::StrCat(
      value, " does not fit in ", ElementName(type), " (", Range(type), ")"));
}

absl::Status AtElement(const absl::Status& status, size_t index) {
  return Annotate(status, absl::StrCat("element ", index));
}

// ---- writing --------------------------------------------------------------

absl::Status Append(const Type&, bool value, std::string* out) {
  out->append(value ? "true" : "false");
  return absl::OkStatus();
}

absl::Status Append(const Type& type, int64_t value, std::string* out) {
  if (value < MinInt(type.bits) || value > MaxInt(type.bits)) {
    return DoesNotFit(absl::StrCat(value), type);
  }
  absl::StrAppend(out, value);
  return absl::OkStatus();
}

absl::Status Append(const Type& type, uint64_t value, std::string* out) {
  if (value > MaxUint(type.bits)) return DoesNotFit(absl::StrCat(value), type);
  absl::StrAppend(out, value);
  return absl::OkStatus();
}

absl::Status Append(const Type& type, double value, std::string* out) {
  if (!std::isfinite(value)) {
    return absl::InvalidArgumentError(
        "is not a finite number; JSON has neither NaN nor infinity");
  }
  if (type.bits == 64) {
    AppendJsonDouble(value, out);
    return absl::OkStatus();
  }
  const auto narrow = static_cast<float>(value);
  if (!std::isfinite(narrow)) {
    return absl::InvalidArgumentError(
        absl::StrCat(value, " does not fit in float32"));
  }
  AppendJsonFloat(narrow, out);
  return absl::OkStatus();
}

absl::Status Append(const Type&, const std::string& value, std::string* out) {
  AppendJsonString(value, out);
  return absl::OkStatus();
}

absl::Status Append(const Type&, const Bytes& value, std::string* out) {
  absl::StrAppend(out, "\"", EncodeBase64(value), "\"");
  return absl::OkStatus();
}

template <typename T>
absl::Status Append(const Type& type, const std::vector<T>& list,
                    std::string* out) {
  out->push_back('[');
  for (size_t i = 0; i < list.size(); ++i) {
    if (i > 0) out->push_back(',');
    const absl::Status status =
        Append(type, static_cast<const T&>(list[i]), out);
    if (!status.ok()) return AtElement(status, i);
  }
  out->push_back(']');
  return absl::OkStatus();
}

// A list of numbers for []uint8: Go writes base64.
absl::Status AppendAsBytes(const std::vector<uint64_t>& list,
                           std::string* out) {
  Bytes bytes;
  bytes.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] > MaxUint(kByte.bits)) {
      return AtElement(DoesNotFit(absl::StrCat(list[i]), kByte), i);
    }
    bytes.push_back(static_cast<uint8_t>(list[i]));
  }
  return Append(kByte, bytes, out);
}

struct Shape {
  Kind kind;
  bool list;
  absl::string_view noun;
  std::string_view default_type;
};

// In the order of TypedValue's alternatives.
constexpr std::array<Shape, std::variant_size_v<TypedValue>> kShapes = {{
    {Kind::kBool, false, "a boolean", "bool"},
    {Kind::kInt, false, "a signed integer", "int64"},
    {Kind::kUint, false, "an unsigned integer", "uint64"},
    {Kind::kFloat, false, "a floating-point number", "float64"},
    {Kind::kString, false, "a string", "string"},
    {Kind::kBytes, false, "bytes", "[]byte"},
    {Kind::kBool, true, "a list of booleans", "[]bool"},
    {Kind::kInt, true, "a list of signed integers", "[]int64"},
    {Kind::kUint, true, "a list of unsigned integers", "[]uint64"},
    {Kind::kFloat, true, "a list of floating-point numbers", "[]float64"},
    {Kind::kString, true, "a list of strings", "[]string"},
}};

absl::string_view NounOf(const Type& type) {
  for (const Shape& shape : kShapes) {
    if (shape.kind == type.kind && shape.list == type.list) return shape.noun;
  }
  return "";
}

absl::Status CheckShape(const Type& type, const TypedValue& value) {
  const Shape& shape = kShapes[value.index()];
  if (shape.kind == type.kind && shape.list == type.list) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "type ", type.name, " takes ", NounOf(type), ", not ", shape.noun));
}

// ---- reading --------------------------------------------------------------

absl::Status Unexpected(absl::string_view found, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("found ", found, ", expected ", expected));
}

absl::Status UnexpectedKind(JsonKind kind, absl::string_view expected) {
  const std::string_view name = KindName(kind);
  return Unexpected(absl::string_view(name.data(), name.size()), expected);
}

// The text of a number, shortened for an error.
std::string Shown(std::string_view number) {
  constexpr size_t kLongest = 40;
  if (number.size() <= kLongest) return std::string(number);
  return absl::StrCat(std::string(number.substr(0, kLongest)), "...");
}

absl::Status Read(const Type&, JsonReader& json, bool* out) {
  if (json.Kind() != JsonKind::kBool) {
    return UnexpectedKind(json.Kind(), "true or false");
  }
  *out = json.Skip() == "true";
  return json.status();
}

template <typename Integer>
absl::Status ReadInteger(const Type& type, JsonReader& json, Integer* out) {
  const std::string expected = absl::StrCat("an integer from ", Range(type));
  if (json.Kind() != JsonKind::kNumber) {
    return UnexpectedKind(json.Kind(), expected);
  }
  const std::string text(json.Skip());
  if (!json.status().ok()) return json.status();
  // JSON's grammar was checked, so what SimpleAtoi refuses has a fraction, an
  // exponent, or too many digits.
  if (!absl::SimpleAtoi(text, out)) return Unexpected(Shown(text), expected);
  return absl::OkStatus();
}

absl::Status Read(const Type& type, JsonReader& json, int64_t* out) {
  const absl::Status status = ReadInteger(type, json, out);
  if (!status.ok()) return status;
  if (*out < MinInt(type.bits) || *out > MaxInt(type.bits)) {
    return DoesNotFit(absl::StrCat(*out), type);
  }
  return absl::OkStatus();
}

absl::Status Read(const Type& type, JsonReader& json, uint64_t* out) {
  const absl::Status status = ReadInteger(type, json, out);
  if (!status.ok()) return status;
  if (*out > MaxUint(type.bits)) return DoesNotFit(absl::StrCat(*out), type);
  return absl::OkStatus();
}

absl::Status Read(const Type& type, JsonReader& json, double* out) {
  if (json.Kind() != JsonKind::kNumber) {
    return UnexpectedKind(json.Kind(), "a number");
  }
  const std::string text(json.Skip());
  if (!json.status().ok()) return json.status();
  // SimpleAtod reads too large a number as infinite.
  const bool fits =
      absl::SimpleAtod(text, out) && std::isfinite(*out) &&
      (type.bits == 64 || std::isfinite(static_cast<float>(*out)));
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Shown(text), " does not fit in ", ElementName(type)));
}

absl::Status Read(const Type&, JsonReader& json, std::string* out) {
  if (json.Kind() != JsonKind::kString) {
    return UnexpectedKind(json.Kind(), "a string");
  }
  std::optional<std::string> text = ParseJsonString(json.Skip());
  if (!text.has_value()) return json.status();
  *out = *std::move(text);
  return absl::OkStatus();
}

template <typename T>
absl::Status Read(const Type& type, JsonReader& json, std::vector<T>* out) {
  if (json.Kind() == JsonKind::kNull) {
    json.Skip();
    return json.status();
  }
  if (json.Kind() != JsonKind::kArray) {
    return UnexpectedKind(json.Kind(), "a list");
  }
  json.Enter();
  while (json.NextElement()) {
    T element{};
    const absl::Status status = Read(type, json, &element);
    if (!status.ok()) return AtElement(status, out->size());
    out->push_back(std::move(element));
  }
  return json.status();
}

absl::Status Read(const Type&, JsonReader& json, Bytes* out) {
  const JsonKind kind = json.Kind();
  if (kind == JsonKind::kString) {
    const std::optional<std::string> text = ParseJsonString(json.Skip());
    if (!text.has_value()) return json.status();
    absl::StatusOr<Bytes> bytes = DecodeBase64(*text);
    if (!bytes.ok()) return bytes.status();
    *out = *std::move(bytes);
    return absl::OkStatus();
  }
  if (kind != JsonKind::kArray && kind != JsonKind::kNull) {
    return UnexpectedKind(kind, "base64 or a list of numbers");
  }
  std::vector<uint64_t> numbers;
  const absl::Status status = Read(kByte, json, &numbers);
  out->assign(numbers.begin(), numbers.end());
  return status;
}

template <typename T>
absl::StatusOr<TypedValue> ReadAs(const Type& type, std::string_view text) {
  JsonReader json(text);
  T value{};
  absl::Status status = Read(type, json, &value);
  if (!status.ok()) return status;
  if (!json.AtEnd()) {
    return absl::InvalidArgumentError("has more text behind its value");
  }
  return TypedValue(std::move(value));
}

template <typename T>
absl::StatusOr<TypedValue> ReadOneOrList(const Type& type,
                                         std::string_view text) {
  return type.list ? ReadAs<std::vector<T>>(type, text) : ReadAs<T>(type, text);
}

}  // namespace

bool IsKnownType(std::string_view type) { return FindType(type) != nullptr; }

std::string_view DefaultType(const TypedValue& value) {
  return kShapes[value.index()].default_type;
}

absl::StatusOr<Value> MakeValue(TypedValue value, std::string_view type,
                                std::string_view name) {
  if (type.empty()) type = DefaultType(value);
  const Type* const found = FindType(type);
  if (found == nullptr) return UnknownType(type);
  Value made{.name = std::string(name), .type = std::string(type), .json = ""};
  absl::Status status;
  const auto* const numbers = std::get_if<std::vector<uint64_t>>(&value);
  if (numbers != nullptr && found->kind == Kind::kBytes) {
    status = AppendAsBytes(*numbers, &made.json);
  } else if (status = CheckShape(*found, value); status.ok()) {
    status = std::visit(
        [&](const auto& typed) { return Append(*found, typed, &made.json); },
        value);
  }
  if (!status.ok()) return status;
  return made;
}

absl::StatusOr<TypedValue> ReadValue(const Value& value) {
  const Type* const type = FindType(value.type);
  if (type == nullptr) return UnknownType(value.type);
  switch (type->kind) {
    case Kind::kBool:
      return ReadOneOrList<bool>(*type, value.json);
    case Kind::kInt:
      return ReadOneOrList<int64_t>(*type, value.json);
    case Kind::kUint:
      return ReadOneOrList<uint64_t>(*type, value.json);
    case Kind::kFloat:
      return ReadOneOrList<double>(*type, value.json);
    case Kind::kString:
      return ReadOneOrList<std::string>(*type, value.json);
    case Kind::kBytes:
      return ReadAs<Bytes>(*type, value.json);
  }
  return UnknownType(value.type);
}

}  // namespace penstock
