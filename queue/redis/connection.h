// One connection to a Redis server and the thread that owns it for life: it
// connects, serves until an error, fails what is pending, backs off, repeats.
// Commands come in by a Mailbox and are written while earlier replies are still
// on their way; replies complete them in order. Socket, TLS and deadlines are
// ours, hiredis only reads the protocol. Threads: docs/architecture.md section
// 9.

#ifndef PENSTOCK_QUEUE_REDIS_CONNECTION_H_
#define PENSTOCK_QUEUE_REDIS_CONNECTION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "queue/callback.h"
#include "queue/environment.h"
#include "queue/mailbox.h"
#include "queue/redis/scripts.h"
#include "queue/redis/words.h"
#include "queue/tls.h"
#include "queue/waker.h"

struct addrinfo;
struct redisReader;

namespace penstock {

struct RedisAddress {
  std::string host;
  int port = 6379;
  std::string user;      // empty: the default user
  std::string password;  // empty: no AUTH
  int database = 0;
  std::string socket_path;        // not empty: a Unix socket, and no host
  std::optional<TlsOptions> tls;  // without: in the clear

  // "host:port" or the path, for logs and errors: no user, no password.
  std::string Name() const;

  bool operator==(const RedisAddress&) const = default;
};

// redis://[user:password@|password@]host[:port][/database], the same with
// rediss:// for TLS, or machinery's redis+socket://[password@]path[:/database].
// INVALID_ARGUMENT says what is wrong with `key`, never with the password.
absl::StatusOr<RedisAddress> ParseRedisUrl(
    std::string_view url, const TlsOptions& tls,
    std::string_view key = "result_backend");

struct RedisReply {
  enum Kind { kNil, kText, kInteger, kArray, kError } kind = kNil;
  std::string text;  // kText, kError
  int64_t integer = 0;
  std::vector<RedisReply> elements;  // kArray
};

// `done` gets the reply, which is not an error on its top level, or
//   UNAVAILABLE (BACKEND_UNAVAILABLE)  the server was not reached, was lost
//   (the
//                  command may have taken place), or cannot serve at present
//   INTERNAL       the server refused the command
struct RedisCommand {
  RedisWords words;
  // More than one: `words` are so many commands. `done` gets an array of their
  // replies, or the first error once all are there.
  size_t replies = 1;
  // Words are EVALSHA and its arguments: sent again, whole, when the server
  // does not know the script.
  const RedisScript* script = nullptr;
  Callback<RedisReply> done;
};

class RedisConnection {
 public:
  struct Options {
    RedisAddress address;
    std::string name;     // of the thread, and in log lines
    std::string channel;  // not empty: SetSubscribed may be called, Send not
    // A message of the channel; empty: from here on they come.
    absl::AnyInvocable<void(std::string_view)> on_message;
    absl::Duration connect_timeout = absl::Seconds(3);  // with TLS' handshake
    // Without a reply for so long while one is due, the connection is given up.
    absl::Duration reply_timeout = absl::Seconds(3);
    absl::Duration ping_after = absl::Seconds(5);  // of silence
    absl::Duration min_back_off = absl::Milliseconds(50);
    absl::Duration max_back_off = absl::Seconds(1);
  };

  // Connects in the background. `environment` is not owned.
  RedisConnection(Options options, Environment* environment);
  ~RedisConnection();  // Stop, then FailLeftovers

  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  // Never blocks. Thread-safe. While there is no connection a command waits for
  // the running attempt, and fails when that fails.
  void Send(RedisCommand command);

  // Whether commands wait for their replies. Thread-safe; by the time that it is
  // known it may be otherwise.
  bool IsBusy() const { return has_pending_.load(std::memory_order_relaxed); }

  // Whether to be subscribed to the channel; at first it is not. Never blocks.
  // Thread-safe.
  void SetSubscribed(bool wanted);

  // Fails what is pending and joins the thread. Idempotent.
  void Stop();

  // After Stop: fails, on the calling thread, what callbacks sent meanwhile.
  // False when there was nothing.
  bool FailLeftovers();

 private:
  struct Pending {
    RedisCommand command;
    absl::Duration sent;  // on the steady clock
    std::string greeting;  // its first word; empty: the command is a caller's
    RedisReply gathered;   // of several commands: what has come
  };

  void Run(std::stop_token stop);

  // Both return why it ended; OK of Connect means a connected socket, of Serve
  // that it was stopped.
  absl::Status Connect(std::stop_token stop);
  absl::Status ConnectTo(const addrinfo& target, std::stop_token stop,
                         absl::Duration deadline);
  absl::Status ConnectSocketFile(std::stop_token stop, absl::Duration deadline);
  absl::Status Handshake(std::stop_token stop, absl::Duration deadline);
  absl::Status Serve(std::stop_token stop);

  void Greet();
  void SubscribeAsWanted();
  void Enqueue(RedisCommand command, std::string greeting = "");
  absl::Status WriteOut();
  absl::Status ReadIn();
  // The bytes that have arrived, in `chunk`; empty: none yet.
  absl::StatusOr<std::string_view> Receive(char* chunk, size_t size);
  absl::Status OnBytes(std::string_view bytes);
  absl::Status OnReply(RedisReply reply);
  absl::Status OnAnswer(Pending pending, RedisReply reply);
  absl::Status OnGreeting(const std::string& word, const RedisReply& reply);
  absl::Duration NextDeadline() const;
  absl::Status CheckDeadline();

  void Disconnect(const absl::Status& why);
  void FailWaiting(const absl::Status& why);
  void LogLost(const absl::Status& why);
  void BackOff(std::stop_token stop);
  absl::Status Unavailable(absl::string_view what) const;
  // The same, for a server that hangs up: before the greeting's end one side
  // may expect TLS where the other does not.
  absl::Status HungUp(absl::string_view what) const;

  // Constant after construction.
  Options options_;
  Environment* const environment_;
  const std::string server_;  // its address, for messages
  Waker waker_;  // synchronises itself

  // Synchronise themselves.
  Mailbox<RedisCommand> mailbox_;
  std::atomic<bool> has_pending_{false};  // as the owner last looked
  std::atomic<bool> wants_channel_{false};

  // Owner thread only.
  int fd_ = -1;
  RedisReply reply_;  // as far as it has come
  redisReader* reader_ = nullptr;  // reads into reply_
  std::unique_ptr<TlsClient> tls_;
  std::string commands_;  // to be written, before TLS
  std::string out_;       // to be written, as the socket gets it
  size_t out_written_ = 0;
  std::deque<Pending> pending_;  // written or to be written, in order
  size_t greetings_due_ = 0;
  bool subscribed_ = false;  // by what was sent
  bool ready_ = false;  // greeted: commands may be sent
  absl::Duration last_heard_;
  int failed_attempts_ = 0;
  bool lost_logged_ = false;

  std::jthread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_CONNECTION_H_
