// Calls that clients may repeat under a request_id: the first one is carried out,
// a repeat gets its answer, on any gateway. A record in the backend says whose the
// call is (for a lease, which is renewed, since a gateway may die amid it), and that
// it was accepted.
//
// Owns no thread: runs on those of environment and backend. Thread-safe.

#ifndef PENSTOCK_QUEUE_REQUESTS_H_
#define PENSTOCK_QUEUE_REQUESTS_H_

#include <map>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/callback.h"
#include "queue/scope.h"

namespace penstock {

class Requests {
 public:
  explicit Requests(Scope* scope) : scope_(scope) {}

  // See Lifecycle.
  void Claim(std::string request_id, std::string payload_hash,
             std::string claimant, absl::Time deadline,
             Callback<RequestAnswer> done) {
    ClaimAsOf(scope_->environment->Now(), std::move(request_id),
              std::move(payload_hash), deadline, std::move(done),
              std::move(claimant));
  }
  // As of a time of the caller's, which a repeat is answered with.
  void ClaimAsOf(absl::Time time, std::string request_id,
                 std::string payload_hash, absl::Time deadline,
                 Callback<RequestAnswer> done, std::string claimant = "");
  void End(std::string request_id, std::string nonce, RequestEnd end,
           Done done);

 private:
  void Try(RequestClaim claim, absl::Time deadline,
           Callback<RequestAnswer> done);
  void Hold(RequestClaim claim);
  void RenewLater();
  void RenewHeld();

  // A claim that is under way here, and until when it is renewed.
  struct Held {
    RequestClaim claim;
    absl::Time until;
  };
  using Key = std::pair<std::string, std::string>;  // request_id, nonce

  Scope* const scope_;

  absl::Mutex mu_;
  std::map<Key, Held> held_ ABSL_GUARDED_BY(mu_);
  bool renewing_ ABSL_GUARDED_BY(mu_) = false;  // a look at them is planned
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REQUESTS_H_
