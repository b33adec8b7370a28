#include "sdk/cpp/client/stream.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/support/client_callback.h"

namespace penstock::client::internal {
namespace {

// Of tasks that share a message: gateways take 64 MiB.
constexpr size_t kMessageBytes = 1 << 20;

}  // namespace

// One StreamTasks call. Deletes itself at its end. A hold keeps it until
// nothing more comes and nothing is being written: the stream lets it go, and
// is not destroyed before its end (Close waits for that).
class Stream::Connection final
    : public grpc::ClientBidiReactor<v1::StreamTasksRequest,
                                     v1::StreamTasksResponse> {
 public:
  explicit Connection(Stream* stream)
      : stream_(stream),
        context_(stream_->core_->MakeContext(stream_->metadata_)) {}

  void Begin() {
    stream_->core_->Pick().async()->StreamTasks(context_.get(), this);
    AddHold();
    StartRead(&response_);
    StartCall();
  }

  // What is written next.
  v1::StreamTasksRequest& request() { return request_; }

  void Write(bool more) {
    // Tasks that wait for each other go out together.
    grpc::WriteOptions options;
    if (more) options.set_buffer_hint();
    StartWrite(&request_, options);
  }

  void WriteEnd() { StartWritesDone(); }

  void LetGo() { RemoveHold(); }

 private:
  void OnReadDone(bool ok) override {
    const Reaction reaction;
    if (!ok) return stream_->OnReadEnd();
    stream_->OnAnswer(response_);
    StartRead(&response_);
  }
  void OnWriteDone(bool) override { stream_->OnWritten(); }
  void OnWritesDoneDone(bool) override { stream_->OnWritten(); }
  void OnDone(const grpc::Status& status) override {
    Stream* const stream = stream_;
    delete this;
    stream->OnEnd(StatusFrom(status));
  }

  Stream* const stream_;
  std::unique_ptr<grpc::ClientContext> context_;
  v1::StreamTasksRequest request_;
  v1::StreamTasksResponse response_;
};

Stream::Stream(std::shared_ptr<Core> core, const CallOptions& options)
    : core_(std::move(core)),
      metadata_(options.metadata),
      budget_(options.retry_budget.value_or(core_->options().retry_budget)),
      backoff_(absl::InfinitePast()) {}

void Stream::Send(const Task& task, TaskStream::Answer answer) {
  Open open{.answer = std::move(answer)};
  absl::Status bad = core_->broken();
  bad.Update(WriteTask(task, open.request.mutable_task()));
  if (!bad.ok()) return std::move(open.answer)(bad);
  // By its id a task that was sent twice is accepted once.
  if (task.id.empty()) {
    open.request.mutable_task()->set_id("task_" + NewUuid());
  }
  {
    absl::MutexLock lock(&mu_, absl::Condition(
                                   +[](Stream* stream) {
                                     stream->mu_.AssertReaderHeld();
                                     return stream->HasRoom();
                                   },
                                   this));
    if (!closed_) {
      const int64_t sequence = ++last_sequence_;
      open.request.set_sequence(sequence);
      open_.emplace(sequence, std::move(open));
      unsent_.push_back(sequence);
    } else {
      bad = absl::FailedPreconditionError("the stream was closed");
    }
  }
  if (!bad.ok()) return std::move(open.answer)(bad);
  Pump();
}

void Stream::Close() {
  {
    absl::MutexLock lock(&mu_);
    closed_ = true;
  }
  Pump();
  absl::MutexLock lock(&mu_, absl::Condition(
                                 +[](Stream* stream) {
                                   stream->mu_.AssertReaderHeld();
                                   return stream->IsIdle();
                                 },
                                 this));
}

void Stream::Pump() {
  Connection* connection = nullptr;
  enum { kBegin, kWrite, kWriteEnd } act;
  bool more = false;
  {
    absl::MutexLock lock(&mu_);
    if (connection_ == nullptr) {
      if (pausing_ || unsent_.empty()) return;
      connection_ = new Connection(this);
      act = kBegin;
    } else if (writing_ || read_all_ || !ready_) {
      return;
    } else if (MayWriteLocked()) {
      FillLocked(connection_->request());
      more = MayWriteLocked();
      writing_ = true;
      act = kWrite;
    } else if (closed_ && open_.empty() && !wrote_all_) {
      writing_ = wrote_all_ = true;
      act = kWriteEnd;
    } else {
      return;
    }
    connection = connection_;
  }
  switch (act) {
    case kBegin:
      return connection->Begin();
    case kWrite:
      return connection->Write(more);
    case kWriteEnd:
      return connection->WriteEnd();
  }
}

// With those that are ready: it never waits for more.
void Stream::FillLocked(v1::StreamTasksRequest& request) {
  request.Clear();
  size_t bytes = 0;
  while (MayWriteLocked()) {
    Open& next = open_.at(unsent_.front());
    bytes += next.request.ByteSizeLong();
    const bool fits =
        request.tasks_size() < max_tasks_ && bytes <= kMessageBytes;
    if (!fits && !request.tasks().empty()) return;
    unsent_.pop_front();
    next.where = Open::kSent;
    --credit_;
    if (!fits || (request.tasks().empty() && !MayWriteLocked())) {
      request.set_sequence(next.request.sequence());
      *request.mutable_task() = next.request.task();
      return;
    }
    *request.add_tasks() = next.request;
  }
}

void Stream::OnAnswer(const v1::StreamTasksResponse& response) {
  std::vector<Told> told;
  {
    absl::MutexLock lock(&mu_);
    if (!ready_) {
      if (response.credit() > 0) window_ = response.credit();
      max_tasks_ = response.max_tasks();
    }
    ready_ = true;
    credit_ += response.credit();
    if (response.outcome_case() != v1::StreamTasksResponse::OUTCOME_NOT_SET) {
      SettleLocked(response, told);
    }
    for (const v1::StreamTaskResult& result : response.results()) {
      SettleLocked(result, told);
    }
    telling_ += static_cast<int>(told.size());
  }
  for (Told& each : told) {
    std::move(each.answer)(std::move(each.outcome));
    absl::MutexLock lock(&mu_);
    --telling_;
  }
  Pump();
}

template <typename Result>
void Stream::SettleLocked(const Result& result, std::vector<Told>& told) {
  const auto found = open_.find(result.sequence());
  if (found == open_.end()) return;
  failing_ = false;
  Open& open = found->second;
  if (!result.has_status()) {
    told.push_back({std::move(open.answer),
                    TaskHandle(core_, result.task_id(), result.replayed())});
    open_.erase(found);
    return;
  }
  const absl::Status error = StatusFrom(result.status());
  const absl::Time now = absl::Now();
  if (!open.backoff.has_value()) open.backoff.emplace(now + budget_);
  std::optional<absl::Duration> pause;
  if (IsRetryable(error)) pause = open.backoff->Next(error, now);
  if (!pause.has_value()) {
    told.push_back({std::move(open.answer), error});
    open_.erase(found);
    return;
  }
  open.where = Open::kPausing;
  After(*pause, [self = shared_from_this(), sequence = found->first] {
    self->SendAgain(sequence);
  });
}

void Stream::SendAgain(int64_t sequence) {
  {
    absl::MutexLock lock(&mu_);
    const auto found = open_.find(sequence);
    if (found == open_.end()) return;  // the stream has given up
    found->second.where = Open::kUnsent;
    unsent_.push_back(sequence);
  }
  Pump();
}

void Stream::OnWritten() {
  Connection* over = nullptr;
  {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (read_all_) over = connection_;
  }
  if (over != nullptr) return over->LetGo();
  Pump();
}

void Stream::OnReadEnd() {
  Connection* over = nullptr;
  {
    absl::MutexLock lock(&mu_);
    read_all_ = true;
    if (!writing_) over = connection_;
  }
  if (over != nullptr) over->LetGo();
}

void Stream::OnEnd(const absl::Status& status) {
  const absl::Status error =
      status.ok() ? absl::UnavailableError("the gateway has ended the stream")
                  : status;
  std::map<int64_t, Open> given_up;
  {
    absl::MutexLock lock(&mu_);
    connection_ = nullptr;
    ready_ = writing_ = read_all_ = wrote_all_ = false;
    credit_ = max_tasks_ = 0;
    const absl::Time now = absl::Now();
    if (!failing_) backoff_.Reset(now + budget_);
    failing_ = !open_.empty();
    if (!failing_) return;
    std::optional<absl::Duration> pause;
    if (IsRetryable(error)) pause = backoff_.Next(error, now);
    unsent_.clear();
    if (!pause.has_value()) {
      given_up.swap(open_);
      telling_ += static_cast<int>(given_up.size());
      failing_ = false;
    } else {
      // All that were on their way, in their order.
      for (auto& [sequence, open] : open_) {
        if (open.where == Open::kPausing) continue;
        open.where = Open::kUnsent;
        unsent_.push_back(sequence);
      }
      pausing_ = true;
      After(*pause, [self = shared_from_this()] {
        {
          absl::MutexLock lock(&self->mu_);
          self->pausing_ = false;
        }
        self->Pump();
      });
    }
  }
  for (auto& [sequence, open] : given_up) {
    std::move(open.answer)(error);
    absl::MutexLock lock(&mu_);
    --telling_;
  }
}

}  // namespace penstock::client::internal
