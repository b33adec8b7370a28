#include "queue/unique_keys.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/errors.h"
#include "queue/policy.h"

namespace penstock {
namespace {

using States = std::vector<std::optional<TaskState>>;

// A holder without a state is about to write it, or its gateway has died.
constexpr absl::Duration kLease = absl::Seconds(40);

bool Ended(const std::optional<TaskState>& state, absl::Duration held_for) {
  return state.has_value() ? IsFinal(state->status) : held_for > kLease;
}

}  // namespace

struct UniqueKeys::Call {
  std::vector<UniqueClaim> claims;
  Callback<std::vector<UniqueClaim>> done;
  size_t next = 0;
  std::vector<UniqueClaim> taken;
};

std::vector<UniqueClaim> UniqueKeys::ClaimsOf(
    const std::vector<Task>& tasks) {
  std::vector<UniqueClaim> claims;
  for (const Task& task : tasks) {
    std::optional<std::string> key = UniqueKeyOf(task);
    if (!key.has_value()) continue;
    claims.push_back({.key = *std::move(key), .task_id = task.id});
  }
  return claims;
}

void UniqueKeys::Claim(std::vector<UniqueClaim> claims,
                       Callback<std::vector<UniqueClaim>> done) {
  auto call = std::make_shared<Call>();
  call->claims = std::move(claims);
  call->done = std::move(done);
  TakeNext(std::move(call));
}

void UniqueKeys::TakeNext(CallPtr call) {
  if (call->next == call->claims.size()) {
    std::move(call->done)(std::move(call->taken));
    return;
  }
  scope_->backend->ClaimUnique(
      call->claims[call->next],
      scope_->Guard<UniqueAnswer>(
          [this, call](absl::StatusOr<UniqueAnswer> answer) {
            if (!answer.ok()) {
              GiveUp(call, answer.status());
              return;
            }
            if (answer->kind == UniqueAnswer::kHeld) {
              LookAtHolder(call, *std::move(answer));
              return;
            }
            UniqueClaim& claim = call->claims[call->next++];
            if (answer->kind == UniqueAnswer::kTaken) {
              call->taken.push_back(std::move(claim));
            }
            TakeNext(call);
          }));
}

void UniqueKeys::LookAtHolder(CallPtr call, UniqueAnswer held) {
  UniqueClaim& claim = call->claims[call->next];
  std::vector<std::string> ids = {held.holder, claim.task_id};
  scope_->backend->GetStates(
      std::move(ids),
      scope_->Guard<States>([this, call,
                             held](absl::StatusOr<States> states) {
        if (!states.ok()) {
          GiveUp(call, states.status());
          return;
        }
        UniqueClaim& claim = call->claims[call->next];
        if (states->at(1).has_value()) {
          // A repeat of a call that held the key in its time.
          ++call->next;
          TakeNext(call);
        } else if (Ended(states->at(0), held.age)) {
          claim.ended_holder = held.holder;
          TakeNext(call);
        } else {
          GiveUp(call, MakeError(absl::StatusCode::kAlreadyExists,
                                 reason::kUniqueKeyHeld,
                                 absl::StrCat("unique_key ", claim.key,
                                              " is held by task ", held.holder,
                                              ", which has not ended"),
                                 {{"task_id", held.holder},
                                  {"unique_key", claim.key}}));
        }
      }));
}

void UniqueKeys::GiveUp(CallPtr call, absl::Status why) {
  Release(std::move(call->taken), [call, why](absl::Status) {
    std::move(call->done)(why);
  });
}

void UniqueKeys::Release(std::vector<UniqueClaim> claims, Done done) {
  // It may follow a call that Stop has ended: then they are free soon.
  if (claims.empty() || !scope_->gate.Enter()) {
    std::move(done)(absl::OkStatus());
    return;
  }
  scope_->backend->ReleaseUnique(std::move(claims),
                                 scope_->GuardDone(std::move(done)));
  scope_->gate.Leave();
}

}  // namespace penstock
