// penstockctl: sends tasks to a gateway and shows how they stand. Parses,
// connects, runs; docs/penstockctl.md.

#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "tools/penstockctl/args.h"
#include "tools/penstockctl/commands.h"

int main(int argc, char** argv) {
  namespace ctl = penstock::ctl;
  absl::StatusOr<ctl::Command> command =
      ctl::ParseArgs({argv + 1, argv + argc},
                     [](const std::string& name) -> std::optional<std::string> {
                       const char* value = std::getenv(name.c_str());
                       if (value == nullptr) return std::nullopt;
                       return value;
                     });
  if (!command.ok()) {
    std::cerr << "penstockctl: " << command.status().message()
              << "\nTry: penstockctl help\n";
    return ctl::kExitUsage;
  }
  if (command->verb == ctl::Verb::kHelp) {
    std::cout << ctl::HelpText(command->topic);
    return ctl::kExitOk;
  }
  if (command->verb == ctl::Verb::kVersion) {
    std::cout << "penstockctl " << PENSTOCK_VERSION << "\n";
    return ctl::kExitOk;
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // results may be large
  const std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(
      command->address, grpc::InsecureChannelCredentials(), arguments);
  const auto gateway = penstock::v1::GatewayService::NewStub(channel);
  const auto admin = penstock::v1::AdminService::NewStub(channel);
  return ctl::RunCommand(*command, *gateway, *admin, std::cout, std::cerr);
}
