// The contract's messages <-> the vocabulary (queue/task.h), and errors as
// google.rpc.Status. Here alone the two meet. What the comments of
// proto/penstock/v1/*.proto promise about limits is enforced here. Pure; any
// thread.

#ifndef PENSTOCK_GATEWAY_CONVERT_H_
#define PENSTOCK_GATEWAY_CONVERT_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"
#include "grpcpp/support/string_ref.h"
#include "penstock/v1/gateway.pb.h"
#include "queue/lifecycle.h"
#include "queue/task.h"

namespace penstock {

// The W3C trace context that a call came with: traceparent and tracestate.
// Empty: none.
struct TraceContext {
  std::string parent;
  std::string state;
};

// Of a call's metadata. One that is not valid, or longer than 512 bytes, is
// none; without a parent there is no state.
TraceContext ReadTrace(
    const std::multimap<grpc::string_ref, grpc::string_ref>& metadata);

// What reading a request needs besides the request.
struct Intake {
  absl::Time now;              // delays count from here
  std::string default_queue;   // no id may be its name
  std::function<std::string()> new_uuid;
  bool repeats = false;  // a repeat of the call gets the same ids from new_uuid
  // Becomes headers of every task that has no traceparent of its own. It is no
  // part of what a payload_hash is of: a repeat of a call has another span.
  TraceContext trace = {};
};

// Requests as Lifecycle takes them: valid, every id given. `payload_hash` is of
// the request as it came, before ids and delays were resolved.
using TaskCall = NewTask;
struct BatchCall {
  std::vector<absl::StatusOr<TaskCall>> tasks;  // as ReadSendTask answers
  std::string payload_hash;  // empty without a request_id
};
struct ChainCall {
  std::vector<Task> links;
  std::string payload_hash;
};
struct GroupCall {
  NewGroup group;
  std::string payload_hash;
};
struct StateCall {
  std::string task_id;
  absl::Duration wait;  // not over 60 s
};
struct CancelCall {
  std::string id;  // of the task or group
  std::string reason;
};
struct GroupStateCall {
  std::string group_id;
  absl::Duration wait;  // not over 60 s
  bool include_tasks = false;
  size_t page_size = 0;
  size_t page_start = 0;  // index of the page's first member
};

// INVALID_ARGUMENT INVALID_FIELD with all bad fields (StatusOf makes them a
// google.rpc.BadRequest), or RESOURCE_EXHAUSTED PAYLOAD_TOO_LARGE.
absl::StatusOr<TaskCall> ReadSendTask(const v1::SendTaskRequest& request,
                                      const Intake& intake);
// How long a call that ReadSendTask accepts is to wait; not over 60 s.
absl::Duration WaitOf(const v1::SendTaskRequest& request);
// How many tasks a message of a stream may have.
inline constexpr int kMaxStreamTasks = 100;
// What is wrong with a message of `tasks` as a whole.
absl::Status CheckStreamTasks(const v1::StreamTasksRequest& request);
// Its `task`, or one of its `tasks`: what is wrong is told alike, by the path from
// "task" on, since it is chance with which others a task shares a message.
absl::StatusOr<TaskCall> ReadStreamTask(const v1::StreamTasksRequest& request,
                                        const Intake& intake);
absl::StatusOr<TaskCall> ReadStreamTask(const v1::StreamTask& request,
                                        const Intake& intake);
absl::StatusOr<BatchCall> ReadBatchSendTasks(
    const v1::BatchSendTasksRequest& request, const Intake& intake);
absl::StatusOr<ChainCall> ReadSendChain(const v1::SendChainRequest& request,
                                        const Intake& intake);
absl::StatusOr<GroupCall> ReadSendGroup(const v1::SendGroupRequest& request,
                                        const Intake& intake);
absl::StatusOr<GroupCall> ReadSendChord(const v1::SendChordRequest& request,
                                        const Intake& intake);
absl::StatusOr<StateCall> ReadGetState(const v1::GetStateRequest& request);
absl::StatusOr<std::vector<std::string>> ReadBatchGetStates(
    const v1::BatchGetStatesRequest& request);
absl::StatusOr<std::vector<std::string>> ReadWatchState(
    const v1::WatchStateRequest& request);
absl::StatusOr<GroupStateCall> ReadGetGroupState(
    const v1::GetGroupStateRequest& request);

absl::StatusOr<CancelCall> ReadCancelTask(const v1::CancelTaskRequest& request);
absl::StatusOr<CancelCall> ReadCancelGroup(
    const v1::CancelGroupRequest& request);

// Equal for equal messages of one type.
std::string PayloadHash(const google::protobuf::Message& message);

// One bad field of a request, and what is wrong with it.
struct FieldViolation {
  std::string field;
  std::string description;
};

// INVALID_ARGUMENT INVALID_FIELD with all of them; OK when there are none.
absl::Status InvalidFields(const std::vector<FieldViolation>& violations);

// The bad fields that such an error names; none of any other status.
std::vector<FieldViolation> ViolationsOf(const absl::Status& error);

// The token of the page of `group_id` that begins at member `page_start`.
std::string PageToken(const std::string& group_id, size_t page_start);

v1::TaskStatus WriteStatus(const TaskState& state);
void WriteState(const TaskState& state, v1::TaskState* out);
void WriteTime(absl::Time time, google::protobuf::Timestamp* out);

// `error`, which is one, with the details of its reason: google.rpc.ErrorInfo
// always, and the one that goes with it.
void WriteError(const absl::Status& error, google::rpc::Status* out);

// The same as an RPC ends with it. Small enough for a client's default limit of
// metadata, past which gRPC ends the whole connection.
grpc::Status StatusOf(const absl::Status& error);

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_CONVERT_H_
