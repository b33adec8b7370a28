// One argument or one result of a task, and the 29 types that machinery knows.
//
// A Value keeps its JSON text as it stood on the wire: machinery passes numbers on
// verbatim ("1.50" stays "1.50"), most hops only hand a value on, and a type that
// we do not know must survive the hop. It is read as a typed value where it is
// used: by a handler, or by the gateway for an answer. Source: docs/wire-format.md.
// Pure functions, no I/O, thread-safe.

#ifndef PENSTOCK_QUEUE_VALUE_H_
#define PENSTOCK_QUEUE_VALUE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace penstock {

struct Value {
  std::string name;  // free text, never interpreted; empty for results
  std::string type;  // machinery's name of the type: "int64", "[]string", ...
  std::string json;  // the value as compact JSON text, as on the wire

  bool operator==(const Value&) const = default;
};

using Bytes = std::vector<uint8_t>;

// A value by its kind. The type name narrows it: an "int8" is an int64_t here.
using TypedValue =
    std::variant<bool, int64_t, uint64_t, double, std::string, Bytes,
                 std::vector<bool>, std::vector<int64_t>, std::vector<uint64_t>,
                 std::vector<double>, std::vector<std::string>>;

// Whether `type` is one of machinery's 29 type names.
bool IsKnownType(std::string_view type);

// machinery's default type name of a kind: "bool", "int64", "uint64", "float64",
// "string", "[]byte", "[]bool", "[]int64", "[]uint64", "[]float64", "[]string".
std::string_view DefaultType(const TypedValue& value);

// Writes `value` as a Value of `type` (empty: the kind's default type), named
// `name`. INVALID_ARGUMENT, with a text fit for a client, when the type is not
// known, does not go with the kind, is too narrow for the value ("300 does not
// fit in int8 (-128 to 127)"), or when a float is NaN or infinite (JSON has
// neither). For a list the text names the element: "element 2: ...".
absl::StatusOr<Value> MakeValue(TypedValue value, std::string_view type = "",
                                std::string_view name = "");

// Reads `value` by its type name, with machinery's rules of what a type accepts
// (null is an empty list; []byte and []uint8 are base64 or a list of numbers),
// but range-checked where machinery wraps silently. INVALID_ARGUMENT says what
// was found and what the type accepts.
absl::StatusOr<TypedValue> ReadValue(const Value& value);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_VALUE_H_
