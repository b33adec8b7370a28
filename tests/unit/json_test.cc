// Go's spelling of strings, numbers, times and bytes.

#include "queue/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace penstock {
namespace {

std::string Double(double value) {
  std::string out;
  AppendJsonDouble(value, &out);
  return out;
}

std::string Float(float value) {
  std::string out;
  AppendJsonFloat(value, &out);
  return out;
}

std::string Reformatted(std::string_view text) {
  const absl::StatusOr<ZonedTime> time = ParseTime(text);
  return time.ok() ? FormatTime(*time) : std::string(time.status().message());
}

TEST(JsonStringTest, EscapesAsGoDoes) {
  EXPECT_EQ(JsonString(""), R"("")");
  EXPECT_EQ(JsonString("a \"b\" \\ /"), R"("a \"b\" \\ /")");
  EXPECT_EQ(JsonString("<a&b>"), R"("\u003ca\u0026b\u003e")");
  EXPECT_EQ(JsonString("\b\f\n\r\t"), R"("\b\f\n\r\t")");
  EXPECT_EQ(JsonString(std::string_view("\0\x1f\x7f", 3)),
            "\"\\u0000\\u001f\x7f\"");
  EXPECT_EQ(JsonString("\u2028x\u2029\u2027"), "\"\\u2028x\\u2029\u2027\"");
  EXPECT_EQ(JsonString("hé 😀 \ufffd"), "\"hé 😀 \ufffd\"");
}

TEST(JsonStringTest, EachByteThatIsNotUtf8IsReplaced) {
  EXPECT_EQ(JsonString("a\xff\xfe z"), R"("a\ufffd\ufffd z")");
  EXPECT_EQ(JsonString("\xe2\x80"), R"("\ufffd\ufffd")");  // cut
  EXPECT_EQ(JsonString("\xc0\xaf"), R"("\ufffd\ufffd")");  // overlong
  EXPECT_EQ(JsonString("\xed\xa0\x80"),
            R"("\ufffd\ufffd\ufffd")");      // surrogate
  EXPECT_EQ(JsonString("\xf4\x90\x80\x80"),  // too large
            R"("\ufffd\ufffd\ufffd\ufffd")");
}

TEST(JsonStringTest, ReadsEveryEscape) {
  EXPECT_EQ(ParseJsonString(R"("\"\\\/\b\f\n\r\t\u00e9\u003C")"),
            "\"\\/\b\f\n\r\té<");
  EXPECT_EQ(ParseJsonString(R"("\ud83d\ude00")"), "😀");
  EXPECT_EQ(ParseJsonString(R"("\ud83d")"), "\ufffd");
  EXPECT_EQ(ParseJsonString(R"("\ud83d\u0041")"), "\ufffdA");
  EXPECT_EQ(ParseJsonString(R"("\ude00\ud83d")"), "\ufffd\ufffd");
  EXPECT_EQ(ParseJsonString("\"a\xff\""), "a\ufffd");
  EXPECT_EQ(ParseJsonString(R"("\u0000")"), std::string(1, '\0'));
}

TEST(JsonStringTest, RefusesWhatIsNoString) {
  for (const std::string_view text :
       {"", "\"", "a", "\"a", "a\"", "\"a\"b\"", "\"\\\"", "\"\\x\"",
        "\"\\u12\"", "\"\\u12g4\"", "\"\\u-123\"", "\"\n\"", "1", " \"a\""}) {
    EXPECT_EQ(ParseJsonString(text), std::nullopt) << text;
  }
}

TEST(JsonNumberTest, DoublesHaveGosLayout) {
  EXPECT_EQ(Double(0), "0");
  EXPECT_EQ(Double(-0.0), "-0");
  EXPECT_EQ(Double(100), "100");
  EXPECT_EQ(Double(0.1), "0.1");
  EXPECT_EQ(Double(-1.5), "-1.5");
  EXPECT_EQ(Double(123.456), "123.456");
  EXPECT_EQ(Double(1e-6), "0.000001");
  EXPECT_EQ(Double(9.9e-7), "9.9e-7");
  EXPECT_EQ(Double(1e-7), "1e-7");
  EXPECT_EQ(Double(1.5e-10), "1.5e-10");
  EXPECT_EQ(Double(1e20), "100000000000000000000");
  EXPECT_EQ(Double(1.2345678901234567e20), "123456789012345670000");
  EXPECT_EQ(Double(1e21), "1e+21");
  EXPECT_EQ(Double(-1.25e22), "-1.25e+22");
  EXPECT_EQ(Double(std::numeric_limits<double>::max()),
            "1.7976931348623157e+308");
  EXPECT_EQ(Double(std::numeric_limits<double>::denorm_min()), "5e-324");
}

TEST(JsonNumberTest, FloatsHaveTheirOwnShortestDigits) {
  EXPECT_EQ(Float(0.1f), "0.1");
  EXPECT_EQ(Float(16777216.0f), "16777216");
  EXPECT_EQ(Float(1e-6f), "0.000001");
  EXPECT_EQ(Float(9e-7f), "9e-7");
  EXPECT_EQ(Float(1e21f), "1e+21");
  EXPECT_EQ(Float(std::numeric_limits<float>::max()), "3.4028235e+38");
}

TEST(JsonTimeTest, FormatsAsGoDoes) {
  EXPECT_EQ(FormatTime({}), "0001-01-01T00:00:00Z");
  EXPECT_EQ(FormatTime({absl::FromUnixNanos(1795303113522957500), 0}),
            "2026-11-21T23:18:33.5229575Z");
  EXPECT_EQ(FormatTime({absl::FromUnixSeconds(0), -12600}),
            "1969-12-31T20:30:00-03:30");
  EXPECT_EQ(FormatTime({absl::FromUnixNanos(-1), 0}),
            "1969-12-31T23:59:59.999999999Z");
}

TEST(JsonTimeTest, KeepsTheOffsetOfTheText) {
  for (const std::string_view text :
       {"2020-01-02T03:04:05.06+05:30", "2020-02-29T23:59:59-00:15",
        "9999-12-31T23:59:59.999999999Z", "0000-01-01T00:00:00Z"}) {
    EXPECT_EQ(Reformatted(text), text);
  }
  EXPECT_EQ(Reformatted("2020-01-02T03:04:05+00:00"), "2020-01-02T03:04:05Z");
  EXPECT_EQ(Reformatted("2020-01-02T03:04:05.1234567899Z"),
            "2020-01-02T03:04:05.123456789Z");
  EXPECT_EQ(ParseTime("1970-01-01T05:30:00+05:30")->time, absl::UnixEpoch());
}

TEST(JsonTimeTest, RefusesWhatGoRefuses) {
  for (const std::string_view text :
       {"", "2020-01-02", "2020-01-02T03:04:05", "2020-01-02t03:04:05Z",
        "2020-01-02T03:04:05z", "2020-01-02 03:04:05Z", "2020-13-02T03:04:05Z",
        "2021-02-29T03:04:05Z", "2020-01-02T24:00:00Z", "2020-01-02T03:60:05Z",
        "2020-01-02T03:04:60Z", "2020-01-02T3:04:05Z", "2020-01-02T03:04:05.Z",
        "2020-01-02T03:04:05,5Z", "2020-01-02T03:04:05+24:00",
        "2020-01-02T03:04:05+05:60", "2020-01-02T03:04:05+0530",
        "2020-01-02T03:04:05Z ", "+020-01-02T03:04:05Z", "infinite-future",
        // Out of the years that Go can write again.
        "9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00"}) {
    EXPECT_FALSE(ParseTime(text).ok()) << text;
  }
}

TEST(Base64Test, GoesBothWays) {
  const Bytes bytes = {'b', 'y', 't', 'e', 's', 0, 255};
  EXPECT_EQ(EncodeBase64(bytes), "Ynl0ZXMA/w==");
  EXPECT_EQ(*DecodeBase64("Ynl0ZXMA/w=="), bytes);
  EXPECT_EQ(EncodeBase64({}), "");
  EXPECT_TRUE(DecodeBase64("")->empty());
  EXPECT_EQ(*DecodeBase64("AP\r\n8Q\n"), (Bytes{0, 255, 16}));
  EXPECT_EQ(*DecodeBase64("AA=\n="), Bytes{0});
}

TEST(Base64Test, ReadsBackEveryLength) {
  Bytes bytes;
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(*DecodeBase64(EncodeBase64(bytes)), bytes);
    bytes.push_back(static_cast<uint8_t>(i * 7));
  }
}

TEST(Base64Test, SaysWhereItIsWrong) {
  EXPECT_EQ(DecodeBase64("AA!A").status().message(),
            "illegal base64 data at input byte 2");
  for (const std::string_view text : {"A", "AA", "AAA", "AA=", "=", "A===",
                                      "AA==AA==", "AA=A", "AAAA=", "AA-_"}) {
    EXPECT_FALSE(DecodeBase64(text).ok()) << text;
  }
}

}  // namespace
}  // namespace penstock
