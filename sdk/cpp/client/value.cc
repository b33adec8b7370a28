#include <limits>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "penstock/client_value.h"
#include "sdk/cpp/client/messages.h"

namespace penstock::client {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;

// The integer `value` as a T that is equal to it; nullopt where there is none.
template <typename T, typename From>
std::optional<T> Exactly(From value) {
  if constexpr (std::same_as<From, bool>) {
    return std::nullopt;
  } else if constexpr (std::same_as<T, double>) {
    // Every integer up to 2^53 is a double.
    constexpr int64_t kLimit = int64_t{1} << 53;
    if (std::cmp_less(value, -kLimit) || std::cmp_greater(value, kLimit)) {
      return std::nullopt;
    }
    return static_cast<double>(value);
  } else {
    if (!std::in_range<T>(value)) return std::nullopt;
    return static_cast<T>(value);
  }
}

// The integers `from` as a list of T; nullopt where one does not fit.
template <typename T, typename From>
std::optional<std::vector<T>> AllExactly(const std::vector<From>& from) {
  std::vector<T> list;
  list.reserve(from.size());
  for (const auto element : from) {
    const std::optional<T> exact = Exactly<T, From>(element);
    if (!exact.has_value()) return std::nullopt;
    list.push_back(*exact);
  }
  return list;
}

enum class Wanted { kSigned, kUnsigned, kFloat, kBytes, kOther };

Wanted WantedBy(std::string_view type) {
  if (type == "[]byte" || type == "[]uint8") return Wanted::kBytes;
  if (type.starts_with("[]")) type.remove_prefix(2);
  if (type.starts_with("uint")) return Wanted::kUnsigned;
  if (type.starts_with("int")) return Wanted::kSigned;
  if (type.starts_with("float")) return Wanted::kFloat;
  return Wanted::kOther;
}

// Numbers as the kind that goes with a type; as they are where they do not fit:
// the gateway tells what is wrong.
template <typename Number>
Value::Kind Fitted(Value::Kind kind, const Number& number) {
  if (number.has_value()) return *number;
  return kind;
}

Value::Kind NumbersFor(Wanted wanted, Value::Kind kind) {
  const auto convert = [&](const auto& from) -> Value::Kind {
    using From = std::decay_t<decltype(from)>;
    if constexpr (std::same_as<From, int64_t> || std::same_as<From, uint64_t>) {
      switch (wanted) {
        case Wanted::kSigned:
          return Fitted(kind, Exactly<int64_t>(from));
        case Wanted::kUnsigned:
          return Fitted(kind, Exactly<uint64_t>(from));
        case Wanted::kFloat:
          return Fitted(kind, Exactly<double>(from));
        default:
          return kind;
      }
    } else if constexpr (std::same_as<From, std::vector<int64_t>> ||
                         std::same_as<From, std::vector<uint64_t>> ||
                         std::same_as<From, Bytes>) {
      switch (wanted) {
        case Wanted::kSigned:
          return Fitted(kind, AllExactly<int64_t>(from));
        case Wanted::kUnsigned:
          return Fitted(kind, AllExactly<uint64_t>(from));
        case Wanted::kFloat:
          return Fitted(kind, AllExactly<double>(from));
        case Wanted::kBytes:
          return Fitted(kind, AllExactly<uint8_t>(from));
        default:
          return kind;
      }
    } else {
      return kind;
    }
  };
  return std::visit(convert, kind);
}

// ---- reading --------------------------------------------------------------

template <typename T>
std::string_view NameOf() {
  if constexpr (std::same_as<T, bool>) return "bool";
  if constexpr (std::same_as<T, int8_t>) return "int8";
  if constexpr (std::same_as<T, int16_t>) return "int16";
  if constexpr (std::same_as<T, int32_t>) return "int32";
  if constexpr (std::same_as<T, int64_t>) return "int64";
  if constexpr (std::same_as<T, uint8_t>) return "uint8";
  if constexpr (std::same_as<T, uint16_t>) return "uint16";
  if constexpr (std::same_as<T, uint32_t>) return "uint32";
  if constexpr (std::same_as<T, uint64_t>) return "uint64";
  if constexpr (std::same_as<T, float>) return "float32";
  if constexpr (std::same_as<T, double>) return "float64";
  return "string";
}

constexpr std::string_view kKindNames[] = {
    "bool",   "int64",   "uint64",   "float64",   "string",  "[]byte",
    "[]bool", "[]int64", "[]uint64", "[]float64", "[]string"};

absl::Status WrongType(std::string_view expected, const Value& found) {
  return MakeError(absl::StatusCode::kInvalidArgument, kResultType,
                   absl::StrCat("expected ", expected.data(), ", found ",
                                found.type().empty()
                                    ? kKindNames[found.kind().index()].data()
                                    : found.type().c_str()));
}

template <typename T>
absl::Status DoesNotFit(const std::string& text) {
  return MakeError(absl::StatusCode::kInvalidArgument, kResultType,
                   absl::StrCat(text, " does not fit in ", NameOf<T>().data()));
}

// One number, text or truth value.
template <typename T, typename From>
absl::StatusOr<T> Read(const From& from, const Value& value) {
  if constexpr (std::same_as<From, T>) {
    return from;
  } else if constexpr (std::same_as<From, bool> || std::same_as<T, bool>) {
    return WrongType(NameOf<T>(), value);
  } else if constexpr (std::floating_point<T> && std::floating_point<From>) {
    return static_cast<T>(from);
  } else if constexpr (std::integral<From> && std::floating_point<T>) {
    const std::optional<double> exact = Exactly<double>(from);
    if (!exact.has_value()) return DoesNotFit<T>(absl::StrCat(from));
    return static_cast<T>(*exact);
  } else if constexpr (std::integral<From> && std::integral<T>) {
    const std::optional<T> exact = Exactly<T>(from);
    if (!exact.has_value()) return DoesNotFit<T>(absl::StrCat(from));
    return *exact;
  } else {
    return WrongType(NameOf<T>(), value);
  }
}

template <typename T>
struct ListReader {
  using Element = typename T::value_type;

  template <typename From>
  absl::StatusOr<T> operator()(const From& from) const {
    if constexpr (std::same_as<From, T>) {
      return from;
    } else if constexpr (requires { from.begin(); } &&
                         !std::same_as<From, std::string>) {
      T list;
      list.reserve(from.size());
      for (const auto& element : from) {
        absl::StatusOr<Element> read =
            Read<Element, typename From::value_type>(element, value);
        if (!read.ok()) return read.status();
        list.push_back(*std::move(read));
      }
      return list;
    } else {
      return WrongType(absl::StrCat("[]", NameOf<Element>().data()), value);
    }
  }

  const Value& value;
};

}  // namespace

Value Value::Typed(std::string_view type, Value value) {
  value.kind_ = NumbersFor(WantedBy(type), std::move(value.kind_));
  value.type_ = type;
  return value;
}

template <typename T>
absl::StatusOr<T> Value::As() const {
  if constexpr (std::same_as<T, Value>) {
    return *this;
  } else if constexpr (internal::kIsList<T>) {
    return std::visit(ListReader<T>{*this}, kind_);
  } else {
    return std::visit(
        [this](const auto& from) {
          return Read<T, std::decay_t<decltype(from)>>(from, *this);
        },
        kind_);
  }
}

template absl::StatusOr<Value> Value::As() const;
#define PENSTOCK_AS(T)                          \
  template absl::StatusOr<T> Value::As() const; \
  template absl::StatusOr<std::vector<T>> Value::As() const
PENSTOCK_AS(bool);
PENSTOCK_AS(int8_t);
PENSTOCK_AS(int16_t);
PENSTOCK_AS(int32_t);
PENSTOCK_AS(int64_t);
PENSTOCK_AS(uint8_t);
PENSTOCK_AS(uint16_t);
PENSTOCK_AS(uint32_t);
PENSTOCK_AS(uint64_t);
PENSTOCK_AS(float);
PENSTOCK_AS(double);
PENSTOCK_AS(std::string);
#undef PENSTOCK_AS

namespace internal {

absl::Status WrongCount(size_t expected, size_t found) {
  return MakeError(
      absl::StatusCode::kInvalidArgument, kResultType,
      absl::StrCat("expected ", expected, " results, found ", found));
}

absl::Status AtResult(size_t index, const absl::Status& error) {
  return MakeError(error.code(), kResultType,
                   absl::StrCat("result ", index + 1, ": ", error.message()));
}

}  // namespace internal
}  // namespace penstock::client
