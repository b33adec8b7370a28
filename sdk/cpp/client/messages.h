// The client's types <-> the messages of the contract, and errors <-> statuses.
// Here alone the two meet. Pure; any thread.

#ifndef PENSTOCK_SDK_CPP_CLIENT_MESSAGES_H_
#define PENSTOCK_SDK_CPP_CLIENT_MESSAGES_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"
#include "penstock/client.h"
#include "penstock/v1/gateway.pb.h"

namespace penstock::client {

// Reasons of the client's own.
inline constexpr std::string_view kTaskFailed = "TASK_FAILED";
inline constexpr std::string_view kTaskCancelled = "TASK_CANCELLED";
inline constexpr std::string_view kNotFinished = "NOT_FINISHED";
inline constexpr std::string_view kResultType = "RESULT_TYPE";

// INVALID_ARGUMENT for what the contract's messages cannot say at all: eta and
// delay at once, or a time that has no end. All else the gateway judges.
absl::Status WriteTask(const Task& task, v1::Task* out);
void WriteDuration(absl::Duration duration, google::protobuf::Duration* out);

TaskState ReadState(const v1::TaskState& in);
GroupState ReadGroup(const v1::GroupState& in);
bool IsFinal(v1::TaskStatus status);

// The results of a task that has ended well, or the error of TASK_FAILED or
// TASK_CANCELLED. What is not final, or has expired, is NOT_FOUND.
absl::StatusOr<std::vector<Value>> ResultsOf(TaskState state);

// With the details as payloads, by the URLs of their types.
absl::Status StatusFrom(const grpc::Status& status);
absl::Status StatusFrom(const google::rpc::Status& status);

absl::Status MakeError(absl::StatusCode code, std::string_view reason,
                       std::string_view message);

}  // namespace penstock::client

#endif  // PENSTOCK_SDK_CPP_CLIENT_MESSAGES_H_
