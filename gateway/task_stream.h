// StreamTasks: a task in, its id or its error out, or several at once, so many on
// their way at a time. Runs on gRPC's pool and on the threads that complete; nothing blocks.
// Included by .cc files only: it sees grpcpp.

#ifndef PENSTOCK_GATEWAY_TASK_STREAM_H_
#define PENSTOCK_GATEWAY_TASK_STREAM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/convert.h"
#include "gateway/permits.h"
#include "grpcpp/support/server_callback.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"

namespace penstock {

class TaskStream final
    : public grpc::ServerBidiReactor<v1::StreamTasksRequest,
                                     v1::StreamTasksResponse>,
      public std::enable_shared_from_this<TaskStream> {
 public:
  // What it works with. The functions are called from any thread.
  struct World {
    Lifecycle* lifecycle;
    Environment* environment;
    std::function<Intake()> intake;
    std::function<absl::StatusOr<Permit>(int64_t tasks, int64_t bytes)> admit;
    const std::atomic<bool>* draining;
    absl::Duration send_timeout;
    absl::Time deadline;         // of the call
    std::shared_ptr<void> core;  // keeps all of these
  };

  // Begins to serve; the reactor lives until gRPC is done with it.
  static TaskStream* Start(World world);

 private:
  explicit TaskStream(World world) : world_(std::move(world)) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void TakeOne(const v1::StreamTasksRequest& request);
  void TakeSeveral(const v1::StreamTasksRequest& request);
  // Ends the stream so when all that was taken is answered.
  void ReadNoMore(absl::Status why);
  absl::Time SendBy() const;
  void Answer(v1::StreamTasksResponse answer);
  void Pump();
  void WatchDrain();

  const World world_;
  v1::StreamTasksRequest request_;    // whose turn it is while reading_
  std::shared_ptr<TaskStream> self_;  // gRPC's hold, until OnDone

  absl::Mutex mu_;
  std::deque<v1::StreamTasksResponse> answers_ ABSL_GUARDED_BY(mu_);
  int answered_ ABSL_GUARDED_BY(mu_) = 0;  // tasks that they are about
  v1::StreamTasksResponse response_;  // gRPC's while writing_, else under mu_
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool reading_ ABSL_GUARDED_BY(mu_) = true;  // until what was read is taken
  bool read_all_ ABSL_GUARDED_BY(mu_) = false;   // no more will come
  absl::Status read_no_more_ ABSL_GUARDED_BY(mu_);  // why not; OK: it is read on
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  int submitted_ ABSL_GUARDED_BY(mu_) = 0;  // tasks that Lifecycle holds
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_TASK_STREAM_H_
