// What happened in one seed, and what must not: the invariants. The world tells
// it each thing that it does; the first violation ends the seed.
//
// Used by one thread only.

#ifndef PENSTOCK_TESTS_SIMULATION_HISTORY_H_
#define PENSTOCK_TESTS_SIMULATION_HISTORY_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/task.h"
#include "tests/simulation/workload.h"

namespace penstock::simulation {

class History {
 public:
  // `faultless`: nothing is lost, late, or doubled. `mixed`: Go workers too.
  void Start(const Workload* workload, absl::Duration results_expire_in,
             bool faultless, bool mixed);

  void Violation(std::string text) {
    if (violation_.empty()) violation_ = std::move(text);
  }
  const std::string& violation() const { return violation_; }

  // --- what happens
  void Accepted(size_t call) { accepted_.insert(call); }
  bool IsAccepted(size_t call) const { return accepted_.contains(call); }
  void Refused(size_t call, const absl::Status& why);
  // A client asked for it; and was told that it is so.
  void CancelAsked(const std::string& id) { cancel_asked_.insert(id); }
  void Cancelled(const std::string& id) { cancelled_.insert(id); }
  void Published(const std::string& id, const std::string& body);
  // A worker may run attempt `attempt`; `before` is the state that stood.
  void MayRun(const std::string& id, int attempt,
              const std::optional<TaskState>& before);
  void Runs(const Task& task);
  // A state that stands now.
  void Stands(const std::string& id, const std::optional<TaskState>& state,
              absl::Time now, bool by_go);
  void GoTook(const std::string& id) { of_go_.insert(id); }
  void ReadStates(size_t ids, bool by_sweeper) {
    (by_sweeper ? swept_ : read_) += static_cast<int64_t>(ids);
  }
  void WornOut() { worn_out_ = true; }

  // --- the end: nothing is left to do
  void CheckEnd(int workers);
  // What was accepted and has not ended.
  std::string Missing() const;
  // Whether a Go worker had a task of the group or chain `id` that never ended.
  bool GoDropped(const std::string& id) const;

  // --- what a test may want to know was reached
  int64_t runs() const { return runs_; }
  int ended() const;

 private:
  struct Seen {
    std::optional<TaskState> last;
    std::optional<TaskState> final_state;  // the first final one
    absl::Time final_time;
    int newest_attempt = 0;
    int runs = 0;
    std::map<std::string, int>
        publishes;  // by attempt, and how it was passed on
  };

  const Expected* Find(const std::string& id) const;
  bool GoTouched(const std::string& id) const;
  std::vector<std::string> MustEnd() const;
  void CheckTask(const std::string& id, const Expected& expected);
  void CheckCallback(const std::string& id, const Expected& expected);

  bool OneFailed(const std::vector<std::string>& members) const;
  bool WasPassedOver(const std::string& id) const;

  const Workload* workload_ = nullptr;
  std::set<std::string> cancel_asked_;
  std::set<std::string> cancelled_;
  absl::Duration results_expire_in_;
  bool faultless_ = false;
  bool mixed_ = false;
  std::string violation_;
  std::set<size_t> accepted_;
  std::map<std::string, Seen> seen_;
  std::set<std::string> of_go_;
  int64_t read_ = 0;
  int64_t swept_ = 0;
  int64_t runs_ = 0;
  bool worn_out_ = false;
};

}  // namespace penstock::simulation

#endif  // PENSTOCK_TESTS_SIMULATION_HISTORY_H_
