// Threads that send add(n, 1): see traffic.h.

#include "tests/faults/traffic.h"

#include "absl/strings/str_cat.h"

namespace penstock::testing {
namespace {

constexpr int kThreads = 4;
// Between two calls of a thread. It bounds the load while calls fail at once,
// which would otherwise keep the servers from starting on two cores.
constexpr absl::Duration kPause = absl::Milliseconds(4);

}  // namespace

Traffic::Traffic(Cluster* cluster) : cluster_(cluster) {
  for (int thread = 0; thread < kThreads; ++thread) {
    threads_.emplace_back([this, thread] { Run(thread); });
  }
}

Traffic::~Traffic() { Stop(); }

void Traffic::Stop() {
  if (threads_.empty()) return;
  stop_.Notify();
  threads_.clear();
}

void Traffic::Run(int thread) {
  for (int n = 0; !stop_.WaitForNotificationWithTimeout(kPause); ++n) {
    const std::string id = absl::StrCat("traffic-", thread, "-", n);
    const std::string ending = Ending(cluster_->Send(AddTask(id, n, 1)));
    absl::MutexLock lock(&mu_);
    ++endings_[ending];
    if (ending == "OK") accepted_.push_back(id);
  }
}

bool Traffic::Await(const std::string& ending, int count,
                    absl::Duration limit) {
  absl::MutexLock lock(&mu_);
  const int wanted = endings_[ending] + count;
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return endings_[ending] >= wanted;
  };
  return mu_.AwaitWithTimeout(absl::Condition(&reached), limit);
}

std::vector<std::string> Traffic::accepted() const {
  absl::MutexLock lock(&mu_);
  return accepted_;
}

std::map<std::string, int> Traffic::endings() const {
  absl::MutexLock lock(&mu_);
  return endings_;
}

}  // namespace penstock::testing
