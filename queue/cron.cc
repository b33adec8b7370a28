#include "queue/cron.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace penstock {

// What a field of a spec may hold.
struct CronSpec::Bounds {
  const char* field;
  int low;
  int high;
  const char* takes;               // for people
  std::vector<const char*> names;  // of the values from `low` on
};

namespace {

constexpr absl::Duration kLongestEvery = absl::Hours(24 * 366 * 100);
constexpr int kDaysOfMonths[] = {31, 29, 31, 30, 31, 30,
                                 31, 31, 30, 31, 30, 31};
// 29 February may be eight years away; more than that no spec waits.
constexpr int kYears = 10;

absl::Status Wrong(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

absl::StatusOr<absl::TimeZone> LoadZone(const std::string& name) {
  // Others are paths and the like, which LoadTimeZone would follow.
  const bool plain = !name.empty() && absl::ascii_isalpha(name[0]) &&
                     std::all_of(name.begin(), name.end(), [](unsigned char c) {
                       return absl::ascii_isalnum(c) || c == '_' || c == '-' ||
                              c == '+' || c == '/';
                     });
  absl::TimeZone zone;
  if (!plain || !absl::LoadTimeZone(name, &zone)) {
    return Wrong(absl::StrCat(
        "time zone \"", name,
        "\" is not known here: give one of the IANA data base, such as "
        "Europe/Berlin or UTC (tzdata must be installed)"));
  }
  return zone;
}

std::optional<int> ParseNumber(absl::string_view text) {
  absl::ConsumePrefix(&text, "+");
  int number = 0;
  const bool digits =
      !text.empty() && text.size() < 10 &&
      std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

// The time that a wall clock of `zone` shows as `wall`, chosen as Go's
// time.Date does where there is none or two: so schedules of Go and ours agree
// on the days when clocks are changed.
absl::Time FromWall(absl::CivilSecond wall, absl::TimeZone zone) {
  const int64_t as_utc = wall - absl::CivilSecond();
  const int guess = zone.At(absl::FromUnixSeconds(as_utc)).offset;
  const int offset = zone.At(absl::FromUnixSeconds(as_utc - guess)).offset;
  return absl::FromUnixSeconds(as_utc - (guess == 0 ? 0 : offset));
}

}  // namespace

absl::StatusOr<CronSpec> CronSpec::Parse(std::string_view spec,
                                         absl::TimeZone zone) {
  absl::string_view text(spec.data(), spec.size());
  CronSpec parsed;
  parsed.zone_ = zone;
  if (absl::ConsumePrefix(&text, "CRON_TZ=") ||
      absl::ConsumePrefix(&text, "TZ=")) {
    const size_t space = text.find(' ');
    if (space == absl::string_view::npos) {
      return Wrong(
          "nothing follows the time zone: give \"CRON_TZ=Area/City \" "
          "and five fields");
    }
    const std::string name(text.substr(0, space));
    absl::StatusOr<absl::TimeZone> named =
        name.empty() ? absl::UTCTimeZone() : LoadZone(name);
    if (!named.ok()) return named.status();
    parsed.zone_ = *named;
    text = absl::StripAsciiWhitespace(text.substr(space));
  }
  if (absl::ConsumePrefix(&text, "@every ")) {
    absl::Status status =
        parsed.ParseEvery(std::string_view(text.data(), text.size()));
    if (!status.ok()) return status;
    return parsed;
  }
  static constexpr std::pair<absl::string_view, std::string_view>
      kDescriptors[] = {
          {"@yearly", "0 0 1 1 *"},  {"@annually", "0 0 1 1 *"},
          {"@monthly", "0 0 1 * *"}, {"@weekly", "0 0 * * 0"},
          {"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
          {"@hourly", "0 * * * *"},
      };
  std::string_view fields(text.data(), text.size());
  if (absl::StartsWith(text, "@")) {
    const auto* known =
        std::find_if(std::begin(kDescriptors), std::end(kDescriptors),
                     [&](const auto& entry) { return entry.first == text; });
    if (known == std::end(kDescriptors)) {
      return Wrong(
          absl::StrCat("\"", text,
                       "\" is not known: give @yearly, @monthly, "
                       "@weekly, @daily, @hourly or \"@every 1h30m\""));
    }
    fields = known->second;
  }
  absl::Status status = parsed.ParseFields(fields);
  if (!status.ok()) return status;
  return parsed;
}

absl::Status CronSpec::ParseEvery(std::string_view duration) {
  const absl::string_view text(duration.data(), duration.size());
  absl::Duration every;
  if (!absl::ParseDuration(text, &every)) {
    return Wrong(absl::StrCat("@every \"", text,
                              "\" is no duration: give one such as 30s, 10m or "
                              "1h30m"));
  }
  if (every < absl::Seconds(1) || every > kLongestEvery) {
    return Wrong(absl::StrCat("@every ", text, ": must be 1s to 100 years"));
  }
  every_ = absl::Floor(every, absl::Seconds(1));
  return absl::OkStatus();
}

absl::Status CronSpec::ParseFields(std::string_view text) {
  static const auto* const bounds = new std::vector<Bounds>{
      {"minute", 0, 59, "0 to 59", {}},
      {"hour", 0, 23, "0 to 23", {}},
      {"day of the month", 1, 31, "1 to 31", {}},
      {"month",
       1,
       12,
       "1 to 12 or JAN to DEC",
       {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct",
        "nov", "dec"}},
      {"day of the week",
       0,
       6,
       "0 to 6 or SUN to SAT (Sunday is 0)",
       {"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
  };
  const std::vector<std::string> words =
      absl::StrSplit(absl::string_view(text.data(), text.size()),
                     absl::ByAnyChar(" \t\n\v\f\r"), absl::SkipEmpty());
  if (words.size() != bounds->size()) {
    return Wrong(absl::StrCat(
        "has ", words.size(),
        " fields; give 5: minute, hour, day of the month, month, day of the "
        "week (no seconds, no years)"));
  }
  Field* const fields[] = {&minute_, &hour_, &day_, &month_, &weekday_};
  for (size_t i = 0; i < words.size(); ++i) {
    absl::StatusOr<Field> field = ParseField(words[i], (*bounds)[i]);
    if (!field.ok()) return field.status();
    *fields[i] = *field;
  }
  if (NeverMatches()) {
    return Wrong(absl::StrCat("never matches: none of its months (\"", words[3],
                              "\") has one of its days (\"", words[2], "\")"));
  }
  return absl::OkStatus();
}

absl::StatusOr<CronSpec::Field> CronSpec::ParseField(std::string_view text,
                                                     const Bounds& bounds) {
  Field field;
  for (absl::string_view part :
       absl::StrSplit(absl::string_view(text.data(), text.size()), ',',
                      absl::SkipEmpty())) {
    absl::StatusOr<Field> range =
        ParseRange(std::string_view(part.data(), part.size()), bounds);
    if (!range.ok()) return range.status();
    field.values |= range->values;
    field.any = field.any || range->any;
  }
  if (field.values == 0) {
    return Wrong(absl::StrCat(bounds.field, " \"", std::string(text),
                              "\": has no value; give * or ", bounds.takes));
  }
  return field;
}

// One of: * ? a a-b */n a/n (from a on) a-b/n
absl::StatusOr<CronSpec::Field> CronSpec::ParseRange(std::string_view text,
                                                     const Bounds& bounds) {
  const std::string whole(text);
  const auto wrong = [&](absl::string_view why) {
    return Wrong(absl::StrCat(bounds.field, " \"", whole, "\": ", why));
  };
  const auto parse = [&](absl::string_view word) -> std::optional<int> {
    for (size_t i = 0; i < bounds.names.size(); ++i) {
      if (absl::EqualsIgnoreCase(word, bounds.names[i])) {
        return bounds.low + static_cast<int>(i);
      }
    }
    return ParseNumber(word);
  };
  const std::vector<std::string> steps = absl::StrSplit(whole, '/');
  const std::vector<std::string> ends = absl::StrSplit(steps[0], '-');
  if (steps.size() > 2) return wrong("has more than one \"/\"");
  if (ends.size() > 2) return wrong("has more than one \"-\"");
  const bool any = ends[0] == "*" || ends[0] == "?";
  if (any && ends.size() > 1) return wrong("a range begins with a value");
  int step = 1;
  if (steps.size() == 2) {
    const std::optional<int> number = ParseNumber(steps[1]);
    if (!number.has_value() || *number == 0) {
      return wrong("the step after \"/\" must be a whole number, 1 or more");
    }
    step = *number;
  }
  int low = bounds.low;
  int high = bounds.high;
  if (!any) {
    const std::optional<int> first = parse(ends[0]);
    const std::optional<int> last = parse(ends.back());
    if (!first.has_value() || !last.has_value() || *first < bounds.low ||
        *last > bounds.high) {
      return wrong(absl::StrCat("must be ", bounds.takes));
    }
    if (*first > *last) return wrong("the range ends before it begins");
    low = *first;
    if (ends.size() == 2 || steps.size() == 1) high = *last;
  }
  Field field{.any = any && step == 1};
  for (int64_t value = low; value <= high; value += step) {
    field.values |= uint64_t{1} << value;
  }
  return field;
}

// Days of the week exist in every month; what is left is the 31st of February.
bool CronSpec::NeverMatches() const {
  if (!weekday_.any) return false;
  for (int month = 1; month <= 12; ++month) {
    if (!month_.Has(month)) continue;
    for (int day = 1; day <= kDaysOfMonths[month - 1]; ++day) {
      if (day_.Has(day)) return false;
    }
  }
  return true;
}

bool CronSpec::DayMatches(absl::CivilSecond time) const {
  const bool day = day_.Has(time.day());
  // absl counts from Monday, cron from Sunday.
  const auto weekday = absl::GetWeekday(time);
  const bool of_week = weekday_.Has((static_cast<int>(weekday) + 1) % 7);
  return day_.any || weekday_.any ? day && of_week : day || of_week;
}

absl::Time CronSpec::NextInStep(absl::Time tick, absl::Time now) const {
  if (now <= tick) return Next(tick);
  if (every_ == absl::ZeroDuration()) return Next(now);
  absl::Duration since;
  const int64_t steps = absl::IDivDuration(now - tick, every_, &since);
  return Next(tick) + steps * every_;
}

// Step by step as robfig/cron goes, from the coarsest field to the finest, each
// from its beginning once a coarser one was moved: what comes out on days when
// clocks are changed depends on the way.
absl::Time CronSpec::Next(absl::Time time) const {
  if (every_ > absl::ZeroDuration()) {
    return absl::FromUnixSeconds(absl::ToUnixSeconds(time)) + every_;
  }
  absl::Time at =
      absl::FromUnixSeconds(absl::ToUnixSeconds(time)) + absl::Seconds(1);
  const auto wall = [&] { return absl::ToCivilSecond(at, zone_); };
  const auto set = [&](absl::CivilSecond civil) {
    at = FromWall(civil, zone_);
  };
  bool moved = false;
  const int64_t last_year = wall().year() + kYears;
  while (wall().year() <= last_year) {
    bool wrapped = false;
    while (!wrapped && !month_.Has(wall().month())) {
      if (!std::exchange(moved, true)) set(absl::CivilMonth(wall()));
      const absl::CivilSecond now = wall();
      set(absl::CivilSecond(now.year(), now.month() + 1, now.day(), now.hour(),
                            now.minute(), now.second()));
      wrapped = wall().month() == 1;
    }
    while (!wrapped && !DayMatches(wall())) {
      if (!std::exchange(moved, true)) set(absl::CivilDay(wall()));
      const absl::CivilSecond now = wall();
      set(absl::CivilSecond(now.year(), now.month(), now.day() + 1, now.hour(),
                            now.minute(), now.second()));
      // Where clocks are changed at midnight it may be 23:00 or 1:00 now.
      const int hour = wall().hour();
      if (hour > 12) {
        at += absl::Hours(24 - hour);
      } else {
        at -= absl::Hours(hour);
      }
      wrapped = wall().day() == 1;
    }
    while (!wrapped && !hour_.Has(wall().hour())) {
      if (!std::exchange(moved, true)) set(absl::CivilHour(wall()));
      at += absl::Hours(1);
      wrapped = wall().hour() == 0;
    }
    while (!wrapped && !minute_.Has(wall().minute())) {
      if (!std::exchange(moved, true)) {
        at = absl::UnixEpoch() +
             absl::Floor(at - absl::UnixEpoch(), absl::Minutes(1));
      }
      at += absl::Minutes(1);
      wrapped = wall().minute() == 0;
    }
    while (!wrapped && wall().second() != 0) {
      moved = true;
      at += absl::Seconds(1);
      wrapped = wall().second() == 0;
    }
    if (!wrapped) return at;
  }
  return absl::InfiniteFuture();  // not reached: Parse found a match
}

}  // namespace penstock
