// Schedules as the result backend keeps them: what is sent (the gateway's own
// bytes), and where they stand. docs/architecture.md section 12.

#ifndef PENSTOCK_QUEUE_SCHEDULE_H_
#define PENSTOCK_QUEUE_SCHEDULE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace penstock {

// What one tick has sent.
struct ScheduleRun {
  absl::Time tick;
  std::string task_id;   // whose state holds the result; empty: a group
  std::string group_id;  // empty: no group or chord

  bool operator==(const ScheduleRun&) const = default;
};

// Times are kept to the millisecond.
struct ScheduleRecord {
  std::string name;
  std::string nonce;         // of its creation: no other has it
  std::string payload_hash;  // of what it was created from
  std::string cron_spec;
  bool run_missed = false;  // ticks that were missed are run as one
  std::string call;         // what to send; empty where it was not asked for
  absl::Time create_time;
  bool paused = false;
  absl::Time next_tick;
  std::optional<absl::Time> last_tick;
  std::string last_error;
  std::optional<ScheduleRun> last_run;

  bool operator==(const ScheduleRecord&) const = default;
};

struct LeasedSchedule {
  ScheduleRecord record;
  // Whether its tick is to be run. False: it was missed, and is to be skipped.
  // Once true it is so for whoever leases this tick again.
  bool run = true;
};

struct LeasedSchedules {
  std::vector<LeasedSchedule> due;
  absl::Time now;                      // by the backend's clock
  std::optional<absl::Time> next_due;  // of what is not leased
};

// What became of the tick of a leased schedule.
struct ScheduleTick {
  std::string name;
  std::string nonce;
  absl::Time tick;
  absl::Time next_tick;  // `tick` itself: it is to be tried again
  absl::Time visit;      // when the schedule is due again
  bool skipped = false;
  std::string last_error;
  std::optional<ScheduleRun> run;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_SCHEDULE_H_
