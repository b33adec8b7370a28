#include "gateway/server.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gateway/admin_service.h"
#include "gateway/health_service.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"

namespace penstock {
namespace {

constexpr int kMaxReceived = 64 << 20;  // our own limits are below it
// gRPC ends every call of a connection that sends one with more.
constexpr int kMaxMetadata = 64 << 10;
constexpr int kMinPingMs = 10'000;  // clients may ping as often, calls or not
constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;

// As gRPC takes it: INT_MAX is for ever.
int Millis(absl::Duration duration) {
  return static_cast<int>(std::min(duration / absl::Milliseconds(1),
                                   int64_t{std::numeric_limits<int>::max()}));
}

// `listen` with the port that was chosen.
std::string RealAddress(const std::string& listen, int port) {
  if (absl::StartsWith(listen, "unix:")) return listen;
  const size_t colon = listen.rfind(':');
  return absl::StrCat(listen.substr(0, colon), ":", port);
}

}  // namespace

struct Server::Parts {
  Parts(Lifecycle* lifecycle, Broker* broker, Backend* backend,
        Environment* environment, const ServerOptions& options)
      : gateway(lifecycle, broker, backend, environment, options.service),
        schedules(lifecycle, broker, backend, environment, options.schedules),
        admin(lifecycle, backend, environment, &schedules, options.admin),
        health(broker, backend, environment) {}

  GatewayService gateway;
  Schedules schedules;
  AdminService admin;
  HealthService health;
  std::unique_ptr<grpc::Server> server;  // ends before the services
};

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    Lifecycle* lifecycle, Broker* broker, Backend* backend,
    Environment* environment, const ServerOptions& options) {
  auto parts = std::make_unique<Parts>(lifecycle, broker, backend, environment,
                                       options);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(),
                           &port);
  // Two gateways on one port would share its calls without anyone noticing.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(kMaxReceived);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadata);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             kKeepaliveTimeoutMs);
  // Nobody can read its books: no service shows them.
  builder.AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                             Millis(options.max_connection_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             Millis(options.max_connection_age_grace));
  builder.RegisterService(parts->gateway.rpc());
  builder.RegisterService(parts->admin.rpc());
  builder.RegisterService(parts->health.rpc());
  parts->server = builder.BuildAndStart();
  if (parts->server == nullptr || port <= 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen,
                     ": the port is taken, or the address is not this host's"));
  }
  parts->schedules.Start();
  return std::unique_ptr<Server>(
      new Server(std::move(parts), RealAddress(options.listen, port)));
}

Server::Server(std::unique_ptr<Parts> parts, std::string address)
    : parts_(std::move(parts)), address_(std::move(address)) {}

Server::~Server() { Drain(absl::InfinitePast()); }

void Server::BeginDrain() {
  parts_->health.BeginDrain();
  parts_->gateway.BeginDrain();
  parts_->admin.BeginDrain();
  parts_->schedules.BeginDrain();
}

void Server::Drain(absl::Time deadline) {
  if (parts_->server == nullptr) return;
  BeginDrain();
  parts_->gateway.EndSends(deadline);
  parts_->schedules.AwaitTicks(deadline);
  // An infinite past is not a time that the system's clock can say.
  deadline = std::max(deadline, absl::Now());
  parts_->server->Shutdown(absl::ToChronoTime(deadline));
  parts_->server.reset();
  parts_->schedules.Stop();
}

}  // namespace penstock
