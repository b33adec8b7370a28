#include "queue/waker.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace penstock {

class EventFd {
 public:
  EventFd() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    // Without a descriptor at the very start nothing here can work.
    if (fd_ < 0) abort();
  }
  ~EventFd() { close(fd_); }
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  int number() const { return fd_; }

  void Signal() const {
    const uint64_t one = 1;
    // A full counter is a signal too.
    (void)!write(fd_, &one, sizeof one);
  }

 private:
  const int fd_;
};

namespace {

thread_local WakeLater* outermost = nullptr;

}  // namespace

Waker::Waker() : fd_(std::make_shared<const EventFd>()) {}

void Waker::Signal() {
  if (outermost == nullptr) {
    fd_->Signal();
    return;
  }
  auto& due = outermost->due_;  // of a few owners
  if (std::find(due.begin(), due.end(), fd_) == due.end()) due.push_back(fd_);
}

int Waker::fd() const { return fd_->number(); }

void Waker::Drain() {
  uint64_t count;
  (void)!read(fd(), &count, sizeof count);
}

void Waker::Sleep(absl::Duration duration) {
  pollfd waiting{.fd = fd(), .events = POLLIN, .revents = 0};
  // Rounded up: the time is over when it returns. Owners look again anyway.
  const int64_t ms =
      absl::ToInt64Milliseconds(std::min(duration, absl::Minutes(1))) + 1;
  poll(&waiting, 1, static_cast<int>(std::max<int64_t>(ms, 0)));
  Drain();
}

WakeLater::WakeLater() {
  if (outermost == nullptr) outermost = this;
}

WakeLater::~WakeLater() {
  if (outermost != this) return;
  outermost = nullptr;
  for (const auto& fd : due_) fd->Signal();
}

}  // namespace penstock
