// The messages about dead letters <-> the vocabulary. What the comments of
// proto/penstock/v1/admin.proto promise about limits is enforced here. Pure;
// any thread.

#ifndef PENSTOCK_GATEWAY_DEAD_MESSAGES_H_
#define PENSTOCK_GATEWAY_DEAD_MESSAGES_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "penstock/v1/admin.pb.h"
#include "queue/backend.h"
#include "queue/lifecycle.h"

namespace penstock {

// An empty queue is the default one.
struct DeadListCall {
  std::string queue;
  size_t page_size = 0;
  std::optional<DeadPlace> after;
};
struct DeadDeleteCall {
  std::string queue;
  std::string task_id;
};

// INVALID_ARGUMENT INVALID_FIELD with all bad fields. The deadline of a
// RetryCall is left open.
absl::StatusOr<DeadListCall> ReadListDeadTasks(
    const v1::ListDeadTasksRequest& request);
absl::StatusOr<RetryCall> ReadRetryTask(const v1::RetryTaskRequest& request);
absl::StatusOr<DeadDeleteCall> ReadDeleteDeadTask(
    const v1::DeleteDeadTaskRequest& request);

void WriteDeadTask(const DeadTask& task, v1::DeadTask* out);

// `tasks` has one more than the page when there is a next one.
void WriteDeadPage(const DeadListCall& call, std::vector<DeadTask> tasks,
                   v1::ListDeadTasksResponse* out);

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_DEAD_MESSAGES_H_
