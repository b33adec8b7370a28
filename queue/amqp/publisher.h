// The thread `amqp-publish`: one connection in confirm mode, a window of
// messages that RabbitMQ has not confirmed yet, and the mailbox in front of it.
// Never blocks on a full socket: it writes what poll() has room for, large
// bodies piece by piece. Follows docs/architecture.md section 9 and
// docs/wire-format.md (publishing).

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
#include "queue/broker.h"
#include "queue/callback.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/mailbox.h"

namespace penstock {

class AmqpPublisher {
 public:
  // `environment` is not owned and must outlive the publisher.
  AmqpPublisher(AmqpAddress address, Options options, Environment* environment);

  // Fails what is pending and ends the thread, within some 2 seconds even when
  // the server hangs.
  ~AmqpPublisher();
  AmqpPublisher(const AmqpPublisher&) = delete;
  AmqpPublisher& operator=(const AmqpPublisher&) = delete;

  // As Broker's. Thread-safe.
  void Publish(Message message, Done done);
  void PublishDead(std::string queue, std::string body, std::string reason,
                   Done done);
  absl::Status Health();

 private:
  // A message before it is sent.
  struct Item {
    Message message;
    Done done;
    absl::Time deadline;
    bool dead = false;  // its queue must be declared first
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
  absl::Status SendPiece(size_t* budget);
  absl::Status SendNext(size_t* budget);
  absl::Status DeclareNextDeadQueue();
  void FillProperties(const Item& item);

  void Expire();
  void Answer(Done& done, absl::Status status);
  void FailUnconfirmed(const absl::Status& why);
  void FailWaiting(const absl::Status& why);
  void SetHealth(absl::Status health);

  // Constant after construction.
  const AmqpAddress address_;
  const Options options_;
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
  Backoff backoff_;
  std::deque<Item> waiting_;  // to be sent, in order
  std::deque<Item> held_;     // dead letters whose queue is not declared yet
  std::deque<Unconfirmed> window_;
  uint64_t first_tag_ = 1;  // of window_'s front
  size_t unanswered_ = 0;   // in window_, with a `done`
  std::optional<Partial> partial_;
  std::optional<Return> return_;
  absl::Time next_expiry_ = absl::InfiniteFuture();
  bool blocked_ = false;

  std::set<std::string> declared_;  // dead letter queues
  std::string declaring_;
  bool declare_channel_open_ = false;

  // The properties of the message that is being sent; kept for their memory.
  amqp_basic_properties_t properties_{};
  std::vector<std::string> header_texts_;
  std::vector<amqp_table_entry_t> header_entries_;

  std::jthread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_PUBLISHER_H_
