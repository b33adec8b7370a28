#include "queue/outbox.h"

#include <errno.h>
#include <sys/socket.h>

namespace penstock {

void Outbox::Add(std::string_view bytes) {
  absl::MutexLock lock(&mu_);
  if (fd_ >= 0) bytes_.append(bytes);
}

void Outbox::Push() {
  {
    absl::MutexLock lock(&mu_);
    if (awake_ || writing_ || full_ || bytes_.empty()) return;
  }
  WakeLater::WakeSoon(shared_from_this());
}

void Outbox::Wake() {
  {
    absl::MutexLock lock(&mu_);
    if (awake_) return;
  }
  Write();
}

void Outbox::Open(int fd) {
  absl::MutexLock lock(&mu_);
  fd_ = fd;
  awake_ = true;
  full_ = false;
  bytes_.clear();
  chunk_.clear();
  written_ = 0;
}

void Outbox::Close() {
  absl::MutexLock lock(&mu_);
  fd_ = -1;
  awake_ = true;
  mu_.Await(absl::Condition(
      +[](bool* writing) { return !*writing; }, &writing_));
}

bool Outbox::WriteAndSleep() {
  while (true) {
    Write();
    absl::MutexLock lock(&mu_);
    if (full_) {
      awake_ = false;
      return false;
    }
    // What another one is writing it also ends.
    if (bytes_.empty() || writing_) {
      awake_ = false;
      return true;
    }
  }
}

void Outbox::Awake() {
  absl::MutexLock lock(&mu_);
  awake_ = true;
  full_ = false;  // it may have room; the next write tells
}

bool Outbox::TakeChunk() {
  if (fd_ < 0 || writing_ || full_) return false;
  if (written_ == chunk_.size()) {
    if (bytes_.empty()) return false;
    chunk_.clear();
    written_ = 0;
    chunk_.swap(bytes_);
  }
  writing_ = true;
  return true;
}

// One thread at a time, which goes on until nothing is left.
void Outbox::Write() {
  while (true) {
    int fd;
    {
      absl::MutexLock lock(&mu_);
      if (!TakeChunk()) return;
      fd = fd_;
    }
    int error = 0;
    while (written_ < chunk_.size() && error == 0) {
      const ssize_t n = send(fd, chunk_.data() + written_,
                             chunk_.size() - written_, MSG_NOSIGNAL);
      if (n >= 0) {
        written_ += static_cast<size_t>(n);
      } else if (errno != EINTR) {
        error = errno;
      }
    }
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (error == 0) continue;
    full_ = true;
    // It waits for room, or finds by reading that the connection is over.
    if (fd_ >= 0 && error != EAGAIN && error != EWOULDBLOCK) {
      shutdown(fd_, SHUT_RDWR);
    }
    if (fd_ >= 0 && !awake_) owner_->Signal();
    return;
  }
}

}  // namespace penstock
