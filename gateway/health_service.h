// grpc.health.v1.Health, so that probes and load balancers know when to send
// calls here. A service of our own: gRPC's is not described by reflection.
//   ""                           SERVING while the process lives
//   penstock.v1.GatewayService   SERVING while broker and backend can be used
//                                and the gateway is not draining
// Broker and backend are looked at once a second: queue/readiness.h.

#ifndef PENSTOCK_GATEWAY_HEALTH_SERVICE_H_
#define PENSTOCK_GATEWAY_HEALTH_SERVICE_H_

#include <memory>

#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "queue/readiness.h"

namespace grpc {
class Service;
}

namespace penstock {

class HealthService {
 public:
  // None is owned; all must outlive it.
  HealthService(Broker* broker, Backend* backend, Environment* environment);
  ~HealthService();

  // To be registered with a server, which must be shut down before this ends.
  grpc::Service* rpc();

  // NOT_SERVING from now on; watches are told and ended.
  void BeginDrain();

 private:
  struct Core;
  class Rpc;
  std::shared_ptr<Core> core_;
  const std::unique_ptr<Rpc> rpc_;
  Readiness readiness_;  // ends first: nothing is asked or told after
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_HEALTH_SERVICE_H_
