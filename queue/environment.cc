// The system's clock, randomness, and the timer: one thread that sleeps until
// the earliest deadline of a heap. Deadlines are on the steady clock, so a
// change of the system's time moves none of them.

#include "queue/environment.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "queue/ids.h"

namespace penstock {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

// Far enough to be never, near enough not to overflow the steady clock.
constexpr absl::Duration kLongestDelay = absl::Hours(24 * 3650);

class SystemEnvironment final : public Environment {
 public:
  SystemEnvironment() : thread_([this] { Run(); }) {}

  ~SystemEnvironment() override {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.Signal();
  }

  absl::Time Now() override { return absl::Now(); }

  std::string NewUuid() override { return RandomUuid(); }

  double Random() override {
    thread_local std::mt19937_64 generator(std::random_device{}());
    return std::generate_canonical<double, 53>(generator);
  }

  void RunAfter(absl::Duration delay, Closure task) override {
    delay = std::clamp(delay, absl::ZeroDuration(), kLongestDelay);
    const SteadyTime due =
        std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(delay);
    absl::MutexLock lock(&mu_);
    const uint64_t number = next_number_++;
    timers_.push_back({due, number, std::move(task)});
    std::push_heap(timers_.begin(), timers_.end(), RunsLater);
    // For any other one the thread wakes early enough.
    if (timers_.front().number == number) changed_.Signal();
  }

 private:
  struct Timer {
    SteadyTime due;
    uint64_t number;  // equal deadlines run in the order of RunAfter
    Closure task;
  };

  static bool RunsLater(const Timer& a, const Timer& b) {
    return std::pair(a.due, a.number) > std::pair(b.due, b.number);
  }

  void Run() {
    for (;;) {
      Closure task = WaitForTask();
      if (!task) return;
      std::move(task)();
    }
  }

  // The next task that is due; empty when the environment ends.
  Closure WaitForTask() {
    absl::MutexLock lock(&mu_);
    for (;;) {
      if (stopping_) return nullptr;
      if (timers_.empty()) {
        changed_.Wait(&mu_);
        continue;
      }
      const auto wait = timers_.front().due - std::chrono::steady_clock::now();
      if (wait > wait.zero()) {
        changed_.WaitWithTimeout(&mu_, absl::FromChrono(wait));
        continue;
      }
      std::pop_heap(timers_.begin(), timers_.end(), RunsLater);
      Closure task = std::move(timers_.back().task);
      timers_.pop_back();
      return task;
    }
  }

  absl::Mutex mu_;
  absl::CondVar changed_;
  std::vector<Timer> timers_ ABSL_GUARDED_BY(mu_);  // a heap, earliest first
  uint64_t next_number_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::jthread thread_;  // ends before what it uses
};

}  // namespace

std::unique_ptr<Environment> MakeSystemEnvironment() {
#ifdef NDEBUG
  // Debian builds absl with its search for deadlocks on, at each lock, of gRPC's
  // too.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  return std::make_unique<SystemEnvironment>();
}

}  // namespace penstock
