// When a periodic task is due: the specs of Go's robfig/cron v3
// (ParseStandard), which machinery's schedules are written in, and the times
// that follow from them, daylight saving included. Pure; any thread.

#ifndef PENSTOCK_QUEUE_CRON_H_
#define PENSTOCK_QUEUE_CRON_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace penstock {

class CronSpec {
 public:
  // Reads five fields (minute, hour, day of the month, month, day of the week),
  // a descriptor ("@daily"), or "@every 1h30m"; before it CRON_TZ=Area/City or
  // TZ=Area/City, else `zone` holds. INVALID_ARGUMENT names the field at fault
  // and what it takes, also for a spec that never matches.
  static absl::StatusOr<CronSpec> Parse(
      std::string_view spec, absl::TimeZone zone = absl::LocalTimeZone());

  // The first time that is due after `time`; a whole second.
  absl::Time Next(absl::Time time) const;

  // The first one after `now` of those that follow the tick `tick`: as
  // Next(now), but @every goes on in step.
  absl::Time NextInStep(absl::Time tick, absl::Time now) const;

 private:
  // Bit n: the value n. `any`: the field was * or ?, so it restricts nothing.
  struct Field {
    uint64_t values = 0;
    bool any = false;

    bool Has(int64_t value) const { return (values >> value & 1) != 0; }
  };
  struct Bounds;

  CronSpec() = default;

  static absl::StatusOr<Field> ParseField(std::string_view text,
                                          const Bounds& bounds);
  static absl::StatusOr<Field> ParseRange(std::string_view text,
                                          const Bounds& bounds);
  absl::Status ParseEvery(std::string_view duration);
  absl::Status ParseFields(std::string_view text);
  bool NeverMatches() const;
  bool DayMatches(absl::CivilSecond time) const;

  absl::TimeZone zone_;
  absl::Duration every_ = absl::ZeroDuration();  // not 0: the fields are empty
  Field minute_;
  Field hour_;
  Field day_;
  Field month_;
  Field weekday_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_CRON_H_
