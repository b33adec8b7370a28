// A worker's answer to probes: a small HTTP/1.1 server, since a worker has no
// other port and need not link gRPC.
//
//   GET /livez    200: the process is alive
//   GET /readyz   200: it takes tasks; 503 and a line that says why not
//
// One thread, which never waits for a client: of more than 16 connections the
// oldest is dropped, and none lasts longer than 5 seconds or sends more than
// 4 KiB. One request for each connection.

#ifndef PENSTOCK_SDK_CPP_HEALTH_ENDPOINT_H_
#define PENSTOCK_SDK_CPP_HEALTH_ENDPOINT_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace penstock {

struct HealthEndpointOptions {
  std::string listen;  // HOST:PORT; port 0: any that is free

  // Whether the worker is ready; its text goes into the answer. Called on the
  // endpoint's thread: must not block.
  std::function<absl::Status()> ready;

  absl::Duration connection_limit = absl::Seconds(5);
};

class HealthEndpoint {
 public:
  // Answers when this returns. UNAVAILABLE, naming the address, when it cannot
  // be had.
  static absl::StatusOr<std::unique_ptr<HealthEndpoint>> Start(
      HealthEndpointOptions options);

  // Drops what is open. `ready` is not called after.
  ~HealthEndpoint();

  // Where it listens, with the real port.
  const std::string& address() const { return address_; }

 private:
  class Loop;
  HealthEndpoint(std::unique_ptr<Loop> loop, std::string address);

  const std::unique_ptr<Loop> loop_;
  const std::string address_;
  std::jthread thread_;
};

// What a probe that can only run a command does: GET /readyz at `address`
// (HOST:PORT, or HOST:PORT/livez). The answer's line with 200; otherwise
// UNAVAILABLE says what was answered, or that nothing was within `limit`.
// Blocks.
absl::StatusOr<std::string> CheckHealth(const std::string& address,
                                        absl::Duration limit);

}  // namespace penstock

#endif  // PENSTOCK_SDK_CPP_HEALTH_ENDPOINT_H_
