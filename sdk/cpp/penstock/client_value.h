// One argument or one result of a task, as a client has it. Part of
// <penstock/client.h>.

#ifndef PENSTOCK_CLIENT_VALUE_H_
#define PENSTOCK_CLIENT_VALUE_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace penstock::client {

using Bytes = std::vector<uint8_t>;

namespace internal {

template <typename T>
concept Character = std::same_as<T, char> || std::same_as<T, wchar_t> ||
    std::same_as<T, char8_t> || std::same_as<T, char16_t> ||
    std::same_as<T, char32_t>;

template <typename T>
concept Integer = std::integral<T> && !std::same_as<T, bool> && !Character<T>;

template <typename T>
concept Text = std::convertible_to<T, std::string_view>;

template <typename T>
inline constexpr bool kIsList = false;
template <typename T>
requires std::same_as<T, bool> || Integer<T> || std::floating_point<T> ||
    Text<T>
inline constexpr bool kIsList<std::vector<T>> = true;

template <typename T>
concept Native = std::same_as<T, bool> || Integer<T> ||
    std::floating_point<T> || Text<T> || kIsList<T>;

}  // namespace internal

// A value, and machinery's name of its type. It is made from a native one as it
// stands, so that arguments are simply written down:
//
//   bool                                     bool
//   any integer, but uint64_t                int64, which holds them all
//   uint64_t                                 uint64
//   float, double                            float64
//   std::string, std::string_view, "text"    string, in UTF-8
//   std::vector<uint8_t>                     []byte
//   std::vector of one of the others         that with [] before it
//
// For any other of machinery's 29 types: Value::Typed.
class Value {
 public:
  // What it holds; the type's name narrows it: an "int8" is an int64_t here.
  using Kind = std::variant<bool, int64_t, uint64_t, double, std::string, Bytes,
                            std::vector<bool>, std::vector<int64_t>,
                            std::vector<uint64_t>, std::vector<double>,
                            std::vector<std::string>>;

  template <typename T>
  requires internal::Native<std::decay_t<T>> Value(T&& value)  // NOLINT
      : kind_(KindOf(std::forward<T>(value))) {}

  // `value` as machinery's `type`: bool, int, int8, int16, int32, int64, uint,
  // uint8, uint16, uint32, uint64, float32, float64, string, each of these with
  // [] before it, or []byte. What does not go with the type, or into it, is
  // told by the gateway: INVALID_FIELD.
  static Value Typed(std::string_view type, Value value);

  // The name of the type; empty: the kind's own. Always set in results.
  const std::string& type() const { return type_; }
  const Kind& kind() const { return kind_; }

  // As a T: bool, any integer into which it fits, float, double, std::string, a
  // std::vector of these (of uint8_t: bytes), or Value. An integer is also
  // taken as a double. INVALID_ARGUMENT says what was found instead.
  template <typename T>
  absl::StatusOr<T> As() const;

  bool operator==(const Value&) const = default;

 private:
  template <typename T>
  static Kind KindOf(T&& value) {
    using V = std::decay_t<T>;
    if constexpr (std::same_as<V, bool> || std::same_as<V, Bytes> ||
                  std::same_as<V, std::vector<bool>>) {
      return std::forward<T>(value);
    } else if constexpr (internal::Integer<V>) {
      return Widened<V>(value);
    } else if constexpr (std::floating_point<V>) {
      return static_cast<double>(value);
    } else if constexpr (internal::Text<V>) {
      return std::string(std::string_view(value));
    } else {
      using Element = typename V::value_type;
      if constexpr (internal::Integer<Element>) {
        return std::vector<decltype(Widened(Element{}))>(value.begin(),
                                                         value.end());
      } else if constexpr (std::floating_point<Element>) {
        return std::vector<double>(value.begin(), value.end());
      } else {
        return std::vector<std::string>(value.begin(), value.end());
      }
    }
  }

  template <typename T>
  static auto Widened(T value) {
    if constexpr (std::unsigned_integral<T> && sizeof(T) == sizeof(uint64_t)) {
      return static_cast<uint64_t>(value);
    } else {
      return static_cast<int64_t>(value);
    }
  }

  Kind kind_;
  std::string type_;
};

namespace internal {

// "expected 2 results, found 1"
absl::Status WrongCount(size_t expected, size_t found);
// `error`, of the result at `index`.
absl::Status AtResult(size_t index, const absl::Status& error);

// How the results of a task are read as a T.
template <typename T>
struct FromResults {
  static absl::StatusOr<T> Read(std::vector<Value> results) {
    if (results.size() != 1) return WrongCount(1, results.size());
    absl::StatusOr<T> value = results.front().template As<T>();
    if (!value.ok()) return AtResult(0, value.status());
    return value;
  }
};

template <>
struct FromResults<std::vector<Value>> {
  static absl::StatusOr<std::vector<Value>> Read(std::vector<Value> results) {
    return results;
  }
};

template <typename... T>
struct FromResults<std::tuple<T...>> {
  static absl::StatusOr<std::tuple<T...>> Read(std::vector<Value> results) {
    if (results.size() != sizeof...(T)) {
      return WrongCount(sizeof...(T), results.size());
    }
    return [&]<size_t... I>(std::index_sequence<I...>)
        ->absl::StatusOr<std::tuple<T...>> {
      std::tuple<absl::StatusOr<T>...> values{results[I].template As<T>()...};
      absl::Status bad;  // the first one
      (bad.Update(std::get<I>(values).ok()
                      ? absl::OkStatus()
                      : AtResult(I, std::get<I>(values).status())),
       ...);
      if (!bad.ok()) return bad;
      return std::tuple<T...>(*std::move(std::get<I>(values))...);
    }
    (std::index_sequence_for<T...>{});
  }
};

template <typename A, typename B>
struct FromResults<std::pair<A, B>> {
  static absl::StatusOr<std::pair<A, B>> Read(std::vector<Value> results) {
    auto both = FromResults<std::tuple<A, B>>::Read(std::move(results));
    if (!both.ok()) return both.status();
    return std::make_from_tuple<std::pair<A, B>>(*std::move(both));
  }
};

}  // namespace internal
}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_VALUE_H_
