// Requests as they come -> tasks or every bad field; states and errors as they
// go. No network.

#include "gateway/convert.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "queue/errors.h"
#include "queue/policy.h"
#include "queue/next_steps.h"
#include "queue/wire/task_json.h"
#include "queue/workflow.h"

namespace penstock {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

const absl::Time kNow = absl::FromUnixMillis(1'800'000'000'123);

// Counts the ids that it makes.
struct World {
  int uuids = 0;
  Intake intake{.now = kNow,
                .default_queue = "machinery_tasks",
                .new_uuid = [this] { return absl::StrCat("uuid-", ++uuids); }};
};

v1::Task Named(const std::string& name) {
  v1::Task task;
  task.set_name(name);
  return task;
}

v1::SendTaskRequest Sending(v1::Task task) {
  v1::SendTaskRequest request;
  *request.mutable_task() = std::move(task);
  return request;
}

google::rpc::Status Unpack(const grpc::Status& status) {
  google::rpc::Status out;
  EXPECT_TRUE(out.ParseFromString(status.error_details()));
  return out;
}

template <typename Detail>
std::optional<Detail> Find(const grpc::Status& status) {
  const google::rpc::Status all = Unpack(status);
  for (const auto& any : all.details()) {
    Detail detail;
    if (any.Is<Detail>() && any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

// Path -> description, of an error of INVALID_FIELD.
std::map<std::string, std::string> Violations(const absl::Status& error) {
  std::map<std::string, std::string> all;
  EXPECT_EQ(ReasonOf(error), "INVALID_FIELD") << error;
  const auto bad = Find<google::rpc::BadRequest>(StatusOf(error));
  if (!bad.has_value()) return all;
  for (const auto& violation : bad->field_violations()) {
    all[violation.field()] = violation.description();
  }
  return all;
}

std::vector<std::string> Paths(const absl::Status& error) {
  std::vector<std::string> paths;
  for (const auto& [path, text] : Violations(error)) paths.push_back(path);
  return paths;
}

std::vector<std::string> PathsOf(const v1::Task& task) {
  World world;
  auto call = ReadSendTask(Sending(task), world.intake);
  if (call.ok()) return {};
  return Paths(call.status());
}

Task Accepted(const v1::Task& task) {
  World world;
  auto call = ReadSendTask(Sending(task), world.intake);
  EXPECT_TRUE(call.ok()) << call.status();
  return call.ok() ? call->task : Task();
}

// ---- values ---------------------------------------------------------------

v1::Value Int(int64_t value, const std::string& type = "") {
  v1::Value out;
  out.set_int_value(value);
  out.set_type(type);
  return out;
}
v1::Value Uint(uint64_t value, const std::string& type = "") {
  v1::Value out;
  out.set_uint_value(value);
  out.set_type(type);
  return out;
}
v1::Value Float(double value, const std::string& type = "") {
  v1::Value out;
  out.set_float_value(value);
  out.set_type(type);
  return out;
}
v1::Value Ints(std::vector<int64_t> values, const std::string& type = "") {
  v1::Value out;
  for (int64_t value : values) out.mutable_ints()->add_values(value);
  out.mutable_ints();  // set, even when empty
  out.set_type(type);
  return out;
}
v1::Value Uints(std::vector<uint64_t> values, const std::string& type = "") {
  v1::Value out;
  for (uint64_t value : values) out.mutable_uints()->add_values(value);
  out.mutable_uints();  // set, even when empty
  out.set_type(type);
  return out;
}
v1::Value Floats(std::vector<double> values, const std::string& type = "") {
  v1::Value out;
  for (double value : values) out.mutable_floats()->add_values(value);
  out.mutable_floats();  // set, even when empty
  out.set_type(type);
  return out;
}

struct GoodValue {
  v1::Value in;
  std::string type;
  std::string json;
};

std::vector<GoodValue> GoodValues() {
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr uint64_t kUmax = std::numeric_limits<uint64_t>::max();
  std::vector<GoodValue> all = {
      {Int(kMin), "int64", "-9223372036854775808"},
      {Int(kMax), "int64", "9223372036854775807"},
      {Int(9007199254740993), "int64", "9007199254740993"},
      {Int(kMin, "int"), "int", "-9223372036854775808"},
      {Int(-128, "int8"), "int8", "-128"},
      {Int(127, "int8"), "int8", "127"},
      {Int(-32768, "int16"), "int16", "-32768"},
      {Int(2147483647, "int32"), "int32", "2147483647"},
      {Uint(kUmax), "uint64", "18446744073709551615"},
      {Uint(kUmax, "uint"), "uint", "18446744073709551615"},
      {Uint(255, "uint8"), "uint8", "255"},
      {Uint(65535, "uint16"), "uint16", "65535"},
      {Uint(4294967295, "uint32"), "uint32", "4294967295"},
      {Float(1.5), "float64", "1.5"},
      {Float(1.5, "float32"), "float32", "1.5"},
      {Ints({}), "[]int64", "[]"},
      {Ints({1, -1}), "[]int64", "[1,-1]"},
      {Ints({kMin}, "[]int"), "[]int", "[-9223372036854775808]"},
      {Ints({-128, 127}, "[]int8"), "[]int8", "[-128,127]"},
      {Ints({-32768}, "[]int16"), "[]int16", "[-32768]"},
      {Ints({2147483647}, "[]int32"), "[]int32", "[2147483647]"},
      {Uints({kUmax}), "[]uint64", "[18446744073709551615]"},
      {Uints({kUmax}, "[]uint"), "[]uint", "[18446744073709551615]"},
      {Uints({65535}, "[]uint16"), "[]uint16", "[65535]"},
      {Uints({4294967295}, "[]uint32"), "[]uint32", "[4294967295]"},
      {Floats({0.5, 2}), "[]float64", "[0.5,2]"},
      {Floats({0.5}, "[]float32"), "[]float32", "[0.5]"},
  };
  v1::Value value;
  value.set_bool_value(true);
  all.push_back({value, "bool", "true"});
  value.set_string_value("a<\"\xc3\xa4");
  all.push_back({value, "string", "\"a\\u003c\\\"\xc3\xa4\""});
  value.set_bytes_value(std::string("\0\xff", 2));
  all.push_back({value, "[]byte", "\"AP8=\""});
  value.set_type("[]uint8");
  all.push_back({value, "[]uint8", "\"AP8=\""});
  value.Clear();
  value.mutable_bools()->add_values(true);
  value.mutable_bools()->add_values(false);
  all.push_back({value, "[]bool", "[true,false]"});
  value.mutable_strings()->add_values("x");
  all.push_back({value, "[]string", "[\"x\"]"});
  return all;
}

TEST(ValuesTest, AllTypesAreExactAtTheirEdges) {
  std::vector<std::string> types;
  for (const GoodValue& good : GoodValues()) {
    v1::Task in = Named("f");
    *in.add_args() = good.in;
    const Task task = Accepted(in);
    ASSERT_EQ(task.args.size(), 1u) << good.type;
    EXPECT_EQ(task.args[0].type, good.type);
    EXPECT_EQ(task.args[0].json, good.json);
    types.push_back(good.type);
  }
  std::sort(types.begin(), types.end());
  types.erase(std::unique(types.begin(), types.end()), types.end());
  EXPECT_EQ(types.size(), 29u);
}

TEST(ValuesTest, ResultsComeBackAsTheyWereGiven) {
  for (const GoodValue& good : GoodValues()) {
    TaskState state{.status = Status::kSuccess,
                    .results = {{.type = good.type, .json = good.json}}};
    v1::TaskState out;
    WriteState(state, &out);
    v1::Value expected = good.in;
    expected.set_type(good.type);
    ASSERT_EQ(out.results_size(), 1);
    EXPECT_EQ(out.results(0).SerializeAsString(), expected.SerializeAsString())
        << good.type << " " << out.results(0).DebugString();
  }
}

TEST(ValuesTest, ResultOfAnUnknownTypeIsItsJsonText) {
  TaskState state{.status = Status::kSuccess,
                  .results = {{.type = "main.Point", .json = R"({"X":1})"}}};
  v1::TaskState out;
  WriteState(state, &out);
  EXPECT_EQ(out.results(0).type(), "main.Point");
  EXPECT_EQ(out.results(0).string_value(), R"({"X":1})");
}

TEST(ValuesTest, BadValueNamesItsFieldAndBadTypeTheType) {
  const double nan = std::nan("");
  const double inf = std::numeric_limits<double>::infinity();
  v1::Value string_as_int;
  string_as_int.set_string_value("1");
  string_as_int.set_type("int64");
  const std::vector<std::pair<v1::Value, std::string>> bad = {
      {v1::Value(), "task.args[0]"},
      {Int(128, "int8"), "task.args[0].int_value"},
      {Int(-129, "int8"), "task.args[0].int_value"},
      {Int(32768, "int16"), "task.args[0].int_value"},
      {Int(2147483648, "int32"), "task.args[0].int_value"},
      {Int(1, "uint8"), "task.args[0].type"},
      {Int(1, "string"), "task.args[0].type"},
      {Int(1, "integer"), "task.args[0].type"},
      {Int(1, "[]int64"), "task.args[0].type"},
      {Uint(256, "uint8"), "task.args[0].uint_value"},
      {Uint(65536, "uint16"), "task.args[0].uint_value"},
      {Uint(4294967296, "uint32"), "task.args[0].uint_value"},
      {Uint(1, "int64"), "task.args[0].type"},
      {Float(nan), "task.args[0].float_value"},
      {Float(inf), "task.args[0].float_value"},
      {Float(-inf), "task.args[0].float_value"},
      {Float(1e39, "float32"), "task.args[0].float_value"},
      {Float(1, "int64"), "task.args[0].type"},
      {Ints({1, 128}, "[]int8"), "task.args[0].ints"},
      {Ints({1}, "int8"), "task.args[0].type"},
      {Uints({1, 65536}, "[]uint16"), "task.args[0].uints"},
      {Floats({1, nan}), "task.args[0].floats"},
      {string_as_int, "task.args[0].type"},
  };
  for (const auto& [value, path] : bad) {
    v1::Task in = Named("f");
    *in.add_args() = value;
    EXPECT_THAT(PathsOf(in), ElementsAre(path)) << value.ShortDebugString();
  }
}

// ---- tasks ----------------------------------------------------------------

TEST(TaskTest, FieldsArrive) {
  v1::Task in = Named("add");
  *in.add_args() = Int(1);
  in.mutable_args(0)->set_name("left");
  in.set_id("my-id");
  in.set_routing_key("other");
  in.set_retry_count(3);
  in.set_priority(255);
  in.set_immutable(true);
  (*in.mutable_headers())["traceparent"] = "00-\"x\"";
  in.set_ignore_when_task_not_registered(true);
  const Task task = Accepted(in);
  EXPECT_EQ(task.id, "my-id");
  EXPECT_EQ(task.name, "add");
  EXPECT_EQ(task.args[0].name, "left");
  EXPECT_EQ(task.routing_key, "other");
  EXPECT_EQ(task.retry_count, 3);
  EXPECT_EQ(task.priority, 255);
  EXPECT_TRUE(task.immutable);
  EXPECT_EQ(StringHeader(task, "traceparent"), "00-\"x\"");
  EXPECT_TRUE(task.ignore_when_not_registered);
  EXPECT_FALSE(task.eta.has_value());
}

TEST(TaskTest, IdsAreGivenAndChildrensFollowFromTheirParents) {
  v1::Task in = Named("add");
  *in.add_on_success() = Named("next");
  *in.mutable_on_success(0)->add_on_error() = Named("sorry");
  const Task task = Accepted(in);
  EXPECT_EQ(task.id, "task_uuid-1");
  const Task child = DecodeTask(task.on_success.at(0)).value();
  EXPECT_EQ(child.id, ChildId("task_uuid-1", "on_success", 0));
  const Task grandchild = DecodeTask(child.on_error.at(0)).value();
  EXPECT_EQ(grandchild.id, ChildId(child.id, "on_error", 0));
  EXPECT_EQ(grandchild.name, "sorry");
}

TEST(TaskTest, AllBadFieldsAreNamedAtOnce) {
  v1::Task in;
  in.set_id("two words");
  in.set_routing_key(std::string(256, 'r'));
  in.set_retry_count(-1);
  in.mutable_retry_delay()->set_seconds(-1);
  in.mutable_delay()->set_seconds(-1);
  in.set_priority(256);
  *in.add_args() = Int(1);
  *in.add_args() = Int(300, "int8");
  (*in.mutable_headers())["penstock-attempt"] = "7";
  (*in.mutable_headers())["CC"] = "elsewhere";
  (*in.mutable_headers())[""] = "no key";
  (*in.mutable_headers())["long"] = std::string(1021, 'x');
  *in.add_on_success() = v1::Task();
  *in.add_on_error() = Named(std::string(256, 'n'));
  EXPECT_THAT(
      PathsOf(in),
      UnorderedElementsAre(
          "task.name", "task.id", "task.routing_key", "task.retry_count",
          "task.retry_delay", "task.delay", "task.priority",
          "task.args[1].int_value", "task.headers[\"penstock-attempt\"]",
          "task.headers[\"CC\"]", "task.headers[\"\"]",
          "task.headers[\"long\"]", "task.on_success[0].name",
          "task.on_error[0].name"));
}

TEST(TaskTest, LimitsAreInclusive) {
  v1::Task in = Named(std::string(255, 'n'));
  in.set_id(std::string(200, 'i'));
  in.set_routing_key(std::string(255, 'r'));
  in.set_retry_count(1'000'000);
  in.mutable_retry_delay()->set_seconds(30 * 24 * 3600);
  for (int i = 0; i < 63; ++i) {
    (*in.mutable_headers())[absl::StrCat("h", i)] = "v";
  }
  (*in.mutable_headers())["long"] = std::string(1020, 'x');
  EXPECT_THAT(PathsOf(in), IsEmpty());

  in.set_name(in.name() + "n");
  in.set_id(in.id() + "i");
  in.set_routing_key(in.routing_key() + "r");
  in.set_retry_count(1'000'001);
  in.mutable_retry_delay()->set_nanos(1);
  (*in.mutable_headers())["one more"] = "v";
  EXPECT_THAT(PathsOf(in), UnorderedElementsAre(
                               "task.name", "task.id", "task.routing_key",
                               "task.retry_count", "task.retry_delay",
                               "task.headers"));
}

TEST(TaskTest, ReservedIdsAreRefused) {
  for (const char* id : {"penstock:x", "machinery_lock_x", "TriggerChordMutexx",
                         "delayed_tasks", "machinery_tasks"}) {
    v1::Task in = Named("f");
    in.set_id(id);
    EXPECT_THAT(PathsOf(in), ElementsAre("task.id")) << id;
  }
}

TEST(TaskTest, MissingTaskIsNamed) {
  World world;
  auto call = ReadSendTask(v1::SendTaskRequest(), world.intake);
  EXPECT_THAT(Paths(call.status()), ElementsAre("task"));
}

TEST(TaskTest, NestsThirtyTwoLevelsDeepAndNoDeeper) {
  for (const bool errors : {false, true}) {
    v1::Task in = Named("f");
    v1::Task* deepest = &in;
    auto nest = [&] {
      deepest = errors ? deepest->add_on_error() : deepest->add_on_success();
      deepest->set_name("f");
    };
    for (int level = 0; level < 32; ++level) nest();
    EXPECT_THAT(PathsOf(in), IsEmpty());
    nest();
    const auto paths = PathsOf(in);
    ASSERT_EQ(paths.size(), 1u);
    EXPECT_THAT(paths[0], StartsWith(errors ? "task.on_error[0].on_error[0]"
                                            : "task.on_success[0].on_success"));
  }
}

TEST(TaskTest, NoticesIdsThatRepeatAnywhereInTheRequest) {
  v1::Task in = Named("f");
  in.set_id("one");
  *in.add_on_success() = Named("g");
  in.mutable_on_success(0)->set_id("one");
  World world;
  auto call = ReadSendTask(Sending(in), world.intake);
  EXPECT_THAT(Violations(call.status())["task.on_success[0].id"],
              HasSubstr("task.id"));
}

// ---- times ----------------------------------------------------------------

TEST(ScheduleTest, DelayCountsFromNow) {
  v1::Task in = Named("f");
  in.mutable_delay()->set_seconds(5);
  EXPECT_EQ(Accepted(in).eta,
            (ZonedTime{.time = kNow + absl::Seconds(5)}));
}

TEST(ScheduleTest, EtaIsNeverEarlyAndKeptToTheMillisecond) {
  v1::Task in = Named("f");
  in.mutable_eta()->set_seconds(1'800'000'001);
  in.mutable_eta()->set_nanos(1);
  EXPECT_EQ(Accepted(in).eta,
            (ZonedTime{.time = absl::FromUnixMillis(1'800'000'001'001)}));
}

TEST(ScheduleTest, PastAndZeroMeanAtOnce) {
  v1::Task in = Named("f");
  in.mutable_delay();
  EXPECT_FALSE(Accepted(in).eta.has_value());
  in.mutable_eta()->set_seconds(1);
  EXPECT_FALSE(Accepted(in).eta.has_value());
}

TEST(ScheduleTest, ImpossibleTimesAreRefused) {
  v1::Task in = Named("f");
  in.mutable_eta()->set_seconds(253'402'300'800);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.eta"));
  in.mutable_eta()->set_seconds(0);
  in.mutable_eta()->set_nanos(-1);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.eta"));
  in.mutable_delay()->set_seconds(315'576'000'000);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.delay"));
  in.mutable_delay()->set_seconds(1);
  in.mutable_delay()->set_nanos(-1);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.delay"));
}

TEST(ScheduleTest, FirstRetryWaitsForTheFibonacciNumberThatIsEnough) {
  // Asked for -> first wait.
  const std::map<int64_t, int64_t> waits = {{0, 1},  {1, 1}, {2, 2}, {3, 3},
                                            {4, 5},  {5, 5}, {6, 8}, {8, 8},
                                            {9, 13}, {60, 89}};
  for (const auto& [asked, first] : waits) {
    v1::Task in = Named("f");
    in.mutable_retry_delay()->set_seconds(asked);
    EXPECT_EQ(NextFibonacci(Accepted(in).retry_timeout_s), first) << asked;
  }
  v1::Task in = Named("f");
  in.mutable_retry_delay()->set_seconds(2);
  in.mutable_retry_delay()->set_nanos(1);
  EXPECT_EQ(NextFibonacci(Accepted(in).retry_timeout_s), 3);
}

// ---- sizes ----------------------------------------------------------------

v1::Value Text(size_t bytes) {
  v1::Value value;
  value.set_string_value(std::string(bytes, 'x'));
  return value;
}

TEST(PolicyTest, TimeoutExpiryAndBackoffRideInHeaders) {
  v1::Task in = Named("add");
  in.mutable_timeout()->set_seconds(5);
  in.mutable_expire_after()->set_seconds(60);
  in.mutable_delay()->set_seconds(59);
  in.mutable_exponential_backoff()->mutable_first_delay()->set_seconds(2);
  in.mutable_exponential_backoff()->set_jitter(0.25);
  const Task task = Accepted(in);
  EXPECT_EQ(TimeoutOf(task), absl::Seconds(5));
  EXPECT_EQ(ExpiryOf(task), kNow + absl::Minutes(1));
  EXPECT_EQ(BackoffOf(task),
            (ExponentialBackoff{.first = absl::Seconds(2),
                                .factor = 2,
                                .max = absl::Hours(1),
                                .jitter = 0.25}));
}

TEST(PolicyTest, ResultTtlRidesInAHeaderWithinItsBounds) {
  v1::Task in = Named("add");
  in.mutable_result_ttl()->set_seconds(1);
  EXPECT_EQ(ResultTtlOf(Accepted(in)), absl::Seconds(1));
  in.mutable_result_ttl()->set_seconds(365 * 24 * 3600);
  EXPECT_EQ(ResultTtlOf(Accepted(in)), absl::Hours(365 * 24));
  in.mutable_result_ttl()->set_nanos(1);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.result_ttl"));
  in.mutable_result_ttl()->set_seconds(0);
  in.mutable_result_ttl()->set_nanos(999'999'999);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.result_ttl"));
  in.mutable_result_ttl()->set_seconds(-1);
  in.mutable_result_ttl()->set_nanos(0);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.result_ttl"));
}

TEST(PolicyTest, ResultsOfAWorkflowLiveForAnHourAtLeast) {
  World world;
  v1::Task brief = Named("add");
  brief.mutable_result_ttl()->set_seconds(3599);
  v1::Task hour = Named("add");
  hour.mutable_result_ttl()->set_seconds(3600);
  v1::SendChainRequest chain;
  *chain.add_tasks() = hour;
  *chain.add_tasks() = brief;
  *chain.mutable_tasks(1)->add_on_success() = brief;
  EXPECT_THAT(Paths(ReadSendChain(chain, world.intake).status()),
              ElementsAre("tasks[1].on_success[0].result_ttl",
                          "tasks[1].result_ttl"));
  v1::SendChordRequest chord;
  *chord.add_tasks() = brief;
  *chord.mutable_callback() = brief;
  EXPECT_THAT(Paths(ReadSendChord(chord, world.intake).status()),
              ElementsAre("callback.result_ttl", "tasks[0].result_ttl"));
}

TEST(RepeatTest, AWaitIsNoPartOfWhatIsSent) {
  World world;
  world.intake.repeats = true;
  v1::SendTaskRequest request = Sending(Named("add"));
  request.set_request_id("r");
  const auto call = ReadSendTask(request, world.intake);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(WaitOf(request), absl::ZeroDuration());
  request.mutable_wait()->set_seconds(61);
  const auto waiting = ReadSendTask(request, world.intake);
  ASSERT_TRUE(waiting.ok()) << waiting.status();
  EXPECT_NE(waiting->payload_hash, "");
  EXPECT_EQ(waiting->payload_hash, call->payload_hash);
  EXPECT_EQ(WaitOf(request), absl::Seconds(60));
}

TEST(ScheduleTest, ABadWaitOfASendIsNamed) {
  World world;
  v1::SendTaskRequest request = Sending(Named("add"));
  request.mutable_wait()->set_nanos(-1);
  EXPECT_THAT(Paths(ReadSendTask(request, world.intake).status()),
              ElementsAre("wait"));
  request.mutable_wait()->set_nanos(1'000'000'000);
  EXPECT_THAT(Paths(ReadSendTask(request, world.intake).status()),
              ElementsAre("wait"));
}

TEST(RepeatTest, BadRequestIdIsNamedInEverySend) {
  World world;
  v1::SendTaskRequest task = Sending(Named("add"));
  task.set_request_id("two words");
  EXPECT_THAT(Paths(ReadSendTask(task, world.intake).status()),
              ElementsAre("request_id"));
  v1::SendChainRequest chain;
  *chain.add_tasks() = Named("add");
  chain.set_request_id(std::string(201, 'r'));
  EXPECT_THAT(Paths(ReadSendChain(chain, world.intake).status()),
              ElementsAre("request_id"));
  v1::SendGroupRequest group;
  *group.add_tasks() = Named("add");
  group.set_request_id("penstock:r");
  EXPECT_THAT(Paths(ReadSendGroup(group, world.intake).status()),
              ElementsAre("request_id"));
  v1::SendChordRequest chord;
  *chord.add_tasks() = Named("add");
  *chord.mutable_callback() = Named("add");
  chord.set_request_id("a/b");
  EXPECT_THAT(Paths(ReadSendChord(chord, world.intake).status()),
              ElementsAre("request_id"));
}

TEST(PolicyTest, BadPoliciesAreNamed) {
  v1::Task in = Named("add");
  in.mutable_timeout();
  in.mutable_expire_after()->set_seconds(59);
  in.mutable_delay()->set_seconds(59);
  in.mutable_retry_delay()->set_seconds(1);
  v1::ExponentialBackoff& backoff = *in.mutable_exponential_backoff();
  backoff.mutable_first_delay()->set_seconds(2);
  backoff.mutable_max_delay()->set_seconds(1);
  backoff.set_factor(0.5);
  backoff.set_jitter(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(PathsOf(in),
              ElementsAre("task.expire_after", "task.exponential_backoff",
                          "task.exponential_backoff.factor",
                          "task.exponential_backoff.jitter",
                          "task.exponential_backoff.max_delay",
                          "task.timeout"));
  v1::Task empty = Named("add");
  empty.mutable_exponential_backoff();
  EXPECT_THAT(PathsOf(empty),
              ElementsAre("task.exponential_backoff.first_delay"));
  v1::Task long_one = Named("add");
  long_one.mutable_timeout()->set_seconds(30 * 24 * 3600 + 1);
  EXPECT_THAT(PathsOf(long_one), ElementsAre("task.timeout"));
}

TEST(SizeTest, ArgumentsOverOneMebibyteAreTooLarge) {
  // [{"Name":"","Type":"string","Value":"..."}]
  const size_t around = 2 + sizeof(R"({"Name":"","Type":"string","Value":""})") - 1;
  v1::Task in = Named("f");
  *in.add_args() = Text((1 << 20) - around);
  const Task task = Accepted(in);
  EXPECT_EQ(task.args.size(), 1u);
  *in.mutable_args(0) = Text((1 << 20) - around + 1);
  World world;
  auto call = ReadSendTask(Sending(in), world.intake);
  EXPECT_EQ(call.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(call.status()), "PAYLOAD_TOO_LARGE");
  EXPECT_EQ(MetadataOf(call.status())["field"], "task.args");
}

TEST(SizeTest, BadFieldsComeBeforeSizes) {
  v1::Task in;
  *in.add_args() = Text(2 << 20);
  EXPECT_THAT(PathsOf(in), ElementsAre("task.name"));
}

TEST(SizeTest, ChordCountsTheCopiesOfItsCallback) {
  v1::SendChordRequest request;
  for (int i = 0; i < 64; ++i) *request.add_tasks() = Named("f");
  *request.mutable_callback() = Named("g");
  *request.mutable_callback()->add_args() = Text((1 << 20) - 100);
  World world;
  auto call = ReadSendChord(request, world.intake);
  EXPECT_EQ(ReasonOf(call.status()), "PAYLOAD_TOO_LARGE");
  request.mutable_tasks()->DeleteSubrange(0, 4);
  EXPECT_TRUE(ReadSendChord(request, world.intake).ok());
}

TEST(SizeTest, ChainTravelsAsOneMessage) {
  v1::SendChainRequest request;
  for (int i = 0; i < 17; ++i) {
    *request.add_tasks() = Named("f");
    *request.mutable_tasks(i)->add_args() = Text((1 << 20) - 100);
  }
  World world;
  auto call = ReadSendChain(request, world.intake);
  EXPECT_EQ(ReasonOf(call.status()), "PAYLOAD_TOO_LARGE");
}

TEST(SizeTest, MillionsOfTinyNestedTasksAreStopped) {
  v1::Task in = Named("f");
  for (int i = 0; i < 200'000; ++i) in.add_on_success()->set_name("f");
  World world;
  auto call = ReadSendTask(Sending(in), world.intake);
  EXPECT_EQ(ReasonOf(call.status()), "PAYLOAD_TOO_LARGE");
}

// ---- chains, groups, chords -----------------------------------------------

TEST(ChainTest, LinksAreReadInOrder) {
  v1::SendChainRequest request;
  *request.add_tasks() = Named("a");
  request.mutable_tasks(0)->mutable_delay()->set_seconds(1);
  *request.add_tasks() = Named("b");
  *request.mutable_tasks(1)->add_on_success() = Named("after");
  World world;
  auto call = ReadSendChain(request, world.intake);
  ASSERT_TRUE(call.ok()) << call.status();
  ASSERT_EQ(call->links.size(), 2u);
  EXPECT_EQ(call->links[0].id, "task_uuid-1");
  EXPECT_TRUE(call->links[0].eta.has_value());
  EXPECT_EQ(call->links[1].name, "b");
  EXPECT_EQ(call->links[1].on_success.size(), 1u);
}

TEST(ChainTest, OnlyTheEndsMayHaveWhatTheMiddleMayNot) {
  v1::SendChainRequest request;
  for (int i = 0; i < 2; ++i) {
    *request.add_tasks() = Named("f");
    request.mutable_tasks(i)->mutable_delay()->set_seconds(1);
    *request.mutable_tasks(i)->add_on_success() = Named("g");
  }
  World world;
  auto call = ReadSendChain(request, world.intake);
  EXPECT_THAT(Paths(call.status()),
              UnorderedElementsAre("tasks[0].on_success", "tasks[1].delay"));
}

TEST(ChainTest, CountsAreChecked) {
  World world;
  v1::SendChainRequest request;
  EXPECT_THAT(Paths(ReadSendChain(request, world.intake).status()),
              ElementsAre("tasks"));
  for (int i = 0; i < 1000; ++i) *request.add_tasks() = Named("f");
  EXPECT_TRUE(ReadSendChain(request, world.intake).ok());
  *request.add_tasks() = Named("f");
  EXPECT_THAT(Paths(ReadSendChain(request, world.intake).status()),
              ElementsAre("tasks"));
}

TEST(GroupTest, MembersAndIdsAreGiven) {
  v1::SendGroupRequest request;
  *request.add_tasks() = Named("a");
  *request.add_tasks() = Named("b");
  request.set_send_concurrency(7);
  World world;
  auto call = ReadSendGroup(request, world.intake);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->group.id, "group_uuid-1");
  EXPECT_EQ(call->group.members[0].id, "task_uuid-2");
  EXPECT_EQ(call->group.members[1].id, "task_uuid-3");
  EXPECT_EQ(call->group.send_concurrency, 7);
  EXPECT_FALSE(call->group.callback.has_value());
}

TEST(GroupTest, CountsAreChecked) {
  World world;
  v1::SendGroupRequest request;
  EXPECT_THAT(Paths(ReadSendGroup(request, world.intake).status()),
              ElementsAre("tasks"));
  for (int i = 0; i < 10'000; ++i) request.add_tasks()->set_name("f");
  EXPECT_TRUE(ReadSendGroup(request, world.intake).ok());
  request.add_tasks()->set_name("f");
  EXPECT_THAT(Paths(ReadSendGroup(request, world.intake).status()),
              ElementsAre("tasks"));
}

TEST(GroupTest, BadFieldsOfMembersAndGroup) {
  v1::SendGroupRequest request;
  request.set_group_id("no spaces");
  request.set_send_concurrency(-1);
  for (int i = 0; i < 4; ++i) *request.add_tasks() = Named("f");
  *request.mutable_tasks(3)->add_args() = Int(1 << 20, "int16");
  request.mutable_tasks(1)->set_id("same");
  request.mutable_tasks(2)->set_id("same");
  World world;
  EXPECT_THAT(Paths(ReadSendGroup(request, world.intake).status()),
              UnorderedElementsAre("group_id", "send_concurrency",
                                   "tasks[2].id", "tasks[3].args[0].int_value"));
}

TEST(GroupTest, GroupIdAndTaskIdsMustDiffer) {
  v1::SendGroupRequest request;
  request.set_group_id("same");
  *request.add_tasks() = Named("f");
  request.mutable_tasks(0)->set_id("same");
  World world;
  EXPECT_THAT(Paths(ReadSendGroup(request, world.intake).status()),
              ElementsAre("tasks[0].id"));
}

TEST(ChordTest, CallbackIsRequiredAndHasNoSchedule) {
  v1::SendChordRequest request;
  *request.add_tasks() = Named("f");
  World world;
  EXPECT_THAT(Paths(ReadSendChord(request, world.intake).status()),
              ElementsAre("callback"));
  request.mutable_callback()->mutable_eta()->set_seconds(1);
  (*request.mutable_callback()->mutable_headers())["penstock-x"] = "";
  EXPECT_THAT(Paths(ReadSendChord(request, world.intake).status()),
              UnorderedElementsAre("callback.name", "callback.eta",
                                   "callback.headers[\"penstock-x\"]"));
}

TEST(ChordTest, WhatIsSentOnFailureIsReadLikeATask) {
  World world;
  v1::SendChordRequest request;
  request.set_group_id("mine");
  *request.add_tasks() = Named("f");
  *request.mutable_callback() = Named("g");
  const auto without = ReadSendChord(request, world.intake);
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_FALSE(without->group.on_failure.has_value());
  *request.mutable_on_failure() = Named("h");
  const auto with = ReadSendChord(request, world.intake);
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_EQ(with->group.on_failure->id, ChildId("mine", "on_failure", 0));
  EXPECT_NE(with->payload_hash, without->payload_hash);
  request.mutable_on_failure()->clear_name();
  request.mutable_on_failure()->mutable_delay()->set_seconds(1);
  EXPECT_THAT(Paths(ReadSendChord(request, world.intake).status()),
              UnorderedElementsAre("on_failure.name", "on_failure.delay"));
}

TEST(UniqueKeyTest, IsForWhatTheCallSends) {
  World world;
  v1::Task task = Named("f");
  task.set_unique_key(std::string(200, 'k'));
  EXPECT_EQ(UniqueKeyOf(Accepted(task)), std::string(200, 'k'));
  task.set_unique_key(std::string(201, 'k'));
  EXPECT_THAT(PathsOf(task), ElementsAre("task.unique_key"));
  task.clear_unique_key();
  *task.add_on_success() = Named("g");
  task.mutable_on_success(0)->set_unique_key("k");
  EXPECT_THAT(PathsOf(task), ElementsAre("task.on_success[0].unique_key"));

  v1::SendChordRequest chord;
  for (int i = 0; i < 2; ++i) {
    *chord.add_tasks() = Named("f");
    chord.mutable_tasks(i)->set_unique_key("same");
  }
  *chord.mutable_callback() = Named("g");
  chord.mutable_callback()->set_unique_key("k");
  EXPECT_THAT(Paths(ReadSendChord(chord, world.intake).status()),
              UnorderedElementsAre("tasks[1].unique_key",
                                   "callback.unique_key"));
}

TEST(ChordTest, CallbackGetsAnId) {
  v1::SendChordRequest request;
  *request.add_tasks() = Named("f");
  *request.mutable_callback() = Named("g");
  World world;
  auto call = ReadSendChord(request, world.intake);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_THAT(call->group.callback->id, StartsWith("chord_"));
}

// A repeat after a lost answer must name the same tasks.
TEST(RepeatTest, IdsFollowFromTheIdThatTheCallerGave) {
  World world;
  v1::SendChordRequest chord;
  chord.set_group_id("mine");
  *chord.add_tasks() = Named("f");
  *chord.mutable_callback() = Named("g");
  auto first = ReadSendChord(chord, world.intake);
  auto second = ReadSendChord(chord, world.intake);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->group.members, second->group.members);
  EXPECT_EQ(first->group.callback, second->group.callback);

  v1::SendChainRequest chain;
  *chain.add_tasks() = Named("f");
  *chain.add_tasks() = Named("g");
  chain.mutable_tasks(0)->set_id("mine");
  auto once = ReadSendChain(chain, world.intake);
  auto again = ReadSendChain(chain, world.intake);
  ASSERT_TRUE(once.ok() && again.ok());
  EXPECT_EQ(once->links, again->links);
}

TEST(RepeatTest, AnIdMadeForThisCallAloneHasNoHash) {
  World world;
  EXPECT_EQ(ReadSendTask(Sending(Named("f")), world.intake)->payload_hash, "");
  v1::Task with_id = Named("f");
  with_id.set_id("mine");
  EXPECT_NE(ReadSendTask(Sending(with_id), world.intake)->payload_hash, "");
  v1::BatchSendTasksRequest batch;
  *batch.add_tasks() = Named("f");
  EXPECT_EQ(ReadBatchSendTasks(batch, world.intake)->payload_hash, "");
  world.intake.repeats = true;
  EXPECT_NE(ReadSendTask(Sending(Named("f")), world.intake)->payload_hash, "");
  EXPECT_NE(ReadBatchSendTasks(batch, world.intake)->payload_hash, "");
}

TEST(RepeatTest, HashIsOfTheRequestNotOfTheTimeOrTheMapsOrder) {
  World world;
  world.intake.repeats = true;
  v1::Task in = Named("f");
  in.mutable_delay()->set_seconds(5);
  v1::Task other = in;
  for (int i = 0; i < 40; ++i) {
    (*in.mutable_headers())[absl::StrCat("h", i)] = "v";
    (*other.mutable_headers())[absl::StrCat("h", 39 - i)] = "v";
  }
  auto first = ReadSendTask(Sending(in), world.intake);
  world.intake.now += absl::Seconds(1);
  auto second = ReadSendTask(Sending(other), world.intake);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->task.id, second->task.id);
  EXPECT_EQ(first->payload_hash, second->payload_hash);
  other.set_priority(1);
  EXPECT_NE(ReadSendTask(Sending(other), world.intake)->payload_hash,
            first->payload_hash);
}

TEST(RepeatTest, TaskAndGroupOfThatTaskHashApart) {
  World world;
  world.intake.repeats = true;
  v1::SendGroupRequest group;
  *group.add_tasks() = Named("f");
  EXPECT_NE(ReadSendGroup(group, world.intake)->payload_hash,
            ReadSendTask(Sending(Named("f")), world.intake)->payload_hash);
}

// ---- trace contexts -------------------------------------------------------

constexpr char kParent[] =
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceTest, HashDoesNotSeeIt) {
  World world;
  world.intake.repeats = true;
  const v1::SendTaskRequest request = Sending(Named("f"));
  const auto plain = ReadSendTask(request, world.intake);
  world.intake.trace = {.parent = kParent, .state = "a=1"};
  const auto traced = ReadSendTask(request, world.intake);
  ASSERT_TRUE(plain.ok() && traced.ok());
  EXPECT_EQ(StringHeader(traced->task, "traceparent"), kParent);
  EXPECT_EQ(StringHeader(traced->task, "tracestate"), "a=1");
  EXPECT_EQ(plain->payload_hash, traced->payload_hash);
}

TEST(TraceTest, KeepsToTheLimitOfHeaders) {
  World world;
  world.intake.trace = {.parent = kParent, .state = "a=1"};
  v1::Task task = Named("f");
  for (int i = 0; i < 63; ++i) {
    (*task.mutable_headers())[absl::StrCat("h", i)] = "v";
  }
  const Task one_more = ReadSendTask(Sending(task), world.intake)->task;
  EXPECT_EQ(one_more.headers.size(), 64);
  EXPECT_TRUE(one_more.headers.contains("traceparent"));
  (*task.mutable_headers())["h63"] = "v";
  EXPECT_FALSE(ReadSendTask(Sending(task), world.intake)
                   ->task.headers.contains("traceparent"));
}

TEST(TraceTest, CountsInTheSizeOfAMessage) {
  World world;
  v1::Task task = Named("f");
  // 75 kB here, 6 MB in JSON; with a context each, 20 MB.
  for (int i = 0; i < 15'000; ++i) *task.add_on_success() = Named("f");
  ASSERT_TRUE(ReadSendTask(Sending(task), world.intake).ok());
  world.intake.trace = {.parent = kParent, .state = std::string(512, '"')};
  EXPECT_EQ(ReasonOf(ReadSendTask(Sending(task), world.intake).status()),
            "PAYLOAD_TOO_LARGE");
}

TEST(TraceTest, StateMayComeInParts) {
  std::multimap<grpc::string_ref, grpc::string_ref> metadata{
      {"traceparent", kParent}, {"tracestate", "a=1"}, {"tracestate", "b=2"}};
  EXPECT_EQ(ReadTrace(metadata).state, "a=1,b=2");
  metadata.emplace("traceparent", kParent);
  EXPECT_EQ(ReadTrace(metadata).parent, "");  // which one?
  EXPECT_EQ(ReadTrace(metadata).state, "");
}

// ---- reads ----------------------------------------------------------------

TEST(ReadTest, WaitIsCutToAMinute) {
  v1::GetStateRequest request;
  request.set_task_id("x");
  EXPECT_EQ(ReadGetState(request)->wait, absl::ZeroDuration());
  request.mutable_wait()->set_seconds(3600);
  EXPECT_EQ(ReadGetState(request)->wait, absl::Seconds(60));
  request.clear_task_id();
  request.mutable_wait()->set_seconds(-1);
  EXPECT_THAT(Paths(ReadGetState(request).status()),
              UnorderedElementsAre("task_id", "wait"));
}

TEST(ReadTest, IdListsAreChecked) {
  v1::BatchGetStatesRequest batch;
  EXPECT_THAT(Paths(ReadBatchGetStates(batch).status()),
              ElementsAre("task_ids"));
  v1::WatchStateRequest watch;
  for (int i = 0; i < 1000; ++i) watch.add_task_ids("x");
  EXPECT_TRUE(ReadWatchState(watch).ok());
  watch.set_task_ids(7, "");
  EXPECT_THAT(Paths(ReadWatchState(watch).status()),
              ElementsAre("task_ids[7]"));
  watch.add_task_ids("x");
  EXPECT_THAT(Paths(ReadWatchState(watch).status()), ElementsAre("task_ids"));
}

TEST(ReadTest, PageTokensBelongToTheirGroup) {
  v1::GetGroupStateRequest request;
  request.set_group_id("g");
  request.set_page_token(PageToken("g", 40));
  EXPECT_EQ(ReadGetGroupState(request)->page_start, 40u);
  EXPECT_EQ(ReadGetGroupState(request)->page_size, 100u);
  EXPECT_EQ(ReadGetGroupState(request)->wait, absl::ZeroDuration());
  request.set_page_size(5000);
  EXPECT_EQ(ReadGetGroupState(request)->page_size, 1000u);
  request.set_page_size(-1);
  request.set_group_id("h");
  EXPECT_THAT(Paths(ReadGetGroupState(request).status()),
              UnorderedElementsAre("page_size", "page_token"));
  request.set_page_size(0);
  for (const char* token : {"?", "40", "41-", "-", "40-0123456789abcdef"}) {
    request.set_page_token(token);
    EXPECT_THAT(Paths(ReadGetGroupState(request).status()),
                ElementsAre("page_token"))
        << token;
  }
}

// ---- states ---------------------------------------------------------------

TEST(StateTest, WhatIsNotKnownIsUnset) {
  v1::TaskState out;
  WriteState({.task_id = "t", .status = Status::kPending}, &out);
  EXPECT_EQ(out.status(), v1::TASK_STATUS_PENDING);
  EXPECT_FALSE(out.has_create_time());
  EXPECT_FALSE(out.has_start_time());
  EXPECT_FALSE(out.has_finish_time());
  EXPECT_FALSE(out.has_error());
  EXPECT_EQ(out.attempt(), 0);
}

TEST(StateTest, RetryTellsTheLastErrorAndTheNextRun) {
  v1::TaskState out;
  WriteState({.task_id = "t",
              .status = Status::kRetry,
              .error = "oops",
              .attempt = 2,
              .error_type = "exception",
              .next_attempt_time = kNow},
             &out);
  EXPECT_EQ(out.error().message(), "oops");
  EXPECT_EQ(out.error().type(), "exception");
  EXPECT_TRUE(out.error().retryable());
  EXPECT_EQ(out.attempt(), 2);
  EXPECT_EQ(out.next_attempt_time().seconds(), 1'800'000'000);
  EXPECT_EQ(out.next_attempt_time().nanos(), 123'000'000);
}

TEST(StateTest, UnknownStatusKeepsItsText) {
  v1::TaskState out;
  WriteState({.status = Status::kUnknown, .raw_status = "REVOKED"}, &out);
  EXPECT_EQ(out.status(), v1::TASK_STATUS_UNSPECIFIED);
  EXPECT_EQ(out.raw_status(), "REVOKED");
}

// ---- errors ---------------------------------------------------------------

TEST(StatusTest, EveryErrorSaysItsReason) {
  const grpc::Status status = StatusOf(
      MakeError(absl::StatusCode::kAlreadyExists, reason::kTaskIdExists,
                "another task has this id", {{"task_id", "t"}}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(status.error_message(), "another task has this id");
  const auto info = Find<google::rpc::ErrorInfo>(status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "TASK_ID_EXISTS");
  EXPECT_EQ(info->domain(), "penstock.dev");
  EXPECT_EQ(info->metadata().at("task_id"), "t");
}

TEST(StatusTest, DetailsGoWithTheReason) {
  auto with = [](absl::StatusCode code, std::string_view why,
                 const char* key = "", const char* value = "") {
    return StatusOf(MakeError(code, why, "text", {{key, value}}));
  };
  using Code = absl::StatusCode;
  EXPECT_EQ(Find<google::rpc::ResourceInfo>(
                with(Code::kNotFound, reason::kTaskNotFound, "task_id", "t"))
                ->resource_name(),
            "t");
  EXPECT_EQ(Find<google::rpc::ResourceInfo>(
                with(Code::kNotFound, reason::kGroupNotFound, "group_id", "g"))
                ->resource_type(),
            "penstock.v1.Group");
  EXPECT_EQ(Find<google::rpc::PreconditionFailure>(
                with(Code::kFailedPrecondition, reason::kQueueNotFound))
                ->violations(0)
                .type(),
            "QUEUE_NOT_FOUND");
  const auto full = with(Code::kResourceExhausted, reason::kTooManyInFlight);
  EXPECT_TRUE(Find<google::rpc::QuotaFailure>(full).has_value());
  EXPECT_TRUE(Find<google::rpc::RetryInfo>(full).has_value());
  const auto large = with(Code::kResourceExhausted, reason::kPayloadTooLarge);
  EXPECT_TRUE(Find<google::rpc::QuotaFailure>(large).has_value());
  EXPECT_FALSE(Find<google::rpc::RetryInfo>(large).has_value());
  for (std::string_view why : {reason::kBrokerUnavailable, reason::kBrokerNack,
                               reason::kBackendUnavailable,
                               reason::kDraining}) {
    const auto away = with(Code::kUnavailable, why);
    ASSERT_TRUE(Find<google::rpc::RetryInfo>(away).has_value()) << why;
    EXPECT_EQ(Find<google::rpc::RetryInfo>(away)->retry_delay().seconds(), 1);
  }
}

TEST(StatusTest, StoppedLifecycleIsADrainingGateway) {
  const grpc::Status status = StatusOf(absl::CancelledError("stopped"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Find<google::rpc::ErrorInfo>(status)->reason(), "DRAINING");
}

// A client takes 8 kB of metadata, in which the details are base64.
TEST(StatusTest, ManyAndLongViolationsStayWithinAClientsMetadata) {
  v1::SendGroupRequest request;
  for (int i = 0; i < 10'000; ++i) {
    v1::Value* value = request.add_tasks()->add_args();
    value->set_int_value(1);
    value->set_type(std::string(500, 't') + "\xc3\xa4");
  }
  World world;
  auto call = ReadSendGroup(request, world.intake);
  const grpc::Status status = StatusOf(call.status());
  EXPECT_LT(status.error_details().size() * 4 / 3 +
                3 * status.error_message().size(),
            7000u);
  const auto bad = Find<google::rpc::BadRequest>(status);
  ASSERT_TRUE(bad.has_value());
  ASSERT_GT(bad->field_violations_size(), 5);
  EXPECT_EQ(bad->field_violations(0).field(), "tasks[0].name");
  const auto& last = bad->field_violations(bad->field_violations_size() - 1);
  EXPECT_EQ(last.field(), "");
  EXPECT_EQ(last.description(),
            absl::StrCat("and ", 20'001 - bad->field_violations_size(),
                         " more bad fields"));
}

}  // namespace
}  // namespace penstock
