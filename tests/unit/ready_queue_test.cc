// Work for many threads: each item once, in order, and no thread sleeps while
// there is work.

#include "sdk/cpp/ready_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

namespace penstock {
namespace {

TEST(ReadyQueueTest, GivesInOrder) {
  ReadyQueue<int> queue;
  int item = 0;
  EXPECT_FALSE(queue.Take(item));
  EXPECT_TRUE(queue.Put(1));
  EXPECT_TRUE(queue.Put(2));
  EXPECT_TRUE(queue.Take(item));
  EXPECT_EQ(item, 1);
  EXPECT_TRUE(queue.WaitAndTake(item));
  EXPECT_EQ(item, 2);
}

TEST(ReadyQueueTest, AClosedOneGivesOutWhatIsInsideAndTakesNoMore) {
  ReadyQueue<std::unique_ptr<int>> queue;
  EXPECT_TRUE(queue.Put(std::make_unique<int>(1)));
  queue.Close();
  EXPECT_FALSE(queue.Put(std::make_unique<int>(2)));
  std::unique_ptr<int> item;
  EXPECT_TRUE(queue.WaitAndTake(item));
  EXPECT_EQ(*item, 1);
  EXPECT_FALSE(queue.WaitAndTake(item));
}

TEST(ReadyQueueTest, CloseWakesAllThatSleep) {
  ReadyQueue<int> queue;
  std::vector<std::jthread> takers;
  for (int i = 0; i < 4; ++i) {
    takers.emplace_back([&queue] {
      int item = 0;
      EXPECT_FALSE(queue.WaitAndTake(item));
    });
  }
  queue.Close();
}

TEST(ReadyQueueTest, ManyTakersGetEachItemOnce) {
  constexpr int kItems = 2000;
  ReadyQueue<int> queue;
  std::vector<std::atomic<int>> seen(kItems);
  {
    std::vector<std::jthread> takers;
    for (int taker = 0; taker < 4; ++taker) {
      takers.emplace_back([&] {
        int item = 0;
        while (queue.WaitAndTake(item)) ++seen[item];
      });
    }
    for (int i = 0; i < kItems; ++i) EXPECT_TRUE(queue.Put(i));
    queue.Close();
  }
  for (int i = 0; i < kItems; ++i) EXPECT_EQ(seen[i], 1) << i;
}

// Four items that each wait for the other three: it ends only when all four takers
// are awake at once.
TEST(ReadyQueueTest, OneThatWorksHoldsUpNoOther) {
  constexpr int kTakers = 4;
  ReadyQueue<int> queue;
  std::barrier all_at_work(kTakers);
  std::vector<std::jthread> takers;
  for (int taker = 0; taker < kTakers; ++taker) {
    takers.emplace_back([&] {
      int item = 0;
      while (queue.WaitAndTake(item)) all_at_work.arrive_and_wait();
    });
  }
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < kTakers; ++i) EXPECT_TRUE(queue.Put(i));
  }
  queue.Close();
}

}  // namespace
}  // namespace penstock
