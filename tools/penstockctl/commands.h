// Carries out a command: calls the gateway and prints what came back. Runs on
// the main thread; each call blocks.

#ifndef PENSTOCK_TOOLS_PENSTOCKCTL_COMMANDS_H_
#define PENSTOCK_TOOLS_PENSTOCKCTL_COMMANDS_H_

#include <ostream>

#include "penstock/v1/admin.grpc.pb.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "tools/penstockctl/args.h"

namespace penstock::ctl {

enum ExitStatus {
  kExitOk = 0,          // accepted, or final with SUCCESS
  kExitTaskFailed = 1,  // a task that was asked for ended in FAILURE
  kExitUsage = 2,
  kExitCallFailed = 3,
};

// `command` is one that calls the gateway.
ExitStatus RunCommand(const Command& command,
                      v1::GatewayService::StubInterface& gateway,
                      v1::AdminService::StubInterface& admin,
                      std::ostream& out, std::ostream& err);

}  // namespace penstock::ctl

#endif  // PENSTOCK_TOOLS_PENSTOCKCTL_COMMANDS_H_
