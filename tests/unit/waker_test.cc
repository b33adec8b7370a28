// Signals: at once, or gathered by the end of a batch.

#include "queue/waker.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <memory>
#include <thread>

namespace penstock {
namespace {

bool IsSignalled(const Waker& waker) {
  pollfd waiting{.fd = waker.fd(), .events = POLLIN, .revents = 0};
  return poll(&waiting, 1, 0) == 1;
}

TEST(WakerTest, SignalStaysUntilItIsTaken) {
  Waker waker;
  EXPECT_FALSE(IsSignalled(waker));
  waker.Signal();
  waker.Signal();
  EXPECT_TRUE(IsSignalled(waker));
  waker.Drain();
  EXPECT_FALSE(IsSignalled(waker));
}

TEST(WakerTest, SleepEndsWithTheSignal) {
  Waker waker;
  std::jthread other([&waker] { waker.Signal(); });
  waker.Sleep(absl::InfiniteDuration());
  EXPECT_FALSE(IsSignalled(waker));
}

TEST(WakeLaterTest, SignalsComeAtTheEndOfTheOutermost) {
  Waker first;
  Waker second;
  {
    WakeLater outer;
    {
      WakeLater inner;
      first.Signal();
    }
    second.Signal();
    EXPECT_FALSE(IsSignalled(first));
    EXPECT_FALSE(IsSignalled(second));
  }
  EXPECT_TRUE(IsSignalled(first));
  EXPECT_TRUE(IsSignalled(second));
  first.Drain();
  first.Signal();
  EXPECT_TRUE(IsSignalled(first));
}

TEST(WakeLaterTest, IsOfItsThreadAlone) {
  Waker waker;
  WakeLater later;
  std::jthread([&waker] { waker.Signal(); }).join();
  EXPECT_TRUE(IsSignalled(waker));
}

TEST(WakeLaterTest, OutlivesTheWaker) {
  WakeLater later;
  auto waker = std::make_unique<Waker>();
  waker->Signal();
  waker.reset();
}

}  // namespace
}  // namespace penstock
