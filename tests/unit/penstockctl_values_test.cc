// What a word on the command line means as an argument of a task.

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/penstockctl/values.h"

namespace penstock::ctl {
namespace {

using ::testing::HasSubstr;

TypedArg Parse(const std::string& word) {
  absl::StatusOr<TypedArg> arg = ParseArg(word);
  EXPECT_TRUE(arg.ok()) << arg.status();
  return arg.value_or(TypedArg{"unparsed", std::string("unparsed")});
}

std::string ErrorOf(const std::string& word) {
  absl::StatusOr<TypedArg> arg = ParseArg(word);
  EXPECT_FALSE(arg.ok()) << word;
  return std::string(arg.status().message());
}

TypedArg Text(const std::string& text) { return {"", text}; }

TEST(PenstockctlValuesTest, AWordSaysItsTypeByItsLook) {
  EXPECT_EQ(Parse("1"), (TypedArg{"", int64_t{1}}));
  EXPECT_EQ(Parse("-1"), (TypedArg{"", int64_t{-1}}));
  EXPECT_EQ(Parse("0"), (TypedArg{"", int64_t{0}}));
  EXPECT_EQ(Parse("-9223372036854775808"),
            (TypedArg{"", std::numeric_limits<int64_t>::min()}));
  EXPECT_EQ(Parse("9007199254740993"), (TypedArg{"", 9007199254740993}));
  EXPECT_EQ(Parse("1.5"), (TypedArg{"", 1.5}));
  EXPECT_EQ(Parse("-.5"), (TypedArg{"", -0.5}));
  EXPECT_EQ(Parse("1e3"), (TypedArg{"", 1000.0}));
  EXPECT_EQ(Parse("1.0"), (TypedArg{"", 1.0}));
  EXPECT_EQ(Parse("true"), (TypedArg{"", true}));
  EXPECT_EQ(Parse("false"), (TypedArg{"", false}));
}

TEST(PenstockctlValuesTest, AllElseIsText) {
  for (const char* word :
       {"",          "text",    "True", "007",  "+41791234567",
        "1.",        ".",       "-",    "1e",   "1.5.2",
        "0x10",      "NaN",     "inf",  "1 2",  "http://x",
        "note:this", "INT64:1", ":",    "[]:1", "10:30"}) {
    EXPECT_EQ(Parse(word), Text(word)) << word;
  }
}

TEST(PenstockctlValuesTest, ATypeBeforeAColonDecides) {
  EXPECT_EQ(Parse("string:1"), (TypedArg{"string", std::string("1")}));
  EXPECT_EQ(Parse("string:"), (TypedArg{"string", std::string()}));
  EXPECT_EQ(Parse("string::"), (TypedArg{"string", std::string(":")}));
  EXPECT_EQ(Parse("string:string:1"),
            (TypedArg{"string", std::string("string:1")}));
  EXPECT_EQ(Parse("bool:true"), (TypedArg{"bool", true}));
  EXPECT_EQ(Parse("float32:1"), (TypedArg{"float32", 1.0}));
  EXPECT_EQ(Parse("uint64:18446744073709551615"),
            (TypedArg{"uint64", std::numeric_limits<uint64_t>::max()}));
}

TEST(PenstockctlValuesTest, EveryScalarTypeOfMachineryAndItsList) {
  for (const char* type : {"int", "int8", "int16", "int32", "int64"}) {
    EXPECT_EQ(Parse(std::string(type) + ":-7"), (TypedArg{type, int64_t{-7}}));
    std::string list = std::string("[]") + type;
    EXPECT_EQ(Parse(list + ":1,-2"),
              (TypedArg{list, std::vector<int64_t>{1, -2}}));
    EXPECT_EQ(Parse(list + ":"), (TypedArg{list, std::vector<int64_t>{}}));
  }
  for (const char* type : {"uint", "uint8", "uint16", "uint32", "uint64"}) {
    EXPECT_EQ(Parse(std::string(type) + ":7"), (TypedArg{type, uint64_t{7}}));
    std::string list = std::string("[]") + type;
    if (list == "[]uint8") continue;  // bytes, see below
    EXPECT_EQ(Parse(list + ":1,2"),
              (TypedArg{list, std::vector<uint64_t>{1, 2}}));
  }
  for (const char* type : {"float32", "float64"}) {
    EXPECT_EQ(Parse(std::string(type) + ":1.5"), (TypedArg{type, 1.5}));
    std::string list = std::string("[]") + type;
    EXPECT_EQ(Parse(list + ":1,2.5"),
              (TypedArg{list, std::vector<double>{1, 2.5}}));
  }
  EXPECT_EQ(Parse("[]bool:true,false"),
            (TypedArg{"[]bool", std::vector<bool>{true, false}}));
  EXPECT_EQ(Parse("[]string:a,,b:c"),
            (TypedArg{"[]string", std::vector<std::string>{"a", "", "b:c"}}));
  EXPECT_EQ(Parse("[]byte:aGk="), (TypedArg{"[]byte", Bytes{'h', 'i'}}));
  EXPECT_EQ(Parse("[]uint8:aGk="), (TypedArg{"[]uint8", Bytes{'h', 'i'}}));
}

TEST(PenstockctlValuesTest, WhatDoesNotFitNamesTheWord) {
  EXPECT_THAT(ErrorOf("int64:x"),
              HasSubstr("\"int64:x\": expected a whole number"));
  EXPECT_THAT(ErrorOf("int8:300"), HasSubstr("\"int8:300\": "));
  EXPECT_THAT(ErrorOf("uint8:-1"), HasSubstr("\"uint8:-1\": "));
  EXPECT_THAT(ErrorOf("bool:yes"), HasSubstr("expected true or false"));
  EXPECT_THAT(ErrorOf("float64:NaN"), HasSubstr("\"float64:NaN\": "));
  EXPECT_THAT(ErrorOf("[]byte:%%"), HasSubstr("expected base64"));
  EXPECT_THAT(ErrorOf("[]int64:1,x"),
              HasSubstr("element 1: expected a whole number"));
  EXPECT_THAT(ErrorOf("9223372036854775808"),
              HasSubstr("does not fit in int64"));
  EXPECT_THAT(ErrorOf("1e999"), HasSubstr("does not fit in float64"));
}

}  // namespace
}  // namespace penstock::ctl
