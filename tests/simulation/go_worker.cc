#include "tests/simulation/go_worker.h"

#include <coroutine>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/json.h"
#include "queue/next_steps.h"
#include "queue/wire/task_json.h"

namespace penstock::simulation {

struct GoWorker::Fiber {
  struct promise_type {
    Fiber get_return_object() { return {}; }
    std::suspend_never initial_suspend() { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::abort(); }
  };
};

// Goes on after `duration`; never, if the process has died by then.
struct GoWorker::Pause {
  class Owner {
   public:
    explicit Owner(std::coroutine_handle<> handle) : handle_(handle) {}
    Owner(Owner&& other) noexcept
        : handle_(std::exchange(other.handle_, nullptr)) {}
    Owner& operator=(Owner&&) = delete;
    ~Owner() {
      if (handle_) handle_.destroy();
    }
    void Resume() { std::exchange(handle_, nullptr).resume(); }

   private:
    std::coroutine_handle<> handle_;
  };

  Process* process;
  absl::Duration duration;
  const char* what;

  bool await_ready() { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    process->Later(duration, Scheduler::kWork, what,
                   [owner = Owner(handle)]() mutable { owner.Resume(); });
  }
  void await_resume() {}
};

GoWorker::GoWorker(ProcessPtr process, int prefetch)
    : process_(std::move(process)) {
  link_ = std::make_shared<Link>(
      process_, ConsumeOptions{.queues = {kQueue}, .prefetch = prefetch},
      [this](Delivery delivery) { Handle(std::move(delivery)); });
  world().AddLink(link_);
  link_->Connect();
}

GoWorker::~GoWorker() { link_->Close(); }

GoWorker::Pause GoWorker::Wait(absl::Duration duration, const char* what) {
  return {process_.get(), duration, what};
}
GoWorker::Pause GoWorker::Step(const char* what) {
  return Wait(world().Latency(), what);
}
bool GoWorker::Fails() { return world().Fault(world().profile().go_error); }

TaskState GoWorker::Merged(const Task& task, Status status) {
  TaskState state{.task_id = task.id, .status = status};
  const std::optional<TaskState> old = world().keys().Get(task.id);
  if (old.has_value()) {
    state.task_name = old->task_name;
    state.create_time = old->create_time;
  }
  return state;
}

void GoWorker::Write(TaskState state) {
  const std::string id = state.task_id;
  world().Progress();
  world().keys().Set(std::move(state), world().options().results_expire_in);
  world().Observe({id}, /*by_go=*/true);
}

TaskState GoWorker::Pending(const Task& task) {
  return {.task_id = task.id,
          .task_name = task.name,
          .status = Status::kPending,
          .create_time = world().scheduler().Now()};
}

void GoWorker::Publish(const Task& task) {
  world().history().GoTook(task.id);
  Message message{.task_id = task.id,
                  .routing_key = task.routing_key,
                  .body = EncodeTask(task),
                  .priority = task.priority};
  if (task.eta.has_value() && task.eta->time > world().scheduler().Now()) {
    world().StoreAt(std::move(message), task.eta->time);
  } else {
    world().Store(message, [](absl::Status) {});
  }
}

// What cannot be read or written ends the run, and the delivery is acked all
// the same. A send that fails is not noticed.
GoWorker::Fiber GoWorker::Handle(Delivery delivery) {
  absl::StatusOr<Task> decoded = DecodeTask(delivery.body);
  if (!decoded.ok()) co_return;
  Task task = *std::move(decoded);
  const DeliveryTag tag = delivery.tag;
  if (task.name == "nobody" || task.name == "only0") {
    co_await Wait(absl::Seconds(1), "go: not registered");
    link_->Settle(tag, /*requeue=*/true);
    co_return;
  }
  world().history().GoTook(task.id);

  for (const Status status : {Status::kReceived, Status::kStarted}) {
    co_await Step("go: GET");
    if (Fails()) {
      link_->Settle(tag, false);
      co_return;
    }
    TaskState state = Merged(task, status);
    co_await Step(status == Status::kReceived ? "go: SET RECEIVED"
                                              : "go: SET STARTED");
    Write(std::move(state));
  }

  world().history().Runs(task);
  co_await Wait(world().HandlerTime(), "go: handler");
  absl::StatusOr<Results> results = world().RunHandler(task.name, task.id);

  std::vector<Task> to_send;
  if (!results.ok()) {
    const bool later = task.name == "later";
    if (later || (task.retry_count > 0 && task.name != "perm")) {
      if (!later) {
        --task.retry_count;
        task.retry_timeout_s = NextFibonacci(task.retry_timeout_s);
      }
      const absl::Duration delay =
          later ? absl::Seconds(5) : absl::Seconds(task.retry_timeout_s);
      TaskState state = Merged(task, Status::kRetry);
      co_await Step("go: SET RETRY");
      Write(std::move(state));
      task.eta = ZonedTime{.time = world().scheduler().Now() + delay};
      co_await Step("go: SET PENDING");
      Write(Pending(task));
      co_await Step("go: publish");
      if (!Fails()) Publish(task);
      co_await Step("go: ack");
      link_->Settle(tag, false);
      co_return;
    }
    TaskState state = Merged(task, Status::kFailure);
    state.error = std::string(results.status().message());
    co_await Step("go: SET FAILURE");
    Write(std::move(state));
    for (const std::string& text : task.on_error) {
      absl::StatusOr<Task> child = DecodeTask(text);
      if (!child.ok()) continue;
      child->args.insert(
          child->args.begin(),
          {.type = "string",
           .json = JsonString(std::string(results.status().message()))});
      to_send.push_back(*std::move(child));
    }
  } else {
    TaskState state = Merged(task, Status::kSuccess);
    state.results = *results;
    state.results_null = false;
    co_await Step("go: SET SUCCESS");
    Write(std::move(state));
    for (const std::string& text : task.on_success) {
      absl::StatusOr<Task> child = DecodeTask(text);
      if (!child.ok()) continue;
      if (!task.immutable) {
        child->args.insert(child->args.end(), results->begin(), results->end());
      }
      to_send.push_back(*std::move(child));
    }
  }

  for (Task& child : to_send) {
    if (child.id.empty()) child.id = absl::StrCat("go-", world().NewUuid());
    co_await Step("go: SET PENDING");
    Write(Pending(child));
    co_await Step("go: publish");
    if (!Fails()) Publish(child);
  }

  // A failed member does not look at its group.
  const bool looks =
      results.ok() && !task.group_id.empty() && !task.chord_callback.empty();
  bool complete = false;
  std::optional<GroupMeta> meta;
  if (looks) {
    co_await Step("go: GET group");
    meta = world().keys().GetGroup(task.group_id);
    if (meta.has_value()) {
      complete = true;
      for (const std::string& id : meta->task_ids) {
        const std::optional<TaskState> state = world().keys().Get(id);
        complete = complete && state.has_value() && IsFinal(state->status);
      }
    }
  }
  if (complete) {
    bool locked = false;
    for (int i = 0; i < 32 && !locked; ++i) {
      co_await Wait(world().dice().Between(absl::Milliseconds(50),
                                           absl::Milliseconds(250)),
                    "go: lock chords");
      locked = world().keys().LockChords(absl::Seconds(8));
    }
    bool triggers = false;
    if (locked) {
      meta = world().keys().GetGroup(task.group_id);
      co_await Step("go: SET group");
      if (meta.has_value() && !meta->chord_triggered) {
        triggers = true;
        meta->chord_triggered = true;
        // The flag is set before anything is sent.
        world().keys().SetGroup(*meta, world().options().results_expire_in);
      }
      co_await Step("go: unlock chords");
      world().keys().UnlockChords();
    }
    absl::StatusOr<Task> callback = DecodeTask(task.chord_callback);
    bool all_succeeded = triggers && callback.ok();
    if (all_succeeded) {
      co_await Step("go: GET members");
      for (const std::string& id : meta->task_ids) {
        const std::optional<TaskState> state = world().keys().Get(id);
        if (!state.has_value() || state->status != Status::kSuccess) {
          all_succeeded = false;  // and the flag is burnt
          break;
        }
        if (!callback->immutable) {
          callback->args.insert(callback->args.end(), state->results.begin(),
                                state->results.end());
        }
      }
    }
    if (all_succeeded) {
      co_await Step("go: SET PENDING");
      Write(Pending(*callback));
      co_await Step("go: publish");
      if (!Fails()) Publish(*callback);
    }
  }
  co_await Step("go: ack");
  link_->Settle(tag, false);
}

}  // namespace penstock::simulation
