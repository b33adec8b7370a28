// Which errors are worth another try, and when. Pure but for the random share
// of a pause.

#ifndef PENSTOCK_SDK_CPP_CLIENT_RETRY_H_
#define PENSTOCK_SDK_CPP_CLIENT_RETRY_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace penstock::client {

// UNAVAILABLE, RESOURCE_EXHAUSTED that says when to come back,
// CONFIRM_TIMEOUT, GROUP_PARTIALLY_SENT, and CANCELLED by another than this
// client: the same call under the same request_id may go well, and sends nothing
// twice.
bool IsRetryable(const absl::Status& error);

// The pauses between the tries of one call. Not thread-safe.
class Backoff {
 public:
  explicit Backoff(absl::Time give_up) : give_up_(give_up) {}

  // How long to wait before the next try: 50 ms, then twice as long each time
  // up to 2 s, of which up to half is taken away at random; longer where the
  // error asks for it. nullopt: it would come too late.
  std::optional<absl::Duration> Next(const absl::Status& error, absl::Time now);

  // It went well for a while: pauses begin anew.
  void Reset(absl::Time give_up);

  absl::Time give_up() const { return give_up_; }

 private:
  absl::Time give_up_;
  int tries_ = 0;
};

}  // namespace penstock::client

#endif  // PENSTOCK_SDK_CPP_CLIENT_RETRY_H_
