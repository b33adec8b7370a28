// Native values in and out of the C++ client, and which errors it tries again.

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "penstock/client.h"
#include "sdk/cpp/client/messages.h"
#include "sdk/cpp/client/retry.h"

namespace penstock::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Kind>
bool Holds(const Value& value, const Kind& kind) {
  return value.kind() == Value::Kind(kind) && value.type().empty();
}

TEST(ClientValueTest, NativeValuesHaveTheTypesThatHoldThem) {
  EXPECT_TRUE(Holds(true, true));
  EXPECT_TRUE(Holds(7, int64_t{7}));
  EXPECT_TRUE(Holds(int8_t{-7}, int64_t{-7}));
  EXPECT_TRUE(Holds(uint32_t{7}, int64_t{7}));
  EXPECT_TRUE(Holds(uint64_t{7}, uint64_t{7}));
  EXPECT_TRUE(Holds(0.5f, 0.5));
  EXPECT_TRUE(Holds("text", std::string("text")));
  EXPECT_TRUE(Holds(std::string_view("text"), std::string("text")));
  EXPECT_TRUE(Holds(Bytes{0, 255}, Bytes{0, 255}));
  EXPECT_TRUE(Holds(std::vector<bool>{true}, std::vector<bool>{true}));
  EXPECT_TRUE(Holds(std::vector<int>{-1}, std::vector<int64_t>{-1}));
  EXPECT_TRUE(Holds(std::vector<uint64_t>{1}, std::vector<uint64_t>{1}));
  EXPECT_TRUE(Holds(std::vector<float>{0.5}, std::vector<double>{0.5}));
  EXPECT_TRUE(
      Holds(std::vector<const char*>{"a"}, std::vector<std::string>{"a"}));
}

TEST(ClientValueTest, TypedNumbersTakeTheKindOfTheirType) {
  EXPECT_EQ(Value::Typed("uint8", 5).kind(), Value::Kind(uint64_t{5}));
  EXPECT_EQ(Value::Typed("int8", uint64_t{5}).kind(), Value::Kind(int64_t{5}));
  EXPECT_EQ(Value::Typed("float32", 5).kind(), Value::Kind(5.0));
  EXPECT_EQ(Value::Typed("[]uint16", std::vector<int>{1, 2}).kind(),
            Value::Kind(std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(Value::Typed("[]uint8", std::vector<int>{1, 255}).kind(),
            Value::Kind(Bytes{1, 255}));
  EXPECT_EQ(Value::Typed("[]int8", Bytes{1, 2}).kind(),
            Value::Kind(std::vector<int64_t>{1, 2}));
  EXPECT_EQ(Value::Typed("uint8", 5).type(), "uint8");
}

TEST(ClientValueTest, WhatDoesNotFitItsTypeIsLeftToTheGateway) {
  EXPECT_EQ(Value::Typed("uint8", -1).kind(), Value::Kind(int64_t{-1}));
  EXPECT_EQ(Value::Typed("[]byte", std::vector<int>{256}).kind(),
            Value::Kind(std::vector<int64_t>{256}));
  EXPECT_EQ(Value::Typed("int8", 300).kind(), Value::Kind(int64_t{300}));
  constexpr int64_t kNoDouble = 9007199254740993;
  EXPECT_EQ(Value::Typed("float64", kNoDouble).kind(), Value::Kind(kNoDouble));
}

TEST(ClientValueTest, IsReadAsWhatItFits) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(*Value(kMax).As<int64_t>(), kMax);
  EXPECT_EQ(*Value(kMax).As<uint64_t>(), uint64_t{kMax});
  EXPECT_EQ(*Value(uint64_t{255}).As<uint8_t>(), 255);
  EXPECT_EQ(*Value(3).As<double>(), 3.0);
  EXPECT_EQ(*Value("x").As<std::string>(), "x");
  EXPECT_EQ(*Value(Bytes{1}).As<Bytes>(), Bytes{1});
  EXPECT_THAT(*Value(Bytes{1, 2}).As<std::vector<int>>(), ElementsAre(1, 2));
  EXPECT_THAT(*Value(std::vector<int64_t>{1}).As<std::vector<double>>(),
              ElementsAre(1.0));
  EXPECT_EQ(*Value(true).As<Value>(), Value(true));
}

TEST(ClientValueTest, SaysWhatItIsNot) {
  EXPECT_EQ(Value(-1).As<uint64_t>().status().message(),
            "-1 does not fit in uint64");
  EXPECT_EQ(Value(128).As<int8_t>().status().message(),
            "128 does not fit in int8");
  EXPECT_EQ(Value("1").As<int64_t>().status().message(),
            "expected int64, found string");
  EXPECT_EQ(Value::Typed("[]int16", std::vector<int>{1})
                .As<std::string>()
                .status()
                .message(),
            "expected string, found []int16");
  EXPECT_EQ(Value(1).As<bool>().status().message(),
            "expected bool, found int64");
  EXPECT_EQ(Value(1).As<std::vector<bool>>().status().message(),
            "expected []bool, found int64");
  EXPECT_EQ(Value(0.5).As<int64_t>().status().message(),
            "expected int64, found float64");
  EXPECT_FALSE(Value(int64_t{9007199254740993}).As<double>().ok());
  EXPECT_EQ(ErrorOf(Value(1).As<bool>().status()).reason, "RESULT_TYPE");
}

template <typename T>
absl::StatusOr<T> Read(std::vector<Value> results) {
  return internal::FromResults<T>::Read(std::move(results));
}

TEST(ClientValueTest, ResultsAreOneOrATuple) {
  EXPECT_EQ(*Read<int64_t>({1}), 1);
  EXPECT_EQ((*Read<std::pair<int64_t, std::string>>({1, "a"})),
            (std::pair<int64_t, std::string>(1, "a")));
  EXPECT_EQ((*Read<std::tuple<bool, double>>({true, 0.5})),
            (std::tuple(true, 0.5)));
  EXPECT_TRUE(Read<std::tuple<>>({}).ok());
  EXPECT_EQ(Read<std::vector<Value>>({1, "a"})->size(), 2);
  EXPECT_EQ(Read<int64_t>({}).status().message(),
            "expected 1 results, found 0");
  EXPECT_EQ((Read<std::tuple<bool, bool>>({true, "a"}).status().message()),
            "result 2: expected bool, found string");
}

TEST(ClientTaskTest, WhatTheContractCannotSayIsRefused) {
  v1::Task message;
  const absl::Time now = absl::Now();
  EXPECT_THAT(
      WriteTask({.name = "f", .eta = now, .delay = absl::Seconds(1)}, &message)
          .message(),
      HasSubstr("both an eta and a delay"));
  EXPECT_THAT(
      WriteTask({.name = "f", .timeout = absl::InfiniteDuration()}, &message)
          .message(),
      HasSubstr("timeout is longer"));
  EXPECT_FALSE(
      WriteTask({.name = "f", .eta = absl::InfiniteFuture()}, &message).ok());
}

TEST(ClientTaskTest, EveryFieldArrives) {
  const Task task{
      .name = "f",
      .args = {1, "a"},
      .id = "id",
      .routing_key = "key",
      .delay = absl::Milliseconds(1500),
      .retry_count = 3,
      .retry_delay = absl::Seconds(5),
      .exponential_backoff = ExponentialBackoff{.first_delay = absl::Seconds(1),
                                                .factor = 3,
                                                .max_delay = absl::Seconds(9),
                                                .jitter = 0.5},
      .priority = 9,
      .immutable = true,
      .headers = {{"k", "v"}},
      .on_success = {MakeTask("s")},
      .on_error = {MakeTask("e")},
      .ignore_when_task_not_registered = true,
      .timeout = absl::Seconds(6),
      .expire_after = absl::Seconds(7),
      .unique_key = "u",
      .result_ttl = absl::Hours(1)};
  v1::Task out;
  ASSERT_TRUE(WriteTask(task, &out).ok());
  EXPECT_EQ(out.ShortDebugString(),
            "name: \"f\" args { int_value: 1 } args { string_value: \"a\" } "
            "id: \"id\" routing_key: \"key\" "
            "delay { seconds: 1 nanos: 500000000 } retry_count: 3 "
            "retry_delay { seconds: 5 } priority: 9 immutable: true "
            "headers { key: \"k\" value: \"v\" } on_success { name: \"s\" } "
            "on_error { name: \"e\" } ignore_when_task_not_registered: true "
            "timeout { seconds: 6 } expire_after { seconds: 7 } "
            "unique_key: \"u\" result_ttl { seconds: 3600 } "
            "exponential_backoff { first_delay { seconds: 1 } factor: 3 "
            "max_delay { seconds: 9 } jitter: 0.5 }");
}

// ---- retries --------------------------------------------------------------

absl::Status AskingToWait(absl::StatusCode code, int seconds) {
  absl::Status status(code, "busy");
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(seconds);
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo",
                    absl::Cord(info.SerializeAsString()));
  return status;
}

TEST(ClientRetryTest, WhatMayPassIsTriedAgain) {
  EXPECT_TRUE(IsRetryable(absl::UnavailableError("")));
  EXPECT_TRUE(
      IsRetryable(AskingToWait(absl::StatusCode::kResourceExhausted, 1)));
  EXPECT_TRUE(IsRetryable(
      MakeError(absl::StatusCode::kDeadlineExceeded, "CONFIRM_TIMEOUT", "")));
  EXPECT_TRUE(IsRetryable(
      MakeError(absl::StatusCode::kAborted, "GROUP_PARTIALLY_SENT", "")));

  EXPECT_TRUE(IsRetryable(absl::CancelledError("RST_STREAM")));

  EXPECT_FALSE(
      IsRetryable(MakeError(absl::StatusCode::kCancelled, kTaskCancelled, "")));
  EXPECT_FALSE(IsRetryable(absl::OkStatus()));
  EXPECT_FALSE(IsRetryable(absl::DeadlineExceededError("")));
  EXPECT_FALSE(IsRetryable(absl::ResourceExhaustedError("")));
  EXPECT_FALSE(IsRetryable(absl::AbortedError("")));
  EXPECT_FALSE(IsRetryable(absl::InvalidArgumentError("")));
  EXPECT_FALSE(IsRetryable(absl::AlreadyExistsError("")));
}

TEST(ClientRetryTest, PausesGrowToTwoSecondsAndAreCutAtRandom) {
  const absl::Time now = absl::Now();
  Backoff backoff(absl::InfiniteFuture());
  absl::Duration longest = absl::Milliseconds(50);
  for (int i = 0; i < 20; ++i) {
    const absl::Duration pause = *backoff.Next(absl::UnavailableError(""), now);
    EXPECT_GE(pause, longest / 2);
    EXPECT_LE(pause, longest);
    longest = std::min(2 * longest, absl::Seconds(2));
  }
}

TEST(ClientRetryTest, WaitsAsLongAsIsAskedForButNotPastItsBudget) {
  const absl::Time now = absl::Now();
  Backoff backoff(now + absl::Seconds(10));
  EXPECT_EQ(backoff.Next(AskingToWait(absl::StatusCode::kUnavailable, 5), now),
            absl::Seconds(5));
  EXPECT_EQ(backoff.Next(AskingToWait(absl::StatusCode::kUnavailable, 5),
                         now + absl::Seconds(5)),
            std::nullopt);
  Backoff none(now);
  EXPECT_EQ(none.Next(absl::UnavailableError(""), now), std::nullopt);
}

TEST(ClientErrorTest, DetailsAreRead) {
  google::rpc::Status rich;
  google::rpc::ErrorInfo info;
  info.set_reason("INVALID_FIELD");
  (*info.mutable_metadata())["k"] = "v";
  google::rpc::BadRequest bad;
  bad.add_field_violations()->set_field("task.name");
  bad.mutable_field_violations(0)->set_description("is required");
  rich.add_details()->PackFrom(info);
  rich.add_details()->PackFrom(bad);
  const Error error = ErrorOf(StatusFrom(grpc::Status(
      grpc::StatusCode::INVALID_ARGUMENT, "text", rich.SerializeAsString())));
  EXPECT_EQ(error.code, absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(error.message, "text");
  EXPECT_EQ(error.reason, "INVALID_FIELD");
  EXPECT_EQ(error.metadata.at("k"), "v");
  EXPECT_THAT(error.violations,
              ElementsAre(FieldViolation{"task.name", "is required"}));
  EXPECT_FALSE(error.task.has_value());
  // What is no status of a gateway, as a proxy sends it.
  EXPECT_EQ(ErrorOf(StatusFrom(grpc::Status(grpc::StatusCode::UNAVAILABLE, "x",
                                            "no status")))
                .reason,
            "");
}

}  // namespace
}  // namespace penstock::client
