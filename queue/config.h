// Configuration: machinery's config.yml, environment and flags, validated once
// at start. docs/configuration.md lists every key.

#ifndef PENSTOCK_QUEUE_CONFIG_H_
#define PENSTOCK_QUEUE_CONFIG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "queue/tls.h"

namespace penstock {

// A scalar argument of queue_declare_args, with the type that YAML gave it.
struct DeclareArg {
  enum Kind { kString, kInt, kBool } kind = kString;
  std::string string_value;
  int64_t int_value = 0;
  bool bool_value = false;

  bool operator==(const DeclareArg&) const = default;
};

struct AmqpOptions {
  std::string exchange = "machinery_exchange";
  std::string exchange_type = "direct";
  std::string binding_key = "machinery_task";
  int prefetch_count = 3;     // 0: chosen from the concurrency
  bool prefetch_set = false;  // the file set it; otherwise a worker chooses
  std::map<std::string, DeclareArg> queue_declare_args;
  std::map<std::string, DeclareArg> queue_binding_args;
  bool auto_delete = false;
  std::string delayed_queue;
};

// Of Redis as a broker.
struct RedisOptions {
  std::string delayed_tasks_key = "delayed_tasks";
  absl::Duration normal_tasks_poll_period = absl::Seconds(1);
  absl::Duration delayed_tasks_poll_period = absl::Milliseconds(500);
  absl::Duration lease = absl::Seconds(20);
  std::vector<std::string> queues;  // that exist; empty: any
};

struct Options {
  std::string broker;          // URL
  std::string result_backend;  // URL
  std::string lock;            // URL; empty: none
  std::string lock_program;    // empty: the program's own name
  std::string default_queue = "machinery_tasks";
  absl::Duration results_expire_in = absl::Seconds(3600);
  absl::Duration pending_expire_in = absl::Hours(24 * 7);
  absl::Duration not_registered_limit = absl::Hours(1);
  AmqpOptions amqp;
  RedisOptions redis;
  TlsOptions tls;  // of broker and result backend
  bool no_unix_signals = false;

  std::string listen = "127.0.0.1:50051";  // gateway
  int concurrency = 0;                     // worker; 0: twice the cores
  std::string health_listen;               // worker; empty: nowhere
};

// One key of the table that file, environment and flags are read by. In the
// environment "amqp.exchange" is PENSTOCK_AMQP_EXCHANGE, as a flag
// amqp_exchange.
struct ConfigKey {
  absl::string_view name;      // as in the file: "amqp.exchange"
  absl::string_view type;      // what is expected: "true or false"
  absl::string_view standard;  // what holds when it is not set
  absl::string_view meaning;   // not used: why not
  bool used = true;            // false: of machinery's; named in a warning
};
std::span<const ConfigKey> ConfigKeys();
std::string EnvironmentName(const ConfigKey& key);
std::string FlagName(const ConfigKey& key);

// Where a setting may come from, weakest first. `file` is a path or empty;
// `environment` looks a variable up; `flags` holds those that were given
// ("broker" -> URL).
struct ConfigSources {
  std::string file;
  std::function<std::optional<std::string>(const std::string&)> environment;
  std::map<std::string, std::string> flags;
};

struct LoadedConfig {
  Options options;
  std::vector<std::string> warnings;  // to be logged; no passwords
};

// INVALID_ARGUMENT names file, line, key and what was expected.
absl::StatusOr<LoadedConfig> LoadConfig(const ConfigSources& sources);

// `url` with its password replaced by "***", for logs.
std::string RedactUrl(const std::string& url);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_CONFIG_H_
