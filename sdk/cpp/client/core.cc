#include "sdk/cpp/client/core.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iterator>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "grpcpp/alarm.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace penstock::client::internal {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file.good() || text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  return text;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> CredentialsOf(
    const ClientOptions& options) {
  if (!options.tls.has_value()) return grpc::InsecureChannelCredentials();
  const TlsOptions& tls = *options.tls;
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError(
        "TlsOptions: cert_file and key_file go together");
  }
  grpc::SslCredentialsOptions ssl;
  for (const auto& [path, text] : {std::pair(tls.ca_file, &ssl.pem_root_certs),
                                   {tls.cert_file, &ssl.pem_cert_chain},
                                   {tls.key_file, &ssl.pem_private_key}}) {
    if (path.empty()) continue;
    absl::StatusOr<std::string> read = ReadFile(path);
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  return grpc::SslCredentials(ssl);
}

grpc::ChannelArguments ChannelArgumentsOf() {
  grpc::ChannelArguments arguments;
  // A name may stand for several gateways.
  arguments.SetLoadBalancingPolicyName("round_robin");
  arguments.SetUserAgentPrefix("penstock-cpp");
  // Results may be longer than gRPC's 4 MiB.
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // A gateway that was restarted is found again within seconds, not minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A peer that is gone without a word is noticed while a call waits.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  return arguments;
}

}  // namespace

thread_local bool Reaction::running_ = false;

Core::Core(const std::vector<std::string>& addresses, ClientOptions options)
    : options_(std::move(options)) {
  if (addresses.empty()) {
    broken_ = absl::InvalidArgumentError("a Client needs an address");
    return;
  }
  const auto credentials = CredentialsOf(options_);
  if (!credentials.ok()) {
    broken_ = credentials.status();
    return;
  }
  for (const std::string& address : addresses) {
    auto channel =
        grpc::CreateCustomChannel(address, *credentials, ChannelArgumentsOf());
    auto stub = v1::GatewayService::NewStub(channel);
    gateways_.push_back({std::move(channel), std::move(stub)});
  }
}

// gRPC's last channel waits for the threads that run reactions: on one of them
// it would wait for itself.
Core::~Core() {
  if (!Reaction::IsRunning() || gateways_.empty()) return;
  auto gateways = std::make_shared<std::vector<Gateway>>(std::move(gateways_));
  After(absl::ZeroDuration(), [gateways] { gateways->clear(); });
}

Stub& Core::Pick() {
  const size_t count = gateways_.size();
  const size_t first = turn_.fetch_add(1, std::memory_order_relaxed);
  if (count == 1) return *gateways_.front().stub;
  Stub* next = nullptr;  // one that may become connected
  for (size_t i = 0; i < count; ++i) {
    const Gateway& gateway = gateways_[(first + i) % count];
    switch (gateway.channel->GetState(/*try_to_connect=*/true)) {
      case GRPC_CHANNEL_READY:
        return *gateway.stub;
      case GRPC_CHANNEL_IDLE:
      case GRPC_CHANNEL_CONNECTING:
        if (next == nullptr) next = gateway.stub.get();
        break;
      default:
        break;  // it is away
    }
  }
  return next != nullptr ? *next : *gateways_[first % count].stub;
}

std::unique_ptr<grpc::ClientContext> Core::MakeContext(
    const Metadata& metadata) const {
  auto context = std::make_unique<grpc::ClientContext>();
  for (const Metadata* all : {&options_.metadata, &metadata}) {
    for (const auto& [key, value] : *all) context->AddMetadata(key, value);
  }
  return context;
}

void After(absl::Duration delay, std::function<void()> then) {
  // The alarm holds its callback, and the callback the alarm: let go when it
  // runs.
  auto alarm = std::make_shared<grpc::Alarm>();
  auto* set = alarm.get();
  set->Set(absl::ToChronoTime(absl::Now() + delay),
           [alarm = std::move(alarm), then = std::move(then)](bool) mutable {
             const auto held = std::move(alarm);
             const auto run = std::move(then);
             run();
           });
}

std::string NewUuid() {
  thread_local absl::BitGen random;
  const auto high = absl::Uniform<uint64_t>(random);
  const auto low = absl::Uniform<uint64_t>(random);
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%012x", high >> 32,
                         high >> 16 & 0xffff, high & 0xfff,
                         (low >> 48 & 0x3fff) | 0x8000, low & 0xffffffffffff);
}

CallLimits LimitsOf(const Core& core, const CallOptions& options) {
  return {.deadline = options.deadline.value_or(core.options().deadline),
          .give_up = absl::Now() +
                     options.retry_budget.value_or(core.options().retry_budget),
          .metadata = options.metadata};
}

}  // namespace penstock::client::internal
