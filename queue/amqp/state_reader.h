// The thread `amqp-states`: one connection that reads queues of task states and
// leaves them as they were: basic.get until one is empty, then everything goes
// back to where it lay. A channel reads one queue at a time, since a queue that
// is missing closes its channel; several channels read at once, and one queue
// is always read by the same channel, so that no read meets an earlier one.
// Follows docs/wire-format.md (RabbitMQ as result backend).

#ifndef PENSTOCK_QUEUE_AMQP_STATE_READER_H_
#define PENSTOCK_QUEUE_AMQP_STATE_READER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
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
#include "queue/callback.h"
#include "queue/environment.h"
#include "queue/mailbox.h"

namespace penstock {

// What lies in one queue, oldest first; nullopt: there is no such queue. Empty:
// it is there, but another reader holds or has taken all of it.
using QueueContent = std::optional<std::vector<std::string>>;

class StateReader {
 public:
  // `environment` is not owned and must outlive the reader.
  StateReader(AmqpAddress address, Environment* environment);

  // Stop, then fails what is left.
  ~StateReader();
  StateReader(const StateReader&) = delete;
  StateReader& operator=(const StateReader&) = delete;

  // Reads each of `queues`; answers in their order. A `single` read goes before
  // those of many queues. UNAVAILABLE when the server cannot be reached or does
  // not answer in time; INTERNAL when it refuses a queue. Thread-safe.
  void Read(std::vector<std::string> queues, bool single,
            Callback<std::vector<QueueContent>> done);

  // Deletes queues with all that is in them; a missing one is no error.
  void Delete(std::vector<std::string> queues, Done done);

  absl::Status Health();

  // Ends the thread; what is asked from now on waits for FailLeftovers, which
  // says whether there was any. Idempotent.
  void Stop();
  bool FailLeftovers();

 private:
  // One call of Read.
  struct Batch {
    std::vector<std::string> queues;
    bool single = false;
    bool remove = false;
    Callback<std::vector<QueueContent>> done;
    absl::Time deadline;
    std::vector<QueueContent> answers;
    size_t waiting = 0;  // for so many answers
  };
  using BatchPtr = std::shared_ptr<Batch>;

  // One queue of a call.
  struct Job {
    BatchPtr batch;
    size_t index = 0;
    int empty_looks = 0;
    absl::Time not_before = absl::InfinitePast();

    const std::string& queue() const { return batch->queues[index]; }
  };

  // A channel, and what it reads.
  struct Slot {
    enum State : uint8_t { kClosed, kOpening, kOpen } state = kClosed;
    std::optional<Job> job;
    uint32_t to_get = 0;  // gets that are to be sent
    uint32_t asked = 0;   // gets without their answer
    bool put_back = false;
    bool drop_older = false;  // only the newest goes back
    std::vector<std::string> bodies;
    uint64_t last_tag = 0;
    std::optional<uint64_t> body_left;  // of the message that comes in
    bool has_header = false;
    uint32_t left_in_queue = 0;  // as the last answer said
  };

  static constexpr size_t kSlots = 16;

  // What waits for one channel.
  struct Backlog {
    std::deque<Job> urgent;  // of single reads
    std::deque<Job> later;   // looked at again after a moment
    std::deque<Job> waiting;

    std::array<std::deque<Job>*, 3> All() {
      return {&urgent, &later, &waiting};
    }
  };

  void Run(const std::stop_token& stop);
  absl::Status Connect(const std::stop_token& stop);
  absl::Status Serve(const std::stop_token& stop);
  void AwaitNextTry(const std::stop_token& stop);

  void Put(BatchPtr batch);
  void TakeMail();
  void Assign();
  std::optional<Job> NextJob(Backlog& backlog);
  bool HasBacklog() const;
  absl::Status ReadFrames();
  absl::Status HandleMethod(const amqp_frame_t& frame, Slot& slot);
  void MessageComplete(Slot& slot);
  void LookAgainOrEnd(Slot& slot);
  Backlog& BacklogOf(const std::string& queue);

  bool HasOutput() const;
  absl::Status Send(size_t budget);
  absl::Status SendFor(Slot& slot, amqp_channel_t channel);

  void Expire();
  absl::Time NextWake() const;
  void Settle(const Job& job, QueueContent content);
  void Fail(const Job& job, const absl::Status& why);
  void FailAll(const absl::Status& why);
  void SetHealth(absl::Status health);

  // Constant after construction.
  const AmqpAddress address_;
  Environment* const environment_;
  const std::shared_ptr<SocketGuard> guard_;

  // Synchronise themselves.
  Waker waker_;
  Mailbox<BatchPtr> mailbox_;
  absl::Notification ended_;

  absl::Mutex mu_;
  absl::Status health_ ABSL_GUARDED_BY(mu_);

  // Owner thread only.
  std::unique_ptr<AmqpConnection> connection_;
  Attempts attempts_;
  std::array<Slot, kSlots> slots_;  // slot i has channel i + 1
  std::array<Backlog, kSlots> backlogs_;

  std::jthread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_STATE_READER_H_
