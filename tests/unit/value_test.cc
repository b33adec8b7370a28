// The 29 types: what each takes, to the ends of its range.

#include "queue/value.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace penstock {
namespace {

using ::testing::HasSubstr;

using Bools = std::vector<bool>;
using Ints = std::vector<int64_t>;
using Uints = std::vector<uint64_t>;
using Floats = std::vector<double>;
using Strings = std::vector<std::string>;

struct Sample {
  std::string type;
  std::string json;
  TypedValue typed;
};

const std::vector<Sample>& Samples() {
  static const auto* const samples = new std::vector<Sample>{
      {"bool", "true", true},
      {"int", "-9223372036854775808", INT64_MIN},
      {"int8", "-128", int64_t{-128}},
      {"int16", "32767", int64_t{32767}},
      {"int32", "-2147483648", int64_t{INT32_MIN}},
      {"int64", "9007199254740993", int64_t{9007199254740993}},  // 2^53 + 1
      {"uint", "18446744073709551615", UINT64_MAX},
      {"uint8", "255", uint64_t{255}},
      {"uint16", "65535", uint64_t{65535}},
      {"uint32", "4294967295", uint64_t{UINT32_MAX}},
      {"uint64", "18446744073709551615", UINT64_MAX},
      {"float32", "0.5", 0.5},
      {"float64", "1e+21", 1e21},
      {"string", R"("h\u003c\"\n")", std::string("h<\"\n")},
      {"[]bool", "[true,false]", Bools{true, false}},
      {"[]int", "[1,-1]", Ints{1, -1}},
      {"[]int8", "[127,-128]", Ints{127, -128}},
      {"[]int16", "[1]", Ints{1}},
      {"[]int32", "[1]", Ints{1}},
      {"[]int64", "[9223372036854775807]", Ints{INT64_MAX}},
      {"[]uint", "[1,2]", Uints{1, 2}},
      {"[]uint8", R"("AP8Q")", Bytes{0, 255, 16}},
      {"[]uint16", "[65535]", Uints{65535}},
      {"[]uint32", "[1]", Uints{1}},
      {"[]uint64", "[18446744073709551615]", Uints{UINT64_MAX}},
      {"[]float32", "[0.5,16777216]", Floats{0.5, 16777216}},
      {"[]float64", "[0.1,1e-7,0,100]", Floats{0.1, 1e-7, 0, 100}},
      {"[]string", R"(["a",""])", Strings{"a", ""}},
      {"[]byte", R"("Ynl0ZXMA/w==")", Bytes{'b', 'y', 't', 'e', 's', 0, 255}},
  };
  return *samples;
}

std::string MakeError(TypedValue value, std::string_view type) {
  return std::string(MakeValue(std::move(value), type).status().message());
}

std::string ReadError(std::string type, std::string json) {
  const auto value = ReadValue({"", std::move(type), std::move(json)});
  EXPECT_TRUE(absl::IsInvalidArgument(value.status()));
  return std::string(value.status().message());
}

TypedValue Read(std::string type, std::string json) {
  const auto value = ReadValue({"", type, json});
  EXPECT_TRUE(value.ok()) << type << " " << json << " " << value.status();
  return value.value_or(TypedValue());
}

TEST(ValueTest, AllTwentyNineTypesGoBothWays) {
  EXPECT_EQ(Samples().size(), 29u);
  for (const Sample& sample : Samples()) {
    EXPECT_TRUE(IsKnownType(sample.type)) << sample.type;
    const auto made = MakeValue(sample.typed, sample.type, "n");
    ASSERT_TRUE(made.ok()) << sample.type << " " << made.status();
    EXPECT_EQ(*made, (Value{"n", sample.type, sample.json}));
    EXPECT_EQ(Read(sample.type, sample.json), sample.typed) << sample.type;
  }
}

TEST(ValueTest, OtherTypesAreNotKnown) {
  for (const char* type : {"", "byte", "rune", "[]rune", "interface {}",
                           "map[string]int", "INT64", "[][]int", "[]"}) {
    EXPECT_FALSE(IsKnownType(type)) << type;
    EXPECT_THAT(ReadError(type, "1"), HasSubstr("is not a type"));
  }
  EXPECT_THAT(MakeError(int64_t{1}, "rune"),
              HasSubstr("\"rune\" is not a type"));
}

TEST(ValueTest, EachKindHasItsDefaultType) {
  const std::vector<std::pair<TypedValue, std::string>> kinds = {
      {true, "bool"},          {int64_t{1}, "int64"},   {uint64_t{1}, "uint64"},
      {1.0, "float64"},        {"", "string"},          {Bytes{}, "[]byte"},
      {Bools{}, "[]bool"},     {Ints{}, "[]int64"},     {Uints{}, "[]uint64"},
      {Floats{}, "[]float64"}, {Strings{}, "[]string"},
  };
  for (const auto& [value, type] : kinds) {
    EXPECT_EQ(DefaultType(value), type);
    EXPECT_EQ(MakeValue(value)->type, type);
  }
}

TEST(ValueTest, EmptyListsAreListsAndNotNull) {
  EXPECT_EQ(MakeValue(Ints{})->json, "[]");
  EXPECT_EQ(MakeValue(Strings{})->json, "[]");
  EXPECT_EQ(MakeValue(Bytes{})->json, "\"\"");
  EXPECT_EQ(MakeValue(Uints{}, "[]uint8")->json, "\"\"");
}

TEST(ValueTest, NarrowTypesAreChecked) {
  EXPECT_EQ(MakeError(int64_t{300}, "int8"),
            "300 does not fit in int8 (-128 to 127)");
  EXPECT_EQ(MakeError(int64_t{-32769}, "int16"),
            "-32769 does not fit in int16 (-32768 to 32767)");
  EXPECT_EQ(MakeError(uint64_t{65536}, "uint16"),
            "65536 does not fit in uint16 (0 to 65535)");
  EXPECT_EQ(MakeError(Ints{1, 2, 128}, "[]int8"),
            "element 2: 128 does not fit in int8 (-128 to 127)");
  EXPECT_EQ(MakeError(Uints{256}, "[]uint8"),
            "element 0: 256 does not fit in uint8 (0 to 255)");
  EXPECT_EQ(ReadError("int8", "300"), "300 does not fit in int8 (-128 to 127)");
  EXPECT_EQ(ReadError("uint32", "4294967296"),
            "4294967296 does not fit in uint32 (0 to 4294967295)");
  EXPECT_EQ(ReadError("[]uint8", "[1,256]"),
            "element 1: 256 does not fit in uint8 (0 to 255)");
}

TEST(ValueTest, TheTypeMustGoWithTheKind) {
  EXPECT_EQ(MakeError(std::string("1"), "int64"),
            "type int64 takes a signed integer, not a string");
  EXPECT_EQ(
      MakeError(int64_t{1}, "[]int64"),
      "type []int64 takes a list of signed integers, not a signed integer");
  EXPECT_EQ(MakeError(Ints{1}, "[]byte"),
            "type []byte takes bytes, not a list of signed integers");
  EXPECT_EQ(MakeValue(Uints{0, 255}, "[]uint8")->json, "\"AP8=\"");
}

TEST(ValueTest, JsonHasNeitherNanNorInfinity) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THAT(MakeError(nan, ""), HasSubstr("not a finite number"));
  EXPECT_THAT(MakeError(-infinity, ""), HasSubstr("not a finite number"));
  EXPECT_THAT(MakeError(Floats{1, nan}, ""),
              HasSubstr("element 1: is not a finite number"));
  EXPECT_THAT(MakeError(1e39, "float32"), HasSubstr("does not fit in float32"));
}

TEST(ValueTest, Float32HasItsOwnShortestDigits) {
  EXPECT_EQ(MakeValue(double{0.1f}, "float32")->json, "0.1");
  EXPECT_EQ(MakeValue(0.1, "float32")->json, "0.1");
  EXPECT_EQ(MakeValue(double{0.1f})->json, "0.10000000149011612");
}

TEST(ValueTest, IntegersTakeIntegerTextOnly) {
  for (const char* json : {"1.0", "1e3", "9223372036854775808"}) {
    EXPECT_THAT(ReadError("int64", json), HasSubstr("expected an integer"))
        << json;
  }
  EXPECT_EQ(ReadError("int64", "\"1\""),
            "found a string, expected an integer from -9223372036854775808 to "
            "9223372036854775807");
  EXPECT_THAT(ReadError("int64", "null"), HasSubstr("found null"));
  EXPECT_THAT(ReadError("uint64", "-1"), HasSubstr("found -1"));
  EXPECT_THAT(ReadError("uint64", "18446744073709551616"),
              HasSubstr("expected an integer"));
  EXPECT_EQ(Read("int64", "-0"), TypedValue(int64_t{0}));
}

TEST(ValueTest, FloatsTakeAnyNumberThatFits) {
  EXPECT_EQ(Read("float64", "3"), TypedValue(3.0));
  EXPECT_EQ(Read("float64", "1e3"), TypedValue(1000.0));
  EXPECT_EQ(Read("float64", "1e-400"), TypedValue(0.0));
  EXPECT_EQ(ReadError("float64", "1e400"), "1e400 does not fit in float64");
  EXPECT_EQ(ReadError("float32", "1e39"), "1e39 does not fit in float32");
  EXPECT_EQ(ReadError("[]float32", "[0,-1e39]"),
            "element 1: -1e39 does not fit in float32");
  EXPECT_EQ(ReadError("float64", "\"1\""), "found a string, expected a number");
}

TEST(ValueTest, BooleansAndStringsTakeNothingElse) {
  EXPECT_EQ(ReadError("bool", "1"), "found a number, expected true or false");
  EXPECT_EQ(ReadError("bool", "null"), "found null, expected true or false");
  EXPECT_EQ(ReadError("string", "1"), "found a number, expected a string");
  EXPECT_EQ(ReadError("string", "null"), "found null, expected a string");
}

TEST(ValueTest, ListsTakeArraysAndNull) {
  EXPECT_EQ(Read("[]int64", "null"), TypedValue(Ints{}));
  EXPECT_EQ(Read("[]byte", "null"), TypedValue(Bytes{}));
  EXPECT_EQ(Read("[]string", "[]"), TypedValue(Strings{}));
  // What crashes a Go worker must not come through.
  EXPECT_EQ(ReadError("[]int64", "true"), "found a boolean, expected a list");
  EXPECT_EQ(ReadError("[]int64", R"({"a":1})"),
            "found an object, expected a list");
  EXPECT_EQ(ReadError("[]int64", "\"a\""), "found a string, expected a list");
  EXPECT_EQ(ReadError("[]string", R"(["a",null])"),
            "element 1: found null, expected a string");
}

TEST(ValueTest, BytesTakeBase64OrNumbers) {
  EXPECT_EQ(Read("[]byte", "\"AP8Q\""), TypedValue(Bytes{0, 255, 16}));
  EXPECT_EQ(Read("[]uint8", "[0,255,16]"), TypedValue(Bytes{0, 255, 16}));
  EXPECT_EQ(Read("[]byte", "\"AP\\n8Q\""), TypedValue(Bytes{0, 255, 16}));
  EXPECT_EQ(ReadError("[]byte", "\"AP8\""),
            "illegal base64 data at input byte 3");
  EXPECT_EQ(ReadError("[]byte", "true"),
            "found a boolean, expected base64 or a list of numbers");
}

TEST(ValueTest, TextThatIsNotOneJsonValueIsRefused) {
  for (const char* json : {"", "1 2", "[1", "[1,]", "01", "tru", "\"", "-"}) {
    EXPECT_FALSE(ReadValue({"", "int64", json}).ok()) << json;
    EXPECT_FALSE(ReadValue({"", "[]int64", json}).ok()) << json;
    EXPECT_FALSE(ReadValue({"", "string", json}).ok()) << json;
    EXPECT_FALSE(ReadValue({"", "bool", json}).ok()) << json;
  }
}

}  // namespace
}  // namespace penstock
