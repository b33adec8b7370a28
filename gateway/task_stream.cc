#include "gateway/task_stream.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "gateway/calls.h"

namespace penstock {
namespace {

// So many tasks of a stream may be without an answer.
constexpr int kWindow = 1000;
// How often a stream looks whether it must end.
constexpr absl::Duration kLook = absl::Seconds(1);

template <typename Result>  // StreamTasksResponse or StreamTaskResult
void WriteOutcome(const absl::StatusOr<Submitted>& submitted, std::string id,
                  Result* out) {
  if (submitted.ok()) {
    out->set_task_id(std::move(id));
    out->set_replayed(submitted->replayed);
  } else {
    WriteError(submitted.status(), out->mutable_status());
  }
}

}  // namespace

TaskStream* TaskStream::Start(World world) {
  std::shared_ptr<TaskStream> stream(new TaskStream(std::move(world)));
  stream->self_ = stream;
  {
    absl::MutexLock lock(&stream->mu_);
    v1::StreamTasksResponse& first = stream->answers_.emplace_back();
    first.set_credit(kWindow);
    first.set_max_tasks(kMaxStreamTasks);
  }
  stream->Pump();
  stream->StartRead(&stream->request_);
  stream->WatchDrain();
  return stream.get();
}

void TaskStream::OnReadDone(bool ok) {
  if (ok && request_.tasks().empty()) {
    TakeOne(request_);
  } else if (ok) {
    TakeSeveral(request_);
  }
  {
    absl::MutexLock lock(&mu_);
    reading_ = false;
    if (!ok) read_all_ = true;
  }
  Pump();
}

void TaskStream::TakeOne(const v1::StreamTasksRequest& request) {
  {
    absl::MutexLock lock(&mu_);
    ++submitted_;
  }
  v1::StreamTasksResponse answer;
  answer.set_sequence(request.sequence());
  answer.set_credit(1);
  auto refuse = [&](const absl::Status& error) {
    WriteError(error, answer.mutable_status());
    Answer(std::move(answer));
  };
  absl::StatusOr<Permit> permit =
      world_.admit(1, static_cast<int64_t>(request.ByteSizeLong()));
  if (!permit.ok()) return refuse(permit.status());
  absl::StatusOr<TaskCall> call = ReadStreamTask(request, world_.intake());
  if (!call.ok()) return refuse(call.status());
  std::string id = call->task.id;
  world_.lifecycle->SubmitTask(
      std::move(call->task),
      {.payload_hash = std::move(call->payload_hash), .deadline = SendBy()},
      [self = shared_from_this(), answer = std::move(answer),
       id = std::move(id),
       permit = std::optional<Permit>(*std::move(permit))](
          absl::StatusOr<Submitted> submitted) mutable {
        permit.reset();  // the answer may let the next task in
        WriteOutcome(submitted, std::move(id), &answer);
        self->Answer(std::move(answer));
      });
}

// One batch: they are claimed together, and answered together.
void TaskStream::TakeSeveral(const v1::StreamTasksRequest& request) {
  // An answer for each could be larger than what anybody takes.
  if (absl::Status wrong = CheckStreamTasks(request); !wrong.ok()) {
    return ReadNoMore(std::move(wrong));
  }
  const int count = request.tasks_size();
  v1::StreamTasksResponse answer;
  answer.set_credit(count);
  answer.mutable_results()->Reserve(count);
  for (const v1::StreamTask& task : request.tasks()) {
    answer.add_results()->set_sequence(task.sequence());
  }
  {
    absl::MutexLock lock(&mu_);
    submitted_ += count;
  }
  absl::StatusOr<Permit> permit =
      world_.admit(count, static_cast<int64_t>(request.ByteSizeLong()));
  if (!permit.ok()) {
    for (v1::StreamTaskResult& result : *answer.mutable_results()) {
      WriteError(permit.status(), result.mutable_status());
    }
    return Answer(std::move(answer));
  }
  const Intake intake = world_.intake();
  std::vector<NewTask> tasks;
  std::vector<std::string> ids;
  std::vector<int> places;  // of each of them, among the results
  tasks.reserve(count);
  ids.reserve(count);
  places.reserve(count);
  for (int i = 0; i < count; ++i) {
    absl::StatusOr<TaskCall> call = ReadStreamTask(request.tasks(i), intake);
    if (!call.ok()) {
      WriteError(call.status(), answer.mutable_results(i)->mutable_status());
      continue;
    }
    ids.push_back(call->task.id);
    places.push_back(i);
    tasks.push_back(*std::move(call));
  }
  world_.lifecycle->SubmitTasks(
      std::move(tasks), SendBy(),
      [self = shared_from_this(), answer = std::move(answer),
       ids = std::move(ids), places = std::move(places),
       permit = std::optional<Permit>(*std::move(permit))](
          absl::StatusOr<SubmittedTasks> submitted) mutable {
        permit.reset();
        for (size_t i = 0; i < places.size(); ++i) {
          WriteOutcome(submitted.ok() ? (*submitted)[i] : submitted.status(),
                       std::move(ids[i]), answer.mutable_results(places[i]));
        }
        self->Answer(std::move(answer));
      });
}

void TaskStream::ReadNoMore(absl::Status why) {
  absl::MutexLock lock(&mu_);
  if (read_no_more_.ok()) read_no_more_ = std::move(why);
}

absl::Time TaskStream::SendBy() const {
  return std::min(world_.deadline,
                  world_.environment->Now() + world_.send_timeout);
}

void TaskStream::Answer(v1::StreamTasksResponse answer) {
  {
    absl::MutexLock lock(&mu_);
    submitted_ -= answer.credit();
    answered_ += answer.credit();
    answers_.push_back(std::move(answer));
  }
  Pump();
}

// Does what can be done now: writes the next answer, reads the next task, ends.
void TaskStream::Pump() {
  bool write = false;
  bool read = false;
  bool more = false;
  std::optional<grpc::Status> end;
  {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    if (cancelled_) {
      answers_.clear();
      answered_ = 0;
    }
    if (!writing_ && !answers_.empty()) {
      response_ = std::move(answers_.front());
      answers_.pop_front();
      // The first one is about none.
      if (response_.max_tasks() == 0) answered_ -= response_.credit();
      writing_ = write = true;
      more = !answers_.empty();
    }
    const int open = submitted_ + answered_;
    if (!reading_ && !read_all_ && read_no_more_.ok() && !cancelled_ &&
        open < kWindow) {
      reading_ = read = true;
    }
    const bool idle = !writing_ && answers_.empty() && submitted_ == 0;
    if (cancelled_ ? !writing_ : idle && (read_all_ || !read_no_more_.ok())) {
      finished_ = true;
      if (cancelled_) {
        end = CancelledCall();
      } else if (read_all_) {
        end = grpc::Status::OK;
      } else {
        end = StatusOf(read_no_more_);
      }
    }
  }
  if (end.has_value()) return Finish(*end);
  if (read) StartRead(&request_);
  if (write) {
    // Answers that wait for each other go out together.
    grpc::WriteOptions options;
    if (more) options.set_buffer_hint();
    StartWrite(&response_, options);
  }
}

void TaskStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) cancelled_ = true;
  }
  Pump();
}

void TaskStream::OnCancel() {
  {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
  }
  Pump();
}

void TaskStream::OnDone() { self_.reset(); }

void TaskStream::WatchDrain() {
  world_.environment->RunAfter(kLook, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (self == nullptr) return;
    if (!*self->world_.draining) return self->WatchDrain();
    self->ReadNoMore(Draining());
    self->Pump();
  });
}

}  // namespace penstock
