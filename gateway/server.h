// The gRPC server: gateway, admin, health and reflection on one address, with the
// settings that long-lived clients need. Started once, drained once.

#ifndef PENSTOCK_GATEWAY_SERVER_H_
#define PENSTOCK_GATEWAY_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/admin_service.h"
#include "gateway/gateway_service.h"
#include "gateway/schedules.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"

namespace penstock {

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";  // port 0: any that is free

  // Connections end now and then, so that new gateways get their share of the
  // clients; infinite: never. Calls that are open then have the grace to end by
  // themselves: longer than the longest wait, 60 s.
  absl::Duration max_connection_age = absl::Minutes(5);
  absl::Duration max_connection_age_grace = absl::Seconds(90);

  GatewayServiceOptions service;
  AdminServiceOptions admin;
  SchedulesOptions schedules;
};

class Server {
 public:
  // Takes calls when this returns. UNAVAILABLE, naming the address, when it
  // cannot be had: the port is taken. None of the four is owned; all must outlive
  // the server, and Lifecycle::Stop comes after its Drain.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      Lifecycle* lifecycle, Broker* broker, Backend* backend,
      Environment* environment, const ServerOptions& options);

  // Cuts what is still open.
  ~Server();

  // Where it listens, with the real port: "127.0.0.1:50051".
  const std::string& address() const { return address_; }

  // New sends and watches are refused with DRAINING, waits end with the state as
  // it is, readiness is NOT_SERVING; reads are still answered.
  void BeginDrain();

  // BeginDrain, then waits for the sends and ticks that were taken on, then takes no more
  // calls. What is still open at `deadline` is cut. Blocks; idempotent.
  void Drain(absl::Time deadline);

 private:
  struct Parts;
  Server(std::unique_ptr<Parts> parts, std::string address);

  std::unique_ptr<Parts> parts_;
  const std::string address_;
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_SERVER_H_
