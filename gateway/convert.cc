#include "gateway/convert.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "queue/errors.h"
#include "queue/ids.h"
#include "queue/json.h"
#include "queue/next_steps.h"
#include "queue/policy.h"
#include "queue/wire/task_json.h"
#include "queue/workflow.h"

namespace penstock {
namespace {

// The limits that the comments of the contract name.
constexpr size_t kMaxName = 255;
constexpr size_t kMaxRoutingKey = 255;
constexpr size_t kMaxArgs = 1 << 20;
constexpr size_t kMaxHeaders = 64;
constexpr size_t kMaxUniqueKey = 200;
constexpr size_t kMaxHeaderKey = 255;
constexpr size_t kMaxHeader = 1 << 10;
constexpr int kMaxNesting = 32;
constexpr int kMaxRetryCount = 1'000'000;
constexpr absl::Duration kMaxExpireAfter = absl::Hours(24 * 3653);
constexpr absl::Duration kMaxRetryDelay = absl::Hours(24 * 30);
constexpr absl::Duration kMaxResultTtl = absl::Hours(24 * 365);
constexpr absl::Duration kMinResultTtl = absl::Seconds(1);
// The states of a workflow are looked at while it is open, and later than the
// workers which end them do: a short one could be gone by then.
constexpr absl::Duration kMinResultTtlInWorkflow = absl::Hours(1);
constexpr int kMaxGroup = 10'000;
constexpr int kMaxChain = 1'000;
constexpr int kMaxBatch = 1'000;
constexpr int kMaxIds = 1'000;
constexpr size_t kMaxReason = 1000;  // bytes
constexpr absl::Duration kMaxWait = absl::Seconds(60);
constexpr size_t kDefaultPage = 100;
constexpr size_t kMaxPage = 1'000;
constexpr size_t kMaxMessage = 16 << 20;     // the broker's, of one message
constexpr size_t kMaxSubmission = 64 << 20;  // of all messages of a call
// A task of so many bytes in protobuf is below kMaxMessage in JSON: the densest
// there is, a nested task that is but a name, grows from 5 bytes to 400.
constexpr size_t kSurelyFits = 128 << 10;
// The same where a trace context, of up to 1.2 kB in JSON, goes with each.
constexpr size_t kSurelyFitsTraced = 32 << 10;

// Status details travel as a trailer in base64; a client takes 8 kB of metadata
// unless told otherwise, and drops its connection at more.
constexpr size_t kMaxViolationBytes = 2500;
constexpr size_t kMaxMessageText = 500;
constexpr size_t kMaxDetailText = 200;

constexpr char kTraceParent[] = "traceparent";
constexpr char kTraceState[] = "tracestate";
constexpr size_t kMaxTrace = 512;  // bytes of each

constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

std::string_view StdView(absl::string_view text) {
  return std::string_view(text.data(), text.size());
}

// `text` cut to `limit` bytes, not inside a character.
std::string Cut(absl::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t end = limit;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), "...");
}

// ---- what is wrong with a request -----------------------------------------

std::string HashOf(const google::protobuf::Message& request);

class Findings {
 public:
  void Add(const std::string& path, absl::string_view description) {
    ++count_;
    Finding finding{.field = Cut(path, kMaxDetailText),
                    .text = Cut(description, kMaxDetailText)};
    const size_t bytes = finding.field.size() + finding.text.size() + 8;
    if (bytes_ + bytes > kMaxViolationBytes) return;
    bytes_ += bytes;
    listed_.push_back(std::move(finding));
  }

  void AddTooLarge(const std::string& path, size_t bytes, size_t limit) {
    if (!too_large_.ok()) return;
    too_large_ = MakeError(
        absl::StatusCode::kResourceExhausted, reason::kPayloadTooLarge,
        StdView(absl::StrCat(Cut(path, kMaxDetailText), ": at least ", bytes,
                             " bytes as encoded for the queue; at most ", limit,
                             " are allowed")),
        {{"field", Cut(path, kMaxDetailText)},
         {"limit_bytes", absl::StrCat(limit)}});
  }

  bool too_large() const { return !too_large_.ok(); }
  bool empty() const { return count_ == 0 && !too_large(); }

  // OK, or everything that was found. Bad fields come before sizes.
  absl::Status status() const {
    if (count_ == 0) return too_large_;
    google::rpc::BadRequest bad;
    for (const Finding& finding : listed_) {
      auto* violation = bad.add_field_violations();
      violation->set_field(finding.field);
      violation->set_description(finding.text);
    }
    if (listed_.size() < count_) {
      auto* rest = bad.add_field_violations();
      rest->set_description(
          absl::StrCat("and ", count_ - listed_.size(), " more bad fields"));
    }
    std::string message =
        absl::StrCat(listed_.front().field, ": ", listed_.front().text);
    if (count_ > 1) {
      absl::StrAppend(&message, " (and ", count_ - 1, " more bad fields)");
    }
    absl::Status status = MakeError(absl::StatusCode::kInvalidArgument,
                                    reason::kInvalidField, message);
    status.SetPayload(kBadRequestUrl, absl::Cord(bad.SerializeAsString()));
    return status;
  }

 private:
  struct Finding {
    std::string field;
    std::string text;
  };

  std::vector<Finding> listed_;  // as many as a status has room for
  size_t count_ = 0;
  size_t bytes_ = 0;
  absl::Status too_large_;
};

// ---- times ----------------------------------------------------------------

constexpr int64_t kMinTimestampSeconds = -62'135'596'800;  // year 1
constexpr int64_t kMaxTimestampSeconds = 253'402'300'799;  // year 9999
constexpr int64_t kMaxDurationSeconds = 315'576'000'000;
constexpr int32_t kMaxNanos = 999'999'999;

std::optional<absl::Time> ReadTime(const google::protobuf::Timestamp& in) {
  if (in.seconds() < kMinTimestampSeconds ||
      in.seconds() > kMaxTimestampSeconds || in.nanos() < 0 ||
      in.nanos() > kMaxNanos) {
    return std::nullopt;
  }
  return absl::FromUnixSeconds(in.seconds()) + absl::Nanoseconds(in.nanos());
}

// Reads a duration that may not be negative.
std::optional<absl::Duration> ReadDuration(
    const google::protobuf::Duration& in, const std::string& path,
    Findings& findings) {
  const bool valid = in.seconds() >= -kMaxDurationSeconds &&
                     in.seconds() <= kMaxDurationSeconds &&
                     in.nanos() >= -kMaxNanos && in.nanos() <= kMaxNanos &&
                     !(in.seconds() > 0 && in.nanos() < 0) &&
                     !(in.seconds() < 0 && in.nanos() > 0);
  if (!valid) {
    findings.Add(path, "is not a valid google.protobuf.Duration");
    return std::nullopt;
  }
  if (in.seconds() < 0 || in.nanos() < 0) {
    findings.Add(path, "must not be negative");
    return std::nullopt;
  }
  return absl::Seconds(in.seconds()) + absl::Nanoseconds(in.nanos());
}

// ---- values ---------------------------------------------------------------

struct Kind {
  TypedValue value;
  TypedValue zero;  // the same kind, which fits every type that goes with it
  const char* field;
};

template <typename T>
Kind MakeKind(T value, const char* field) {
  return Kind{.value = std::move(value), .zero = T(), .field = field};
}

template <typename T, typename List>
Kind MakeListKind(const List& list, const char* field) {
  return MakeKind(std::vector<T>(list.values().begin(), list.values().end()),
                  field);
}

std::optional<Kind> ReadKind(const v1::Value& in) {
  switch (in.kind_case()) {
    case v1::Value::kBoolValue:
      return MakeKind(in.bool_value(), "bool_value");
    case v1::Value::kIntValue:
      return MakeKind(int64_t{in.int_value()}, "int_value");
    case v1::Value::kUintValue:
      return MakeKind(uint64_t{in.uint_value()}, "uint_value");
    case v1::Value::kFloatValue:
      return MakeKind(in.float_value(), "float_value");
    case v1::Value::kStringValue:
      return MakeKind(in.string_value(), "string_value");
    case v1::Value::kBytesValue:
      return MakeKind(Bytes(in.bytes_value().begin(), in.bytes_value().end()),
                      "bytes_value");
    case v1::Value::kBools:
      return MakeListKind<bool>(in.bools(), "bools");
    case v1::Value::kInts:
      return MakeListKind<int64_t>(in.ints(), "ints");
    case v1::Value::kUints:
      return MakeListKind<uint64_t>(in.uints(), "uints");
    case v1::Value::kFloats:
      return MakeListKind<double>(in.floats(), "floats");
    case v1::Value::kStrings:
      return MakeListKind<std::string>(in.strings(), "strings");
    case v1::Value::KIND_NOT_SET:
      break;
  }
  return std::nullopt;
}

// As machinery encodes it: {"Name":"","Type":"int64","Value":1}
size_t EncodedSize(const Value& value) {
  return JsonString(value.name).size() + JsonString(value.type).size() +
         value.json.size() + sizeof(R"({"Name":,"Type":,"Value":})") - 1;
}

std::optional<Value> ReadValueMessage(
    const v1::Value& in, absl::FunctionRef<std::string()> path,
    Findings& findings) {
  std::optional<Kind> kind = ReadKind(in);
  if (!kind.has_value()) {
    findings.Add(path(),
                 "has no value: set bool_value, int_value, uint_value, "
                 "float_value, string_value, bytes_value, bools, ints, uints, "
                 "floats or strings");
    return std::nullopt;
  }
  absl::StatusOr<Value> value =
      MakeValue(std::move(kind->value), in.type(), in.name());
  if (value.ok()) return *std::move(value);
  // It is the type's fault when not even an empty value would do.
  const bool type_fits = MakeValue(std::move(kind->zero), in.type()).ok();
  findings.Add(absl::StrCat(path(), ".", type_fits ? kind->field : "type"),
               value.status().message());
  return std::nullopt;
}

template <typename List, typename T>
void FillList(List* list, const std::vector<T>& values) {
  for (const T& value : values) list->add_values(value);
}

void WriteTyped(const TypedValue& value, v1::Value* out) {
  std::visit(
      [out](const auto& typed) {
        using T = std::decay_t<decltype(typed)>;
        if constexpr (std::is_same_v<T, bool>) {
          out->set_bool_value(typed);
        } else if constexpr (std::is_same_v<T, int64_t>) {
          out->set_int_value(typed);
        } else if constexpr (std::is_same_v<T, uint64_t>) {
          out->set_uint_value(typed);
        } else if constexpr (std::is_same_v<T, double>) {
          out->set_float_value(typed);
        } else if constexpr (std::is_same_v<T, std::string>) {
          out->set_string_value(typed);
        } else if constexpr (std::is_same_v<T, Bytes>) {
          out->set_bytes_value(typed.data(), typed.size());
        } else if constexpr (std::is_same_v<T, std::vector<bool>>) {
          auto* list = out->mutable_bools();
          for (const bool element : typed) list->add_values(element);
        } else if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
          FillList(out->mutable_ints(), typed);
        } else if constexpr (std::is_same_v<T, std::vector<uint64_t>>) {
          FillList(out->mutable_uints(), typed);
        } else if constexpr (std::is_same_v<T, std::vector<double>>) {
          FillList(out->mutable_floats(), typed);
        } else {
          FillList(out->mutable_strings(), typed);
        }
      },
      value);
}

void WriteResult(const Value& result, v1::Value* out) {
  out->set_type(result.type);
  absl::StatusOr<TypedValue> typed = ReadValue(result);
  if (typed.ok()) {
    WriteTyped(*typed, out);
  } else {
    // A type that is none of machinery's 29 (a Go struct): its JSON as text is
    // more use than an error for a task that succeeded.
    out->set_string_value(result.json);
  }
}

// ---- trace contexts -------------------------------------------------------

bool IsHex(absl::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == text.npos;
}

// Neither id may be all zeros.
bool IsTraceId(absl::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != text.npos;
}

// version-trace_id-parent_id-flags; later versions may have more after a dash.
bool IsTraceParent(absl::string_view text) {
  constexpr size_t kLength = 55;
  if (text.size() < kLength || text.size() > kMaxTrace) return false;
  const absl::string_view version = text.substr(0, 2);
  if (!IsHex(version) || version == "ff" || !IsHex(text.substr(53, 2)) ||
      text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return false;
  }
  if (text.size() > kLength && (version == "00" || text[kLength] != '-')) {
    return false;
  }
  return IsTraceId(text.substr(3, 32)) && IsTraceId(text.substr(36, 16));
}

// ---- tasks ----------------------------------------------------------------

// machinery waits for the next Fibonacci number above RetryTimeout: the number
// below the first one that is at least `delay`.
int64_t RetryTimeoutFor(absl::Duration delay) {
  const int64_t seconds =
      absl::ToInt64Seconds(absl::Ceil(delay, absl::Seconds(1)));
  int64_t timeout = 0;
  while (NextFibonacci(timeout) < seconds) timeout = NextFibonacci(timeout);
  return timeout;
}

// Where a task stands in its request: its path, its id if it comes without one,
// and what is not allowed there.
struct Place {
  std::string path;
  std::function<std::string()> default_id;
  int level = 0;  // of nesting
  const char* no_schedule = nullptr;    // why not; nullptr: it may have one
  const char* no_on_success = nullptr;  // the same
  bool no_unique_key = false;
};

// Reads the tasks of one request.
class Reader {
 public:
  explicit Reader(const Intake& intake) : intake_(intake) {}

  Findings& findings() { return findings_; }

  // The tasks are those of a group, a chain or a chord.
  void InWorkflow() { min_result_ttl_ = kMinResultTtlInWorkflow; }

  Task ReadTask(const v1::Task& in, const Place& place);

  // A task that stands alone, and what is wrong with it.
  absl::StatusOr<TaskCall> ReadOne(const v1::Task& in, const std::string& path);

  // The same of a request whose only task it is.
  template <typename Request>
  absl::StatusOr<TaskCall> ReadOnly(const Request& request) {
    if (request.has_task()) return ReadOne(request.task(), "task");
    findings_.Add("task", "is required");
    return findings_.status();
  }

  // The id that a caller chose; `path` is the field's.
  void CheckCallersId(const std::string& id, const std::string& path);

  // Empty, or of the same alphabet.
  void CheckRequestId(const std::string& id) {
    if (id.empty()) return;
    const absl::Status status = CheckId(id);
    if (!status.ok()) findings_.Add("request_id", status.message());
  }

  // The size of `task` on the wire, which must be that of a message.
  size_t CheckSize(const Task& task, const std::string& path);

 private:
  void ReadName(const v1::Task& in, const Place& place, Task& task);
  void ReadArgs(const v1::Task& in, const Place& place, Task& task);
  void ReadHeaders(const v1::Task& in, const Place& place, Task& task);
  void AddTrace(Task& task);
  void ReadSchedule(const v1::Task& in, const Place& place, Task& task);
  void ReadPolicy(const v1::Task& in, const Place& place, Task& task);
  void ReadBackoff(const v1::Task& in, const Place& place, Task& task);
  void ReadUniqueKey(const v1::Task& in, const Place& place, Task& task);
  std::optional<absl::Duration> ReadPositive(
      bool is_set, const google::protobuf::Duration& in,
      const std::string& path, absl::Duration longest,
      const char* longest_text);
  void ReadRetries(const v1::Task& in, const Place& place, Task& task);
  std::vector<std::string> ReadNested(
      const google::protobuf::RepeatedPtrField<v1::Task>& in,
      const Place& parent, const std::string& parent_id, const char* list);

  const Intake& intake_;
  absl::Duration min_result_ttl_ = kMinResultTtl;
  Findings findings_;
  std::map<std::string, std::string> paths_by_id_;  // of the ids seen
  std::map<std::string, std::string> paths_by_unique_key_;
  size_t bytes_ = 0;  // of tasks read, without what is nested in them
};

void Reader::CheckCallersId(const std::string& id, const std::string& path) {
  if (absl::Status status = CheckId(id); !status.ok()) {
    findings_.Add(path, status.message());
    return;
  }
  if (id == intake_.default_queue) {
    findings_.Add(path, "must not be the name of the default queue");
    return;
  }
  const auto [seen, is_new] = paths_by_id_.emplace(id, path);
  if (!is_new) {
    findings_.Add(path, absl::StrCat("is also that of ", seen->second,
                                     "; all ids of a request must differ"));
  }
}

size_t Reader::CheckSize(const Task& task, const std::string& path) {
  const size_t bytes = EncodeTask(task).size();
  if (bytes > kMaxMessage) findings_.AddTooLarge(path, bytes, kMaxMessage);
  return bytes;
}

void Reader::ReadName(const v1::Task& in, const Place& place, Task& task) {
  if (in.name().empty()) {
    findings_.Add(place.path + ".name", "is required");
  } else if (in.name().size() > kMaxName) {
    findings_.Add(place.path + ".name",
                  absl::StrCat("is ", in.name().size(),
                               " bytes long; at most 255 are allowed"));
  }
  task.name = in.name();
}

void Reader::ReadArgs(const v1::Task& in, const Place& place, Task& task) {
  size_t bytes = 2;  // the brackets
  for (int i = 0; i < in.args_size(); ++i) {
    std::optional<Value> value = ReadValueMessage(
        in.args(i),
        [&] { return absl::StrCat(place.path, ".args[", i, "]"); }, findings_);
    if (!value.has_value()) continue;
    bytes += EncodedSize(*value) + 1;  // the comma
    if (bytes - 1 > kMaxArgs) {
      findings_.AddTooLarge(place.path + ".args", bytes - 1, kMaxArgs);
      return;
    }
    task.args.push_back(*std::move(value));
  }
  bytes_ += bytes;
  task.args_null = task.args.empty();
}

void Reader::ReadHeaders(const v1::Task& in, const Place& place, Task& task) {
  if (static_cast<size_t>(in.headers_size()) > kMaxHeaders) {
    findings_.Add(place.path + ".headers",
                  absl::StrCat("has ", in.headers_size(),
                               " entries; at most 64 are allowed"));
    return;
  }
  // In order of the keys: a map has none of its own.
  const std::map<std::string, std::string> headers(in.headers().begin(),
                                                   in.headers().end());
  for (const auto& [key, value] : headers) {
    const std::string path =
        absl::StrCat(place.path, ".headers[\"", Cut(key, 64), "\"]");
    if (key.empty() || key.size() > kMaxHeaderKey) {
      findings_.Add(path, "the key must have 1 to 255 bytes");
    } else if (key.size() + value.size() > kMaxHeader) {
      findings_.Add(path, absl::StrCat("key and value are ",
                                       key.size() + value.size(),
                                       " bytes; at most 1024 are allowed"));
    } else if (absl::StartsWith(key, "penstock-")) {
      findings_.Add(path, "keys that begin with penstock- are Penstock's own");
    } else if (key == "CC" || key == "BCC") {
      // RabbitMQ routes by these two, and closes the channel over a text.
      findings_.Add(path, "the keys CC and BCC are RabbitMQ's own");
    } else {
      SetStringHeader(task, key, value);
      bytes_ += key.size() + value.size();
    }
  }
  AddTrace(task);
}

// A task that names its own parent has its own state too.
void Reader::AddTrace(Task& task) {
  const TraceContext& trace = intake_.trace;
  if (trace.parent.empty() || task.headers.contains(kTraceParent)) return;
  for (const auto& [key, value] : {std::pair(kTraceParent, &trace.parent),
                                   std::pair(kTraceState, &trace.state)}) {
    if (value->empty() || task.headers.contains(key)) continue;
    if (task.headers.size() == kMaxHeaders) return;
    SetStringHeader(task, key, *value);
    bytes_ += std::string_view(key).size() + value->size();
  }
}

void Reader::ReadSchedule(const v1::Task& in, const Place& place, Task& task) {
  if (in.schedule_case() == v1::Task::SCHEDULE_NOT_SET) return;
  const bool is_eta = in.has_eta();
  const std::string path = place.path + (is_eta ? ".eta" : ".delay");
  if (place.no_schedule != nullptr) {
    findings_.Add(path, place.no_schedule);
    return;
  }
  absl::Time eta;
  if (is_eta) {
    const std::optional<absl::Time> time = ReadTime(in.eta());
    if (!time.has_value()) {
      findings_.Add(path, "is not a valid google.protobuf.Timestamp");
      return;
    }
    eta = *time;
  } else {
    const std::optional<absl::Duration> delay =
        ReadDuration(in.delay(), path, findings_);
    if (!delay.has_value()) return;
    eta = intake_.now + *delay;
    if (absl::ToUnixSeconds(eta) > kMaxTimestampSeconds) {
      findings_.Add(path, "ends after the year 9999");
      return;
    }
  }
  if (eta <= intake_.now) return;  // at once
  // Kept to the millisecond, and not before its time.
  const absl::Duration since_epoch = absl::Ceil(eta - absl::UnixEpoch(),
                                                absl::Milliseconds(1));
  task.eta = ZonedTime{.time = absl::UnixEpoch() + since_epoch};
}

void Reader::ReadRetries(const v1::Task& in, const Place& place, Task& task) {
  if (in.retry_count() < 0) {
    findings_.Add(place.path + ".retry_count", "must not be negative");
  } else if (in.retry_count() > kMaxRetryCount) {
    findings_.Add(place.path + ".retry_count", "must be at most 1000000");
  }
  task.retry_count = in.retry_count();
  if (!in.has_retry_delay()) return;
  const std::string path = place.path + ".retry_delay";
  const std::optional<absl::Duration> delay =
      ReadDuration(in.retry_delay(), path, findings_);
  if (!delay.has_value()) return;
  if (*delay > kMaxRetryDelay) {
    findings_.Add(path, "must be at most 30 days");
    return;
  }
  task.retry_timeout_s = RetryTimeoutFor(*delay);
}

// A duration of at least 1 ms and at most `longest`; nullopt if it is not set, or
// bad and said so.
std::optional<absl::Duration> Reader::ReadPositive(
    bool is_set, const google::protobuf::Duration& in, const std::string& path,
    absl::Duration longest, const char* longest_text) {
  if (!is_set) return std::nullopt;
  const std::optional<absl::Duration> duration =
      ReadDuration(in, path, findings_);
  if (!duration.has_value()) return std::nullopt;
  if (*duration < absl::Milliseconds(1)) {
    findings_.Add(path, "must be at least 1 ms");
    return std::nullopt;
  }
  if (*duration > longest) {
    findings_.Add(path, absl::StrCat("must be at most ", longest_text));
    return std::nullopt;
  }
  return duration;
}

void Reader::ReadPolicy(const v1::Task& in, const Place& place, Task& task) {
  if (auto timeout = ReadPositive(in.has_timeout(), in.timeout(),
                                  place.path + ".timeout", kMaxRetryDelay,
                                  "30 days")) {
    SetTimeout(task, *timeout);
  }
  const std::string expire_path = place.path + ".expire_after";
  if (auto after = ReadPositive(in.has_expire_after(), in.expire_after(),
                                expire_path, kMaxExpireAfter, "10 years")) {
    const absl::Time expiry = intake_.now + *after;
    if (task.eta.has_value() && expiry <= task.eta->time) {
      findings_.Add(expire_path, "ends before the task is due");
    } else {
      SetExpiry(task, expiry);
    }
  }
  const std::string ttl_path = place.path + ".result_ttl";
  if (auto ttl = ReadPositive(in.has_result_ttl(), in.result_ttl(), ttl_path,
                              kMaxResultTtl, "365 days")) {
    if (*ttl >= min_result_ttl_) {
      SetResultTtl(task, *ttl);
    } else if (min_result_ttl_ == kMinResultTtl) {
      findings_.Add(ttl_path, "must be at least 1 s");
    } else {
      findings_.Add(ttl_path,
                    "must be at least 1 hour in a group, a chain or a chord, "
                    "whose end needs it");
    }
  }
  if (in.has_exponential_backoff()) ReadBackoff(in, place, task);
  ReadUniqueKey(in, place, task);
}

void Reader::ReadUniqueKey(const v1::Task& in, const Place& place, Task& task) {
  const std::string& key = in.unique_key();
  if (key.empty()) return;
  const std::string path = place.path + ".unique_key";
  if (place.no_unique_key || place.level > 0) {
    findings_.Add(path,
                  "is only for the task of SendTask, the members of a group and "
                  "the links of a chain");
    return;
  }
  if (key.size() > kMaxUniqueKey) {
    findings_.Add(path, absl::StrCat("is ", key.size(),
                                     " bytes long; at most 200 are allowed"));
    return;
  }
  const auto [seen, is_new] = paths_by_unique_key_.emplace(key, path);
  if (!is_new) {
    findings_.Add(path, absl::StrCat("is also that of ", seen->second,
                                     "; one of them could never be sent"));
    return;
  }
  SetUniqueKey(task, key);
}

void Reader::ReadBackoff(const v1::Task& in, const Place& place, Task& task) {
  const v1::ExponentialBackoff& from = in.exponential_backoff();
  const std::string path = place.path + ".exponential_backoff";
  if (in.has_retry_delay()) {
    findings_.Add(path, "excludes retry_delay: set one of them");
  }
  if (!from.has_first_delay()) {
    findings_.Add(path + ".first_delay", "is required");
    return;
  }
  const auto first =
      ReadPositive(true, from.first_delay(), path + ".first_delay",
                   kMaxRetryDelay, "30 days");
  const auto max = ReadPositive(from.has_max_delay(), from.max_delay(),
                                path + ".max_delay", kMaxRetryDelay, "30 days");
  // Not-a-number is outside of any range.
  if (from.factor() != 0 && !(from.factor() >= 1 && from.factor() <= 100)) {
    findings_.Add(path + ".factor", "must be from 1 to 100");
  }
  if (!(from.jitter() >= 0 && from.jitter() <= 1)) {
    findings_.Add(path + ".jitter", "must be from 0 to 1");
  }
  if (!first.has_value()) return;
  if (max.has_value() && *max < *first) {
    findings_.Add(path + ".max_delay", "must not be less than first_delay");
  }
  SetBackoff(task, {.first = *first,
                    .factor = from.factor() == 0 ? 2 : from.factor(),
                    .max = max.value_or(std::max(*first, absl::Hours(1))),
                    .jitter = from.jitter()});
}

std::vector<std::string> Reader::ReadNested(
    const google::protobuf::RepeatedPtrField<v1::Task>& in, const Place& parent,
    const std::string& parent_id, const char* list) {
  std::vector<std::string> bodies;
  const std::string path = absl::StrCat(parent.path, ".", list);
  if (!in.empty() && parent.level == kMaxNesting) {
    findings_.Add(path, "is nested deeper than 32 levels");
    return bodies;
  }
  for (int i = 0; i < in.size() && !findings_.too_large(); ++i) {
    const Place place{
        .path = absl::StrCat(path, "[", i, "]"),
        .default_id = [&] { return ChildId(parent_id, list, i); },
        .level = parent.level + 1};
    bodies.push_back(EncodeTask(ReadTask(in.Get(i), place)));
  }
  return bodies;
}

Task Reader::ReadTask(const v1::Task& in, const Place& place) {
  Task task;
  if (in.id().empty()) {
    task.id = place.default_id();
  } else {
    task.id = in.id();
    CheckCallersId(in.id(), place.path + ".id");
  }
  ReadName(in, place, task);
  ReadArgs(in, place, task);
  if (in.routing_key().size() > kMaxRoutingKey) {
    findings_.Add(place.path + ".routing_key",
                  absl::StrCat("is ", in.routing_key().size(),
                               " bytes long; at most 255 are allowed"));
  }
  task.routing_key = in.routing_key();
  ReadSchedule(in, place, task);
  ReadRetries(in, place, task);
  if (in.priority() > 255) {
    findings_.Add(place.path + ".priority", "must be at most 255");
  } else {
    task.priority = static_cast<uint8_t>(in.priority());
  }
  task.immutable = in.immutable();
  ReadHeaders(in, place, task);
  ReadPolicy(in, place, task);
  task.ignore_when_not_registered = in.ignore_when_task_not_registered();

  // A tiny nested task is some 400 bytes on the wire: without this bound a
  // request of millions of them would be let in.
  bytes_ += 400;
  if (bytes_ > kMaxSubmission) {
    findings_.AddTooLarge(place.path, bytes_, kMaxSubmission);
    return task;
  }
  if (place.no_on_success != nullptr && !in.on_success().empty()) {
    findings_.Add(place.path + ".on_success", place.no_on_success);
  } else {
    task.on_success = ReadNested(in.on_success(), place, task.id, "on_success");
    task.on_success_null = task.on_success.empty();
  }
  task.on_error = ReadNested(in.on_error(), place, task.id, "on_error");
  task.on_error_null = task.on_error.empty();
  return task;
}

absl::StatusOr<TaskCall> Reader::ReadOne(const v1::Task& in,
                                         const std::string& path) {
  TaskCall call;
  call.task = ReadTask(
      in, Place{.path = path,
                .default_id = [this] { return "task_" + intake_.new_uuid(); }});
  const size_t surely_fits =
      intake_.trace.parent.empty() ? kSurelyFits : kSurelyFitsTraced;
  if (!findings_.too_large() && in.ByteSizeLong() > surely_fits) {
    CheckSize(call.task, path);
  }
  if (!findings_.empty()) {
    return std::exchange(findings_, Findings{}).status();
  }
  // Of the task alone: so it is the same one by whichever call it comes.
  if (!in.id().empty() || intake_.repeats) call.payload_hash = HashOf(in);
  return call;
}

// ---- requests -------------------------------------------------------------

// Equal for equal requests: maps are written in the order of their keys. The
// type's name keeps a group of one apart from its member.
std::string HashOf(const google::protobuf::Message& request) {
  std::string bytes = request.GetTypeName();
  bytes.push_back('\0');
  bytes.reserve(bytes.size() + request.ByteSizeLong());
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&coded);
  }
  return Fingerprint(bytes);
}

// Whether there are 1 to `limit` of `what`.
bool CheckCount(int count, int limit, const char* path, const char* what,
                Findings& findings) {
  if (count == 0) {
    findings.Add(path, absl::StrCat("is required: at least one ", what));
    return false;
  }
  if (count > limit) {
    findings.Add(path, absl::StrCat("has ", count, " entries; at most ", limit,
                                    " are allowed"));
    return false;
  }
  return true;
}

// A group with or without a callback. With a group id of the caller's, the ids
// that are not given follow from it: so a repeat of the call is the same group.
template <typename Request>  // SendGroupRequest or SendChordRequest
absl::StatusOr<GroupCall> ReadGroup(const Request& request,
                                    const Intake& intake) {
  Reader reader(intake);
  reader.InWorkflow();
  reader.CheckRequestId(request.request_id());
  Findings& findings = reader.findings();
  const bool own_id = !request.group_id().empty();
  NewGroup group{
      .id = own_id ? request.group_id() : "group_" + intake.new_uuid(),
      .send_concurrency = request.send_concurrency()};
  if (own_id) reader.CheckCallersId(group.id, "group_id");
  if (group.send_concurrency < 0) {
    findings.Add("send_concurrency", "must not be negative");
  }
  const auto id_maker = [&](const char* list, int index, const char* prefix) {
    return [&group, &intake, own_id, list, index, prefix] {
      return own_id ? ChildId(group.id, list, index)
                    : prefix + intake.new_uuid();
    };
  };

  if (CheckCount(request.tasks_size(), kMaxGroup, "tasks", "task", findings)) {
    group.members.reserve(request.tasks_size());
    for (int i = 0; i < request.tasks_size() && !findings.too_large(); ++i) {
      group.members.push_back(reader.ReadTask(
          request.tasks(i), Place{.path = absl::StrCat("tasks[", i, "]"),
                                  .default_id = id_maker("tasks", i, "task_")}));
    }
  }
  if constexpr (std::is_same_v<Request, v1::SendChordRequest>) {
    if (!request.has_callback()) {
      findings.Add("callback", "is required");
    } else {
      group.callback = reader.ReadTask(
          request.callback(),
          Place{.path = "callback",
                .default_id = id_maker("callback", 0, "chord_"),
                .no_schedule = "a chord's callback runs as soon as it may",
                .no_unique_key = true});
    }
    if (request.has_on_failure()) {
      group.on_failure = reader.ReadTask(
          request.on_failure(),
          Place{.path = "on_failure",
                .default_id = id_maker("on_failure", 0, "task_"),
                .no_schedule = "it is sent as soon as the chord has failed",
                .no_unique_key = true});
    }
  }
  if (absl::Status status = findings.status(); !status.ok()) return status;

  // Every member carries a copy of the callback.
  const size_t copy = group.callback.has_value()
                          ? reader.CheckSize(*group.callback, "callback")
                          : 0;
  if (group.on_failure.has_value()) {
    reader.CheckSize(*group.on_failure, "on_failure");
  }
  size_t total = 0;
  for (size_t i = 0; i < group.members.size(); ++i) {
    const std::string path = absl::StrCat("tasks[", i, "]");
    const size_t bytes = reader.CheckSize(group.members[i], path) + copy;
    if (bytes > kMaxMessage) findings.AddTooLarge(path, bytes, kMaxMessage);
    total += bytes;
  }
  if (total > kMaxSubmission) {
    findings.AddTooLarge("tasks", total, kMaxSubmission);
  }
  if (absl::Status status = findings.status(); !status.ok()) return status;
  return GroupCall{.group = std::move(group),
                   .payload_hash = HashOf(request)};
}

absl::StatusOr<std::vector<std::string>> ReadIds(
    const google::protobuf::RepeatedPtrField<std::string>& ids) {
  Findings findings;
  if (CheckCount(ids.size(), kMaxIds, "task_ids", "id", findings)) {
    for (int i = 0; i < ids.size(); ++i) {
      if (ids.Get(i).empty()) {
        findings.Add(absl::StrCat("task_ids[", i, "]"), "must not be empty");
      }
    }
  }
  if (absl::Status status = findings.status(); !status.ok()) return status;
  return std::vector<std::string>(ids.begin(), ids.end());
}

absl::StatusOr<CancelCall> ReadCancel(const std::string& field,
                                      const std::string& id,
                                      const std::string& reason) {
  Findings findings;
  if (id.empty()) findings.Add(field, "is required");
  if (reason.size() > kMaxReason) {
    findings.Add("reason", absl::StrCat("has ", reason.size(),
                                        " bytes; at most ", kMaxReason));
  }
  if (absl::Status status = findings.status(); !status.ok()) return status;
  return CancelCall{.id = id, .reason = reason};
}

// Ties a page to its group: a token of another group, or a made-up one, differs.
std::string PageSeal(const std::string& group_id, size_t page_start) {
  return Fingerprint(absl::StrCat("page\n", page_start, "\n", group_id))
      .substr(0, 16);
}

std::optional<size_t> ReadPageToken(const std::string& token,
                                    const std::string& group_id) {
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(token, absl::MaxSplits('-', 1));
  uint32_t start = 0;
  if (!absl::SimpleAtoi(parts.first, &start) ||
      token != PageToken(group_id, start)) {
    return std::nullopt;
  }
  return start;
}

}  // namespace

TraceContext ReadTrace(
    const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
  TraceContext trace;
  if (metadata.count(kTraceParent) != 1) return trace;
  const grpc::string_ref parent = metadata.find(kTraceParent)->second;
  if (!IsTraceParent({parent.data(), parent.size()})) return trace;
  trace.parent.assign(parent.data(), parent.size());
  // A list, which may come in parts.
  const auto [begin, end] = metadata.equal_range(kTraceState);
  for (auto part = begin; part != end; ++part) {
    if (!trace.state.empty()) trace.state.push_back(',');
    trace.state.append(part->second.data(), part->second.size());
  }
  const bool readable =
      std::all_of(trace.state.begin(), trace.state.end(),
                  [](char c) { return c >= ' ' && c <= '~'; });
  if (!readable || trace.state.size() > kMaxTrace) trace.state.clear();
  return trace;
}

absl::StatusOr<TaskCall> ReadSendTask(const v1::SendTaskRequest& request,
                                      const Intake& intake) {
  Reader reader(intake);
  reader.CheckRequestId(request.request_id());
  if (request.has_wait()) {
    ReadDuration(request.wait(), "wait", reader.findings());
  }
  return reader.ReadOnly(request);
}

absl::Duration WaitOf(const v1::SendTaskRequest& request) {
  Findings findings;  // ReadSendTask's
  return std::min(kMaxWait, ReadDuration(request.wait(), "wait", findings)
                                .value_or(absl::ZeroDuration()));
}

absl::StatusOr<TaskCall> ReadStreamTask(const v1::StreamTasksRequest& request,
                                        const Intake& intake) {
  return Reader(intake).ReadOnly(request);
}

absl::StatusOr<TaskCall> ReadStreamTask(const v1::StreamTask& request,
                                        const Intake& intake) {
  return Reader(intake).ReadOnly(request);
}

absl::Status CheckStreamTasks(const v1::StreamTasksRequest& request) {
  Findings findings;
  CheckCount(request.tasks_size(), kMaxStreamTasks, "tasks", "task", findings);
  if (request.has_task()) {
    findings.Add("task", "must not be set beside tasks");
  }
  return findings.status();
}

absl::StatusOr<BatchCall> ReadBatchSendTasks(
    const v1::BatchSendTasksRequest& request, const Intake& intake) {
  Reader reader(intake);
  reader.CheckRequestId(request.request_id());
  const int count = request.tasks_size();
  CheckCount(count, kMaxBatch, "tasks", "task", reader.findings());
  if (absl::Status status = reader.findings().status(); !status.ok()) {
    return status;
  }
  BatchCall call;
  if (intake.repeats) call.payload_hash = HashOf(request);
  call.tasks.reserve(count);
  for (int i = 0; i < count; ++i) {
    call.tasks.push_back(
        reader.ReadOne(request.tasks(i), absl::StrCat("tasks[", i, "]")));
  }
  return call;
}

absl::StatusOr<ChainCall> ReadSendChain(const v1::SendChainRequest& request,
                                        const Intake& intake) {
  Reader reader(intake);
  reader.InWorkflow();
  Findings& findings = reader.findings();
  reader.CheckRequestId(request.request_id());
  ChainCall call;
  const int count = request.tasks_size();
  if (CheckCount(count, kMaxChain, "tasks", "task", findings)) {
    // With a first id of the caller's, the others follow from it: so a repeat of
    // the call is the same chain.
    const std::string& first_id = request.tasks(0).id();
    for (int i = 0; i < count && !findings.too_large(); ++i) {
      Place place{.path = absl::StrCat("tasks[", i, "]"),
                  .default_id = [&] {
                    return first_id.empty() ? "task_" + intake.new_uuid()
                                            : ChildId(first_id, "chain", i);
                  }};
      if (i > 0) {
        place.no_schedule = "only the first link of a chain may have a schedule";
      }
      if (i + 1 < count) {
        place.no_on_success =
            "only the last link of a chain may have on_success: the next link "
            "is what follows";
      }
      call.links.push_back(reader.ReadTask(request.tasks(i), place));
    }
  }
  if (absl::Status status = findings.status(); !status.ok()) return status;

  // The first message holds all the links.
  size_t total = 0;
  for (const Task& link : call.links) total += reader.CheckSize(link, "tasks");
  if (total > kMaxMessage) findings.AddTooLarge("tasks", total, kMaxMessage);
  if (absl::Status status = findings.status(); !status.ok()) return status;
  call.payload_hash = HashOf(request);
  return call;
}

absl::StatusOr<GroupCall> ReadSendGroup(const v1::SendGroupRequest& request,
                                        const Intake& intake) {
  return ReadGroup(request, intake);
}

absl::StatusOr<GroupCall> ReadSendChord(const v1::SendChordRequest& request,
                                        const Intake& intake) {
  return ReadGroup(request, intake);
}

absl::StatusOr<StateCall> ReadGetState(const v1::GetStateRequest& request) {
  Findings findings;
  if (request.task_id().empty()) findings.Add("task_id", "is required");
  const absl::Duration wait = ReadDuration(request.wait(), "wait", findings)
                                  .value_or(absl::ZeroDuration());
  if (absl::Status status = findings.status(); !status.ok()) return status;
  return StateCall{.task_id = request.task_id(),
                   .wait = std::min(wait, kMaxWait)};
}

absl::StatusOr<std::vector<std::string>> ReadBatchGetStates(
    const v1::BatchGetStatesRequest& request) {
  return ReadIds(request.task_ids());
}

absl::StatusOr<std::vector<std::string>> ReadWatchState(
    const v1::WatchStateRequest& request) {
  return ReadIds(request.task_ids());
}

absl::StatusOr<GroupStateCall> ReadGetGroupState(
    const v1::GetGroupStateRequest& request) {
  Findings findings;
  GroupStateCall call{.group_id = request.group_id(),
                      .include_tasks = request.include_tasks(),
                      .page_size = kDefaultPage};
  if (request.group_id().empty()) findings.Add("group_id", "is required");
  call.wait = std::min(kMaxWait, ReadDuration(request.wait(), "wait", findings)
                                     .value_or(absl::ZeroDuration()));
  if (request.page_size() < 0) {
    findings.Add("page_size", "must not be negative");
  } else if (request.page_size() > 0) {
    call.page_size =
        std::min(static_cast<size_t>(request.page_size()), kMaxPage);
  }
  if (!request.page_token().empty()) {
    const std::optional<size_t> start =
        ReadPageToken(request.page_token(), request.group_id());
    if (start.has_value()) {
      call.page_start = *start;
    } else {
      findings.Add("page_token",
                   "is not a next_page_token of an answer about this group");
    }
  }
  if (absl::Status status = findings.status(); !status.ok()) return status;
  return call;
}

absl::StatusOr<CancelCall> ReadCancelTask(
    const v1::CancelTaskRequest& request) {
  return ReadCancel("task_id", request.task_id(), request.reason());
}

absl::StatusOr<CancelCall> ReadCancelGroup(
    const v1::CancelGroupRequest& request) {
  return ReadCancel("group_id", request.group_id(), request.reason());
}

std::string PayloadHash(const google::protobuf::Message& message) {
  return HashOf(message);
}

absl::Status InvalidFields(const std::vector<FieldViolation>& violations) {
  Findings findings;
  for (const FieldViolation& violation : violations) {
    findings.Add(violation.field, violation.description);
  }
  return findings.status();
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& error) {
  std::vector<FieldViolation> violations;
  const auto payload = error.GetPayload(kBadRequestUrl);
  google::rpc::BadRequest bad;
  if (!payload.has_value() || !bad.ParseFromString(std::string(*payload))) {
    return violations;
  }
  for (const auto& violation : bad.field_violations()) {
    violations.push_back({violation.field(), violation.description()});
  }
  return violations;
}

std::string PageToken(const std::string& group_id, size_t page_start) {
  return absl::StrCat(page_start, "-", PageSeal(group_id, page_start));
}

// ---- answers --------------------------------------------------------------

v1::TaskStatus WriteStatus(const TaskState& state) {
  switch (state.status) {
    case Status::kUnknown:
      return v1::TASK_STATUS_UNSPECIFIED;
    case Status::kPending:
      return v1::TASK_STATUS_PENDING;
    case Status::kReceived:
      return v1::TASK_STATUS_RECEIVED;
    case Status::kStarted:
      return v1::TASK_STATUS_STARTED;
    case Status::kRetry:
      return v1::TASK_STATUS_RETRY;
    case Status::kSuccess:
      return v1::TASK_STATUS_SUCCESS;
    case Status::kFailure:
      // On the wire it is a failure: Go clients would wait for ever for a status
      // that they do not know.
      return state.error_type == kErrorCancelled ? v1::TASK_STATUS_CANCELLED
                                                 : v1::TASK_STATUS_FAILURE;
  }
  return v1::TASK_STATUS_UNSPECIFIED;
}

void WriteTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  out->set_seconds(seconds);
  out->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

void WriteState(const TaskState& state, v1::TaskState* out) {
  out->set_task_id(state.task_id);
  out->set_status(WriteStatus(state));
  for (const Value& result : state.results) {
    WriteResult(result, out->add_results());
  }
  const bool retry = state.status == Status::kRetry;
  if (state.status == Status::kFailure || (retry && !state.error.empty())) {
    v1::TaskError* error = out->mutable_error();
    error->set_message(state.error);
    error->set_type(state.error_type);
    error->set_retryable(retry);
  }
  out->set_name(state.task_name);
  if (state.create_time > GoZeroTime()) {
    WriteTime(state.create_time, out->mutable_create_time());
  }
  if (state.start_time.has_value()) {
    WriteTime(*state.start_time, out->mutable_start_time());
  }
  if (state.finish_time.has_value()) {
    WriteTime(*state.finish_time, out->mutable_finish_time());
  }
  out->set_attempt(state.attempt);
  if (retry && state.next_attempt_time.has_value()) {
    WriteTime(*state.next_attempt_time, out->mutable_next_attempt_time());
  }
  out->set_worker_id(state.worker);
  out->set_group_id(state.group_id);
  if (state.progress.has_value()) {
    v1::TaskProgress* progress = out->mutable_progress();
    progress->set_fraction(state.progress->fraction);
    progress->set_text(state.progress->text);
    WriteTime(state.progress->time, progress->mutable_update_time());
  }
  if (state.status == Status::kUnknown) out->set_raw_status(state.raw_status);
}

// ---- errors ---------------------------------------------------------------

namespace {

constexpr char kDomain[] = "penstock.dev";

std::string Lookup(const std::map<std::string, std::string>& metadata,
                   const char* key) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? "" : found->second;
}

void AddRetryInfo(absl::Duration delay, google::rpc::Status& status) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(delay % absl::Seconds(1))));
  status.add_details()->PackFrom(retry);
}

void AddQuotaFailure(const std::string& subject, const std::string& text,
                     google::rpc::Status& status) {
  google::rpc::QuotaFailure quota;
  auto* violation = quota.add_violations();
  violation->set_subject(subject);
  violation->set_description(text);
  status.add_details()->PackFrom(quota);
}

void AddPreconditionFailure(const std::string& type, const std::string& subject,
                            const std::string& text,
                            google::rpc::Status& status) {
  google::rpc::PreconditionFailure failure;
  auto* violation = failure.add_violations();
  violation->set_type(type);
  violation->set_subject(subject);
  violation->set_description(text);
  status.add_details()->PackFrom(failure);
}

void AddResourceInfo(const char* type, const std::string& name,
                     const std::string& text, google::rpc::Status& status) {
  google::rpc::ResourceInfo resource;
  resource.set_resource_type(type);
  resource.set_resource_name(name);
  resource.set_description(text);
  status.add_details()->PackFrom(resource);
}

// What goes with `reason` besides the ErrorInfo.
void AddDetailsOf(const std::string& why,
                  const std::map<std::string, std::string>& metadata,
                  const std::string& text, google::rpc::Status& status) {
  if (why == reason::kTaskNotFound) {
    AddResourceInfo("penstock.v1.Task", Lookup(metadata, "task_id"), text,
                    status);
  } else if (why == reason::kGroupNotFound) {
    AddResourceInfo("penstock.v1.Group", Lookup(metadata, "group_id"), text,
                    status);
  } else if (why == reason::kScheduleNotFound) {
    AddResourceInfo("penstock.v1.Schedule", Lookup(metadata, "schedule"), text,
                    status);
  } else if (why == reason::kQueueNotFound) {
    AddPreconditionFailure(why, Lookup(metadata, "routing_key"), text, status);
  } else if (why == reason::kBackendUnsupported) {
    AddPreconditionFailure(why, "result_backend", text, status);
  } else if (why == reason::kTooManyInFlight) {
    AddQuotaFailure(Lookup(metadata, "limit"), text, status);
    AddRetryInfo(absl::Milliseconds(200), status);
  } else if (why == reason::kPayloadTooLarge) {
    AddQuotaFailure(Lookup(metadata, "field"), text, status);
  } else if (status.code() == grpc::StatusCode::UNAVAILABLE) {
    AddRetryInfo(absl::Seconds(1), status);
  }
}

}  // namespace

void WriteError(const absl::Status& error, google::rpc::Status* out) {
  // Lifecycle ends what it holds with CANCELLED when it stops.
  if (absl::IsCancelled(error)) {
    return WriteError(
        MakeError(absl::StatusCode::kUnavailable, reason::kDraining,
                  "the gateway is stopping; the call may or may not have taken "
                  "effect"),
        out);
  }
  google::rpc::Status& status = *out;
  status.set_code(static_cast<int>(error.code()));
  status.set_message(Cut(error.message(), kMaxMessageText));

  std::map<std::string, std::string> metadata = MetadataOf(error);
  google::rpc::ErrorInfo info;
  info.set_reason(ReasonOf(error));
  info.set_domain(kDomain);
  for (auto& [key, value] : metadata) {
    value = Cut(value, kMaxDetailText);
    (*info.mutable_metadata())[key] = value;
  }
  status.add_details()->PackFrom(info);
  if (const auto bad = error.GetPayload(kBadRequestUrl); bad.has_value()) {
    auto* any = status.add_details();
    any->set_type_url(kBadRequestUrl);
    any->set_value(std::string(*bad));
  } else {
    AddDetailsOf(info.reason(), metadata, Cut(error.message(), kMaxDetailText),
                 status);
  }
}

grpc::Status StatusOf(const absl::Status& error) {
  if (error.ok()) return grpc::Status::OK;
  google::rpc::Status status;
  WriteError(error, &status);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      status.message(), status.SerializeAsString());
}

}  // namespace penstock
