// machinery's lock of periodic tasks at a real Redis: the bytes that Go
// processes see (docs/wire-format.md section 6), and what they leave behind.

#include "queue/redis/periodic_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "queue/ids.h"
#include "tests/conformance/await.h"
#include "tests/support/redis_probe.h"

namespace penstock {
namespace {

using ::penstock::testing::Await;
using ::penstock::testing::RedisProbe;
using ::penstock::testing::TestRedisUrl;

class PeriodicLockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    lock_ = Open();
    other_ = Open();
  }
  void TearDown() override { probe_.Call({"DEL", key_}); }

  std::unique_ptr<PeriodicLock> Open() {
    Options options;
    options.lock = TestRedisUrl();
    auto opened = OpenRedisLock(options, environment_.get());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : nullptr;
  }

  bool Try(PeriodicLock& lock, absl::Time until) {
    auto won = Await<bool>(
        [&](auto done) { lock.TryLock(key_, until, std::move(done)); });
    EXPECT_TRUE(won.ok()) << won.status();
    return won.value_or(false);
  }

  static std::string ValueUntil(absl::Time until) {
    return absl::StrCat(absl::ToUnixNanos(until) - 1);
  }

  std::unique_ptr<Environment> environment_ = MakeSystemEnvironment();
  RedisProbe probe_{TestRedisUrl(), environment_.get()};
  // As machinery spells it: spaces and all.
  const std::string key_ =
      absl::StrCat("machinery_lock_program", RandomUuid(), "0 3 * * *");
  std::unique_ptr<PeriodicLock> lock_;
  std::unique_ptr<PeriodicLock> other_;
};

TEST_F(PeriodicLockTest, OneOfTwoHasItUntilTheNextTick) {
  const absl::Time until = absl::Now() + absl::Hours(1);
  EXPECT_TRUE(Try(*lock_, until));
  EXPECT_FALSE(Try(*other_, until));
  EXPECT_FALSE(Try(*lock_, until)) << "it is of a tick, not of a process";
  EXPECT_EQ(probe_.Call({"GET", key_}).text, ValueUntil(until));
  const int64_t left = probe_.Call({"PTTL", key_}).integer;
  EXPECT_GT(left, 3'000'000);
  EXPECT_LE(left, 3'600'000);
}

TEST_F(PeriodicLockTest, OneWhoseTimeIsOverIsTakenOver) {
  // A Go process that died before it gave its key a time to live.
  probe_.Call({"SET", key_, ValueUntil(absl::Now() - absl::Seconds(1))});
  const absl::Time until = absl::Now() + absl::Hours(1);
  EXPECT_TRUE(Try(*lock_, until));
  EXPECT_EQ(probe_.Call({"GET", key_}).text, ValueUntil(until));
  EXPECT_GT(probe_.Call({"PTTL", key_}).integer, 3'000'000);
  EXPECT_FALSE(Try(*other_, until));
}

TEST_F(PeriodicLockTest, WhatIsNoTimeIsNotTakenOver) {
  for (const char* value : {"0", "x", ""}) {
    probe_.Call({"SET", key_, value});
    EXPECT_FALSE(Try(*lock_, absl::Now() + absl::Hours(1))) << value;
    EXPECT_EQ(probe_.Call({"GET", key_}).text, value);
  }
}

TEST_F(PeriodicLockTest, AServerThatIsAwayIsNoLock) {
  Options options;
  options.lock = "redis://127.0.0.1:1";
  auto away = OpenRedisLock(options, environment_.get());
  ASSERT_TRUE(away.ok()) << away.status();
  auto won = Await<bool>([&](auto done) {
    (*away)->TryLock(key_, absl::Now() + absl::Hours(1), std::move(done));
  });
  EXPECT_EQ(won.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(PeriodicLockTest, AUrlThatCanNeverWorkIsRefusedByItsKey) {
  Options options;
  options.lock = "redis://:secret@h:99999";
  const absl::Status status = OpenRedisLock(options, nullptr).status();
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("lock"));
  EXPECT_THAT(std::string(status.message()),
              ::testing::Not(::testing::HasSubstr("secret")));
}

}  // namespace
}  // namespace penstock
