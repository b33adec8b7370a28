// Takes what a client sends, in the one order that loses nothing: PENDING of all
// tasks, then the publishes, then OK. docs/architecture.md section 4, Submit.
//
// Owns no thread: runs on those of backend and broker. Thread-safe.

#ifndef PENSTOCK_QUEUE_SUBMITTER_H_
#define PENSTOCK_QUEUE_SUBMITTER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "queue/continuation.h"
#include "queue/lifecycle.h"
#include "queue/mover.h"
#include "queue/scope.h"
#include "queue/unique_keys.h"

namespace penstock {

class Submitter {
 public:
  Submitter(Scope* scope, Mover* mover, Continuation* continuation)
      : scope_(scope),
        mover_(mover),
        continuation_(continuation),
        unique_keys_(scope) {}

  void SubmitTask(Task task, Submission submission, Callback<Submitted> done);
  void SubmitTasks(std::vector<NewTask> tasks, absl::Time deadline,
                   Callback<SubmittedTasks> done);
  void SubmitChain(std::vector<Task> links, Submission submission,
                   Callback<Submitted> done);
  void SubmitGroup(NewGroup group, Submission submission,
                   Callback<Submitted> done);

 private:
  struct Call;
  using CallPtr = std::shared_ptr<Call>;
  struct Batch;
  using BatchPtr = std::shared_ptr<Batch>;

  void CreateStates(BatchPtr batch, std::vector<size_t> places);
  void SendOne(BatchPtr batch, size_t place);
  CallPtr CallOf(const BatchPtr& batch, size_t place);
  void TryAlone(const BatchPtr& batch, size_t place);

  void Start(CallPtr call);
  void CreateRecord(CallPtr call);
  void CreateStates(CallPtr call);
  void OnCreated(CallPtr call);
  void SendNext(CallPtr call);
  void SendOne(CallPtr call, size_t index);
  void OnSent(CallPtr call, size_t index, absl::Status status);
  void AllSettled(CallPtr call);
  void FollowEnded(CallPtr call);
  void MarkSubmitted(CallPtr call);
  void Accept(CallPtr call);
  void TakeBack(CallPtr call, absl::Status why);
  void Refuse(CallPtr call, absl::Status why);

  Scope* const scope_;
  Mover* const mover_;
  Continuation* const continuation_;
  UniqueKeys unique_keys_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_SUBMITTER_H_
