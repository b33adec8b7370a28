// The half of penstock/handler.h that needs no templates of the user's:
// arguments are read from, and results written to, machinery's types
// (docs/wire-format.md section 2). And the errors of penstock/errors.h.

#include "penstock/handler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <string_view>
#include <variant>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "penstock/errors.h"
#include "sdk/cpp/outcome.h"

namespace penstock {
namespace {

constexpr absl::string_view kRetryAfterUrl = "penstock/retry_after_ns";
constexpr absl::string_view kPermanentUrl = "penstock/permanent";
constexpr absl::string_view kErrorTypeUrl = "penstock/error_type";

// A task's error text is kept in its state: no longer than a reader needs.
constexpr size_t kMaxShown = 100;

absl::Status ArgumentError(absl::string_view text) {
  absl::Status error = absl::InvalidArgumentError(text);
  error.SetPayload(kErrorTypeUrl, absl::Cord(std::string(kErrorArguments)));
  return Permanent(error);
}

std::string Place(const Value& arg, size_t index) {
  if (arg.name.empty()) return absl::StrCat("argument ", index + 1);
  return absl::StrCat("argument ", index + 1, " (\"", arg.name, "\")");
}

std::string Shown(absl::string_view json) {
  if (json.size() <= kMaxShown) return std::string(json);
  size_t end = kMaxShown;
  while (end > 0 && (json[end] & 0xC0) == 0x80)
    --end;  // not within a character
  return absl::StrCat(json.substr(0, end), "...");
}

template <typename T>
constexpr bool kIsInteger = std::is_integral_v<T> && !std::same_as<T, bool>;

// machinery's name of T. A std::vector<uint8_t> is "[]uint8", as Go labels it.
template <typename T>
std::string TypeName() {
  if constexpr (internal::kIsList<T>) {
    return absl::StrCat("[]", TypeName<typename T::value_type>());
  } else if constexpr (std::same_as<T, bool>) {
    return "bool";
  } else if constexpr (std::same_as<T, std::string>) {
    return "string";
  } else if constexpr (std::is_floating_point_v<T>) {
    return absl::StrCat("float", 8 * sizeof(T));
  } else {
    return absl::StrCat(std::is_signed_v<T> ? "int" : "uint", 8 * sizeof(T));
  }
}

template <typename To, typename From>
std::optional<To> Convert(const From& from) {
  if constexpr (std::same_as<To, From>) {
    return from;
  } else if constexpr (internal::kIsList<To> && internal::kIsList<From>) {
    To list;
    list.reserve(from.size());
    for (const auto& element : from) {
      auto converted = Convert<typename To::value_type>(
          static_cast<typename From::value_type>(element));
      if (!converted.has_value()) return std::nullopt;
      list.push_back(*std::move(converted));
    }
    return list;
  } else if constexpr (kIsInteger<To> && kIsInteger<From>) {
    if (!std::in_range<To>(from)) return std::nullopt;
    return static_cast<To>(from);
  } else if constexpr (std::is_floating_point_v<To> &&
                       (kIsInteger<From> || std::is_floating_point_v<From>)) {
    // Only a double that is too big for a float does not fit. The largest
    // float's own text, 3.4028235e+38, is above it as a double, and rounds to it.
    const To to = static_cast<To>(from);
    if (!std::isfinite(to)) return std::nullopt;
    return to;
  } else {
    return std::nullopt;
  }
}

template <typename T>
constexpr bool kHoldsIntegers = kIsInteger<T>;
template <typename T>
constexpr bool kHoldsIntegers<std::vector<T>> = kIsInteger<T>;

// "int8 (-128 to 127)" when integers were found, and so the range is what is
// wrong; otherwise only "int8".
template <typename T>
std::string Expected(const TypedValue& found) {
  if constexpr (kIsInteger<T>) {
    const bool integers = std::visit(
        [](const auto& value) {
          return kHoldsIntegers<std::remove_cvref_t<decltype(value)>>;
        },
        found);
    if (!integers) return TypeName<T>();
    return absl::StrCat(TypeName<T>(), " (", +std::numeric_limits<T>::min(),
                        " to ", +std::numeric_limits<T>::max(), ")");
  } else if constexpr (internal::kIsList<T>) {
    return absl::StrCat("[]", Expected<typename T::value_type>(found));
  } else {
    return TypeName<T>();
  }
}

// The widest type of T's kind: the one that a TypedValue holds.
template <typename T>
auto Widen(T value) {
  if constexpr (std::same_as<T, Bytes>) {
    return value;
  } else if constexpr (internal::kIsList<T>) {
    using Element = decltype(Widen(typename T::value_type()));
    return std::vector<Element>(std::make_move_iterator(value.begin()),
                                std::make_move_iterator(value.end()));
  } else if constexpr (kIsInteger<T>) {
    return std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>{value};
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(value);
  } else {
    return value;
  }
}

std::string Count(size_t count) {
  return absl::StrCat(count, count == 1 ? " argument" : " arguments");
}

}  // namespace

namespace internal {

absl::Status CheckCount(absl::Span<const Value> args, size_t wanted,
                        bool has_rest) {
  if (args.size() < wanted) {
    return ArgumentError(absl::StrCat(
        "argument ", args.size() + 1, " is missing: the handler takes ",
        has_rest ? "at least " : "", Count(wanted), ", found ", args.size()));
  }
  if (args.size() > wanted && !has_rest) {
    return ArgumentError(absl::StrCat(Place(args[wanted], wanted),
                                      " is too many: the handler takes ",
                                      Count(wanted), ", found ", args.size()));
  }
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<T> ReadArgument(absl::Span<const Value> args, size_t index) {
  const Value& arg = args[index];
  absl::StatusOr<TypedValue> found = ReadValue(arg);
  if (!found.ok()) {
    return ArgumentError(
        absl::StrCat(Place(arg, index), ": ", found.status().message()));
  }
  std::optional<T> value =
      std::visit([](const auto& typed) { return Convert<T>(typed); }, *found);
  if (value.has_value()) return *std::move(value);
  return ArgumentError(absl::StrCat(Place(arg, index), ": expected ",
                                    Expected<T>(*found), ", found ", arg.type,
                                    " ", Shown(arg.json)));
}

template <typename T>
absl::Status AddResult(T result, Results& results) {
  absl::StatusOr<Value> value =
      MakeValue(Widen(std::move(result)), TypeName<T>());
  if (!value.ok()) {
    return absl::OutOfRangeError(absl::StrCat("result ", results.size() + 1,
                                              ": ", value.status().message()));
  }
  results.push_back(*std::move(value));
  return absl::OkStatus();
}

#define PENSTOCK_PLAIN(T)                                                      \
  template absl::StatusOr<T> ReadArgument<T>(absl::Span<const Value>, size_t); \
  template absl::Status AddResult<T>(T, Results&);                             \
  template absl::StatusOr<std::vector<T>> ReadArgument<std::vector<T>>(        \
      absl::Span<const Value>, size_t);                                        \
  template absl::Status AddResult<std::vector<T>>(std::vector<T>, Results&);
PENSTOCK_PLAIN(bool)
PENSTOCK_PLAIN(int8_t)
PENSTOCK_PLAIN(int16_t)
PENSTOCK_PLAIN(int32_t)
PENSTOCK_PLAIN(int64_t)
PENSTOCK_PLAIN(uint8_t)
PENSTOCK_PLAIN(uint16_t)
PENSTOCK_PLAIN(uint32_t)
PENSTOCK_PLAIN(uint64_t)
PENSTOCK_PLAIN(float)
PENSTOCK_PLAIN(double)
PENSTOCK_PLAIN(std::string)
#undef PENSTOCK_PLAIN

}  // namespace internal

absl::Status RetryAfter(absl::Duration delay, std::string_view why) {
  absl::Status error = absl::UnavailableError(std::string(why));
  const int64_t ns =
      absl::ToInt64Nanoseconds(std::max(delay, absl::Duration()));
  error.SetPayload(kRetryAfterUrl, absl::Cord(absl::StrCat(ns)));
  return error;
}

absl::Status Permanent(absl::Status error) {
  error.SetPayload(kPermanentUrl, absl::Cord());
  return error;
}

Outcome ToOutcome(absl::StatusOr<Results> results) {
  if (results.ok()) return Outcome{.results = *std::move(results)};
  const absl::Status& error = results.status();
  Outcome outcome{
      .kind = Outcome::kFailure,
      .error = std::string(error.message()),
      .error_type = absl::StatusCodeToString(error.code()),
      .permanent = error.GetPayload(kPermanentUrl).has_value(),
  };
  if (auto type = error.GetPayload(kErrorTypeUrl)) {
    outcome.error_type = std::string(*type);
  }
  int64_t ns = 0;
  if (auto delay = error.GetPayload(kRetryAfterUrl);
      delay && absl::SimpleAtoi(std::string(*delay), &ns)) {
    outcome.retry_after = absl::Nanoseconds(ns);
  }
  return outcome;
}

absl::Status ExceptionError(std::string_view text) {
  absl::Status error = absl::UnknownError(std::string(text));
  error.SetPayload(kErrorTypeUrl, absl::Cord("exception"));
  return error;
}

absl::Status TimedOutError(absl::Duration timeout) {
  absl::Status error = absl::DeadlineExceededError(
      absl::StrCat("timed out after ", absl::FormatDuration(timeout)));
  error.SetPayload(kErrorTypeUrl, absl::Cord(std::string(kErrorTimeout)));
  return error;
}

}  // namespace penstock
