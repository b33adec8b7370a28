// Task states and group records as machinery keeps them in the result backend:
// docs/wire-format.md section 5. Pure; thread-safe.

#ifndef PENSTOCK_QUEUE_WIRE_STATE_JSON_H_
#define PENSTOCK_QUEUE_WIRE_STATE_JSON_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "queue/task.h"

namespace penstock {

// machinery's members in Go's order and, where any of ours is set, the member
// "Penstock" last: Go readers ignore it, a Go writer drops it.
std::string EncodeState(const TaskState& state);

// The object "Progress", last in that member: a script puts a newer one in its
// place.
std::string EncodeProgress(const TaskProgress& progress);

absl::StatusOr<TaskState> DecodeState(std::string_view json);

std::string EncodeGroupMeta(const GroupMeta& meta);
absl::StatusOr<GroupMeta> DecodeGroupMeta(std::string_view json);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_WIRE_STATE_JSON_H_
