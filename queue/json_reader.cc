// A walk over the text without recursion; only values that hold objects, which
// none of machinery's types does, are rebuilt by recursion, to a bounded depth.

#include "queue/json_reader.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/json.h"

namespace penstock {
namespace {

constexpr size_t kMaxDepth = 10'000;     // Go's own limit
constexpr size_t kMaxSortedDepth = 200;  // of a value that holds objects

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsHexDigit(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// Where the string that begins at `begin`, a quote, ends.
size_t EndOfString(std::string_view text, size_t begin) {
  size_t i = begin + 1;
  while (text[i] != '"') i += text[i] == '\\' ? 2 : 1;
  return i + 1;
}

// Appends a string in Go's spelling, keeping \ufffd where the source has it: Go
// writes that for a byte that is not UTF-8, and U+FFFD itself raw. Both come
// from Go workers, so both are passed on as they are.
void AppendRespelled(std::string_view quoted, std::string* out) {
  constexpr std::string_view kEscaped = "\\ufffd";
  std::string_view rest = quoted.substr(1, quoted.size() - 2);
  out->push_back('"');
  const auto append = [out](std::string_view part) {
    const auto text = ParseJsonString(
        absl::StrCat("\"", absl::string_view(part.data(), part.size()), "\""));
    const std::string spelled = JsonString(text.value_or(""));
    out->append(spelled, 1, spelled.size() - 2);
  };
  size_t part = 0;
  for (size_t i = 0; i < rest.size();) {
    if (rest[i] != '\\') {
      ++i;
    } else if (rest.substr(i, kEscaped.size()) == kEscaped) {
      append(rest.substr(part, i - part));
      out->append(kEscaped);
      part = i += kEscaped.size();
    } else {
      i += 2;
    }
  }
  append(rest.substr(part));
  out->push_back('"');
}

// Drops white space and respells strings. `json` is valid.
std::string Respell(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (size_t i = 0; i < json.size();) {
    if (json[i] == '"') {
      const size_t end = EndOfString(json, i);
      AppendRespelled(json.substr(i, end - i), &out);
      i = end;
    } else {
      if (!IsSpace(json[i])) out.push_back(json[i]);
      ++i;
    }
  }
  return out;
}

void AppendSorted(JsonReader& reader, std::string* out) {
  const JsonKind kind = reader.Kind();
  if (kind == JsonKind::kArray) {
    out->push_back('[');
    reader.Enter();
    for (bool first = true; reader.NextElement(); first = false) {
      if (!first) out->push_back(',');
      AppendSorted(reader, out);
    }
    out->push_back(']');
  } else if (kind == JsonKind::kObject) {
    std::map<std::string, std::string> members;
    std::string key;
    reader.Enter();
    while (reader.NextMember(&key)) {
      std::string value;
      AppendSorted(reader, &value);
      members.insert_or_assign(key, std::move(value));
    }
    out->push_back('{');
    for (const auto& [name, value] : members) {
      if (out->back() != '{') out->push_back(',');
      AppendJsonString(name, out);
      out->push_back(':');
      out->append(value);
    }
    out->push_back('}');
  } else {
    out->append(reader.Compact());
  }
}

}  // namespace

std::string_view KindName(JsonKind kind) {
  switch (kind) {
    case JsonKind::kNone:
      return "no value";
    case JsonKind::kNull:
      return "null";
    case JsonKind::kBool:
      return "a boolean";
    case JsonKind::kNumber:
      return "a number";
    case JsonKind::kString:
      return "a string";
    case JsonKind::kArray:
      return "an array";
    case JsonKind::kObject:
      return "an object";
  }
  return "";
}

bool JsonReader::Fail(std::string_view what) {
  if (status_.ok()) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat("not JSON: ", std::string(what), " at byte ", at_));
  }
  at_ = text_.size();
  return false;
}

void JsonReader::SkipSpace() {
  while (at_ < text_.size() && IsSpace(text_[at_])) {
    ++at_;
    has_space_ = true;
  }
}

bool JsonReader::AtEnd() {
  SkipSpace();
  return status_.ok() && at_ == text_.size();
}

JsonKind JsonReader::Kind() {
  if (!status_.ok()) return JsonKind::kNone;
  SkipSpace();
  switch (const char c = Peek()) {
    case 'n':
      return JsonKind::kNull;
    case 't':
    case 'f':
      return JsonKind::kBool;
    case '"':
      return JsonKind::kString;
    case '[':
      return JsonKind::kArray;
    case '{':
      return JsonKind::kObject;
    default:
      return c == '-' || IsDigit(c) ? JsonKind::kNumber : JsonKind::kNone;
  }
}

void JsonReader::Enter() {
  ++at_;
  entered_ = true;
}

bool JsonReader::NextMember(std::string* key) {
  const bool first = std::exchange(entered_, false);
  if (!status_.ok()) return false;
  SkipSpace();
  if (Peek() == '}') {
    ++at_;
    return false;
  }
  if (!first && !TakeChar(',', "no ',' or '}'")) return false;
  SkipSpace();
  const size_t begin = at_;
  if (Peek() != '"') return Fail("no member name");
  if (std::string_view name; TakePlainString(&name)) {
    key->assign(name);
    SkipSpace();
    return TakeChar(':', "no ':'");
  }
  if (!TakeString()) return false;
  std::optional<std::string> name =
      ParseJsonString(text_.substr(begin, at_ - begin));
  if (!name.has_value()) return Fail("a bad member name");
  *key = *std::move(name);
  SkipSpace();
  return TakeChar(':', "no ':'");
}

bool JsonReader::TakeMember(std::string_view name) {
  if (!status_.ok()) return false;
  size_t at = at_;
  if (!entered_) {
    if (Peek() != ',') return false;
    ++at;
  }
  const std::string_view rest = text_.substr(at);
  const size_t end = name.size() + 1;  // of the closing quote
  if (rest.size() < end + 2 || rest[0] != '"' || rest[end] != '"' ||
      rest[end + 1] != ':' || rest.compare(1, name.size(), name) != 0) {
    return false;
  }
  at_ = at + end + 2;
  entered_ = false;
  return true;
}

bool JsonReader::NextElement() {
  const bool first = std::exchange(entered_, false);
  if (!status_.ok()) return false;
  SkipSpace();
  if (Peek() == ']') {
    ++at_;
    return false;
  }
  return first || TakeChar(',', "no ',' or ']'");
}

bool JsonReader::TakePlainString(std::string_view* out) {
  if (!status_.ok()) return false;
  SkipSpace();
  if (Peek() != '"') return false;
  const size_t begin = at_ + 1;
  const size_t end = EndOfPlainText(text_, begin);
  if (end == text_.size() || text_[end] != '"') return false;
  *out = text_.substr(begin, end - begin);
  at_ = end + 1;
  entered_ = false;
  return true;
}

std::string_view JsonReader::Skip() {
  SkipSpace();
  const size_t begin = at_;
  if (!TakeValue()) return {};
  return text_.substr(begin, at_ - begin);
}

std::string JsonReader::Compact() {
  const std::string_view json = Skip();
  if (!has_space_ && !has_odd_string_) return std::string(json);
  return Respell(json);
}

std::string JsonReader::Canonical() {
  const std::string_view json = Skip();
  if (has_object_) {
    if (depth_ > kMaxSortedDepth) {
      Fail("a value nested too deep");
      return {};
    }
    std::string out;
    out.reserve(json.size());
    JsonReader inner(json);
    AppendSorted(inner, &out);
    return out;
  }
  if (!has_space_ && !has_odd_string_) return std::string(json);
  return Respell(json);
}

bool JsonReader::TakeChar(char expected, std::string_view what) {
  if (Peek() != expected) return Fail(what);
  ++at_;
  return true;
}

bool JsonReader::TakeString() {
  for (++at_; at_ < text_.size(); ++at_) {
    at_ = EndOfPlainText(text_, at_);
    if (at_ == text_.size()) break;
    const auto c = static_cast<unsigned char>(text_[at_]);
    if (c == '"') {
      ++at_;
      return true;
    }
    if (c < 0x20) return Fail("a control character in a string");
    has_odd_string_ = true;
    if (c == '\\' && !TakeEscape()) return false;
  }
  return Fail("a string without an end");
}

// Leaves the place at the escape's last byte.
bool JsonReader::TakeEscape() {
  ++at_;
  const char kind = Peek();
  if (kind != 'u') {
    constexpr std::string_view kKinds = "\"\\/bfnrt";
    return kKinds.find(kind) != std::string_view::npos ? true
                                                       : Fail("a bad escape");
  }
  for (int i = 0; i < 4; ++i) {
    ++at_;
    if (!IsHexDigit(Peek())) return Fail("a bad \\u escape");
  }
  return true;
}

bool JsonReader::TakeNumber() {
  const auto take_digits = [this] {
    const size_t begin = at_;
    while (IsDigit(Peek())) ++at_;
    return at_ > begin ? true : Fail("a number without digits");
  };
  if (Peek() == '-') ++at_;
  if (Peek() == '0') {
    ++at_;
  } else if (!take_digits()) {
    return false;
  }
  if (Peek() == '.') {
    ++at_;
    if (!take_digits()) return false;
  }
  if (Peek() == 'e' || Peek() == 'E') {
    ++at_;
    if (Peek() == '+' || Peek() == '-') ++at_;
    if (!take_digits()) return false;
  }
  return true;
}

bool JsonReader::TakeWord(std::string_view word) {
  if (text_.substr(at_, word.size()) != word) return Fail("a bad word");
  at_ += word.size();
  return true;
}

bool JsonReader::TakeScalar() {
  switch (Peek()) {
    case '"':
      return TakeString();
    case 't':
      return TakeWord("true");
    case 'f':
      return TakeWord("false");
    case 'n':
      return TakeWord("null");
    default:
      return TakeNumber();
  }
}

bool JsonReader::TakeKey() {
  SkipSpace();
  if (Peek() != '"') return Fail("no member name");
  if (!TakeString()) return false;
  SkipSpace();
  return TakeChar(':', "no ':'");
}

// Behind a value: takes the ends of arrays and objects, and the comma before
// the next value, if there is one. `open` has the end of each that is open.
bool JsonReader::TakeEnds(std::string* open) {
  while (!open->empty()) {
    SkipSpace();
    if (Peek() == open->back()) {
      ++at_;
      open->pop_back();
      continue;
    }
    if (!TakeChar(',', "no ',' and no end")) return false;
    return open->back() == ']' || TakeKey();
  }
  return true;
}

bool JsonReader::TakeValue() {
  entered_ = has_space_ = has_odd_string_ = has_object_ = false;
  depth_ = 0;
  if (!status_.ok()) return false;
  std::string open;
  do {
    SkipSpace();
    const char c = Peek();
    if (c != '[' && c != '{') {
      if (!TakeScalar() || !TakeEnds(&open)) return false;
      continue;
    }
    if (open.size() == kMaxDepth) return Fail("nested too deep");
    ++at_;
    open.push_back(c == '[' ? ']' : '}');
    depth_ = std::max(depth_, open.size());
    has_object_ = has_object_ || c == '{';
    SkipSpace();
    if (Peek() == open.back()) {
      if (!TakeEnds(&open)) return false;
    } else if (c == '{' && !TakeKey()) {
      return false;
    }
  } while (!open.empty());
  return true;
}

}  // namespace penstock
