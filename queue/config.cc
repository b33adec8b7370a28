// One table of settings, and how a file, the environment and flags are read by
// it. Runs once, on the main thread, before anything is opened.
//
// The file is machinery's config.yml and follows yaml.v2 where the two YAML
// libraries differ: `key:` without a value leaves the default, and of a key
// given twice the last one counts. docs/configuration.md shows the table.

#include "queue/config.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "yaml-cpp/yaml.h"

namespace penstock {
namespace {

constexpr absl::string_view kOneBroker = "this version connects to one broker";
constexpr absl::string_view kOwnDelayQueues =
    "one queue for all delays holds short ones behind long ones; where "
    "RabbitMQ keeps delayed tasks, each delay has a queue of its own";
constexpr absl::string_view kNoPool =
    "there is no pool, but one connection for each purpose";
constexpr absl::string_view kOwnTimeouts =
    "deadlines are set for each command instead";
constexpr absl::string_view kOneRedis =
    "this version talks to one Redis server, which result_backend must name "
    "itself: neither Sentinel nor Cluster";
constexpr absl::string_view kOwnTls =
    "in machinery it is set by code only; the keys here are tls.ca_file and so "
    "on";
constexpr absl::string_view kNotOurs =
    "this version talks to RabbitMQ and Redis only";

constexpr absl::string_view kFile = "path of a PEM file";

// What each URL may begin with.
constexpr auto kBrokers = std::to_array<absl::string_view>(
    {"amqp://", "amqps://", "redis://", "rediss://", "redis+socket://",
     "memory://"});
constexpr auto kBackends = std::to_array<absl::string_view>(
    {"redis://", "rediss://", "redis+socket://", "amqp://", "amqps://",
     "memory://"});
constexpr auto kLocks = std::to_array<absl::string_view>(
    {"redis://", "rediss://", "redis+socket://"});

constexpr absl::string_view kArgsType =
    "a map of texts, whole numbers and "
    "true or false";

constexpr absl::string_view kNamesType = "a list of texts of 1 to 255 bytes";
constexpr absl::string_view kMillis = "whole number of milliseconds, 0 or more";

constexpr auto kKeys = std::to_array<ConfigKey>({
    {"broker",
     "URL: amqp://, amqps://, redis://, rediss://, redis+socket:// or "
     "memory://",
     "none", "where tasks are sent to and taken from"},
    {"result_backend",
     "URL: redis://, rediss://, redis+socket://, amqp://, amqps:// or "
     "memory://",
     "none", "where states and results are kept"},
    {"default_queue", "text of 1 to 255 bytes", "machinery_tasks",
     "the queue that a worker takes tasks from"},
    {"results_expire_in", "whole number of seconds, 0 or more", "3600",
     "how long a final state is kept, unless its task has a `result_ttl`; 0 is "
     "the default; with amqp:// as result_backend it holds for every state, "
     "and "
     "is at most 2147483"},
    {"pending_expire_in", "whole number of seconds, 0 or more", "604800",
     "how long a task that is not final is kept after it is due; 0 is the "
     "default"},
    {"not_registered_limit", "whole number of seconds, 0 or more", "3600",
     "how long a task whose name a worker does not know is passed on to "
     "others before it fails; 0 is the default"},
    {"lock", "URL: redis://, rediss:// or redis+socket://", "none",
     "the Redis by which workers that have the same periodic tasks, Go ones "
     "too, run each tick once; none: every worker runs it"},
    {"lock_program", "text of at most 255 bytes", "none",
     "the program's name in the keys of lock, as in the Go programs that have "
     "the same periodic tasks; none is the name of this one"},
    {"listen", "HOST:PORT", "127.0.0.1:50051",
     "where the gateway accepts calls; it has no TLS and no login yet"},
    {"concurrency", "whole number from 0 to 4096", "0",
     "how many tasks a worker runs at once; 0 is twice the cores"},
    {"health_listen", "HOST:PORT", "none",
     "where a worker answers GET /livez and GET /readyz, by HTTP for probes; "
     "none is nowhere"},
    {"no_unix_signals", "true or false", "false",
     "a worker leaves SIGINT and SIGTERM to the program around it"},
    {"amqp.exchange", "text of at most 127 bytes", "machinery_exchange",
     "the exchange that tasks are published to"},
    {"amqp.exchange_type",
     "direct, fanout, topic, headers or a type beginning with x-", "direct",
     "the type that the exchange is declared with"},
    {"amqp.binding_key", "text of at most 255 bytes", "machinery_task",
     "what default_queue is bound with, and the routing key of a task that "
     "has none"},
    {"amqp.prefetch_count", "whole number from 0 to 65535", "0",
     "deliveries that a worker holds unacknowledged; 0 is chosen from the "
     "concurrency and the tasks"},
    {"amqp.queue_declare_args", kArgsType, "none",
     "arguments of the queue's declaration, such as x-queue-type; all "
     "programs that share a queue must give the same"},
    {"amqp.queue_binding_args", kArgsType, "none",
     "arguments of the queue's binding"},
    {"amqp.auto_delete", "true or false", "false",
     "how delay queues are declared, with RabbitMQ as broker and as result "
     "backend"},
    {"redis.delayed_tasks_key", "text of 1 to 255 bytes", "delayed_tasks",
     "with Redis as the broker: the sorted set of tasks that wait"},
    {"redis.normal_tasks_poll_period", kMillis, "1000",
     "with Redis as the broker: how long one blocking look into an empty queue "
     "takes; at most 1000 and a quarter of redis.lease"},
    {"redis.delayed_tasks_poll_period", kMillis, "500",
     "with Redis as the broker: how often tasks that others delayed are looked "
     "for"},
    {"redis.lease", "whole number of seconds from 1 to 3600", "20",
     "with Redis as the broker: so long after a worker's death others take "
     "what it held"},
    {"redis.queues", kNamesType, "none",
     "with Redis as the broker: the queues that exist besides default_queue; "
     "none is any"},
    {"tls.ca_file", kFile, "none",
     "authorities that may have signed the certificates of broker and result "
     "backend; none is the system's"},
    {"tls.cert_file", kFile, "none",
     "the certificate that is shown to servers that ask for one; with "
     "tls.key_file"},
    {"tls.key_file", kFile, "none",
     "the key of tls.cert_file, without a passphrase"},
    {"tls.server_name", "text of at most 255 bytes", "none",
     "the name that the servers' certificates must have; none is the host of "
     "each URL"},
    {"tls.insecure_skip_verify", "true or false", "false",
     "takes any server for the right one, and an attacker too; for trying "
     "things out only"},
    {"amqp.delayed_queue", "text", "none", kOwnDelayQueues, false},
    {"multiple_broker_separator", "text", "none", kOneBroker, false},
    {"redis.max_idle", "", "", kNoPool, false},
    {"redis.max_active", "", "", kNoPool, false},
    {"redis.max_idle_timeout", "", "", kNoPool, false},
    {"redis.wait", "", "", kNoPool, false},
    {"redis.read_timeout", "", "", kOwnTimeouts, false},
    {"redis.write_timeout", "", "", kOwnTimeouts, false},
    {"redis.connect_timeout", "", "", kOwnTimeouts, false},
    {"redis.client_name", "", "", "connections are not named", false},
    {"redis.master_name", "", "", kOneRedis, false},
    {"redis.sentinel_password", "", "", kOneRedis, false},
    {"redis.cluster_mode", "", "", kOneRedis, false},
    {"redis.cluster_enabled", "", "", kOneRedis, false},
    {"tlsconfig", "", "", kOwnTls, false},
    {"aws", "", "", kNotOurs, false},
    {"sqs", "", "", kNotOurs, false},
    {"dynamodb", "", "", kNotOurs, false},
    {"gcp", "", "", kNotOurs, false},
    {"gcppubsub", "", "", kNotOurs, false},
    {"mongodb", "", "", kNotOurs, false},
    {"cmq", "", "", kNotOurs, false},
});

const ConfigKey* FindKey(absl::string_view name) {
  auto key = std::find_if(kKeys.begin(), kKeys.end(),
                          [&](const ConfigKey& k) { return k.name == name; });
  return key == kKeys.end() ? nullptr : &*key;
}

// What someone gave for a key, in file, environment or flag alike.
struct Scalar {
  std::string text;
  bool quoted = false;  // a quoted "10" is text, whatever it looks like
};

struct Given {
  enum Shape { kScalar, kMap, kList } shape = kScalar;
  Scalar scalar;
  std::vector<std::pair<std::string, Scalar>> entries;  // a list: names only
  bool nested = false;  // an entry is no scalar itself
};

std::string Show(const Given& given) {
  switch (given.shape) {
    case Given::kList:
      return "a list";
    case Given::kMap:
      return given.nested ? "a map of more than one level" : "a map";
    case Given::kScalar:
      break;
  }
  return absl::StrCat("\"", RedactUrl(given.scalar.text), "\"");
}

// The words that yaml.v2 takes for booleans.
std::optional<bool> ParseBool(absl::string_view text) {
  for (absl::string_view word : {"true", "yes", "on", "y"}) {
    if (absl::EqualsIgnoreCase(text, word)) return true;
  }
  for (absl::string_view word : {"false", "no", "off", "n"}) {
    if (absl::EqualsIgnoreCase(text, word)) return false;
  }
  return std::nullopt;
}

std::optional<int64_t> ParseInt(const Given& given, int64_t min, int64_t max) {
  int64_t number = 0;
  if (given.shape != Given::kScalar ||
      !absl::SimpleAtoi(given.scalar.text, &number) || number < min ||
      number > max) {
    return std::nullopt;
  }
  return number;
}

std::optional<std::string> ParseText(const Given& given, size_t min,
                                     size_t max) {
  const std::string& text = given.scalar.text;
  if (given.shape != Given::kScalar || text.size() < min || text.size() > max) {
    return std::nullopt;
  }
  return text;
}

std::optional<std::vector<std::string>> ParseNames(const Given& given) {
  if (given.shape != Given::kList || given.nested) return std::nullopt;
  std::vector<std::string> names;
  for (const auto& [name, unused] : given.entries) {
    if (name.empty() || name.size() > 255) return std::nullopt;
    names.push_back(name);
  }
  return names;
}

std::optional<DeclareArg> ParseArg(const Scalar& scalar) {
  DeclareArg arg;
  if (!scalar.quoted) {
    if (absl::SimpleAtoi(scalar.text, &arg.int_value)) {
      arg.kind = DeclareArg::kInt;
      return arg;
    }
    if (std::optional<bool> flag = ParseBool(scalar.text)) {
      arg.kind = DeclareArg::kBool;
      arg.bool_value = *flag;
      return arg;
    }
    // A fraction or a null would reach RabbitMQ as a text that it refuses.
    double number = 0;
    if (scalar.text.empty() || absl::SimpleAtod(scalar.text, &number)) {
      return std::nullopt;
    }
  }
  arg.string_value = scalar.text;
  return arg;
}

std::optional<std::map<std::string, DeclareArg>> ParseArgs(const Given& given) {
  if (given.shape != Given::kMap || given.nested) return std::nullopt;
  std::map<std::string, DeclareArg> args;
  for (const auto& [name, scalar] : given.entries) {
    std::optional<DeclareArg> arg = ParseArg(scalar);
    if (name.empty() || !arg.has_value()) return std::nullopt;
    args[name] = *std::move(arg);
  }
  return args;
}

// Stores a parsed value; false when there was none.
template <typename Parsed, typename Field>
bool Store(std::optional<Parsed> parsed, Field& field) {
  if (!parsed.has_value()) return false;
  field = static_cast<Field>(*std::move(parsed));
  return true;
}

bool StoreSeconds(const Given& given, absl::Duration& field) {
  std::optional<int64_t> seconds = ParseInt(given, 0, int64_t{1} << 40);
  if (!seconds.has_value()) return false;
  if (*seconds > 0) field = absl::Seconds(*seconds);  // 0: as in machinery
  return true;
}

bool StoreMillis(const Given& given, absl::Duration& field) {
  std::optional<int64_t> millis = ParseInt(given, 0, int64_t{1} << 40);
  if (!millis.has_value()) return false;
  if (*millis > 0) field = absl::Milliseconds(*millis);  // 0: as in machinery
  return true;
}

bool IsExchangeType(const std::string& type) {
  return type == "direct" || type == "fanout" || type == "topic" ||
         type == "headers" || absl::StartsWith(type, "x-");
}

bool IsListenAddress(const std::string& address) {
  size_t colon = address.rfind(':');
  int port = 0;
  return colon != std::string::npos && colon > 0 &&
         absl::SimpleAtoi(address.substr(colon + 1), &port) && port >= 0 &&
         port <= 65535;
}

// Puts what was given into `options`; false when the key expects another thing.
bool Apply(const ConfigKey& key, const Given& given, Options& options) {
  AmqpOptions& amqp = options.amqp;
  absl::string_view name = key.name;
  if (name == "broker") return Store(ParseText(given, 1, 4096), options.broker);
  if (name == "result_backend") {
    return Store(ParseText(given, 1, 4096), options.result_backend);
  }
  if (name == "lock") return Store(ParseText(given, 1, 4096), options.lock);
  if (name == "lock_program") {
    return Store(ParseText(given, 1, 255), options.lock_program);
  }
  if (name == "default_queue") {
    return Store(ParseText(given, 1, 255), options.default_queue);
  }
  if (name == "results_expire_in") {
    return StoreSeconds(given, options.results_expire_in);
  }
  if (name == "pending_expire_in") {
    return StoreSeconds(given, options.pending_expire_in);
  }
  if (name == "not_registered_limit") {
    return StoreSeconds(given, options.not_registered_limit);
  }
  if (name == "listen") {
    return Store(ParseText(given, 1, 1024), options.listen) &&
           IsListenAddress(options.listen);
  }
  if (name == "health_listen") {
    return Store(ParseText(given, 1, 1024), options.health_listen) &&
           IsListenAddress(options.health_listen);
  }
  if (name == "concurrency") {
    return Store(ParseInt(given, 0, 4096), options.concurrency);
  }
  if (name == "no_unix_signals") {
    return given.shape == Given::kScalar &&
           Store(ParseBool(given.scalar.text), options.no_unix_signals);
  }
  if (name == "amqp.exchange") {
    return Store(ParseText(given, 0, 127), amqp.exchange);
  }
  if (name == "amqp.exchange_type") {
    return Store(ParseText(given, 1, 127), amqp.exchange_type) &&
           IsExchangeType(amqp.exchange_type);
  }
  if (name == "amqp.binding_key") {
    return Store(ParseText(given, 0, 255), amqp.binding_key);
  }
  if (name == "amqp.prefetch_count") {
    amqp.prefetch_set = true;
    return Store(ParseInt(given, 0, 65535), amqp.prefetch_count);
  }
  if (name == "amqp.queue_declare_args") {
    return Store(ParseArgs(given), amqp.queue_declare_args);
  }
  if (name == "amqp.queue_binding_args") {
    return Store(ParseArgs(given), amqp.queue_binding_args);
  }
  if (name == "redis.delayed_tasks_key") {
    return Store(ParseText(given, 1, 255), options.redis.delayed_tasks_key);
  }
  if (name == "redis.normal_tasks_poll_period") {
    return StoreMillis(given, options.redis.normal_tasks_poll_period);
  }
  if (name == "redis.delayed_tasks_poll_period") {
    return StoreMillis(given, options.redis.delayed_tasks_poll_period);
  }
  if (name == "redis.lease") {
    return ParseInt(given, 1, 3600).has_value() &&
           StoreSeconds(given, options.redis.lease);
  }
  if (name == "redis.queues") {
    return Store(ParseNames(given), options.redis.queues);
  }
  if (name == "tls.ca_file") {
    return Store(ParseText(given, 0, 4096), options.tls.ca_file);
  }
  if (name == "tls.cert_file") {
    return Store(ParseText(given, 0, 4096), options.tls.cert_file);
  }
  if (name == "tls.key_file") {
    return Store(ParseText(given, 0, 4096), options.tls.key_file);
  }
  if (name == "tls.server_name") {
    return Store(ParseText(given, 0, 255), options.tls.server_name);
  }
  if (name == "tls.insecure_skip_verify") {
    return given.shape == Given::kScalar &&
           Store(ParseBool(given.scalar.text),
                 options.tls.insecure_skip_verify);
  }
  if (name == "amqp.auto_delete") {
    return given.shape == Given::kScalar &&
           Store(ParseBool(given.scalar.text), amqp.auto_delete);
  }
  if (name == "amqp.delayed_queue") {
    return Store(ParseText(given, 0, 255), amqp.delayed_queue);
  }
  return true;  // not used, whatever it is
}

bool IsArgs(const ConfigKey& key) { return key.type == kArgsType; }

// "x-queue-type:quorum,x-max-priority:10", as machinery spells a map in the
// environment; but numbers and booleans are such, as they are in the file.
Given GivenText(const ConfigKey& key, const std::string& text) {
  if (key.type == kNamesType) {
    Given given{.shape = Given::kList};
    for (absl::string_view name :
         absl::StrSplit(text, ',', absl::SkipEmpty())) {
      given.entries.push_back({std::string(name), {}});
    }
    return given;
  }
  if (!IsArgs(key)) return {.scalar = {.text = text}};
  Given given{.shape = Given::kMap};
  for (absl::string_view pair : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    std::pair<std::string, std::string> split =
        absl::StrSplit(pair, absl::MaxSplits(':', 1));
    given.entries.push_back(
        {std::move(split.first), {.text = std::move(split.second)}});
  }
  return given;
}

Scalar NodeScalar(const YAML::Node& node) {
  return {.text = node.Scalar(), .quoted = node.Tag() == "!"};
}

Given GivenNode(const YAML::Node& node) {
  if (node.IsSequence()) {
    Given given{.shape = Given::kList};
    for (const auto& entry : node) {
      given.nested |= !entry.IsScalar();
      if (given.nested) break;
      given.entries.push_back({entry.Scalar(), {}});
    }
    return given;
  }
  if (!node.IsMap()) return {.scalar = NodeScalar(node)};
  Given given{.shape = Given::kMap};
  for (const auto& entry : node) {
    given.nested |= !entry.first.IsScalar() || entry.second.IsMap() ||
                    entry.second.IsSequence();
    if (given.nested) break;
    given.entries.push_back(
        {entry.first.Scalar(),
         entry.second.IsNull() ? Scalar{} : NodeScalar(entry.second)});
  }
  return given;
}

// Collects the options, and where each key came from, for the errors.
class Loader {
 public:
  absl::Status ReadFile(const std::string& file);
  absl::Status ReadText(const ConfigKey& key, const std::string& source,
                        const std::string& text) {
    return Take(key, source, GivenText(key, text));
  }

  // What can only be judged once all sources are known.
  absl::Status Check();

  LoadedConfig loaded;

 private:
  absl::Status ReadMap(const YAML::Node& map, const std::string& prefix);
  absl::Status ReadEntry(const std::string& name, const YAML::Node& key_node,
                         const YAML::Node& node);
  absl::Status Take(const ConfigKey& key, const std::string& source,
                    const Given& given);
  absl::Status CheckUrl(const std::string& key, const std::string& url,
                        std::span<const absl::string_view> schemes);
  absl::Status CheckTlsKeys();

  std::string At(const YAML::Node& node) const {
    return absl::StrCat(file_, ":", node.Mark().line + 1);
  }
  void Warn(const std::string& source, const std::string& text) {
    loaded.warnings.push_back(absl::StrCat(source, ": ", text));
  }

  std::string file_;
  std::map<std::string, std::string, std::less<>> source_of_;
};

absl::Status Loader::Take(const ConfigKey& key, const std::string& source,
                          const Given& given) {
  if (!Apply(key, given, loaded.options)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", key.name, ": expected ",
                     absl::StartsWith(key.type, "whole") ? "a " : "", key.type,
                     ", found ", Show(given)));
  }
  if (!key.used) {
    Warn(source, absl::StrCat(key.name, " is not used: ", key.meaning));
  }
  source_of_[std::string(key.name)] = source;
  return absl::OkStatus();
}

absl::Status Loader::ReadEntry(const std::string& name,
                               const YAML::Node& key_node,
                               const YAML::Node& node) {
  if (const ConfigKey* key = FindKey(name)) {
    if (node.IsNull()) return absl::OkStatus();
    return Take(*key, At(key_node), GivenNode(node));
  }
  if (name == "amqp" || name == "redis" || name == "tls") {
    if (node.IsNull()) return absl::OkStatus();
    if (node.IsMap()) return ReadMap(node, name + ".");
    return absl::InvalidArgumentError(absl::StrCat(At(key_node), ": ", name,
                                                   ": expected a map, found ",
                                                   Show(GivenNode(node))));
  }
  Warn(At(key_node), absl::StrCat("unknown key ", RedactUrl(name)));
  return absl::OkStatus();
}

absl::Status Loader::ReadMap(const YAML::Node& map, const std::string& prefix) {
  std::set<std::string> seen;
  for (const auto& entry : map) {
    if (!entry.first.IsScalar()) {
      return absl::InvalidArgumentError(
          absl::StrCat(At(entry.first), ": a key must be text"));
    }
    std::string name = prefix + entry.first.Scalar();
    if (!seen.insert(name).second) {
      Warn(At(entry.first), absl::StrCat(RedactUrl(name),
                                         " is given twice: the last one "
                                         "counts"));
    }
    absl::Status read = ReadEntry(name, entry.first, entry.second);
    if (!read.ok()) return read;
  }
  return absl::OkStatus();
}

absl::Status Loader::ReadFile(const std::string& file) {
  file_ = file;
  std::ifstream in(file);
  std::stringstream text;
  if (in) text << in.rdbuf();
  if (!in || text.fail()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": cannot be read: ", std::strerror(errno)));
  }
  // yaml-cpp throws; nothing beyond these lines does.
  try {
    YAML::Node root = YAML::Load(text.str());
    if (root.IsNull() || !root.IsDefined()) return absl::OkStatus();
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": expected a map of settings, such as \"broker: URL\""));
    }
    return ReadMap(root, "");
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ":", error.mark.line + 1, ": no valid YAML: ", error.msg));
  }
}

// "a, b and c".
std::string Listed(std::span<const absl::string_view> words) {
  return absl::StrCat(absl::StrJoin(words.first(words.size() - 1), ", "),
                      " and ", words.back());
}

absl::Status Loader::CheckUrl(const std::string& key, const std::string& url,
                              std::span<const absl::string_view> schemes) {
  if (url.empty()) return absl::OkStatus();  // open.cc asks for it
  auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(
        absl::StrCat(source_of_[key], ": ", key, ": ", why, "; supported are ",
                     Listed(schemes)));
  };
  size_t end = url.find("://");
  if (end == std::string::npos) {
    return refuse(
        absl::StrCat("expected a URL, found \"", RedactUrl(url), "\""));
  }
  std::string scheme = url.substr(0, end + 3);
  if (std::find(schemes.begin(), schemes.end(), scheme) == schemes.end()) {
    return refuse(absl::StrCat(RedactUrl(scheme), " is not supported as a ",
                               absl::StrReplaceAll(key, {{"_", " "}}),
                               " by this version"));
  }
  if (scheme == "memory://") return absl::OkStatus();
  absl::string_view rest = absl::string_view(url).substr(end + 3);
  if (absl::StrContains(rest, "://")) {
    return refuse("several URLs are given, and this version takes one");
  }
  if (scheme == "redis+socket://") return absl::OkStatus();  // has no host
  if (rest.empty() || rest[0] == '/') return refuse("the URL names no host");
  return absl::OkStatus();
}

absl::Status Loader::CheckTlsKeys() {
  const Options& options = loaded.options;
  if (options.tls == TlsOptions()) return absl::OkStatus();
  if (absl::Status good = CheckTls(options.tls); !good.ok()) {
    const std::string key =
        std::string(good.message().substr(0, good.message().find(':')));
    return absl::InvalidArgumentError(
        absl::StrCat(source_of_[key], ": ", good.message()));
  }
  if (!absl::StartsWith(options.broker, "amqps://") &&
      !absl::StartsWith(options.broker, "rediss://") &&
      !absl::StartsWith(options.result_backend, "rediss://") &&
      !absl::StartsWith(options.lock, "rediss://") &&
      !absl::StartsWith(options.result_backend, "amqps://")) {
    loaded.warnings.push_back(
        "the keys tls.* have no effect: neither broker nor result_backend nor "
        "lock is "
        "amqps:// or rediss://");
  } else if (options.tls.insecure_skip_verify) {
    Warn(source_of_["tls.insecure_skip_verify"],
         "tls.insecure_skip_verify is on: the certificates of broker and "
         "result backend are NOT checked, and whoever sits on the way reads "
         "and changes everything");
  }
  return absl::OkStatus();
}

absl::Status Loader::Check() {
  const Options& options = loaded.options;
  absl::Status broker = CheckUrl("broker", options.broker, kBrokers);
  if (!broker.ok()) return broker;
  absl::Status backend =
      CheckUrl("result_backend", options.result_backend, kBackends);
  if (!backend.ok()) return backend;
  absl::Status lock = CheckUrl("lock", options.lock, kLocks);
  if (!lock.ok()) return lock;
  absl::Status tls = CheckTlsKeys();
  if (!tls.ok()) return tls;

  if (options.results_expire_in > absl::Hours(24 * 7)) {
    Warn(source_of_["results_expire_in"],
         absl::StrFormat("results_expire_in is %d: it is in seconds, so "
                         "results are kept for %.1f days",
                         absl::ToInt64Seconds(options.results_expire_in),
                         absl::ToDoubleHours(options.results_expire_in) / 24));
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const ConfigKey> ConfigKeys() { return kKeys; }

std::string FlagName(const ConfigKey& key) {
  return absl::StrReplaceAll(key.name, {{".", "_"}});
}

std::string EnvironmentName(const ConfigKey& key) {
  return absl::StrCat("PENSTOCK_", absl::AsciiStrToUpper(FlagName(key)));
}

absl::StatusOr<LoadedConfig> LoadConfig(const ConfigSources& sources) {
  Loader loader;
  if (!sources.file.empty()) {
    absl::Status read = loader.ReadFile(sources.file);
    if (!read.ok()) return read;
  }
  for (const ConfigKey& key : kKeys) {
    if (!key.used || !sources.environment) continue;
    std::string variable = EnvironmentName(key);
    std::optional<std::string> text = sources.environment(variable);
    if (!text.has_value() || text->empty()) continue;
    absl::Status read = loader.ReadText(key, variable, *text);
    if (!read.ok()) return read;
  }
  for (const auto& [flag, text] : sources.flags) {
    auto key = std::find_if(kKeys.begin(), kKeys.end(), [&](const auto& k) {
      return k.used && FlagName(k) == flag;
    });
    std::string source = absl::StrCat("--", flag);
    if (key == kKeys.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": there is no such setting"));
    }
    absl::Status read = loader.ReadText(*key, source, text);
    if (!read.ok()) return read;
  }
  absl::Status checked = loader.Check();
  if (!checked.ok()) return checked;
  return std::move(loader.loaded);
}

std::string RedactUrl(const std::string& url) {
  std::string redacted = url;
  size_t at = redacted.rfind('@');
  if (at != std::string::npos) {
    size_t scheme = redacted.find("://");
    size_t begin = scheme == std::string::npos || scheme > at ? 0 : scheme + 3;
    size_t colon = redacted.find(':', begin);
    // machinery reads a Redis user without a colon as the password; and what is
    // no URL at all may be anything.
    bool has_user =
        colon < at && begin > 0 && !absl::StartsWith(redacted, "redis+socket:");
    bool user_alone = colon >= at && absl::StartsWith(redacted, "amqp");
    if (!user_alone) {
      size_t from = has_user ? colon + 1 : begin;
      redacted.replace(from, at - from, "***");
    }
  }
  const std::string kParameter = "password=";
  for (size_t found = redacted.find(kParameter); found != std::string::npos;
       found = redacted.find(kParameter, found + kParameter.size())) {
    size_t from = found + kParameter.size();
    size_t end = std::min(redacted.find('&', from), redacted.size());
    redacted.replace(from, end - from, "***");
  }
  return redacted;
}

}  // namespace penstock
