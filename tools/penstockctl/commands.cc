// One function a command. A send that waits is one call. A wait longer than the
// gateway's limit is made of several calls; a wait for many tasks asks for one
// after the other, which takes no longer than the slowest of them.

#include "tools/penstockctl/commands.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/util/time_util.h"
#include "tools/penstockctl/print.h"
#include "tools/penstockctl/values.h"

namespace penstock::ctl {
namespace {

constexpr absl::Duration kDefaultTimeout = absl::Seconds(30);
constexpr absl::Duration kLongestWait = absl::Seconds(60);  // of one call

using google::protobuf::util::TimeUtil;

// How a TypedValue becomes the case of a v1::Value: one line a kind.
struct ToValue {
  v1::Value& out;

  void operator()(bool v) const { out.set_bool_value(v); }
  void operator()(int64_t v) const { out.set_int_value(v); }
  void operator()(uint64_t v) const { out.set_uint_value(v); }
  void operator()(double v) const { out.set_float_value(v); }
  void operator()(const std::string& v) const { out.set_string_value(v); }
  void operator()(const Bytes& v) const {
    out.set_bytes_value(std::string(v.begin(), v.end()));
  }
  void operator()(const std::vector<bool>& v) const {
    Fill(v, *out.mutable_bools());
  }
  void operator()(const std::vector<int64_t>& v) const {
    Fill(v, *out.mutable_ints());
  }
  void operator()(const std::vector<uint64_t>& v) const {
    Fill(v, *out.mutable_uints());
  }
  void operator()(const std::vector<double>& v) const {
    Fill(v, *out.mutable_floats());
  }
  void operator()(const std::vector<std::string>& v) const {
    for (const std::string& text : v) out.mutable_strings()->add_values(text);
  }

  // Called for an empty list too, so that the case is set.
  template <typename List, typename Message>
  static void Fill(const List& list, Message& message) {
    for (auto element : list) message.add_values(element);
  }
};

class Runner {
 public:
  Runner(const Command& command, v1::GatewayService::StubInterface& gateway,
         v1::AdminService::StubInterface& admin, std::ostream& out,
         std::ostream& err)
      : command_(command),
        gateway_(gateway),
        admin_(admin),
        out_(out),
        err_(err) {}

  ExitStatus Run();

 private:
  ExitStatus Send();
  ExitStatus SendGroup();
  ExitStatus SendChain();
  ExitStatus SendChord();
  ExitStatus ShowStates(const std::vector<std::string>& task_ids) {
    return ShowStates(task_ids, absl::Now() + command_.wait);
  }
  ExitStatus ShowStates(const std::vector<std::string>& task_ids,
                        absl::Time end);
  ExitStatus Watch();
  ExitStatus ShowGroupState();
  ExitStatus Cancel();
  ExitStatus CancelGroup();
  ExitStatus CreateSchedule();
  ExitStatus ListSchedules();
  template <typename Request, typename Response>
  ExitStatus ForEachSchedule(
      grpc::Status (v1::AdminService::StubInterface::*method)(
          grpc::ClientContext*, const Request&, Response*));
  ExitStatus ListDead();
  ExitStatus RetryDead();
  ExitStatus DeleteDead();

  // The one task, with the flags that go with it.
  v1::Task TaskWithFlags();

  // False, with the words at fault on `err_`, when an argument is none.
  bool BuildTasks();

  // Makes one call; `status_` keeps a failure for CallFailed.
  template <typename Stub, typename Request, typename Response>
  bool Call(Stub& stub,
            grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                         Response*),
            const Request& request, Response* response,
            absl::Duration wait = absl::ZeroDuration());

  ExitStatus CallFailed() {
    err_ << "penstockctl: " << ShowError(status_) << "\n";
    return kExitCallFailed;
  }

  // Prints ids, one a line, or the response as JSON.
  template <typename Response>
  void Print(const Response& response, const std::vector<std::string>& lines);

  const Command& command_;
  v1::GatewayService::StubInterface& gateway_;
  v1::AdminService::StubInterface& admin_;
  std::ostream& out_;
  std::ostream& err_;
  std::vector<v1::Task> tasks_;
  grpc::Status status_;
};

bool Runner::BuildTasks() {
  for (const TaskWords& words : command_.tasks) {
    v1::Task& task = tasks_.emplace_back();
    task.set_name(words.name);
    for (const std::string& word : words.args) {
      absl::StatusOr<TypedArg> arg = ParseArg(word);
      if (!arg.ok()) {
        err_ << "penstockctl: " << words.name << ": " << arg.status().message()
             << "\n";
        return false;
      }
      v1::Value& value = *task.add_args();
      value.set_type(arg->type);
      std::visit(ToValue{value}, arg->value);
    }
  }
  return true;
}

template <typename Stub, typename Request, typename Response>
bool Runner::Call(Stub& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*,
                                               const Request&, Response*),
                  const Request& request, Response* response,
                  absl::Duration wait) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(
      absl::Now() + wait + command_.timeout.value_or(kDefaultTimeout)));
  status_ = (stub.*method)(&context, request, response);
  return status_.ok();
}

template <typename Response>
void Runner::Print(const Response& response,
                   const std::vector<std::string>& lines) {
  if (command_.json) {
    out_ << ToJson(response) << std::endl;
    return;
  }
  for (const std::string& line : lines) out_ << line << std::endl;
}

ExitStatus Runner::Run() {
  if (!BuildTasks()) return kExitUsage;
  switch (command_.verb) {
    case Verb::kSend:
      return Send();
    case Verb::kGroup:
      return SendGroup();
    case Verb::kChain:
      return SendChain();
    case Verb::kChord:
      return SendChord();
    case Verb::kState:
      return ShowStates(command_.ids);
    case Verb::kWatch:
      return Watch();
    case Verb::kGroupState:
      return ShowGroupState();
    case Verb::kCancel:
      return Cancel();
    case Verb::kCancelGroup:
      return CancelGroup();
    case Verb::kSchedulesCreate:
      return CreateSchedule();
    case Verb::kSchedulesList:
      return ListSchedules();
    case Verb::kSchedulesPause:
      return ForEachSchedule(&v1::AdminService::StubInterface::PauseSchedule);
    case Verb::kSchedulesResume:
      return ForEachSchedule(&v1::AdminService::StubInterface::ResumeSchedule);
    case Verb::kSchedulesDelete:
      return ForEachSchedule(&v1::AdminService::StubInterface::DeleteSchedule);
    case Verb::kDeadList:
      return ListDead();
    case Verb::kDeadRetry:
      return RetryDead();
    case Verb::kDeadDelete:
      return DeleteDead();
    case Verb::kHelp:
    case Verb::kVersion:
      break;
  }
  return kExitUsage;
}

v1::Task Runner::TaskWithFlags() {
  v1::Task task = std::move(tasks_.front());
  task.set_id(command_.id);
  task.set_unique_key(command_.unique_key);
  task.set_routing_key(command_.queue);
  task.set_retry_count(command_.retries);
  task.set_priority(command_.priority);
  if (command_.eta.has_value()) {
    *task.mutable_eta() =
        TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(*command_.eta));
  }
  if (command_.delay.has_value()) {
    *task.mutable_delay() = TimeUtil::NanosecondsToDuration(
        absl::ToInt64Nanoseconds(*command_.delay));
  }
  return task;
}

ExitStatus Runner::Send() {
  v1::SendTaskRequest request;
  request.set_request_id(command_.request_id);
  *request.mutable_task() = TaskWithFlags();
  const absl::Time end = absl::Now() + command_.wait;
  const absl::Duration wait = std::min(command_.wait, kLongestWait);
  const bool waits = wait > absl::ZeroDuration();
  if (waits) {
    *request.mutable_wait() =
        TimeUtil::NanosecondsToDuration(absl::ToInt64Nanoseconds(wait));
  }
  v1::SendTaskResponse response;
  if (!Call(gateway_, &v1::GatewayService::StubInterface::SendTask, request,
            &response, wait)) {
    return CallFailed();
  }
  if (!waits) {
    Print(response, {response.task_id()});
    return kExitOk;
  }
  // A gateway that could not read the state has sent none.
  const bool is_over =
      response.has_state() &&
      (IsFinal(response.state()) || command_.wait <= kLongestWait);
  if (is_over || command_.json) Print(response, {ShowState(response.state())});
  if (!is_over) return ShowStates({response.task_id()}, end);
  return HasFailed(response.state()) ? kExitTaskFailed : kExitOk;
}

ExitStatus Runner::SendGroup() {
  v1::SendGroupRequest request;
  request.set_request_id(command_.request_id);
  for (v1::Task& task : tasks_) *request.add_tasks() = std::move(task);
  v1::SendGroupResponse response;
  if (!Call(gateway_, &v1::GatewayService::StubInterface::SendGroup, request,
            &response)) {
    return CallFailed();
  }
  std::vector<std::string> ids(response.task_ids().begin(),
                               response.task_ids().end());
  bool waits = command_.wait > absl::ZeroDuration();
  std::vector<std::string> lines = {response.group_id()};
  if (!waits) lines.insert(lines.end(), ids.begin(), ids.end());
  Print(response, lines);
  return waits ? ShowStates(ids) : kExitOk;
}

ExitStatus Runner::SendChain() {
  v1::SendChainRequest request;
  request.set_request_id(command_.request_id);
  for (v1::Task& task : tasks_) *request.add_tasks() = std::move(task);
  v1::SendChainResponse response;
  if (!Call(gateway_, &v1::GatewayService::StubInterface::SendChain, request,
            &response)) {
    return CallFailed();
  }
  std::vector<std::string> ids(response.task_ids().begin(),
                               response.task_ids().end());
  bool waits = command_.wait > absl::ZeroDuration();
  if (!waits || command_.json) Print(response, ids);
  return waits ? ShowStates({ids.back()}) : kExitOk;
}

ExitStatus Runner::SendChord() {
  v1::SendChordRequest request;
  request.set_request_id(command_.request_id);
  *request.mutable_callback() = std::move(tasks_.back());
  tasks_.pop_back();
  for (v1::Task& task : tasks_) *request.add_tasks() = std::move(task);
  v1::SendChordResponse response;
  if (!Call(gateway_, &v1::GatewayService::StubInterface::SendChord, request,
            &response)) {
    return CallFailed();
  }
  std::vector<std::string> lines = {response.group_id()};
  lines.insert(lines.end(), response.task_ids().begin(),
               response.task_ids().end());
  lines.push_back(response.callback_task_id());
  bool waits = command_.wait > absl::ZeroDuration();
  if (!waits || command_.json) Print(response, lines);
  return waits ? ShowStates({response.callback_task_id()}) : kExitOk;
}

// The wait is for all of them together.
ExitStatus Runner::ShowStates(const std::vector<std::string>& task_ids,
                              absl::Time end) {
  ExitStatus exit = kExitOk;
  for (const std::string& id : task_ids) {
    v1::GetStateRequest request;
    request.set_task_id(id);
    v1::GetStateResponse response;
    absl::Duration left;
    do {
      left = std::clamp(end - absl::Now(), absl::ZeroDuration(), kLongestWait);
      *request.mutable_wait() =
          TimeUtil::NanosecondsToDuration(absl::ToInt64Nanoseconds(left));
      if (!Call(gateway_, &v1::GatewayService::StubInterface::GetState, request,
                &response, left)) {
        return CallFailed();
      }
    } while (!IsFinal(response.state()) && left == kLongestWait);
    Print(response, {ShowState(response.state())});
    if (HasFailed(response.state())) {
      exit = kExitTaskFailed;
    }
  }
  return exit;
}

ExitStatus Runner::Watch() {
  v1::WatchStateRequest request;
  for (const std::string& id : command_.ids) request.add_task_ids(id);
  grpc::ClientContext context;
  if (command_.timeout.has_value()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + *command_.timeout));
  }
  std::unique_ptr<grpc::ClientReaderInterface<v1::WatchStateResponse>> stream =
      gateway_.WatchState(&context, request);
  ExitStatus exit = kExitOk;
  v1::WatchStateResponse news;
  while (stream->Read(&news)) {
    if (!news.has_state()) continue;
    Print(news, {ShowState(news.state())});
    if (HasFailed(news.state())) {
      exit = kExitTaskFailed;
    }
  }
  status_ = stream->Finish();
  return status_.ok() ? exit : CallFailed();
}

ExitStatus Runner::ShowGroupState() {
  v1::GetGroupStateRequest request;
  request.set_group_id(command_.ids.front());
  request.set_include_tasks(true);
  request.set_page_size(1000);
  ExitStatus exit = kExitOk;
  do {
    v1::GetGroupStateResponse response;
    if (!Call(gateway_, &v1::GatewayService::StubInterface::GetGroupState, request,
              &response)) {
      return CallFailed();
    }
    const v1::GroupState& group = response.group();
    std::vector<std::string> lines;
    if (request.page_token().empty()) {
      lines.push_back(ShowGroup(group));
      if (group.has_callback()) {
        lines.push_back("callback  " + ShowState(group.callback()));
      }
    }
    for (const v1::TaskState& task : group.tasks()) {
      lines.push_back(ShowState(task));
    }
    Print(response, lines);
    for (const v1::StatusCount& count : group.counts()) {
      if (count.status() == v1::TASK_STATUS_FAILURE ||
          count.status() == v1::TASK_STATUS_CANCELLED) {
        exit = kExitTaskFailed;
      }
    }
    if (HasFailed(group.callback())) exit = kExitTaskFailed;
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return exit;
}

ExitStatus Runner::Cancel() {
  for (const std::string& id : command_.ids) {
    v1::CancelTaskRequest request;
    request.set_task_id(id);
    request.set_reason(command_.reason);
    v1::CancelTaskResponse response;
    if (!Call(gateway_, &v1::GatewayService::StubInterface::CancelTask, request,
              &response)) {
      return CallFailed();
    }
    Print(response, {ShowState(response.state())});
  }
  return kExitOk;
}

ExitStatus Runner::CancelGroup() {
  v1::CancelGroupRequest request;
  request.set_group_id(command_.ids.front());
  request.set_reason(command_.reason);
  v1::CancelGroupResponse response;
  if (!Call(gateway_, &v1::GatewayService::StubInterface::CancelGroup, request,
            &response)) {
    return CallFailed();
  }
  Print(response,
        {absl::StrCat("cancelled ", response.cancelled_count()),
         ShowGroup(response.group())});
  return kExitOk;
}

ExitStatus Runner::ListDead() {
  v1::ListDeadTasksRequest request;
  request.set_queue(command_.queue);
  request.set_page_size(1000);
  do {
    v1::ListDeadTasksResponse response;
    if (!Call(admin_, &v1::AdminService::StubInterface::ListDeadTasks, request,
              &response)) {
      return CallFailed();
    }
    std::vector<std::string> lines;
    for (const v1::DeadTask& task : response.dead_tasks()) {
      lines.push_back(ShowDead(task));
    }
    Print(response, lines);
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return kExitOk;
}

ExitStatus Runner::RetryDead() {
  for (const std::string& id : command_.ids) {
    v1::RetryTaskRequest request;
    request.set_task_id(id);
    request.set_queue(command_.queue);
    v1::RetryTaskResponse response;
    if (!Call(admin_, &v1::AdminService::StubInterface::RetryTask, request,
              &response)) {
      return CallFailed();
    }
    Print(response, {response.state().task_id()});
  }
  return kExitOk;
}

ExitStatus Runner::DeleteDead() {
  for (const std::string& id : command_.ids) {
    v1::DeleteDeadTaskRequest request;
    request.set_task_id(id);
    request.set_queue(command_.queue);
    v1::DeleteDeadTaskResponse response;
    if (!Call(admin_, &v1::AdminService::StubInterface::DeleteDeadTask, request,
              &response)) {
      return CallFailed();
    }
    Print(response, {"deleted " + response.dead_task().task_id()});
  }
  return kExitOk;
}

ExitStatus Runner::CreateSchedule() {
  v1::CreateScheduleRequest request;
  request.set_name(command_.schedule_name);
  request.set_cron_spec(command_.cron_spec);
  if (command_.run_missed) {
    request.set_missed_ticks(v1::MISSED_TICKS_RUN_ONCE);
  }
  const auto add_tasks = [&](auto* payload) {
    for (v1::Task& task : tasks_) *payload->add_tasks() = std::move(task);
  };
  switch (command_.scheduled) {
    case Verb::kGroup:
      add_tasks(request.mutable_group());
      break;
    case Verb::kChain:
      add_tasks(request.mutable_chain());
      break;
    case Verb::kChord:
      *request.mutable_chord()->mutable_callback() = std::move(tasks_.back());
      tasks_.pop_back();
      add_tasks(request.mutable_chord());
      break;
    default:
      *request.mutable_task() = TaskWithFlags();
      break;
  }
  v1::CreateScheduleResponse response;
  if (!Call(admin_, &v1::AdminService::StubInterface::CreateSchedule, request,
            &response)) {
    return CallFailed();
  }
  Print(response, {ShowSchedule(response.schedule())});
  return kExitOk;
}

ExitStatus Runner::ListSchedules() {
  v1::ListSchedulesRequest request;
  request.set_page_size(1000);
  do {
    v1::ListSchedulesResponse response;
    if (!Call(admin_, &v1::AdminService::StubInterface::ListSchedules, request,
              &response)) {
      return CallFailed();
    }
    std::vector<std::string> lines;
    for (const v1::Schedule& schedule : response.schedules()) {
      lines.push_back(ShowSchedule(schedule));
    }
    Print(response, lines);
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return kExitOk;
}

template <typename Request, typename Response>
ExitStatus Runner::ForEachSchedule(
    grpc::Status (v1::AdminService::StubInterface::*method)(
        grpc::ClientContext*, const Request&, Response*)) {
  for (const std::string& name : command_.ids) {
    Request request;
    request.set_name(name);
    Response response;
    if (!Call(admin_, method, request, &response)) return CallFailed();
    Print(response, {ShowSchedule(response.schedule())});
  }
  return kExitOk;
}

}  // namespace

ExitStatus RunCommand(const Command& command,
                      v1::GatewayService::StubInterface& gateway,
                      v1::AdminService::StubInterface& admin, std::ostream& out,
                      std::ostream& err) {
  return Runner(command, gateway, admin, out, err).Run();
}

}  // namespace penstock::ctl
