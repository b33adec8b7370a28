// See publisher.h. Everything private runs on the thread `amqp-publish`, and
// nothing else does.

#include "queue/amqp/publisher.h"

#include <amqp_framing.h>
#include <pthread.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "queue/amqp/frames.h"
#include "queue/errors.h"
#include "queue/json.h"

namespace penstock {
namespace {

// Measured: quorum queues take 4 % more than with 512, classic ones as many.
constexpr size_t kWindow = 1024;
// Confirms that never come (a queue without its majority) do not fill the
// window, since their messages are answered at their deadline; but at this
// number the connection is given up.
constexpr size_t kMostUnconfirmed = 16'384;
constexpr int kFramesPerTurn = 256;
constexpr size_t kMaxShortString = 255;  // AMQP's, for keys and ids
constexpr size_t kMaxHeaders = 32'768;   // bytes; all must go in one frame
constexpr size_t kFrameOverhead = 512;   // of a message without headers
constexpr absl::Duration kConfirmTimeout = absl::Seconds(5);
// Deadlines are looked at in steps, so that many different ones cost no scan
// each.
constexpr absl::Duration kExpiryStep = absl::Milliseconds(10);
// A message that waits while there is no connection cuts the back-off to this.
constexpr absl::Duration kDemandBackoff = absl::Milliseconds(250);
// A delay queue that stands for less than this could expire before its message
// does: the publisher itself keeps such a message until it is due.
constexpr absl::Duration kShortDelay = absl::Milliseconds(250);
constexpr absl::Duration kGoodbye = absl::Milliseconds(500);
constexpr absl::Duration kShutdownLimit = absl::Milliseconds(1'500);

// Declares go through a channel of their own: a refused one closes its channel,
// and with it would go all confirms that are outstanding there.
constexpr amqp_channel_t kDeclareChannel = 2;

constexpr absl::string_view kReasonHeader = "penstock-reason";

absl::Status QueueNotFound(absl::string_view text) {
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   reason::kQueueNotFound, std::string(text));
}

absl::Status ConfirmTimeout(absl::string_view text) {
  return MakeError(absl::StatusCode::kDeadlineExceeded, reason::kConfirmTimeout,
                   std::string(text));
}

absl::Status Unroutable(bool to_queue, absl::string_view key) {
  return QueueNotFound(
      to_queue ? absl::StrCat("there is no queue \"", key, "\"")
               : absl::StrCat("no queue takes the routing key \"", key, "\""));
}

// The AMQP value of a header's JSON text, which `texts` may have to hold; false
// for what has none: it is only in the body then.
bool HeaderValue(const std::string& json, std::vector<std::string>& texts,
                 amqp_field_value_t& value) {
  if (json == "true" || json == "false") {
    value.kind = AMQP_FIELD_KIND_BOOLEAN;
    value.value.boolean = json == "true";
    return true;
  }
  if (absl::StartsWith(json, "\"")) {
    std::optional<std::string> text = ParseJsonString(json);
    if (!text) return false;
    texts.push_back(*std::move(text));
    value.kind = AMQP_FIELD_KIND_UTF8;
    value.value.bytes = ToBytes(texts.back());
    return true;
  }
  value.kind = AMQP_FIELD_KIND_I64;
  return absl::SimpleAtoi(json, &value.value.i64);
}

}  // namespace

AmqpPublisher::AmqpPublisher(AmqpAddress address, Options options,
                             PublisherRole role, Environment* environment)
    : address_(std::move(address)),
      options_(std::move(options)),
      role_(std::move(role)),
      environment_(environment),
      default_routing_key_(AmqpDefaultRoutingKey(options_)),
      guard_(SocketGuard::Make(environment)),
      mailbox_([this] { waker_.Signal(); }),
      health_(BrokerUnavailable("not connected to RabbitMQ yet")),
      attempts_(role_.name, address_.Name(), environment),
      thread_([this](std::stop_token stop) { Run(stop); }) {}

AmqpPublisher::~AmqpPublisher() {
  Stop();
  while (FailLeftovers()) {
  }
}

void AmqpPublisher::Stop() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  waker_.Signal();
  if (!ended_.WaitForNotificationWithTimeout(kShutdownLimit)) {
    guard_->End();
  }
  thread_.join();
}

// What a callback published while the thread ended.
bool AmqpPublisher::FailLeftovers() {
  TakeMail();
  if (waiting_.empty()) return false;
  FailWaiting(BrokerUnavailable("the broker is shut down; it was not sent"));
  return true;
}

void AmqpPublisher::Publish(Message message, Done done) {
  const absl::Time deadline =
      std::min(message.deadline, environment_->Now() + kConfirmTimeout);
  // The mailbox is never closed.
  (void)mailbox_.Put({.message = std::move(message),
                      .done = std::move(done),
                      .deadline = deadline});
}

void AmqpPublisher::PublishDead(std::string queue, std::string body,
                                std::string reason, Done done) {
  Message message{.queue = DeadQueueName(queue), .body = std::move(body)};
  message.headers.emplace(kReasonHeader, JsonString(reason));
  (void)mailbox_.Put({.message = std::move(message),
                      .done = std::move(done),
                      .deadline = environment_->Now() + kConfirmTimeout,
                      .dead = true});
}

void AmqpPublisher::PublishAt(Message message, absl::Time due, Done done) {
  const absl::Time deadline =
      std::min(message.deadline, environment_->Now() + kConfirmTimeout);
  (void)mailbox_.Put({.message = std::move(message),
                      .done = std::move(done),
                      .deadline = deadline,
                      .due = due});
}

void AmqpPublisher::PublishInto(QueueSpec queue, std::string body, Done done) {
  Message message{.queue = queue.name, .body = std::move(body)};
  (void)mailbox_.Put({.message = std::move(message),
                      .done = std::move(done),
                      .deadline = environment_->Now() + kConfirmTimeout,
                      .queue = std::move(queue)});
}

absl::Status AmqpPublisher::Health() {
  absl::MutexLock lock(&mu_);
  return health_;
}

void AmqpPublisher::SetHealth(absl::Status health) {
  absl::MutexLock lock(&mu_);
  health_ = std::move(health);
}

void AmqpPublisher::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), role_.thread.c_str());
  while (!stop.stop_requested()) {
    absl::Status status = Connect(stop);
    const bool connected = status.ok();
    if (connected) {
      attempts_.Connected();
      SetHealth(absl::OkStatus());
      status = Serve(stop);
    }
    if (stop.stop_requested()) break;
    SetHealth(status);
    attempts_.Ended(status);
    if (connection_ != nullptr) connection_->Close(kGoodbye);
    connection_.reset();
    FailUnconfirmed(status);
    TakeMail();
    if (!connected) FailWaiting(status);
    AwaitNextTry(stop);
  }
  const absl::Status over = BrokerUnavailable("the broker is shut down");
  SetHealth(over);
  // Callbacks may publish again.
  FailUnconfirmed(over);
  for (TakeMail(); !waiting_.empty(); TakeMail()) FailWaiting(over);
  if (connection_ != nullptr) connection_->Close(kGoodbye);
  connection_.reset();
  ended_.Notify();
}

absl::Status AmqpPublisher::Connect(const std::stop_token& stop) {
  auto connection =
      AmqpConnection::Open(address_, absl::StrCat("penstock ", role_.name),
                           guard_.get(), &waker_, stop);
  if (!connection.ok()) return connection.status();
  connection_ = *std::move(connection);
  if (auto status = DeclareTopology(*connection_, options_, role_.queues);
      !status.ok()) {
    return status;
  }
  amqp_confirm_select(connection_->handle(), AmqpConnection::kChannel);
  if (auto status = connection_->RpcStatus("confirms are not supported");
      !status.ok()) {
    return status;
  }
  amqp_channel_open(connection_->handle(), kDeclareChannel);
  if (auto status = connection_->RpcStatus("cannot open a channel");
      !status.ok()) {
    return status;
  }
  first_tag_ = 1;
  return_.reset();
  blocked_ = false;
  dead_declared_.clear();
  half_declared_ = false;
  declare_channel_open_ = true;
  burst_.clear();
  return absl::OkStatus();
}

absl::Status AmqpPublisher::Serve(const std::stop_token& stop) {
  bool writable = false;
  while (!stop.stop_requested()) {
    // Before each burst: it finds a silent server, which a publish would wait
    // for without an end.
    if (auto status = ReadFrames(); !status.ok()) return status;
    TakeMail();
    if (writable) {
      if (auto status = Send(connection_->write_budget()); !status.ok()) {
        return status;
      }
    }
    Expire();
    TakeShort();
    if (window_.size() >= kMostUnconfirmed) {
      return connection_->Error("it has stopped to confirm messages");
    }
    const bool may_send = MaySend();
    writable =
        connection_->Wait(NextWake() - environment_->Now(), may_send).writable;
  }
  return absl::OkStatus();
}

void AmqpPublisher::AwaitNextTry(const std::stop_token& stop) {
  const absl::Duration delay = attempts_.Pause();
  const absl::Time begin = absl::Now();
  while (!stop.stop_requested()) {
    TakeMail();
    const absl::Time until =
        begin + (waiting_.empty() ? delay : std::min(delay, kDemandBackoff));
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    waker_.Sleep(left);
  }
}

void AmqpPublisher::TakeMail() {
  for (Item& item : mailbox_.Take()) {
    const Message& message = item.message;
    if (message.body.size() > kMaxMessageBytes) {
      Answer(item.done,
             MakeError(
                 absl::StatusCode::kResourceExhausted, reason::kPayloadTooLarge,
                 absl::StrCat("the message has ", message.body.size(),
                              " bytes; the limit is ", kMaxMessageBytes)));
      continue;
    }
    if (message.queue.empty() && message.routing_key.empty()) {
      item.message.routing_key = default_routing_key_;
    }
    const std::string& key =
        message.queue.empty() ? message.routing_key : message.queue;
    if (key.size() > kMaxShortString) {  // AMQP cannot even say it
      Answer(item.done, Unroutable(!message.queue.empty(), key));
      continue;
    }
    if (item.dead) item.queue = QueueSpec{.name = message.queue};
    if (message.task_id.size() > kMaxShortString) {
      item.message.task_id.resize(kMaxShortString);
    }
    next_expiry_ = std::min(next_expiry_, item.deadline);
    waiting_.push_back(std::move(item));
  }
}

absl::Status AmqpPublisher::ReadFrames() {
  WakeLater later;
  for (int i = 0; i < kFramesPerTurn; ++i) {
    const absl::StatusOr<const amqp_frame_t*> next = connection_->NextFrame();
    if (!next.ok()) return next.status();
    if (*next == nullptr) break;
    const amqp_frame_t& frame = **next;
    if (frame.frame_type == AMQP_FRAME_METHOD) {
      const absl::Status status = frame.channel == kDeclareChannel
                                      ? HandleDeclareMethod(frame)
                                      : HandleMethod(frame);
      if (!status.ok()) return status;
    } else if (frame.frame_type == AMQP_FRAME_HEADER && return_) {
      const auto* properties = static_cast<amqp_basic_properties_t*>(
          frame.payload.properties.decoded);
      if (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) {
        return_->task_id = std::string(ToView(properties->message_id));
      }
      return_->body_left = frame.payload.properties.body_size;
    } else if (frame.frame_type == AMQP_FRAME_BODY && return_) {
      return_->body_left -= std::min<uint64_t>(return_->body_left,
                                               frame.payload.body_fragment.len);
    }
    if (return_ && return_->body_left == 0 &&
        frame.frame_type != AMQP_FRAME_METHOD) {
      Return returned = *std::move(return_);
      return_.reset();
      HandleReturn(std::move(returned));
    }
  }
  if (const bool blocked = connection_->blocked().has_value();
      blocked != blocked_) {
    blocked_ = blocked;
    SetHealth(blocked ? connection_->Error(absl::StrCat(
                            "blocks publishers: ", *connection_->blocked()))
                      : absl::OkStatus());
  }
  return absl::OkStatus();
}

absl::Status AmqpPublisher::HandleMethod(const amqp_frame_t& frame) {
  const amqp_method_t& method = frame.payload.method;
  switch (method.id) {
    case AMQP_BASIC_ACK_METHOD: {
      const auto* ack = static_cast<amqp_basic_ack_t*>(method.decoded);
      Settle(ack->delivery_tag, ack->multiple, true);
      return absl::OkStatus();
    }
    case AMQP_BASIC_NACK_METHOD: {
      const auto* nack = static_cast<amqp_basic_nack_t*>(method.decoded);
      Settle(nack->delivery_tag, nack->multiple, false);
      return absl::OkStatus();
    }
    case AMQP_BASIC_RETURN_METHOD: {
      const auto* returned = static_cast<amqp_basic_return_t*>(method.decoded);
      return_ =
          Return{.exchange = std::string(ToView(returned->exchange)),
                 .routing_key = std::string(ToView(returned->routing_key))};
      return absl::OkStatus();
    }
    case AMQP_CHANNEL_CLOSE_METHOD:
      return connection_->Error(
          absl::StrCat("closed the channel: ", CloseText(frame)));
    default:
      return absl::OkStatus();
  }
}

absl::Status AmqpPublisher::HandleDeclareMethod(const amqp_frame_t& frame) {
  switch (frame.payload.method.id) {
    case AMQP_QUEUE_DECLARE_OK_METHOD:
      if (HasBinding(*declaring_.front().queue, options_)) {
        half_declared_ = true;
      } else {
        Declared();
      }
      return absl::OkStatus();
    case AMQP_QUEUE_BIND_OK_METHOD:
      Declared();
      return absl::OkStatus();
    case AMQP_CHANNEL_OPEN_OK_METHOD:
      declare_channel_open_ = true;
      for (; !held_.empty(); held_.pop_back()) {
        waiting_.push_front(std::move(held_.back()));
      }
      return absl::OkStatus();
    case AMQP_CHANNEL_CLOSE_METHOD:
      return DeclareRefused(frame);
    default:
      return absl::OkStatus();
  }
}

// The answers come in the order of the declares.
void AmqpPublisher::Declared() {
  Item item = std::move(declaring_.front());
  declaring_.pop_front();
  half_declared_ = false;
  if (item.dead) dead_declared_.insert(item.queue->name);
  if (!item.done) return;  // its deadline was first
  item.declared = true;
  ready_.push_back(std::move(item));
}

// The first one without an answer is the one that is meant; the server has not
// looked at those behind it.
absl::Status AmqpPublisher::DeclareRefused(const amqp_frame_t& frame) {
  if (declaring_.empty()) {
    return connection_->Error(
        absl::StrCat("closed the channel: ", CloseText(frame)));
  }
  const auto* closed =
      static_cast<amqp_channel_close_t*>(frame.payload.method.decoded);
  const absl::Status refused = connection_->Error(
      absl::StrCat("queue \"", declaring_.front().queue->name,
                   "\" cannot be declared: ", CloseText(frame)));
  // Someone deleted the exchange: connecting anew declares it.
  if (closed->reply_code == AMQP_NOT_FOUND) return refused;
  Item item = std::move(declaring_.front());
  declaring_.pop_front();
  half_declared_ = false;
  declare_channel_open_ = false;
  if (item.done) {
    // A dead letter has nowhere else to go: it waits until someone mends that.
    Answer(item.done,
           item.dead ? refused
                     : MakeError(absl::StatusCode::kInternal, reason::kInternal,
                                 std::string(refused.message())));
  }
  for (Item& behind : declaring_) {
    if (behind.done) held_.push_back(std::move(behind));
  }
  declaring_.clear();
  amqp_channel_open_t open{};
  return connection_->SendStatus(amqp_send_method(
      connection_->handle(), kDeclareChannel, AMQP_CHANNEL_OPEN_METHOD, &open));
}

void AmqpPublisher::HandleReturn(Return returned) {
  // A return carries no tag. It comes before the ack of its message, and
  // returns come in the order of publishing, so the oldest one that fits is
  // meant.
  const bool to_queue =
      returned.exchange.empty() && !options_.amqp.exchange.empty();
  for (Unconfirmed& message : window_) {
    if (message.settled || message.returned ||
        message.task_id != returned.task_id ||
        message.routing_key != returned.routing_key ||
        (message.to_queue != to_queue && !options_.amqp.exchange.empty())) {
      continue;
    }
    message.returned = true;
    // Someone deleted it: the next dead letter declares it again.
    if (message.dead) dead_declared_.erase(message.routing_key);
    return;
  }
}

void AmqpPublisher::Settle(uint64_t tag, bool multiple, bool ack) {
  const uint64_t end_tag = first_tag_ + window_.size();
  if (multiple) {
    const uint64_t last = tag == 0 ? end_tag - 1 : tag;
    for (size_t i = 0; i < window_.size() && first_tag_ + i <= last; ++i) {
      SettleOne(window_[i], ack);
    }
  } else if (tag >= first_tag_ && tag < end_tag) {
    SettleOne(window_[tag - first_tag_], ack);
  }
  while (!window_.empty() && window_.front().settled) {
    window_.pop_front();
    ++first_tag_;
  }
}

void AmqpPublisher::SettleOne(Unconfirmed& message, bool ack) {
  if (message.settled) return;
  message.settled = true;
  if (!message.done) return;  // its deadline was first
  --unanswered_;
  if (TryAgain(message)) return;
  if (message.returned) {
    Answer(message.done, Unroutable(message.to_queue, message.routing_key));
  } else if (ack) {
    Answer(message.done, absl::OkStatus());
  } else {
    Answer(message.done,
           MakeError(absl::StatusCode::kUnavailable, reason::kBrokerNack,
                     "RabbitMQ refused the message (nack); it may be in some "
                     "of the queues"));
  }
}

// A delay queue goes when it has stood for twice the delay, with all that is in
// it. Where the message may have come late into it, or found it gone, it is
// sent again: rather twice than never.
bool AmqpPublisher::TryAgain(Unconfirmed& message) {
  if (message.again == nullptr) return false;
  if (!message.returned && environment_->Now() < message.good_until) {
    return false;
  }
  message.again->done = std::move(message.done);
  message.done = nullptr;
  waiting_.push_back(std::move(*message.again));
  message.again.reset();
  return true;
}

bool AmqpPublisher::MaySend() const {
  // A message that is half sent must go on: nothing else can.
  if (partial_) return true;
  return !(ready_.empty() && waiting_.empty()) && !blocked_ &&
         unanswered_ + declaring_.size() < kWindow;
}

absl::Time AmqpPublisher::NextWake() const {
  absl::Time wake = next_expiry_;
  for (const Item& item : short_) wake = std::min(wake, *item.due);
  return wake;
}

void AmqpPublisher::TakeShort() {
  const absl::Time now = environment_->Now();
  for (Item& item : short_) {
    if (*item.due <= now) waiting_.push_back(std::move(item));
  }
  std::erase_if(short_, [](const Item& item) { return !item.done; });
}

absl::Status AmqpPublisher::Send(size_t budget) {
  while (budget > 0 && MaySend()) {
    const absl::Status status =
        partial_ ? SendPiece(&budget) : SendNext(&budget);
    if (!status.ok()) return status;
  }
  return Flush();
}

// What the library writes must come after what was gathered before.
absl::Status AmqpPublisher::Flush() {
  if (burst_.empty()) return absl::OkStatus();
  const absl::Status status = connection_->Write(burst_);
  burst_.clear();
  return status;
}

absl::Status AmqpPublisher::SendPiece(size_t* budget) {
  const size_t frame_max =
      static_cast<size_t>(amqp_get_frame_max(connection_->handle())) - 8;
  const size_t size =
      std::min({*budget, frame_max, partial_->body.size() - partial_->sent});
  amqp_frame_t frame{};
  frame.frame_type = AMQP_FRAME_BODY;
  frame.channel = AmqpConnection::kChannel;
  frame.payload.body_fragment =
      ToBytes(absl::string_view(partial_->body).substr(partial_->sent, size));
  const absl::Status status =
      connection_->SendStatus(amqp_send_frame(connection_->handle(), &frame));
  partial_->sent += size;
  if (partial_->sent == partial_->body.size()) partial_.reset();
  *budget -= size;
  return status;
}

void AmqpPublisher::FillProperties(const Item& item) {
  const Message& message = item.message;
  properties_ = {};
  properties_._flags =
      AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties_.content_type = amqp_cstring_bytes(
      item.dead ? "application/octet-stream" : "application/json");
  properties_.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  if (!message.task_id.empty()) {
    properties_._flags |= AMQP_BASIC_MESSAGE_ID_FLAG;
    properties_.message_id = ToBytes(message.task_id);
  }
  if (message.priority > 0) {
    properties_._flags |= AMQP_BASIC_PRIORITY_FLAG;
    properties_.priority = message.priority;
  }
  header_texts_.clear();
  header_entries_.clear();
  // Their strings must not move.
  header_texts_.reserve(message.headers.size());
  size_t bytes = 0;
  for (const auto& [key, json] : message.headers) {
    amqp_table_entry_t entry;
    bytes += key.size() + json.size() + 16;
    if (key.size() > kMaxShortString || bytes > kMaxHeaders) continue;
    if (!HeaderValue(json, header_texts_, entry.value)) continue;
    entry.key = ToBytes(key);
    header_entries_.push_back(entry);
  }
  if (header_entries_.empty()) return;
  properties_._flags |= AMQP_BASIC_HEADERS_FLAG;
  properties_.headers = {static_cast<int>(header_entries_.size()),
                         header_entries_.data()};
}

// Settles first which delay queue a delayed message takes, by what is left of
// its delay.
bool AmqpPublisher::NeedsDeclare(Item& item) {
  if (item.declared) return false;
  if (item.due.has_value()) {
    const int64_t left_ms =
        absl::ToInt64Milliseconds(*item.due - environment_->Now());
    item.queue.reset();
    if (left_ms > 0) {
      item.delay = absl::Milliseconds(left_ms);
      item.queue = DelayQueue(left_ms, options_, item.message.routing_key,
                              item.message.queue);
    }
  }
  if (!item.queue.has_value()) return false;
  return !item.dead || !dead_declared_.contains(item.queue->name);
}

absl::Status AmqpPublisher::SendDeclaration(Item item, size_t* budget) {
  if (item.due.has_value() && item.delay < kShortDelay) {
    short_.push_back(std::move(item));
    return absl::OkStatus();
  }
  const QueueSpec& queue = *item.queue;
  if (queue.name.empty() || queue.name.size() > kMaxShortString) {
    Answer(
        item.done,
        MakeError(absl::StatusCode::kFailedPrecondition, reason::kQueueNotFound,
                  absl::StrCat("the name of the queue \"", queue.name,
                               "\" is not 1 to 255 bytes long")));
    return absl::OkStatus();
  }
  if (!declare_channel_open_) {
    held_.push_back(std::move(item));
    return absl::OkStatus();
  }
  if (auto status = Flush(); !status.ok()) {
    ready_.push_back(std::move(item));
    return status;
  }
  item.declare_time = environment_->Now();
  *budget -= std::min(*budget, kFrameOverhead + 4 * queue.name.size());
  const absl::Status status =
      SendDeclare(*connection_, kDeclareChannel, queue, options_);
  declaring_.push_back(std::move(item));
  return status;
}

absl::Status AmqpPublisher::SendNext(size_t* budget) {
  std::deque<Item>& items = ready_.empty() ? waiting_ : ready_;
  Item item = std::move(items.front());
  items.pop_front();
  if (!item.done) return absl::OkStatus();  // its deadline was first
  if (NeedsDeclare(item)) return SendDeclaration(std::move(item), budget);
  std::unique_ptr<Item> again;
  absl::Time good_until = absl::InfiniteFuture();
  if (item.due.has_value() && item.queue.has_value()) {
    again = std::make_unique<Item>(Item{
        .message = item.message, .deadline = item.deadline, .due = item.due});
    good_until = item.declare_time + 0.75 * item.delay;
  }
  Message& message = item.message;
  const bool to_queue = item.queue.has_value() || !message.queue.empty();
  FillProperties(item);
  std::string& key = item.queue.has_value() ? item.queue->name
                     : to_queue             ? message.queue
                                            : message.routing_key;
  const amqp_bytes_t exchange =
      to_queue ? amqp_empty_bytes : ToBytes(options_.amqp.exchange);
  const bool whole =
      message.body.size() + kFrameOverhead <= connection_->write_budget();
  const amqp_connection_state_t handle = connection_->handle();

  absl::Status status;
  if (whole && connection_->plain() &&
      AppendPublish(
          {.channel = AmqpConnection::kChannel,
           .exchange = ToView(exchange),
           .routing_key = key,
           .mandatory = true,
           .properties = &properties_,
           .body = message.body,
           .frame_max = static_cast<size_t>(amqp_get_frame_max(handle))},
          &burst_)) {
    // Flush writes it.
  } else if (status = Flush(); !status.ok()) {
    // The message waits for the next connection, like those behind it.
    items.push_front(std::move(item));
    return status;
  } else if (whole) {
    status = connection_->SendStatus(amqp_basic_publish(
        handle, AmqpConnection::kChannel, exchange, ToBytes(key),
        /*mandatory=*/1,
        /*immediate=*/0, &properties_, ToBytes(message.body)));
  } else {
    amqp_basic_publish_t publish{};
    publish.exchange = exchange;
    publish.routing_key = ToBytes(key);
    publish.mandatory = 1;
    status = connection_->SendStatus(amqp_send_method(
        handle, AmqpConnection::kChannel, AMQP_BASIC_PUBLISH_METHOD, &publish));
    if (status.ok()) {
      amqp_frame_t frame{};
      frame.frame_type = AMQP_FRAME_HEADER;
      frame.channel = AmqpConnection::kChannel;
      frame.payload.properties.class_id = AMQP_BASIC_CLASS;
      frame.payload.properties.body_size = message.body.size();
      frame.payload.properties.decoded = &properties_;
      status = connection_->SendStatus(amqp_send_frame(handle, &frame));
    }
    partial_ = Partial{.body = std::move(message.body)};
  }
  size_t cost = kFrameOverhead + (whole ? message.body.size() : 0);
  for (const auto& [name, json] : message.headers) {
    cost += name.size() + json.size();
  }
  *budget -= std::min(*budget, cost);
  ++unanswered_;
  window_.push_back({.task_id = std::move(message.task_id),
                     .routing_key = std::move(key),
                     .done = std::move(item.done),
                     .deadline = item.deadline,
                     .to_queue = to_queue,
                     .dead = item.dead,
                     .again = std::move(again),
                     .good_until = good_until});
  return status;
}

void AmqpPublisher::Expire() {
  const absl::Time now = environment_->Now();
  if (now < next_expiry_) return;
  absl::Time next = absl::InfiniteFuture();
  for (Unconfirmed& message : window_) {
    if (!message.done) continue;
    if (message.deadline > now) {
      next = std::min(next, message.deadline);
      continue;
    }
    --unanswered_;
    Answer(message.done,
           message.returned
               ? Unroutable(message.to_queue, message.routing_key)
               : ConfirmTimeout("RabbitMQ did not confirm the message in time; "
                                "it may have been taken"));
  }
  for (std::deque<Item>* items : {&waiting_, &ready_, &held_, &declaring_}) {
    for (Item& item : *items) {
      if (!item.done) continue;
      if (item.deadline > now) {
        next = std::min(next, item.deadline);
        continue;
      }
      Answer(item.done,
             ConfirmTimeout(
                 blocked_ ? absl::StrCat("the message was not sent: RabbitMQ "
                                         "blocks publishers: ",
                                         *connection_->blocked())
                          : "the message was not sent: RabbitMQ is "
                            "too slow to take it"));
    }
    if (items == &declaring_) continue;  // their answers are still to come
    std::erase_if(*items, [](const Item& item) { return !item.done; });
  }
  next_expiry_ = std::max(next, now + kExpiryStep);
}

// Leaves `done` empty, which says that it was answered.
void AmqpPublisher::Answer(Done& done, absl::Status status) {
  Done answered = std::move(done);
  done = nullptr;
  std::move(answered)(std::move(status));
}

void AmqpPublisher::FailUnconfirmed(const absl::Status& why) {
  const absl::Status status = BrokerUnavailable(absl::StrCat(
      why.message(), "; the message was sent and may have been taken"));
  for (Unconfirmed& message : window_) {
    if (!message.done) continue;
    Answer(message.done, message.returned
                             ? Unroutable(message.to_queue, message.routing_key)
                             : status);
  }
  window_.clear();
  unanswered_ = 0;
  partial_.reset();
  for (std::deque<Item>* items : {&ready_, &held_, &declaring_}) {
    for (Item& item : *items) {
      item.declared = false;
      if (item.done) waiting_.push_back(std::move(item));
    }
    items->clear();
  }
  for (Item& item : short_) waiting_.push_back(std::move(item));
  short_.clear();
}

void AmqpPublisher::FailWaiting(const absl::Status& why) {
  const absl::Status status = BrokerUnavailable(
      absl::StrCat(why.message(), "; the message was not sent"));
  std::deque<Item> failed;
  failed.swap(waiting_);
  for (Item& item : failed) Answer(item.done, status);
}

}  // namespace penstock
