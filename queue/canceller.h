// Cancels tasks and groups: the final state and its mark at once, then, for what
// had not begun, its steps. What had begun is ended by the worker that holds its
// delivery, which finds the outcome recorded. docs/architecture.md section 4.
//
// Owns no thread: runs on those of environment, backend and broker. Thread-safe.

#ifndef PENSTOCK_QUEUE_CANCELLER_H_
#define PENSTOCK_QUEUE_CANCELLER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/continuation.h"
#include "queue/lifecycle.h"
#include "queue/scope.h"

namespace penstock {

class Canceller {
 public:
  Canceller(Scope* scope, Continuation* continuation)
      : scope_(scope), continuation_(continuation) {}

  // See Lifecycle.
  void CancelTask(std::string task_id, std::string reason,
                  Callback<std::optional<CancelledTask>> done);
  void CancelGroup(std::string group_id, std::string reason,
                   Callback<std::optional<int>> done);

 private:
  struct GroupCall;

  void Write(TaskState known, const std::string& reason,
             Callback<CancelAnswer> done);
  void CarryOutSteps(const TaskState& cancelled);
  void TakeOut(LeasedTask delayed, const TaskState& cancelled);
  void EndChord(const std::string& group_id);
  void AbandonChain(const TaskState& first);
  void CancelMembers(std::shared_ptr<GroupCall> call);
  void CancelChunk(std::shared_ptr<GroupCall> call,
                   std::vector<std::optional<TaskState>> states);
  void CancelCallback(std::shared_ptr<GroupCall> call);

  Scope* const scope_;
  Continuation* const continuation_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_CANCELLER_H_
