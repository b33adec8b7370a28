// RabbitMQ and Redis without systemd, all under a directory of the test: see
// servers.h. deploy/servers starts them the same way from a shell.

#include "tests/support/servers.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace penstock::testing {
namespace {

constexpr absl::Duration kStartLimit = absl::Seconds(90);
constexpr absl::Duration kStopLimit = absl::Seconds(30);
// The Debian wrapper in /usr/sbin changes the user and uses /var/lib.
constexpr char kRabbitBin[] = "/usr/lib/rabbitmq/bin/";

// One try: connects, sends `hello`, and returns what came back within a second.
std::string Greet(int port, std::string_view hello) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) ==
          0 &&
      send(fd, hello.data(), hello.size(), MSG_NOSIGNAL) > 0) {
    pollfd readable{.fd = fd, .events = POLLIN, .revents = 0};
    char buffer[256];
    if (poll(&readable, 1, 1000) > 0) {
      const ssize_t size = recv(fd, buffer, sizeof(buffer), 0);
      if (size > 0) answer.assign(buffer, static_cast<size_t>(size));
    }
  }
  close(fd);
  return answer;
}

// Until the server on `port` answers `hello` with `prefix`, or its process
// ends, or the limit passes.
absl::Status AwaitReady(Process* process, int port, std::string_view hello,
                        std::string_view prefix, const std::string& log_file) {
  const absl::Time deadline = absl::Now() + kStartLimit;
  while (absl::Now() < deadline) {
    if (Greet(port, hello).starts_with(prefix)) return absl::OkStatus();
    const absl::StatusOr<int> ended = process->Wait(absl::Milliseconds(50));
    if (ended.ok()) {
      return absl::UnavailableError(absl::StrCat("server ended with ", *ended,
                                                 ": ", TailOfFile(log_file)));
    }
  }
  return absl::DeadlineExceededError(absl::StrCat(
      "server is not ready after ", absl::FormatDuration(kStartLimit), ": ",
      TailOfFile(log_file)));
}

absl::Status StopProcess(std::unique_ptr<Process>* process) {
  if (*process == nullptr) return absl::OkStatus();
  absl::Status status = (*process)->Stop(kStopLimit).status();
  process->reset();
  return status;
}

absl::Status SignalProcess(const std::unique_ptr<Process>& process,
                           int signal) {
  if (process == nullptr) {
    return absl::FailedPreconditionError("the server does not run");
  }
  return process->Signal(signal);
}

void WriteFile(const std::string& path, std::string_view text) {
  std::ofstream(path) << text;
}

std::string TlsConfig(const std::optional<ServerTls>& tls, int port) {
  if (!tls.has_value()) return "";
  const bool demand = tls->demand_client_certificate;
  return absl::StrCat(
      "listeners.ssl.1 = 127.0.0.1:", port,
      "\nssl_options.cacertfile = ", tls->ca_file,
      "\nssl_options.certfile = ", tls->cert_file,
      "\nssl_options.keyfile = ", tls->key_file,
      "\nssl_options.verify = ", demand ? "verify_peer" : "verify_none",
      "\nssl_options.fail_if_no_peer_cert = ", demand ? "true" : "false", "\n");
}

}  // namespace

RabbitServer::RabbitServer(RabbitServerOptions options)
    : port_(FreePort()),
      tls_port_(options.tls.has_value() ? FreePort() : 0),
      node_port_(FreePort()),
      name_server_port_(FreePort()) {
  const std::string& directory = directory_.path();
  std::filesystem::create_directory(directory + "/home");
  const std::string cookie = directory + "/home/.erlang.cookie";
  WriteFile(cookie, absl::StrCat("penstock", port_, node_port_));
  chmod(cookie.c_str(), 0400);
  WriteFile(directory + "/enabled_plugins", "[].\n");
  WriteFile(directory + "/rabbitmq.conf",
            absl::StrCat("listeners.tcp.1 = 127.0.0.1:", port_,
                         "\n"
                         "disk_free_limit.absolute = 50MB\n"
                         "vm_memory_high_watermark.absolute = 1GB\n"
                         "log.file.level = warning\n",
                         TlsConfig(options.tls, tls_port_)));
}

std::map<std::string, std::string> RabbitServer::Environment() const {
  const std::string& directory = directory_.path();
  return {
      {"HOME", directory + "/home"},
      {"RABBITMQ_NODENAME", absl::StrCat("penstock", port_, "@localhost")},
      {"RABBITMQ_DIST_PORT", absl::StrCat(node_port_)},
      {"ERL_EPMD_PORT", absl::StrCat(name_server_port_)},
      {"ERL_EPMD_ADDRESS", "127.0.0.1"},
      {"RABBITMQ_MNESIA_BASE", directory + "/data"},
      {"RABBITMQ_LOG_BASE", directory + "/log"},
      {"RABBITMQ_CONFIG_FILE", directory + "/rabbitmq.conf"},
      {"RABBITMQ_ENABLED_PLUGINS_FILE", directory + "/enabled_plugins"},
      {"RABBITMQ_PID_FILE", directory + "/pid"},
      {"RABBITMQ_CONF_ENV_FILE", "/dev/null"},
      // One scheduler and no spinning: a test machine has two cores.
      {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
       "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"},
      // The start script then execs the node instead of watching over it, so
      // that our child is the node itself.
      {"RUNNING_UNDER_SYSTEMD", "true"},
  };
}

absl::Status RabbitServer::StartNameServer() {
  if (name_server_ != nullptr && name_server_->Running()) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Process>> process =
      Process::Start({.argv = {"epmd", "-port", absl::StrCat(name_server_port_),
                               "-address", "127.0.0.1"},
                      .environment = {},
                      .log_file = directory_.path() + "/epmd.log"});
  if (!process.ok()) return process.status();
  name_server_ = *std::move(process);
  // A NAMES request: two bytes of length, then 'n'. The answer begins with its
  // own port.
  return AwaitReady(name_server_.get(), name_server_port_,
                    std::string_view("\0\1n", 3), std::string_view("\0\0", 2),
                    directory_.path() + "/epmd.log");
}

absl::Status RabbitServer::Start() {
  if (absl::Status status = StartNameServer(); !status.ok()) return status;
  const std::string log_file = directory_.path() + "/output.log";
  absl::StatusOr<std::unique_ptr<Process>> process =
      Process::Start({.argv = {absl::StrCat(kRabbitBin, "rabbitmq-server")},
                      .environment = Environment(),
                      .log_file = log_file});
  if (!process.ok()) return process.status();
  node_ = *std::move(process);
  return AwaitReady(node_.get(), port_, std::string_view("AMQP\0\0\11\1", 8),
                    std::string_view("\1", 1), log_file);
}

absl::Status RabbitServer::Stop() { return StopProcess(&node_); }

void RabbitServer::Kill() { node_.reset(); }

absl::Status RabbitServer::Restart() {
  if (absl::Status status = Stop(); !status.ok()) return status;
  return Start();
}

absl::Status RabbitServer::Pause() { return SignalProcess(node_, SIGSTOP); }

absl::Status RabbitServer::Continue() { return SignalProcess(node_, SIGCONT); }

std::string RabbitServer::url() const {
  return absl::StrCat("amqp://guest:guest@127.0.0.1:", port_, "/");
}

absl::StatusOr<std::string> RabbitServer::Control(
    const std::vector<std::string>& words) {
  std::vector<std::string> argv = {absl::StrCat(kRabbitBin, "rabbitmqctl")};
  argv.insert(argv.end(), words.begin(), words.end());
  return RunCommand(
      {.argv = std::move(argv), .environment = Environment(), .log_file = ""},
      absl::Seconds(60));
}

RedisServer::RedisServer(RedisServerOptions options)
    : options_(std::move(options)),
      port_(FreePort()),
      tls_port_(options_.tls.has_value() ? FreePort() : 0) {}

absl::Status RedisServer::Start() {
  const std::string log_file = directory_.path() + "/redis.log";
  std::vector<std::string> argv = {"redis-server",
                                   "--port",
                                   absl::StrCat(port_),
                                   "--bind",
                                   "127.0.0.1",
                                   "--save",
                                   "",
                                   "--appendonly",
                                   options_.durable ? "yes" : "no",
                                   "--appendfsync",
                                   "always",
                                   "--dir",
                                   directory_.path()};
  if (options_.tls.has_value()) {
    argv.insert(
        argv.end(),
        {"--tls-port", absl::StrCat(tls_port_), "--tls-ca-cert-file",
         options_.tls->ca_file, "--tls-cert-file", options_.tls->cert_file,
         "--tls-key-file", options_.tls->key_file, "--tls-auth-clients",
         options_.tls->demand_client_certificate ? "yes" : "no"});
  }
  argv.insert(argv.end(), options_.extra.begin(), options_.extra.end());
  absl::StatusOr<std::unique_ptr<Process>> process = Process::Start(
      {.argv = std::move(argv), .environment = {}, .log_file = log_file});
  if (!process.ok()) return process.status();
  process_ = *std::move(process);
  // While it reads its file it answers -LOADING.
  return AwaitReady(process_.get(), port_, "PING\r\n", "+PONG", log_file);
}

absl::Status RedisServer::Stop() { return StopProcess(&process_); }

void RedisServer::Kill() { process_.reset(); }

absl::Status RedisServer::Restart() {
  if (absl::Status status = Stop(); !status.ok()) return status;
  return Start();
}

absl::Status RedisServer::Pause() { return SignalProcess(process_, SIGSTOP); }

absl::Status RedisServer::Continue() {
  return SignalProcess(process_, SIGCONT);
}

std::string RedisServer::url() const {
  return absl::StrCat("redis://127.0.0.1:", port_);
}

absl::StatusOr<std::string> RedisServer::Command(
    const std::vector<std::string>& words) {
  std::vector<std::string> argv = {"redis-cli", "-h", "127.0.0.1", "-p",
                                   absl::StrCat(port_)};
  argv.insert(argv.end(), words.begin(), words.end());
  return RunCommand(
      {.argv = std::move(argv), .environment = {}, .log_file = ""},
      absl::Seconds(30));
}

}  // namespace penstock::testing
