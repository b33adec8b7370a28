#include "gateway/dead_messages.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gateway/convert.h"
#include "queue/ids.h"

namespace penstock {
namespace {

// The limits that the comments of the contract name.
constexpr size_t kMaxQueue = 255;
constexpr size_t kDefaultPage = 100;
constexpr size_t kMaxPage = 1'000;

using Violations = std::vector<FieldViolation>;

void CheckQueue(const std::string& queue, Violations& bad) {
  if (queue.size() <= kMaxQueue) return;
  bad.push_back(
      {"queue", absl::StrCat("is ", queue.size(),
                             " bytes long; at most 255 are allowed")});
}

void CheckTaskId(const std::string& id, Violations& bad) {
  if (id.empty()) bad.push_back({"task_id", "is required"});
}

// "<milliseconds>.<seal>.<id>"; the seal ties it to its queue: a token of
// another one, or a made-up one, differs.
std::string PlaceToken(const std::string& queue, const DeadPlace& place) {
  const int64_t ms = absl::ToUnixMillis(place.time);
  const std::string seal =
      Fingerprint(absl::StrCat("dead\n", ms, "\n", queue, "\n", place.task_id));
  return absl::StrCat(ms, ".", seal.substr(0, 16), ".", place.task_id);
}

std::optional<DeadPlace> ReadPlaceToken(const std::string& queue,
                                        const std::string& token) {
  const std::vector<std::string> parts =
      absl::StrSplit(token, absl::MaxSplits('.', 2));
  int64_t ms = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &ms)) {
    return std::nullopt;
  }
  DeadPlace place{.time = absl::FromUnixMillis(ms), .task_id = parts[2]};
  if (token != PlaceToken(queue, place)) return std::nullopt;
  return place;
}

}  // namespace

absl::StatusOr<DeadListCall> ReadListDeadTasks(
    const v1::ListDeadTasksRequest& request) {
  Violations bad;
  DeadListCall call{.queue = request.queue(), .page_size = kDefaultPage};
  CheckQueue(request.queue(), bad);
  if (request.page_size() < 0) {
    bad.push_back({"page_size", "must not be negative"});
  } else if (request.page_size() > 0) {
    call.page_size =
        std::min(static_cast<size_t>(request.page_size()), kMaxPage);
  }
  if (!request.page_token().empty()) {
    call.after = ReadPlaceToken(request.queue(), request.page_token());
    if (!call.after.has_value()) {
      bad.push_back({"page_token",
                     "is not a next_page_token of an answer about this queue"});
    }
  }
  if (absl::Status status = InvalidFields(bad); !status.ok()) return status;
  return call;
}

absl::StatusOr<RetryCall> ReadRetryTask(const v1::RetryTaskRequest& request) {
  Violations bad;
  CheckTaskId(request.task_id(), bad);
  CheckQueue(request.queue(), bad);
  if (!request.request_id().empty()) {
    const absl::Status status = CheckId(request.request_id());
    if (!status.ok()) {
      bad.push_back({"request_id", std::string(status.message())});
    }
  }
  if (absl::Status status = InvalidFields(bad); !status.ok()) return status;
  return RetryCall{.queue = request.queue(),
                   .task_id = request.task_id(),
                   .request_id = request.request_id()};
}

absl::StatusOr<DeadDeleteCall> ReadDeleteDeadTask(
    const v1::DeleteDeadTaskRequest& request) {
  Violations bad;
  CheckTaskId(request.task_id(), bad);
  CheckQueue(request.queue(), bad);
  if (absl::Status status = InvalidFields(bad); !status.ok()) return status;
  return DeadDeleteCall{.queue = request.queue(), .task_id = request.task_id()};
}

void WriteDeadTask(const DeadTask& task, v1::DeadTask* out) {
  out->set_task_id(task.task_id);
  out->set_name(task.name);
  out->set_queue(task.queue);
  out->set_reason(task.reason);
  WriteTime(task.time, out->mutable_time());
  out->set_attempts(task.attempts);
}

void WriteDeadPage(const DeadListCall& call, std::vector<DeadTask> tasks,
                   v1::ListDeadTasksResponse* out) {
  const bool more = tasks.size() > call.page_size;
  if (more) tasks.resize(call.page_size);
  for (const DeadTask& task : tasks) {
    WriteDeadTask(task, out->add_dead_tasks());
  }
  if (!more) return;
  out->set_next_page_token(
      PlaceToken(call.queue,
                 {.time = tasks.back().time, .task_id = tasks.back().task_id}));
}

}  // namespace penstock
