// Carries out what follows an outcome (queue/next_steps.h): follow-up tasks,
// abandonments, the end of chords. Each step is repeated until it has taken
// place, and may take place twice without harm; only then is a delivery acked.

#ifndef PENSTOCK_QUEUE_CONTINUATION_H_
#define PENSTOCK_QUEUE_CONTINUATION_H_

#include <memory>
#include <string>
#include <vector>

#include "queue/callback.h"
#include "queue/groups.h"
#include "queue/next_steps.h"
#include "queue/scope.h"
#include "queue/task.h"

namespace penstock {

// Why Penstock itself ends a task.
struct EndReason {
  std::string error;
  std::string error_type;
  bool dead_letter = true;
};

class Continuation {
 public:
  explicit Continuation(Scope* scope) : scope_(scope), groups_(scope, this) {}

  // The steps after `task` ended as `final_state`. `done` gets OK, or CANCELLED
  // after Stop.
  void Follow(const Task& task, const TaskState& final_state, Done done);

  // Carries out `steps` in their order.
  void CarryOut(std::vector<Step> steps, Done done);

  // Ends `task`, which cannot go on: FAILURE, its steps, a dead letter of
  // `queue`. kNotBegun leaves one alone that a worker has begun after all.
  enum class EndWhich { kNotBegun, kNotFinal };
  void End(Task task, EndWhich which, EndReason reason, std::string queue,
           Done done);

  Groups& groups() { return groups_; }

 private:
  struct Walk;

  void TakeNextStep(std::shared_ptr<Walk> walk);
  void SendTask(Task task, Done done);
  void SendUntilSent(std::shared_ptr<const Task> task, absl::Time first_try,
                     int failures, Done done);
  void PublishOnce(std::shared_ptr<const Task> task, absl::Time first_try,
                   int failures, Done done);
  void AbandonTask(const Abandon& abandon, Done done);
  void FinishEnd(Task task, TaskState failure, EndReason reason,
                 std::string queue, Done done);

  Scope* const scope_;
  Groups groups_;  // synchronises itself
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_CONTINUATION_H_
