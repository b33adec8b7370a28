// A SendTask with `wait`: it ends when the task has. The wait begins when the task
// is recorded and before it is sent, so that no change is missed; a state that a
// worker wrote answers the call without the broker's confirm, which it stands for.
// Owns no thread: runs on those of backend, broker and environment. Included by .cc
// files only: it sees grpcpp.

#ifndef PENSTOCK_GATEWAY_SEND_AND_WAIT_H_
#define PENSTOCK_GATEWAY_SEND_AND_WAIT_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/calls.h"
#include "gateway/permits.h"
#include "gateway/sends.h"
#include "gateway/waiters.h"
#include "queue/backend.h"
#include "queue/lifecycle.h"
#include "queue/task.h"

namespace penstock {

// Thread-safe.
class SendAndWait : public std::enable_shared_from_this<SendAndWait> {
 public:
  // What it works with; `core` keeps waiters.
  struct World {
    Backend* backend;
    Waiters* waiters;
    std::shared_ptr<void> core;
  };

  // Runs once, inside the call's Reply. The state is nullopt where it could not
  // be read.
  using Fill = absl::AnyInvocable<void(const Submitted&,
                                       const std::optional<TaskState>&)>;

  // Waits under `ticket`, which the call's cancelling forgets. `permit` is that
  // of the wait.
  SendAndWait(World world, Waiters::Ticket ticket, absl::Time until,
              const Task& task, Permit permit, std::shared_ptr<UnaryCall> call,
              Fill fill);

  // The Submission's on_recorded: the wait begins.
  void OnRecorded(const Submitted& submitted);

  // How the send ended. A failure ends a call that has no answer yet.
  void OnSent(absl::StatusOr<Sent> sent);

 private:
  using State = std::optional<TaskState>;

  void Begin(const Submitted& submitted);
  void Wait(State known);
  void OnWaited(absl::StatusOr<State> state);
  void AnswerIfDone();

  // Constant after construction.
  const World world_;
  const Waiters::Ticket ticket_;
  const std::string id_;
  const absl::Time until_;
  const std::shared_ptr<UnaryCall> call_;

  // Used by one callback after the other.
  TaskState pending_;             // as it is recorded, but for its time
  std::optional<Permit> permit_;  // until the wait has it
  Fill fill_;

  absl::Mutex mu_;
  std::optional<Submitted> submitted_ ABSL_GUARDED_BY(mu_);
  bool accepted_ ABSL_GUARDED_BY(mu_) = false;
  bool waited_ ABSL_GUARDED_BY(mu_) = false;  // the wait has ended, with state_
  State state_ ABSL_GUARDED_BY(mu_);
  bool answered_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_SEND_AND_WAIT_H_
