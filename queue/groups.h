// Open groups and the end of chords, in linear work. For each group that it
// meets this process keeps the member list, which never changes, and a cursor:
// all members before it are known to be final. A completion reads on from there,
// so each member is read once, whoever ended it. docs/architecture.md section 6.
//
// Thread-safe; callbacks run on the backend's threads.

#ifndef PENSTOCK_QUEUE_GROUPS_H_
#define PENSTOCK_QUEUE_GROUPS_H_

#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/scope.h"
#include "queue/task.h"

namespace penstock {

class Continuation;

class Groups {
 public:
  Groups(Scope* scope, Continuation* continuation)
      : scope_(scope), continuation_(continuation) {}

  // A member of `group_id` is final. Ends the chord if all are; `callback` is
  // the signature's JSON, for a group that a Go client laid. `done` gets OK, or
  // CANCELLED after Stop.
  void Join(std::string group_id, std::string callback, Done done);

  // Ends the chord if all members are final and no one else does. `record` was
  // just read.
  void EndChord(WorkflowRecord record, Done done);

  // Sends what a claimed chord sends, and marks it sent. `members` are the final
  // states in group order.
  void SendChord(const WorkflowRecord& record,
                 const std::vector<TaskState>& members, Done done);

 private:
  struct OpenGroup {
    // Constant.
    std::string id;
    std::string callback;
    // Owned by the pass that runs.
    bool known = false;
    WorkflowRecord record;
    size_t cursor = 0;
    size_t begun_at = 0;  // the cursor, when the pass began
    bool stands = false;  // the last pass did not move it
    // Guarded by Groups::mu_.
    bool pass_runs = false;
    size_t joined = 0;  // in all: so many members are final, at least
    std::vector<Done> waiting;  // joined during the pass: another one follows
  };
  using OpenGroupPtr = std::shared_ptr<OpenGroup>;

  OpenGroupPtr FindOrAdd(std::string group_id, std::string callback)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Forget(const std::string& group_id);
  void DropOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void StartPass(OpenGroupPtr group, size_t joined,
                 std::vector<Done> joiners);
  void Learn(OpenGroupPtr group, size_t joined, Done done);
  void Adopt(OpenGroupPtr group, Done done);
  void ReadOn(OpenGroupPtr group, size_t count, size_t next, Done done);
  void Claim(std::shared_ptr<const WorkflowRecord> record,
             std::shared_ptr<const std::vector<TaskState>> members,
             std::string token, Done done);

  Scope* const scope_;
  Continuation* const continuation_;

  absl::Mutex mu_;
  std::unordered_map<std::string, OpenGroupPtr> groups_ ABSL_GUARDED_BY(mu_);
  std::list<std::string> by_age_ ABSL_GUARDED_BY(mu_);  // oldest first
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_GROUPS_H_
