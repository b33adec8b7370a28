#include "sdk/cpp/client/retry.h"

#include <algorithm>

#include "absl/random/random.h"
#include "penstock/client.h"

namespace penstock::client {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(50);
constexpr absl::Duration kLongestPause = absl::Seconds(2);
constexpr int kDoublings = 6;  // from one to the other

}  // namespace

bool IsRetryable(const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kUnavailable:
      return true;
    case absl::StatusCode::kCancelled:
      // gRPC resets what reaches a gateway in the moment in which it stops.
      return ErrorOf(error).reason.empty();
    case absl::StatusCode::kResourceExhausted:
      return ErrorOf(error).retry_delay.has_value();
    case absl::StatusCode::kDeadlineExceeded:
      return ErrorOf(error).reason == "CONFIRM_TIMEOUT";
    case absl::StatusCode::kAborted:
      return ErrorOf(error).reason == "GROUP_PARTIALLY_SENT";
    default:
      return false;
  }
}

std::optional<absl::Duration> Backoff::Next(const absl::Status& error,
                                            absl::Time now) {
  thread_local absl::BitGen random;
  const absl::Duration pause = std::min(
      kFirstPause * (1 << std::min(tries_++, kDoublings)), kLongestPause);
  const absl::Duration wait =
      std::max(pause * absl::Uniform(random, 0.5, 1.0),
               ErrorOf(error).retry_delay.value_or(absl::ZeroDuration()));
  if (now + wait >= give_up_) return std::nullopt;
  return wait;
}

void Backoff::Reset(absl::Time give_up) {
  give_up_ = give_up;
  tries_ = 0;
}

}  // namespace penstock::client
