// Typed handlers: what is read from arguments, what is written as results, and
// what a mismatch says.

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "penstock/context.h"
#include "penstock/errors.h"
#include "penstock/handler.h"
#include "queue/lifecycle.h"
#include "queue/task.h"
#include "queue/value.h"
#include "sdk/cpp/outcome.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Value Arg(std::string type, std::string json, std::string name = "") {
  return {.name = std::move(name),
          .type = std::move(type),
          .json = std::move(json)};
}

template <typename F>
absl::StatusOr<Results> Call(F function, std::vector<Value> args = {}) {
  Context context{.task_id = "task_1", .name = "it", .attempt = 3};
  return MakeHandler(std::move(function))(context, args);
}

template <typename F>
std::string ErrorOf(F function, std::vector<Value> args = {}) {
  absl::StatusOr<Results> results = Call(std::move(function), std::move(args));
  if (results.ok()) return "it worked";
  return std::string(results.status().message());
}

// One result of `type`, whose JSON is `json`.
MATCHER_P2(IsResult, type, json, "") {
  return arg.name.empty() && arg.type == type && arg.json == json;
}

// ---- every type, there and back

template <typename T>
absl::StatusOr<Results> Echo(const std::string& type, const std::string& json) {
  return Call([](T value) { return value; }, {Arg(type, json)});
}

template <typename T>
void ExpectEchoes(const std::string& type, const std::string& json) {
  SCOPED_TRACE(type);
  absl::StatusOr<Results> scalar = Echo<T>(type, json);
  ASSERT_TRUE(scalar.ok()) << scalar.status();
  EXPECT_THAT(*scalar, ElementsAre(IsResult(type, json)));
  if (type == "uint8") return;  // a list of them is bytes: see below

  const std::string list = "[" + json + "," + json + "]";
  absl::StatusOr<Results> many = Echo<std::vector<T>>("[]" + type, list);
  ASSERT_TRUE(many.ok()) << many.status();
  EXPECT_THAT(*many, ElementsAre(IsResult("[]" + type, list)));

  absl::StatusOr<Results> none = Echo<std::vector<T>>("[]" + type, "null");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_THAT(*none, ElementsAre(IsResult("[]" + type, "[]")));
}

TEST(HandlerTypes, EachIsReadAndWrittenAtItsLimits) {
  ExpectEchoes<bool>("bool", "true");
  ExpectEchoes<int8_t>("int8", "-128");
  ExpectEchoes<int16_t>("int16", "-32768");
  ExpectEchoes<int32_t>("int32", "-2147483648");
  ExpectEchoes<int64_t>("int64", "-9223372036854775808");
  ExpectEchoes<uint8_t>("uint8", "255");
  ExpectEchoes<uint16_t>("uint16", "65535");
  ExpectEchoes<uint32_t>("uint32", "4294967295");
  ExpectEchoes<uint64_t>("uint64", "18446744073709551615");
  ExpectEchoes<float>("float32", "0.1");
  ExpectEchoes<float>("float32", "3.4028235e+38");  // the largest
  ExpectEchoes<double>("float64", "1.7976931348623157e+308");
  ExpectEchoes<std::string>("string", "\"h\u00e9\"");
}

TEST(HandlerTypes, BytesAreBase64AndLabelledAsGoLabelsThem) {
  for (const char* type : {"[]byte", "[]uint8"}) {
    absl::StatusOr<Results> results =
        Echo<std::vector<uint8_t>>(type, "\"AAH/\"");
    ASSERT_TRUE(results.ok()) << results.status();
    EXPECT_THAT(*results, ElementsAre(IsResult("[]uint8", "\"AAH/\"")));
  }
}

TEST(HandlerTypes, IntIsAnIntegerOfItsWidth) {
  EXPECT_THAT(*Call([](int n) { return n; }, {Arg("int64", "7")}),
              ElementsAre(IsResult("int32", "7")));
}

TEST(HandlerTypes, AnyIntegerTypeIsTakenWhereItFits) {
  EXPECT_THAT(*Echo<int64_t>("int", "5"), ElementsAre(IsResult("int64", "5")));
  EXPECT_THAT(*Echo<int64_t>("uint8", "5"),
              ElementsAre(IsResult("int64", "5")));
  EXPECT_THAT(*Echo<uint8_t>("int64", "255"),
              ElementsAre(IsResult("uint8", "255")));
  EXPECT_THAT(*Echo<std::vector<int8_t>>("[]uint64", "[1,127]"),
              ElementsAre(IsResult("[]int8", "[1,127]")));
  EXPECT_THAT(*Echo<std::vector<int64_t>>("[]byte", "\"AAH/\""),
              ElementsAre(IsResult("[]int64", "[0,1,255]")));
}

TEST(HandlerTypes, AnyNumberIsTakenWhereAFloatIsAskedFor) {
  EXPECT_THAT(*Echo<double>("int64", "3"),
              ElementsAre(IsResult("float64", "3")));
  EXPECT_THAT(*Echo<float>("float64", "0.1"),
              ElementsAre(IsResult("float32", "0.1")));
  EXPECT_THAT(*Echo<std::vector<double>>("[]uint64", "[1,2]"),
              ElementsAre(IsResult("[]float64", "[1,2]")));
}

// ---- mismatches

TEST(HandlerErrors, WrongKindNamesTheArgumentAndItsPosition) {
  auto handler = [](std::string, int64_t) {};
  EXPECT_EQ(ErrorOf(handler,
                    {Arg("string", "\"a\""), Arg("string", "\"x\"", "count")}),
            "argument 2 (\"count\"): expected int64, found string \"x\"");
  EXPECT_EQ(ErrorOf(handler, {Arg("int64", "1"), Arg("int64", "1")}),
            "argument 1: expected string, found int64 1");
  EXPECT_EQ(ErrorOf(handler, {Arg("string", "\"a\""), Arg("float64", "1.5")}),
            "argument 2: expected int64, found float64 1.5");
  EXPECT_EQ(ErrorOf(handler, {Arg("string", "\"a\""), Arg("bool", "true")}),
            "argument 2: expected int64, found bool true");
  EXPECT_EQ(ErrorOf([](std::vector<std::string>) {}, {Arg("[]int64", "[1]")}),
            "argument 1: expected []string, found []int64 [1]");
  EXPECT_EQ(ErrorOf([](bool) {}, {Arg("int64", "1")}),
            "argument 1: expected bool, found int64 1");
}

TEST(HandlerErrors, ANumberThatDoesNotFitSaysTheRange) {
  EXPECT_EQ(ErrorOf([](int8_t) {}, {Arg("int64", "300")}),
            "argument 1: expected int8 (-128 to 127), found int64 300");
  EXPECT_EQ(ErrorOf([](uint8_t) {}, {Arg("int64", "-1")}),
            "argument 1: expected uint8 (0 to 255), found int64 -1");
  EXPECT_EQ(ErrorOf([](int64_t) {}, {Arg("uint64", "9223372036854775808")}),
            "argument 1: expected int64 (-9223372036854775808 to "
            "9223372036854775807), found uint64 9223372036854775808");
  EXPECT_EQ(ErrorOf([](std::vector<int8_t>) {}, {Arg("[]int64", "[1,300]")}),
            "argument 1: expected []int8 (-128 to 127), found []int64 [1,300]");
  EXPECT_EQ(ErrorOf([](float) {}, {Arg("float64", "1e300")}),
            "argument 1: expected float32, found float64 1e300");
}

TEST(HandlerErrors, ALongArgumentIsCutBetweenCharacters) {
  std::string text = "\"";
  for (int i = 0; i < 100; ++i) text += "\u00e9";
  text += "\"";
  const std::string error = ErrorOf([](bool) {}, {Arg("string", text)});
  EXPECT_THAT(error, HasSubstr("\u00e9..."));
  EXPECT_LT(error.size(), 160u);
}

TEST(HandlerErrors, AnUnknownTypeIsAnArgumentError) {
  EXPECT_THAT(ErrorOf([](int64_t) {}, {Arg("complex128", "1", "z")}),
              HasSubstr("argument 1 (\"z\"): "));
}

TEST(HandlerErrors, TheCountOfArgumentsIsChecked) {
  auto two = [](int64_t, int64_t) {};
  const Value one = Arg("int64", "1");
  EXPECT_EQ(ErrorOf(two, {one}),
            "argument 2 is missing: the handler takes 2 arguments, found 1");
  EXPECT_EQ(
      ErrorOf(two, {one, one, Arg("int64", "1", "extra")}),
      "argument 3 (\"extra\") is too many: the handler takes 2 arguments, "
      "found 3");
  EXPECT_EQ(ErrorOf([](int64_t, Rest<int64_t>) {}),
            "argument 1 is missing: the handler takes at least 1 argument, "
            "found 0");
  EXPECT_EQ(ErrorOf([] {}, {one}),
            "argument 1 is too many: the handler takes 0 arguments, found 1");
}

TEST(HandlerErrors, TheHandlerIsNotCalledAndTheTaskNotRetried) {
  bool called = false;
  absl::StatusOr<Results> results =
      Call([&called](int64_t) { called = true; }, {Arg("string", "\"\"")});
  EXPECT_FALSE(called);
  const Outcome outcome = ToOutcome(std::move(results));
  EXPECT_EQ(outcome.kind, Outcome::kFailure);
  EXPECT_EQ(outcome.error_type, kErrorArguments);
  EXPECT_TRUE(outcome.permanent);
}

// ---- shapes of handlers

int64_t Twice(int64_t n) { return 2 * n; }

struct Adder {
  int64_t base;
  int64_t operator()(int64_t n) const { return base + n; }
};

TEST(HandlerShapes, FunctionsFunctorsAndMoveOnlyLambdas) {
  const std::vector<Value> four = {Arg("int64", "4")};
  EXPECT_THAT(*Call(Twice, four), ElementsAre(IsResult("int64", "8")));
  EXPECT_THAT(*Call(&Twice, four), ElementsAre(IsResult("int64", "8")));
  EXPECT_THAT(*Call(Adder{10}, four), ElementsAre(IsResult("int64", "14")));
  auto owned = std::make_unique<int64_t>(5);
  EXPECT_THAT(*Call([owned = std::move(owned)](
                        const int64_t& n) noexcept { return *owned * n; },
                    four),
              ElementsAre(IsResult("int64", "20")));
}

TEST(HandlerShapes, RestTakesNoneToManyArguments) {
  auto sum = [](Rest<int64_t> numbers) {
    int64_t total = 0;
    for (int64_t number : numbers) total += number;
    return total;
  };
  EXPECT_THAT(*Call(sum), ElementsAre(IsResult("int64", "0")));
  EXPECT_THAT(
      *Call(sum, {Arg("int64", "1"), Arg("int8", "2"), Arg("uint64", "3")}),
      ElementsAre(IsResult("int64", "6")));
  EXPECT_EQ(ErrorOf(sum, {Arg("int64", "1"), Arg("string", "\"x\"", "b")}),
            "argument 2 (\"b\"): expected int64, found string \"x\"");
  auto count = [](std::string, const Rest<std::string>& texts) {
    return static_cast<uint64_t>(texts.size());
  };
  EXPECT_THAT(*Call(count, {Arg("string", "\"a\""), Arg("string", "\"b\"")}),
              ElementsAre(IsResult("uint64", "1")));
}

TEST(HandlerShapes, ContextComesFirstAndTakesNoArgument) {
  auto who = [](Context& context, int64_t n) {
    return std::tuple(context.task_id, context.attempt, n);
  };
  EXPECT_THAT(*Call(who, {Arg("int64", "9")}),
              ElementsAre(IsResult("string", "\"task_1\""),
                          IsResult("int32", "3"), IsResult("int64", "9")));
  EXPECT_THAT(*Call([](const Context& context) { return context.name; }),
              ElementsAre(IsResult("string", "\"it\"")));
  EXPECT_THAT(*Call(
                  [](Context&, Rest<int64_t> rest) {
                    return static_cast<int64_t>(rest.size());
                  },
                  {Arg("int64", "9")}),
              ElementsAre(IsResult("int64", "1")));
}

TEST(HandlerShapes, ResultsOfNoneToMany) {
  EXPECT_THAT(*Call([] {}), IsEmpty());
  EXPECT_THAT(*Call([] { return absl::OkStatus(); }), IsEmpty());
  EXPECT_THAT(
      *Call([] { return std::pair(true, std::string("b")); }),
      ElementsAre(IsResult("bool", "true"), IsResult("string", "\"b\"")));
  EXPECT_THAT(*Call([] { return std::tuple<>(); }), IsEmpty());
  EXPECT_THAT(*Call([]() -> absl::StatusOr<int64_t> { return 1; }),
              ElementsAre(IsResult("int64", "1")));
  EXPECT_THAT(*Call([]() -> absl::StatusOr<std::tuple<int64_t, float>> {
    return std::tuple(int64_t{1}, 0.5f);
  }),
              ElementsAre(IsResult("int64", "1"), IsResult("float32", "0.5")));
}

TEST(HandlerShapes, AResultThatJsonCannotHoldIsAnError) {
  EXPECT_THAT(ErrorOf([] { return std::nan(""); }), HasSubstr("result 1: "));
  EXPECT_THAT(ErrorOf([] {
                return std::pair(int64_t{1},
                                 std::numeric_limits<float>::infinity());
              }),
              HasSubstr("result 2: "));
  EXPECT_THAT(ErrorOf([] {
                return std::vector<double>{1, std::nan("")};
              }),
              HasSubstr("result 1: "));
}

// ---- what a handler's error means

TEST(HandlerOutcome, AStatusFailsTheTaskWithItsTextAndCode) {
  const Outcome outcome = ToOutcome(Call([]() -> absl::StatusOr<int64_t> {
    return absl::NotFoundError("no such file");
  }));
  EXPECT_EQ(outcome.kind, Outcome::kFailure);
  EXPECT_EQ(outcome.error, "no such file");
  EXPECT_EQ(outcome.error_type, "NOT_FOUND");
  EXPECT_FALSE(outcome.permanent);
  EXPECT_EQ(outcome.retry_after, std::nullopt);
}

TEST(HandlerOutcome, RetryAfterAsksForTheDelay) {
  const Outcome outcome = ToOutcome(
      Call([] { return RetryAfter(absl::Milliseconds(1500), "busy"); }));
  EXPECT_EQ(outcome.kind, Outcome::kFailure);
  EXPECT_EQ(outcome.error, "busy");
  EXPECT_EQ(outcome.retry_after, absl::Milliseconds(1500));
  EXPECT_EQ(ToOutcome(RetryAfter(-absl::Seconds(1), "")).retry_after,
            absl::ZeroDuration());
}

TEST(HandlerOutcome, PermanentIsNotTriedAgain) {
  const Outcome outcome =
      ToOutcome(Call([] { return Permanent(absl::DataLossError("torn")); }));
  EXPECT_TRUE(outcome.permanent);
  EXPECT_EQ(outcome.error, "torn");
  EXPECT_EQ(outcome.error_type, "DATA_LOSS");
}

TEST(HandlerOutcome, ResultsAreSuccess) {
  const Outcome outcome = ToOutcome(Call([] { return true; }));
  EXPECT_EQ(outcome.kind, Outcome::kSuccess);
  EXPECT_THAT(outcome.results, ElementsAre(IsResult("bool", "true")));
}

TEST(HandlerOutcome, AnExceptionIsOfItsOwnType) {
  const Outcome outcome = ToOutcome(ExceptionError("oops"));
  EXPECT_EQ(outcome.kind, Outcome::kFailure);
  EXPECT_EQ(outcome.error, "oops");
  EXPECT_EQ(outcome.error_type, "exception");
}

}  // namespace
}  // namespace penstock
