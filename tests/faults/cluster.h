// Penstock as it is deployed, for the tests of faults: a RabbitMQ and a Redis
// of the test's own, the real gateway and the real workers, spoken to by gRPC.
// Every method is for the test's own thread, but Send and the stub, which any
// thread may use.

#ifndef PENSTOCK_TESTS_FAULTS_CLUSTER_H_
#define PENSTOCK_TESTS_FAULTS_CLUSTER_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "penstock/v1/admin.grpc.pb.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/servers.h"

namespace penstock::testing {

// How a call ended: "OK", or "UNAVAILABLE BROKER_UNAVAILABLE".
std::string Ending(const grpc::Status& status);

// add(left, right) with an id of the caller's; empty: the gateway's.
v1::Task AddTask(const std::string& id, int64_t left, int64_t right);

// The one whole number of a result; -1 when it is anything else.
int64_t WholeResult(const v1::TaskState& state);

class Cluster {
 public:
  struct Options {
    int gateways = 1;
    int workers = 2;
    bool durable_redis = false;
    // Redis is the broker too, there is no RabbitMQ, and a worker's lease is
    // short.
    bool redis_broker = false;
    int prefetch = 0;  // of each worker; 0: the worker chooses
    // The workers of tests/interop, which keep book of their runs.
    bool count_runs = false;
  };

  explicit Cluster(Options options);
  ~Cluster();

  // Starts all, and returns when the gateway says that it serves.
  absl::Status Start();

  RabbitServer& rabbit() { return rabbit_; }
  RedisServer& redis() { return redis_; }
  v1::GatewayService::Stub& stub(size_t gateway = 0) {
    return *gateways_[gateway].stub;
  }
  v1::AdminService::Stub& admin(size_t gateway = 0) {
    return *gateways_[gateway].admin;
  }
  Process& gateway() { return *gateways_[0].process; }
  Process& worker(size_t index) { return *workers_[index]; }

  // kill -9, and another one in its place.
  absl::Status ReplaceWorker(size_t index);
  absl::Status ReplaceGateway(size_t index);

  // How often each task was begun, with count_runs.
  std::map<std::string, int> Runs() const;

  // Sends a task; the call has 15 s.
  grpc::Status Send(const v1::Task& task);

  // The final states of all of `ids`. DEADLINE_EXCEEDED names some that were
  // not final after `limit`.
  absl::StatusOr<std::map<std::string, v1::TaskState>> AwaitFinal(
      const std::vector<std::string>& ids, absl::Duration limit);

  // How many of `ids` are final now.
  absl::StatusOr<int> CountFinal(const std::vector<std::string>& ids);

  // Waits until no queue holds a message, delivered or not.
  absl::Status AwaitEmptyQueues(absl::Duration limit);

  // Waits until every key of Redis would expire by itself: the sweeper takes
  // out what has ended when it next comes by.
  absl::Status AwaitNoImmortalKeys(absl::Duration limit);

  // What the processes wrote, for a test that failed.
  std::string Logs() const;

 private:
  struct Gateway {
    int port = 0;
    std::unique_ptr<Process> process;
    std::unique_ptr<v1::GatewayService::Stub> stub;
    std::unique_ptr<v1::AdminService::Stub> admin;
  };

  absl::Status StartGateway(size_t index);
  absl::Status AwaitServing(size_t index);
  absl::Status StartWorker(size_t index);
  std::string broker_url() const;

  const Options options_;
  const TempDirectory directory_;
  RabbitServer rabbit_;
  RedisServer redis_;
  std::vector<Gateway> gateways_;
  std::vector<std::unique_ptr<Process>> workers_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_FAULTS_CLUSTER_H_
