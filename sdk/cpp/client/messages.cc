#include "sdk/cpp/client/messages.h"

#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"

namespace penstock::client {
namespace {

constexpr char kTypes[] = "type.googleapis.com/";

absl::string_view View(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

// ---- out ------------------------------------------------------------------

template <typename List, typename T>
void Fill(List* list, const std::vector<T>& values) {
  list->mutable_values()->Reserve(static_cast<int>(values.size()));
  for (const auto& value : values) list->add_values(value);
}

void WriteValue(const Value& value, v1::Value* out) {
  out->set_type(value.type());
  std::visit(
      [out](const auto& kind) {
        using T = std::decay_t<decltype(kind)>;
        if constexpr (std::is_same_v<T, bool>) {
          out->set_bool_value(kind);
        } else if constexpr (std::is_same_v<T, int64_t>) {
          out->set_int_value(kind);
        } else if constexpr (std::is_same_v<T, uint64_t>) {
          out->set_uint_value(kind);
        } else if constexpr (std::is_same_v<T, double>) {
          out->set_float_value(kind);
        } else if constexpr (std::is_same_v<T, std::string>) {
          out->set_string_value(kind);
        } else if constexpr (std::is_same_v<T, Bytes>) {
          out->set_bytes_value(kind.data(), kind.size());
        } else if constexpr (std::is_same_v<T, std::vector<bool>>) {
          Fill(out->mutable_bools(), kind);
        } else if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
          Fill(out->mutable_ints(), kind);
        } else if constexpr (std::is_same_v<T, std::vector<uint64_t>>) {
          Fill(out->mutable_uints(), kind);
        } else if constexpr (std::is_same_v<T, std::vector<double>>) {
          Fill(out->mutable_floats(), kind);
        } else {
          Fill(out->mutable_strings(), kind);
        }
      },
      value.kind());
}

void WriteTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  out->set_seconds(seconds);
  out->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

// ---- in -------------------------------------------------------------------

template <typename T, typename List>
std::vector<T> ReadList(const List& list) {
  return std::vector<T>(list.values().begin(), list.values().end());
}

Value ReadValue(const v1::Value& in) {
  const auto kind = [&]() -> Value {
    switch (in.kind_case()) {
      case v1::Value::kBoolValue:
        return in.bool_value();
      case v1::Value::kIntValue:
        return int64_t{in.int_value()};
      case v1::Value::kUintValue:
        return uint64_t{in.uint_value()};
      case v1::Value::kFloatValue:
        return in.float_value();
      case v1::Value::kBytesValue:
        return Bytes(in.bytes_value().begin(), in.bytes_value().end());
      case v1::Value::kBools:
        return ReadList<bool>(in.bools());
      case v1::Value::kInts:
        return ReadList<int64_t>(in.ints());
      case v1::Value::kUints:
        return ReadList<uint64_t>(in.uints());
      case v1::Value::kFloats:
        return ReadList<double>(in.floats());
      case v1::Value::kStrings:
        return ReadList<std::string>(in.strings());
      default:
        return in.string_value();
    }
  };
  return Value::Typed(in.type(), kind());
}

absl::Duration ReadDuration(const google::protobuf::Duration& in) {
  return absl::Seconds(in.seconds()) + absl::Nanoseconds(in.nanos());
}

absl::Time ReadTime(const google::protobuf::Timestamp& in) {
  return absl::FromUnixSeconds(in.seconds()) + absl::Nanoseconds(in.nanos());
}

TaskStatus ReadStatus(v1::TaskStatus status) {
  switch (status) {
    case v1::TASK_STATUS_PENDING:
      return TaskStatus::kPending;
    case v1::TASK_STATUS_RECEIVED:
      return TaskStatus::kReceived;
    case v1::TASK_STATUS_STARTED:
      return TaskStatus::kStarted;
    case v1::TASK_STATUS_RETRY:
      return TaskStatus::kRetry;
    case v1::TASK_STATUS_SUCCESS:
      return TaskStatus::kSuccess;
    case v1::TASK_STATUS_FAILURE:
      return TaskStatus::kFailure;
    case v1::TASK_STATUS_CANCELLED:
      return TaskStatus::kCancelled;
    default:
      return TaskStatus::kUnknown;
  }
}

// ---- errors ---------------------------------------------------------------

template <typename Detail>
std::string UrlOf() {
  return absl::StrCat(kTypes, Detail::descriptor()->full_name());
}

template <typename Detail>
void Attach(const Detail& detail, absl::Status& status) {
  status.SetPayload(UrlOf<Detail>(), absl::Cord(detail.SerializeAsString()));
}

template <typename Detail>
std::optional<Detail> Find(const absl::Status& status) {
  const auto payload = status.GetPayload(UrlOf<Detail>());
  Detail detail;
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) {
    return std::nullopt;
  }
  return detail;
}

// A task's state that says why there is no result, as a detail of its own.
absl::Status FailureOf(const TaskState& state) {
  const bool cancelled = state.status == TaskStatus::kCancelled;
  v1::TaskState detail;
  detail.set_task_id(state.task_id);
  detail.set_status(cancelled ? v1::TASK_STATUS_CANCELLED
                              : v1::TASK_STATUS_FAILURE);
  const TaskError error = state.error.value_or(TaskError{});
  detail.mutable_error()->set_message(error.message);
  detail.mutable_error()->set_type(error.type);
  absl::Status status = MakeError(
      cancelled ? absl::StatusCode::kCancelled : absl::StatusCode::kAborted,
      cancelled ? kTaskCancelled : kTaskFailed,
      absl::StrCat(
          "task ", state.task_id,
          cancelled ? " was cancelled: " : " failed: ", error.message));
  Attach(detail, status);
  return status;
}

}  // namespace

absl::Status WriteTask(const Task& task, v1::Task* out) {
  if (task.eta.has_value() && task.delay.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "task \"", task.name, "\" has both an eta and a delay: set one"));
  }
  absl::Status bad;
  const auto write = [&](const std::optional<absl::Duration>& from,
                         const char* what, auto target) {
    if (!from.has_value()) return;
    // The longest that google.protobuf.Duration can say.
    if (absl::AbsDuration(*from) > absl::Hours(24 * 365 * 10'000)) {
      bad.Update(absl::InvalidArgumentError(absl::StrCat(
          "task \"", task.name, "\": ", what, " is longer than 10,000 years")));
      return;
    }
    WriteDuration(*from, target());
  };
  out->set_name(task.name);
  for (const Value& arg : task.args) WriteValue(arg, out->add_args());
  out->set_id(task.id);
  out->set_routing_key(task.routing_key);
  if (task.eta.has_value()) {
    if (*task.eta == absl::InfiniteFuture()) {
      return absl::InvalidArgumentError(
          absl::StrCat("task \"", task.name, "\": eta is never"));
    }
    WriteTime(std::max(*task.eta, absl::UnixEpoch()), out->mutable_eta());
  }
  write(task.delay, "delay", [&] { return out->mutable_delay(); });
  out->set_retry_count(task.retry_count);
  write(task.retry_delay, "retry_delay",
        [&] { return out->mutable_retry_delay(); });
  if (task.exponential_backoff.has_value()) {
    const ExponentialBackoff& from = *task.exponential_backoff;
    v1::ExponentialBackoff* backoff = out->mutable_exponential_backoff();
    write(from.first_delay, "first_delay",
          [&] { return backoff->mutable_first_delay(); });
    backoff->set_factor(from.factor);
    write(from.max_delay, "max_delay",
          [&] { return backoff->mutable_max_delay(); });
    backoff->set_jitter(from.jitter);
  }
  out->set_priority(task.priority);
  out->set_immutable(task.immutable);
  out->mutable_headers()->insert(task.headers.begin(), task.headers.end());
  for (const Task& next : task.on_success) {
    bad.Update(WriteTask(next, out->add_on_success()));
  }
  for (const Task& next : task.on_error) {
    bad.Update(WriteTask(next, out->add_on_error()));
  }
  out->set_ignore_when_task_not_registered(
      task.ignore_when_task_not_registered);
  write(task.timeout, "timeout", [&] { return out->mutable_timeout(); });
  write(task.expire_after, "expire_after",
        [&] { return out->mutable_expire_after(); });
  out->set_unique_key(task.unique_key);
  write(task.result_ttl, "result_ttl",
        [&] { return out->mutable_result_ttl(); });
  return bad;
}

void WriteDuration(absl::Duration duration, google::protobuf::Duration* out) {
  out->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out->set_nanos(static_cast<int32_t>(
      absl::IDivDuration(duration, absl::Nanoseconds(1), &duration)));
}

TaskState ReadState(const v1::TaskState& in) {
  TaskState out{.task_id = in.task_id(),
                .status = ReadStatus(in.status()),
                .name = in.name(),
                .attempt = in.attempt(),
                .worker_id = in.worker_id(),
                .group_id = in.group_id(),
                .raw_status = in.raw_status()};
  out.results.reserve(in.results_size());
  for (const v1::Value& result : in.results()) {
    out.results.push_back(ReadValue(result));
  }
  if (in.has_error()) {
    out.error = TaskError{.message = in.error().message(),
                          .type = in.error().type(),
                          .retryable = in.error().retryable()};
  }
  if (in.has_create_time()) out.create_time = ReadTime(in.create_time());
  if (in.has_start_time()) out.start_time = ReadTime(in.start_time());
  if (in.has_finish_time()) out.finish_time = ReadTime(in.finish_time());
  if (in.has_next_attempt_time()) {
    out.next_attempt_time = ReadTime(in.next_attempt_time());
  }
  if (in.has_progress()) {
    out.progress =
        TaskProgress{.fraction = in.progress().fraction(),
                     .text = in.progress().text(),
                     .update_time = ReadTime(in.progress().update_time())};
  }
  return out;
}

GroupState ReadGroup(const v1::GroupState& in) {
  GroupState out{.group_id = in.group_id(),
                 .total = in.total(),
                 .chord_triggered = in.chord_triggered(),
                 .done = in.done()};
  for (const v1::StatusCount& count : in.counts()) {
    out.counts[ReadStatus(count.status())] += count.count();
  }
  if (in.has_callback()) out.callback = ReadState(in.callback());
  return out;
}

bool IsFinal(v1::TaskStatus status) { return IsFinal(ReadStatus(status)); }

absl::StatusOr<std::vector<Value>> ResultsOf(TaskState state) {
  if (state.status == TaskStatus::kSuccess) return std::move(state.results);
  if (IsFinal(state.status)) return FailureOf(state);
  return MakeError(absl::StatusCode::kNotFound, "TASK_NOT_FOUND",
                   absl::StrCat("task ", state.task_id,
                                " was never sent, or its state has expired"));
}

absl::Status StatusFrom(const google::rpc::Status& status) {
  absl::Status out(static_cast<absl::StatusCode>(status.code()),
                   status.message());
  for (const auto& detail : status.details()) {
    out.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return out;
}

absl::Status StatusFrom(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status all;
  if (!all.ParseFromString(status.error_details())) all.Clear();
  all.set_code(static_cast<int>(status.error_code()));
  all.set_message(status.error_message());
  return StatusFrom(all);
}

absl::Status MakeError(absl::StatusCode code, std::string_view reason,
                       std::string_view message) {
  absl::Status status(code, View(message));
  google::rpc::ErrorInfo info;
  info.set_reason(reason.data(), reason.size());
  info.set_domain("penstock.dev");
  Attach(info, status);
  return status;
}

Error ErrorOf(const absl::Status& status) {
  Error error{.code = status.code(), .message = std::string(status.message())};
  if (const auto info = Find<google::rpc::ErrorInfo>(status)) {
    error.reason = info->reason();
    error.metadata = {info->metadata().begin(), info->metadata().end()};
  }
  if (const auto bad = Find<google::rpc::BadRequest>(status)) {
    for (const auto& violation : bad->field_violations()) {
      error.violations.push_back({violation.field(), violation.description()});
    }
  }
  if (const auto retry = Find<google::rpc::RetryInfo>(status)) {
    error.retry_delay = ReadDuration(retry->retry_delay());
  }
  if (const auto state = Find<v1::TaskState>(status)) {
    error.task = TaskFailure{.task_id = state->task_id(),
                             .status = ReadStatus(state->status()),
                             .message = state->error().message(),
                             .type = state->error().type()};
  }
  return error;
}

std::string_view StatusName(TaskStatus status) {
  switch (status) {
    case TaskStatus::kUnknown:
      return "";
    case TaskStatus::kPending:
      return "PENDING";
    case TaskStatus::kReceived:
      return "RECEIVED";
    case TaskStatus::kStarted:
      return "STARTED";
    case TaskStatus::kRetry:
      return "RETRY";
    case TaskStatus::kSuccess:
      return "SUCCESS";
    case TaskStatus::kFailure:
      return "FAILURE";
    case TaskStatus::kCancelled:
      return "CANCELLED";
  }
  return "";
}

bool IsFinal(TaskStatus status) {
  return status == TaskStatus::kSuccess || status == TaskStatus::kFailure ||
         status == TaskStatus::kCancelled;
}

}  // namespace penstock::client
