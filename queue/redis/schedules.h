// Schedules in Redis: their keys, their fields, and the scripts on them. The
// fields are listed in docs/wire-format.md section 6. Pure.

#ifndef PENSTOCK_QUEUE_REDIS_SCHEDULES_H_
#define PENSTOCK_QUEUE_REDIS_SCHEDULES_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "queue/redis/connection.h"
#include "queue/redis/scripts.h"
#include "queue/schedule.h"

namespace penstock {

// KEYS of each: ScheduleKeys. Arguments are written above each in schedules.cc.
struct ScheduleScripts {
  RedisScript create;
  RedisScript get;
  RedisScript list;
  RedisScript pause;
  RedisScript remove;
  RedisScript lease;
  RedisScript end_tick;
};

const ScheduleScripts& ScriptsOfSchedules();

std::vector<std::string> ScheduleKeys(const std::string& exchange);

// The arguments of `create` and `end_tick`.
std::vector<std::string> CreateWords(const ScheduleRecord& record);
std::vector<std::string> EndTickWords(const ScheduleTick& tick);

// The answers of the scripts. INTERNAL for what they never answer.
absl::StatusOr<std::optional<ScheduleRecord>> ParseSchedule(
    const RedisReply& reply);
absl::StatusOr<std::vector<ScheduleRecord>> ParseSchedules(
    const RedisReply& reply);
absl::StatusOr<LeasedSchedules> ParseLeasedSchedules(const RedisReply& reply);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_SCHEDULES_H_
