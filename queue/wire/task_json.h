// A task as machinery's Signature: the message body on every broker. Bytes are
// exactly Go's: docs/wire-format.md sections 1 and 2. Pure; thread-safe.

#ifndef PENSTOCK_QUEUE_WIRE_TASK_JSON_H_
#define PENSTOCK_QUEUE_WIRE_TASK_JSON_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "queue/task.h"

namespace penstock {

// Byte-identical to Go's encoding of the same signature.
std::string EncodeTask(const Task& task);

// Accepts what Go's decoder accepts: keys in any order and letter case, unknown
// keys, null for anything. INVALID_ARGUMENT names the field and what was found.
absl::StatusOr<Task> DecodeTask(std::string_view json);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_WIRE_TASK_JSON_H_
