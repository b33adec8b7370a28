// The thread `redis-consume`: takes tasks from the lists of a worker's queues
// and loses none, whoever is killed when. docs/wire-format.md section 4 has the
// keys. All decisions are made on that thread; the connections (one blocking
// one for each queue, one for everything else) only post their replies to it.
//
// A task moves, in one step of Redis, from its queue to the held list of this
// worker, and leaves that only when it is acked or given back. A held list has
// a lease in the sorted set `holders`, registered before the first move and
// renewed by this thread, whatever the handlers do. When it ends, any other
// worker condemns the holder (moves it from `holders` to `dead holders`) and
// moves what it held to the front of the queue. Why nothing is lost:
//
//  * Killed at any point: the task is in the queue or in the held list, and the
//    held list is named in `holders` since before the first move.
//  * Alive but late (a paused machine): the renewal finds no holder, since only
//    the condemnation takes it out. This worker then begins a new generation
//    with new held lists; acks of the old one are dropped, what the old lists
//    still hold goes back to the queues. A move by script looks for the holder
//    itself. The blocking move cannot: it may still come to a list that was
//    emptied. So it waits for a second at most, is not begun when the last
//    renewal is older than half a lease, and a dead holder is visited for an
//    hour, not only until its list is empty.
//  * A lost reply: whether a move or an ack took place is then unknown. Nothing
//    more is moved until the held list was read and compared with what is known
//    here: what is there and unknown is delivered, an ack that did not arrive
//    is sent again. It is read once more when no packet of the lost connection
//    can still be on its way.

#ifndef PENSTOCK_QUEUE_REDIS_CONSUMER_H_
#define PENSTOCK_QUEUE_REDIS_CONSUMER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "queue/broker.h"
#include "queue/callback.h"
#include "queue/environment.h"
#include "queue/mailbox.h"
#include "queue/redis/connection.h"

namespace penstock {

// Where a queue's tasks are while they are worked on. All in the queue's slot.
struct RedisQueueKeys {
  std::string queue;
  std::string held;     // without the token of its worker
  std::string holders;  // held lists by the end of their lease, in ms
  std::string dead;     // condemned ones by when that was, in ms
};
RedisQueueKeys KeysOfQueue(const std::string& queue);

class RedisConsumer : public Consumer {
 public:
  struct Options {
    RedisAddress address;
    ConsumeOptions consume;  // with at least one queue
    absl::Duration lease;
    absl::Duration block;  // how long a move waits for a task; at most 1 s
  };

  // `environment` is not owned and must outlive the consumer.
  RedisConsumer(Options options, absl::AnyInvocable<void(Delivery)> on_delivery,
                Environment* environment);

  // Sends the acks that were given and gives back what is held, within some 2
  // seconds even when the server hangs. Not from `on_delivery`.
  ~RedisConsumer() override;

  void Ack(DeliveryTag tag) override;
  void Return(DeliveryTag tag) override;
  void Pause() override;
  void Resume() override;
  void SetPrefetch(int prefetch) override;
  void Stop(Done done) override;
  absl::Status Health() override;

 private:
  using Reply = absl::StatusOr<RedisReply>;

  // An ack or a return that was sent.
  struct Settlement {
    bool returned = false;
    std::string body;
  };

  // What came of a queue and goes back to it. Owner thread only.
  struct Source {
    RedisQueueKeys keys;
    std::string held;  // this generation's list
    std::unique_ptr<RedisConnection> pop;

    std::map<uint64_t, std::string> unacked;  // by tag
    std::vector<uint64_t> returns;            // to be sent this turn
    std::map<uint64_t, Settlement> settling;  // sent, not answered
    std::vector<Settlement> unsettled;        // whose answer was lost

    bool registered = false;
    absl::Duration held_since;  // when the last good renewal was sent
    absl::Duration renew_at;
    absl::Duration take_over_at;
    absl::Duration retry_at;  // nothing is taken before
    absl::Duration recheck_at = absl::InfiniteDuration();
    bool full = false;       // the last look found a task: there may be more
    bool doubt = false;      // the held list must be read
    bool stray = false;      // a blocking move of this generation has no answer
    int64_t pop_client = 0;  // the blocking connection, as CLIENT UNBLOCK says
    // Sent, not answered.
    bool renewing = false;
    bool popping = false;
    bool taking = false;
    bool checking = false;
    bool taking_over = false;
    std::set<std::string> logged;  // of this outage: one line for each failure
    std::string failure;           // of the renewal, the last; empty: none
  };

  void Post(Closure step);
  void Run(const std::stop_token& stop);
  void RunSteps(absl::Duration until);
  void Turn();
  void LookAtHealth();
  absl::Duration NextTurn() const;
  void SayGoodbye();

  void Send(std::vector<std::string> words, const RedisScript* script,
            absl::AnyInvocable<void(Reply) &&> then);
  void Settle(DeliveryTag tag, bool returned);
  void SendSettlement(Source& source, Settlement settlement);
  void SendReturns(Source& source);
  void Hold(Source& source);
  void OnHeld(Source& source, bool first, absl::Duration sent, Reply reply);
  void Take(Source& source);
  void SendPop(Source& source);
  void OnPopped(Source& source, Reply reply);
  void SendTake(Source& source, int count);
  void OnTaken(Source& source, Reply reply);
  void Check(Source& source);
  void OnChecked(Source& source, Reply reply);
  void TakeOver(Source& source);
  void OnTakenOver(Source& source, Reply reply);
  void Deliver(Source& source, std::string body);
  void Unblock();
  void LoseLease(Source& source);
  void EndGeneration();
  void Release(Source& source, Done done);
  void Doubt(Source& source, const absl::Status& why);

  bool WantsDeliveries() const { return !paused_ && !stopped_ && !closing_; }
  bool Moving() const;
  bool IsQuiet(const Source& source) const;
  void CompleteStop();

  // Constant after construction.
  const Options options_;
  Environment* const environment_;

  Mailbox<Closure> mailbox_;  // synchronises itself

  absl::Mutex mu_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);

  // Owner thread only.
  absl::AnyInvocable<void(Delivery)> on_delivery_;
  uint64_t generation_ = 1;
  uint64_t next_tag_ = 0;
  uint64_t next_settlement_ = 0;
  int prefetch_;
  bool paused_ = false;
  bool stopped_ = false;
  bool closing_ = false;
  bool lease_lost_ = false;  // the generation ends when all is answered
  std::vector<Done> stop_done_;
  std::vector<Source> sources_;
  std::unique_ptr<RedisConnection> connection_;

  std::jthread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_CONSUMER_H_
