// See tcp_cutter.h. Sockets are only touched under mu_, and the thread sleeps
// without it, so that a method's effect is there when it returns.

#include "tests/support/tcp_cutter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

namespace penstock::testing {
namespace {

constexpr size_t kBufferLimit = 64 << 10;

sockaddr_in Local(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

void Reset(int fd) {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  close(fd);
}

}  // namespace

TcpCutter::TcpCutter(int target_port) : target_port_(target_port) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  sockaddr_in address = Local(0);
  socklen_t size = sizeof(address);
  auto* plain = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener_, plain, size) != 0 || listen(listener_, 64) != 0 ||
      getsockname(listener_, plain, &size) != 0) {
    abort();
  }
  port_ = ntohs(address.sin_port);
  thread_ = std::jthread([this](std::stop_token stop) { Run(stop); });
}

TcpCutter::~TcpCutter() {
  thread_.request_stop();
  Wake();
  thread_.join();
  Cut();
  close(listener_);
  close(wake_);
}

void TcpCutter::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_, &one, sizeof(one));
}

void TcpCutter::Cut() {
  absl::MutexLock lock(&mu_);
  for (Link& link : links_) Close(link);
  links_.clear();
  Wake();  // a socket that is polled outlives its close()
}

void TcpCutter::Refuse(bool on) {
  absl::MutexLock lock(&mu_);
  refuse_ = on;
}

void TcpCutter::Stall(bool on) {
  absl::MutexLock lock(&mu_);
  stall_ = on;
  Wake();
}

int TcpCutter::accepted() const {
  absl::MutexLock lock(&mu_);
  return accepted_;
}

void TcpCutter::Close(Link& link) {
  Reset(link.up.from);
  Reset(link.up.to);
}

void TcpCutter::Accept() {
  const int client =
      accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (client < 0) return;
  if (refuse_) return Reset(client);
  const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Local(target_port_);
  if (connect(server, reinterpret_cast<const sockaddr*>(&address),
              sizeof(address)) != 0) {
    close(server);
    return Reset(client);
  }
  links_.push_back({.up = {.from = client, .to = server},
                    .down = {.from = server, .to = client}});
  ++accepted_;
}

void TcpCutter::Read(Pipe& pipe, Link& link) {
  if (pipe.ended || pipe.buffer.size() >= kBufferLimit) return;
  char bytes[16384];
  const ssize_t n = recv(pipe.from, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n > 0) {
    pipe.buffer.append(bytes, n);
  } else if (n == 0) {
    pipe.ended = true;
    if (pipe.buffer.empty()) shutdown(pipe.to, SHUT_WR);
  } else if (errno != EAGAIN) {
    link.broken = true;
  }
}

void TcpCutter::Write(Pipe& pipe, Link& link) {
  if (pipe.buffer.empty()) return;
  const ssize_t n = send(pipe.to, pipe.buffer.data(), pipe.buffer.size(),
                         MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n > 0) {
    pipe.buffer.erase(0, n);
    if (pipe.ended && pipe.buffer.empty()) shutdown(pipe.to, SHUT_WR);
  } else if (n < 0 && errno != EAGAIN) {
    link.broken = true;
  }
}

void TcpCutter::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    std::vector<pollfd> fds;
    {
      absl::MutexLock lock(&mu_);
      fds.push_back({.fd = listener_, .events = POLLIN, .revents = 0});
      fds.push_back({.fd = wake_, .events = POLLIN, .revents = 0});
      for (const Link& link : links_) {
        if (stall_) break;
        for (const Pipe* pipe : {&link.up, &link.down}) {
          if (!pipe->ended && pipe->buffer.size() < kBufferLimit) {
            fds.push_back({.fd = pipe->from, .events = POLLIN, .revents = 0});
          }
          if (!pipe->buffer.empty()) {
            fds.push_back({.fd = pipe->to, .events = POLLOUT, .revents = 0});
          }
        }
      }
    }
    poll(fds.data(), fds.size(), 1'000);
    uint64_t count;
    (void)!read(wake_, &count, sizeof(count));

    absl::MutexLock lock(&mu_);
    Accept();
    if (stall_) continue;
    for (auto link = links_.begin(); link != links_.end();) {
      for (Pipe* pipe : {&link->up, &link->down}) {
        Read(*pipe, *link);
        Write(*pipe, *link);
      }
      if (link->broken || (link->up.ended && link->up.buffer.empty() &&
                           link->down.ended && link->down.buffer.empty())) {
        Close(*link);
        link = links_.erase(link);
      } else {
        ++link;
      }
    }
  }
}

}  // namespace penstock::testing
