// A TaskStream: the tasks that are not answered, over one StreamTasks call
// after the other. Thread-safe; owns no thread. Included by .cc files only: it
// sees grpcpp.

#ifndef PENSTOCK_SDK_CPP_CLIENT_STREAM_H_
#define PENSTOCK_SDK_CPP_CLIENT_STREAM_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "penstock/client.h"
#include "sdk/cpp/client/core.h"

namespace penstock::client::internal {

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  Stream(std::shared_ptr<Core> core, const CallOptions& options);

  void Send(const Task& task, TaskStream::Answer answer);
  void Close();

 private:
  class Connection;

  // A task without an answer.
  struct Open {
    enum { kUnsent, kSent, kPausing } where = kUnsent;
    v1::StreamTask request;
    TaskStream::Answer answer;
    std::optional<Backoff> backoff;  // once it was refused
  };

  // Reactions of the connection.
  void OnAnswer(const v1::StreamTasksResponse& response);
  void OnWritten();
  void OnReadEnd();
  void OnEnd(const absl::Status& status);

  // Does what can be done now: connects, writes the next tasks, ends.
  void Pump();
  bool MayWriteLocked() const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return credit_ > 0 && !unsent_.empty();
  }
  void FillLocked(v1::StreamTasksRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // What the caller is to be told.
  struct Told {
    TaskStream::Answer answer;
    absl::StatusOr<TaskHandle> outcome;
  };
  // `result`: a StreamTasksResponse with an outcome, or a StreamTaskResult.
  template <typename Result>
  void SettleLocked(const Result& result, std::vector<Told>& told)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // A task that was refused is sent again.
  void SendAgain(int64_t sequence);

  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return open_.empty() && telling_ == 0 && connection_ == nullptr;
  }
  bool HasRoom() const ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return closed_ || open_.size() < window_;
  }

  const std::shared_ptr<Core> core_;
  const Metadata metadata_;
  const absl::Duration budget_;

  absl::Mutex mu_;
  std::map<int64_t, Open> open_ ABSL_GUARDED_BY(mu_);  // by sequence
  std::deque<int64_t> unsent_ ABSL_GUARDED_BY(mu_);    // of these, in order
  int64_t last_sequence_ ABSL_GUARDED_BY(mu_) = 0;
  size_t window_ ABSL_GUARDED_BY(mu_) = 1000;  // until the gateway says its own
  int telling_ ABSL_GUARDED_BY(mu_) = 0;  // answers on their way to the caller
  bool closed_ ABSL_GUARDED_BY(mu_) = false;

  // The pauses between connections, while none brings an answer.
  Backoff backoff_ ABSL_GUARDED_BY(mu_);
  bool failing_ ABSL_GUARDED_BY(mu_) = false;
  bool pausing_ ABSL_GUARDED_BY(mu_) = false;

  // What there is until OnEnd, and how it stands.
  Connection* connection_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;    // the first answer has come
  bool writing_ ABSL_GUARDED_BY(mu_) = false;  // which keeps the connection
  bool read_all_ ABSL_GUARDED_BY(mu_) = false;
  bool wrote_all_ ABSL_GUARDED_BY(mu_) = false;
  int credit_ ABSL_GUARDED_BY(mu_) = 0;
  int max_tasks_ ABSL_GUARDED_BY(mu_) = 0;  // of a message; 0: no more than one
};

}  // namespace penstock::client::internal

#endif  // PENSTOCK_SDK_CPP_CLIENT_STREAM_H_
