#include "queue/policy.h"

#include <gtest/gtest.h>

#include <optional>

namespace penstock {
namespace {

TEST(Policy, IsReadAsItWasWritten) {
  Task task;
  EXPECT_EQ(TimeoutOf(task), std::nullopt);
  EXPECT_EQ(ExpiryOf(task), std::nullopt);
  EXPECT_EQ(BackoffOf(task), std::nullopt);
  EXPECT_EQ(ResultTtlOf(task), std::nullopt);

  SetTimeout(task, absl::Microseconds(1500'001));
  SetResultTtl(task, absl::Hours(24 * 365));
  SetExpiry(task, absl::FromUnixMillis(1'700'000'000'123));
  const ExponentialBackoff backoff{.first = absl::Milliseconds(250),
                                   .factor = 1.75,
                                   .max = absl::Hours(1),
                                   .jitter = 0.1};
  SetBackoff(task, backoff);
  EXPECT_EQ(TimeoutOf(task), absl::Milliseconds(1501));
  EXPECT_EQ(ExpiryOf(task), absl::FromUnixMillis(1'700'000'000'123));
  EXPECT_EQ(BackoffOf(task), backoff);
  EXPECT_EQ(ResultTtlOf(task), absl::Hours(24 * 365));
  DropExpiry(task);
  EXPECT_EQ(ExpiryOf(task), std::nullopt);
  for (const auto& [key, json] : task.headers) {
    EXPECT_EQ(json.front(), '"') << key << ": a Go worker's retry on RabbitMQ "
                                          "fails with anything but text";
  }
}

TEST(Policy, WhatSomeoneGarbledCountsAsNotGiven) {
  for (const char* text : {"", "x", "-5", "1 2 3", "1 0.5 3 0", "9 2 3 0",
                           "1 2 3 2", "1 nan 3 0", "1 2 3 nan"}) {
    Task task;
    for (const char* key :
         {"penstock-timeout", "penstock-backoff", "penstock-result-ttl"}) {
      SetStringHeader(task, key, text);
    }
    EXPECT_EQ(TimeoutOf(task), std::nullopt) << text;
    EXPECT_EQ(ResultTtlOf(task), std::nullopt) << text;
    EXPECT_EQ(BackoffOf(task), std::nullopt) << text;
  }
}

TEST(Policy, JitterSpreadsAPauseBothWays) {
  const ExponentialBackoff backoff{
      .first = absl::Seconds(10), .max = absl::Hours(1), .jitter = 0.5};
  EXPECT_EQ(PauseAfter(backoff, 1, 0), absl::Seconds(5));
  EXPECT_EQ(PauseAfter(backoff, 1, 0.5), absl::Seconds(10));
  EXPECT_EQ(PauseAfter(backoff, 2, 0.5), absl::Seconds(20));
  EXPECT_EQ(PauseAfter(backoff, 100'000, 0.5), absl::Hours(1));
}

}  // namespace
}  // namespace penstock
