// The messages of schedules (proto/penstock/v1/admin.proto) <-> their records
// (queue/schedule.h). Pure; any thread.

#ifndef PENSTOCK_GATEWAY_SCHEDULE_MESSAGES_H_
#define PENSTOCK_GATEWAY_SCHEDULE_MESSAGES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/convert.h"
#include "penstock/v1/admin.pb.h"
#include "queue/schedule.h"

namespace penstock {

// The record of a new schedule, its payload read as the Send of that name reads
// it. Errors: those of convert.h.
absl::StatusOr<ScheduleRecord> ReadCreateSchedule(
    const v1::CreateScheduleRequest& request, const Intake& intake);

// The payload of a record, as it was given. INTERNAL: it cannot be read.
absl::StatusOr<v1::CreateScheduleRequest> ReadCall(
    const ScheduleRecord& record);

struct ListSchedulesCall {
  std::string after;  // the last name of the page before
  int limit = 0;
  bool with_call = false;
};
absl::StatusOr<ListSchedulesCall> ReadListSchedules(
    const v1::ListSchedulesRequest& request);

// The token of the page that begins after `name`.
std::string SchedulesPageToken(const std::string& name);

absl::Status CheckScheduleName(const std::string& name);

// With its payload where the record has its call.
void WriteSchedule(const ScheduleRecord& record, v1::Schedule* out);

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_SCHEDULE_MESSAGES_H_
