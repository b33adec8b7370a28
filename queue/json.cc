// Go's spelling of strings, numbers, times and bytes. The rules are Go 1.22's
// and later (\b and \f have short forms).

#include "queue/json.h"

#include <array>
#include <charconv>
#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// The length of the valid UTF-8 sequence that `text` begins with; 0 when its
// first byte begins none.
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const auto tail = [&](size_t i, uint8_t low = 0x80, uint8_t high = 0xbf) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    // No overlong forms, no surrogates.
    const bool second =
        tail(1, first == 0xe0 ? 0xa0 : 0x80, first == 0xed ? 0x9f : 0xbf);
    return second && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const bool second =
        tail(1, first == 0xf0 ? 0x90 : 0x80, first == 0xf4 ? 0x8f : 0xbf);
    return second && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

void AppendUtf8(uint32_t rune, std::string* out) {
  const auto put = [&](uint32_t byte) {
    out->push_back(static_cast<char>(byte));
  };
  if (rune < 0x80) {
    put(rune);
  } else if (rune < 0x800) {
    put(0xc0 | (rune >> 6));
    put(0x80 | (rune & 0x3f));
  } else if (rune < 0x10000) {
    put(0xe0 | (rune >> 12));
    put(0x80 | ((rune >> 6) & 0x3f));
    put(0x80 | (rune & 0x3f));
  } else {
    put(0xf0 | (rune >> 18));
    put(0x80 | ((rune >> 12) & 0x3f));
    put(0x80 | ((rune >> 6) & 0x3f));
    put(0x80 | (rune & 0x3f));
  }
}

// The four digits after "\u".
std::optional<uint32_t> ParseHex4(std::string_view text) {
  if (text.size() < 4) return std::nullopt;
  uint32_t value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + 4, value, 16);
  if (error != std::errc() || end != text.data() + 4) return std::nullopt;
  return value;
}

constexpr auto kPlain = [] {
  std::array<bool, 256> plain{};
  for (int c = 0x20; c < 0x80; ++c) plain[c] = true;
  for (const char c : {'"', '\\', '<', '>', '&'}) plain[c] = false;
  return plain;
}();

void AppendEscape(unsigned char c, std::string* out) {
  switch (c) {
    case '"':
    case '\\':
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
      return;
    case '\b':
      out->append("\\b");
      return;
    case '\f':
      out->append("\\f");
      return;
    case '\n':
      out->append("\\n");
      return;
    case '\r':
      out->append("\\r");
      return;
    case '\t':
      out->append("\\t");
      return;
    default:
      out->append("\\u00");
      out->push_back(kHexDigits[c >> 4]);
      out->push_back(kHexDigits[c & 15]);
  }
}

// Reads one escape at `text[*at]`, a backslash. A surrogate without its other
// half is U+FFFD, as in Go.
bool ReadEscape(std::string_view text, size_t* at, std::string* out) {
  if (*at + 1 >= text.size()) return false;
  const char kind = text[*at + 1];
  *at += 2;
  if (kind != 'u') {
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const size_t index = kNames.find(kind);
    if (index == std::string_view::npos) return false;
    out->push_back(kMeanings[index]);
    return true;
  }
  const std::optional<uint32_t> first = ParseHex4(text.substr(*at));
  if (!first.has_value()) return false;
  *at += 4;
  if (*first < 0xd800 || *first > 0xdfff) {
    AppendUtf8(*first, out);
    return true;
  }
  if (*first <= 0xdbff && text.substr(*at, 2) == "\\u") {
    const std::optional<uint32_t> second = ParseHex4(text.substr(*at + 2));
    if (second.has_value() && *second >= 0xdc00 && *second <= 0xdfff) {
      AppendUtf8(0x10000 + ((*first - 0xd800) << 10) + (*second - 0xdc00), out);
      *at += 6;
      return true;
    }
  }
  out->append(kReplacement);
  return true;
}

// Lays out the shortest digits of a number ("-1.25e-07") as Go does: plain
// between 1e-6 and 1e21, else with an exponent that has no leading zero.
void AppendGoLayout(std::string_view scientific, bool plain, std::string* out) {
  if (scientific.front() == '-') {
    out->push_back('-');
    scientific.remove_prefix(1);
  }
  const size_t e = scientific.find('e');
  const std::string_view mantissa = scientific.substr(0, e);
  const int exponent = std::atoi(scientific.data() + e + 1);
  if (!plain) {
    out->append(mantissa);
    absl::StrAppend(out, exponent < 0 ? "e" : "e+", exponent);
    return;
  }
  std::string digits(1, mantissa.front());
  if (mantissa.size() > 2) digits.append(mantissa.substr(2));
  const int point = exponent + 1;  // how many digits stand before the point
  if (point <= 0) {
    out->append("0.");
    out->append(-point, '0');
    out->append(digits);
    return;
  }
  const size_t whole = static_cast<size_t>(point);
  if (digits.size() <= whole) {
    out->append(digits);
    out->append(whole - digits.size(), '0');
    return;
  }
  out->append(digits, 0, whole);
  out->push_back('.');
  out->append(digits, whole);
}

template <typename Float>
void AppendFloating(Float value, std::string* out) {
  std::array<char, 48> buffer;  // one byte stays for the final NUL
  buffer.fill('\0');
  const auto [end, error] =
      std::to_chars(buffer.data(), buffer.data() + buffer.size() - 1, value,
                    std::chars_format::scientific);
  const Float size = value < 0 ? -value : value;
  const bool plain = size == 0 || (size >= static_cast<Float>(1e-6) &&
                                   size < static_cast<Float>(1e21));
  AppendGoLayout({buffer.data(), end}, plain, out);
}

void AppendDigits(int64_t value, int width, std::string* out) {
  std::string digits = std::to_string(value);
  if (digits.size() < static_cast<size_t>(width)) {
    out->append(width - digits.size(), '0');
  }
  out->append(digits);
}

// "2026-11-21T23:18:33", of a second since the epoch by a clock of UTC.
std::string FormatSecond(int64_t second) {
  const absl::CivilSecond civil = absl::ToCivilSecond(
      absl::FromUnixSeconds(second), absl::UTCTimeZone());
  std::string out;
  AppendDigits(civil.year(), 4, &out);
  for (const auto& [separator, part] :
       {std::pair('-', civil.month()), std::pair('-', civil.day()),
        std::pair('T', civil.hour()), std::pair(':', civil.minute()),
        std::pair(':', civil.second())}) {
    out.push_back(separator);
    AppendDigits(part, 2, &out);
  }
  return out;
}

// The same. Nearly all times that are written are of the present second.
const std::string& SecondText(int64_t second) {
  struct Last {
    int64_t second = 0;
    std::string text = FormatSecond(0);
  };
  thread_local Last last;
  if (second != last.second) last = {second, FormatSecond(second)};
  return last.text;
}

// Exactly `count` digits from the front of `text`; -1 when they are not there.
int TakeDigits(std::string_view& text, size_t count) {
  if (text.size() < count) return -1;
  int value = 0;
  for (const char c : text.substr(0, count)) {
    if (c < '0' || c > '9') return -1;
    value = value * 10 + (c - '0');
  }
  text.remove_prefix(count);
  return value;
}

bool TakeChar(std::string_view& text, char expected) {
  if (text.empty() || text.front() != expected) return false;
  text.remove_prefix(1);
  return true;
}

// ".5229575": digits past the ninth are dropped.
std::optional<absl::Duration> TakeFraction(std::string_view& text) {
  if (!TakeChar(text, '.')) return absl::ZeroDuration();
  int64_t nanoseconds = 0;
  int64_t unit = 100'000'000;
  size_t count = 0;
  while (count < text.size() && text[count] >= '0' && text[count] <= '9') {
    nanoseconds += (text[count] - '0') * unit;
    unit /= 10;
    ++count;
  }
  if (count == 0) return std::nullopt;
  text.remove_prefix(count);
  return absl::Nanoseconds(nanoseconds);
}

// "Z" or "+05:30", to the end of the text.
std::optional<int> TakeOffset(std::string_view& text) {
  if (text == "Z") return 0;
  if (text.empty() || (text.front() != '+' && text.front() != '-')) {
    return std::nullopt;
  }
  const int sign = text.front() == '-' ? -1 : 1;
  text.remove_prefix(1);
  const int hours = TakeDigits(text, 2);
  if (!TakeChar(text, ':')) return std::nullopt;
  const int minutes = TakeDigits(text, 2);
  if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59 || !text.empty()) {
    return std::nullopt;
  }
  return sign * (hours * 60 + minutes) * 60;
}

// "2026-11-21T23:18:33"; nullopt for a day that no calendar has.
std::optional<absl::CivilSecond> TakeCivil(std::string_view& text) {
  std::array<int, 6> parts;
  constexpr std::string_view kSeparators = "--T::";
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0 && !TakeChar(text, kSeparators[i - 1])) return std::nullopt;
    parts[i] = TakeDigits(text, i == 0 ? 4 : 2);
    if (parts[i] < 0) return std::nullopt;
  }
  const absl::CivilSecond civil(parts[0], parts[1], parts[2], parts[3],
                                parts[4], parts[5]);
  if (civil.month() != parts[1] || civil.day() != parts[2] ||
      civil.hour() != parts[3] || civil.minute() != parts[4] ||
      civil.second() != parts[5]) {
    return std::nullopt;
  }
  return civil;
}

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

}  // namespace

size_t EndOfPlainText(std::string_view text, size_t begin) {
  size_t i = begin;
  while (i < text.size() && kPlain[static_cast<unsigned char>(text[i])]) ++i;
  return i;
}

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  size_t copied = 0;  // all before this is written
  size_t i = 0;
  const auto flush = [&] { out->append(text, copied, i - copied); };
  while (i < text.size()) {
    i = EndOfPlainText(text, i);
    if (i == text.size()) break;
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      flush();
      AppendEscape(c, out);
      copied = ++i;
      continue;
    }
    const size_t length = Utf8Length(text.substr(i));
    const std::string_view rune = text.substr(i, length);
    if (length == 0) {
      flush();
      out->append("\\ufffd");
      copied = ++i;
    } else if (rune == "\u2028" || rune == "\u2029") {
      flush();
      out->append(rune == "\u2028" ? "\\u2028" : "\\u2029");
      copied = i += length;
    } else {
      i += length;
    }
  }
  flush();
  out->push_back('"');
}

std::string JsonString(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 2);
  AppendJsonString(text, &out);
  return out;
}

std::optional<std::string> ParseJsonString(std::string_view json) {
  if (json.size() < 2 || json.front() != '"' || json.back() != '"') {
    return std::nullopt;
  }
  const std::string_view text = json.substr(1, json.size() - 2);
  if (EndOfPlainText(text, 0) == text.size()) return std::string(text);
  std::string out;
  out.reserve(text.size());
  size_t i = 0;
  while (i < text.size()) {
    const size_t end = EndOfPlainText(text, i);
    out.append(text, i, end - i);
    if ((i = end) == text.size()) break;
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == '"') return std::nullopt;
    if (c == '\\') {
      if (!ReadEscape(text, &i, &out)) return std::nullopt;
      continue;
    }
    const size_t length = c < 0x80 ? 1 : Utf8Length(text.substr(i));
    out.append(length == 0 ? kReplacement : text.substr(i, length));
    i += length == 0 ? 1 : length;
  }
  return out;
}

void AppendJsonDouble(double value, std::string* out) {
  AppendFloating(value, out);
}

void AppendJsonFloat(float value, std::string* out) {
  AppendFloating(value, out);
}

std::string FormatTime(const ZonedTime& time) {
  const absl::Time local = time.time + absl::Seconds(time.utc_offset_s);
  const int64_t second = absl::ToUnixSeconds(local);  // rounded down
  std::string out;
  out.reserve(35);
  out.append(SecondText(second));
  if (int64_t nanoseconds =
          absl::ToInt64Nanoseconds(local - absl::FromUnixSeconds(second));
      nanoseconds != 0) {
    char digits[10] = {'.'};
    for (int i = 9; i > 0; --i, nanoseconds /= 10) {
      digits[i] = static_cast<char>('0' + nanoseconds % 10);
    }
    out.append(digits, sizeof digits);
    out.erase(out.find_last_not_of('0') + 1);
  }
  const int minutes = time.utc_offset_s / 60;
  if (minutes == 0) {
    out.push_back('Z');
    return out;
  }
  out.push_back(minutes < 0 ? '-' : '+');
  AppendDigits(std::abs(minutes) / 60, 2, &out);
  out.push_back(':');
  AppendDigits(std::abs(minutes) % 60, 2, &out);
  return out;
}

absl::StatusOr<ZonedTime> ParseTime(std::string_view text) {
  std::string_view rest = text;
  const auto civil = TakeCivil(rest);
  const auto fraction = civil ? TakeFraction(rest) : std::nullopt;
  const auto offset = fraction ? TakeOffset(rest) : std::nullopt;
  if (offset.has_value()) {
    const absl::Time time = absl::FromCivil(*civil, absl::UTCTimeZone()) +
                            *fraction - absl::Seconds(*offset);
    // Go reads a time just outside of these years, but cannot write it again.
    const int64_t year = absl::ToCivilYear(time, absl::UTCTimeZone()).year();
    if (year >= 0 && year <= 9999) return ZonedTime{time, *offset};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(std::string(text.substr(0, 40))),
                   "\" is not a time like 2026-11-21T23:18:33.5Z"));
}

std::string EncodeBase64(const Bytes& bytes) {
  return absl::Base64Escape(absl::string_view(
      reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

absl::StatusOr<Bytes> DecodeBase64(std::string_view text) {
  const auto illegal = [](size_t at) {
    return absl::InvalidArgumentError(
        absl::StrCat("illegal base64 data at input byte ", at));
  };
  Bytes bytes;
  bytes.reserve(text.size() / 4 * 3);
  uint32_t group = 0;
  int digits = 0;   // of the group, padding included
  int padding = 0;  // '=' seen
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\r' || c == '\n') continue;
    if (padding > 0 && digits == 0) return illegal(i);  // after the end
    const int digit = Base64Digit(c);
    if (c == '=' && digits >= 2) {
      ++padding;
    } else if (digit < 0 || padding > 0) {
      return illegal(i);
    }
    group = group << 6 | static_cast<uint32_t>(digit < 0 ? 0 : digit);
    if (++digits < 4) continue;
    for (int byte = 0; byte < 3 - padding; ++byte) {
      bytes.push_back(static_cast<uint8_t>(group >> (16 - 8 * byte)));
    }
    group = 0;
    digits = 0;
  }
  if (digits != 0) return illegal(text.size());
  return bytes;
}

}  // namespace penstock
