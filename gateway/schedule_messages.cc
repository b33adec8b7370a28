#include "gateway/schedule_messages.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "gateway/sends.h"
#include "queue/cron.h"
#include "queue/errors.h"
#include "queue/ids.h"

namespace penstock {
namespace {

// The limits that the comments of the contract name.
constexpr size_t kMaxName = 200;
constexpr size_t kMaxSpec = 200;
constexpr size_t kMaxCall = 1 << 20;
constexpr int kDefaultPage = 100;
constexpr int kMaxPage = 1'000;
// What is read at once where each may have a payload of 1 MiB.
constexpr int kMaxPageWithPayload = 20;

using Violations = std::vector<FieldViolation>;

void CheckName(const std::string& name, Violations& bad) {
  if (name.empty()) {
    bad.push_back({"name", "is required"});
  } else if (name.size() > kMaxName ||
             !std::all_of(name.begin(), name.end(), [](unsigned char c) {
               return absl::ascii_isalnum(c) || c == '_' || c == '.' ||
                      c == ':' || c == '-';
             })) {
    bad.push_back(
        {"name", "must be 1 to 200 characters of A-Z a-z 0-9 _ . : -"});
  }
}

// What would be the same at each tick.
void CheckTask(const v1::Task& task, const std::string& path, Violations& bad) {
  if (!task.id().empty()) {
    bad.push_back(
        {path + ".id",
         "must be empty: a scheduled task has a new id at each tick"});
  }
  if (task.has_eta()) {
    bad.push_back(
        {path + ".eta", "is one time for all ticks: give a delay instead"});
  }
  const auto check_nested = [&](const auto& nested, const char* list) {
    for (int i = 0; i < nested.size(); ++i) {
      CheckTask(nested.Get(i), absl::StrCat(path, ".", list, "[", i, "]"), bad);
    }
  };
  check_nested(task.on_success(), "on_success");
  check_nested(task.on_error(), "on_error");
}

template <typename Request>  // a Send's, but for SendTaskRequest
void CheckTasks(const Request& request, const std::string& path,
                Violations& bad) {
  if (!request.request_id().empty()) {
    bad.push_back({path + ".request_id",
                   "must be empty: each tick is a call of its own"});
  }
  for (int i = 0; i < request.tasks_size(); ++i) {
    CheckTask(request.tasks(i), absl::StrCat(path, ".tasks[", i, "]"), bad);
  }
}

template <typename Request>  // a group's or a chord's
void CheckGroup(const Request& request, const std::string& path,
                Violations& bad) {
  CheckTasks(request, path, bad);
  if (!request.group_id().empty()) {
    bad.push_back(
        {path + ".group_id", "must be empty: each tick sends a new group"});
  }
}

// Reads `request` as its Send does. OK, or an error that has no bad fields.
template <typename Request>
absl::Status CheckSend(const Request& request, const std::string& prefix,
                       const Intake& intake, Violations& bad) {
  const absl::Status status = ReadSend(request, intake).status();
  Violations found = ViolationsOf(status);
  if (found.empty()) return status;
  for (FieldViolation& violation : found) {
    if (!violation.field.empty()) violation.field = prefix + violation.field;
    bad.push_back(std::move(violation));
  }
  return absl::OkStatus();
}

absl::Status CheckPayload(const v1::CreateScheduleRequest& request,
                          const Intake& intake, Violations& bad) {
  using Request = v1::CreateScheduleRequest;
  switch (request.payload_case()) {
    case Request::kTask: {
      CheckTask(request.task(), "task", bad);
      v1::SendTaskRequest send;
      *send.mutable_task() = request.task();
      return CheckSend(send, "", intake, bad);
    }
    case Request::kGroup:
      CheckGroup(request.group(), "group", bad);
      return CheckSend(request.group(), "group.", intake, bad);
    case Request::kChain:
      CheckTasks(request.chain(), "chain", bad);
      return CheckSend(request.chain(), "chain.", intake, bad);
    case Request::kChord:
      CheckGroup(request.chord(), "chord", bad);
      CheckTask(request.chord().callback(), "chord.callback", bad);
      CheckTask(request.chord().on_failure(), "chord.on_failure", bad);
      return CheckSend(request.chord(), "chord.", intake, bad);
    case Request::PAYLOAD_NOT_SET:
      break;
  }
  bad.push_back({"task", "is required: a task, a group, a chain or a chord"});
  return absl::OkStatus();
}

std::string PageSeal(const std::string& name) {
  return Fingerprint("schedules\n" + name).substr(0, 16);
}

}  // namespace

absl::StatusOr<ScheduleRecord> ReadCreateSchedule(
    const v1::CreateScheduleRequest& request, const Intake& intake) {
  if (const size_t bytes = request.ByteSizeLong(); bytes > kMaxCall) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, reason::kPayloadTooLarge,
        std::string(absl::StrCat("the schedule has ", bytes, " bytes; at most ",
                                 kMaxCall, " are kept")),
        {{"field", "payload"}, {"limit_bytes", absl::StrCat(kMaxCall)}});
  }
  Violations bad;
  CheckName(request.name(), bad);
  v1::CreateScheduleRequest call = request;
  if (call.missed_ticks() == v1::MISSED_TICKS_UNSPECIFIED) {
    call.set_missed_ticks(v1::MISSED_TICKS_SKIP);
  }
  ScheduleRecord record{
      .name = call.name(),
      .nonce = intake.new_uuid(),
      .payload_hash = PayloadHash(call),
      .cron_spec = call.cron_spec(),
      .run_missed = call.missed_ticks() == v1::MISSED_TICKS_RUN_ONCE,
      .call = call.SerializeAsString(),
      .create_time = intake.now};
  if (request.cron_spec().empty()) {
    bad.push_back({"cron_spec", "is required"});
  } else if (request.cron_spec().size() > kMaxSpec) {
    bad.push_back({"cron_spec", absl::StrCat("is ", request.cron_spec().size(),
                                             " bytes long; at most 200")});
  } else {
    absl::StatusOr<CronSpec> spec = CronSpec::Parse(request.cron_spec());
    if (spec.ok()) {
      record.next_tick = spec->Next(intake.now);
    } else {
      bad.push_back({"cron_spec", std::string(spec.status().message())});
    }
  }
  if (!v1::MissedTicks_IsValid(request.missed_ticks())) {
    bad.push_back(
        {"missed_ticks", "must be MISSED_TICKS_SKIP or MISSED_TICKS_RUN_ONCE"});
  }
  const absl::Status payload = CheckPayload(request, intake, bad);
  if (!bad.empty()) return InvalidFields(bad);
  if (!payload.ok()) return payload;
  return record;
}

absl::StatusOr<v1::CreateScheduleRequest> ReadCall(
    const ScheduleRecord& record) {
  v1::CreateScheduleRequest call;
  if (call.ParseFromString(record.call)) return call;
  return MakeError(absl::StatusCode::kInternal, reason::kInternal,
                   "what the schedule sends cannot be read");
}

absl::StatusOr<ListSchedulesCall> ReadListSchedules(
    const v1::ListSchedulesRequest& request) {
  Violations bad;
  ListSchedulesCall call{.limit = kDefaultPage,
                         .with_call = request.include_payload()};
  if (request.page_size() < 0) {
    bad.push_back({"page_size", "must not be negative"});
  } else if (request.page_size() > 0) {
    call.limit = std::min(request.page_size(), kMaxPage);
  }
  if (call.with_call) call.limit = std::min(call.limit, kMaxPageWithPayload);
  const std::string& token = request.page_token();
  if (!token.empty()) {
    const size_t dash = token.find('-');
    if (dash != token.npos) call.after = token.substr(dash + 1);
    if (token != SchedulesPageToken(call.after)) {
      bad.push_back({"page_token",
                     "is not a next_page_token of an answer of ListSchedules"});
    }
  }
  if (absl::Status status = InvalidFields(bad); !status.ok()) return status;
  return call;
}

std::string SchedulesPageToken(const std::string& name) {
  return absl::StrCat(PageSeal(name), "-", name);
}

absl::Status CheckScheduleName(const std::string& name) {
  Violations bad;
  CheckName(name, bad);
  return InvalidFields(bad);
}

void WriteSchedule(const ScheduleRecord& record, v1::Schedule* out) {
  out->set_name(record.name);
  out->set_cron_spec(record.cron_spec);
  out->set_missed_ticks(record.run_missed ? v1::MISSED_TICKS_RUN_ONCE
                                          : v1::MISSED_TICKS_SKIP);
  out->set_paused(record.paused);
  WriteTime(record.create_time, out->mutable_create_time());
  if (record.last_tick.has_value()) {
    WriteTime(*record.last_tick, out->mutable_last_tick_time());
  }
  if (!record.paused)
    WriteTime(record.next_tick, out->mutable_next_tick_time());
  out->set_last_error(record.last_error);
  if (record.last_run.has_value()) {
    v1::ScheduleRun* run = out->mutable_last_run();
    WriteTime(record.last_run->tick, run->mutable_tick_time());
    run->set_task_id(record.last_run->task_id);
    run->set_group_id(record.last_run->group_id);
  }
  if (record.call.empty()) return;
  absl::StatusOr<v1::CreateScheduleRequest> call = ReadCall(record);
  if (!call.ok()) return;
  switch (call->payload_case()) {
    case v1::CreateScheduleRequest::kTask:
      out->mutable_task()->Swap(call->mutable_task());
      break;
    case v1::CreateScheduleRequest::kGroup:
      out->mutable_group()->Swap(call->mutable_group());
      break;
    case v1::CreateScheduleRequest::kChain:
      out->mutable_chain()->Swap(call->mutable_chain());
      break;
    case v1::CreateScheduleRequest::kChord:
      out->mutable_chord()->Swap(call->mutable_chord());
      break;
    case v1::CreateScheduleRequest::PAYLOAD_NOT_SET:
      break;
  }
}

}  // namespace penstock
