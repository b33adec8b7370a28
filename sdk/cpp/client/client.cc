#include "penstock/client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "sdk/cpp/client/core.h"
#include "sdk/cpp/client/stream.h"
#include "sdk/cpp/client/waiting.h"

namespace penstock::client {
namespace {

using internal::Await;
using internal::Call;
using internal::CallLimits;
using internal::Core;
using internal::LimitsOf;

using Rpc = v1::GatewayService::StubInterface::async_interface;

constexpr size_t kMaxBatch = 1000;           // tasks in a call
constexpr size_t kMaxBatchBytes = 16 << 20;  // of them, but for a lone one
constexpr int kPage = 1000;                  // states in a call

std::string RequestIdOf(const CallOptions& options) {
  return options.request_id.empty() ? internal::NewUuid() : options.request_id;
}

// Writes all of `tasks` into `request`.
template <typename Request>
absl::Status WriteTasks(const std::vector<Task>& tasks, Request& request) {
  request.mutable_tasks()->Reserve(static_cast<int>(tasks.size()));
  for (const Task& task : tasks) {
    absl::Status written = WriteTask(task, request.add_tasks());
    if (!written.ok()) return written;
  }
  return absl::OkStatus();
}

// `done`, for the answer of an RPC, out of `take` for what the caller gets.
template <typename Response, typename T, typename Take>
Done<Response> Taking(Done<T> done, Take take) {
  return [done = std::move(done),
          take = std::move(take)](absl::StatusOr<Response> response) mutable {
    if (!response.ok()) return std::move(done)(response.status());
    std::move(done)(take(*std::move(response)));
  };
}

std::vector<std::string> IdsOf(
    google::protobuf::RepeatedPtrField<std::string>* ids) {
  return {std::make_move_iterator(ids->begin()),
          std::make_move_iterator(ids->end())};
}

// ---- many tasks -----------------------------------------------------------

// Each call's tasks, in order.
std::vector<v1::BatchSendTasksRequest> Cut(std::vector<v1::Task> tasks,
                                           const std::string& request_id) {
  std::vector<v1::BatchSendTasksRequest> calls;
  size_t bytes = 0;
  for (v1::Task& task : tasks) {
    const size_t size = task.ByteSizeLong();
    if (calls.empty() || bytes + size > kMaxBatchBytes ||
        calls.back().tasks_size() == kMaxBatch) {
      calls.emplace_back();
      bytes = 0;
    }
    bytes += size;
    calls.back().add_tasks()->Swap(&task);
  }
  // The cuts are the same each time: so a repeat makes the same calls.
  for (size_t i = 0; i < calls.size(); ++i) {
    calls[i].set_request_id(
        calls.size() == 1 ? request_id : absl::StrCat(request_id, ".", i));
  }
  return calls;
}

// Asks for another try when a task was refused with what may pass.
absl::Status JudgeBatch(const v1::BatchSendTasksResponse& response) {
  for (const v1::SendTaskResult& result : response.results()) {
    if (!result.has_status()) continue;
    absl::Status status = StatusFrom(result.status());
    if (IsRetryable(status)) return status;
  }
  return absl::OkStatus();
}

// Sends many tasks, call after call.
class ManySends : public std::enable_shared_from_this<ManySends> {
 public:
  using All = absl::AnyInvocable<void(ManyHandles) &&>;

  ManySends(std::shared_ptr<Core> core, CallOptions options, All done)
      : done_(std::move(done)),
        core_(std::move(core)),
        options_(std::move(options)) {}

  void Start(const std::vector<Task>& tasks) {
    std::vector<v1::Task> good;
    for (const Task& task : tasks) {
      v1::Task message;
      const absl::Status written = WriteTask(task, &message);
      handles_.push_back(written.ok() ? absl::UnknownError("not sent")
                                      : written);
      if (!written.ok()) continue;
      places_.push_back(handles_.size() - 1);
      good.push_back(std::move(message));
    }
    calls_ = Cut(std::move(good), RequestIdOf(options_));
    Next();
  }

 private:
  void Next() {
    if (next_ == calls_.size()) return std::move(done_)(std::move(handles_));
    v1::BatchSendTasksRequest request = std::move(calls_[next_++]);
    const size_t count = request.tasks_size();
    Call<v1::BatchSendTasksRequest, v1::BatchSendTasksResponse>(
        core_, &Rpc::BatchSendTasks, std::move(request),
        LimitsOf(*core_, options_),
        [self = shared_from_this(),
         count](absl::StatusOr<v1::BatchSendTasksResponse> response) {
          self->Take(count, std::move(response));
          self->Next();
        },
        JudgeBatch);
  }

  void Take(size_t count, absl::StatusOr<v1::BatchSendTasksResponse> response) {
    for (size_t i = 0; i < count; ++i) {
      absl::StatusOr<TaskHandle>& handle = handles_[places_[taken_++]];
      if (!response.ok()) {
        handle = response.status();
        continue;
      }
      const v1::SendTaskResult& result = response->results(static_cast<int>(i));
      if (result.has_status()) {
        handle = StatusFrom(result.status());
      } else {
        handle = TaskHandle(core_, result.task_id(), result.replayed());
      }
    }
  }

  All done_;  // first, so that it goes last: see Await
  const std::shared_ptr<Core> core_;
  const CallOptions options_;
  ManyHandles handles_;
  std::vector<size_t> places_;  // among them, of each task that is sent
  std::vector<v1::BatchSendTasksRequest> calls_;
  size_t next_ = 0;   // call
  size_t taken_ = 0;  // tasks whose outcome is known
};

// ---- states of a group ----------------------------------------------------

// Reads the states of all members of a group that is done: by their ids where
// they are known, else as the group itself lists them.
class GroupStates : public std::enable_shared_from_this<GroupStates> {
 public:
  GroupStates(std::shared_ptr<Core> core, std::string group_id,
              std::vector<std::string> ids, Done<std::vector<TaskState>> done)
      : done_(std::move(done)),
        core_(std::move(core)),
        group_id_(std::move(group_id)),
        ids_(std::move(ids)) {}

  void Start() { ids_.empty() ? ReadPage("") : ReadIds(); }

 private:
  void ReadIds() {
    if (states_.size() == ids_.size()) {
      return std::move(done_)(std::move(states_));
    }
    v1::BatchGetStatesRequest request;
    const size_t end = std::min(ids_.size(), states_.size() + kPage);
    for (size_t i = states_.size(); i < end; ++i) {
      request.add_task_ids(ids_[i]);
    }
    Call<v1::BatchGetStatesRequest, v1::BatchGetStatesResponse>(
        core_, &Rpc::BatchGetStates, std::move(request), LimitsOf(*core_, {}),
        [self = shared_from_this(),
         end](absl::StatusOr<v1::BatchGetStatesResponse> response) {
          if (!response.ok()) return std::move(self->done_)(response.status());
          self->TakeIds(end, *response);
        });
  }

  void TakeIds(size_t end, const v1::BatchGetStatesResponse& response) {
    int next = 0;  // they are in the order of the request
    for (size_t i = states_.size(); i < end; ++i) {
      if (next < response.states_size() &&
          response.states(next).task_id() == ids_[i]) {
        states_.push_back(ReadState(response.states(next++)));
      } else {
        states_.push_back({.task_id = ids_[i]});
      }
    }
    ReadIds();
  }

  void ReadPage(const std::string& token) {
    v1::GetGroupStateRequest request;
    request.set_group_id(group_id_);
    request.set_include_tasks(true);
    request.set_page_size(kPage);
    request.set_page_token(token);
    Call<v1::GetGroupStateRequest, v1::GetGroupStateResponse>(
        core_, &Rpc::GetGroupState, std::move(request), LimitsOf(*core_, {}),
        [self = shared_from_this()](
            absl::StatusOr<v1::GetGroupStateResponse> response) {
          if (!response.ok()) return std::move(self->done_)(response.status());
          for (const v1::TaskState& state : response->group().tasks()) {
            self->states_.push_back(ReadState(state));
          }
          if (response->next_page_token().empty()) {
            return std::move(self->done_)(std::move(self->states_));
          }
          self->ReadPage(response->next_page_token());
        });
  }

  Done<std::vector<TaskState>> done_;  // first, so that it goes last: see Await
  const std::shared_ptr<Core> core_;
  const std::string group_id_;
  const std::vector<std::string> ids_;
  std::vector<TaskState> states_;
};

}  // namespace

// ---- Client ---------------------------------------------------------------

Client::Client(std::vector<std::string> addresses, ClientOptions options)
    : core_(std::make_shared<Core>(addresses, std::move(options))) {}

absl::StatusOr<TaskHandle> Client::Send(Task task, const CallOptions& options) {
  return Await<absl::StatusOr<TaskHandle>>(
      [&](auto done) { SendAsync(std::move(task), std::move(done), options); });
}

void Client::SendAsync(Task task, Done<TaskHandle> done,
                       const CallOptions& options) {
  v1::SendTaskRequest request;
  const absl::Status written = WriteTask(task, request.mutable_task());
  if (!written.ok()) return std::move(done)(written);
  request.set_request_id(RequestIdOf(options));
  Call<v1::SendTaskRequest, v1::SendTaskResponse>(
      core_, &Rpc::SendTask, std::move(request), LimitsOf(*core_, options),
      Taking<v1::SendTaskResponse>(
          std::move(done), [core = core_](v1::SendTaskResponse response) {
            return TaskHandle(core, response.task_id(), response.replayed());
          }));
}

absl::StatusOr<std::vector<Value>> Client::RunForResults(
    Task task, absl::Duration timeout, const CallOptions& options) {
  return Await<absl::StatusOr<std::vector<Value>>>([&](auto done) {
    RunForResultsAsync(std::move(task), timeout, std::move(done), options);
  });
}

void Client::RunForResultsAsync(Task task, absl::Duration timeout,
                                Done<std::vector<Value>> done,
                                const CallOptions& options) {
  v1::SendTaskRequest request;
  const absl::Status written = WriteTask(task, request.mutable_task());
  if (!written.ok()) return std::move(done)(written);
  request.set_request_id(RequestIdOf(options));
  const absl::Time until = absl::Now() + timeout;
  // A repeat of the call that waits would wait as long again: it only sends.
  v1::SendTaskRequest again = request;
  const absl::Duration wait =
      std::clamp(timeout, absl::ZeroDuration(), internal::kLongestWait);
  WriteDuration(wait, request.mutable_wait());
  CallLimits once = LimitsOf(*core_, options);
  CallLimits rest = once;
  rest.give_up = std::min(rest.give_up, until);
  once.deadline += wait;
  once.give_up = absl::InfinitePast();
  const bool repeats = rest.give_up > absl::Now();
  auto take = [done = std::move(done), core = core_,
               until](absl::StatusOr<v1::SendTaskResponse> response) mutable {
    if (!response.ok()) return std::move(done)(response.status());
    TaskState state = ReadState(response->state());
    if (IsFinal(state.status)) {
      return std::move(done)(ResultsOf(std::move(state)));
    }
    TaskHandle(core, response->task_id(), response->replayed())
        .ResultsAsync(until - absl::Now(), std::move(done));
  };
  using Response = v1::SendTaskResponse;
  Call<v1::SendTaskRequest, Response>(
      core_, &Rpc::SendTask, std::move(request), std::move(once),
      [take = std::move(take), core = core_, again = std::move(again),
       rest = std::move(rest),
       repeats](absl::StatusOr<Response> response) mutable {
        if (!repeats || !IsRetryable(response.status())) {
          return take(std::move(response));
        }
        Call<v1::SendTaskRequest, Response>(core, &Rpc::SendTask,
                                            std::move(again), std::move(rest),
                                            std::move(take));
      });
}

absl::StatusOr<GroupHandle> Client::SendGroup(Group group,
                                              const CallOptions& options) {
  return Await<absl::StatusOr<GroupHandle>>([&](auto done) {
    SendGroupAsync(std::move(group), std::move(done), options);
  });
}

void Client::SendGroupAsync(Group group, Done<GroupHandle> done,
                            const CallOptions& options) {
  v1::SendGroupRequest request;
  const absl::Status written = WriteTasks(group.tasks, request);
  if (!written.ok()) return std::move(done)(written);
  request.set_request_id(RequestIdOf(options));
  request.set_group_id(group.id);
  request.set_send_concurrency(group.send_concurrency);
  Call<v1::SendGroupRequest, v1::SendGroupResponse>(
      core_, &Rpc::SendGroup, std::move(request), LimitsOf(*core_, options),
      Taking<v1::SendGroupResponse>(
          std::move(done), [core = core_](v1::SendGroupResponse response) {
            return GroupHandle(core, response.group_id(),
                               IdsOf(response.mutable_task_ids()),
                               response.replayed());
          }));
}

absl::StatusOr<std::vector<TaskHandle>> Client::SendChain(
    std::vector<Task> tasks, const CallOptions& options) {
  return Await<absl::StatusOr<std::vector<TaskHandle>>>([&](auto done) {
    SendChainAsync(std::move(tasks), std::move(done), options);
  });
}

void Client::SendChainAsync(std::vector<Task> tasks,
                            Done<std::vector<TaskHandle>> done,
                            const CallOptions& options) {
  v1::SendChainRequest request;
  const absl::Status written = WriteTasks(tasks, request);
  if (!written.ok()) return std::move(done)(written);
  request.set_request_id(RequestIdOf(options));
  Call<v1::SendChainRequest, v1::SendChainResponse>(
      core_, &Rpc::SendChain, std::move(request), LimitsOf(*core_, options),
      Taking<v1::SendChainResponse>(
          std::move(done), [core = core_](v1::SendChainResponse response) {
            std::vector<TaskHandle> links;
            for (const std::string& id : response.task_ids()) {
              links.emplace_back(core, id, response.replayed());
            }
            return links;
          }));
}

absl::StatusOr<ChordHandle> Client::SendChord(Chord chord,
                                              const CallOptions& options) {
  return Await<absl::StatusOr<ChordHandle>>([&](auto done) {
    SendChordAsync(std::move(chord), std::move(done), options);
  });
}

void Client::SendChordAsync(Chord chord, Done<ChordHandle> done,
                            const CallOptions& options) {
  v1::SendChordRequest request;
  absl::Status written = WriteTasks(chord.tasks, request);
  written.Update(WriteTask(chord.callback, request.mutable_callback()));
  if (chord.on_failure.has_value()) {
    written.Update(WriteTask(*chord.on_failure, request.mutable_on_failure()));
  }
  if (!written.ok()) return std::move(done)(written);
  request.set_request_id(RequestIdOf(options));
  request.set_group_id(chord.group_id);
  request.set_send_concurrency(chord.send_concurrency);
  Call<v1::SendChordRequest, v1::SendChordResponse>(
      core_, &Rpc::SendChord, std::move(request), LimitsOf(*core_, options),
      Taking<v1::SendChordResponse>(
          std::move(done), [core = core_](v1::SendChordResponse response) {
            return ChordHandle{GroupHandle(core, response.group_id(),
                                           IdsOf(response.mutable_task_ids()),
                                           response.replayed()),
                               TaskHandle(core, response.callback_task_id(),
                                          response.replayed())};
          }));
}

ManyHandles Client::SendMany(std::vector<Task> tasks,
                             const CallOptions& options) {
  return Await<ManyHandles>([&](auto done) {
    SendManyAsync(std::move(tasks), std::move(done), options);
  });
}

void Client::SendManyAsync(std::vector<Task> tasks,
                           absl::AnyInvocable<void(ManyHandles) &&> done,
                           const CallOptions& options) {
  std::make_shared<ManySends>(core_, options, std::move(done))->Start(tasks);
}

TaskStream Client::OpenStream(const CallOptions& options) {
  return TaskStream(std::make_shared<internal::Stream>(core_, options));
}

TaskHandle Client::task(std::string id) const {
  return TaskHandle(core_, std::move(id), /*replayed=*/false);
}

GroupHandle Client::group(std::string id) const {
  return GroupHandle(core_, std::move(id), {}, /*replayed=*/false);
}

absl::StatusOr<std::vector<std::optional<TaskState>>> Client::States(
    const std::vector<std::string>& task_ids,
    const CallOptions& options) const {
  v1::BatchGetStatesRequest request;
  for (const std::string& id : task_ids) request.add_task_ids(id);
  using Response = absl::StatusOr<v1::BatchGetStatesResponse>;
  const Response response = Await<Response>([&](auto done) {
    Call<v1::BatchGetStatesRequest, v1::BatchGetStatesResponse>(
        core_, &Rpc::BatchGetStates, std::move(request),
        LimitsOf(*core_, options), std::move(done));
  });
  if (!response.ok()) return response.status();
  std::vector<std::optional<TaskState>> states;
  int next = 0;  // they are in the order of the request
  for (const std::string& id : task_ids) {
    const bool known = next < response->states_size() &&
                       response->states(next).task_id() == id;
    states.push_back(known ? std::optional(ReadState(response->states(next++)))
                           : std::nullopt);
  }
  return states;
}

absl::Status Client::Watch(const std::vector<std::string>& task_ids,
                           absl::Duration timeout,
                           std::function<bool(const TaskState&)> on_state,
                           const CallOptions& options) const {
  return Await<absl::Status>([&](auto done) {
    WatchAsync(task_ids, timeout, std::move(on_state), std::move(done),
               options);
  });
}

void Client::WatchAsync(const std::vector<std::string>& task_ids,
                        absl::Duration timeout,
                        std::function<bool(const TaskState&)> on_state,
                        absl::AnyInvocable<void(absl::Status) &&> done,
                        const CallOptions& options) const {
  internal::Watch(core_, task_ids, absl::Now() + timeout, std::move(on_state),
                  std::move(done), options);
}

// ---- TaskHandle -----------------------------------------------------------

TaskHandle::TaskHandle(std::shared_ptr<Core> core, std::string id,
                       bool replayed)
    : core_(std::move(core)), id_(std::move(id)), replayed_(replayed) {}

absl::StatusOr<std::vector<Value>> TaskHandle::Results(
    absl::Duration timeout) const {
  absl::StatusOr<TaskState> state = Wait(timeout);
  if (!state.ok()) return state.status();
  return ResultsOf(*std::move(state));
}

void TaskHandle::ResultsAsync(absl::Duration timeout,
                              Done<std::vector<Value>> done) const {
  WaitAsync(timeout,
            [done = std::move(done)](absl::StatusOr<TaskState> state) mutable {
              if (!state.ok()) return std::move(done)(state.status());
              std::move(done)(ResultsOf(*std::move(state)));
            });
}

absl::StatusOr<TaskState> TaskHandle::Wait(absl::Duration timeout) const {
  return Await<absl::StatusOr<TaskState>>(
      [&](auto done) { WaitAsync(timeout, std::move(done)); });
}

void TaskHandle::WaitAsync(absl::Duration timeout, Done<TaskState> done) const {
  internal::AwaitTask(core_, id_, absl::Now() + timeout, std::move(done));
}

absl::StatusOr<TaskState> TaskHandle::State(const CallOptions& options) const {
  return Await<absl::StatusOr<TaskState>>(
      [&](auto done) { StateAsync(std::move(done), options); });
}

void TaskHandle::StateAsync(Done<TaskState> done,
                            const CallOptions& options) const {
  v1::GetStateRequest request;
  request.set_task_id(id_);
  Call<v1::GetStateRequest, v1::GetStateResponse>(
      core_, &Rpc::GetState, std::move(request), LimitsOf(*core_, options),
      Taking<v1::GetStateResponse>(std::move(done),
                                   [](const v1::GetStateResponse& response) {
                                     return ReadState(response.state());
                                   }));
}

absl::StatusOr<CancelledTask> TaskHandle::Cancel(
    std::string reason, const CallOptions& options) const {
  return Await<absl::StatusOr<CancelledTask>>([&](auto done) {
    CancelAsync(std::move(reason), std::move(done), options);
  });
}

void TaskHandle::CancelAsync(std::string reason, Done<CancelledTask> done,
                             const CallOptions& options) const {
  v1::CancelTaskRequest request;
  request.set_task_id(id_);
  request.set_reason(std::move(reason));
  Call<v1::CancelTaskRequest, v1::CancelTaskResponse>(
      core_, &Rpc::CancelTask, std::move(request), LimitsOf(*core_, options),
      Taking<v1::CancelTaskResponse>(std::move(done), [](const v1::
                                                             CancelTaskResponse&
                                                                 response) {
        return CancelledTask{ReadState(response.state()), response.accepted()};
      }));
}

absl::Status TaskHandle::Watch(
    absl::Duration timeout,
    std::function<bool(const TaskState&)> on_state) const {
  return Await<absl::Status>([&](auto done) {
    internal::Watch(core_, {id_}, absl::Now() + timeout, std::move(on_state),
                    std::move(done), {});
  });
}

// ---- GroupHandle ----------------------------------------------------------

GroupHandle::GroupHandle(std::shared_ptr<Core> core, std::string id,
                         std::vector<std::string> task_ids, bool replayed)
    : core_(std::move(core)),
      id_(std::move(id)),
      task_ids_(std::move(task_ids)),
      replayed_(replayed) {}

std::vector<TaskHandle> GroupHandle::tasks() const {
  std::vector<TaskHandle> tasks;
  tasks.reserve(task_ids_.size());
  for (const std::string& id : task_ids_) {
    tasks.emplace_back(core_, id, replayed_);
  }
  return tasks;
}

absl::StatusOr<std::vector<TaskState>> GroupHandle::States(
    absl::Duration timeout) const {
  return Await<absl::StatusOr<std::vector<TaskState>>>(
      [&](auto done) { StatesAsync(timeout, std::move(done)); });
}

void GroupHandle::StatesAsync(absl::Duration timeout,
                              Done<std::vector<TaskState>> done) const {
  WaitAsync(timeout,
            [done = std::move(done), core = core_, id = id_,
             ids = task_ids_](absl::StatusOr<GroupState> group) mutable {
              if (!group.ok()) return std::move(done)(group.status());
              std::make_shared<GroupStates>(std::move(core), std::move(id),
                                            std::move(ids), std::move(done))
                  ->Start();
            });
}

absl::StatusOr<GroupState> GroupHandle::Wait(absl::Duration timeout) const {
  return Await<absl::StatusOr<GroupState>>(
      [&](auto done) { WaitAsync(timeout, std::move(done)); });
}

void GroupHandle::WaitAsync(absl::Duration timeout,
                            Done<GroupState> done) const {
  internal::AwaitGroup(core_, id_, absl::Now() + timeout, std::move(done));
}

absl::StatusOr<GroupState> GroupHandle::State(
    const CallOptions& options) const {
  return Await<absl::StatusOr<GroupState>>(
      [&](auto done) { StateAsync(std::move(done), options); });
}

void GroupHandle::StateAsync(Done<GroupState> done,
                             const CallOptions& options) const {
  v1::GetGroupStateRequest request;
  request.set_group_id(id_);
  Call<v1::GetGroupStateRequest, v1::GetGroupStateResponse>(
      core_, &Rpc::GetGroupState, std::move(request), LimitsOf(*core_, options),
      Taking<v1::GetGroupStateResponse>(
          std::move(done), [](const v1::GetGroupStateResponse& response) {
            return ReadGroup(response.group());
          }));
}

absl::StatusOr<CancelledGroup> GroupHandle::Cancel(
    std::string reason, const CallOptions& options) const {
  return Await<absl::StatusOr<CancelledGroup>>([&](auto done) {
    CancelAsync(std::move(reason), std::move(done), options);
  });
}

void GroupHandle::CancelAsync(std::string reason, Done<CancelledGroup> done,
                              const CallOptions& options) const {
  v1::CancelGroupRequest request;
  request.set_group_id(id_);
  request.set_reason(std::move(reason));
  Call<v1::CancelGroupRequest, v1::CancelGroupResponse>(
      core_, &Rpc::CancelGroup, std::move(request), LimitsOf(*core_, options),
      Taking<v1::CancelGroupResponse>(
          std::move(done), [](const v1::CancelGroupResponse& response) {
            return CancelledGroup{ReadGroup(response.group()),
                                  response.cancelled_count()};
          }));
}

absl::StatusOr<std::vector<Value>> GroupHandle::ResultsOf(TaskState state) {
  return client::ResultsOf(std::move(state));
}

// ---- TaskStream -----------------------------------------------------------

TaskStream::TaskStream(std::shared_ptr<internal::Stream> stream)
    : stream_(std::move(stream)) {}

TaskStream::~TaskStream() {
  if (stream_ != nullptr) stream_->Close();
}

void TaskStream::Send(Task task, Answer answer) {
  stream_->Send(task, std::move(answer));
}

void TaskStream::Close() { stream_->Close(); }

}  // namespace penstock::client
