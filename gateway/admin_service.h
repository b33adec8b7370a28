// penstock.v1.AdminService: what operators call, RPC in, Schedules or Backend
// out. Runs on gRPC's pool and on the threads that complete; nothing blocks. The
// contract is proto/penstock/v1/admin.proto.

#ifndef PENSTOCK_GATEWAY_ADMIN_SERVICE_H_
#define PENSTOCK_GATEWAY_ADMIN_SERVICE_H_

#include <memory>

#include "gateway/permits.h"
#include "gateway/schedules.h"
#include "queue/backend.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"

namespace grpc {
class Service;
}

namespace penstock {

struct AdminServiceOptions {
  Weight calls = {.tasks = 1'000, .bytes = 16 << 20};  // in flight at the edge
};

class AdminService {
 public:
  // None is owned; all must outlive it.
  AdminService(Lifecycle* lifecycle, Backend* backend, Environment* environment,
               Schedules* schedules, AdminServiceOptions options);
  ~AdminService();

  // To be registered with a server, which must be shut down before this ends.
  grpc::Service* rpc();

  // From now on calls are refused.
  void BeginDrain();

 private:
  struct Core;
  class Rpc;
  std::shared_ptr<Core> core_;
  std::unique_ptr<Rpc> rpc_;
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_ADMIN_SERVICE_H_
