// The real environment: its timer runs what is due, in order, and drops the
// rest.

#include "queue/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

namespace penstock {
namespace {

TEST(EnvironmentTest, RunsWhatIsDueThoughALaterOneWasLaidFirst) {
  absl::Notification ran;
  bool later_ran = false;
  {
    const auto environment = MakeSystemEnvironment();
    environment->RunAfter(absl::Hours(1), [&] { later_ran = true; });
    environment->RunAfter(absl::Milliseconds(1), [&] { ran.Notify(); });
    ran.WaitForNotification();
  }
  EXPECT_FALSE(later_ran);
}

TEST(EnvironmentTest, EqualDelaysRunInTheOrderTheyWereLaid) {
  constexpr int kCount = 200;
  std::vector<int> order;
  absl::Notification done;
  const auto environment = MakeSystemEnvironment();
  for (int i = 0; i < kCount; ++i) {
    environment->RunAfter(absl::ZeroDuration(), [&, i] {
      order.push_back(i);
      if (i == kCount - 1) done.Notify();
    });
  }
  done.WaitForNotification();
  ASSERT_EQ(order.size(), static_cast<size_t>(kCount));
  for (int i = 0; i < kCount; ++i) EXPECT_EQ(order[i], i);
}

TEST(EnvironmentTest, ATaskMayLayTheNext) {
  absl::Notification done;
  const auto environment = MakeSystemEnvironment();
  environment->RunAfter(-absl::Seconds(1), [&] {
    environment->RunAfter(absl::Milliseconds(1), [&] { done.Notify(); });
  });
  done.WaitForNotification();
}

TEST(EnvironmentTest, WhatHasNotRunIsDroppedAtTheEnd) {
  const auto token = std::make_shared<int>(0);
  {
    const auto environment = MakeSystemEnvironment();
    environment->RunAfter(absl::InfiniteDuration(), [token] { ++*token; });
    environment->RunAfter(absl::Hours(1), [token] { ++*token; });
    EXPECT_EQ(token.use_count(), 3);
  }
  EXPECT_EQ(token.use_count(), 1);
  EXPECT_EQ(*token, 0);
}

TEST(EnvironmentTest, TimeAndRandomness) {
  const auto environment = MakeSystemEnvironment();
  const absl::Time before = absl::Now();
  const absl::Time now = environment->Now();
  EXPECT_LE(before, now);
  EXPECT_EQ(environment->NewUuid().size(), 36u);
  EXPECT_NE(environment->NewUuid(), environment->NewUuid());
  const double first = environment->Random();
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const double random = environment->Random();
    EXPECT_GE(random, 0.0);
    EXPECT_LT(random, 1.0);
    differs = differs || random != first;
  }
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace penstock
