// penstock.v1.GatewayService: RPC in, Lifecycle or Backend out. Runs on gRPC's
// pool and on the threads that complete; nothing blocks. Every call is finished
// exactly once, by its completion or by its cancellation, and is not touched
// after that. The contract is proto/penstock/v1/gateway.proto.

#ifndef PENSTOCK_GATEWAY_GATEWAY_SERVICE_H_
#define PENSTOCK_GATEWAY_GATEWAY_SERVICE_H_

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "gateway/permits.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"

namespace grpc {
class Service;
}

namespace penstock {

struct GatewayServiceOptions {
  // What may be in flight at the RPCs' edge. A call that waits costs some 16 kB
  // whatever it holds: so much is added to the bytes of each send.
  Weight sends = {.tasks = 20'000, .bytes = 64 << 20};
  Weight reads = {.tasks = 20'000, .bytes = INT64_MAX};   // counted in ids
  Weight waits = {.tasks = 10'000, .bytes = INT64_MAX};   // counted in ids
  absl::Duration send_timeout = absl::Seconds(30);  // or the caller's, if earlier
  absl::Duration keepalive = absl::Seconds(15);     // of a stream without news
};

class GatewayService {
 public:
  // None is owned; all must outlive it.
  GatewayService(Lifecycle* lifecycle, Broker* broker, Backend* backend,
                 Environment* environment, GatewayServiceOptions options);
  ~GatewayService();

  // To be registered with a server, which must be shut down before this ends.
  grpc::Service* rpc();

  // From now on sends and watches are refused, waits end with the state as it
  // is, watches with UNAVAILABLE DRAINING.
  void BeginDrain();

  // Waits for the sends that were taken on; those that are open at `deadline`
  // end with CANCELLED.
  void EndSends(absl::Time deadline);

 private:
  struct Core;
  class Rpc;
  std::shared_ptr<Core> core_;
  std::unique_ptr<Rpc> rpc_;
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_GATEWAY_SERVICE_H_
