// Any function as the handler of a task. Its parameters are read from the
// task's arguments, its result is written as the task's results:
//
//   parameters  an optional leading Context&, then any of bool,
//   int8_t..int64_t,
//               uint8_t..uint64_t, float, double, std::string and std::vector
//               of these (std::vector<uint8_t> is bytes); at the end, a Rest<T>
//   result      void, one of these types, a std::pair or std::tuple of them, an
//               absl::Status, or an absl::StatusOr of any of that
//
// An argument of any integer type is taken where it fits, and any number where
// a float or double is asked for; otherwise the kinds must be equal. What does
// not go together fails the task before the function is called; the error names
// the argument and its position, and the task is not tried again.

#ifndef PENSTOCK_HANDLER_H_
#define PENSTOCK_HANDLER_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "penstock/context.h"
#include "queue/value.h"

namespace penstock {

// A handler's last parameter: all further arguments, none to many.
template <typename T>
struct Rest {
  std::vector<T> values;

  auto begin() const { return values.begin(); }
  auto end() const { return values.end(); }
  size_t size() const { return values.size(); }
};

// A handler of whatever type, behind one: the results, or why it failed. Called
// from many threads at once.
using Results = std::vector<Value>;
using Handler = absl::AnyInvocable<absl::StatusOr<Results>(
    Context&, absl::Span<const Value>) const>;

namespace internal {

template <typename T, typename... Ts>
concept OneOf = (std::same_as<T, Ts> || ...);

template <typename T>
concept Scalar =
    OneOf<T, bool, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t,
          uint32_t, uint64_t, float, double, std::string>;

template <typename T>
inline constexpr bool kIsList = false;
template <Scalar T>
inline constexpr bool kIsList<std::vector<T>> = true;

template <typename T>
concept Plain = Scalar<T> || kIsList<T>;

// The functions below are in handler.cc, for every Plain type.
absl::Status CheckCount(absl::Span<const Value> args, size_t wanted,
                        bool has_rest);
template <typename T>
absl::StatusOr<T> ReadArgument(absl::Span<const Value> args, size_t index);
template <typename T>
absl::Status AddResult(T result, Results& results);

// How a parameter of type T is read from the arguments.
template <typename T>
struct Parameter {
  static_assert(Plain<T>,
                "A handler takes bool, (u)int8_t to (u)int64_t, float, double, "
                "std::string, std::vector of these, by value or const&; "
                "and Rest<T> last.");
  static constexpr bool kRest = false;
  static absl::StatusOr<T> Read(absl::Span<const Value> args, size_t index) {
    return ReadArgument<T>(args, index);
  }
};

template <typename T>
struct Parameter<Rest<T>> {
  static constexpr bool kRest = true;
  static absl::StatusOr<Rest<T>> Read(absl::Span<const Value> args,
                                      size_t index) {
    Rest<T> rest;
    for (; index < args.size(); ++index) {
      absl::StatusOr<T> value = Parameter<T>::Read(args, index);
      if (!value.ok()) return value.status();
      rest.values.push_back(*std::move(value));
    }
    return rest;
  }
};

inline absl::StatusOr<Results> ToResults(absl::Status status) {
  if (!status.ok()) return status;
  return Results{};
}

template <Plain T>
absl::StatusOr<Results> ToResults(T result) {
  Results results;
  absl::Status added = AddResult<T>(std::move(result), results);
  if (!added.ok()) return added;
  return results;
}

template <typename... T>
absl::StatusOr<Results> ToResults(std::tuple<T...> result) {
  static_assert((Plain<T> && ...), "A handler's tuple holds plain results.");
  Results results;
  absl::Status added;
  std::apply(
      [&](T&... each) {
        (added.Update(AddResult<T>(std::move(each), results)), ...);
      },
      result);
  if (!added.ok()) return added;
  return results;
}

template <typename A, typename B>
absl::StatusOr<Results> ToResults(std::pair<A, B> result) {
  return ToResults(std::tuple<A, B>(std::move(result)));
}

template <typename T>
absl::StatusOr<Results> ToResults(absl::StatusOr<T> result) {
  if (!result.ok()) return std::move(result).status();
  return ToResults(*std::move(result));
}

// Reads all arguments, then calls `call` with them.
template <typename... P, typename Call>
absl::StatusOr<Results> CallWith(const Call& call,
                                 absl::Span<const Value> args) {
  constexpr bool kRest = (Parameter<P>::kRest || ... || false);
  absl::Status bad = CheckCount(args, sizeof...(P) - (kRest ? 1 : 0), kRest);
  if (!bad.ok()) return bad;
  return [&]<size_t... I>(std::index_sequence<I...>)->absl::StatusOr<Results> {
    static_assert(((!Parameter<P>::kRest || I + 1 == sizeof...(P)) && ...),
                  "Rest<T> is a handler's last parameter.");
    std::tuple<absl::StatusOr<P>...> values{Parameter<P>::Read(args, I)...};
    (bad.Update(std::get<I>(values).status()), ...);  // keeps the first error
    if (!bad.ok()) return bad;
    using Result = decltype(call(*std::move(std::get<I>(values))...));
    if constexpr (std::is_void_v<Result>) {
      call(*std::move(std::get<I>(values))...);
      return Results{};
    } else {
      return ToResults(call(*std::move(std::get<I>(values))...));
    }
  }
  (std::index_sequence_for<P...>{});
}

template <typename F, typename R, typename... P>
Handler Erase(F function, std::type_identity<std::function<R(P...)>>) {
  return
      [function = std::move(function)](Context&, absl::Span<const Value> args) {
        return CallWith<std::remove_cvref_t<P>...>(function, args);
      };
}

template <typename F, typename R, typename C, typename... P>
requires std::same_as<std::remove_cvref_t<C>, Context> Handler
Erase(F function, std::type_identity<std::function<R(C, P...)>>) {
  return [function = std::move(function)](Context& context,
                                          absl::Span<const Value> args) {
    const auto call = [&](auto&&... values) {
      return function(context, std::forward<decltype(values)>(values)...);
    };
    return CallWith<std::remove_cvref_t<P>...>(call, args);
  };
}

}  // namespace internal

// `function` is a function, a lambda or an object with one operator(), which
// must be const: runners call it at the same time. std::function's own rules
// find out its parameters.
template <typename F>
Handler MakeHandler(F function) {
  using Signature = decltype(std::function{std::declval<F>()});
  return internal::Erase(std::move(function), std::type_identity<Signature>{});
}

}  // namespace penstock

#endif  // PENSTOCK_HANDLER_H_
