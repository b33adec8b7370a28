#include "tests/simulation/history.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "queue/wire/task_json.h"

namespace penstock::simulation {
namespace {

std::string Shown(const std::optional<TaskState>& state) {
  if (!state.has_value()) return "none";
  std::string text(StatusName(state->status));
  absl::StrAppend(&text, " attempt ", state->attempt, " run ", state->run);
  for (const Value& result : state->results) {
    absl::StrAppend(&text, " ", result.json);
  }
  if (!state->error.empty()) {
    absl::StrAppend(&text, " ", state->error_type, ": ", state->error);
  }
  return text;
}

bool SameEnd(const TaskState& a, const TaskState& b) {
  return a.status == b.status && a.results == b.results && a.error == b.error;
}

}  // namespace

void History::Start(const Workload* workload, absl::Duration results_expire_in,
                    bool faultless, bool mixed) {
  workload_ = workload;
  results_expire_in_ = results_expire_in;
  faultless_ = faultless;
  mixed_ = mixed;
}

const Expected* History::Find(const std::string& id) const {
  auto found = workload_->tasks.find(id);
  return found == workload_->tasks.end() ? nullptr : &found->second;
}

// Whether a Go worker had its hands on the task or on what it follows.
bool History::GoTouched(const std::string& id) const {
  if (!mixed_) return false;
  if (of_go_.contains(id)) return true;
  const Expected* expected = Find(id);
  if (expected == nullptr) return true;
  for (const std::string& member : expected->members) {
    if (GoTouched(member)) return true;
  }
  return !expected->parent.empty() && GoTouched(expected->parent);
}

void History::Refused(size_t call, const absl::Status& why) {
  const std::vector<Task>& tasks = workload_->calls[call].tasks;
  // One that was cancelled amid its submission has no claim on its ids.
  const bool cancelled = std::any_of(
      tasks.begin(), tasks.end(),
      [this](const Task& task) { return cancel_asked_.contains(task.id); });
  if (!workload_->calls[call].impostor && !cancelled &&
      absl::IsAlreadyExists(why)) {
    Violation(absl::StrCat(workload_->calls[call].name,
                           ": an equal call was refused: ", why.ToString()));
  }
}

void History::Published(const std::string& id, const std::string& body) {
  const Expected* expected = Find(id);
  if (expected == nullptr) {
    if (mixed_) return;  // Go gives a task without an id a random one
    Violation(absl::StrCat("a task was published under an unknown id: ", id));
    return;
  }
  absl::StatusOr<Task> task = DecodeTask(body);
  if (!task.ok()) return Violation(task.status().ToString());
  const std::string which = absl::StrCat(
      "attempt ", AttemptOf(*task),
      StringHeader(*task, kUnknownSinceHeader).has_value() ? " passed on" : "");
  const int count = ++seen_[id].publishes[which];
  if (faultless_ && !mixed_ && !workload_->calls[expected->call].twice &&
      // Who cancels carries out what follows, and so does who meets the task.
      cancel_asked_.empty() && !absl::StrContains(which, "passed on") &&
      count > 1) {
    Violation(absl::StrCat(id, " (", which,
                           ") was published again, though "
                           "nothing was lost"));
  }
}

void History::MayRun(const std::string& id, int attempt,
                     const std::optional<TaskState>& before) {
  const Expected* expected = Find(id);
  if (expected == nullptr) return;
  Seen& seen = seen_[id];
  if (!GoTouched(id)) {
    if (before.has_value() && IsFinal(before->status)) {
      Violation(
          absl::StrCat(id, " begins though it has ended: ", Shown(before)));
    }
    if (attempt < seen.newest_attempt) {
      Violation(absl::StrCat(id, " begins attempt ", attempt,
                             ", though attempt ", seen.newest_attempt,
                             " is the next: ", Shown(before)));
    }
    for (const std::string& member : expected->members) {
      if (!seen_[member].final_state.has_value()) {
        Violation(absl::StrCat("callback ", id, " begins before member ",
                               member, " has ended"));
      }
    }
  }
  seen.newest_attempt = std::max(seen.newest_attempt, attempt);
}

void History::Runs(const Task& task) {
  ++runs_;
  const Expected* expected = Find(task.id);
  if (expected == nullptr && mixed_) return;
  if (expected == nullptr || task.name != expected->name) {
    return Violation(absl::StrCat("what runs is not what was sent: ", task.id,
                                  " ", task.name));
  }
  ++seen_[task.id].runs;
  if (GoTouched(task.id)) return;  // a Go worker's members may lack results
  std::vector<std::string> args;
  for (const Value& arg : task.args) args.push_back(arg.json);
  bool same = args.size() == expected->args.size();
  for (size_t i = 0; same && i < args.size(); ++i) {
    same = expected->args[i] == "*" || expected->args[i] == args[i];
  }
  if (!same) {
    Violation(absl::StrCat(task.id, " runs with arguments ",
                           absl::StrJoin(args, " "), " and not ",
                           absl::StrJoin(expected->args, " ")));
  }
}

void History::Stands(const std::string& id,
                     const std::optional<TaskState>& state, absl::Time now,
                     bool by_go) {
  if (Find(id) == nullptr) return;
  Seen& seen = seen_[id];
  seen.last = state;
  if (state.has_value() && state->status == Status::kRetry) {
    seen.newest_attempt = std::max(seen.newest_attempt, state->next_attempt);
  }
  if (state.has_value() && state->error_type == kErrorWornOut) worn_out_ = true;
  if (!seen.final_state.has_value()) {
    if (state.has_value() && IsFinal(state->status)) {
      seen.final_state = state;
      seen.final_time = now;
    }
    return;
  }
  if (by_go || GoTouched(id)) {
    if (state.has_value() && IsFinal(state->status)) seen.final_state = state;
    return;
  }
  // A final state may only expire; what comes after that is another life.
  if (state.has_value() && SameEnd(*state, *seen.final_state)) return;
  if (now - seen.final_time >= results_expire_in_) {
    if (state.has_value() && IsFinal(state->status)) {
      seen.final_state = state;
      seen.final_time = now;
    }
    return;
  }
  Violation(absl::StrCat(id, " had ended as ", Shown(seen.final_state),
                         " and is now ", Shown(state)));
}

bool History::OneFailed(const std::vector<std::string>& members) const {
  return std::any_of(members.begin(), members.end(), [this](const auto& id) {
    auto seen = seen_.find(id);
    return seen != seen_.end() && seen->second.final_state.has_value() &&
           seen->second.final_state->status == Status::kFailure;
  });
}

// Whether a task that was cancelled or expired while it waited, for others or for
// its submission, was never sent: no one has met it, so what hangs on it alone
// is neither sent nor ended.
bool History::WasPassedOver(const std::string& id) const {
  const Expected& expected = workload_->tasks.at(id);
  auto seen = seen_.find(id);
  if (seen == seen_.end() || !seen->second.final_state.has_value()) return false;
  const std::string& type = seen->second.final_state->error_type;
  if (type != kErrorCancelled && type != kErrorExpired) return false;
  return seen->second.publishes.empty() ||
         (!expected.parent.empty() && OneFailed({expected.parent})) ||
         OneFailed(expected.members);
}

// What was promised to end with the accepted calls: all but error tasks whose
// parent did not fail.
std::vector<std::string> History::MustEnd() const {
  std::vector<std::string> ids;
  for (const auto& [id, expected] : workload_->tasks) {
    if (!accepted_.contains(expected.call)) continue;
    if (expected.on_error) {
      auto parent = seen_.find(expected.parent);
      if (parent == seen_.end() || !parent->second.final_state.has_value()) {
        continue;
      }
      const TaskState& state = *parent->second.final_state;
      if (state.status != Status::kFailure ||
          state.error_type == kErrorAbandoned) {
        continue;
      }
      if (GoTouched(id)) continue;
    }
    if (!expected.parent.empty() && !expected.recorded &&
        WasPassedOver(expected.parent)) {
      continue;
    }
    if (!expected.instead_of.empty() &&
        (GoTouched(expected.instead_of) ||
         !OneFailed(workload_->tasks.at(expected.instead_of).members))) {
      continue;
    }
    ids.push_back(id);
  }
  return ids;
}

bool History::GoDropped(const std::string& id) const {
  for (size_t i = 0; i < workload_->calls.size(); ++i) {
    const Call& call = workload_->calls[i];
    if (call.group_id != id && call.tasks[0].id != id) continue;
    for (const auto& [task_id, expected] : workload_->tasks) {
      if (expected.call != static_cast<int>(i) || !GoTouched(task_id)) continue;
      auto seen = seen_.find(task_id);
      if (seen == seen_.end() || !seen->second.last.has_value() ||
          !IsFinal(seen->second.last->status)) {
        return true;
      }
    }
  }
  return false;
}

std::string History::Missing() const {
  std::string text;
  for (const std::string& id : MustEnd()) {
    auto seen = seen_.find(id);
    if (seen != seen_.end() && seen->second.final_state.has_value()) continue;
    if (GoTouched(id) && !(faultless_ && workload_->tasks.at(id).recorded)) {
      continue;
    }
    absl::StrAppend(&text, id, " is ",
                    seen == seen_.end() ? "none" : Shown(seen->second.last),
                    "; ");
  }
  return text;
}

int History::ended() const {
  return static_cast<int>(std::count_if(
      seen_.begin(), seen_.end(),
      [](const auto& seen) { return seen.second.final_state.has_value(); }));
}

void History::CheckEnd(int workers) {
  std::string missing = Missing();
  if (!missing.empty()) {
    return Violation(absl::StrCat("nothing is left to do, but ", missing));
  }
  size_t members = 0;
  for (const std::string& id : MustEnd()) {
    const Expected& expected = workload_->tasks.at(id);
    members += expected.members.size();
    if (!GoTouched(id)) CheckTask(id, expected);
    if (!expected.members.empty() && !GoTouched(id))
      CheckCallback(id, expected);
  }
  // Each member is read once and a bit by each worker that meets it, and once
  // more before the claim; a repeat of a call looks at one state.
  // Who cancels reads them too.
  const int64_t most =
      static_cast<int64_t>(members) *
          (4 * workers + 4 + 4 * workload_->cancels.size()) +
      20;
  if (faultless_ && read_ > most) {
    Violation(absl::StrCat(read_, " states were read for ", members,
                           " members of chords"));
  }
}

void History::CheckTask(const std::string& id, const Expected& expected) {
  const Seen& seen = seen_[id];
  const TaskState& end = *seen.final_state;
  if (end.status == Status::kSuccess && seen.runs == 0) {
    Violation(absl::StrCat(id, " succeeded without a run"));
  }
  if (end.error_type == kErrorNotRegistered) {
    int passes = 0;
    for (const auto& [which, count] : seen.publishes) {
      if (absl::StrContains(which, "passed on")) passes += count;
    }
    // One of two workers knows "only0": it may still be unlucky often.
    if ((expected.name != "nobody" && expected.name != "only0") || passes < 5) {
      Violation(absl::StrCat(id, " after ", passes, " passes: ", end.error));
    }
  }
  if (absl::StrContains(end.error, "lost: its state has expired")) {
    Violation(absl::StrCat(id, ": ", end.error));
  }
  if (end.error_type == kErrorCancelled && !cancel_asked_.contains(id)) {
    Violation(absl::StrCat(id, " was cancelled, and no one asked for it"));
  }
  if (end.error_type != kErrorCancelled && cancelled_.contains(id)) {
    Violation(absl::StrCat(id, " was cancelled, but ended as ", Shown(end)));
  }
  if (end.error_type == kErrorExpired &&
      end.finish_time < expected.expiry.value_or(absl::InfiniteFuture())) {
    Violation(absl::StrCat(id, " expired too early: ", Shown(end)));
  }
  if (expected.name == "ok" && end.status == Status::kFailure &&
      end.error_type != kErrorCancelled && end.error_type != kErrorExpired &&
      end.error_type != kErrorAbandoned && end.error_type != kErrorWornOut &&
      end.error_type != kErrorUnroutable) {
    Violation(absl::StrCat(id, " cannot fail, but did: ", Shown(end)));
  }
  if (expected.on_error || expected.parent.empty()) return;
  const std::optional<TaskState>& parent = seen_[expected.parent].final_state;
  if (!parent.has_value()) return;
  if (parent->status == Status::kSuccess && end.error_type == kErrorAbandoned) {
    Violation(absl::StrCat(id, " was abandoned though ", expected.parent,
                           " succeeded"));
  }
  if (parent->status == Status::kFailure && end.status == Status::kSuccess) {
    Violation(absl::StrCat(id, " ran though ", expected.parent, " failed"));
  }
}

void History::CheckCallback(const std::string& id, const Expected& expected) {
  const Seen& seen = seen_[id];
  std::string failed;
  for (const std::string& member : expected.members) {
    const std::optional<TaskState>& state = seen_[member].final_state;
    if (state.has_value() && state->status == Status::kFailure) failed = member;
  }
  const TaskState& end = *seen.final_state;
  if (end.error_type == kErrorCancelled) return;
  if (failed.empty()) {
    if (seen.runs == 0 && end.error_type != kErrorWornOut) {
      Violation(absl::StrCat("all members succeeded, but callback ", id,
                             " never ran: ", Shown(end)));
    }
    return;
  }
  bool named = false;
  for (const std::string& member : expected.members) {
    const std::optional<TaskState>& state = seen_[member].final_state;
    if (state->status == Status::kFailure &&
        absl::StrContains(end.error, absl::StrCat("(", member, ")"))) {
      named = true;
    }
  }
  if (end.status != Status::kFailure || !named) {
    Violation(absl::StrCat("member ", failed, " failed, but callback ", id,
                           " ended as ", Shown(end)));
  }
}

}  // namespace penstock::simulation
