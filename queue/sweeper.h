// Visits open groups and chains until they have ended: lets their states live,
// continues a chord's end that a crash cut short, ends what a mixed fleet left
// open, abandons what can no longer run. Every gateway and worker runs one; the
// visit's lease keeps them apart. docs/architecture.md section 6.
//
// Owns no thread: runs on those of environment and backend.

#ifndef PENSTOCK_QUEUE_SWEEPER_H_
#define PENSTOCK_QUEUE_SWEEPER_H_

#include <memory>
#include <optional>
#include <vector>

#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/continuation.h"
#include "queue/scope.h"

namespace penstock {

class Sweeper {
 public:
  Sweeper(Scope* scope, Continuation* continuation)
      : scope_(scope), continuation_(continuation) {}

  void Start();

 private:
  struct Visit;
  struct Visits;
  using VisitPtr = std::shared_ptr<Visit>;

  void Round();
  void VisitNext(std::shared_ptr<Visits> visits);
  void StartVisit(OpenEntry entry, Done done);
  void ReadStates(VisitPtr visit);
  void VisitChain(VisitPtr visit);
  void VisitGroup(VisitPtr visit);
  void EndGroup(VisitPtr visit, const std::optional<TaskState>& callback,
                const std::vector<std::optional<TaskState>>& promised);
  void AbandonAll(std::vector<std::string> task_ids, std::string cause,
                  Done done);
  void GiveUp(VisitPtr visit, std::string cause);
  void MarkThenEnd(VisitPtr visit, RecordMark mark);
  void Close(VisitPtr visit);

  Scope* const scope_;
  Continuation* const continuation_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_SWEEPER_H_
