#include "sdk/cpp/health_endpoint.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <list>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace penstock {
namespace {

constexpr size_t kMostConnections = 16;
constexpr size_t kMostRequestBytes = 4096;
// Of one connection before the others have their turn.
constexpr int kMostReads = 16;
// After an accept that failed for want of something: file descriptors, memory.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);

// A file descriptor that closes itself.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

struct Addresses {
  ~Addresses() {
    if (list != nullptr) freeaddrinfo(list);
  }
  struct addrinfo* list = nullptr;
};

// HOST:PORT, "[::1]:9090" too. The text of the error, or empty.
std::string Resolve(const std::string& address, bool passive,
                    Addresses& addresses) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return "expected HOST:PORT";
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  struct addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  const int error =
      getaddrinfo(std::string(host).c_str(), address.c_str() + colon + 1,
                  &hints, &addresses.list);
  return error == 0 ? "" : gai_strerror(error);
}

int PortOf(int socket) {
  struct sockaddr_storage storage = {};
  socklen_t size = sizeof(storage);
  if (getsockname(socket, reinterpret_cast<struct sockaddr*>(&storage),
                  &size) != 0) {
    return 0;
  }
  return ntohs(storage.ss_family == AF_INET6
                   ? reinterpret_cast<struct sockaddr_in6*>(&storage)->sin6_port
                   : reinterpret_cast<struct sockaddr_in*>(&storage)->sin_port);
}

absl::StatusOr<Fd> Listen(const std::string& address) {
  Addresses addresses;
  std::string why = Resolve(address, /*passive=*/true, addresses);
  for (struct addrinfo* each = addresses.list; each != nullptr;
       each = each->ai_next) {
    Fd fd(socket(each->ai_family,
                 each->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int on = 1;
    if (fd.get() >= 0 &&
        setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
        bind(fd.get(), each->ai_addr, each->ai_addrlen) == 0 &&
        listen(fd.get(), SOMAXCONN) == 0) {
      return fd;
    }
    why = std::strerror(errno);
  }
  return absl::UnavailableError(
      absl::StrCat("health_listen: cannot listen on ", address, ": ", why));
}

// What stands before the empty line that ends the headers, if that has come.
bool HasHeaders(absl::string_view request) {
  return absl::StrContains(request, "\r\n\r\n") ||
         absl::StrContains(request, "\n\n");
}

std::string Response(absl::string_view status, absl::string_view text,
                     bool with_body, absl::string_view more = "") {
  // One line, whatever is in a server's error.
  const std::string body =
      absl::StrCat(absl::StrReplaceAll(text, {{"\r", " "}, {"\n", " "}}), "\n");
  return absl::StrCat("HTTP/1.1 ", status,
                      "\r\nContent-Type: text/plain; charset=utf-8"
                      "\r\nContent-Length: ",
                      body.size(), "\r\nCache-Control: no-store", more,
                      "\r\nConnection: close\r\n\r\n", with_body ? body : "");
}

std::string Answer(absl::string_view request,
                   const std::function<absl::Status()>& ready) {
  absl::string_view line = request.substr(0, request.find('\n'));
  absl::ConsumeSuffix(&line, "\r");
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  if (words.size() != 3 || words[0].empty() ||
      !absl::StartsWith(words[1], "/") ||
      !absl::StartsWith(words[2], "HTTP/1.")) {
    return Response("400 Bad Request", "this is no HTTP/1.1 request", true);
  }
  const bool head = words[0] == "HEAD";
  if (!head && words[0] != "GET") {
    return Response("405 Method Not Allowed", "GET or HEAD", true,
                    "\r\nAllow: GET, HEAD");
  }
  const absl::string_view path = words[1].substr(0, words[1].find('?'));
  if (path == "/livez") return Response("200 OK", "alive", !head);
  if (path != "/readyz") {
    return Response("404 Not Found", "here are /livez and /readyz", !head);
  }
  const absl::Status status = ready();
  if (status.ok()) return Response("200 OK", "ready", !head);
  return Response("503 Service Unavailable", status.message(), !head);
}

}  // namespace

class HealthEndpoint::Loop {
 public:
  Loop(HealthEndpointOptions options, Fd listener)
      : options_(std::move(options)),
        listener_(std::move(listener)),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  void Wake() { eventfd_write(wake_.get(), 1); }

  void Run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::vector<struct pollfd> polled = Polled();
      (void)poll(polled.data(), polled.size(), TimeoutMs());
      // In the order of Polled: the connections, then the listener.
      auto each = connections_.begin();
      for (size_t i = 2; i < polled.size(); ++i) {
        const auto connection = each++;
        if (polled[i].revents != 0 && !Serve(*connection)) {
          connections_.erase(connection);
        }
      }
      if (polled[1].revents != 0) Accept();
      const absl::Time now = absl::Now();
      std::erase_if(connections_, [now](const Connection& connection) {
        return connection.deadline <= now;
      });
    }
  }

 private:
  struct Connection {
    Fd fd;
    absl::Time deadline;
    std::string request = {};
    std::string response = {};  // what of it is not sent
    enum { kReading, kWriting, kEnding } state = kReading;
  };

  std::vector<struct pollfd> Polled() const {
    std::vector<struct pollfd> polled = {
        {.fd = wake_.get(), .events = POLLIN, .revents = 0},
        // A negative one is not looked at.
        {.fd = absl::Now() < accept_after_ ? -1 : listener_.get(),
         .events = POLLIN,
         .revents = 0}};
    for (const Connection& connection : connections_) {
      const bool writes = connection.state == Connection::kWriting;
      polled.push_back({.fd = connection.fd.get(),
                        .events = static_cast<short>(writes ? POLLOUT : POLLIN),
                        .revents = 0});
    }
    return polled;
  }

  int TimeoutMs() const {
    absl::Time next = absl::InfiniteFuture();
    const absl::Time now = absl::Now();
    if (now < accept_after_) next = accept_after_;
    for (const Connection& connection : connections_) {
      next = std::min(next, connection.deadline);
    }
    if (next == absl::InfiniteFuture()) return -1;
    // Rounded up, so that it has passed when poll returns.
    return static_cast<int>(
        absl::ToInt64Milliseconds(std::max(next - now, absl::ZeroDuration())) +
        1);
  }

  void Accept() {
    for (size_t i = 0; i < kMostConnections; ++i) {
      Fd fd(accept4(listener_.get(), nullptr, nullptr,
                    SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd.get() < 0) {
        const int error = errno;
        if (error == EINTR || error == ECONNABORTED) continue;
        if (error != EAGAIN && error != EWOULDBLOCK) {
          accept_after_ = absl::Now() + kAcceptPause;
        }
        return;
      }
      // The oldest has had its chance: a probe sends its request at once.
      if (connections_.size() == kMostConnections) connections_.pop_front();
      connections_.push_back(
          {.fd = std::move(fd),
           .deadline = absl::Now() + options_.connection_limit});
      // Most have sent their request with the handshake.
      if (!Serve(connections_.back())) connections_.pop_back();
    }
  }

  // Goes on as far as it can without waiting; false when it is over.
  bool Serve(Connection& connection) {
    std::array<char, 1024> buffer;
    for (int i = 0; i < kMostReads; ++i) {
      if (connection.state == Connection::kWriting) {
        const ssize_t sent =
            send(connection.fd.get(), connection.response.data(),
                 connection.response.size(), MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN || errno == EINTR;
        connection.response.erase(0, static_cast<size_t>(sent));
        if (!connection.response.empty()) continue;
        // Closing with something unread would reset the connection, and the
        // client might lose the answer: so until it closes, or its time is
        // over.
        shutdown(connection.fd.get(), SHUT_WR);
        connection.state = Connection::kEnding;
      }
      const ssize_t got =
          recv(connection.fd.get(), buffer.data(), buffer.size(), 0);
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      if (got == 0) return false;
      if (connection.state == Connection::kEnding) continue;
      connection.request.append(buffer.data(), static_cast<size_t>(got));
      if (connection.request.size() > kMostRequestBytes) {
        connection.response = Response("431 Request Header Fields Too Large",
                                       "the request is too long", true);
      } else if (HasHeaders(connection.request)) {
        connection.response = Answer(connection.request, options_.ready);
      } else {
        continue;
      }
      connection.state = Connection::kWriting;
    }
    return true;
  }

  const HealthEndpointOptions options_;
  const Fd listener_;
  const Fd wake_;
  absl::Time accept_after_ = absl::InfinitePast();
  std::list<Connection> connections_;  // the oldest first
};

absl::StatusOr<std::unique_ptr<HealthEndpoint>> HealthEndpoint::Start(
    HealthEndpointOptions options) {
  absl::StatusOr<Fd> listener = Listen(options.listen);
  if (!listener.ok()) return listener.status();
  std::string address =
      absl::StrCat(options.listen.substr(0, options.listen.rfind(':')), ":",
                   PortOf(listener->get()));
  auto loop = std::make_unique<Loop>(std::move(options), *std::move(listener));
  return std::unique_ptr<HealthEndpoint>(
      new HealthEndpoint(std::move(loop), std::move(address)));
}

HealthEndpoint::HealthEndpoint(std::unique_ptr<Loop> loop, std::string address)
    : loop_(std::move(loop)),
      address_(std::move(address)),
      thread_([this](std::stop_token stop) {
        pthread_setname_np(pthread_self(), "health");
        loop_->Run(stop);
      }) {}

HealthEndpoint::~HealthEndpoint() {
  thread_.request_stop();
  loop_->Wake();
}

absl::StatusOr<std::string> CheckHealth(const std::string& address,
                                        absl::Duration limit) {
  const size_t slash = address.find('/');
  const std::string server = address.substr(0, slash);
  const std::string path =
      slash == std::string::npos ? "/readyz" : address.substr(slash);
  const absl::Time deadline = absl::Now() + limit;
  const auto fail = [&](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat(address, ": ", why));
  };
  Addresses addresses;
  std::string why = Resolve(server, /*passive=*/false, addresses);
  // False when the time is over.
  const auto await = [deadline](int fd, short events) {
    struct pollfd polled = {.fd = fd, .events = events, .revents = 0};
    const absl::Duration left = deadline - absl::Now();
    return left > absl::ZeroDuration() &&
           poll(&polled, 1,
                static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) == 1;
  };
  for (struct addrinfo* each = addresses.list; each != nullptr;
       each = each->ai_next) {
    const Fd fd(socket(each->ai_family,
                       each->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (connect(fd.get(), each->ai_addr, each->ai_addrlen) != 0 &&
        errno != EINPROGRESS) {
      why = std::strerror(errno);
      continue;
    }
    if (!await(fd.get(), POLLOUT)) return fail("does not answer");
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      why = std::strerror(error);
      continue;
    }
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", server,
                     "\r\nConnection: close\r\n\r\n");
    // It fits into an empty socket.
    if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size())) {
      return fail("the request could not be sent");
    }
    std::string response;
    std::array<char, 1024> buffer;
    while (response.size() < 64 * 1024) {
      if (!await(fd.get(), POLLIN)) return fail("does not answer");
      const ssize_t got = recv(fd.get(), buffer.data(), buffer.size(), 0);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (got < 0) return fail(std::strerror(errno));
      if (got == 0) break;
      response.append(buffer.data(), static_cast<size_t>(got));
    }
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(response, absl::MaxSplits("\r\n\r\n", 1));
    absl::string_view body = parts.second;
    absl::ConsumeSuffix(&body, "\n");
    if (!absl::StartsWith(response, "HTTP/1.1 200 ")) {
      return fail(body.empty() ? response.substr(0, response.find('\r'))
                               : body);
    }
    return std::string(body);
  }
  return fail(why);
}

}  // namespace penstock
