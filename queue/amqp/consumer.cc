// See consumer.h. Everything but the constructor, the destructor and the
// calls of Consumer runs on the thread `amqp-consume`. Nothing waits for an
// answer there: cancels and consumes are sent, and their answers are frames.

#include "queue/amqp/consumer.h"

#include <amqp_framing.h>
#include <pthread.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/amqp/topology.h"

namespace penstock {
namespace {

constexpr int kFramesPerTurn = 256;
// Of some 30 bytes: they fit where poll() says that there is room.
constexpr size_t kOutputFramesPerTurn = 64;
constexpr absl::Duration kGoodbye = absl::Milliseconds(1'000);
constexpr absl::Duration kShutdownLimit = absl::Milliseconds(1'800);
// A body's size is the sender's word; memory beyond this is taken as it comes.
constexpr uint64_t kMostReserved = 32 << 20;

}  // namespace

UnackedTags::State* UnackedTags::Find(uint64_t tag) {
  if (tag < first_ || tag - first_ >= states_.size()) return nullptr;
  return &states_[tag - first_];
}

bool UnackedTags::Finish(uint64_t tag) {
  State* state = Find(tag);
  if (state == nullptr || *state != State::kHeld) return false;
  *state = State::kDue;
  due_.push_back(tag);
  return true;
}

bool UnackedTags::Return(uint64_t tag) {
  State* state = Find(tag);
  if (state == nullptr || *state != State::kHeld) return false;
  *state = State::kReturning;
  return true;
}

void UnackedTags::ReturnSent(uint64_t tag) {
  *Find(tag) = State::kDone;
  while (!states_.empty() && states_.front() == State::kDone) {
    states_.pop_front();
    ++first_;
  }
}

std::vector<UnackedTags::Ack> UnackedTags::TakeDue(size_t limit) {
  std::vector<Ack> acks;
  Ack front;
  size_t covered = 0;
  while (!states_.empty() && states_.front() >= State::kDue) {
    if (states_.front() == State::kDue) {
      front.tag = first_;
      ++covered;
    }
    states_.pop_front();
    ++first_;
  }
  if (covered > 0) {
    front.multiple = covered > 1;
    acks.push_back(front);
  }
  while (!due_.empty() && acks.size() < limit) {
    const uint64_t tag = due_.front();
    due_.pop_front();
    State* state = Find(tag);
    if (state == nullptr) continue;
    *state = State::kDone;
    acks.push_back({.tag = tag});
  }
  return acks;
}

AmqpConsumer::AmqpConsumer(AmqpAddress address, Options options,
                           ConsumeOptions consume,
                           absl::AnyInvocable<void(Delivery)> on_delivery,
                           Environment* environment)
    : address_(std::move(address)),
      options_(std::move(options)),
      consume_(std::move(consume)),
      environment_(environment),
      guard_(SocketGuard::Make(environment)),
      mailbox_([this] { waker_.Signal(); }),
      health_(BrokerUnavailable("not connected to RabbitMQ yet")),
      on_delivery_(std::move(on_delivery)),
      attempts_("consumer", address_.Name(), environment),
      prefetch_(consume_.prefetch) {
  for (const std::string& queue : consume_.queues) {
    sources_.push_back(
        {.queue = queue,
         .consumer_tag =
             consume_.queues.size() == 1
                 ? consume_.consumer_tag
                 : absl::StrCat(consume_.consumer_tag, "/", queue)});
  }
  thread_ = std::jthread([this](std::stop_token stop) { Run(stop); });
}

AmqpConsumer::~AmqpConsumer() {
  thread_.request_stop();
  waker_.Signal();
  if (!ended_.WaitForNotificationWithTimeout(kShutdownLimit)) guard_->End();
  thread_.join();
  // A Stop that came while the thread ended.
  TakeCommands();
  CompleteStop();
}

void AmqpConsumer::Put(Command command) {
  // The mailbox is never closed.
  (void)mailbox_.Put(std::move(command));
}

void AmqpConsumer::Ack(DeliveryTag tag) {
  Put({.kind = Command::kAck, .tag = tag});
}
void AmqpConsumer::Return(DeliveryTag tag) {
  Put({.kind = Command::kReturn, .tag = tag});
}
void AmqpConsumer::Pause() { Put({.kind = Command::kPause}); }
void AmqpConsumer::Resume() { Put({.kind = Command::kResume}); }
void AmqpConsumer::SetPrefetch(int prefetch) {
  Put({.kind = Command::kPrefetch, .prefetch = prefetch});
}
void AmqpConsumer::Stop(Done done) {
  Put({.kind = Command::kStop, .done = std::move(done)});
}

absl::Status AmqpConsumer::Health() {
  absl::MutexLock lock(&mu_);
  return health_;
}

void AmqpConsumer::SetHealth(absl::Status health) {
  absl::MutexLock lock(&mu_);
  health_ = std::move(health);
}

void AmqpConsumer::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "amqp-consume");
  while (!stop.stop_requested()) {
    if (stopped_) {  // nothing to connect for
      TakeCommands();
      CompleteStop();
      waker_.Sleep(absl::Minutes(1));
      continue;
    }
    absl::Status status = Connect(stop);
    if (status.ok()) {
      attempts_.Connected();
      SetHealth(absl::OkStatus());
      status = Serve(stop);
    }
    if (stop.stop_requested()) break;
    SetHealth(status);
    attempts_.Ended(status);
    if (connection_ != nullptr) connection_->Close(kGoodbye);
    Forget();
    AwaitNextTry(stop);
  }
  SayGoodbye();
  Forget();
  stopped_ = true;
  CompleteStop();
  ended_.Notify();
}

// What belonged to the connection: the server delivers again what was unacked.
void AmqpConsumer::Forget() {
  connection_.reset();
  unacked_ = UnackedTags();
  returns_.clear();
  incoming_.reset();
  consuming_ = false;
  consumes_ = 0;
  cancels_ = 0;
}

absl::Status AmqpConsumer::Connect(const std::stop_token& stop) {
  auto connection = AmqpConnection::Open(address_, "penstock consumer",
                                         guard_.get(), &waker_, stop);
  if (!connection.ok()) return connection.status();
  connection_ = *std::move(connection);
  if (auto status = DeclareTopology(*connection_, options_, consume_.queues);
      !status.ok()) {
    return status;
  }
  ++generation_;
  return absl::OkStatus();
}

absl::Status AmqpConsumer::Serve(const std::stop_token& stop) {
  bool writable = false;
  while (!stop.stop_requested()) {
    if (auto status = ReadFrames(); !status.ok()) return status;
    TakeCommands();
    if (writable) {
      if (auto status = Send(); !status.ok()) return status;
    }
    if (stopped_ && !consuming_ && cancels_ == 0) CompleteStop();
    writable =
        connection_->Wait(absl::InfiniteDuration(), HasOutput()).writable;
  }
  return absl::OkStatus();
}

void AmqpConsumer::AwaitNextTry(const std::stop_token& stop) {
  const absl::Time until = absl::Now() + attempts_.Pause();
  while (!stop.stop_requested()) {
    TakeCommands();
    if (stopped_) return;
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    waker_.Sleep(left);
  }
}

// Acks that were given before the destructor must arrive. A socket that closes
// with something unread resets the connection and may lose them, so the
// connection is closed by its protocol.
void AmqpConsumer::SayGoodbye() {
  TakeCommands();
  if (connection_ == nullptr) return;
  const absl::Time give_up = absl::Now() + kGoodbye;
  while ((unacked_.HasDue() || !returns_.empty()) && absl::Now() < give_up) {
    if (!connection_->Wait(absl::Milliseconds(100), true).writable) continue;
    size_t budget = kOutputFramesPerTurn;
    if (!SendReturns(&budget).ok() || !SendAcks(&budget).ok()) return;
  }
  connection_->Close(std::max(give_up - absl::Now(), absl::Milliseconds(100)));
}

void AmqpConsumer::TakeCommands() {
  for (Command& command : mailbox_.Take()) {
    const bool current = command.tag.generation == generation_;
    switch (command.kind) {
      case Command::kAck:
        if (current) unacked_.Finish(command.tag.tag);
        break;
      case Command::kReturn:
        if (current && unacked_.Return(command.tag.tag)) {
          returns_.push_back(command.tag.tag);
        }
        break;
      case Command::kPause:
        paused_ = true;
        break;
      case Command::kResume:
        paused_ = false;
        break;
      case Command::kPrefetch:
        prefetch_ = command.prefetch;
        break;
      case Command::kStop:
        stopped_ = true;
        stop_done_.push_back(std::move(command.done));
        break;
    }
  }
}

void AmqpConsumer::CompleteStop() {
  stop_completed_ = stopped_;
  std::vector<Done> done;
  done.swap(stop_done_);
  for (Done& each : done) std::move(each)(absl::OkStatus());
}

absl::Status AmqpConsumer::ReadFrames() {
  WakeLater later;
  for (int i = 0; i < kFramesPerTurn; ++i) {
    const absl::StatusOr<const amqp_frame_t*> next = connection_->NextFrame();
    if (!next.ok()) return next.status();
    if (*next == nullptr) break;
    const amqp_frame_t& frame = **next;
    if (frame.frame_type == AMQP_FRAME_METHOD) {
      if (auto status = HandleMethod(frame); !status.ok()) return status;
    } else if (frame.frame_type == AMQP_FRAME_HEADER && incoming_) {
      incoming_->has_header = true;
      incoming_->body_left = frame.payload.properties.body_size;
      incoming_->delivery.body.reserve(
          std::min(incoming_->body_left, kMostReserved));
    } else if (frame.frame_type == AMQP_FRAME_BODY && incoming_) {
      const amqp_bytes_t piece = frame.payload.body_fragment;
      // Copied: the library reuses its memory at the next frame.
      incoming_->delivery.body.append(static_cast<const char*>(piece.bytes),
                                      piece.len);
      incoming_->body_left -=
          std::min<uint64_t>(incoming_->body_left, piece.len);
    }
    if (incoming_ && incoming_->has_header && incoming_->body_left == 0) {
      Delivery delivery = std::move(incoming_->delivery);
      incoming_.reset();
      if (auto status = HandOut(std::move(delivery)); !status.ok()) {
        return status;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status AmqpConsumer::HandOut(Delivery delivery) {
  if (delivery.tag.tag != unacked_.next()) {
    return connection_->Error("delivery tags do not count without gaps");
  }
  unacked_.DeliverNext();
  if (stop_completed_) {
    // The server cancelled first and delivered then; nobody takes it here.
    unacked_.Return(delivery.tag.tag);
    returns_.push_back(delivery.tag.tag);
    return absl::OkStatus();
  }
  on_delivery_(std::move(delivery));
  return absl::OkStatus();
}

// Each time it consumes another one: a quorum queue may still know a cancelled
// consumer, by what it holds.
std::string AmqpConsumer::TagOf(const Source& source) const {
  return consumes_ <= 1 ? source.consumer_tag
                        : absl::StrCat(consumes_, "~", source.consumer_tag);
}

// Of any time's tag: what was on its way when it was cancelled still comes.
absl::string_view AmqpConsumer::QueueOf(amqp_bytes_t consumer_tag) const {
  const absl::string_view tag = ToView(consumer_tag);
  const size_t mark = tag.find('~');
  for (const Source& source : sources_) {
    if (tag == source.consumer_tag ||
        (mark != tag.npos && tag.substr(mark + 1) == source.consumer_tag)) {
      return source.queue;
    }
  }
  return "";
}

absl::Status AmqpConsumer::HandleMethod(const amqp_frame_t& frame) {
  const amqp_method_t& method = frame.payload.method;
  switch (method.id) {
    case AMQP_BASIC_DELIVER_METHOD: {
      const auto* deliver = static_cast<amqp_basic_deliver_t*>(method.decoded);
      incoming_.emplace();
      incoming_->delivery.tag = {.generation = generation_,
                                 .tag = deliver->delivery_tag};
      incoming_->delivery.redelivered = deliver->redelivered != 0;
      incoming_->delivery.queue = std::string(QueueOf(deliver->consumer_tag));
      return absl::OkStatus();
    }
    case AMQP_BASIC_CANCEL_OK_METHOD:
      if (cancels_ > 0) --cancels_;
      return absl::OkStatus();
    case AMQP_BASIC_CANCEL_METHOD: {
      // Not acked anyhow, but what runs from the other queues can still be.
      if (!WantsDeliveries()) return absl::OkStatus();
      const auto* cancel = static_cast<amqp_basic_cancel_t*>(method.decoded);
      return connection_->Error(
          absl::StrCat("queue \"", QueueOf(cancel->consumer_tag),
                       "\" was deleted or its node is gone"));
    }
    case AMQP_CHANNEL_CLOSE_METHOD:
      return connection_->Error(
          absl::StrCat("closed the channel: ", CloseText(frame)));
    default:
      return absl::OkStatus();
  }
}

bool AmqpConsumer::HasOutput() const {
  return unacked_.HasDue() || !returns_.empty() || MustConsumeAnew() ||
         consuming_ != WantsDeliveries();
}

absl::Status AmqpConsumer::Send() {
  // A pause before acks: they must not draw in the deliveries that it is
  // against.
  if (MustConsumeAnew()) {
    if (auto status = SendCancel(); !status.ok()) return status;
  }
  if (consuming_ != WantsDeliveries()) {
    auto status = consuming_ ? SendCancel() : SendConsume();
    if (!status.ok()) return status;
  }
  size_t budget = kOutputFramesPerTurn;
  if (auto status = SendReturns(&budget); !status.ok()) return status;
  return SendAcks(&budget);
}

absl::Status AmqpConsumer::SendReturns(size_t* budget) {
  while (!returns_.empty() && *budget > 0) {
    const uint64_t tag = returns_.front();
    returns_.pop_front();
    unacked_.ReturnSent(tag);
    --*budget;
    if (auto status = connection_->SendStatus(amqp_basic_nack(
            connection_->handle(), AmqpConnection::kChannel, tag,
            /*multiple=*/0, /*requeue=*/1));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status AmqpConsumer::SendAcks(size_t* budget) {
  // At zero it would still send the one that covers several.
  if (!unacked_.HasDue() || *budget == 0) return absl::OkStatus();
  for (const UnackedTags::Ack& ack : unacked_.TakeDue(*budget)) {
    if (auto status = connection_->SendStatus(
            amqp_basic_ack(connection_->handle(), AmqpConnection::kChannel,
                           ack.tag, ack.multiple));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status AmqpConsumer::SendConsume() {
  // Of the consumers that come after it.
  amqp_basic_qos_t qos{};
  qos.prefetch_count = static_cast<uint16_t>(prefetch_);
  if (auto status = connection_->SendStatus(
          amqp_send_method(connection_->handle(), AmqpConnection::kChannel,
                           AMQP_BASIC_QOS_METHOD, &qos));
      !status.ok()) {
    return status;
  }
  consumed_prefetch_ = prefetch_;
  ++consumes_;
  for (const Source& source : sources_) {
    const std::string tag = TagOf(source);
    amqp_basic_consume_t consume{};
    consume.queue = ToBytes(source.queue);
    consume.consumer_tag = ToBytes(tag);
    if (auto status = connection_->SendStatus(
            amqp_send_method(connection_->handle(), AmqpConnection::kChannel,
                             AMQP_BASIC_CONSUME_METHOD, &consume));
        !status.ok()) {
      return status;
    }
  }
  consuming_ = true;
  return absl::OkStatus();
}

absl::Status AmqpConsumer::SendCancel() {
  for (const Source& source : sources_) {
    const std::string tag = TagOf(source);
    amqp_basic_cancel_t cancel{};
    cancel.consumer_tag = ToBytes(tag);
    if (auto status = connection_->SendStatus(
            amqp_send_method(connection_->handle(), AmqpConnection::kChannel,
                             AMQP_BASIC_CANCEL_METHOD, &cancel));
        !status.ok()) {
      return status;
    }
    ++cancels_;
  }
  consuming_ = false;
  return absl::OkStatus();
}

}  // namespace penstock
