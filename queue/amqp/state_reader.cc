// See state_reader.h. Everything private runs on the thread `amqp-states`, and
// nothing else does.

#include "queue/amqp/state_reader.h"

#include <amqp_framing.h>
#include <pthread.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/errors.h"

namespace penstock {
namespace {

constexpr int kFramesPerTurn = 256;
constexpr size_t kMaxShortString = 255;
constexpr size_t kSendCost = 512;  // of a get or what puts back, generously
constexpr uint64_t kMostBytes = 128 << 20;  // of one state
// At first, since most queues hold fewer: two readers of one queue should not
// take turns.
constexpr uint32_t kAskedAtFirst = 4;
constexpr uint32_t kMostAsked = 64;
// A task leaves a few states; of one that is tried again for ever only the
// newest stays.
constexpr size_t kMostKept = 100;
// Another reader holds what it has taken for a round trip or two.
constexpr int kEmptyLooks = 10;
constexpr absl::Duration kLookAgain = absl::Milliseconds(10);
constexpr absl::Duration kReadTimeout = absl::Seconds(5);
constexpr absl::Duration kDemandBackoff = absl::Milliseconds(250);
constexpr absl::Duration kGoodbye = absl::Milliseconds(500);
constexpr absl::Duration kShutdownLimit = absl::Milliseconds(1'500);

}  // namespace

StateReader::StateReader(AmqpAddress address, Environment* environment)
    : address_(std::move(address)),
      environment_(environment),
      guard_(SocketGuard::Make(environment)),
      mailbox_([this] { waker_.Signal(); }),
      health_(BrokerUnavailable("not connected to RabbitMQ yet")),
      attempts_("state reader", address_.Name(), environment),
      thread_([this](std::stop_token stop) { Run(stop); }) {}

StateReader::~StateReader() {
  Stop();
  while (FailLeftovers()) {
  }
}

void StateReader::Stop() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  waker_.Signal();
  if (!ended_.WaitForNotificationWithTimeout(kShutdownLimit)) {
    guard_->End();
  }
  thread_.join();
}

bool StateReader::FailLeftovers() {
  TakeMail();
  if (!HasBacklog()) return false;
  FailAll(BrokerUnavailable("the result backend is shut down"));
  return true;
}

void StateReader::Read(std::vector<std::string> queues, bool single,
                       Callback<std::vector<QueueContent>> done) {
  auto batch = std::make_shared<Batch>();
  batch->queues = std::move(queues);
  batch->single = single;
  batch->done = std::move(done);
  Put(std::move(batch));
}

void StateReader::Delete(std::vector<std::string> queues, Done done) {
  auto batch = std::make_shared<Batch>();
  batch->queues = std::move(queues);
  batch->single = true;
  batch->remove = true;
  batch->done = [done = std::move(done)](
                    absl::StatusOr<std::vector<QueueContent>> gone) mutable {
    std::move(done)(gone.status());
  };
  Put(std::move(batch));
}

void StateReader::Put(BatchPtr batch) {
  batch->answers.resize(batch->queues.size());
  batch->waiting = batch->queues.size();
  batch->deadline = environment_->Now() + kReadTimeout;
  // The mailbox is never closed.
  (void)mailbox_.Put(std::move(batch));
}

absl::Status StateReader::Health() {
  absl::MutexLock lock(&mu_);
  return health_;
}

void StateReader::SetHealth(absl::Status health) {
  absl::MutexLock lock(&mu_);
  health_ = std::move(health);
}

void StateReader::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "amqp-states");
  while (!stop.stop_requested()) {
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
    connection_.reset();
    TakeMail();
    FailAll(status);
    AwaitNextTry(stop);
  }
  const absl::Status over =
      BrokerUnavailable("the result backend is shut down");
  SetHealth(over);
  TakeMail();
  FailAll(over);
  if (connection_ != nullptr) connection_->Close(kGoodbye);
  connection_.reset();
  ended_.Notify();
}

absl::Status StateReader::Connect(const std::stop_token& stop) {
  auto connection = AmqpConnection::Open(address_, "penstock state reader",
                                         guard_.get(), &waker_, stop);
  if (!connection.ok()) return connection.status();
  connection_ = *std::move(connection);
  for (Slot& slot : slots_) slot = {};
  slots_[AmqpConnection::kChannel - 1].state = Slot::kOpen;
  return absl::OkStatus();
}

absl::Status StateReader::Serve(const std::stop_token& stop) {
  bool writable = false;
  while (!stop.stop_requested()) {
    if (auto status = ReadFrames(); !status.ok()) return status;
    TakeMail();
    Expire();
    Assign();
    if (writable) {
      if (auto status = Send(connection_->write_budget()); !status.ok()) {
        return status;
      }
      Assign();  // what ended is free for the next one
    }
    writable = connection_->Wait(NextWake() - environment_->Now(), HasOutput())
                   .writable;
  }
  return absl::OkStatus();
}

void StateReader::AwaitNextTry(const std::stop_token& stop) {
  const absl::Duration delay = attempts_.Pause();
  const absl::Time begin = absl::Now();
  while (!stop.stop_requested()) {
    TakeMail();
    const bool wanted = HasBacklog();
    const absl::Time until =
        begin + (wanted ? std::min(delay, kDemandBackoff) : delay);
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    waker_.Sleep(left);
  }
}

void StateReader::TakeMail() {
  for (BatchPtr& batch : mailbox_.Take()) {
    if (batch->queues.empty()) {
      std::exchange(batch->done, nullptr)(std::vector<QueueContent>());
      continue;
    }
    for (size_t i = 0; i < batch->queues.size(); ++i) {
      const Job job = {.batch = batch, .index = i};
      const std::string& queue = job.queue();
      if (queue.empty() || queue.size() > kMaxShortString) {
        Settle(job, std::nullopt);  // AMQP has no such queue
      } else {
        Backlog& backlog = BacklogOf(queue);
        (batch->single ? backlog.urgent : backlog.waiting).push_back(job);
      }
    }
  }
}

std::optional<StateReader::Job> StateReader::NextJob(Backlog& backlog) {
  const absl::Time now = environment_->Now();
  for (std::deque<Job>* jobs : backlog.All()) {
    while (!jobs->empty() && jobs->front().not_before <= now) {
      Job job = std::move(jobs->front());
      jobs->pop_front();
      if (job.batch->done) return job;  // else it was answered with an error
    }
  }
  return std::nullopt;
}

StateReader::Backlog& StateReader::BacklogOf(const std::string& queue) {
  return backlogs_[std::hash<std::string>()(queue) % kSlots];
}

bool StateReader::HasBacklog() const {
  return std::any_of(backlogs_.begin(), backlogs_.end(), [](const Backlog& b) {
    return !b.urgent.empty() || !b.later.empty() || !b.waiting.empty();
  });
}

void StateReader::Assign() {
  for (size_t i = 0; i < kSlots; ++i) {
    Slot& slot = slots_[i];
    // A channel that ends a read is not free before that was sent.
    if (slot.job.has_value() || slot.put_back || slot.asked > 0) continue;
    slot.job = NextJob(backlogs_[i]);
    if (!slot.job.has_value()) continue;
    slot.bodies.clear();
    slot.to_get = kAskedAtFirst;
  }
}

absl::Status StateReader::ReadFrames() {
  for (int i = 0; i < kFramesPerTurn; ++i) {
    const absl::StatusOr<const amqp_frame_t*> next = connection_->NextFrame();
    if (!next.ok()) return next.status();
    if (*next == nullptr) break;
    const amqp_frame_t& frame = **next;
    if (frame.channel < 1 || frame.channel > kSlots) continue;
    Slot& slot = slots_[frame.channel - 1];
    if (frame.frame_type == AMQP_FRAME_METHOD) {
      if (auto status = HandleMethod(frame, slot); !status.ok()) return status;
    } else if (frame.frame_type == AMQP_FRAME_HEADER && slot.body_left) {
      slot.has_header = true;
      slot.body_left = frame.payload.properties.body_size;
      if (*slot.body_left > kMostBytes) {
        return connection_->Error("sent a state that is too large");
      }
      slot.bodies.back().reserve(*slot.body_left);
    } else if (frame.frame_type == AMQP_FRAME_BODY && slot.body_left) {
      const absl::string_view part = ToView(frame.payload.body_fragment);
      slot.bodies.back().append(part.data(), part.size());
      *slot.body_left -= std::min<uint64_t>(*slot.body_left, part.size());
    }
    if (slot.has_header && slot.body_left == uint64_t{0}) MessageComplete(slot);
  }
  return absl::OkStatus();
}

absl::Status StateReader::HandleMethod(const amqp_frame_t& frame, Slot& slot) {
  const amqp_method_t& method = frame.payload.method;
  switch (method.id) {
    case AMQP_BASIC_GET_OK_METHOD: {
      const auto* got = static_cast<amqp_basic_get_ok_t*>(method.decoded);
      --slot.asked;
      slot.last_tag = got->delivery_tag;
      slot.left_in_queue = got->message_count;
      slot.body_left = 0;
      slot.has_header = false;
      slot.bodies.emplace_back();
      return absl::OkStatus();
    }
    case AMQP_BASIC_GET_EMPTY_METHOD:
      --slot.asked;
      slot.left_in_queue = 0;
      if (slot.asked == 0) LookAgainOrEnd(slot);
      return absl::OkStatus();
    case AMQP_QUEUE_DELETE_OK_METHOD:
      --slot.asked;
      Settle(*std::exchange(slot.job, std::nullopt), std::nullopt);
      return absl::OkStatus();
    case AMQP_CHANNEL_OPEN_OK_METHOD:
      slot.state = Slot::kOpen;
      return absl::OkStatus();
    case AMQP_CHANNEL_CLOSE_METHOD: {
      const auto* closed = static_cast<amqp_channel_close_t*>(method.decoded);
      std::optional<Job> job = std::move(slot.job);
      slot = {};
      if (!job.has_value()) return absl::OkStatus();
      if (closed->reply_code == AMQP_NOT_FOUND) {
        Settle(*job, std::nullopt);
      } else {
        Fail(*job,
             MakeError(absl::StatusCode::kInternal, reason::kInternal,
                       absl::StrCat("queue \"", job->queue(),
                                    "\" cannot be read: ", CloseText(frame))));
      }
      return absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

void StateReader::MessageComplete(Slot& slot) {
  slot.body_left.reset();
  slot.has_header = false;
  if (slot.asked > 0) return;
  // What lies behind it, all at once.
  slot.to_get = std::min(slot.left_in_queue, kMostAsked);
  if (slot.to_get == 0) LookAgainOrEnd(slot);
}

// All answers are here: the queue has been read to its end.
void StateReader::LookAgainOrEnd(Slot& slot) {
  slot.to_get = 0;
  slot.put_back = !slot.bodies.empty();
  if (!slot.job.has_value()) return;
  Job job = *std::exchange(slot.job, std::nullopt);
  if (slot.bodies.empty() && ++job.empty_looks < kEmptyLooks) {
    job.not_before = environment_->Now() + kLookAgain;
    BacklogOf(job.queue()).later.push_back(std::move(job));
    return;
  }
  if (slot.bodies.size() > kMostKept) {
    slot.bodies.erase(slot.bodies.begin(), slot.bodies.end() - 1);
    slot.drop_older = true;
  }
  Settle(job, std::move(slot.bodies));
  slot.bodies.clear();
}

bool StateReader::HasOutput() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.put_back || (slot.job.has_value() &&
                             (slot.state == Slot::kClosed ||
                              (slot.state == Slot::kOpen && slot.to_get > 0)));
  });
}

absl::Status StateReader::Send(size_t budget) {
  for (size_t i = 0; i < kSlots; ++i) {
    Slot& slot = slots_[i];
    if (!slot.put_back && !slot.job.has_value()) continue;
    const size_t cost = kSendCost * std::max<size_t>(slot.to_get, 1);
    if (cost > budget) return absl::OkStatus();
    budget -= cost;
    if (auto status = SendFor(slot, static_cast<amqp_channel_t>(i + 1));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status StateReader::SendFor(Slot& slot, amqp_channel_t channel) {
  const amqp_connection_state_t handle = connection_->handle();
  if (slot.put_back) {
    slot.put_back = false;
    if (std::exchange(slot.drop_older, false)) {
      amqp_basic_ack_t ack{};
      ack.delivery_tag = slot.last_tag - 1;
      ack.multiple = 1;
      if (auto status = connection_->SendStatus(
              amqp_send_method(handle, channel, AMQP_BASIC_ACK_METHOD, &ack));
          !status.ok()) {
        return status;
      }
    }
    amqp_basic_nack_t nack{};
    nack.delivery_tag = slot.last_tag;
    nack.multiple = 1;
    nack.requeue = 1;
    return connection_->SendStatus(
        amqp_send_method(handle, channel, AMQP_BASIC_NACK_METHOD, &nack));
  }
  if (slot.state == Slot::kClosed) {
    slot.state = Slot::kOpening;
    amqp_channel_open_t open{};
    return connection_->SendStatus(
        amqp_send_method(handle, channel, AMQP_CHANNEL_OPEN_METHOD, &open));
  }
  if (slot.state != Slot::kOpen) return absl::OkStatus();
  if (slot.job->batch->remove) {
    slot.to_get = 0;
    slot.asked = 1;
    amqp_queue_delete_t remove{};
    remove.queue = ToBytes(slot.job->queue());
    return connection_->SendStatus(
        amqp_send_method(handle, channel, AMQP_QUEUE_DELETE_METHOD, &remove));
  }
  amqp_basic_get_t get{};
  get.queue = ToBytes(slot.job->queue());
  for (; slot.to_get > 0; --slot.to_get, ++slot.asked) {
    if (auto status = connection_->SendStatus(
            amqp_send_method(handle, channel, AMQP_BASIC_GET_METHOD, &get));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

void StateReader::Expire() {
  const absl::Time now = environment_->Now();
  const absl::Status late =
      BrokerUnavailable("RabbitMQ did not answer a read in time");
  for (Slot& slot : slots_) {
    // The channel goes on to put back what it gets.
    if (slot.job.has_value() && slot.job->batch->deadline <= now) {
      Fail(*slot.job, late);
    }
  }
  for (Backlog& backlog : backlogs_) {
    for (std::deque<Job>* jobs : backlog.All()) {
      for (const Job& job : *jobs) {
        if (job.batch->deadline <= now) Fail(job, late);
      }
      std::erase_if(*jobs, [](const Job& job) { return !job.batch->done; });
    }
  }
}

absl::Time StateReader::NextWake() const {
  absl::Time wake = environment_->Now() + absl::Seconds(1);
  for (const Backlog& backlog : backlogs_) {
    for (const Job& job : backlog.later) wake = std::min(wake, job.not_before);
  }
  return wake;
}

void StateReader::Settle(const Job& job, QueueContent content) {
  Batch& batch = *job.batch;
  batch.answers[job.index] = std::move(content);
  if (--batch.waiting > 0 || !batch.done) return;
  std::exchange(batch.done, nullptr)(std::move(batch.answers));
}

void StateReader::Fail(const Job& job, const absl::Status& why) {
  if (job.batch->done) std::exchange(job.batch->done, nullptr)(why);
}

void StateReader::FailAll(const absl::Status& why) {
  for (Slot& slot : slots_) {
    if (slot.job.has_value()) Fail(*slot.job, why);
    slot = {};
  }
  for (Backlog& backlog : backlogs_) {
    for (std::deque<Job>* jobs : backlog.All()) {
      for (const Job& job : std::exchange(*jobs, {})) Fail(job, why);
    }
  }
}

}  // namespace penstock
