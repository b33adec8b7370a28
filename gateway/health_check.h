// Asks a gateway whether it is ready, as probes do that can only run a command
// (penstock-gateway --check_health). On the caller's thread.

#ifndef PENSTOCK_GATEWAY_HEALTH_CHECK_H_
#define PENSTOCK_GATEWAY_HEALTH_CHECK_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace penstock {

// OK when the gateway at `address` (HOST:PORT) says that it serves; UNAVAILABLE
// says why it is not known to, after `limit` at the latest.
absl::Status CheckGatewayHealth(const std::string& address,
                                absl::Duration limit);

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_HEALTH_CHECK_H_
