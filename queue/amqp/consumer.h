// The thread `amqp-consume`: one connection that takes deliveries from the
// worker's queues and acks them. Other threads only put tags into its mailbox.
// Follows docs/architecture.md section 9 and docs/wire-format.md (consuming).

#ifndef PENSTOCK_QUEUE_AMQP_CONSUMER_H_
#define PENSTOCK_QUEUE_AMQP_CONSUMER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "queue/amqp/connection.h"
#include "queue/broker.h"
#include "queue/callback.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/mailbox.h"

namespace penstock {

// What was delivered on one connection and is not finished. Tags count from 1
// there, without gaps. Owner thread only.
class UnackedTags {
 public:
  // An ack frame that is due.
  struct Ack {
    uint64_t tag = 0;
    bool multiple = false;  // and all below it

    bool operator==(const Ack&) const = default;
  };

  uint64_t next() const { return first_ + states_.size(); }
  void DeliverNext() { states_.push_back(State::kHeld); }

  // False, and nothing happens, when `tag` is not held: never delivered, or
  // finished before.
  bool Finish(uint64_t tag);  // acked; its frame is due
  bool Return(uint64_t tag);  // no ack covers it; the caller sends the frame

  void ReturnSent(uint64_t tag);  // from now on one may

  // At most `limit` frames: `multiple` up to the highest tag below which every
  // one is finished, the others singly, so that none waits behind a long one.
  std::vector<Ack> TakeDue(size_t limit);
  bool HasDue() const { return !due_.empty(); }

 private:
  enum class State : uint8_t { kHeld, kReturning, kDue, kDone };

  State* Find(uint64_t tag);

  uint64_t first_ = 1;  // tag of the front
  std::deque<State> states_;
  std::deque<uint64_t> due_;  // some of them covered by a multiple since
};

class AmqpConsumer : public Consumer {
 public:
  // `options` as Consume's, with at least one queue and a tag. `environment` is
  // not owned and must outlive the consumer.
  AmqpConsumer(AmqpAddress address, Options options, ConsumeOptions consume,
               absl::AnyInvocable<void(Delivery)> on_delivery,
               Environment* environment);

  // Sends the acks that were given, closes and joins, within some 2 seconds
  // even when the server hangs. Not from `on_delivery`.
  ~AmqpConsumer() override;

  void Ack(DeliveryTag tag) override;
  void Return(DeliveryTag tag) override;
  void Pause() override;
  void Resume() override;
  void SetPrefetch(int prefetch) override;
  void Stop(Done done) override;
  absl::Status Health() override;

 private:
  struct Command {
    enum Kind : uint8_t {
      kAck, kReturn, kPause, kResume, kPrefetch, kStop
    } kind;
    DeliveryTag tag;
    int prefetch = 0;  // kPrefetch
    Done done;  // kStop
  };

  // One queue's consumer at the server.
  struct Source {
    std::string queue;
    std::string consumer_tag;  // of the first time: see TagOf
  };

  // A delivery of which not all frames have come.
  struct Incoming {
    Delivery delivery;
    uint64_t body_left = 0;
    bool has_header = false;
  };

  void Put(Command command);
  void SetHealth(absl::Status health);
  void Run(const std::stop_token& stop);
  absl::Status Connect(const std::stop_token& stop);
  absl::Status Serve(const std::stop_token& stop);
  void AwaitNextTry(const std::stop_token& stop);
  void SayGoodbye();
  void Forget();

  void TakeCommands();
  absl::Status ReadFrames();
  absl::Status HandleMethod(const amqp_frame_t& frame);
  absl::Status HandOut(Delivery delivery);
  std::string TagOf(const Source& source) const;
  absl::string_view QueueOf(amqp_bytes_t consumer_tag) const;

  bool WantsDeliveries() const { return !paused_ && !stopped_; }
  bool MustConsumeAnew() const {
    return consuming_ && consumed_prefetch_ != prefetch_;
  }
  bool HasOutput() const;
  absl::Status Send();
  absl::Status SendConsume();
  absl::Status SendCancel();
  absl::Status SendReturns(size_t* budget);
  absl::Status SendAcks(size_t* budget);
  void CompleteStop();

  // Constant after construction.
  const AmqpAddress address_;
  const Options options_;
  const ConsumeOptions consume_;
  std::vector<Source> sources_;
  Environment* const environment_;
  const std::shared_ptr<SocketGuard> guard_;

  // Synchronise themselves.
  Waker waker_;
  Mailbox<Command> mailbox_;
  absl::Notification ended_;

  absl::Mutex mu_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);

  // Owner thread only.
  absl::AnyInvocable<void(Delivery)> on_delivery_;
  std::unique_ptr<AmqpConnection> connection_;
  Attempts attempts_;
  uint64_t generation_ = 0;
  UnackedTags unacked_;
  std::deque<uint64_t> returns_;
  std::optional<Incoming> incoming_;
  bool paused_ = false;
  bool stopped_ = false;
  bool stop_completed_ = false;
  std::vector<Done> stop_done_;
  int prefetch_;  // that is wanted
  bool consuming_ = false;
  int consumed_prefetch_ = 0;  // with which it consumes
  int consumes_ = 0;  // how often, on this connection
  size_t cancels_ = 0;  // sent, without their answer

  std::jthread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_CONSUMER_H_
