// The C++ client's runner of the table of cases: tests/clients/README.md. What
// it does it does by <penstock/client.h> alone.

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/struct.pb.h"
#include "google/protobuf/util/json_util.h"
#include "penstock/client.h"

namespace penstock::client {
namespace {

using Json = google::protobuf::Value;
using Object = google::protobuf::Struct;

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

// ---- JSON -----------------------------------------------------------------

Json Text(const std::string& text) {
  Json json;
  json.set_string_value(text);
  return json;
}

Json Truth(bool truth) {
  Json json;
  json.set_bool_value(truth);
  return json;
}

Json Number(double number) {
  Json json;
  json.set_number_value(number);
  return json;
}

Json List(const std::vector<Json>& elements) {
  Json json;
  json.mutable_list_value();
  for (const Json& element : elements) {
    *json.mutable_list_value()->add_values() = element;
  }
  return json;
}

Json Members(const std::map<std::string, Json>& members) {
  Json json;
  for (const auto& [key, value] : members) {
    (*json.mutable_struct_value()->mutable_fields())[key] = value;
  }
  return json;
}

const Json* Find(const Object& object, const std::string& key) {
  const auto found = object.fields().find(key);
  return found == object.fields().end() ? nullptr : &found->second;
}

std::string TextOf(const Object& object, const std::string& key) {
  const Json* value = Find(object, key);
  return value == nullptr ? "" : value->string_value();
}

double NumberOf(const Object& object, const std::string& key,
                double otherwise = 0) {
  const Json* value = Find(object, key);
  return value == nullptr ? otherwise : value->number_value();
}

// ---- values ---------------------------------------------------------------

double FloatOf(const Json& json) {
  uint64_t bits = 0;
  if (!absl::SimpleHexAtoi(json.string_value(), &bits)) {
    Die("no float: " + json.ShortDebugString());
  }
  return std::bit_cast<double>(bits);
}

template <typename T>
T WholeOf(const Json& json) {
  T number = 0;
  if (!absl::SimpleAtoi(json.string_value(), &number)) {
    Die("no whole number: " + json.ShortDebugString());
  }
  return number;
}

template <typename T, typename Read>
std::vector<T> ListOf(const Json& json, Read read) {
  std::vector<T> list;
  for (const Json& element : json.list_value().values()) {
    list.push_back(read(element));
  }
  return list;
}

// What C++ has for a value.
Value NativeOf(const std::string& type, const Json& json) {
  if (type == "[]byte") {
    const std::string bytes = absl::HexStringToBytes(json.string_value());
    return Bytes(bytes.begin(), bytes.end());
  }
  if (type == "[]uint8") return ListOf<uint8_t>(json, WholeOf<uint32_t>);
  const bool list = type.starts_with("[]");
  const std::string element = list ? type.substr(2) : type;
  if (element == "bool") {
    const auto read = [](const Json& value) { return value.bool_value(); };
    return list ? Value(ListOf<bool>(json, read)) : Value(read(json));
  }
  if (element == "string") {
    const auto read = [](const Json& value) { return value.string_value(); };
    return list ? Value(ListOf<std::string>(json, read)) : Value(read(json));
  }
  if (element.starts_with("float")) {
    return list ? Value(ListOf<double>(json, FloatOf)) : Value(FloatOf(json));
  }
  if (element.starts_with("uint")) {
    const auto read = WholeOf<uint64_t>;
    return list ? Value(ListOf<uint64_t>(json, read)) : Value(read(json));
  }
  const auto read = WholeOf<int64_t>;
  return list ? Value(ListOf<int64_t>(json, read)) : Value(read(json));
}

Value ValueOf(const Object& object) {
  const auto& [type, json] = *object.fields().begin();
  static const auto& own = *new std::vector<std::string>{
      "bool",   "int64",   "float64",   "string",  "[]byte",
      "[]bool", "[]int64", "[]float64", "[]string"};
  Value value = NativeOf(type, json);
  const bool native = std::find(own.begin(), own.end(), type) != own.end();
  return native ? value : Value::Typed(type, std::move(value));
}

Json FloatJson(double number) {
  return Members(
      {{"float", Text(absl::StrCat(absl::Hex(std::bit_cast<uint64_t>(number),
                                             absl::kZeroPad16)))}});
}

Json ResultJson(const Value& result) {
  return std::visit(
      [](const auto& kind) {
        using T = std::decay_t<decltype(kind)>;
        if constexpr (std::is_same_v<T, bool>) {
          return Members({{"bool", Truth(kind)}});
        } else if constexpr (std::is_integral_v<T>) {
          return Members({{"int", Text(absl::StrCat(kind))}});
        } else if constexpr (std::is_same_v<T, double>) {
          return FloatJson(kind);
        } else if constexpr (std::is_same_v<T, std::string>) {
          return Members({{"string", Text(kind)}});
        } else if constexpr (std::is_same_v<T, Bytes>) {
          const std::string bytes(kind.begin(), kind.end());
          return Members({{"bytes", Text(absl::BytesToHexString(bytes))}});
        } else {
          std::vector<Json> list;
          for (const auto& element : kind) {
            list.push_back(ResultJson(typename T::value_type(element)));
          }
          return Members({{"list", List(list)}});
        }
      },
      result.kind());
}

// ---- outcomes -------------------------------------------------------------

Json ErrorJson(const absl::Status& status) {
  const Error error = ErrorOf(status);
  if (error.task.has_value()) {
    return Members(
        {{"task_error",
          Members(
              {{"status", Text(std::string(StatusName(error.task->status)))},
               {"message", Text(error.task->message)},
               {"type", Text(error.task->type)}})}});
  }
  if (error.reason == "NOT_FINISHED")
    return Members({{"timeout", Truth(true)}});
  std::map<std::string, Json> members{
      {"code", Text(absl::StatusCodeToString(error.code))}};
  if (!error.reason.empty()) members["reason"] = Text(error.reason);
  std::vector<Json> fields;
  for (const FieldViolation& violation : error.violations) {
    fields.push_back(Text(violation.field));
  }
  if (!fields.empty()) members["fields"] = List(fields);
  return Members({{"error", Members(members)}});
}

Json ResultsJson(const absl::StatusOr<std::vector<Value>>& results) {
  if (!results.ok()) return ErrorJson(results.status());
  std::vector<Json> list;
  for (const Value& result : *results) list.push_back(ResultJson(result));
  return Members({{"results", List(list)}});
}

constexpr absl::Duration kTimeout = absl::Seconds(20);

Json OutcomeOf(const absl::StatusOr<TaskHandle>& task,
               absl::Duration timeout = kTimeout) {
  if (!task.ok()) return ErrorJson(task.status());
  return ResultsJson(task->Results(timeout));
}

Json MembersJson(const std::vector<absl::StatusOr<TaskHandle>>& tasks) {
  std::vector<Json> members;
  for (const auto& task : tasks) members.push_back(OutcomeOf(task));
  return Members({{"members", List(members)}});
}

// ---- cases ----------------------------------------------------------------

class Runner {
 public:
  explicit Runner(const std::vector<std::string>& addresses)
      : client_(addresses) {}

  Json Run(const Object& a_case) {
    static const auto& acts = *new std::map<std::string, Act>{
        {"send", &Runner::Send},
        {"metadata", &Runner::Send},
        {"group", &Runner::SendGroup},
        {"chain", &Runner::SendChain},
        {"chord", &Runner::SendChord},
        {"chord_on_failure", &Runner::SendChord},
        {"many", &Runner::SendMany},
        {"stream", &Runner::Stream},
        {"state", &Runner::State},
        {"group_state", &Runner::OfGroup},
        {"watch", &Runner::Watch},
        {"cancel", &Runner::Cancel},
        {"cancel_running", &Runner::Cancel},
        {"wait_over", &Runner::WaitOver},
        {"repeat", &Runner::Repeat},
        {"reuse", &Runner::Reuse},
        {"unique", &Runner::Unique},
        {"silent", &Runner::Silent}};
    const auto act = acts.find(TextOf(a_case, "do"));
    if (act == acts.end()) Die("unknown: " + TextOf(a_case, "do"));
    return (this->*act->second)(a_case);
  }

 private:
  using Act = Json (Runner::*)(const Object&);

  std::string NameOf(const std::string& name) {
    return name.starts_with("@")
               ? absl::StrCat("cpp.", name.substr(1), ".", run_)
               : name;
  }

  Task TaskOf(const Object& json) {
    Task task{
        .name = TextOf(json, "name"),
        .id = NameOf(TextOf(json, "id")),
        .routing_key = TextOf(json, "routing_key"),
        .retry_count = static_cast<int32_t>(NumberOf(json, "retry_count")),
        .priority = static_cast<uint32_t>(NumberOf(json, "priority")),
        .unique_key = NameOf(TextOf(json, "unique_key"))};
    for (const Json& arg : Find(json, "args")->list_value().values()) {
      task.args.push_back(ValueOf(arg.struct_value()));
    }
    const auto read_time = [&](const char* key,
                               std::optional<absl::Duration>& out) {
      if (Find(json, key) == nullptr) return;
      out = absl::Milliseconds(static_cast<int64_t>(NumberOf(json, key)));
    };
    read_time("delay_ms", task.delay);
    read_time("timeout_ms", task.timeout);
    read_time("expire_after_ms", task.expire_after);
    if (const Json* immutable = Find(json, "immutable")) {
      task.immutable = immutable->bool_value();
    }
    if (const Json* headers = Find(json, "headers")) {
      for (const auto& [key, value] : headers->struct_value().fields()) {
        task.headers[key] = value.string_value();
      }
    }
    task.on_success = TasksOf(json, "on_success");
    task.on_error = TasksOf(json, "on_error");
    return task;
  }

  std::vector<Task> TasksOf(const Object& json, const std::string& key) {
    std::vector<Task> tasks;
    if (const Json* list = Find(json, key)) {
      for (const Json& task : list->list_value().values()) {
        tasks.push_back(TaskOf(task.struct_value()));
      }
    }
    return tasks;
  }

  Task OneOf(const Object& json, const std::string& key) {
    return TaskOf(Find(json, key)->struct_value());
  }

  Json Send(const Object& a_case) {
    CallOptions options;
    if (const Json* metadata = Find(a_case, "metadata")) {
      for (const auto& [key, value] : metadata->struct_value().fields()) {
        options.metadata.emplace_back(key, value.string_value());
      }
    }
    const absl::Duration timeout = absl::Milliseconds(static_cast<int64_t>(
        NumberOf(a_case, "timeout_ms", absl::ToDoubleMilliseconds(kTimeout))));
    return OutcomeOf(client_.Send(OneOf(a_case, "task"), options), timeout);
  }

  Json SendGroup(const Object& a_case) {
    const auto group = client_.SendGroup({.tasks = TasksOf(a_case, "tasks")});
    if (!group.ok()) return ErrorJson(group.status());
    const auto all = group->Results<std::vector<Value>>(kTimeout);
    if (!all.ok()) return ErrorJson(all.status());
    std::vector<Json> members;
    for (const auto& results : *all) members.push_back(ResultsJson(results));
    return Members({{"members", List(members)}});
  }

  Json SendChain(const Object& a_case) {
    const auto chain = client_.SendChain(TasksOf(a_case, "tasks"));
    if (!chain.ok()) return ErrorJson(chain.status());
    return OutcomeOf(chain->back());
  }

  Json SendChord(const Object& a_case) {
    Chord chord{.tasks = TasksOf(a_case, "tasks"),
                .callback = OneOf(a_case, "callback")};
    const bool on_failure = Find(a_case, "on_failure") != nullptr;
    if (on_failure) chord.on_failure = OneOf(a_case, "on_failure");
    const auto sent = client_.SendChord(chord);
    if (!sent.ok()) return ErrorJson(sent.status());
    const Json callback = OutcomeOf(sent->callback);
    if (!on_failure) return callback;
    return Members({{"callback", callback},
                    {"on_failure", OutcomeOfLater(chord.on_failure->id)}});
  }

  // Of a task whose state exists only from some time on.
  Json OutcomeOfLater(const std::string& id) {
    const TaskHandle task = client_.task(id);
    for (const absl::Time end = absl::Now() + kTimeout; absl::Now() < end;
         absl::SleepFor(absl::Milliseconds(50))) {
      if (!absl::IsNotFound(task.State().status())) break;
    }
    return OutcomeOf(task);
  }

  Json SendMany(const Object& a_case) {
    return MembersJson(client_.SendMany(TasksOf(a_case, "tasks")));
  }

  Json Stream(const Object& a_case) {
    const std::vector<Task> tasks = TasksOf(a_case, "tasks");
    std::vector<absl::StatusOr<TaskHandle>> answers(
        tasks.size(), absl::UnknownError("not answered"));
    TaskStream stream = client_.OpenStream();
    for (size_t i = 0; i < tasks.size(); ++i) {
      stream.Send(tasks[i], [&answers, i](absl::StatusOr<TaskHandle> task) {
        answers[i] = std::move(task);
      });
    }
    stream.Close();
    return MembersJson(answers);
  }

  Json State(const Object& a_case) {
    const auto state = client_.task(TextOf(a_case, "task_id")).State();
    if (!state.ok()) return ErrorJson(state.status());
    return Members({{"status", Text(std::string(StatusName(state->status)))}});
  }

  Json OfGroup(const Object& a_case) {
    const auto state = client_.group(TextOf(a_case, "group_id")).State();
    if (!state.ok()) return ErrorJson(state.status());
    return Members({{"total", Number(state->total)}});
  }

  Json Watch(const Object& a_case) {
    const auto task = client_.Send(OneOf(a_case, "task"));
    if (!task.ok()) return ErrorJson(task.status());
    TaskStatus last = TaskStatus::kUnknown;
    const absl::Status end = task->Watch(kTimeout, [&](const TaskState& state) {
      last = state.status;
      return true;
    });
    if (!end.ok()) return ErrorJson(end);
    return Members({{"last", Text(std::string(StatusName(last)))}});
  }

  Json Cancel(const Object& a_case) {
    const auto task = client_.Send(OneOf(a_case, "task"));
    if (!task.ok()) return ErrorJson(task.status());
    if (TextOf(a_case, "do") == "cancel_running") {
      const absl::Status started =
          task->Watch(kTimeout, [](const TaskState& state) {
            return state.status != TaskStatus::kStarted;
          });
      if (!started.ok()) return ErrorJson(started);
    }
    const auto cancelled = task->Cancel(TextOf(a_case, "reason"));
    if (!cancelled.ok()) return ErrorJson(cancelled.status());
    return Members({{"accepted", Truth(cancelled->accepted)},
                    {"outcome", OutcomeOf(task)}});
  }

  Json WaitOver(const Object& a_case) {
    const auto task = client_.Send(OneOf(a_case, "task"));
    const Json outcome = OutcomeOf(
        task, absl::Milliseconds(
                  static_cast<int64_t>(NumberOf(a_case, "timeout_ms"))));
    if (task.ok()) task->Cancel().IgnoreError();
    return outcome;
  }

  Json Repeat(const Object& a_case) {
    const CallOptions options{.request_id = NameOf("@repeat")};
    const auto first = client_.Send(OneOf(a_case, "task"), options);
    const auto second = client_.Send(OneOf(a_case, "task"), options);
    if (!first.ok()) return ErrorJson(first.status());
    if (!second.ok()) return ErrorJson(second.status());
    return Members({{"same_id", Truth(first->id() == second->id())},
                    {"replayed", List({Truth(first->replayed()),
                                       Truth(second->replayed())})},
                    {"outcome", OutcomeOf(second)}});
  }

  Json Reuse(const Object& a_case) {
    const CallOptions options{.request_id = NameOf("@reuse")};
    const auto first = client_.Send(OneOf(a_case, "task"), options);
    if (!first.ok()) return ErrorJson(first.status());
    return OutcomeOf(client_.Send(OneOf(a_case, "other"), options));
  }

  Json Unique(const Object& a_case) {
    const auto first = client_.Send(OneOf(a_case, "task"));
    if (!first.ok()) return ErrorJson(first.status());
    const auto second = client_.Send(OneOf(a_case, "task"));
    first->Cancel().IgnoreError();
    return OutcomeOf(second);
  }

  Json Silent(const Object& a_case) {
    const char* address = std::getenv("CLIENTS_SILENT");
    if (address == nullptr) Die("CLIENTS_SILENT is not set");
    Client client(address);
    return OutcomeOf(client.Send(OneOf(a_case, "task"),
                                 {.deadline = absl::Milliseconds(500),
                                  .retry_budget = absl::ZeroDuration()}));
  }

  const std::string run_ = [] {
    absl::BitGen random;
    return absl::StrCat(absl::Hex(absl::Uniform<uint64_t>(random)));
  }();
  Client client_;
};

Json RunAll(const std::vector<std::string>& addresses, const Json& cases) {
  Runner runner(addresses);
  std::map<std::string, Json> outcomes;
  for (const Json& a_case : cases.list_value().values()) {
    const Object& object = a_case.struct_value();
    outcomes[TextOf(object, "name")] = runner.Run(object);
  }
  return Members(outcomes);
}

// ---- roll -----------------------------------------------------------------

Json Roll(const std::vector<std::string>& addresses, size_t count,
          const std::string& prefix) {
  Client client(addresses);
  std::vector<absl::StatusOr<TaskHandle>> tasks(count,
                                                absl::UnknownError("not sent"));
  absl::Mutex mu;
  size_t next = 0;
  size_t sent = 0;
  const auto send = [&] {
    for (;;) {
      size_t i;
      {
        absl::MutexLock lock(&mu);
        if (next == count) return;
        i = next++;
      }
      tasks[i] = client.Send("record", absl::StrCat(prefix, ".", i));
      if (!tasks[i].ok()) continue;
      absl::MutexLock lock(&mu);
      if (++sent % 100 == 0) {
        std::printf("sent %zu\n", sent);
        std::fflush(stdout);
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) threads.emplace_back(send);
  }
  std::vector<Json> ids;
  std::vector<Json> outcomes;
  for (const auto& task : tasks) {
    ids.push_back(Text(task.ok() ? task->id() : ""));
    outcomes.push_back(OutcomeOf(task, absl::Minutes(2)));
  }
  return Members({{"sent", List(ids)}, {"outcomes", List(outcomes)}});
}

int Main(const std::vector<std::string>& args) {
  Json out;
  if (args.size() == 4 && args[0] == "cases") {
    std::ifstream file(args[2]);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    Json cases;
    const auto read = google::protobuf::util::JsonStringToMessage(text, &cases);
    if (!read.ok()) Die(args[2] + ": " + read.ToString());
    out = RunAll(absl::StrSplit(args[1], ','), cases);
  } else if (args.size() == 5 && args[0] == "roll") {
    size_t count = 0;
    if (!absl::SimpleAtoi(args[2], &count)) Die("COUNT: " + args[2]);
    out = Roll(absl::StrSplit(args[1], ','), count, args[3]);
  } else {
    Die("usage: runner cases ADDRESSES CASES OUT\n"
        "       runner roll ADDRESSES COUNT PREFIX OUT");
  }
  std::string json;
  const auto written = google::protobuf::util::MessageToJsonString(out, &json);
  if (!written.ok()) Die(written.ToString());
  std::ofstream(args.back()) << json;
  return 0;
}

}  // namespace
}  // namespace penstock::client

int main(int argc, char** argv) {
  return penstock::client::Main({argv + 1, argv + argc});
}
