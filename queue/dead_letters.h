// The dead letters of a queue: listed, sent again, deleted. A task that is sent
// again is a copy under a new id: what followed the dead one has been told its
// end, and states that are final stay so. docs/architecture.md section 8.
//
// Owns no thread: runs on those of backend and broker. Thread-safe.

#ifndef PENSTOCK_QUEUE_DEAD_LETTERS_H_
#define PENSTOCK_QUEUE_DEAD_LETTERS_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/lifecycle.h"
#include "queue/requests.h"
#include "queue/scope.h"
#include "queue/submitter.h"

namespace penstock {

class DeadLetters {
 public:
  DeadLetters(Scope* scope, Submitter* submitter, Requests* requests)
      : scope_(scope), submitter_(submitter), requests_(requests) {}

  // See Lifecycle.
  void List(std::string queue, int limit, std::optional<DeadPlace> after,
            Callback<std::vector<DeadTask>> done);
  void Retry(RetryCall call, Callback<RetriedTask> done);
  void Delete(std::string queue, std::string task_id, Callback<DeadTask> done);

 private:
  struct Call;
  std::string QueueOf(std::string queue) const;
  using CallPtr = std::shared_ptr<Call>;

  void Claim(CallPtr call);
  void OnClaimed(CallPtr call, RequestAnswer claim);
  void SendCopy(CallPtr call);
  void EndRequest(CallPtr call, absl::Status how);
  void TakeAway(CallPtr call);
  void Answer(CallPtr call);

  Scope* const scope_;
  Submitter* const submitter_;
  Requests* const requests_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_DEAD_LETTERS_H_
