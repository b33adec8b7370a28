// One thread's worth of a distributed system: what happens next is a queue of
// events in virtual time. All chance comes from one seed, so that the same seed
// gives the same run, event by event.
//
// Used by one thread only.

#ifndef PENSTOCK_TESTS_SIMULATION_SCHEDULER_H_
#define PENSTOCK_TESTS_SIMULATION_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "queue/callback.h"

namespace penstock::simulation {

// splitmix64: small, and the same on every machine.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  bool Chance(double p) { return p > 0 && Unit() < p; }
  int Below(int n) { return static_cast<int>(Next() % n); }
  int Between(int low, int high) { return low + Below(high - low + 1); }
  absl::Duration Between(absl::Duration low, absl::Duration high) {
    return low + absl::Microseconds(static_cast<int64_t>(
                     Unit() * absl::ToDoubleMicroseconds(high - low)));
  }

 private:
  uint64_t state_;
};

class Scheduler {
 public:
  // Work keeps the world busy; a timer alone does not.
  enum Kind { kWork, kTimer };

  Scheduler(uint64_t seed, bool trace) : dice_(seed), trace_(trace) {}

  absl::Time Now() const { return now_; }
  absl::Duration Elapsed() const { return now_ - start_; }
  Dice& dice() { return dice_; }

  // Runs `run` at `due`, or now if that is past. Events of one moment run in an
  // order that the seed decides. `what` must live on.
  void At(absl::Time due, Kind kind, const char* what, std::string who,
          Closure run) {
    if (kind == kWork) ++work_;
    events_.emplace(std::tuple(std::max(due, now_), dice_.Next(), ++numbers_),
                    Event{kind, what, std::move(who), std::move(run)});
  }
  void After(absl::Duration delay, Kind kind, const char* what, std::string who,
             Closure run) {
    At(now_ + delay, kind, what, std::move(who), std::move(run));
  }

  // Runs the next event; false when there is none.
  bool Step() {
    if (events_.empty()) return false;
    auto first = events_.extract(events_.begin());
    now_ = std::get<0>(first.key());
    Event& event = first.mapped();
    if (event.kind == kWork) --work_;
    ++steps_;
    Note(event.what, event.who);
    std::move(event.run)();
    return true;
  }

  // Writes into the trace, and into its hash.
  void Note(std::string_view what, std::string_view detail) {
    Mix(static_cast<uint64_t>(absl::ToUnixMicros(now_)));
    Mix(what);
    Mix(detail);
    if (trace_) Write(what, detail);
  }
  // Only into the trace.
  void Detail(std::string_view text) {
    if (trace_) Write("", text);
  }
  bool tracing() const { return trace_; }

  bool busy() const { return work_ > 0; }
  int64_t steps() const { return steps_; }
  uint64_t hash() const { return hash_; }
  const std::vector<std::string>& trace() const { return lines_; }
  void Clear() { events_.clear(); }

 private:
  struct Event {
    Kind kind;
    const char* what;
    std::string who;
    Closure run;
  };

  void Mix(uint64_t word) {
    hash_ = (hash_ ^ word) * 0x100000001b3;
    hash_ ^= hash_ >> 29;
  }
  void Mix(std::string_view text) {
    for (const char c : text) {
      hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  void Write(std::string_view what, std::string_view detail);

  const absl::Time start_ = absl::FromUnixSeconds(1'800'000'000);
  absl::Time now_ = start_;
  Dice dice_;
  const bool trace_;
  std::map<std::tuple<absl::Time, uint64_t, uint64_t>, Event> events_;
  uint64_t numbers_ = 0;
  int64_t work_ = 0;
  int64_t steps_ = 0;
  uint64_t hash_ = 0xcbf29ce484222325;
  std::vector<std::string> lines_;
};

}  // namespace penstock::simulation

#endif  // PENSTOCK_TESTS_SIMULATION_SCHEDULER_H_
