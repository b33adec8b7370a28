#include "gateway/sends.h"

#include <algorithm>

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

// Whether reading a request again finds the same.
bool WasMisread(const absl::Status& refused) {
  return absl::IsInvalidArgument(refused) || absl::IsResourceExhausted(refused);
}

}  // namespace

Intake IntakeOf(Environment* environment, const std::string& default_queue,
                absl::Time now, const std::string& request_id,
                TraceContext trace) {
  Intake intake{
      .now = now, .default_queue = default_queue, .trace = std::move(trace)};
  if (request_id.empty()) {
    intake.new_uuid = [environment] { return environment->NewUuid(); };
  } else {
    intake.repeats = true;
    intake.new_uuid = [request_id, count = 0]() mutable {
      return NamedUuid(absl::StrCat("request\n", request_id, "\n", count++));
    };
  }
  return intake;
}

SentIds SentIdsOf(const TaskCall& call) { return {.task_ids = {call.task.id}}; }

SentIds SentIdsOf(const BatchSend& call) { return {.batch = call.results}; }

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

void Submit(Lifecycle& lifecycle, BatchSend call, Submission submission,
            Callback<Submitted> done) {
  lifecycle.SubmitTasks(
      std::move(call.tasks), submission.deadline,
      [results = std::move(call.results), places = std::move(call.places),
       done = std::move(done)](
          absl::StatusOr<SubmittedTasks> submitted) mutable {
        if (!submitted.ok()) return std::move(done)(submitted.status());
        for (size_t i = 0; i < places.size(); ++i) {
          const absl::StatusOr<Submitted>& one = (*submitted)[i];
          BatchResult& result = (*results)[places[i]];
          result.refused = one.status();
          if (one.ok()) result.replayed = one->replayed;
        }
        std::move(done)(Submitted{});
      });
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

absl::StatusOr<BatchSend> ReadSend(const v1::BatchSendTasksRequest& request,
                                   const Intake& intake) {
  absl::StatusOr<BatchCall> call = ReadBatchSendTasks(request, intake);
  if (!call.ok()) return call.status();
  BatchSend send{
      .results = std::make_shared<BatchResults>(call->tasks.size()),
      .payload_hash = std::move(call->payload_hash)};
  send.tasks.reserve(call->tasks.size());
  send.places.reserve(call->tasks.size());
  for (size_t i = 0; i < call->tasks.size(); ++i) {
    BatchResult& result = (*send.results)[i];
    if (!call->tasks[i].ok()) {
      result.refused = call->tasks[i].status();
      continue;
    }
    result.task_id = call->tasks[i]->task.id;
    send.tasks.push_back(*std::move(call->tasks[i]));
    send.places.push_back(i);
  }
  return send;
}

RequestEnd EndOf(const absl::Status& status, const SentIds& ids) {
  if (status.ok()) {
    // A batch that Lifecycle refused some of may be repeated to send the rest.
    const bool complete =
        ids.batch == nullptr ||
        std::all_of(ids.batch->begin(), ids.batch->end(),
                    [](const BatchResult& result) {
                      return result.refused.ok() || WasMisread(result.refused);
                    });
    return complete ? RequestEnd::kAccepted : RequestEnd::kOpen;
  }
  const bool unknown = absl::IsUnavailable(status) ||
                       absl::IsDeadlineExceeded(status) ||
                       absl::IsAborted(status) || absl::IsCancelled(status);
  return unknown ? RequestEnd::kOpen : RequestEnd::kRefused;
}

}  // namespace penstock
