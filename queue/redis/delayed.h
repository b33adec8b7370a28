// The thread `redis-delayed`: moves tasks whose time has come from machinery's
// sorted set to their queues. Go workers and other Penstock processes do the
// same with the same set; whoever takes a task out of it has moved it. Follows
// docs/wire-format.md section 4. Waits for its own connection's replies, since
// it has nothing else to do.

#ifndef PENSTOCK_QUEUE_REDIS_DELAYED_H_
#define PENSTOCK_QUEUE_REDIS_DELAYED_H_

#include <map>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "queue/environment.h"
#include "queue/mailbox.h"
#include "queue/redis/connection.h"

namespace penstock {

// The list of dead letters of a queue and the list of their reasons, a line of
// JSON each, in the same order.
std::vector<std::string> DeadKeysOfQueue(const std::string& queue);
std::string DeadReason(const std::string& reason, absl::Time now);

class RedisDelayed {
 public:
  struct Options {
    RedisAddress address;
    std::string key;            // of the sorted set
    std::string default_queue;  // of a task without a routing key
    absl::Duration poll_period;
    absl::AnyInvocable<void()> on_poll;  // on this thread
  };

  RedisDelayed(Options options, Environment* environment);
  ~RedisDelayed();

  // A task that is due then was laid by this process: looks at that time,
  // whatever the poll period. Thread-safe.
  void Expect(absl::Time due);

 private:
  void Run(const std::stop_token& stop);

  // How long until the next one is due, as far as is known.
  absl::StatusOr<absl::Duration> MoveDue();
  absl::Status Move(std::vector<std::string> tasks);
  absl::Status Bury(std::string task, const std::string& queue,
                    const std::string& reason);
  absl::StatusOr<RedisReply> Call(const RedisScript& script,
                                  std::vector<std::string> keys,
                                  std::vector<std::string> arguments);

  // Constant after construction.
  Options options_;
  Environment* const environment_;

  // Synchronise themselves.
  Mailbox<absl::Time> expected_;
  absl::Notification ended_;
  RedisConnection connection_;

  std::jthread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_DELAYED_H_
