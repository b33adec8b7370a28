// The periodic tasks of a worker: sends each at its ticks, if machinery's lock
// says that no other process does. Runs on the threads of the environment, the
// lock and Lifecycle, whose callbacks share in owning it; after Stop they do
// nothing. docs/workers.md.

#ifndef PENSTOCK_SDK_CPP_PERIODIC_H_
#define PENSTOCK_SDK_CPP_PERIODIC_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "queue/cron.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"
#include "queue/lock.h"
#include "queue/scope.h"
#include "queue/task.h"

namespace penstock {

// What is sent at each tick. Ids are empty.
struct PeriodicCall {
  enum Kind { kTask, kChain, kGroup, kChord } kind = kTask;
  std::vector<Task> tasks;
  std::optional<Task> callback;
  int send_concurrency = 0;
};

struct PeriodicEntry {
  std::string name;
  std::string spec;  // as it was given: it is part of the lock's key
  CronSpec cron;
  PeriodicCall call;
};

// INVALID_ARGUMENT says what is wrong with `spec`, `name` or `call`.
absl::StatusOr<PeriodicEntry> MakePeriodicEntry(std::string_view spec,
                                                std::string_view name,
                                                PeriodicCall call);

class Periodic : public std::enable_shared_from_this<Periodic> {
 public:
  // None is owned: good until Stop has returned. `lock` may be null: then every
  // process sends. `program` is the name in the lock's keys.
  Periodic(Lifecycle* lifecycle, Environment* environment, PeriodicLock* lock,
           std::string program, std::vector<PeriodicEntry> entries);

  void Start();

  // No tick is begun any more; waits for those that are being sent, at most
  // until `deadline`.
  void Drain(absl::Time deadline);

  // Idempotent. Not from inside a callback.
  void Stop();

 private:
  struct Sending;  // of one tick

  void Arm(size_t index, absl::Time tick);
  void OnTime(size_t index, absl::Time tick);
  void Fire(size_t index);
  void Send(std::shared_ptr<Sending> sending);
  void OnSent(std::shared_ptr<Sending> sending, const absl::Status& status);
  void Ended();

  // --- constant after construction
  Lifecycle* const lifecycle_;
  Environment* const environment_;
  PeriodicLock* const lock_;
  const std::string program_;
  const std::vector<PeriodicEntry> entries_;

  // --- synchronise themselves
  Gate gate_;  // closed by Stop

  absl::Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  int sending_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_SDK_CPP_PERIODIC_H_
