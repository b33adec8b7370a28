#include "queue/redis/connection.h"

#include <errno.h>
#include <hiredis/read.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "queue/errors.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

constexpr int kUserTimeoutMs = 10'000;
constexpr size_t kReadChunk = 64 * 1024;
constexpr size_t kWrittenKept = 1024 * 1024;
// The first byte of a TLS alert: what a TLS server answers to plain text.
constexpr char kTlsAlert = 0x15;

absl::Duration SteadyNow() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// For poll: rounded up, so that the deadline has passed when it returns.
int PollTimeout(absl::Duration deadline) {
  const int64_t ms = absl::ToInt64Milliseconds(deadline - SteadyNow()) + 1;
  return static_cast<int>(std::clamp<int64_t>(ms, 0, 60'000));
}

std::string ErrnoText(int code) {
  char buffer[128];
  return strerror_r(code, buffer, sizeof buffer);  // the GNU one
}

// ---- the URL ---------------------------------------------------------------

absl::Status BadUrl(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size() || !absl::ascii_isxdigit(text[i + 1]) ||
        !absl::ascii_isxdigit(text[i + 2])) {
      return std::nullopt;
    }
    out += absl::HexStringToBytes(std::string(text.substr(i + 1, 2)));
    i += 2;
  }
  return out;
}

absl::Status ReadLogin(std::string_view login, RedisAddress* address) {
  std::string_view user;
  std::string_view password = login;
  if (const size_t colon = login.find(':'); colon != login.npos) {
    user = login.substr(0, colon);
    password = login.substr(colon + 1);
  }
  const auto decoded_user = PercentDecoded(user);
  const auto decoded_password = PercentDecoded(password);
  if (!decoded_user || !decoded_password) {
    return BadUrl(
        "a % in user or password must be followed by two "
        "hexadecimal digits");
  }
  address->user = *decoded_user;
  address->password = *decoded_password;
  return absl::OkStatus();
}

absl::Status ReadHost(std::string_view host, RedisAddress* address) {
  if (host.find(',') != host.npos) {
    return BadUrl("several hosts (Redis Cluster, Sentinel) are not supported");
  }
  std::string_view port;
  if (!host.empty() && host.front() == '[') {  // an IPv6 address
    const size_t end = host.find(']');
    if (end == host.npos) return BadUrl("the [ of its host is not closed");
    port = host.substr(end + 1);
    address->host = std::string(host.substr(1, end - 1));
    if (!port.empty() && port.front() != ':') {
      return BadUrl("expected :port after ]");
    }
  } else {
    const size_t colon = std::min(host.find(':'), host.size());
    port = host.substr(colon);
    address->host = std::string(host.substr(0, colon));
  }
  if (address->host.empty()) return BadUrl("it names no host");
  if (!port.empty()) {
    port.remove_prefix(1);
    if (!absl::SimpleAtoi(absl::string_view(port.data(), port.size()),
                          &address->port) ||
        address->port < 1 || address->port > 65535) {
      return BadUrl("its port must be a number from 1 to 65535");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadDatabase(std::string_view database, RedisAddress* address) {
  if (!absl::SimpleAtoi(absl::string_view(database.data(), database.size()),
                        &address->database) ||
      address->database < 0) {
    return BadUrl(
        "what follows its host or its path must be the number of a database");
  }
  return absl::OkStatus();
}

// [password@]path[:/database], after redis+socket://. As in machinery the
// password is what stands before the first @, and no % is special.
absl::StatusOr<RedisAddress> ReadSocketUrl(std::string_view url) {
  RedisAddress address;
  if (const size_t at = url.find('@');
      at != url.npos && !url.starts_with('/')) {
    address.password = std::string(url.substr(0, at));
    url.remove_prefix(at + 1);
  }
  const size_t colon = std::min(url.find(':'), url.size());
  address.socket_path = std::string(url.substr(0, colon));
  if (!address.socket_path.starts_with('/')) {
    return BadUrl(
        "expected redis+socket://password@/path/to/file.sock:/database");
  }
  if (address.socket_path.size() >= sizeof(sockaddr_un::sun_path)) {
    return BadUrl(absl::StrCat("a socket's path is at most ",
                               sizeof(sockaddr_un::sun_path) - 1,
                               " bytes long"));
  }
  url.remove_prefix(colon);
  if (url.empty()) return address;
  if (!url.starts_with(":/")) {
    return BadUrl("what follows the : of its path must be /database");
  }
  absl::Status status = ReadDatabase(url.substr(2), &address);
  if (!status.ok()) return status;
  return address;
}

// What follows redis:// or rediss://.
absl::StatusOr<RedisAddress> ReadHostUrl(std::string_view url) {
  RedisAddress address;
  // The last @: a password may hold one that was not encoded.
  if (const size_t at = url.rfind('@'); at != url.npos) {
    absl::Status status = ReadLogin(url.substr(0, at), &address);
    if (!status.ok()) return status;
    url.remove_prefix(at + 1);
  }
  if (url.find('?') != url.npos || url.find('#') != url.npos) {
    return BadUrl("parameters after ? or # are not supported");
  }
  const size_t slash = std::min(url.find('/'), url.size());
  absl::Status status = ReadHost(url.substr(0, slash), &address);
  if (!status.ok()) return status;
  url.remove_prefix(slash);
  if (url.size() > 1) {
    status = ReadDatabase(url.substr(1), &address);
    if (!status.ok()) return status;
  }
  return address;
}

absl::StatusOr<RedisAddress> ReadUrl(std::string_view url,
                                     const TlsOptions& tls) {
  constexpr std::string_view kSocket = "redis+socket://";
  constexpr std::string_view kTls = "rediss://";
  constexpr std::string_view kPlain = "redis://";
  if (url.starts_with(kSocket))
    return ReadSocketUrl(url.substr(kSocket.size()));
  if (url.starts_with(kPlain)) return ReadHostUrl(url.substr(kPlain.size()));
  if (!url.starts_with(kTls)) {
    return BadUrl("it must begin with redis://, rediss:// or redis+socket://");
  }
  absl::StatusOr<RedisAddress> address = ReadHostUrl(url.substr(kTls.size()));
  if (address.ok()) address->tls = tls;
  return address;
}

// ---- the protocol ----------------------------------------------------------

// hiredis calls these as it reads. It builds no tree of its own: each reply goes
// to its place in the one that the reader was given.
RedisReply* PlaceOf(const redisReadTask* task) {
  if (task->parent == nullptr) return static_cast<RedisReply*>(task->privdata);
  auto* parent = static_cast<RedisReply*>(task->parent->obj);
  return &parent->elements[static_cast<size_t>(task->idx)];
}

void* OnText(const redisReadTask* task, char* text, size_t size) {
  RedisReply* reply = PlaceOf(task);
  reply->kind = task->type == REDIS_REPLY_ERROR ? RedisReply::kError
                                                : RedisReply::kText;
  reply->text.assign(text, size);
  return reply;
}

void* OnArray(const redisReadTask* task, int elements) {
  RedisReply* reply = PlaceOf(task);
  reply->kind = RedisReply::kArray;
  reply->elements.resize(static_cast<size_t>(elements));
  return reply;
}

void* OnInteger(const redisReadTask* task, long long value) {
  RedisReply* reply = PlaceOf(task);
  reply->kind = RedisReply::kInteger;
  reply->integer = value;
  return reply;
}

void* OnNil(const redisReadTask* task) { return PlaceOf(task); }

void OnFree(void*) {}

redisReader* MakeReader(RedisReply* reply) {
  static redisReplyObjectFunctions functions = {OnText, OnArray, OnInteger,
                                                OnNil, OnFree};
  redisReader* reader = redisReaderCreateWithFunctions(&functions);
  if (reader != nullptr) reader->privdata = reply;
  return reader;
}

// Whether the server may accept the same command a little later. Only what lies
// in our own keys or words does not pass by itself: a key of another kind, a
// script or a command that is wrong. All else (a server that loads, is full, is
// no master, whose rights are being changed) must hold work up, not drop it.
bool Passing(absl::string_view error) {
  for (const char* lasting :
       {"WRONGTYPE", "ERR Error running script", "ERR Error compiling script",
        "ERR wrong number of arguments", "ERR unknown command",
        "ERR value is not", "ERR syntax error", "ERR invalid"}) {
    if (absl::StrContains(error, lasting)) return false;
  }
  return true;
}

void Complete(RedisCommand& command, absl::StatusOr<RedisReply> result) {
  if (command.done) std::move(command.done)(std::move(result));
}

}  // namespace

std::string RedisAddress::Name() const {
  return socket_path.empty() ? absl::StrCat(host, ":", port) : socket_path;
}

absl::StatusOr<RedisAddress> ParseRedisUrl(std::string_view url,
                                           const TlsOptions& tls,
                                           std::string_view key) {
  absl::StatusOr<RedisAddress> address = ReadUrl(url, tls);
  if (address.ok()) return address;
  return MakeError(absl::StatusCode::kInvalidArgument, reason::kInvalidField,
                   absl::StrCat(absl::string_view(key.data(), key.size()), ": ",
                                address.status().message()));
}

RedisConnection::RedisConnection(Options options, Environment* environment)
    : options_(std::move(options)),
      environment_(environment),
      server_(options_.address.Name()),
      mailbox_([this] { waker_.Signal(); }),
      thread_([this](std::stop_token stop) { Run(std::move(stop)); }) {}

RedisConnection::~RedisConnection() {
  Stop();
  while (FailLeftovers()) {
  }
}

void RedisConnection::Send(RedisCommand command) {
  // Never closed: what comes after Stop is taken by FailLeftovers.
  (void)mailbox_.Put(std::move(command));
}

void RedisConnection::SetSubscribed(bool wanted) {
  wants_channel_.store(wanted);
  waker_.Signal();
}

void RedisConnection::Stop() {
  thread_.request_stop();
  waker_.Signal();
  if (thread_.joinable()) thread_.join();
}

bool RedisConnection::FailLeftovers() {
  std::vector<RedisCommand> left = mailbox_.Take();
  for (RedisCommand& command : left) {
    Complete(command, Unavailable("the result backend is being closed"));
  }
  return !left.empty();
}

void RedisConnection::Run(std::stop_token stop) {
  pthread_setname_np(pthread_self(), options_.name.substr(0, 15).c_str());
  while (!stop.stop_requested()) {
    absl::Status why = Connect(stop);
    if (why.ok()) why = Serve(stop);
    const bool served = ready_;
    Disconnect(why);
    if (stop.stop_requested()) break;
    LogLost(why);
    if (served) {
      failed_attempts_ = 0;
    } else {
      FailWaiting(why);
      ++failed_attempts_;
    }
    BackOff(stop);
  }
  FailWaiting(Unavailable("the result backend is being closed"));
}

// ---- connecting
// --------------------------------------------------------------

absl::Status RedisConnection::Connect(std::stop_token stop) {
  const absl::Duration deadline = SteadyNow() + options_.connect_timeout;
  if (!options_.address.socket_path.empty()) {
    return ConnectSocketFile(std::move(stop), deadline);
  }
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  // The one call here that may take longer than the timeout: the resolver's.
  const int code =
      getaddrinfo(options_.address.host.c_str(),
                  absl::StrCat(options_.address.port).c_str(), &hints, &found);
  if (code != 0) return Unavailable(gai_strerror(code));
  absl::Status status = Unavailable("it has no address");
  for (addrinfo* one = found; one != nullptr; one = one->ai_next) {
    status = ConnectTo(*one, stop, deadline);
    if (status.ok() || stop.stop_requested()) break;
  }
  freeaddrinfo(found);
  if (!status.ok() || !options_.address.tls.has_value()) return status;
  return Handshake(std::move(stop), deadline);
}

absl::Status RedisConnection::ConnectSocketFile(std::stop_token stop,
                                                absl::Duration deadline) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  // ParseRedisUrl has seen that it fits.
  options_.address.socket_path.copy(name.sun_path, sizeof name.sun_path - 1);
  addrinfo target = {};
  target.ai_family = AF_UNIX;
  target.ai_addr = reinterpret_cast<sockaddr*>(&name);
  target.ai_addrlen = sizeof name;
  return ConnectTo(target, std::move(stop), deadline);
}

absl::Status RedisConnection::ConnectTo(const addrinfo& target,
                                        std::stop_token stop,
                                        absl::Duration deadline) {
  const int fd =
      socket(target.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
             target.ai_protocol);
  if (fd < 0) return Unavailable(ErrnoText(errno));
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &kUserTimeoutMs,
             sizeof kUserTimeoutMs);

  int error = connect(fd, target.ai_addr, target.ai_addrlen) == 0 ? 0 : errno;
  while (error == EINPROGRESS && !stop.stop_requested() &&
         SteadyNow() < deadline) {
    pollfd waiting[] = {{fd, POLLOUT, 0}, {waker_.fd(), POLLIN, 0}};
    poll(waiting, 2, PollTimeout(deadline));
    waker_.Drain();
    if (waiting[0].revents != 0) {
      socklen_t size = sizeof error;
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
  if (error != 0) {
    close(fd);
    return Unavailable(ErrnoText(error == EINPROGRESS ? ETIMEDOUT : error));
  }
  fd_ = fd;
  return absl::OkStatus();
}

absl::Status RedisConnection::Handshake(std::stop_token stop,
                                        absl::Duration deadline) {
  auto client = TlsClient::Make(*options_.address.tls, options_.address.host);
  if (!client.ok()) return Unavailable(client.status().message());
  tls_ = *std::move(client);
  char chunk[kReadChunk];
  std::string_view bytes;
  while (!stop.stop_requested()) {
    const absl::Status status = tls_->Handshake(bytes);
    tls_->TakeWire(&out_);  // after a failure: the alert that says why
    const absl::Status written = WriteOut();
    if (!status.ok()) return Unavailable(status.message());
    if (!written.ok() || tls_->established()) return written;
    if (SteadyNow() >= deadline) {
      return Unavailable(
          "no answer to TLS' handshake in time; does the server speak TLS at "
          "this port?");
    }
    const bool full = out_written_ < out_.size();
    pollfd waiting[] = {
        {fd_, static_cast<short>(full ? POLLIN | POLLOUT : POLLIN), 0},
        {waker_.fd(), POLLIN, 0}};
    poll(waiting, 2, PollTimeout(deadline));
    waker_.Drain();
    auto received = Receive(chunk, sizeof chunk);
    if (!received.ok()) return received.status();
    bytes = *received;
  }
  return Unavailable("it is being closed");
}

void RedisConnection::Greet() {
  const RedisAddress& address = options_.address;
  std::vector<std::vector<std::string>> greetings;
  if (!address.password.empty()) {
    greetings.push_back({"AUTH"});
    if (!address.user.empty()) greetings.back().push_back(address.user);
    greetings.back().push_back(address.password);
  }
  if (address.database != 0) {
    greetings.push_back({"SELECT", absl::StrCat(address.database)});
  }
  // A server that is stopped accepts connections all the same; and one with too
  // many clients says so only when it is asked something.
  greetings.push_back({"PING"});
  // One that is refused is a connection that is not made: it backs off.
  subscribed_ = wants_channel_.load();
  if (subscribed_) greetings.push_back({"SUBSCRIBE", options_.channel});
  greetings_due_ = greetings.size();
  for (const auto& words : greetings) {
    Enqueue({.words = words}, words[0]);
  }
}

void RedisConnection::SubscribeAsWanted() {
  const bool wanted = wants_channel_.load();
  if (std::exchange(subscribed_, wanted) == wanted) return;
  const std::string word = wanted ? "SUBSCRIBE" : "UNSUBSCRIBE";
  ++greetings_due_;
  Enqueue({.words = {word, options_.channel}}, word);
}

absl::Status RedisConnection::OnGreeting(const std::string& word,
                                         const RedisReply& reply) {
  // One that is loading or full is connected: it answers each command for
  // itself.
  const bool alive = word == "PING" && Passing(reply.text);
  // Who may not leave the channel goes on to get what nobody wants.
  const bool harmless = alive || word == "UNSUBSCRIBE";
  if (reply.kind == RedisReply::kError && !harmless) {
    return Unavailable(absl::StrCat("it refused the connection: ", reply.text));
  }
  if (word == "SUBSCRIBE") options_.on_message("");
  if (--greetings_due_ > 0) return absl::OkStatus();
  ready_ = true;
  if (lost_logged_) {
    Log(LogLevel::kInfo, "redis: connected again",
        {{"server", server_}, {"connection", options_.name}});
    lost_logged_ = false;
  }
  return absl::OkStatus();
}

// ---- serving
// -----------------------------------------------------------------

absl::Status RedisConnection::Serve(std::stop_token stop) {
  reply_ = {};
  reader_ = MakeReader(&reply_);
  last_heard_ = SteadyNow();
  Greet();
  while (!stop.stop_requested()) {
    if (ready_) {
      SubscribeAsWanted();
      for (RedisCommand& command : mailbox_.Take()) {
        Enqueue(std::move(command));
      }
    }
    absl::Status status = WriteOut();
    if (!status.ok()) return status;

    has_pending_.store(!pending_.empty(), std::memory_order_relaxed);
    const bool full = out_written_ < out_.size();
    pollfd waiting[] = {
        {fd_, static_cast<short>(full ? POLLIN | POLLOUT : POLLIN), 0},
        {waker_.fd(), POLLIN, 0}};
    poll(waiting, 2, PollTimeout(NextDeadline()));
    if (waiting[1].revents != 0) waker_.Drain();
    // Read before the deadline is looked at: this process may have slept, not
    // the server.
    if ((waiting[0].revents & ~POLLOUT) != 0) {
      status = ReadIn();
      if (!status.ok()) return status;
    }
    status = CheckDeadline();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void RedisConnection::Enqueue(RedisCommand command, std::string greeting) {
  commands_ += command.words.wire();
  // Only a script may have to be sent again.
  if (command.script == nullptr) command.words = {};
  RedisReply gathered;
  if (command.replies > 1) gathered.elements.reserve(command.replies);
  pending_.push_back({std::move(command), SteadyNow(), std::move(greeting),
                      std::move(gathered)});
}

absl::Status RedisConnection::WriteOut() {
  if (tls_ == nullptr) {
    out_ += commands_;
    commands_.clear();
  } else if (tls_->established()) {
    absl::Status status = tls_->Send(commands_);
    if (!status.ok()) return Unavailable(status.message());
    commands_.clear();
    tls_->TakeWire(&out_);
  }
  while (out_written_ < out_.size()) {
    const ssize_t n = send(fd_, out_.data() + out_written_,
                           out_.size() - out_written_, MSG_NOSIGNAL);
    if (n >= 0) {
      out_written_ += static_cast<size_t>(n);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      // Under a steady load it may never run dry.
      if (out_written_ >= kWrittenKept) {
        out_.erase(0, std::exchange(out_written_, 0));
      }
      return absl::OkStatus();
    } else if (errno != EINTR) {
      return HungUp(ErrnoText(errno));
    }
  }
  out_.clear();
  out_written_ = 0;
  return absl::OkStatus();
}

absl::StatusOr<std::string_view> RedisConnection::Receive(char* chunk,
                                                          size_t size) {
  const ssize_t n = recv(fd_, chunk, size, 0);
  if (n > 0) return std::string_view(chunk, static_cast<size_t>(n));
  if (n == 0) return HungUp("the server closed the connection");
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
    return std::string_view();
  }
  return HungUp(ErrnoText(errno));
}

absl::Status RedisConnection::ReadIn() {
  char chunk[kReadChunk];
  auto received = Receive(chunk, sizeof chunk);
  if (!received.ok()) return received.status();
  if (received->empty()) return absl::OkStatus();
  last_heard_ = SteadyNow();
  if (tls_ == nullptr) return OnBytes(*received);
  std::string plain;
  const absl::Status status = tls_->Receive(*received, &plain);
  // What came before the failure has come.
  if (absl::Status taken = OnBytes(plain); !taken.ok()) return taken;
  return status.ok() ? status : HungUp(status.message());
}

absl::Status RedisConnection::OnBytes(std::string_view bytes) {
  if (tls_ == nullptr && !ready_ && bytes.starts_with(kTlsAlert)) {
    return Unavailable("the server speaks TLS at this port: use rediss://");
  }
  redisReaderFeed(reader_, bytes.data(), bytes.size());
  WakeLater later;
  while (true) {
    void* raw = nullptr;
    if (redisReaderGetReply(reader_, &raw) != REDIS_OK) {
      return Unavailable(absl::StrCat("protocol error: ", reader_->errstr));
    }
    if (raw == nullptr) return absl::OkStatus();
    absl::Status status = OnReply(std::exchange(reply_, {}));
    if (!status.ok()) return status;
  }
}

absl::Status RedisConnection::OnReply(RedisReply reply) {
  if (!options_.channel.empty() && reply.elements.size() == 3 &&
      reply.elements[0].text == "message") {
    options_.on_message(reply.elements[2].text);
    return absl::OkStatus();
  }
  if (pending_.empty()) {
    return Unavailable(absl::StrCat("it spoke unasked: ", reply.text));
  }
  Pending& first = pending_.front();
  if (first.command.replies > 1) {
    RedisReply& gathered = first.gathered;
    if (gathered.text.empty() && reply.kind == RedisReply::kError) {
      gathered.text = reply.text;
    }
    gathered.elements.push_back(std::move(reply));
    if (gathered.elements.size() < first.command.replies) {
      return absl::OkStatus();
    }
    gathered.kind =
        gathered.text.empty() ? RedisReply::kArray : RedisReply::kError;
    reply = std::move(gathered);
  }
  Pending pending = std::move(first);
  pending_.pop_front();
  // Before the answer: who has it may ask.
  if (pending_.empty()) has_pending_.store(false, std::memory_order_relaxed);
  if (!pending.greeting.empty()) return OnGreeting(pending.greeting, reply);
  return OnAnswer(std::move(pending), std::move(reply));
}

absl::Status RedisConnection::OnAnswer(Pending pending, RedisReply reply) {
  RedisCommand& command = pending.command;
  if (reply.kind != RedisReply::kError) {
    Complete(command, std::move(reply));
    return absl::OkStatus();
  }
  if (command.script != nullptr && absl::StartsWith(reply.text, "NOSCRIPT")) {
    command.words = command.words.AsEval(*command.script);
    command.script = nullptr;
    Enqueue(std::move(command));
    return absl::OkStatus();
  }
  if (!Passing(reply.text)) {
    Complete(command,
             MakeError(absl::StatusCode::kInternal, reason::kInternal,
                       absl::StrCat("redis at ", server_,
                                    " refused the operation: ", reply.text)));
    return absl::OkStatus();
  }
  const bool replica = absl::StrContains(reply.text, "READONLY ");
  Complete(command, Unavailable(reply.text));
  // After a failover the name may lead to another server: look again.
  if (replica) return Unavailable("the server is a read-only replica");
  return absl::OkStatus();
}

absl::Duration RedisConnection::NextDeadline() const {
  if (pending_.empty()) return last_heard_ + options_.ping_after;
  // A long pipeline is slow but alive as long as replies come.
  return std::max(last_heard_, pending_.front().sent) + options_.reply_timeout;
}

absl::Status RedisConnection::CheckDeadline() {
  if (SteadyNow() < NextDeadline()) return absl::OkStatus();
  if (pending_.empty()) {
    Enqueue({.words = {"PING"}});
    return absl::OkStatus();
  }
  return Unavailable(absl::StrCat(
      "no reply for ", absl::FormatDuration(options_.reply_timeout)));
}

// ---- losing it
// ---------------------------------------------------------------

void RedisConnection::Disconnect(const absl::Status& why) {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  if (reader_ != nullptr) redisReaderFree(reader_);
  reader_ = nullptr;
  tls_.reset();
  commands_.clear();
  out_.clear();
  out_written_ = 0;
  ready_ = false;
  greetings_due_ = 0;
  // A callback may send again: that waits in the mailbox.
  std::deque<Pending> lost = std::exchange(pending_, {});
  const absl::Status status =
      MakeError(absl::StatusCode::kUnavailable, reason::kBackendUnavailable,
                absl::StrCat(why.ok() ? "the result backend is being closed"
                                      : why.message(),
                             "; the operation may have taken place"));
  for (Pending& pending : lost) Complete(pending.command, status);
}

void RedisConnection::FailWaiting(const absl::Status& why) {
  for (RedisCommand& command : mailbox_.Take()) Complete(command, why);
}

void RedisConnection::LogLost(const absl::Status& why) {
  if (lost_logged_) return;
  lost_logged_ = true;
  Log(LogLevel::kWarning, "redis: no connection",
      {{"server", server_},
       {"connection", options_.name},
       {"why", why.message()}});
}

void RedisConnection::BackOff(std::stop_token stop) {
  absl::Duration pause = options_.min_back_off;
  for (int i = 1; i < failed_attempts_ && pause < options_.max_back_off; ++i) {
    pause *= 2;
  }
  pause = std::min(pause, options_.max_back_off);
  pause *= 0.5 + environment_->Random() / 2;
  const absl::Duration end = SteadyNow() + pause;
  while (!stop.stop_requested() && SteadyNow() < end) {
    waker_.Sleep(end - SteadyNow());
  }
}

absl::Status RedisConnection::HungUp(absl::string_view what) const {
  absl::string_view hint;
  if (ready_ || !options_.address.socket_path.empty()) {
    hint = "";
  } else if (tls_ == nullptr) {
    hint = "; if the server speaks TLS at this port, use rediss://";
  } else if (!tls_->established()) {
    hint = "; does the server speak TLS at this port?";
  } else if (options_.address.tls->cert_file.empty()) {
    hint =
        "; if the server asks for a client's certificate, set tls.cert_file "
        "and tls.key_file";
  }
  return Unavailable(absl::StrCat(what, hint));
}

absl::Status RedisConnection::Unavailable(absl::string_view what) const {
  return MakeError(absl::StatusCode::kUnavailable, reason::kBackendUnavailable,
                   absl::StrCat("redis at ", server_, ": ", what));
}

}  // namespace penstock
