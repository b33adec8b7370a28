#include "queue/outbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "queue/waker.h"

namespace penstock {
namespace {

class OutboxTest : public ::testing::Test {
 protected:
  OutboxTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    near_ = ends[0];
    far_ = ends[1];
    EXPECT_EQ(fcntl(near_, F_SETFL, O_NONBLOCK), 0);
    outbox_->Open(near_);
  }
  ~OutboxTest() override {
    outbox_->Close();
    close(near_);
    close(far_);
  }

  void Send(std::string_view bytes) {
    outbox_->Add(bytes);
    outbox_->Push();
  }

  // What has arrived by now.
  std::string Arrived() {
    std::string all;
    char chunk[4096];
    ssize_t n;
    while ((n = recv(far_, chunk, sizeof chunk, MSG_DONTWAIT)) > 0) {
      all.append(chunk, static_cast<size_t>(n));
    }
    return all;
  }

  // Waits for so many bytes.
  std::string Await(size_t size) {
    std::string all;
    std::string chunk(1 << 16, '\0');
    while (all.size() < size) {
      const ssize_t n = recv(far_, chunk.data(), chunk.size(), 0);
      if (n <= 0) break;
      all.append(chunk, 0, static_cast<size_t>(n));
    }
    return all;
  }

  bool OwnerIsSignalled() {
    pollfd waiting{.fd = waker_.fd(), .events = POLLIN, .revents = 0};
    return poll(&waiting, 1, 0) == 1;
  }

  Waker waker_;
  const std::shared_ptr<Outbox> outbox_ = std::make_shared<Outbox>(&waker_);
  int near_ = -1;
  int far_ = -1;
};

TEST_F(OutboxTest, WhoAddsWritesWhileTheOwnerSleeps) {
  EXPECT_TRUE(outbox_->WriteAndSleep());
  Send("ab");
  Send("c");
  EXPECT_EQ(Arrived(), "abc");
  EXPECT_FALSE(OwnerIsSignalled());
}

TEST_F(OutboxTest, TheOwnerWritesWhatCameWhileItWasAwake) {
  EXPECT_TRUE(outbox_->WriteAndSleep());
  outbox_->Awake();
  Send("a");
  Send("b");
  EXPECT_EQ(Arrived(), "");
  EXPECT_TRUE(outbox_->WriteAndSleep());
  EXPECT_EQ(Arrived(), "ab");
}

TEST_F(OutboxTest, ABurstIsWrittenAtItsEnd) {
  EXPECT_TRUE(outbox_->WriteAndSleep());
  {
    WakeLater later;
    Send("a");
    Send("b");
    EXPECT_EQ(Arrived(), "");
  }
  EXPECT_EQ(Arrived(), "ab");
}

TEST_F(OutboxTest, AFullSocketIsTheOwnersToWaitFor) {
  EXPECT_TRUE(outbox_->WriteAndSleep());
  const std::string large(4 << 20, 'x');
  Send(large);
  EXPECT_TRUE(OwnerIsSignalled());
  Send("end");  // behind it
  std::string arrived;
  std::jthread reader([&] { arrived = Await(large.size() + 3); });
  waker_.Drain();
  outbox_->Awake();
  while (!outbox_->WriteAndSleep()) {
    pollfd waiting{.fd = near_, .events = POLLOUT, .revents = 0};
    poll(&waiting, 1, -1);
    outbox_->Awake();
  }
  reader.join();
  EXPECT_EQ(arrived, large + "end");
}

TEST_F(OutboxTest, TheBytesOfEachThreadArriveInTheirOrder) {
  constexpr int kThreads = 4;
  constexpr int kLines = 2000;
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([this, thread] {
      for (int i = 0; i < kLines; ++i) Send(absl::StrCat(thread, " ", i, "\n"));
    });
  }
  std::string all;
  std::atomic<bool> over = false;
  std::jthread reader([&] {
    size_t lines = 0;
    while (lines < kThreads * kLines) {
      const std::string more = Await(1);
      lines += static_cast<size_t>(std::count(more.begin(), more.end(), '\n'));
      all += more;
    }
    over = true;
    waker_.Signal();
  });
  // The owner: awake and asleep in turns.
  while (!over) {
    const bool written = outbox_->WriteAndSleep();
    pollfd waiting[] = {
        {near_, static_cast<short>(written ? POLLIN : POLLIN | POLLOUT), 0},
        {waker_.fd(), POLLIN, 0}};
    poll(waiting, 2, 1);
    outbox_->Awake();
    if (waiting[1].revents != 0) waker_.Drain();
  }
  reader.join();
  std::map<std::string, int> next;
  for (absl::string_view line : absl::StrSplit(all, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    EXPECT_EQ(words.at(1), absl::StrCat(next[words[0]]++));
  }
}

TEST_F(OutboxTest, NothingIsWrittenAfterItIsClosed) {
  EXPECT_TRUE(outbox_->WriteAndSleep());
  {
    WakeLater later;
    Send("a");
    outbox_->Close();
    Send("b");
  }
  EXPECT_EQ(Arrived(), "");
  EXPECT_FALSE(OwnerIsSignalled());
}

TEST_F(OutboxTest, AConnectionThatIsOverIsTheOwnersToFind) {
  EXPECT_TRUE(outbox_->WriteAndSleep());
  shutdown(far_, SHUT_RDWR);
  Send("a");
  EXPECT_TRUE(OwnerIsSignalled());
}

}  // namespace
}  // namespace penstock
