// Tasks sent without a pause by threads of its own, while a test breaks things:
// who was answered what. Thread-safe.

#ifndef PENSTOCK_TESTS_FAULTS_TRAFFIC_H_
#define PENSTOCK_TESTS_FAULTS_TRAFFIC_H_

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

class Traffic {
 public:
  explicit Traffic(Cluster* cluster);
  ~Traffic();

  // Waits for `count` more calls that end in `ending` ("OK", see Ending).
  // False when `limit` passes first.
  bool Await(const std::string& ending, int count, absl::Duration limit);

  // Ends the threads when their calls have returned. Repeatable.
  void Stop();

  // Ids that were answered OK, and how many calls ended how.
  std::vector<std::string> accepted() const;
  std::map<std::string, int> endings() const;

 private:
  void Run(int thread);

  Cluster* const cluster_;
  absl::Notification stop_;
  mutable absl::Mutex mu_;
  std::vector<std::string> accepted_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> endings_ ABSL_GUARDED_BY(mu_);
  std::vector<std::jthread> threads_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_FAULTS_TRAFFIC_H_
