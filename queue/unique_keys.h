// Business uniqueness: of the tasks that are sent under one unique_key only one is
// not final at a time. The backend keeps who holds a key; whether the holder has
// ended is read from its state.
//
// Owns no thread: runs on those of the backend. Thread-safe.

#ifndef PENSTOCK_QUEUE_UNIQUE_KEYS_H_
#define PENSTOCK_QUEUE_UNIQUE_KEYS_H_

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/scope.h"
#include "queue/task.h"

namespace penstock {

class UniqueKeys {
 public:
  explicit UniqueKeys(Scope* scope) : scope_(scope) {}

  // The claims that `tasks` make; their ttl is the caller's to set.
  static std::vector<UniqueClaim> ClaimsOf(const std::vector<Task>& tasks);

  // All of `claims`, or none of them. `done` gets those that this call took: what
  // its tasks held before is not among them.
  //   ALREADY_EXISTS      UNIQUE_KEY_HELD (metadata task_id, unique_key)
  //   FAILED_PRECONDITION BACKEND_UNSUPPORTED
  void Claim(std::vector<UniqueClaim> claims,
             Callback<std::vector<UniqueClaim>> done);

  // Nothing of their tasks was kept.
  void Release(std::vector<UniqueClaim> claims, Done done);

 private:
  struct Call;
  using CallPtr = std::shared_ptr<Call>;

  void TakeNext(CallPtr call);
  void LookAtHolder(CallPtr call, UniqueAnswer held);
  void GiveUp(CallPtr call, absl::Status why);

  Scope* const scope_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_UNIQUE_KEYS_H_
