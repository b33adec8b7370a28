// The thread `amqp-publish`: one connection in confirm mode, a window of
// messages that RabbitMQ has not confirmed yet, and the mailbox in front of it.
// Never blocks on a full socket: it writes what poll() has room for, large
// bodies piece by piece. A message may bring the queue that it goes to: a dead
// letter, a delayed task, a state (the result backend has a publisher of its
// own). Follows docs/architecture.md section 9 and docs/wire-format.md.

#ifndef PENSTOCK_QUEUE_AMQP_PUBLISHER_H_
#define PENSTOCK_QUEUE_AMQP_PUBLISHER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "queue/amqp/connection.h"
#include "queue/amqp/topology.h"
#include "queue/broker.h"
#include "queue/callback.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/mailbox.h"

namespace penstock {

// What a publisher is for.
struct PublisherRole {
  std::string name = "publisher";  // in logs and RabbitMQ's tools
  std::string thread = "amqp-publish";
  std::vector<std::string> queues;  // declared as a worker's
};

class AmqpPublisher {
 public:
  // `environment` is not owned and must outlive the publisher.
  AmqpPublisher(AmqpAddress address, Options options, PublisherRole role,
                Environment* environment);

  // Fails what is pending and ends the thread, within some 2 seconds even when
  // the server hangs.
  ~AmqpPublisher();
  AmqpPublisher(const AmqpPublisher&) = delete;
  AmqpPublisher& operator=(const AmqpPublisher&) = delete;

  // As Broker's. Thread-safe.
  void Publish(Message message, Done done);
  void PublishDead(std::string queue, std::string body, std::string reason,
                   Done done);
  // Declares machinery's delay queue and publishes into it.
  void PublishAt(Message message, absl::Time due, Done done);
  // Declares `queue` and publishes `body` straight into it. INTERNAL: the
  // server refuses this queue.
  void PublishInto(QueueSpec queue, std::string body, Done done);
  absl::Status Health();

  // Ends the thread; what is put from now on waits for FailLeftovers, which
  // says whether there was any. Idempotent; the destructor does both.
  void Stop();
  bool FailLeftovers();

 private:
  // A message before it is sent.
  struct Item {
    Message message;
    Done done;
    absl::Time deadline;
    bool dead = false;
    std::optional<absl::Time> due = std::nullopt;
    // The queue that must be declared first, and where the message goes then.
    std::optional<QueueSpec> queue = std::nullopt;
    bool declared = false;                           // on this connection
    absl::Time declare_time = absl::InfinitePast();  // when that was sent
    absl::Duration delay;                            // of the delay queue
  };

  // A message that was sent and is not confirmed. Without `done` it is settled.
  struct Unconfirmed {
    std::string task_id;
    std::string routing_key;  // or the queue, if sent straight to it
    Done done;
    absl::Time deadline;
    bool to_queue = false;
    bool returned = false;
    bool dead = false;
    bool settled = false;  // by the server, not by its deadline
    // A delayed message as it was, without `done`, and when its queue may go.
    std::unique_ptr<Item> again;
    absl::Time good_until = absl::InfiniteFuture();
  };

  // A body that is sent in pieces.
  struct Partial {
    std::string body;
    size_t sent = 0;
  };

  // A basic.return of which not all frames have come.
  struct Return {
    std::string exchange;
    std::string routing_key;
    std::string task_id;
    uint64_t body_left = 0;
  };

  void Run(const std::stop_token& stop);
  absl::Status Connect(const std::stop_token& stop);
  absl::Status Serve(const std::stop_token& stop);
  void AwaitNextTry(const std::stop_token& stop);

  void TakeMail();
  absl::Status ReadFrames();
  absl::Status HandleMethod(const amqp_frame_t& frame);
  absl::Status HandleDeclareMethod(const amqp_frame_t& frame);
  void HandleReturn(Return returned);
  void Settle(uint64_t tag, bool multiple, bool ack);
  void SettleOne(Unconfirmed& message, bool ack);

  bool MaySend() const;
  absl::Status Send(size_t budget);
  absl::Status Flush();
  absl::Status SendPiece(size_t* budget);
  absl::Status SendNext(size_t* budget);
  bool NeedsDeclare(Item& item);
  absl::Status SendDeclaration(Item item, size_t* budget);
  void Declared();
  absl::Status DeclareRefused(const amqp_frame_t& frame);
  bool TryAgain(Unconfirmed& message);
  void TakeShort();
  absl::Time NextWake() const;
  void FillProperties(const Item& item);

  void Expire();
  void Answer(Done& done, absl::Status status);
  void FailUnconfirmed(const absl::Status& why);
  void FailWaiting(const absl::Status& why);
  void SetHealth(absl::Status health);

  // Constant after construction.
  const AmqpAddress address_;
  const Options options_;
  const PublisherRole role_;
  Environment* const environment_;
  const std::string default_routing_key_;
  const std::shared_ptr<SocketGuard> guard_;

  // Synchronise themselves.
  Waker waker_;
  Mailbox<Item> mailbox_;
  absl::Notification ended_;

  absl::Mutex mu_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);

  // Owner thread only.
  std::unique_ptr<AmqpConnection> connection_;
  Attempts attempts_;
  std::deque<Item> waiting_;    // to be sent, in order
  std::deque<Item> ready_;      // declared: before those
  std::deque<Item> held_;       // for the time without a channel to declare on
  std::deque<Item> declaring_;  // sent declares without their answers, in order
  std::vector<Item> short_;  // delayed for less than a delay queue is good for
  std::deque<Unconfirmed> window_;
  uint64_t first_tag_ = 1;  // of window_'s front
  size_t unanswered_ = 0;   // in window_, with a `done`
  std::string burst_;  // frames to be written before Send returns
  std::optional<Partial> partial_;
  std::optional<Return> return_;
  absl::Time next_expiry_ = absl::InfiniteFuture();
  bool blocked_ = false;

  std::set<std::string> dead_declared_;  // dead letter queues
  bool half_declared_ =
      false;  // the front of declaring_ lacks its bind-ok only
  bool declare_channel_open_ = false;

  // The properties of the message that is being sent; kept for their memory.
  amqp_basic_properties_t properties_{};
  std::vector<std::string> header_texts_;
  std::vector<amqp_table_entry_t> header_entries_;

  std::jthread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_PUBLISHER_H_
