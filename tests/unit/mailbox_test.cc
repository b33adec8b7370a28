// The hand-off between threads: nothing lost, nothing twice, woken once a
// batch.

#include "queue/mailbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(MailboxTest, TakesEverythingInOrder) {
  Mailbox<int> mailbox;
  EXPECT_THAT(mailbox.Take(), IsEmpty());
  EXPECT_TRUE(mailbox.Put(1));
  EXPECT_TRUE(mailbox.Put(2));
  EXPECT_THAT(mailbox.Take(), ElementsAre(1, 2));
  EXPECT_THAT(mailbox.Take(), IsEmpty());
}

TEST(MailboxTest, WakesOnlyWhenItWasEmpty) {
  int wakes = 0;
  Mailbox<int> mailbox([&wakes] { ++wakes; });
  EXPECT_TRUE(mailbox.Put(1));
  EXPECT_TRUE(mailbox.Put(2));
  EXPECT_EQ(wakes, 1);
  mailbox.Take();
  EXPECT_TRUE(mailbox.Put(3));
  EXPECT_EQ(wakes, 2);
  mailbox.Close();
  EXPECT_EQ(wakes, 3);
}

TEST(MailboxTest, ClosedMailboxGivesOutWhatIsInsideAndTakesNoMore) {
  Mailbox<std::unique_ptr<int>> mailbox;
  EXPECT_TRUE(mailbox.Put(std::make_unique<int>(1)));
  EXPECT_FALSE(mailbox.closed());
  mailbox.Close();
  EXPECT_TRUE(mailbox.closed());
  EXPECT_FALSE(mailbox.Put(std::make_unique<int>(2)));
  const auto inside = mailbox.WaitAndTake();
  ASSERT_EQ(inside.size(), 1u);
  EXPECT_EQ(*inside[0], 1);
  EXPECT_THAT(mailbox.WaitAndTake(), IsEmpty());
}

TEST(MailboxTest, WaitingEndsAtTheDeadline) {
  Mailbox<int> mailbox;
  EXPECT_THAT(mailbox.WaitAndTake(absl::InfinitePast()), IsEmpty());
}

TEST(MailboxTest, WaitingEndsWithAnItemOrTheClose) {
  Mailbox<int> mailbox;
  std::vector<int> taken;
  std::jthread owner([&] {
    for (;;) {
      const std::vector<int> batch = mailbox.WaitAndTake();
      if (batch.empty()) return;  // closed
      taken.insert(taken.end(), batch.begin(), batch.end());
    }
  });
  EXPECT_TRUE(mailbox.Put(1));
  EXPECT_TRUE(mailbox.Put(2));
  mailbox.Close();
  owner.join();
  EXPECT_THAT(taken, ElementsAre(1, 2));
}

TEST(MailboxTest, ManyPuttersLoseNothingAndKeepTheirOrder) {
  constexpr int kPutters = 8;
  constexpr int kItems = 2000;
  Mailbox<std::pair<int, int>> mailbox;
  std::vector<std::jthread> putters;
  for (int putter = 0; putter < kPutters; ++putter) {
    putters.emplace_back([&mailbox, putter] {
      for (int i = 0; i < kItems; ++i) {
        EXPECT_TRUE(mailbox.Put({putter, i}));
      }
    });
  }
  std::vector<int> next(kPutters, 0);
  int taken = 0;
  while (taken < kPutters * kItems) {
    for (const auto& [putter, i] : mailbox.WaitAndTake()) {
      EXPECT_EQ(i, next[putter]++);
      ++taken;
    }
  }
  EXPECT_THAT(mailbox.Take(), IsEmpty());
}

}  // namespace
}  // namespace penstock
