// A world whose time moves only when a test says so, and which runs what is due
// on the test's own thread, in a fixed order.

#ifndef PENSTOCK_TESTS_SUPPORT_FAKE_ENVIRONMENT_H_
#define PENSTOCK_TESTS_SUPPORT_FAKE_ENVIRONMENT_H_

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "queue/environment.h"

namespace penstock {

class FakeEnvironment : public Environment {
 public:
  absl::Time Now() override { return now_; }
  std::string NewUuid() override { return absl::StrCat("uuid-", ++uuids_); }
  double Random() override { return 0.5; }
  void RunAfter(absl::Duration delay, Closure task) override {
    tasks_.emplace(now_ + std::max(delay, absl::ZeroDuration()),
                   std::move(task));
  }

  // Runs what is due now, and what that asks for at once.
  void RunDue() { RunUntil(now_); }

  // Lets time pass, running each task at its time.
  void Advance(absl::Duration duration) { RunUntil(now_ + duration); }

 private:
  void RunUntil(absl::Time end) {
    while (!tasks_.empty() && tasks_.begin()->first <= end) {
      auto first = tasks_.extract(tasks_.begin());
      now_ = std::max(now_, first.key());
      std::move(first.mapped())();
    }
    now_ = end;
  }

  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
  int uuids_ = 0;
  std::multimap<absl::Time, Closure> tasks_;  // equal times: in order of asking
};

}  // namespace penstock

#endif  // PENSTOCK_TESTS_SUPPORT_FAKE_ENVIRONMENT_H_
