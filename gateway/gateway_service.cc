#include "gateway/gateway_service.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/arena_messages.h"
#include "gateway/calls.h"
#include "gateway/convert.h"
#include "gateway/send_and_wait.h"
#include "gateway/sends.h"
#include "gateway/task_stream.h"
#include "gateway/waiters.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "queue/errors.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

constexpr int64_t kCallBytes = 16 << 10;  // of a call that waits, in gRPC
// A wait ends so long before the caller's deadline, to be answered in time.
constexpr absl::Duration kAnswerTime = absl::Milliseconds(200);
constexpr size_t kChunk = 1000;  // of a group's states, read at once
// How often a stream looks whether it must send a keepalive, or end.
constexpr absl::Duration kLook = absl::Seconds(1);
// A page ends here, below what gRPC clients accept by default (4 MiB).
constexpr size_t kMaxPageBytes = 3 << 20;

using State = std::optional<TaskState>;
using States = std::vector<State>;
using WatchCall = StreamCall<v1::WatchStateResponse>;

absl::Status TaskNotFound(const std::string& id) {
  return MakeError(
      absl::StatusCode::kNotFound, reason::kTaskNotFound,
      "task " + id + " was never sent, or its state has expired",
      {{"task_id", id}});
}

absl::Status GroupNotFound(const std::string& id) {
  return MakeError(absl::StatusCode::kNotFound, reason::kGroupNotFound,
                   "group " + id + " was never sent, or has expired",
                   {{"group_id", id}});
}

template <typename Repeated>
int64_t BytesOf(const Repeated& messages) {
  int64_t bytes = 0;
  for (const auto& message : messages) {
    bytes += static_cast<int64_t>(message.ByteSizeLong());
  }
  return bytes;
}

}  // namespace

// Outlives the calls' completions, which may come after the server's end.
struct GatewayService::Core {
  Core(Lifecycle* lifecycle, Broker* broker, Backend* backend,
       Environment* environment, GatewayServiceOptions options)
      : lifecycle(lifecycle),
        backend(backend),
        environment(environment),
        options(options),
        default_queue(broker->DefaultQueue()),
        waiters(backend, environment),
        sends("sends", options.sends),
        reads("reads", options.reads),
        waits("waits", options.waits) {}

  // Constant after construction.
  Lifecycle* const lifecycle;
  Backend* const backend;
  Environment* const environment;
  const GatewayServiceOptions options;
  const std::string default_queue;

  // Synchronise themselves.
  Waiters waiters;
  const std::shared_ptr<OpenCalls> open_sends = std::make_shared<OpenCalls>();
  Permits sends;
  Permits reads;
  Permits waits;
  std::atomic<bool> draining{false};

  Intake MakeIntake(absl::Time now, const std::string& request_id,
                    TraceContext trace) const {
    return IntakeOf(environment, default_queue, now, request_id,
                    std::move(trace));
  }

  // The caller's deadline on the environment's clock.
  absl::Time DeadlineOf(const grpc::CallbackServerContext& context) const {
    const auto deadline = context.deadline();
    if (deadline == std::chrono::system_clock::time_point::max()) {
      return absl::InfiniteFuture();
    }
    return environment->Now() + (absl::FromChrono(deadline) - absl::Now());
  }

  // When a wait ends: early enough to answer before the caller's deadline.
  absl::Time EndOfWait(const grpc::CallbackServerContext& context,
                       absl::Duration wait) const {
    const absl::Time now = environment->Now();
    if (draining) return now;
    return std::min(now + wait, DeadlineOf(context) - kAnswerTime);
  }

  Submission MakeSubmission(const grpc::CallbackServerContext& context,
                            std::string payload_hash) const {
    return {.payload_hash = std::move(payload_hash),
            .deadline = std::min(DeadlineOf(context),
                                 environment->Now() + options.send_timeout)};
  }

  absl::StatusOr<Permit> AdmitSend(int64_t tasks, int64_t bytes) {
    if (draining) return Draining();
    return sends.Acquire({.tasks = tasks, .bytes = bytes + kCallBytes});
  }
};

namespace {

void SetIds(const std::vector<std::string>& ids,
            google::protobuf::RepeatedPtrField<std::string>* out) {
  out->Reserve(static_cast<int>(ids.size()));
  for (const std::string& id : ids) *out->Add() = id;
}

void WriteSent(const std::string& id, const Submitted& submitted,
               v1::SendTaskResponse* out) {
  out->set_task_id(id);
  out->set_replayed(submitted.replayed);
  WriteTime(submitted.create_time, out->mutable_create_time());
}

void WriteResult(const BatchResult& result, bool replayed,
                 v1::SendTaskResult* out) {
  if (!result.refused.ok()) {
    WriteError(result.refused, out->mutable_status());
    return;
  }
  out->set_task_id(result.task_id);
  out->set_replayed(replayed || result.replayed);
}

// Puts the answer of a Send into its response.
using Fill = absl::AnyInvocable<void(const SentIds&, const Submitted&)>;

// ---- GetGroupState --------------------------------------------------------

// Reads one group: its record, its members' states chunk by chunk, its
// callback's; before that it may wait for them to end. One callback at a time,
// so it needs no lock.
class GroupReading : public std::enable_shared_from_this<GroupReading> {
 public:
  // What it works with; `core` keeps waiters and draining.
  struct World {
    Backend* backend;
    Environment* environment;
    Waiters* waiters;
    const std::atomic<bool>* draining;
    std::shared_ptr<void> core;
  };

  // `take` runs once, inside the call's Reply.
  using Take = absl::AnyInvocable<void(v1::GetGroupStateResponse)>;

  GroupReading(World world, Waiters::Ticket ticket, absl::Time until,
               GroupStateCall asked, Permit permit,
               std::shared_ptr<UnaryCall> call, Take take)
      : world_(std::move(world)),
        backend_(world_.backend),
        ticket_(ticket),
        until_(until),
        asked_(std::move(asked)),
        permit_(std::move(permit)),
        call_(std::move(call)),
        take_(std::move(take)) {}

  void Start() {
    backend_->GetRecord(
        WorkflowRecord::kGroup, asked_.group_id,
        [self = shared_from_this()](
            absl::StatusOr<std::optional<WorkflowRecord>> record) {
          if (!record.ok()) return self->call_->Fail(record.status());
          if (!record->has_value()) return self->ReadMeta();
          self->TakeRecord(**std::move(record));
        });
  }

 private:
  // A group of a Go client that no Penstock worker has met has no record.
  void ReadMeta() {
    backend_->GetGroupMeta(
        asked_.group_id, [self = shared_from_this()](
                             absl::StatusOr<std::optional<GroupMeta>> meta) {
          if (!meta.ok()) return self->call_->Fail(meta.status());
          if (!meta->has_value()) {
            return self->call_->Fail(GroupNotFound(self->asked_.group_id));
          }
          self->answer_.mutable_group()->set_chord_triggered(
              (*meta)->chord_triggered);
          self->ids_ = std::move((*meta)->task_ids);
          self->AwaitEnd(0, 1);
        });
  }

  void TakeRecord(WorkflowRecord record) {
    answer_.mutable_group()->set_chord_triggered(record.chord_triggered);
    ids_ = std::move(record.task_ids);
    if (!record.callback.empty()) {
      absl::StatusOr<Task> callback = DecodeTask(record.callback);
      if (callback.ok()) callback_id_ = callback->id;
    }
    AwaitEnd(0, 1);
  }

  // Waits until all that ends with the group is final, or the wait is over: moves
  // on over final states, `count` at a time and then twice as many, and waits for
  // the first that is not. So each is read a bounded number of times.
  void AwaitEnd(size_t from, size_t count) {
    const size_t end = ids_.size() + (callback_id_.empty() ? 0 : 1);
    if (from == end || world_.environment->Now() >= until_ ||
        world_.draining->load()) {
      return ReadNext();
    }
    count = std::min({count, kChunk, end - from});
    std::vector<std::string> chunk;
    for (size_t i = from; i < from + count; ++i) {
      chunk.push_back(i < ids_.size() ? ids_[i] : callback_id_);
    }
    std::vector<std::string> asked = chunk;
    backend_->GetStates(
        std::move(asked), [self = shared_from_this(), from, count,
                           chunk = std::move(chunk)](
                              absl::StatusOr<States> states) mutable {
          if (!states.ok()) return self->call_->Fail(states.status());
          for (size_t i = 0; i < chunk.size(); ++i) {
            State& state = (*states)[i];
            if (!state.has_value()) return self->ReadNext();  // lost
            if (IsFinal(state->status)) continue;
            return self->AwaitOne(from + i, std::move(chunk[i]),
                                  std::move(state));
          }
          self->AwaitEnd(from + count, count * 2);
        });
  }

  void AwaitOne(size_t index, std::string id, State state) {
    world_.waiters->Wait(
        ticket_, std::move(id), Waiters::Until::kFinal, std::move(state),
        until_, [self = shared_from_this(), index](absl::StatusOr<State>) {
          self->AwaitEnd(index, 1);
        });
    // The call may have ended before that wait could be forgotten.
    if (call_->ended()) world_.waiters->Forget(ticket_);
  }

  void ReadNext() {
    if (next_ == ids_.size()) return ReadCallback();
    const size_t end = std::min(ids_.size(), next_ + kChunk);
    std::vector<std::string> chunk(ids_.begin() + next_, ids_.begin() + end);
    backend_->GetStates(
        std::move(chunk),
        [self = shared_from_this()](absl::StatusOr<States> states) {
          if (!states.ok()) return self->call_->Fail(states.status());
          for (const State& state : *states) self->TakeMember(state);
          self->ReadNext();
        });
  }

  void TakeMember(const State& state) {
    const size_t index = next_++;
    const Status status =
        state.has_value() ? state->status : Status::kUnknown;
    ++counts_[state.has_value() ? WriteStatus(*state)
                                : v1::TASK_STATUS_UNSPECIFIED];
    if (!IsFinal(status)) all_final_ = false;
    const bool on_page = asked_.include_tasks && index >= asked_.page_start &&
                         index == page_end_ + asked_.page_start &&
                         page_end_ < asked_.page_size &&
                         page_bytes_ < kMaxPageBytes;
    if (!on_page) return;
    ++page_end_;
    v1::TaskState* out = answer_.mutable_group()->add_tasks();
    if (state.has_value()) {
      WriteState(*state, out);
    } else {
      out->set_task_id(ids_[index]);
    }
    page_bytes_ += out->ByteSizeLong();
  }

  void ReadCallback() {
    if (callback_id_.empty()) return Answer();
    backend_->GetStates(
        {callback_id_},
        [self = shared_from_this()](absl::StatusOr<States> states) {
          if (!states.ok()) return self->call_->Fail(states.status());
          v1::TaskState* out = self->answer_.mutable_group()->mutable_callback();
          const State& state = states->front();
          if (state.has_value()) {
            WriteState(*state, out);
          } else {
            out->set_task_id(self->callback_id_);
          }
          if (!state.has_value() || !IsFinal(state->status)) {
            self->all_final_ = false;
          }
          self->Answer();
        });
  }

  void Answer() {
    v1::GroupState* group = answer_.mutable_group();
    group->set_group_id(asked_.group_id);
    group->set_total(static_cast<int32_t>(ids_.size()));
    for (const auto& [status, count] : counts_) {
      v1::StatusCount* out = group->add_counts();
      out->set_status(status);
      out->set_count(count);
    }
    group->set_done(all_final_);
    const size_t next_page = asked_.page_start + page_end_;
    if (asked_.include_tasks && next_page < ids_.size()) {
      answer_.set_next_page_token(PageToken(asked_.group_id, next_page));
    }
    call_->Reply([this] { take_(std::move(answer_)); });
  }

  const World world_;
  Backend* const backend_;
  const Waiters::Ticket ticket_;
  const absl::Time until_;  // the end of the wait
  const GroupStateCall asked_;
  const Permit permit_;
  const std::shared_ptr<UnaryCall> call_;
  Take take_;

  v1::GetGroupStateResponse answer_;
  std::vector<std::string> ids_;
  std::string callback_id_;
  size_t next_ = 0;  // the next member to read
  size_t page_end_ = 0;  // how many members are on the page
  size_t page_bytes_ = 0;
  std::map<v1::TaskStatus, int32_t> counts_;
  bool all_final_ = true;
};

// ---- WatchState -----------------------------------------------------------

// One stream: the states of its tasks as they change. A task whose state has
// changed again before it was sent is sent once, so a slow reader costs nothing.
class Watch : public std::enable_shared_from_this<Watch> {
 public:
  Watch(Backend* backend, Environment* environment, Waiters* waiters,
        const std::atomic<bool>* draining, absl::Duration keepalive,
        std::shared_ptr<void> core, std::vector<std::string> ids,
        bool until_terminal, Permit permit, std::shared_ptr<WatchCall> call)
      : backend_(backend),
        environment_(environment),
        waiters_(waiters),
        draining_(draining),
        keepalive_(keepalive),
        core_(std::move(core)),
        ids_(std::move(ids)),
        until_terminal_(until_terminal),
        ticket_(waiters->NewTicket()),
        permit_(std::move(permit)),
        call_(std::move(call)),
        unsent_(ids_.size()),
        last_sent_(environment->Now()),
        open_(ids_.size()) {}

  void Start() {
    call_->SetSource(
        [self = shared_from_this()](v1::WatchStateResponse* out) {
          return self->Fill(out);
        },
        [self = shared_from_this()] { self->waiters_->Forget(self->ticket_); });
    backend_->GetStates(ids_, [self = shared_from_this()](
                                  absl::StatusOr<States> states) {
      self->TakeFirst(std::move(states));
    });
  }

 private:
  void TakeFirst(absl::StatusOr<States> states) {
    if (!states.ok()) return call_->End(StatusOf(states.status()));
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (!(*states)[i].has_value()) {
        return call_->End(StatusOf(TaskNotFound(ids_[i])));
      }
    }
    for (size_t i = 0; i < ids_.size(); ++i) TakeState(i, *(*states)[i]);
    ArmKeepalive(std::min(keepalive_, kLook));
  }

  void TakeState(size_t index, TaskState state) {
    const bool is_final = IsFinal(state.status);
    bool all_final = false;
    TaskState known;
    if (!is_final) known = state;
    {
      absl::MutexLock lock(&mu_);
      if (!unsent_[index].has_value()) order_.push_back(index);
      unsent_[index] = std::move(state);
      if (is_final) all_final = --open_ == 0;
    }
    if (all_final && until_terminal_) return call_->End(grpc::Status::OK);
    call_->Pump();
    if (!is_final) WaitOn(index, std::move(known));
  }

  void WaitOn(size_t index, TaskState known) {
    waiters_->Wait(ticket_, ids_[index], Waiters::Until::kChange,
                   std::move(known), absl::InfiniteFuture(),
                   [self = shared_from_this(), index](
                       absl::StatusOr<State> state) mutable {
                     self->TakeNews(index, std::move(state));
                   });
    // The call may have ended before that wait could be forgotten.
    if (call_->ended()) waiters_->Forget(ticket_);
  }

  void TakeNews(size_t index, absl::StatusOr<State> state) {
    const bool is_final =
        state.ok() && state->has_value() && IsFinal((*state)->status);
    if (draining_->load() && !is_final) {
      return call_->End(StatusOf(Draining()));
    }
    if (!state.ok()) return call_->End(StatusOf(state.status()));
    if (!state->has_value()) {
      return call_->End(StatusOf(TaskNotFound(ids_[index])));
    }
    TakeState(index, **std::move(state));
  }

  bool Fill(v1::WatchStateResponse* out) {
    absl::MutexLock lock(&mu_);
    if (order_.empty() && !keepalive_due_) return false;
    out->Clear();
    if (order_.empty()) {
      out->mutable_keepalive();
    } else {
      std::optional<TaskState>& state = unsent_[order_.front()];
      WriteState(*state, out->mutable_state());
      state.reset();
      order_.pop_front();
    }
    keepalive_due_ = false;
    last_sent_ = environment_->Now();
    out->set_sequence(++sequence_);
    return true;
  }

  void ArmKeepalive(absl::Duration delay) {
    environment_->RunAfter(delay, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->CheckKeepalive();
    });
  }

  void CheckKeepalive() {
    if (call_->ended()) return;
    // A stream whose tasks are all final has no wait that the drain would end.
    if (draining_->load()) return call_->End(StatusOf(Draining()));
    absl::Duration silent;
    {
      absl::MutexLock lock(&mu_);
      silent = environment_->Now() - last_sent_;
      if (silent >= keepalive_) {
        keepalive_due_ = true;
        silent = absl::ZeroDuration();
      }
    }
    ArmKeepalive(std::min(keepalive_ - silent, kLook));
    call_->Pump();
  }

  Backend* const backend_;
  Environment* const environment_;
  Waiters* const waiters_;
  const std::atomic<bool>* const draining_;
  const absl::Duration keepalive_;
  const std::shared_ptr<void> core_;  // keeps waiters_ and draining_
  const std::vector<std::string> ids_;
  const bool until_terminal_;
  const Waiters::Ticket ticket_;
  const Permit permit_;
  const std::shared_ptr<WatchCall> call_;

  absl::Mutex mu_;
  std::vector<State> unsent_ ABSL_GUARDED_BY(mu_);  // by index
  std::deque<size_t> order_ ABSL_GUARDED_BY(mu_);   // of what is unsent
  int64_t sequence_ ABSL_GUARDED_BY(mu_) = 0;
  bool keepalive_due_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time last_sent_ ABSL_GUARDED_BY(mu_);
  size_t open_ ABSL_GUARDED_BY(mu_);  // tasks that are not final
};

}  // namespace

// ---- the RPCs -------------------------------------------------------------

class GatewayService::Rpc final : public v1::GatewayService::CallbackService {
 public:
  explicit Rpc(std::shared_ptr<GatewayService::Core> core)
      : core_(std::move(core)) {
    SetMessageAllocatorFor_SendTask(&task_messages_);
    SetMessageAllocatorFor_BatchSendTasks(&batch_messages_);
    SetMessageAllocatorFor_SendGroup(&group_messages_);
  }

  grpc::ServerUnaryReactor* SendTask(
      grpc::CallbackServerContext* context,
      const v1::SendTaskRequest* request,
      v1::SendTaskResponse* response) override {
    const absl::Duration wait = WaitOf(*request);
    if (wait > absl::ZeroDuration()) {
      return SendAndAwait(*context, *request, wait, response);
    }
    return Send(context, *request, /*tasks=*/1,
                static_cast<int64_t>(request->ByteSizeLong()),
                [response](const SentIds& ids, const Submitted& submitted) {
                  WriteSent(ids.task_ids.front(), submitted, response);
                });
  }

  grpc::ServerUnaryReactor* BatchSendTasks(
      grpc::CallbackServerContext* context,
      const v1::BatchSendTasksRequest* request,
      v1::BatchSendTasksResponse* response) override {
    return Send(context, *request, request->tasks_size(),
                static_cast<int64_t>(request->ByteSizeLong()),
                [response](const SentIds& ids, const Submitted& submitted) {
                  for (const BatchResult& result : *ids.batch) {
                    WriteResult(result, submitted.replayed,
                                response->add_results());
                  }
                });
  }

  grpc::ServerBidiReactor<v1::StreamTasksRequest, v1::StreamTasksResponse>*
  StreamTasks(grpc::CallbackServerContext* context) override {
    return TaskStream::Start(
        {.lifecycle = core_->lifecycle,
         .environment = core_->environment,
         .intake =
             [core = core_.get(),
              trace = ReadTrace(context->client_metadata())] {
               return core->MakeIntake(core->environment->Now(), "", trace);
             },
         .admit =
             [core = core_.get()](int64_t tasks, int64_t bytes) {
               return core->AdmitSend(tasks, bytes);
             },
         .draining = &core_->draining,
         .send_timeout = core_->options.send_timeout,
         .deadline = core_->DeadlineOf(*context),
         .core = core_});
  }

  grpc::ServerUnaryReactor* SendChain(
      grpc::CallbackServerContext* context,
      const v1::SendChainRequest* request,
      v1::SendChainResponse* response) override {
    return Send(context, *request, request->tasks_size(),
                static_cast<int64_t>(request->ByteSizeLong()),
                [response](const SentIds& ids, const Submitted& submitted) {
                  SetIds(ids.task_ids, response->mutable_task_ids());
                  response->set_replayed(submitted.replayed);
                });
  }

  grpc::ServerUnaryReactor* SendGroup(
      grpc::CallbackServerContext* context,
      const v1::SendGroupRequest* request,
      v1::SendGroupResponse* response) override {
    return Send(context, *request, request->tasks_size(),
                static_cast<int64_t>(request->ByteSizeLong()),
                [response](const SentIds& ids, const Submitted& submitted) {
                  response->set_group_id(ids.group_id);
                  SetIds(ids.task_ids, response->mutable_task_ids());
                  response->set_replayed(submitted.replayed);
                });
  }

  grpc::ServerUnaryReactor* SendChord(
      grpc::CallbackServerContext* context,
      const v1::SendChordRequest* request,
      v1::SendChordResponse* response) override {
    // Each member carries a copy of the callback.
    const int64_t bytes =
        BytesOf(request->tasks()) +
        request->tasks_size() *
            static_cast<int64_t>(request->callback().ByteSizeLong());
    return Send(context, *request, request->tasks_size() + 1, bytes,
                [response](const SentIds& ids, const Submitted& submitted) {
                  response->set_group_id(ids.group_id);
                  SetIds(ids.task_ids, response->mutable_task_ids());
                  response->set_callback_task_id(ids.callback_id);
                  response->set_replayed(submitted.replayed);
                });
  }

  grpc::ServerUnaryReactor* GetState(grpc::CallbackServerContext* context,
                                     const v1::GetStateRequest* request,
                                     v1::GetStateResponse* response) override {
    const Waiters::Ticket ticket = core_->waiters.NewTicket();
    auto call = UnaryCall::Make(
        [core = core_, ticket] { core->waiters.Forget(ticket); });
    absl::StatusOr<StateCall> asked = ReadGetState(*request);
    if (!asked.ok()) return Refuse(call, asked.status());

    const absl::Time until = core_->EndOfWait(*context, asked->wait);
    const bool waits = until > core_->environment->Now();
    absl::StatusOr<Permit> permit =
        (waits ? core_->waits : core_->reads).Acquire({.tasks = 1});
    if (!permit.ok()) return Refuse(call, permit.status());

    std::string id = asked->task_id;
    auto answer = [call, response, id, permit = *std::move(permit)](
                      absl::StatusOr<State> state) {
      if (!state.ok()) return call->Fail(state.status());
      if (!state->has_value()) return call->Fail(TaskNotFound(id));
      call->Reply([&] { WriteState(**state, response->mutable_state()); });
    };
    core_->backend->GetStates(
        {id}, [core = core_, call, id, ticket, until, waits,
               answer = std::move(answer)](
                  absl::StatusOr<States> states) mutable {
          State state;
          if (states.ok()) state = std::move(states->front());
          const bool open = states.ok() ? state.has_value() &&
                                              !IsFinal(state->status)
                                        : absl::IsUnavailable(states.status());
          if (!waits || !open) {
            if (!states.ok()) return answer(states.status());
            return answer(std::move(state));
          }
          core->waiters.Wait(ticket, id, Waiters::Until::kFinal,
                              std::move(state), until, std::move(answer));
          // It may have been cancelled before that wait could be forgotten.
          if (call->ended()) core->waiters.Forget(ticket);
        });
    return call.get();
  }

  grpc::ServerUnaryReactor* BatchGetStates(
      grpc::CallbackServerContext*, const v1::BatchGetStatesRequest* request,
      v1::BatchGetStatesResponse* response) override {
    auto call = UnaryCall::Make();
    absl::StatusOr<std::vector<std::string>> ids = ReadBatchGetStates(*request);
    if (!ids.ok()) return Refuse(call, ids.status());
    absl::StatusOr<Permit> permit =
        core_->reads.Acquire({.tasks = static_cast<int64_t>(ids->size())});
    if (!permit.ok()) return Refuse(call, permit.status());
    auto asked = *ids;
    core_->backend->GetStates(
        *std::move(ids),
        [call, response, asked = std::move(asked),
         permit = *std::move(permit)](absl::StatusOr<States> states) {
          if (!states.ok()) return call->Fail(states.status());
          call->Reply([&] {
            for (size_t i = 0; i < asked.size(); ++i) {
              if ((*states)[i].has_value()) {
                WriteState(*(*states)[i], response->add_states());
              } else {
                response->add_missing_task_ids(asked[i]);
              }
            }
          });
        });
    return call.get();
  }

  grpc::ServerUnaryReactor* GetGroupState(
      grpc::CallbackServerContext* context,
      const v1::GetGroupStateRequest* request,
      v1::GetGroupStateResponse* response) override {
    const Waiters::Ticket ticket = core_->waiters.NewTicket();
    auto call = UnaryCall::Make(
        [core = core_, ticket] { core->waiters.Forget(ticket); });
    absl::StatusOr<GroupStateCall> asked = ReadGetGroupState(*request);
    if (!asked.ok()) return Refuse(call, asked.status());
    const absl::Time until = core_->EndOfWait(*context, asked->wait);
    absl::StatusOr<Permit> permit =
        until > core_->environment->Now()
            ? core_->waits.Acquire({.tasks = 1})
            : core_->reads.Acquire({.tasks = kChunk});
    if (!permit.ok()) return Refuse(call, permit.status());
    std::make_shared<GroupReading>(
        WorldOf(core_), ticket, until, *std::move(asked), *std::move(permit),
        call,
        [response](v1::GetGroupStateResponse answer) {
          response->Swap(&answer);
        })
        ->Start();
    return call.get();
  }

  grpc::ServerUnaryReactor* CancelTask(
      grpc::CallbackServerContext*, const v1::CancelTaskRequest* request,
      v1::CancelTaskResponse* response) override {
    auto call = UnaryCall::Make();
    absl::StatusOr<CancelCall> asked = ReadCancelTask(*request);
    if (!asked.ok()) return Refuse(call, asked.status());
    absl::StatusOr<Permit> permit = core_->AdmitSend(1, 0);
    if (!permit.ok()) return Refuse(call, permit.status());
    core_->lifecycle->CancelTask(
        asked->id, std::move(asked->reason),
        [call, response, id = asked->id, permit = *std::move(permit)](
            absl::StatusOr<std::optional<CancelledTask>> cancelled) {
          if (!cancelled.ok()) return call->Fail(cancelled.status());
          if (!cancelled->has_value()) return call->Fail(TaskNotFound(id));
          call->Reply([&] {
            WriteState((*cancelled)->state, response->mutable_state());
            response->set_accepted((*cancelled)->accepted);
          });
        });
    return call.get();
  }

  grpc::ServerUnaryReactor* CancelGroup(
      grpc::CallbackServerContext*, const v1::CancelGroupRequest* request,
      v1::CancelGroupResponse* response) override {
    const Waiters::Ticket ticket = core_->waiters.NewTicket();
    auto call = UnaryCall::Make();
    absl::StatusOr<CancelCall> asked = ReadCancelGroup(*request);
    if (!asked.ok()) return Refuse(call, asked.status());
    absl::StatusOr<Permit> permit = core_->AdmitSend(kChunk, 0);
    if (!permit.ok()) return Refuse(call, permit.status());
    core_->lifecycle->CancelGroup(
        asked->id, std::move(asked->reason),
        [core = core_, ticket, call, response, id = asked->id,
         permit = *std::move(permit)](
            absl::StatusOr<std::optional<int>> cancelled) mutable {
          if (!cancelled.ok()) return call->Fail(cancelled.status());
          if (!cancelled->has_value()) return call->Fail(GroupNotFound(id));
          std::make_shared<GroupReading>(
              WorldOf(core), ticket, absl::InfinitePast(),
              GroupStateCall{.group_id = id}, std::move(permit), call,
              [response, count = **cancelled](v1::GetGroupStateResponse answer) {
                response->mutable_group()->Swap(answer.mutable_group());
                response->set_cancelled_count(count);
              })
              ->Start();
        });
    return call.get();
  }

  grpc::ServerWriteReactor<v1::WatchStateResponse>* WatchState(
      grpc::CallbackServerContext*,
      const v1::WatchStateRequest* request) override {
    auto call = WatchCall::Make();
    absl::StatusOr<std::vector<std::string>> ids = ReadWatchState(*request);
    absl::StatusOr<Permit> permit = Draining();
    if (!ids.ok()) {
      permit = ids.status();
    } else if (!core_->draining) {
      permit =
          core_->waits.Acquire({.tasks = static_cast<int64_t>(ids->size())});
    }
    if (!permit.ok()) {
      call->End(StatusOf(permit.status()));
      return call.get();
    }
    std::make_shared<Watch>(core_->backend, core_->environment, &core_->waiters,
                            &core_->draining, core_->options.keepalive, core_,
                            *std::move(ids),
                            !request->has_until_terminal() ||
                                request->until_terminal(),
                            *std::move(permit), call)
        ->Start();
    return call.get();
  }

 private:
  // A Send that was let in and read, with what it takes to carry it out.
  template <typename Call>
  struct Admitted {
    Permit permit;
    TraceContext trace;
    Call call;
    Submission submission;
  };

  template <typename Request>
  using CallOf = typename decltype(ReadSend(std::declval<const Request&>(),
                                            Intake()))::value_type;

  template <typename Request>
  grpc::ServerUnaryReactor* Send(grpc::CallbackServerContext* context,
                                 const Request& request, int64_t tasks,
                                 int64_t bytes, Fill fill) {
    const PlainCall call(core_->open_sends, context);
    auto send = Admit(*context, request, tasks, bytes);
    if (!send.ok()) return Refuse(call, send.status());
    CarryOut(request, *std::move(send),
             [call, fill = std::move(fill)](absl::StatusOr<Sent> sent) mutable {
               if (!sent.ok()) return call.Fail(sent.status());
               call.Reply([&] { fill(sent->ids, sent->submitted); });
             });
    return call.get();
  }

  grpc::ServerUnaryReactor* SendAndAwait(
      const grpc::CallbackServerContext& context,
      const v1::SendTaskRequest& request, absl::Duration wait,
      v1::SendTaskResponse* response) {
    const Waiters::Ticket ticket = core_->waiters.NewTicket();
    auto call = UnaryCall::Make(
        [core = core_, ticket] { core->waiters.Forget(ticket); });
    auto send = Admit(context, request, /*tasks=*/1,
                      static_cast<int64_t>(request.ByteSizeLong()));
    if (!send.ok()) return Refuse(call, send.status());
    absl::StatusOr<Permit> permit = core_->waits.Acquire({.tasks = 1});
    if (!permit.ok()) return Refuse(call, permit.status());
    const Task& task = send->call.task;
    auto waiting = std::make_shared<SendAndWait>(
        SendAndWait::World{.backend = core_->backend,
                           .waiters = &core_->waiters,
                           .core = core_},
        ticket, core_->EndOfWait(context, wait), task, *std::move(permit), call,
        [response, id = task.id](const Submitted& submitted,
                                 const State& state) {
          WriteSent(id, submitted, response);
          if (state.has_value()) WriteState(*state, response->mutable_state());
        });
    send->submission.on_recorded = [waiting](const Submitted& submitted) {
      waiting->OnRecorded(submitted);
    };
    CarryOut(request, *std::move(send), [waiting](absl::StatusOr<Sent> sent) {
      waiting->OnSent(std::move(sent));
    });
    return call.get();
  }

  template <typename Request>
  absl::StatusOr<Admitted<CallOf<Request>>> Admit(
      const grpc::CallbackServerContext& context, const Request& request,
      int64_t tasks, int64_t bytes) {
    absl::StatusOr<Permit> permit = core_->AdmitSend(tasks, bytes);
    if (!permit.ok()) return permit.status();
    TraceContext trace = ReadTrace(context.client_metadata());
    auto call =
        ReadSend(request, core_->MakeIntake(core_->environment->Now(),
                                            request.request_id(), trace));
    if (!call.ok()) return call.status();
    Submission submission =
        core_->MakeSubmission(context, std::move(call->payload_hash));
    return Admitted<CallOf<Request>>{*std::move(permit), std::move(trace),
                                     *std::move(call), std::move(submission)};
  }

  // `then` takes a StatusOr<Sent>. The permit is given back when it has run.
  template <typename Request, typename Then>
  void CarryOut(const Request& request, Admitted<CallOf<Request>> send,
                Then then) {
    auto answer = [then = std::move(then), permit = std::move(send.permit)](
                      absl::StatusOr<Sent> sent) mutable {
      then(std::move(sent));
    };
    if (!request.request_id().empty()) {
      // The request itself may be gone by then, when the caller gives up.
      auto read_again = [core = core_, copy = request,
                         trace = std::move(send.trace)](absl::Time time) {
        return ReadSend(copy, core->MakeIntake(time, copy.request_id(), trace));
      };
      std::make_shared<RepeatableSend<CallOf<Request>>>(
          core_->lifecycle, core_, request.request_id(),
          std::move(send.submission), std::move(read_again), std::move(answer))
          ->Start();
      return;
    }
    SentIds ids = SentIdsOf(send.call);
    Submit(*core_->lifecycle, std::move(send.call), std::move(send.submission),
           [ids = std::move(ids), answer = std::move(answer)](
               absl::StatusOr<Submitted> submitted) mutable {
             if (!submitted.ok()) return answer(submitted.status());
             answer(Sent{std::move(ids), *submitted});
           });
  }

  static grpc::ServerUnaryReactor* Refuse(const PlainCall& call,
                                          const absl::Status& error) {
    call.Fail(error);
    return call.get();
  }
  static grpc::ServerUnaryReactor* Refuse(
      const std::shared_ptr<UnaryCall>& call, const absl::Status& error) {
    call->Fail(error);
    return call.get();
  }

  static GroupReading::World WorldOf(
      const std::shared_ptr<GatewayService::Core>& core) {
    return {.backend = core->backend,
            .environment = core->environment,
            .waiters = &core->waiters,
            .draining = &core->draining,
            .core = core};
  }

  const std::shared_ptr<GatewayService::Core> core_;
  ArenaMessages<v1::SendTaskRequest, v1::SendTaskResponse> task_messages_;
  ArenaMessages<v1::BatchSendTasksRequest, v1::BatchSendTasksResponse>
      batch_messages_;
  ArenaMessages<v1::SendGroupRequest, v1::SendGroupResponse> group_messages_;
};

GatewayService::GatewayService(Lifecycle* lifecycle, Broker* broker,
                               Backend* backend, Environment* environment,
                               GatewayServiceOptions options)
    : core_(std::make_shared<Core>(lifecycle, broker, backend, environment,
                                   options)),
      rpc_(std::make_unique<Rpc>(core_)) {}

GatewayService::~GatewayService() { core_->waiters.Stop(); }

grpc::Service* GatewayService::rpc() { return rpc_.get(); }

void GatewayService::BeginDrain() {
  core_->draining = true;
  core_->waiters.Drain();
}

void GatewayService::EndSends(absl::Time deadline) {
  if (core_->sends.AwaitIdle(deadline)) return;
  core_->open_sends->EndAll(CancelledCall());
}

}  // namespace penstock
