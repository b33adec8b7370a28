#include "sdk/cpp/progress.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace penstock {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(500);
constexpr size_t kMaxLine = 1000;  // bytes

// `line` cut to its limit, not inside a character.
std::string Cut(std::string_view line) {
  if (line.size() <= kMaxLine) return std::string(line);
  size_t end = kMaxLine;
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) {
    --end;
  }
  return std::string(line.substr(0, end));
}

}  // namespace

void ProgressReport::Set(double fraction, std::string_view line) {
  TaskProgress progress{
      .fraction = std::isnan(fraction) ? 0 : std::clamp(fraction, 0.0, 1.0),
      .text = Cut(line),
      .time = world_.now()};
  absl::Duration pause;
  {
    absl::MutexLock lock(&mu_);
    if (closed_) return;
    pause = next_write_ - progress.time;
    waiting_ = std::move(progress);
    if (std::exchange(busy_, true)) return;
  }
  WriteAfter(pause);
}

void ProgressReport::Close() {
  absl::MutexLock lock(&mu_);
  closed_ = true;
  waiting_.reset();
}

void ProgressReport::WriteAfter(absl::Duration pause) {
  if (pause <= absl::ZeroDuration()) {
    Write();
    return;
  }
  world_.after(pause, [self = shared_from_this()] { self->Write(); });
}

void ProgressReport::Write() {
  TaskProgress progress;
  {
    absl::MutexLock lock(&mu_);
    if (!waiting_.has_value()) {
      busy_ = false;
      return;
    }
    progress = *std::move(waiting_);
    waiting_.reset();
    next_write_ = world_.now() + kPause;
  }
  world_.write(progress, [self = shared_from_this(),
                          progress](absl::StatusOr<bool> stands) mutable {
    self->OnWritten(std::move(progress), std::move(stands));
  });
}

void ProgressReport::OnWritten(TaskProgress written,
                               absl::StatusOr<bool> stands) {
  absl::Duration pause;
  {
    absl::MutexLock lock(&mu_);
    // The backend keeps none, or this is no longer the task's run.
    if (stands.ok() ? !*stands : !absl::IsUnavailable(stands.status())) {
      closed_ = true;
    }
    if (!stands.ok() && !waiting_.has_value()) waiting_ = std::move(written);
    if (closed_) waiting_.reset();
    if (!waiting_.has_value()) {
      busy_ = false;
      return;
    }
    pause = next_write_ - world_.now();
  }
  WriteAfter(pause);
}

}  // namespace penstock
