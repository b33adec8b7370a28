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
  const absl::Time until = scope_->environment->Now() + kLongestCall;
  {
    absl::MutexLock lock(&mu_);
    Key key(claim.request_id, claim.nonce);
    held_.insert_or_assign(std::move(key), Held{std::move(claim), until});
    if (std::exchange(renewing_, true)) return;
  }
  RenewLater();
}

void Requests::RenewLater() {
  scope_->After(kRenew, [this](absl::Status status) {
    if (status.ok()) RenewHeld();
  });
}

// All at once, whatever their age: most calls end long before it is their turn.
void Requests::RenewHeld() {
  {
    // Asked under the lock, so that none is asked after its End.
    absl::MutexLock lock(&mu_);
    const absl::Time now = scope_->environment->Now();
    std::erase_if(held_,
                  [now](const auto& held) { return held.second.until < now; });
    for (const auto& [key, held] : held_) {
      scope_->backend->ClaimRequest(
          held.claim,
          scope_->Guard<RequestAnswer>([](absl::StatusOr<RequestAnswer>) {}));
    }
    renewing_ = !held_.empty();
    if (!renewing_) return;
  }
  RenewLater();
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
