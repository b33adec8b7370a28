#include "queue/requests.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/errors.h"

namespace penstock {
namespace {

// A repeat at another gateway waits for so long when the first one has died.
constexpr absl::Duration kLease = absl::Seconds(6);
constexpr absl::Duration kRenew = absl::Seconds(2);
// Longer than any call takes.
constexpr absl::Duration kLongestCall = absl::Seconds(40);
constexpr absl::Duration kLook = absl::Milliseconds(100);

}  // namespace

void Requests::ClaimAsOf(absl::Time time, std::string request_id,
                         std::string payload_hash, absl::Time deadline,
                         Callback<RequestAnswer> done, std::string claimant) {
  if (claimant.empty()) claimant = scope_->environment->NewUuid();
  Try({.request_id = std::move(request_id),
       .payload_hash = std::move(payload_hash),
       .nonce = std::move(claimant),
       .time = time,
       .lease = kLease,
       .window = scope_->options.request_window},
      deadline, std::move(done));
}

void Requests::Try(RequestClaim claim, absl::Time deadline,
                   Callback<RequestAnswer> done) {
  auto answered = [this, claim, deadline, done = std::move(done)](
                      absl::StatusOr<RequestAnswer> answer) mutable {
    if (!answer.ok()) {
      std::move(done)(answer.status());
      return;
    }
    if (answer->kind == RequestAnswer::kTaken) {
      std::move(done)(MakeError(
          absl::StatusCode::kAlreadyExists, reason::kRequestIdReused,
          absl::StrCat("request_id ", claim.request_id,
                       " was used for another call; a repeat must be equal"),
          {{"request_id", claim.request_id}}));
      return;
    }
    if (answer->kind == RequestAnswer::kOwned) Hold(claim);
    if (answer->kind != RequestAnswer::kBusy) {
      std::move(done)(*std::move(answer));
      return;
    }
    if (scope_->environment->Now() + kLook >= deadline) {
      std::move(done)(MakeError(
          absl::StatusCode::kUnavailable, reason::kRequestInProgress,
          absl::StrCat("another call with request_id ", claim.request_id,
                       " is under way, or its gateway has died: repeat it"),
          {{"request_id", claim.request_id}}));
      return;
    }
    scope_->After(kLook, [this, claim = std::move(claim), deadline,
                          done = std::move(done)](absl::Status status) mutable {
      if (!status.ok()) {
        std::move(done)(std::move(status));
        return;
      }
      Try(std::move(claim), deadline, std::move(done));
    });
  };
  scope_->backend->ClaimRequest(
      std::move(claim), scope_->Guard<RequestAnswer>(std::move(answered)));
}

void Requests::Hold(RequestClaim claim) {
  {
    absl::MutexLock lock(&mu_);
    held_.emplace(claim.request_id, claim.nonce);
  }
  Renew(std::move(claim), scope_->environment->Now() + kLongestCall);
}

void Requests::Renew(RequestClaim claim, absl::Time until) {
  scope_->After(kRenew, [this, claim = std::move(claim),
                         until](absl::Status status) mutable {
    const std::pair<std::string, std::string> key(claim.request_id,
                                                  claim.nonce);
    // Asked under the lock, so that it is not asked after End.
    absl::MutexLock lock(&mu_);
    if (!status.ok() || scope_->environment->Now() > until) held_.erase(key);
    if (!held_.contains(key)) return;
    RequestClaim again = claim;
    scope_->backend->ClaimRequest(
        std::move(again),
        scope_->Guard<RequestAnswer>(
            [this, claim = std::move(claim),
             until](absl::StatusOr<RequestAnswer> answer) mutable {
              if (absl::IsCancelled(answer.status())) return;
              Renew(std::move(claim), until);
            }));
  });
}

void Requests::End(std::string request_id, std::string nonce, RequestEnd end,
                   Done done) {
  // It may follow a submission that Stop has ended.
  if (!scope_->gate.Enter()) {
    std::move(done)(absl::CancelledError("stopped"));
    return;
  }
  {
    absl::MutexLock lock(&mu_);
    held_.erase({request_id, nonce});
    scope_->backend->EndRequest(std::move(request_id), std::move(nonce), end,
                                scope_->GuardDone(std::move(done)));
  }
  scope_->gate.Leave();
}

}  // namespace penstock
