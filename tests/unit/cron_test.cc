#include "queue/cron.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace penstock {
namespace {

using ::testing::HasSubstr;

absl::TimeZone Zone(const std::string& name) {
  absl::TimeZone zone;
  EXPECT_TRUE(absl::LoadTimeZone(name, &zone)) << name;
  return zone;
}

absl::Time Utc(const char* text) {
  absl::Time time;
  std::string error;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, text, &time, &error))
      << error;
  return time;
}

std::string ErrorOf(const std::string& spec) {
  return std::string(CronSpec::Parse(spec).status().message());
}

// cron.golden is what the real robfig/cron computed
// (tests/interop/cron_test.go): each line a spec, a zone, and a start with the
// times after it.
TEST(Cron, TicksWhenTheRealOneDoes) {
  std::ifstream file(PENSTOCK_CRON_GOLDEN);
  std::string line;
  int ticks = 0;
  while (std::getline(file, line)) {
    const std::vector<std::string> parts = absl::StrSplit(line, '\t');
    ASSERT_EQ(parts.size(), 3u) << line;
    if (parts[2] == "refused") {
      EXPECT_FALSE(CronSpec::Parse(parts[0]).ok()) << line;
      continue;
    }
    const std::vector<std::string> times = absl::StrSplit(parts[2], ' ');
    const absl::StatusOr<CronSpec> spec =
        CronSpec::Parse(parts[0], Zone(parts[1]));
    if (times.size() == 1) {
      // robfig/cron takes it, and never ticks.
      EXPECT_THAT(std::string(spec.status().message()),
                  HasSubstr("never matches"))
          << line;
      continue;
    }
    ASSERT_TRUE(spec.ok()) << line << ": " << spec.status();
    double start = 0;
    ASSERT_TRUE(absl::SimpleAtod(times[0], &start));
    absl::Time at = absl::FromUnixMillis(std::llround(start * 1000));
    for (size_t i = 1; i < times.size(); ++i) {
      at = spec->Next(at);
      ASSERT_EQ(std::to_string(absl::ToUnixSeconds(at)), times[i]) << line;
      ++ticks;
    }
  }
  EXPECT_GT(ticks, 5000);
}

TEST(Cron, NextIsAfterTheGivenTimeAlways) {
  const auto spec = CronSpec::Parse("* * * * *", absl::UTCTimeZone());
  const absl::Time minute = Utc("2026-01-01T00:01:00Z");
  EXPECT_EQ(spec->Next(minute), minute + absl::Minutes(1));
  EXPECT_EQ(spec->Next(minute - absl::Nanoseconds(1)), minute);
}

TEST(Cron, EveryGoesOnInStepAfterAPause) {
  const absl::Time tick = Utc("2026-01-01T00:00:00Z");
  const auto next = [&](const char* spec, absl::Duration later) {
    return CronSpec::Parse(spec, absl::UTCTimeZone())
               ->NextInStep(tick, tick + later) -
           tick;
  };
  EXPECT_EQ(next("@every 10m", absl::ZeroDuration()), absl::Minutes(10));
  EXPECT_EQ(next("@every 10m", absl::Minutes(35)), absl::Minutes(40));
  EXPECT_EQ(next("@every 10m", absl::Minutes(40)), absl::Minutes(50));
  EXPECT_EQ(next("*/15 * * * *", absl::Minutes(35)), absl::Minutes(45));
  EXPECT_EQ(next("*/15 * * * *", -absl::Minutes(5)), absl::Minutes(15));
}

TEST(Cron, The29thOfFebruaryIsFoundAcross2100) {
  const auto spec = CronSpec::Parse("0 0 29 2 *", absl::UTCTimeZone());
  EXPECT_EQ(spec->Next(Utc("2096-03-01T00:00:00Z")),
            Utc("2104-02-29T00:00:00Z"));
}

TEST(Cron, WithoutAZoneTheGivenOneHolds) {
  const absl::Time start = Utc("2026-01-01T00:00:00Z");
  EXPECT_EQ(CronSpec::Parse("0 6 * * *", Zone("Asia/Tokyo"))->Next(start),
            Utc("2026-01-01T21:00:00Z"));
  EXPECT_EQ(
      CronSpec::Parse("CRON_TZ=UTC 0 6 * * *", Zone("Asia/Tokyo"))->Next(start),
      Utc("2026-01-01T06:00:00Z"));
}

TEST(Cron, ErrorsNameTheFieldAndWhatItTakes) {
  EXPECT_EQ(ErrorOf("60 * * * *"), "minute \"60\": must be 0 to 59");
  EXPECT_EQ(ErrorOf("* 7-24 * * *"), "hour \"7-24\": must be 0 to 23");
  EXPECT_EQ(ErrorOf("* * 1,0 * *"), "day of the month \"0\": must be 1 to 31");
  EXPECT_EQ(ErrorOf("* * * JANUARY *"),
            "month \"JANUARY\": must be 1 to 12 or JAN to DEC");
  EXPECT_EQ(
      ErrorOf("* * * * 7"),
      "day of the week \"7\": must be 0 to 6 or SUN to SAT (Sunday is 0)");
  EXPECT_EQ(ErrorOf("*/0 * * * *"),
            "minute \"*/0\": the step after \"/\" must be a whole number, 1 or "
            "more");
  EXPECT_EQ(ErrorOf("30-10 * * * *"),
            "minute \"30-10\": the range ends before it begins");
  EXPECT_THAT(ErrorOf("0 30 9 * * *"), HasSubstr("has 6 fields; give 5"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("has 0 fields; give 5"));
  EXPECT_THAT(ErrorOf("@often"), HasSubstr("\"@often\" is not known"));
}

TEST(Cron, SpecsThatNeverMatchAreRefused) {
  for (const char* spec : {"0 0 31 2 *", "0 0 30,31 2 *", "0 0 31 2,4,6,9,11 ?",
                           "0 0 30-31 FEB *"}) {
    EXPECT_THAT(ErrorOf(spec), HasSubstr("never matches")) << spec;
  }
  // Either day will do, and there is a Monday in February.
  EXPECT_TRUE(CronSpec::Parse("0 0 31 2 MON").ok());
  EXPECT_THAT(ErrorOf(", * * * *"), HasSubstr("minute \",\": has no value"));
}

TEST(Cron, EveryTakesASecondOrMore) {
  EXPECT_TRUE(CronSpec::Parse("@every 1s").ok());
  for (const char* spec : {"@every 999ms", "@every 0", "@every -1h",
                           "@every inf", "@every 1000000h"}) {
    EXPECT_THAT(ErrorOf(spec), HasSubstr("must be 1s to 100 years")) << spec;
  }
  EXPECT_THAT(ErrorOf("@every 5"), HasSubstr("is no duration"));
}

TEST(Cron, ATimeZoneIsANameOfTheDataBaseAndNoPath) {
  for (const char* name : {"Nowhere/Land", "../UTC", "/etc/localtime",
                           "file:/etc/localtime", "libc:localtime"}) {
    const std::string error =
        ErrorOf(std::string("CRON_TZ=") + name + " 0 0 * * *");
    EXPECT_THAT(error, HasSubstr("is not known here")) << name;
    EXPECT_THAT(error, HasSubstr(name));
  }
  EXPECT_THAT(ErrorOf("TZ=UTC"), HasSubstr("nothing follows the time zone"));
}

}  // namespace
}  // namespace penstock
