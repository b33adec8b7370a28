#include "queue/requests.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/errors.h"

namespace penstock {
namespace {

// Longer than any call takes; then the gateway that had it is dead.
constexpr absl::Duration kLease = absl::Seconds(40);
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

void Requests::End(std::string request_id, std::string nonce, RequestEnd end,
                   Done done) {
  // It may follow a submission that Stop has ended.
  if (!scope_->gate.Enter()) {
    std::move(done)(absl::CancelledError("stopped"));
    return;
  }
  scope_->backend->EndRequest(std::move(request_id), std::move(nonce), end,
                              scope_->GuardDone(std::move(done)));
  scope_->gate.Leave();
}

}  // namespace penstock
