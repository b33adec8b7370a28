// A worker as Go machinery is one: docs/wire-format.md for its keys, and for
// what it does wrong the comments in go_worker.cc. It knows nothing of records,
// marks and attempts.
//
// Used by one thread only.

#ifndef PENSTOCK_TESTS_SIMULATION_GO_WORKER_H_
#define PENSTOCK_TESTS_SIMULATION_GO_WORKER_H_

#include "queue/broker.h"
#include "queue/task.h"
#include "tests/simulation/world.h"

namespace penstock::simulation {

class GoWorker {
 public:
  GoWorker(ProcessPtr process, int prefetch);
  ~GoWorker();

 private:
  // A run is a coroutine: each pause in it is an event, and a crash there drops
  // the rest.
  struct Fiber;
  struct Pause;

  Fiber Handle(Delivery delivery);
  Pause Step(const char* what);
  Pause Wait(absl::Duration duration, const char* what);

  // Read, to be written later: the two are not atomic.
  TaskState Merged(const Task& task, Status status);
  void Write(TaskState state);
  TaskState Pending(const Task& task);
  void Publish(const Task& task);
  bool Fails();

  World& world() { return *process_->world(); }

  const ProcessPtr process_;
  LinkPtr link_;
};

}  // namespace penstock::simulation

#endif  // PENSTOCK_TESTS_SIMULATION_GO_WORKER_H_
