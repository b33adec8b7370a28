// What a running handler reports (Context::SetProgress) on its way to the
// backend: two writes a second at most for each run, the newest wins. Best
// effort: what comes after the run has ended is dropped.
//
// Thread-safe; nothing blocks. Its callbacks share in owning it.

#ifndef PENSTOCK_SDK_CPP_PROGRESS_H_
#define PENSTOCK_SDK_CPP_PROGRESS_H_

#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "queue/callback.h"
#include "queue/task.h"

namespace penstock {

class ProgressReport : public std::enable_shared_from_this<ProgressReport> {
 public:
  // Where it goes. `write` and `after` may drop what they are given: then there
  // is no more to report to.
  struct World {
    std::function<absl::Time()> now;
    std::function<void(absl::Duration, Closure)> after;
    std::function<void(TaskProgress, Callback<bool>)> write;
  };

  explicit ProgressReport(World world) : world_(std::move(world)) {}

  void Set(double fraction, std::string_view line);

  // The run has ended: what was not written is dropped.
  void Close();

 private:
  void WriteAfter(absl::Duration pause);
  void Write();
  void OnWritten(TaskProgress written, absl::StatusOr<bool> stands);

  const World world_;

  absl::Mutex mu_;
  std::optional<TaskProgress> waiting_ ABSL_GUARDED_BY(mu_);
  absl::Time next_write_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool busy_ ABSL_GUARDED_BY(mu_) = false;  // a write is planned or under way
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace penstock

#endif  // PENSTOCK_SDK_CPP_PROGRESS_H_
