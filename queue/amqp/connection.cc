// See connection.h. Everything runs on the owner's thread, but for
// SocketGuard's watch (the environment's).

#include "queue/amqp/connection.h"

#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "queue/errors.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(3);
constexpr absl::Duration kHandshakeTimeout = absl::Seconds(3);
constexpr absl::Duration kRpcTimeout = absl::Seconds(3);
constexpr int kHeartbeatSeconds = 10;
// Longer than a memory alarm usually lasts: a server that only blocks
// publishers must not lose its connections.
constexpr unsigned kTcpUserTimeoutMs = 30'000;
constexpr int kFrameMax = 131'072;
constexpr int kTlsPort = 5671;
// No call of the library takes this long unless it is stuck.
constexpr absl::Duration kBusyLimit = absl::Seconds(5);
// The library sends heartbeats only when it is called.
constexpr absl::Duration kLongestSleep = absl::Seconds(2);

int64_t SteadyNanos() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string ErrnoText(int error) {
  char buffer[128];
  return strerror_r(error, buffer, sizeof(buffer));
}

// nullopt for a broken escape.
std::optional<std::string> PercentDecode(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || !absl::ascii_isxdigit(text[i + 1]) ||
        !absl::ascii_isxdigit(text[i + 2])) {
      return std::nullopt;
    }
    out += absl::HexStringToBytes(text.substr(i + 1, 2));
    i += 2;
  }
  return out;
}

amqp_table_entry_t BoolEntry(const char* key) {
  amqp_table_entry_t entry;
  entry.key = amqp_cstring_bytes(key);
  entry.value.kind = AMQP_FIELD_KIND_BOOLEAN;
  entry.value.value.boolean = 1;
  return entry;
}

void SetSocketOptions(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &kTcpUserTimeoutMs,
             sizeof(kTcpUserTimeoutMs));
}

// For the handshake that the library runs inside its own connecting.
struct TlsOpening {
  const TlsFindings* findings;
  SocketGuard* guard;
  bool begun = false;
};

int OpeningIndex() {
  static const int index =
      SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

// OpenSSL calls it when the socket is connected and nothing has been sent: the
// first moment at which the library's socket can be had, so that another thread
// can end a handshake that hangs; and the last to replace the name that the
// library sends, which is the host even when that is an address.
void OnTlsState(const SSL* ssl, int where, int) {
  auto* opening = static_cast<TlsOpening*>(
      SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), OpeningIndex()));
  if ((where & SSL_CB_HANDSHAKE_START) == 0 || opening->begun) return;
  opening->begun = true;
  SetTlsServerName(*opening->findings, const_cast<SSL*>(ssl));
  int fd = -1;
  BIO_get_fd(SSL_get_rbio(ssl), &fd);
  SetSocketOptions(fd);
  opening->guard->Adopt(fd);
}

struct AddressListDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

}  // namespace

absl::Status BrokerUnavailable(absl::string_view text) {
  return MakeError(absl::StatusCode::kUnavailable, reason::kBrokerUnavailable,
                   std::string(text));
}

std::string AmqpAddress::Name() const {
  return absl::StrCat(host, ":", port, vhost == "/" ? "" : "/",
                      vhost == "/" ? "" : vhost);
}

absl::StatusOr<AmqpAddress> ParseAmqpUrl(absl::string_view url,
                                         const TlsOptions& tls) {
  const size_t scheme_end = url.find("://");
  if (scheme_end == absl::string_view::npos) {
    return absl::InvalidArgumentError(
        "the broker's URL has no scheme; expected amqp://user:password@host");
  }
  const std::string scheme = absl::AsciiStrToLower(url.substr(0, scheme_end));
  if (scheme != "amqp" && scheme != "amqps") {
    return absl::InvalidArgumentError(
        absl::StrCat("scheme \"", scheme, "\" is neither amqp nor amqps"));
  }
  absl::string_view rest = url.substr(scheme_end + 3);
  rest = rest.substr(0, rest.find('?'));

  AmqpAddress address = scheme == "amqps"
                            ? AmqpAddress{.port = kTlsPort, .tls = tls}
                            : AmqpAddress();
  absl::string_view authority = rest.substr(0, rest.find('/'));
  const absl::string_view path = rest.substr(authority.size());
  if (path.size() > 1) {
    std::optional<std::string> vhost = PercentDecode(path.substr(1));
    if (!vhost) {
      return absl::InvalidArgumentError(
          "the virtual host of the broker's URL has a broken %-escape");
    }
    address.vhost = *std::move(vhost);
  }
  if (const size_t at = authority.rfind('@'); at != absl::string_view::npos) {
    const absl::string_view login = authority.substr(0, at);
    authority = authority.substr(at + 1);
    const size_t colon = login.find(':');
    std::optional<std::string> user = PercentDecode(login.substr(0, colon));
    std::optional<std::string> password =
        colon == absl::string_view::npos
            ? std::string()
            : PercentDecode(login.substr(colon + 1));
    if (!user || !password) {
      return absl::InvalidArgumentError(
          "user or password of the broker's URL has a broken %-escape");
    }
    address.user = *std::move(user);
    address.password = *std::move(password);
  }
  size_t port_colon = authority.rfind(':');
  if (absl::StartsWith(authority, "[")) {  // IPv6
    const size_t bracket = authority.find(']');
    if (bracket == absl::string_view::npos) {
      return absl::InvalidArgumentError("the broker's URL lacks a ]");
    }
    address.host = std::string(authority.substr(1, bracket - 1));
    port_colon =
        bracket + 1 < authority.size() ? bracket + 1 : absl::string_view::npos;
    if (port_colon != absl::string_view::npos && authority[port_colon] != ':') {
      return absl::InvalidArgumentError(
          "the broker's URL has something between ] and the port");
    }
  } else if (const auto host = authority.substr(0, port_colon); !host.empty()) {
    address.host = std::string(host);
  }
  if (port_colon != absl::string_view::npos &&
      (!absl::SimpleAtoi(authority.substr(port_colon + 1), &address.port) ||
       address.port < 1 || address.port > 65535)) {
    return absl::InvalidArgumentError(
        "the broker's URL has no port from 1 to 65535 behind the host's colon");
  }
  return address;
}

std::shared_ptr<SocketGuard> SocketGuard::Make(Environment* environment) {
  std::shared_ptr<SocketGuard> guard(new SocketGuard);
  Watch(guard, environment);
  return guard;
}

SocketGuard::~SocketGuard() { Release(); }

void SocketGuard::Adopt(int fd) {
  absl::MutexLock lock(&mu_);
  fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (ended_) shutdown(fd, SHUT_RDWR);
}

void SocketGuard::Release() {
  Leave();
  absl::MutexLock lock(&mu_);
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void SocketGuard::Enter(absl::Duration limit) {
  busy_until_ns_.store(SteadyNanos() + absl::ToInt64Nanoseconds(limit),
                       std::memory_order_relaxed);
}

void SocketGuard::End() {
  {
    absl::MutexLock lock(&mu_);
    ended_ = true;
  }
  ShutDown();
}

void SocketGuard::ShutDown() {
  absl::MutexLock lock(&mu_);
  if (fd_ >= 0) shutdown(fd_, SHUT_RDWR);
}

void SocketGuard::Watch(std::weak_ptr<SocketGuard> guard,
                        Environment* environment) {
  environment->RunAfter(absl::Seconds(1), [guard, environment] {
    const std::shared_ptr<SocketGuard> alive = guard.lock();
    if (alive == nullptr) return;
    const int64_t until = alive->busy_until_ns_.load(std::memory_order_relaxed);
    if (until != 0 && SteadyNanos() > until) alive->ShutDown();
    Watch(guard, environment);
  });
}

absl::Duration Backoff::Next(double random) {
  const absl::Duration delay = next_ * (0.5 + 0.5 * random);
  next_ = std::min(next_ * 2, kLast);
  return delay;
}

Attempts::Attempts(std::string who, std::string server,
                   Environment* environment)
    : who_(std::move(who)),
      server_(std::move(server)),
      environment_(environment) {}

void Attempts::Connected() {
  connected_ = environment_->Now();
  logged_.clear();
  Log(LogLevel::kInfo, absl::StrCat(who_, " connected to RabbitMQ"),
      {{"server", server_}});
}

void Attempts::Ended(const absl::Status& why) {
  const auto connected = std::exchange(connected_, std::nullopt);
  if (logged_.insert(std::string(why.message())).second) {
    Log(LogLevel::kWarning,
        absl::StrCat(who_, connected.has_value()
                               ? " lost RabbitMQ"
                               : " cannot connect to RabbitMQ"),
        {{"why", why.message()}});
  }
  // One that is lost at once is no reason to try harder.
  if (connected.has_value() &&
      environment_->Now() - *connected > absl::Seconds(5)) {
    backoff_.Reset();
  }
}

absl::Duration Attempts::Pause() {
  return backoff_.Next(environment_->Random());
}

AmqpConnection::AmqpConnection(const AmqpAddress& address, SocketGuard* guard,
                               Waker* waker)
    : address_name_(address.Name()),
      plain_(!address.tls.has_value()),
      guard_(guard),
      waker_(waker) {}

AmqpConnection::~AmqpConnection() {
  guard_->Release();
  if (handle_ != nullptr) amqp_destroy_connection(handle_);
}

absl::StatusOr<std::unique_ptr<AmqpConnection>> AmqpConnection::Open(
    const AmqpAddress& address, absl::string_view name, SocketGuard* guard,
    Waker* waker, const std::stop_token& stop) {
  std::unique_ptr<AmqpConnection> connection(
      new AmqpConnection(address, guard, waker));
  if (auto status = address.tls.has_value()
                        ? connection->ConnectTls(address)
                        : connection->Connect(address, stop);
      !status.ok()) {
    return status;
  }
  guard->Enter(kHandshakeTimeout + kBusyLimit);
  if (auto status = connection->Login(address, name); !status.ok()) {
    return status;
  }
  return connection;
}

absl::Status AmqpConnection::Error(absl::string_view text) const {
  return BrokerUnavailable(
      absl::StrCat("RabbitMQ at ", address_name_, ": ", text));
}

absl::Status AmqpConnection::Connect(const AmqpAddress& address,
                                     const std::stop_token& stop) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(
      address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  if (error != 0) return Error(gai_strerror(error));
  const std::unique_ptr<addrinfo, AddressListDeleter> list(found);

  absl::Status status = Error("the host has no address");
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int fd =
        socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return Error(ErrnoText(errno));
    SetSocketOptions(fd);
    status = connect(fd, at->ai_addr, at->ai_addrlen) == 0 ? absl::OkStatus()
             : errno == EINPROGRESS ? ConnectSocket(fd, stop)
                                    : Error(ErrnoText(errno));
    if (status.ok()) {
      handle_ = amqp_new_connection();
      amqp_socket_t* socket = handle_ ? amqp_tcp_socket_new(handle_) : nullptr;
      if (socket == nullptr) {
        close(fd);
        return Error("out of memory");
      }
      amqp_tcp_socket_set_sockfd(socket, fd);
      fd_ = fd;
      guard_->Adopt(fd);
      return status;
    }
    close(fd);
  }
  return status;
}

// The library connects a TLS socket itself: it cannot be given one. A wish to
// stop ends the handshake by the guard, but connecting only by its timeout.
absl::Status AmqpConnection::ConnectTls(const AmqpAddress& address) {
  handle_ = amqp_new_connection();
  amqp_socket_t* socket = handle_ ? amqp_ssl_socket_new(handle_) : nullptr;
  if (socket == nullptr) return Error("out of memory");
  // Verified by OpenSSL, inside the handshake: the library would do so after it
  // and knows no addresses.
  amqp_ssl_socket_set_verify_peer(socket, 0);
  amqp_ssl_socket_set_verify_hostname(socket, 0);
  auto* context = static_cast<SSL_CTX*>(amqp_ssl_socket_get_context(socket));
  if (auto status = SetUpTls(*address.tls, address.host, context, &findings_);
      !status.ok()) {
    return Error(status.message());
  }
  TlsOpening opening = {.findings = &findings_, .guard = guard_};
  SSL_CTX_set_ex_data(context, OpeningIndex(), &opening);
  SSL_CTX_set_info_callback(context, OnTlsState);
  const timeval timeout = absl::ToTimeval(kConnectTimeout);
  const int opened = amqp_socket_open_noblock(socket, address.host.c_str(),
                                              address.port, &timeout);
  SSL_CTX_set_info_callback(context, nullptr);
  if (opened == AMQP_STATUS_OK) {
    fd_ = amqp_socket_get_sockfd(socket);
    return absl::OkStatus();
  }
  if (opened == AMQP_STATUS_TIMEOUT) {
    return Error(opening.begun
                     ? "no answer to TLS' handshake in time; does the server "
                       "speak TLS at this port?"
                     : "connecting timed out");
  }
  if (!opening.begun && opened == AMQP_STATUS_SOCKET_ERROR) {
    return Error("it cannot be connected to");
  }
  return Error(LibraryText(opened));
}

std::string AmqpConnection::LibraryText(int status) const {
  // Other uses of OpenSSL on this thread are none of this connection's.
  const std::string tls = findings_.name.empty() ? "" : TlsErrorText(findings_);
  if (!tls.empty()) return absl::StrCat("TLS: ", tls);
  switch (status) {  // the library's words for these say less
    case AMQP_STATUS_SSL_ERROR:
      return "the connection was lost";
    case AMQP_STATUS_SSL_CONNECTION_FAILED:
      return "the connection was lost in TLS' handshake";
    default:
      return amqp_error_string2(status);
  }
}

absl::Status AmqpConnection::ConnectSocket(int fd,
                                           const std::stop_token& stop) {
  const absl::Time deadline = absl::Now() + kConnectTimeout;
  while (!stop.stop_requested()) {
    const auto left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left_ms <= 0) return Error("connecting timed out");
    pollfd fds[] = {{.fd = fd, .events = POLLOUT, .revents = 0},
                    {.fd = waker_->fd(), .events = POLLIN, .revents = 0}};
    poll(fds, 2, static_cast<int>(left_ms));
    if (fds[1].revents != 0) waker_->Drain();
    if (fds[0].revents == 0) continue;
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error == 0 ? absl::OkStatus() : Error(ErrnoText(error));
  }
  return Error("shutting down");
}

absl::Status AmqpConnection::Login(const AmqpAddress& address,
                                   absl::string_view name) {
  const timeval handshake = absl::ToTimeval(kHandshakeTimeout);
  const timeval rpc = absl::ToTimeval(kRpcTimeout);
  amqp_set_handshake_timeout(handle_, &handshake);
  amqp_set_rpc_timeout(handle_, &rpc);

  // Without them the server is silent about a deleted queue and about blocking.
  std::array<amqp_table_entry_t, 4> capabilities = {
      BoolEntry("consumer_cancel_notify"), BoolEntry("connection.blocked"),
      BoolEntry("publisher_confirms"), BoolEntry("basic.nack")};
  std::array<amqp_table_entry_t, 2> entries;
  entries[0].key = amqp_cstring_bytes("capabilities");
  entries[0].value.kind = AMQP_FIELD_KIND_TABLE;
  entries[0].value.value.table = {static_cast<int>(capabilities.size()),
                                  capabilities.data()};
  entries[1].key = amqp_cstring_bytes("connection_name");
  entries[1].value.kind = AMQP_FIELD_KIND_UTF8;
  entries[1].value.value.bytes = ToBytes(name);
  const amqp_table_t properties = {static_cast<int>(entries.size()),
                                   entries.data()};

  const amqp_rpc_reply_t reply = amqp_login_with_properties(
      handle_, address.vhost.c_str(), 0, kFrameMax, kHeartbeatSeconds,
      &properties, AMQP_SASL_METHOD_PLAIN, address.user.c_str(),
      address.password.c_str());
  if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
      reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
    broken_ = true;
    const auto* closed =
        static_cast<amqp_connection_close_t*>(reply.reply.decoded);
    return Error(absl::StrCat("login refused: ", ToView(closed->reply_text)));
  }
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) {
    broken_ = true;
    if (reply.reply_type != AMQP_RESPONSE_LIBRARY_EXCEPTION) {
      return Error("login failed: unexpected answer");
    }
    absl::string_view hint;
    if (!address.tls.has_value()) {
      hint = "; if the server speaks TLS at this port, use amqps://";
    } else if (address.tls->cert_file.empty()) {
      hint =
          "; if the server asks for a client's certificate, set tls.cert_file "
          "and tls.key_file";
    }
    return Error(
        absl::StrCat("login failed: ", LibraryText(reply.library_error), hint));
  }
  amqp_channel_open(handle_, kChannel);
  if (auto status = RpcStatus("cannot open a channel"); !status.ok()) {
    return status;
  }
  int send_buffer = 0;
  socklen_t size = sizeof(send_buffer);
  getsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &send_buffer, &size);
  // poll() calls a socket writable when a third of its buffer is free; the rest
  // of that third is for what the kernel keeps beside each byte.
  write_budget_ = std::clamp(send_buffer / 8, 2'048, 65'536);
  return absl::OkStatus();
}

absl::Status AmqpConnection::RpcStatus(absl::string_view what) {
  const amqp_rpc_reply_t reply = amqp_get_rpc_reply(handle_);
  switch (reply.reply_type) {
    case AMQP_RESPONSE_NORMAL:
      guard_->Enter(kBusyLimit);  // for the next one
      return absl::OkStatus();
    case AMQP_RESPONSE_SERVER_EXCEPTION:
      if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        const auto* closed =
            static_cast<amqp_channel_close_t*>(reply.reply.decoded);
        return Error(absl::StrCat(what, ": ", ToView(closed->reply_text)));
      }
      broken_ = true;
      if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
        const auto* closed =
            static_cast<amqp_connection_close_t*>(reply.reply.decoded);
        return Error(absl::StrCat(what, ": ", ToView(closed->reply_text)));
      }
      return Error(absl::StrCat(what, ": unexpected answer"));
    default:
      broken_ = true;
      return Error(absl::StrCat(what, ": ", LibraryText(reply.library_error)));
  }
}

absl::Status AmqpConnection::SendStatus(int library_status) {
  if (library_status == AMQP_STATUS_OK) return absl::OkStatus();
  broken_ = true;
  return Error(LibraryText(library_status));
}

absl::Status AmqpConnection::Write(absl::string_view frames) {
  while (!frames.empty()) {
    pollfd fds{
        .fd = amqp_get_sockfd(handle_), .events = POLLOUT, .revents = 0};
    const ssize_t n = send(fds.fd, frames.data(), frames.size(), MSG_NOSIGNAL);
    if (n >= 0) {
      frames.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      // As the library does: the guard ends it, by shutting the socket down.
      poll(&fds, 1, -1);
    } else if (errno != EINTR) {
      broken_ = true;
      return Error(strerror(errno));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<const amqp_frame_t*> AmqpConnection::NextFrame() {
  while (true) {
    amqp_maybe_release_buffers(handle_);
    const timeval now{0, 0};
    const int status = amqp_simple_wait_frame_noblock(handle_, &frame_, &now);
    if (status == AMQP_STATUS_TIMEOUT) return nullptr;
    if (status != AMQP_STATUS_OK) return SendStatus(status);
    if (frame_.channel == 0) {
      if (frame_.frame_type != AMQP_FRAME_METHOD) continue;  // a heartbeat
      if (auto over = HandleConnectionMethod(frame_.payload.method);
          !over.ok()) {
        return over;
      }
      continue;
    }
    if (frame_.frame_type == AMQP_FRAME_METHOD &&
        frame_.payload.method.id == AMQP_CHANNEL_CLOSE_METHOD) {
      // Without it a quorum queue holds back what this channel had unacked.
      amqp_channel_close_ok_t ok{};
      if (auto sent = SendStatus(amqp_send_method(
              handle_, frame_.channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok));
          !sent.ok()) {
        return sent;
      }
    }
    return &frame_;
  }
}

absl::Status AmqpConnection::HandleConnectionMethod(
    const amqp_method_t& method) {
  switch (method.id) {
    case AMQP_CONNECTION_CLOSE_METHOD: {
      const auto* closed =
          static_cast<amqp_connection_close_t*>(method.decoded);
      const absl::Status status = Error(
          absl::StrCat("closed by the server: ", ToView(closed->reply_text)));
      amqp_connection_close_ok_t ok{};
      amqp_send_method(handle_, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
      broken_ = true;
      return status;
    }
    case AMQP_CONNECTION_BLOCKED_METHOD:
      blocked_ = std::string(ToView(
          static_cast<amqp_connection_blocked_t*>(method.decoded)->reason));
      return absl::OkStatus();
    case AMQP_CONNECTION_UNBLOCKED_METHOD:
      blocked_.reset();
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

AmqpConnection::Ready AmqpConnection::Wait(absl::Duration duration,
                                           bool for_write) {
  // What the library has read already does not show in poll().
  if (amqp_frames_enqueued(handle_) || amqp_data_in_buffer(handle_)) {
    duration = absl::ZeroDuration();
  }
  guard_->Leave();
  // A descriptor that the library has closed is -1 here, which poll() ignores:
  // the next NextFrame tells.
  pollfd fds[] = {
      {.fd = amqp_get_sockfd(handle_),
       .events = static_cast<int16_t>(POLLIN | (for_write ? POLLOUT : 0)),
       .revents = 0},
      {.fd = waker_->fd(), .events = POLLIN, .revents = 0}};
  duration = std::clamp(duration, absl::ZeroDuration(), kLongestSleep);
  // Rounded up: a deadline that is due in 0.4 ms must not make this spin.
  const auto ms =
      absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1)));
  poll(fds, 2, fds[0].fd < 0 ? 0 : static_cast<int>(ms));
  if (fds[1].revents != 0) waker_->Drain();
  guard_->Enter(kBusyLimit);
  return {.writable = (fds[0].revents & POLLOUT) != 0};
}

void AmqpConnection::Close(absl::Duration limit) {
  if (broken_ || handle_ == nullptr) return;
  broken_ = true;
  pollfd fds{.fd = amqp_get_sockfd(handle_), .events = POLLOUT, .revents = 0};
  if (fds.fd < 0 || poll(&fds, 1, 0) != 1 || fds.revents != POLLOUT) return;
  guard_->Enter(limit + kBusyLimit);
  const timeval timeout = absl::ToTimeval(limit);
  amqp_set_rpc_timeout(handle_, &timeout);
  amqp_connection_close(handle_, AMQP_REPLY_SUCCESS);
}

std::string CloseText(const amqp_frame_t& frame) {
  return std::string(
      ToView(static_cast<amqp_channel_close_t*>(frame.payload.method.decoded)
                 ->reply_text));
}

}  // namespace penstock
