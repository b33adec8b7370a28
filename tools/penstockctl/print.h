// What penstockctl shows: lines for people, JSON for programs. Pure.

#ifndef PENSTOCK_TOOLS_PENSTOCKCTL_PRINT_H_
#define PENSTOCK_TOOLS_PENSTOCKCTL_PRINT_H_

#include <string>

#include "grpcpp/support/status.h"
#include "penstock/v1/admin.pb.h"
#include "penstock/v1/gateway.pb.h"
#include "penstock/v1/messages.pb.h"

namespace penstock::ctl {

// A value as a person reads it: 2, "text", [1, 2], base64 for bytes.
std::string ShowValue(const v1::Value& value);

// "task_0b7e  SUCCESS  2": id, status and what belongs to it, without newline.
std::string ShowState(const v1::TaskState& state);

// "group_0b7e  2 SUCCESS, 1 PENDING of 3": the line of a group.
std::string ShowGroup(const v1::GroupState& group);

// "task_0b7e  2026-11-21T23:00:00Z  add  attempt 10  begun 10 times": the line of a
// dead letter.
std::string ShowDead(const v1::DeadTask& task);

// "nightly  0 3 * * *  next 2026-01-01T03:00:00Z  last 2025-12-31T03:00:00Z
// task_0b7e": the line of a schedule.
std::string ShowSchedule(const v1::Schedule& schedule);

// Code, reason and text of a failed call; then a line for each wrong field and
// each detail.
std::string ShowError(const grpc::Status& status);

// One line of JSON; fields keep their names of the .proto files.
std::string ToJson(const google::protobuf::Message& message);

bool IsFinal(const v1::TaskState& state);
bool HasFailed(const v1::TaskState& state);  // or was cancelled

}  // namespace penstock::ctl

#endif  // PENSTOCK_TOOLS_PENSTOCKCTL_PRINT_H_
