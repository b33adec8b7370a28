// The arguments of a task as a person types them -> typed values. Pure.

#ifndef PENSTOCK_TOOLS_PENSTOCKCTL_VALUES_H_
#define PENSTOCK_TOOLS_PENSTOCKCTL_VALUES_H_

#include <string>

#include "absl/status/statusor.h"
#include "queue/value.h"

namespace penstock::ctl {

struct TypedArg {
  std::string type;  // empty: the default of the value's kind
  TypedValue value;

  bool operator==(const TypedArg&) const = default;
};

// Reads `word`:
//   TYPE:VALUE    that type, where TYPE is one of machinery's 29: "uint8:7",
//                 "string:1", "[]int64:1,2" (empty: no elements; an element
//                 holds no comma), "[]byte:aGk=" (base64)
//   1, -7         int64; 007 is text, since its zeros may matter
//   1.5, -.5, 1e9 float64
//   true, false   bool
//   all else      string, also "http://x" and "note:this"
// INVALID_ARGUMENT names the word and what its type takes.
absl::StatusOr<TypedArg> ParseArg(const std::string& word);

}  // namespace penstock::ctl

#endif  // PENSTOCK_TOOLS_PENSTOCKCTL_VALUES_H_
