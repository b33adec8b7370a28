// Clients that send chains, groups and chords, each under a request_id, and repeat
// a call that was not answered OK, at the next gateway, until it is: what was
// accepted, and what must come of it. Thread-safe.

#ifndef PENSTOCK_TESTS_FAULTS_STORM_H_
#define PENSTOCK_TESTS_FAULTS_STORM_H_

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "tests/faults/cluster.h"

namespace penstock::testing {

class Storm {
 public:
  // About `tasks` tasks, to `gateways` gateways.
  Storm(Cluster* cluster, int gateways, int tasks);
  ~Storm();

  // Waits until `count` calls in all were accepted or refused for good, or all of
  // them were. False when `limit` passes first.
  bool AwaitSettled(int count, absl::Duration limit);

  int calls() const { return calls_; }

  // Once all calls were answered: every id that was handed out, and, by the id of
  // the task that has it, each result.
  std::vector<std::string> ids() const;
  std::map<std::string, int64_t> expected() const;

  // How many calls were repeated, and errors that no repeat can mend.
  int repeated() const;
  std::vector<std::string> refused() const;

 private:
  struct Answer {
    std::vector<std::string> ids;
    std::map<std::string, int64_t> expected;
  };

  void Run(int client);
  // Whether the call needs no repeat.
  bool Settle(const grpc::Status& status, Answer answer);
  grpc::Status Call(int number, size_t gateway, Answer& answer);

  Cluster* const cluster_;
  const int gateways_;
  const int calls_;
  absl::Notification stop_;
  mutable absl::Mutex mu_;
  std::vector<std::string> ids_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int64_t> expected_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> refused_ ABSL_GUARDED_BY(mu_);
  int settled_ ABSL_GUARDED_BY(mu_) = 0;
  int repeated_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::jthread> clients_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_FAULTS_STORM_H_
