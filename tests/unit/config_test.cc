// Configuration: what a file, the environment and flags mean, and what a user
// reads when one of them is wrong.

#include "queue/config.h"

#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

class ConfigTest : public ::testing::Test {
 protected:
  // Writes the file and loads it; its name in texts is FILE.
  absl::StatusOr<LoadedConfig> LoadFile(const std::string& text) {
    std::ofstream(path_) << text;
    return Load(path_);
  }

  absl::StatusOr<LoadedConfig> Load(const std::string& file = "") {
    return LoadConfig({.file = file,
                       .environment = [this](const std::string& name)
                           -> std::optional<std::string> {
                         auto found = environment_.find(name);
                         if (found == environment_.end()) return std::nullopt;
                         return found->second;
                       },
                       .flags = flags_});
  }

  std::string Named(const std::string& text) const { return path_ + text; }

  std::map<std::string, std::string> environment_;
  std::map<std::string, std::string> flags_;
  const std::string path_ =
      testing::TempDir() + "config_" +
      testing::UnitTest::GetInstance()->current_test_info()->name() + ".yml";
};

// machinery's own test configuration, key for key.
constexpr char kMachineryFile[] = R"(---
broker: amqp://guest:guest@localhost:5672/
default_queue: default_queue
result_backend: redis://localhost:6379
results_expire_in: 123456
amqp:
  binding_key: binding_key
  exchange: exchange
  exchange_type: topic
  prefetch_count: 123
  queue_declare_args:
    x-max-priority: 10
    x-queue-type: quorum
    x-single-active-consumer: true
    x-text: "10"
  queue_binding_args:
    image-type: png
    x-match: any
sqs:
  receive_wait_time_seconds: 123
  receive_visibility_timeout: 456
redis:
  max_idle: 12
  max_active: 123
  max_idle_timeout: 456
  wait: false
  read_timeout: 17
  write_timeout: 19
  connect_timeout: 21
  normal_tasks_poll_period: 1001
  delayed_tasks_poll_period: 23
  delayed_tasks_key: delayed_tasks_key
  master_name: master_name
no_unix_signals: true
dynamodb:
  task_states_table: task_states_table
  group_metas_table: group_metas_table
)";

TEST_F(ConfigTest, MachineryFileIsReadUnchanged) {
  absl::StatusOr<LoadedConfig> loaded = LoadFile(kMachineryFile);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Options& options = loaded->options;
  EXPECT_EQ(options.broker, "amqp://guest:guest@localhost:5672/");
  EXPECT_EQ(options.default_queue, "default_queue");
  EXPECT_EQ(options.result_backend, "redis://localhost:6379");
  EXPECT_EQ(options.results_expire_in, absl::Seconds(123456));
  EXPECT_TRUE(options.no_unix_signals);
  EXPECT_EQ(options.amqp.binding_key, "binding_key");
  EXPECT_EQ(options.amqp.exchange, "exchange");
  EXPECT_EQ(options.amqp.exchange_type, "topic");
  EXPECT_EQ(options.amqp.prefetch_count, 123);
  EXPECT_TRUE(options.amqp.prefetch_set);
  EXPECT_THAT(
      options.amqp.queue_declare_args,
      UnorderedElementsAre(
          std::pair("x-max-priority",
                    DeclareArg{.kind = DeclareArg::kInt, .int_value = 10}),
          std::pair("x-queue-type", DeclareArg{.string_value = "quorum"}),
          std::pair("x-single-active-consumer",
                    DeclareArg{.kind = DeclareArg::kBool, .bool_value = true}),
          std::pair("x-text", DeclareArg{.string_value = "10"})));
  EXPECT_THAT(options.amqp.queue_binding_args,
              UnorderedElementsAre(
                  std::pair("image-type", DeclareArg{.string_value = "png"}),
                  std::pair("x-match", DeclareArg{.string_value = "any"})));
}

TEST_F(ConfigTest, WhatDoesNotApplyIsNamedWithItsLine) {
  absl::StatusOr<LoadedConfig> loaded = LoadFile(kMachineryFile);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  std::string all = testing::PrintToString(loaded->warnings);
  EXPECT_THAT(all, HasSubstr(Named(":19: sqs is not used")));
  EXPECT_THAT(all, HasSubstr(Named(":23: redis.max_idle is not used")));
  EXPECT_THAT(all, HasSubstr(Named(":33: redis.master_name is not used")));
  EXPECT_THAT(all, HasSubstr(Named(":35: dynamodb is not used")));
  EXPECT_EQ(loaded->warnings.size(), 10u) << all;
}

TEST_F(ConfigTest, LockNamesARedisAndTheProgramInItsKeys) {
  absl::StatusOr<LoadedConfig> loaded =
      LoadFile("lock: redis://:pw@h:6379\nlock_program: reports\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->warnings, IsEmpty());
  EXPECT_EQ(loaded->options.lock, "redis://:pw@h:6379");
  EXPECT_EQ(loaded->options.lock_program, "reports");

  const absl::Status refused =
      LoadFile("lock: amqp://u:secret@h\n").status();
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr(Named(":1: lock: amqp:// is not supported as a lock")));
  EXPECT_THAT(std::string(refused.message()), Not(HasSubstr("secret")));
}

TEST_F(ConfigTest, UnknownKeysAreNamedAndDoNotStopTheStart) {
  absl::StatusOr<LoadedConfig> loaded = LoadFile(
      "default_queue: q\nbrokr: amqp://u:secret@h\namqp:\n  exchanges: x\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->options.default_queue, "q");
  EXPECT_THAT(loaded->warnings,
              ElementsAre(Named(":2: unknown key brokr"),
                          Named(":4: unknown key amqp.exchanges")));
}

TEST_F(ConfigTest, KeyWithoutValueLeavesTheDefault) {
  absl::StatusOr<LoadedConfig> loaded =
      LoadFile("default_queue:\namqp:\nredis:\nresults_expire_in:\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->options.default_queue, "machinery_tasks");
  EXPECT_EQ(loaded->options.results_expire_in, absl::Hours(1));
  EXPECT_FALSE(loaded->options.amqp.prefetch_set);
  EXPECT_THAT(loaded->warnings, IsEmpty());
}

TEST_F(ConfigTest, OfAKeyGivenTwiceTheLastCountsAndIsWarnedAbout) {
  absl::StatusOr<LoadedConfig> loaded =
      LoadFile("default_queue: a\ndefault_queue: b\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->options.default_queue, "b");
  EXPECT_THAT(loaded->warnings,
              ElementsAre(HasSubstr(":2: default_queue is given twice")));
}

TEST_F(ConfigTest, ZeroExpiryIsTheDefaultAsInMachinery) {
  absl::StatusOr<LoadedConfig> loaded =
      LoadFile("results_expire_in: 0\npending_expire_in: 0\n"
               "not_registered_limit: 0\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->options.not_registered_limit, absl::Hours(1));
  EXPECT_EQ(loaded->options.results_expire_in, absl::Hours(1));
  EXPECT_EQ(loaded->options.pending_expire_in, absl::Hours(24 * 7));
}

// machinery's example file says 3600000 where an hour is meant.
TEST_F(ConfigTest, ExpiryOverAWeekIsWarnedAbout) {
  absl::StatusOr<LoadedConfig> loaded = LoadFile("results_expire_in: 604800\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->warnings, IsEmpty());
  loaded = LoadFile("results_expire_in: 3600000\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->warnings,
              ElementsAre(Named(":1: results_expire_in is 3600000: it is in "
                                "seconds, so results are kept for 41.7 days")));
}

TEST_F(ConfigTest, MachinerysOwnBindingKeyIsNoReasonToWarn) {
  absl::StatusOr<LoadedConfig> loaded = LoadFile(
      "default_queue: machinery_tasks\namqp:\n  binding_key: machinery_task\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->warnings, IsEmpty());
}

TEST_F(ConfigTest, EnvironmentOverridesTheFileAndFlagsBoth) {
  environment_["PENSTOCK_DEFAULT_QUEUE"] = "from_environment";
  environment_["PENSTOCK_AMQP_EXCHANGE"] = "from_environment";
  environment_["PENSTOCK_CONCURRENCY"] = "";  // as if it were not set
  flags_["amqp_exchange"] = "from_flag";
  absl::StatusOr<LoadedConfig> loaded = LoadFile(
      "default_queue: f\nconcurrency: 7\namqp:\n  exchange: f\n"
      "  binding_key: f\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->options.default_queue, "from_environment");
  EXPECT_EQ(loaded->options.amqp.exchange, "from_flag");
  EXPECT_EQ(loaded->options.amqp.binding_key, "f");
  EXPECT_EQ(loaded->options.concurrency, 7);
}

TEST_F(ConfigTest, ArgumentsInTheEnvironmentHaveTheTypesOfTheFile) {
  environment_["PENSTOCK_AMQP_QUEUE_DECLARE_ARGS"] =
      "x-queue-type:quorum,x-delivery-limit:20";
  absl::StatusOr<LoadedConfig> loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(
      loaded->options.amqp.queue_declare_args,
      UnorderedElementsAre(
          std::pair("x-queue-type", DeclareArg{.string_value = "quorum"}),
          std::pair("x-delivery-limit",
                    DeclareArg{.kind = DeclareArg::kInt, .int_value = 20})));
}

TEST_F(ConfigTest, WrongFileNamesLineKeyAndWhatWasExpected) {
  struct WrongFile {
    const char* text;
    const char* error;  // after the file's name
  };
  const WrongFile kFiles[] = {
      {"amqp:\n  prefetch_count: three\n",
       ":2: amqp.prefetch_count: expected a whole number from 0 to "
       "65535, found \"three\""},
      {"amqp:\n  prefetch_count: 65536\n",
       ":2: amqp.prefetch_count: expected a whole number from 0 to "
       "65535, found \"65536\""},
      {"\nresults_expire_in: -1\n",
       ":2: results_expire_in: expected a whole number of seconds, "
       "0 or more, found \"-1\""},
      {"results_expire_in: 1h\n",
       ":1: results_expire_in: expected a whole number of seconds, "
       "0 or more, found \"1h\""},
      {"default_queue: [a, b]\n",
       ":1: default_queue: expected text of 1 to 255 bytes, found a "
       "list"},
      {"no_unix_signals: maybe\n",
       ":1: no_unix_signals: expected true or false, found "
       "\"maybe\""},
      {"listen: 50051\n", ":1: listen: expected HOST:PORT, found \"50051\""},
      {"amqp: x\n", ":1: amqp: expected a map, found \"x\""},
      {"amqp:\n  exchange_type: direkt\n",
       ":2: amqp.exchange_type: expected direct, fanout, topic, "
       "headers or a type beginning with x-, found \"direkt\""},
      {"amqp:\n  queue_declare_args: {a: {b: c}}\n",
       ":2: amqp.queue_declare_args: expected a map of texts, whole "
       "numbers and true or false, found a map of more than one "
       "level"},
      {"amqp:\n  queue_declare_args: {x-max-priority: 1.5}\n",
       ":2: amqp.queue_declare_args: expected a map of texts, whole "
       "numbers and true or false, found a map"},
      {"- broker\n", ": expected a map of settings, such as \"broker: URL\""},
      {"broker: sqs://:secret@h:6379\n",
       ":1: broker: sqs:// is not supported as a broker by this version; "
       "supported are amqp://, amqps://, redis://, rediss://, redis+socket:// "
       "and memory://"},
      {"result_backend: mongodb://u:secret@h\n",
       ":1: result_backend: mongodb:// is not supported as a result "
       "backend by this version; supported are redis://, rediss://, "
       "redis+socket://, amqp://, amqps:// and memory://"},
      {"broker: localhost\n",
       ":1: broker: expected a URL, found \"localhost\"; supported "
       "are amqp://, amqps://, redis://, rediss://, redis+socket:// and "
       "memory://"},
      {"broker: amqp://\n",
       ":1: broker: the URL names no host; supported are amqp://, amqps://, "
       "redis://, rediss://, redis+socket:// and memory://"},
      {"broker: amqp://a,amqp://b\n",
       ":1: broker: several URLs are given, and this version takes "
       "one; supported are amqp://, amqps://, redis://, rediss://, "
       "redis+socket:// and memory://"},
      {"redis:\n  lease: 0\n",
       ":2: redis.lease: expected a whole number of seconds from 1 to 3600, "
       "found \"0\""},
      {"redis:\n  delayed_tasks_poll_period: 20ms\n",
       ":2: redis.delayed_tasks_poll_period: expected a whole number of "
       "milliseconds, 0 or more, found \"20ms\""},
      {"redis:\n  queues: mails\n",
       ":2: redis.queues: expected a list of texts of 1 to 255 bytes, found "
       "\"mails\""}};
  for (const WrongFile& wrong : kFiles) {
    absl::Status status = LoadFile(wrong.text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong.text;
    EXPECT_EQ(std::string(status.message()), Named(wrong.error));
  }
}

TEST_F(ConfigTest, BadYamlNamesTheLine) {
  absl::StatusOr<LoadedConfig> loaded = LoadFile("a: 1\nb: [1, 2\n");
  EXPECT_THAT(std::string(loaded.status().message()),
              testing::StartsWith(Named(":3: no valid YAML: ")));
}

TEST_F(ConfigTest, KeysOfTheRedisBroker) {
  absl::StatusOr<LoadedConfig> loaded = LoadFile(
      "broker: redis://h\n"
      "redis:\n"
      "  delayed_tasks_key: later\n"
      "  normal_tasks_poll_period: 250\n"
      "  delayed_tasks_poll_period: 0\n"
      "  lease: 7\n"
      "  queues: [mails, reports]\n");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->warnings, ::testing::IsEmpty());
  const RedisOptions& redis = loaded->options.redis;
  EXPECT_EQ(redis.delayed_tasks_key, "later");
  EXPECT_EQ(redis.normal_tasks_poll_period, absl::Milliseconds(250));
  EXPECT_EQ(redis.delayed_tasks_poll_period, absl::Milliseconds(500));
  EXPECT_EQ(redis.lease, absl::Seconds(7));
  EXPECT_THAT(redis.queues, ::testing::ElementsAre("mails", "reports"));

  environment_["PENSTOCK_REDIS_QUEUES"] = "a,b";
  loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->options.redis.queues, ::testing::ElementsAre("a", "b"));
}

TEST_F(ConfigTest, MissingFileIsAnError) {
  absl::StatusOr<LoadedConfig> loaded = Load("/nowhere/config.yml");
  EXPECT_EQ(loaded.status().message(),
            "/nowhere/config.yml: cannot be read: No such file or directory");
}

TEST_F(ConfigTest, ErrorsNameVariableOrFlag) {
  environment_["PENSTOCK_AMQP_PREFETCH_COUNT"] = "x";
  EXPECT_THAT(std::string(Load().status().message()),
              HasSubstr("PENSTOCK_AMQP_PREFETCH_COUNT: amqp.prefetch_count: "
                        "expected a whole number from 0 to 65535"));
  environment_.clear();
  flags_["broker"] = "sqs://h";
  EXPECT_THAT(std::string(Load().status().message()),
              HasSubstr("--broker: broker: sqs:// is not supported"));
  flags_ = {{"brokre", "x"}};
  EXPECT_EQ(Load().status().message(), "--brokre: there is no such setting");
}

// What the file says does not matter where something stronger overrides it.
TEST_F(ConfigTest, OnlyTheUrlThatCountsIsChecked) {
  flags_["broker"] = "amqp://h";
  EXPECT_TRUE(LoadFile("broker: sqs://h\n").ok());
}

TEST_F(ConfigTest, PasswordsNeverAppear) {
  for (const char* text : {
           "broker: amqp:/u:secret@h\n",
           "result_backend: secret@h:6379\n",
           "result_backend: http://u:secret@h\n",
           "listen: amqp://u:secret@h/vhost\n",
           "amqp:\n  prefetch_count: amqp://u:secret@h\n",
           "broker: amqp://u:sec@secret@h,amqp://u:secret@h2\n",
           "amqp: amqp://u:secret@h\n",
           "'amqp://u:secret@h': 1\n",
           "lock: redis://:secret@h\nredis:\n  sentinel_password: secret\n",
       }) {
    absl::StatusOr<LoadedConfig> loaded = LoadFile(text);
    std::string shown = loaded.ok() ? testing::PrintToString(loaded->warnings)
                                    : std::string(loaded.status().message());
    EXPECT_THAT(shown, HasSubstr(path_)) << text;
    EXPECT_THAT(shown, Not(HasSubstr("secret"))) << text;
  }
}

TEST(RedactUrlTest, HidesThePasswordAndNothingElse) {
  EXPECT_EQ(RedactUrl("amqp://guest:guest@localhost:5672/v"),
            "amqp://guest:***@localhost:5672/v");
  EXPECT_EQ(RedactUrl("amqp://guest@localhost"), "amqp://guest@localhost");
  EXPECT_EQ(RedactUrl("redis://:pw@localhost:6379/1"),
            "redis://:***@localhost:6379/1");
  EXPECT_EQ(RedactUrl("redis://pw@localhost:6379"),
            "redis://***@localhost:6379");
  EXPECT_EQ(RedactUrl("rediss://u:pw@h"), "rediss://u:***@h");
  EXPECT_EQ(RedactUrl("amqps://u:pw@h/v"), "amqps://u:***@h/v");
  EXPECT_EQ(RedactUrl("redis+socket://p:w@/run/r.sock:/1"),
            "redis+socket://***@/run/r.sock:/1");
  EXPECT_EQ(RedactUrl("redis://localhost:6379"), "redis://localhost:6379");
  EXPECT_EQ(RedactUrl("amqp://u:p@ss/w@h/v"), "amqp://u:***@h/v");
  EXPECT_EQ(RedactUrl("redis://h/0?password=pw&db=1"),
            "redis://h/0?password=***&db=1");
  EXPECT_EQ(RedactUrl("memory://"), "memory://");
  EXPECT_EQ(RedactUrl(""), "");
}

// The table of the code is the table of the document.
TEST(ConfigKeysTest, EveryKeyIsInTheDocument) {
  std::ifstream in(PENSTOCK_SOURCE_DIR "/docs/configuration.md");
  std::stringstream text;
  text << in.rdbuf();
  ASSERT_TRUE(in) << "docs/configuration.md cannot be read";
  for (const ConfigKey& key : ConfigKeys()) {
    std::string row =
        key.used ? absl::StrCat("| `", key.name, "` | ", key.type, " | ",
                                key.standard, " | ", key.meaning, " |\n")
                 : absl::StrCat("| `", key.name, "` | ", key.meaning, " |\n");
    EXPECT_TRUE(absl::StrContains(text.str(), row)) << "missing: " << row;
  }
}

TEST(ConfigKeysTest, NamesInEnvironmentAndFlagsFollowFromTheKey) {
  EXPECT_EQ(EnvironmentName({.name = "amqp.queue_declare_args"}),
            "PENSTOCK_AMQP_QUEUE_DECLARE_ARGS");
  EXPECT_EQ(FlagName({.name = "amqp.queue_declare_args"}),
            "amqp_queue_declare_args");
}

}  // namespace
}  // namespace penstock
