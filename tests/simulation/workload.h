// What the clients of one seed ask for, and all that can be known beforehand
// about each task: its arguments, whom it follows, what must become of it.
// Pure.

#ifndef PENSTOCK_TESTS_SIMULATION_WORKLOAD_H_
#define PENSTOCK_TESTS_SIMULATION_WORKLOAD_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "queue/task.h"
#include "tests/simulation/scheduler.h"

namespace penstock::simulation {

inline constexpr char kQueue[] = "tasks";

// One call of a client.
struct Call {
  enum Kind { kTask, kChain, kGroup } kind = kTask;
  std::string name;  // for the trace
  absl::Duration at;
  std::vector<Task> tasks;
  std::string group_id;
  std::optional<Task> callback;
  std::optional<Task> on_failure;
  int concurrency = 0;
  std::string hash;
  bool twice = false;     // on two gateways at once
  bool impostor = false;  // under an id that another call has
  bool request = false;   // under a request_id
};

// What is known about a task before it runs.
struct Expected {
  int call = 0;  // the index of the call that promises it
  std::string name;
  // JSON texts; "*" is any text.
  std::vector<std::string> args;
  std::string parent;  // whose SUCCESS sends it, or whose FAILURE if `on_error`
  bool on_error = false;
  std::vector<std::string> members;  // of the chord whose callback it is
  std::optional<absl::Time> expiry;
  std::string instead_of;  // the callback in whose stead it is sent
  // Whether a group's or chain's record names it: Penstock ends it even if all
  // that stood before it ran on Go workers.
  bool recorded = false;
};

// A client that wants a task or a group no more.
struct Cancel {
  absl::Duration at;
  std::string task_id;   // empty: the group
  std::string group_id;
};

struct Workload {
  std::vector<Call> calls;
  std::vector<Cancel> cancels;
  std::map<std::string, Expected> tasks;  // by id

  std::string Text() const;
};

// `latest`: how far ahead a task may be delayed. `go`: only what a Go worker
// can take, which loses what no queue takes.
Workload MakeWorkload(Dice& dice, absl::Time start, absl::Duration latest,
                      bool go);

// The result of a task that succeeds: its id.
Value ResultOf(const std::string& id);

}  // namespace penstock::simulation

#endif  // PENSTOCK_TESTS_SIMULATION_WORKLOAD_H_
