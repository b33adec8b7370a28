// One event is one line, whatever is in its values.

#include "queue/telemetry/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace penstock {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string Logged(LogLevel level, absl::string_view message,
                   std::initializer_list<LogField> fields) {
  testing::internal::CaptureStderr();
  Log(level, message, fields);
  return testing::internal::GetCapturedStderr();
}

TEST(LogTest, HasTimeLevelMessageAndFields) {
  EXPECT_THAT(
      Logged(LogLevel::kWarning, "connection lost",
             {{"server", "a.b:5672"}, {"why", "timed out"}, {"empty", ""}}),
      MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
                   "\\.[0-9]{3}Z warning connection lost server=a\\.b:5672 "
                   "why=\"timed out\" empty=\"\"\n"));
  EXPECT_THAT(Logged(LogLevel::kError, "x", {}), EndsWith("Z error x\n"));
  EXPECT_THAT(Logged(LogLevel::kInfo, "x", {}), EndsWith("Z info x\n"));
}

TEST(LogTest, AValueCannotForgeALineOrAField) {
  const std::string line =
      Logged(LogLevel::kInfo, "m\nm", {{"k", "a\nb\x01\" c=d\\"}});
  EXPECT_THAT(line, HasSubstr(R"(m\nm k="a\nb\x01\" c=d\\")"));
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

TEST(LogTest, LinesBelowTheLevelAreDropped) {
  EXPECT_EQ(Logged(LogLevel::kDebug, "x", {}), "");
  SetLogLevel(LogLevel::kDebug);
  EXPECT_THAT(Logged(LogLevel::kDebug, "x", {}), EndsWith(" debug x\n"));
  SetLogLevel(LogLevel::kError);
  EXPECT_EQ(Logged(LogLevel::kWarning, "x", {}), "");
  SetLogLevel(LogLevel::kInfo);
}

}  // namespace
}  // namespace penstock
