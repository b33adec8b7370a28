// A RabbitMQ and a Redis of a test's own, on free ports of 127.0.0.1, for tests
// that stop, kill or freeze a server. Tests that only need a server share those
// that tests/run started: PENSTOCK_TEST_AMQP_URL and PENSTOCK_TEST_REDIS_URL.
// Every method is for the thread that made the object; Start may be repeated
// after Stop or Kill and finds the same port and the same data.

#ifndef PENSTOCK_TESTS_SUPPORT_SERVERS_H_
#define PENSTOCK_TESTS_SUPPORT_SERVERS_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/process.h"

namespace penstock::testing {

// A second port, that speaks TLS.
struct ServerTls {
  std::string ca_file;  // who signs clients' certificates
  std::string cert_file;
  std::string key_file;
  bool demand_client_certificate = false;
};

struct RabbitServerOptions {
  std::optional<ServerTls> tls;
};

class RabbitServer {
 public:
  explicit RabbitServer(RabbitServerOptions options = {});

  // Returns when it answers AMQP (some 5 seconds), or with an error that shows
  // the end of its log.
  absl::Status Start();
  absl::Status Stop();  // as an administrator does: messages are kept
  void Kill();          // as a crash does
  absl::Status Restart();
  absl::Status Pause();  // SIGSTOP: the kernel still takes connections
  absl::Status Continue();

  int port() const { return port_; }
  int tls_port() const { return tls_port_; }
  std::string url() const;  // amqp://guest:guest@127.0.0.1:PORT/

  // Runs rabbitmqctl (1-2 s) and returns what it printed:
  // Control({"list_queues", "-q", "name", "messages"}).
  absl::StatusOr<std::string> Control(const std::vector<std::string>& words);

 private:
  std::map<std::string, std::string> Environment() const;
  absl::Status StartNameServer();

  const TempDirectory directory_;
  const int port_;
  const int tls_port_;
  const int node_port_;
  const int name_server_port_;
  // Erlang's name server (epmd). A child of the test and not of the node,
  // which would leave it behind; declared first, so that it ends last.
  std::unique_ptr<Process> name_server_;
  std::unique_ptr<Process> node_;
};

struct RedisServerOptions {
  bool durable = false;  // appendonly yes, appendfsync always
  std::optional<ServerTls> tls = {};
  std::vector<std::string> extra;  // more words of its command line
};

class RedisServer {
 public:
  explicit RedisServer(RedisServerOptions options = {});

  absl::Status Start();
  absl::Status Stop();
  void Kill();
  absl::Status Restart();
  absl::Status Pause();
  absl::Status Continue();

  int port() const { return port_; }
  int tls_port() const { return tls_port_; }
  std::string url() const;  // redis://127.0.0.1:PORT

  // Runs redis-cli and returns what it printed.
  absl::StatusOr<std::string> Command(const std::vector<std::string>& words);

 private:
  const RedisServerOptions options_;
  const TempDirectory directory_;
  const int port_;
  const int tls_port_;
  std::unique_ptr<Process> process_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_SERVERS_H_
