// One AMQP connection for one owner thread: address, connecting, login, reading
// frames, waiting. rabbitmq-c is not thread-safe and some of its calls may wait
// without an end, so the owner writes only when the socket has room, and a
// SocketGuard lets another thread end what hangs.
//
// Threads: everything is the owner's, but for SocketGuard. Story:
// docs/architecture.md section 9.

#ifndef PENSTOCK_QUEUE_AMQP_CONNECTION_H_
#define PENSTOCK_QUEUE_AMQP_CONNECTION_H_

#include <amqp.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "queue/environment.h"
#include "queue/tls.h"
#include "queue/waker.h"

namespace penstock {

// What an amqp:// or amqps:// URL says.
struct AmqpAddress {
  std::string host = "localhost";
  int port = 5672;
  std::string user = "guest";
  std::string password = "guest";
  std::string vhost = "/";
  std::optional<TlsOptions> tls;  // without: in the clear

  // "host:port/vhost", for logs and errors: no user, no password.
  std::string Name() const;

  bool operator==(const AmqpAddress&) const = default;
};

// amqp://user:password@host:port/vhost, each part percent-decoded, each may be
// missing; with amqps:// the connection is TLS, set up by `tls`.
// INVALID_ARGUMENT says what is wrong and never repeats the URL.
absl::StatusOr<AmqpAddress> ParseAmqpUrl(absl::string_view url,
                                         const TlsOptions& tls);

// UNAVAILABLE, BROKER_UNAVAILABLE: all that can go wrong with a connection.
absl::Status BrokerUnavailable(absl::string_view text);

// The handle by which other threads end an owner's blocked call. It holds a
// duplicate of the socket, so a number that the library has closed and the
// kernel has given out again is never shut down by mistake. Thread-safe.
class SocketGuard {
 public:
  // A guard that looks each second, on the environment's thread, whether the
  // owner is stuck in the library.
  static std::shared_ptr<SocketGuard> Make(Environment* environment);

  ~SocketGuard();

  // Owner: the socket of the connection that begins; it ends by Release.
  void Adopt(int fd);
  void Release();

  // Owner: is about to call the library; back in its own loop.
  void Enter(absl::Duration limit);
  void Leave() { busy_until_ns_.store(0, std::memory_order_relaxed); }

  // Ends the connection under the owner, and each one after it: the owner's
  // calls fail at once.
  void End();

 private:
  SocketGuard() = default;

  static void Watch(std::weak_ptr<SocketGuard> guard, Environment* environment);

  void ShutDown();

  std::atomic<int64_t> busy_until_ns_{0};  // steady clock; 0: not busy
  absl::Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  int fd_ ABSL_GUARDED_BY(mu_) = -1;
};

// How long to wait before the next try: 50 ms doubling to 2 s, jittered by
// `random` in [0, 1).
class Backoff {
 public:
  absl::Duration Next(double random);
  void Reset() { next_ = kFirst; }

 private:
  static constexpr absl::Duration kFirst = absl::Milliseconds(50);
  static constexpr absl::Duration kLast = absl::Seconds(2);

  absl::Duration next_ = kFirst;
};

// What an owner that connects again and again keeps of it: the pauses between its
// tries, and one log line for each failure of an outage. Owner thread only.
class Attempts {
 public:
  // `who` begins the log lines: "publisher". `environment` is not owned.
  Attempts(std::string who, std::string server, Environment* environment);

  void Connected();

  // The connection, or the try to have one, ended by `why`.
  void Ended(const absl::Status& why);

  // How long to wait before the next try.
  absl::Duration Pause();

 private:
  const std::string who_;
  const std::string server_;
  Environment* const environment_;
  Backoff backoff_;
  std::optional<absl::Time> connected_;
  std::set<std::string> logged_;  // of this outage
};

class AmqpConnection {
 public:
  static constexpr amqp_channel_t kChannel = 1;

  // Connects and logs in; channel 1 is open then. Takes at most some seconds;
  // `stop` (with `waker` signalled) ends it sooner. `name` is shown by
  // RabbitMQ's tools. UNAVAILABLE says what failed.
  static absl::StatusOr<std::unique_ptr<AmqpConnection>> Open(
      const AmqpAddress& address, absl::string_view name, SocketGuard* guard,
      Waker* waker, const std::stop_token& stop);

  // Drops the socket; Close before it says good-bye.
  ~AmqpConnection();
  AmqpConnection(const AmqpConnection&) = delete;
  AmqpConnection& operator=(const AmqpConnection&) = delete;

  // For calls of the library.
  amqp_connection_state_t handle() const { return handle_; }

  // The next frame that has arrived, or nullptr when there is none; valid until
  // the next call. Also sends heartbeats and notices a silent server, so it
  // must be called each few seconds. What concerns the connection is handled
  // inside; a channel.close is answered and then returned. UNAVAILABLE: it is
  // over.
  absl::StatusOr<const amqp_frame_t*> NextFrame();

  struct Ready {
    bool writable = false;  // `write_budget` bytes can be sent without blocking
  };

  // Sleeps until there is something to read, something to write if `for_write`,
  // a signal, or for `duration` (cut to what heartbeats need).
  Ready Wait(absl::Duration duration, bool for_write);

  // What may be written after Wait said writable.
  size_t write_budget() const { return write_budget_; }

  // "low on memory" and the like while the server blocks publishers.
  const std::optional<std::string>& blocked() const { return blocked_; }

  // OK, or what the last RPC of the library (declare, bind, ...) failed with;
  // `what` names it: "queue \"q\" cannot be declared". After a failure nothing
  // but Close may be called.
  absl::Status RpcStatus(absl::string_view what);

  // Whether bytes of ours can go to the socket: not into TLS, which only the
  // library can write.
  bool plain() const { return plain_; }

  // Writes whole frames, past the library, on a plain connection. What exceeds
  // the write budget may block.
  absl::Status Write(absl::string_view frames);

  // The same for a call that returns a library status.
  absl::Status SendStatus(int library_status);

  absl::Status Error(absl::string_view text) const;

  // Says good-bye: what was sent before is taken by the server. Waits for the
  // answer at most `limit`.
  void Close(absl::Duration limit);

 private:
  AmqpConnection(const AmqpAddress& address, SocketGuard* guard, Waker* waker);

  absl::Status Connect(const AmqpAddress& address, const std::stop_token& stop);
  absl::Status ConnectSocket(int fd, const std::stop_token& stop);
  absl::Status ConnectTls(const AmqpAddress& address);
  absl::Status Login(const AmqpAddress& address, absl::string_view name);
  absl::Status HandleConnectionMethod(const amqp_method_t& method);
  std::string LibraryText(int status) const;

  const std::string address_name_;
  const bool plain_;
  SocketGuard* const guard_;
  Waker* const waker_;

  // Of TLS; outlives `handle_`, which looks into it.
  TlsFindings findings_;
  amqp_connection_state_t handle_ = nullptr;
  int fd_ = -1;  // the library's own, owned by `handle_`
  amqp_frame_t frame_;
  size_t write_budget_ = 0;
  std::optional<std::string> blocked_;
  bool broken_ = false;
};

// The text of bytes that the library holds.
inline absl::string_view ToView(amqp_bytes_t bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}
inline amqp_bytes_t ToBytes(absl::string_view text) {
  return {text.size(), const_cast<char*>(text.data())};
}

// The server's words in a channel.close that has come.
std::string CloseText(const amqp_frame_t& frame);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_CONNECTION_H_
