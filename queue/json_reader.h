// Reads JSON text from front to back, as Go's decoder does: one value, whatever
// follows it ignored; any bytes in strings (what is not UTF-8 is U+FFFD);
// nesting to 10,000 levels. Values that are only handed on are cut out of the
// text, not decoded, but are checked, so that what Penstock writes is JSON.
//
// Not simdjson: its on-demand reader refuses bad UTF-8 and text after the
// value, does not check what it skips, and the cut-out values have to be walked
// anyway. Pure; one thread at a time.

#ifndef PENSTOCK_QUEUE_JSON_READER_H_
#define PENSTOCK_QUEUE_JSON_READER_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace penstock {

enum class JsonKind { kNone, kNull, kBool, kNumber, kString, kArray, kObject };

// "null", "a boolean", "a number", ...; kNone: "no value".
std::string_view KindName(JsonKind kind);

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  // The kind of the value that comes next; kNone at the end and after an error.
  JsonKind Kind();

  // Reads members: Enter(); while (NextMember(&key)) consume a value.
  // The next value must be an array or an object.
  void Enter();
  // False behind the last one, and after an error.
  bool NextMember(std::string* key);
  bool NextElement();

  // Consumes the next member's name if it is spelled `name`, without escapes and
  // without white space, as nearly all are. False: nothing was consumed.
  bool TakeMember(std::string_view name);

  // Consumes the next value if it is a string without escapes, as nearly all are:
  // its text without the quotes, good as long as what is read. False: nothing was
  // consumed.
  bool TakePlainString(std::string_view* out);

  // Consumes the next value; its text as it stands, empty after an error.
  std::string_view Skip();

  // Consumes the next value; its text as Go writes it after reading it into an
  // interface{}: no white space, strings in Go's spelling, members sorted. A
  // spelling that Go itself writes (\ufffd or U+FFFD) is kept.
  std::string Canonical();

  // The same, but members stay in their order.
  std::string Compact();

  // True when only white space follows.
  bool AtEnd();

  // INVALID_ARGUMENT with the place of what is not JSON.
  const absl::Status& status() const { return status_; }

 private:
  bool Fail(std::string_view what);
  void SkipSpace();
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool TakeChar(char expected, std::string_view what);
  bool TakeKey();
  bool TakeString();
  bool TakeEscape();
  bool TakeNumber();
  bool TakeWord(std::string_view word);
  bool TakeScalar();
  bool TakeValue();
  bool TakeEnds(std::string* open);

  const std::string_view text_;
  size_t at_ = 0;
  bool entered_ = false;  // nothing was read since Enter
  absl::Status status_;

  // Of the value that TakeValue read last.
  bool has_space_ = false;
  bool has_odd_string_ = false;  // perhaps not in Go's spelling
  bool has_object_ = false;
  size_t depth_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_JSON_READER_H_
