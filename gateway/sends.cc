#include "gateway/sends.h"

#include "absl/strings/str_cat.h"
#include "queue/ids.h"

namespace penstock {
namespace {

std::vector<std::string> IdsOf(const std::vector<Task>& tasks) {
  std::vector<std::string> ids;
  ids.reserve(tasks.size());
  for (const Task& task : tasks) ids.push_back(task.id);
  return ids;
}

}  // namespace

Intake IntakeOf(Environment* environment, const std::string& default_queue,
                absl::Time now, const std::string& request_id) {
  Intake intake{.now = now, .default_queue = default_queue};
  if (request_id.empty()) {
    intake.new_uuid = [environment] { return environment->NewUuid(); };
  } else {
    intake.new_uuid = [request_id, count = 0]() mutable {
      return NamedUuid(absl::StrCat("request\n", request_id, "\n", count++));
    };
  }
  return intake;
}

SentIds SentIdsOf(const TaskCall& call) { return {.task_ids = {call.task.id}}; }

SentIds SentIdsOf(const ChainCall& call) {
  return {.task_ids = IdsOf(call.links)};
}

SentIds SentIdsOf(const GroupCall& call) {
  const NewGroup& group = call.group;
  return {.group_id = group.id,
          .task_ids = IdsOf(group.members),
          .callback_id = group.callback.has_value() ? group.callback->id : ""};
}

void Submit(Lifecycle& lifecycle, TaskCall call, Submission submission,
            Callback<Submitted> done) {
  lifecycle.SubmitTask(std::move(call.task), std::move(submission),
                       std::move(done));
}

void Submit(Lifecycle& lifecycle, ChainCall call, Submission submission,
            Callback<Submitted> done) {
  lifecycle.SubmitChain(std::move(call.links), std::move(submission),
                        std::move(done));
}

void Submit(Lifecycle& lifecycle, GroupCall call, Submission submission,
            Callback<Submitted> done) {
  lifecycle.SubmitGroup(std::move(call.group), std::move(submission),
                        std::move(done));
}

RequestEnd EndOf(const absl::Status& status) {
  if (status.ok()) return RequestEnd::kAccepted;
  const bool unknown = absl::IsUnavailable(status) ||
                       absl::IsDeadlineExceeded(status) ||
                       absl::IsAborted(status) || absl::IsCancelled(status);
  return unknown ? RequestEnd::kOpen : RequestEnd::kRefused;
}

}  // namespace penstock
