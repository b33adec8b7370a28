#include "gateway/task_stream.h"

#include <algorithm>
#include <utility>

#include "gateway/calls.h"

namespace penstock {
namespace {

// So many tasks of a stream may be without an answer.
constexpr int kWindow = 1000;
// How often a stream looks whether it must end.
constexpr absl::Duration kLook = absl::Seconds(1);

}  // namespace

TaskStream* TaskStream::Start(World world) {
  std::shared_ptr<TaskStream> stream(new TaskStream(std::move(world)));
  stream->self_ = stream;
  {
    absl::MutexLock lock(&stream->mu_);
    stream->answers_.emplace_back().set_credit(kWindow);
  }
  stream->Pump();
  stream->StartRead(&stream->request_);
  stream->WatchDrain();
  return stream.get();
}

void TaskStream::OnReadDone(bool ok) {
  if (ok) {
    {
      absl::MutexLock lock(&mu_);
      ++submitted_;
    }
    Take(request_);
  }
  {
    absl::MutexLock lock(&mu_);
    reading_ = false;
    if (!ok) read_all_ = true;
  }
  Pump();
}

void TaskStream::Take(const v1::StreamTasksRequest& request) {
  const int64_t sequence = request.sequence();
  auto refuse = [&](const absl::Status& error) {
    v1::StreamTasksResponse answer;
    answer.set_sequence(sequence);
    WriteError(error, answer.mutable_status());
    Answer(std::move(answer));
  };
  absl::StatusOr<Permit> permit =
      world_.admit(static_cast<int64_t>(request.ByteSizeLong()));
  if (!permit.ok()) return refuse(permit.status());
  absl::StatusOr<TaskCall> call = ReadStreamTask(request, world_.intake());
  if (!call.ok()) return refuse(call.status());
  const absl::Time deadline = std::min(
      world_.deadline, world_.environment->Now() + world_.send_timeout);
  std::string id = call->task.id;
  world_.lifecycle->SubmitTask(
      std::move(call->task),
      {.payload_hash = std::move(call->payload_hash), .deadline = deadline},
      [self = shared_from_this(), sequence, id = std::move(id),
       permit = std::optional<Permit>(*std::move(permit))](
          absl::StatusOr<Submitted> submitted) mutable {
        permit.reset();  // the answer may let the next task in
        v1::StreamTasksResponse answer;
        answer.set_sequence(sequence);
        if (submitted.ok()) {
          answer.set_task_id(std::move(id));
          answer.set_replayed(submitted->replayed);
        } else {
          WriteError(submitted.status(), answer.mutable_status());
        }
        self->Answer(std::move(answer));
      });
}

void TaskStream::Answer(v1::StreamTasksResponse answer) {
  answer.set_credit(1);
  {
    absl::MutexLock lock(&mu_);
    --submitted_;
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
    if (cancelled_) answers_.clear();
    if (!writing_ && !answers_.empty()) {
      response_ = std::move(answers_.front());
      answers_.pop_front();
      writing_ = write = true;
      more = !answers_.empty();
    }
    const int open = submitted_ + static_cast<int>(answers_.size());
    if (!reading_ && !read_all_ && !draining_ && !cancelled_ && open < kWindow) {
      reading_ = read = true;
    }
    const bool idle = !writing_ && open == 0;
    if (cancelled_ ? !writing_ : idle && (read_all_ || draining_)) {
      finished_ = true;
      if (cancelled_) {
        end = CancelledCall();
      } else if (read_all_) {
        end = grpc::Status::OK;
      } else {
        end = StatusOf(Draining());
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
    {
      absl::MutexLock lock(&self->mu_);
      self->draining_ = true;
    }
    self->Pump();
  });
}

}  // namespace penstock
