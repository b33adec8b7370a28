// Text for people is one line a thing; what a task returned or failed with may
// hold line breaks and terminal codes, so these are escaped or blanked.

#include "tools/penstockctl/print.h"

#include <array>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "queue/json.h"

namespace penstock::ctl {
namespace {

std::string OneLine(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

std::string ShowNumber(double number) {
  std::string text;
  AppendJsonDouble(number, &text);
  return text;
}

template <typename List, typename Show>
std::string ShowList(const List& list, Show show) {
  std::vector<std::string> shown;
  for (const auto& element : list.values()) shown.push_back(show(element));
  return absl::StrCat("[", absl::StrJoin(shown, ", "), "]");
}

std::string ShowBool(bool value) { return value ? "true" : "false"; }

// "SUCCESS" of TASK_STATUS_SUCCESS, and the stored text of an unknown one.
std::string ShowStatus(v1::TaskStatus status) {
  const std::string prefix = "TASK_STATUS_";
  std::string name = v1::TaskStatus_Name(status);
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

std::string CodeName(grpc::StatusCode code) {
  constexpr auto kNames = std::to_array<const char*>(
      {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
       "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
       "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
       "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"});
  size_t index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : absl::StrCat("code ", code);
}

}  // namespace

std::string ShowValue(const v1::Value& value) {
  using Kind = v1::Value::KindCase;
  switch (value.kind_case()) {
    case Kind::kBoolValue:
      return ShowBool(value.bool_value());
    case Kind::kIntValue:
      return absl::StrCat(value.int_value());
    case Kind::kUintValue:
      return absl::StrCat(value.uint_value());
    case Kind::kFloatValue:
      return ShowNumber(value.float_value());
    case Kind::kStringValue:
      return JsonString(value.string_value());
    case Kind::kBytesValue:
      return absl::Base64Escape(value.bytes_value());
    case Kind::kBools:
      return ShowList(value.bools(), ShowBool);
    case Kind::kInts:
      return ShowList(value.ints(), [](int64_t n) { return absl::StrCat(n); });
    case Kind::kUints:
      return ShowList(value.uints(),
                      [](uint64_t n) { return absl::StrCat(n); });
    case Kind::kFloats:
      return ShowList(value.floats(), ShowNumber);
    case Kind::kStrings:
      return ShowList(value.strings(),
                      [](const std::string& s) { return JsonString(s); });
    case Kind::KIND_NOT_SET:
      break;
  }
  return absl::StrCat("(a value of type ", OneLine(value.type()), ")");
}

std::string ShowState(const v1::TaskState& state) {
  std::string line =
      absl::StrCat(OneLine(state.task_id()), "  ",
                   state.raw_status().empty() ? ShowStatus(state.status())
                                              : OneLine(state.raw_status()));
  switch (state.status()) {
    case v1::TASK_STATUS_SUCCESS:
      if (state.results_size() > 0) absl::StrAppend(&line, " ");
      for (const v1::Value& result : state.results()) {
        absl::StrAppend(&line, " ", ShowValue(result));
      }
      break;
    case v1::TASK_STATUS_FAILURE:
    case v1::TASK_STATUS_CANCELLED:
      absl::StrAppend(&line, "  ", OneLine(state.error().message()));
      break;
    case v1::TASK_STATUS_RETRY:
      absl::StrAppend(&line, "  ", OneLine(state.error().message()));
      if (state.has_next_attempt_time()) {
        absl::StrAppend(&line, " (again at ",
                        google::protobuf::util::TimeUtil::ToString(
                            state.next_attempt_time()),
                        ")");
      }
      break;
    case v1::TASK_STATUS_STARTED:
      if (!state.worker_id().empty()) {
        absl::StrAppend(&line, "  on ", OneLine(state.worker_id()));
      }
      if (state.has_progress()) {
        // Down: 100 only when all is done.
        absl::StrAppend(&line, "  ",
                        static_cast<int>(state.progress().fraction() * 100),
                        "%");
        if (!state.progress().text().empty()) {
          absl::StrAppend(&line, " ", OneLine(state.progress().text()));
        }
      }
      break;
    default:
      break;
  }
  return line;
}

std::string ShowGroup(const v1::GroupState& group) {
  std::vector<std::string> counts;
  for (const v1::StatusCount& count : group.counts()) {
    counts.push_back(
        absl::StrCat(count.count(), " ", ShowStatus(count.status())));
  }
  return absl::StrCat(OneLine(group.group_id()), "  ",
                      absl::StrJoin(counts, ", "), " of ", group.total(),
                      group.done() ? "  done" : "");
}

std::string ShowDead(const v1::DeadTask& task) {
  return absl::StrCat(
      OneLine(task.task_id()), "  ",
      google::protobuf::util::TimeUtil::ToString(task.time()), "  ",
      OneLine(task.name()), "  attempt ", task.attempts(), "  ",
      OneLine(task.reason()));
}

std::string ShowSchedule(const v1::Schedule& schedule) {
  using google::protobuf::util::TimeUtil;
  std::string line = absl::StrCat(OneLine(schedule.name()), "  ",
                                  OneLine(schedule.cron_spec()), "  ");
  if (schedule.paused()) {
    absl::StrAppend(&line, "paused");
  } else {
    absl::StrAppend(&line, "next ",
                    TimeUtil::ToString(schedule.next_tick_time()));
  }
  if (schedule.missed_ticks() == v1::MISSED_TICKS_RUN_ONCE) {
    absl::StrAppend(&line, "  runs missed ticks");
  }
  if (schedule.has_last_run()) {
    const v1::ScheduleRun& run = schedule.last_run();
    absl::StrAppend(&line, "  last ", TimeUtil::ToString(run.tick_time()));
    for (const std::string& id : {run.group_id(), run.task_id()}) {
      if (!id.empty()) absl::StrAppend(&line, " ", OneLine(id));
    }
  }
  if (!schedule.last_error().empty()) {
    absl::StrAppend(&line, "  error: ", OneLine(schedule.last_error()));
  }
  return line;
}

std::string ShowError(const grpc::Status& status) {
  std::string reason;
  std::string lines;
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&info)) {
      reason = absl::StrCat(" ", info.reason());
      for (const auto& [key, value] : info.metadata()) {
        absl::StrAppend(&lines, "\n  ", OneLine(key), ": ", OneLine(value));
      }
    } else if (detail.UnpackTo(&bad)) {
      for (const auto& field : bad.field_violations()) {
        absl::StrAppend(&lines, "\n  ", OneLine(field.field()), ": ",
                        OneLine(field.description()));
      }
    } else if (detail.UnpackTo(&retry)) {
      absl::StrAppend(
          &lines, "\n  try again after ",
          google::protobuf::util::TimeUtil::ToString(retry.retry_delay()));
    }
  }
  return absl::StrCat(CodeName(status.error_code()), reason, ": ",
                      OneLine(status.error_message()), lines);
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  auto status =
      google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : absl::StrCat("{} // ", status.ToString());
}

bool IsFinal(const v1::TaskState& state) {
  return state.status() == v1::TASK_STATUS_SUCCESS || HasFailed(state);
}

bool HasFailed(const v1::TaskState& state) {
  return state.status() == v1::TASK_STATUS_FAILURE ||
         state.status() == v1::TASK_STATUS_CANCELLED;
}

}  // namespace penstock::ctl
