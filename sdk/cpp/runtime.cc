#include "sdk/cpp/runtime.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include "absl/base/call_once.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "queue/policy.h"
#include "queue/telemetry/log.h"
#include "queue/wire/task_json.h"
#include "sdk/cpp/outcome.h"
#include "sdk/cpp/progress.h"

namespace penstock {
namespace {

// Below this, tasks are begun ahead of the runners: a Begin takes a round trip
// to the backend, and costs a worker of short tasks its throughput. Longer ones
// are begun when a runner is free, so that STARTED means started, and a crash
// counts (Lifecycle's max_begins) against few that had no part in it.
constexpr absl::Duration kShortRun = absl::Milliseconds(20);

// Tasks that take less are taken far ahead, so that none waits for the broker; ones
// that take more are left for other workers to take.
constexpr absl::Duration kWideBelow = absl::Milliseconds(1);
constexpr absl::Duration kNarrowFrom = absl::Milliseconds(5);
constexpr absl::Duration kNarrowFor = absl::Seconds(10);

// RabbitMQ ends a consumer that holds a delivery for 30 minutes by default.
constexpr absl::Duration kLongRun = absl::Minutes(25);
constexpr absl::Duration kTick = absl::Minutes(1);

// How often, and after how long a run, to look whether it was cancelled.
constexpr absl::Duration kLook = absl::Seconds(1);

constexpr absl::Duration kFirstPoll = absl::Milliseconds(100);
constexpr absl::Duration kLastPoll = absl::Seconds(5);

Context MakeContext(const Task& task, const std::string& queue,
                    bool redelivered, std::stop_token stop) {
  Context context{
      .task_id = task.id,
      .name = task.name,
      .attempt = AttemptOf(task),
      .group_id = task.group_id,
      .queue = queue,
      .headers = {},
      .redelivered = redelivered,
      .stop = std::move(stop),
  };
  for (const auto& [key, json] : task.headers) {
    if (auto text = StringHeader(task, key)) context.headers[key] = *text;
  }
  return context;
}

// The one place where exceptions are caught: handlers are not ours.
absl::StatusOr<Results> CallHandler(const Handler& handler, Context& context,
                                    const std::vector<Value>& args) {
  try {
    return handler(context, args);
  } catch (const std::exception& thrown) {
    return ExceptionError(thrown.what());
  } catch (...) {
    return ExceptionError("unknown exception");
  }
}

// What it is that a task has run into. An error that is tried again, as any.
absl::Status TimeoutError(const Task& task) {
  return TimedOutError(
      TimeoutOf(task).value_or(absl::ZeroDuration()));
}

}  // namespace

Runtime::Runtime(World world, Handlers handlers, RuntimeOptions options)
    : world_(world),
      handlers_(std::move(handlers)),
      options_(std::move(options)),
      typical_run_(options_.typical_run),
      refreshed_(world.environment->Now()) {}

absl::Status Runtime::Start(ConsumeOptions consume) {
  if (options_.hooks.on_consume_start) options_.hooks.on_consume_start();
  // The gate is held until consumer_ stands: a delivery may come before.
  absl::MutexLock lock(&gate_);
  absl::StatusOr<std::unique_ptr<Consumer>> consumer = world_.broker->Consume(
      std::move(consume), [self = shared_from_this()](Delivery delivery) {
        self->OnDelivery(std::move(delivery));
      });
  if (!consumer.ok()) return consumer.status();
  consumer_ = *std::move(consumer);
  world_.environment->RunAfter(kTick, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->Tick();
  });
  world_.environment->RunAfter(kLook, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->LookForCancelled();
  });
  return absl::OkStatus();
}

// ---- from the delivery to the backlog

void Runtime::OnDelivery(Delivery delivery) {
  absl::StatusOr<Task> task = DecodeTask(delivery.body);
  if (task.ok() && task->id.empty()) {
    task = absl::InvalidArgumentError("UUID is empty");  // no place for a state
  }
  if (!task.ok()) {
    Log(LogLevel::kError, "undecodable delivery: laid into the dead letters",
        {{"queue", delivery.queue},
         {"why", task.status().message()},
         {"body", absl::string_view(delivery.body).substr(0, 200)}});
    ReportError(task.status(), nullptr);
    Done done = AckAfter(delivery.tag);
    Outside([&] {
      world_.lifecycle->Bury(std::move(delivery.body), delivery.queue,
                             std::string(task.status().message()),
                             std::move(done));
    });
    return;
  }
  if (!handlers_.contains(task->name)) {
    Log(LogLevel::kWarning, "task is not registered here: passed on",
        {{"task", task->id}, {"name", task->name}, {"queue", delivery.queue}});
    Done done = AckAfter(delivery.tag);
    Outside([&] {
      world_.lifecycle->PassOn(*std::move(task), delivery.queue,
                               std::move(done));
    });
    return;
  }
  std::vector<Taken> deliveries;
  deliveries.push_back({.tag = delivery.tag,
                        .queue = std::move(delivery.queue),
                        .redelivered = delivery.redelivered,
                        .task = *std::move(task)});
  Take(std::move(deliveries));
}

Done Runtime::AckAfter(DeliveryTag tag) {
  {
    absl::MutexLock lock(&mu_);
    ++in_hand_;
  }
  return [self = shared_from_this(), tag](absl::Status status) {
    if (status.ok()) {
      self->Outside([&] { self->consumer_->Ack(tag); });
    }
    absl::MutexLock lock(&self->mu_);
    --self->in_hand_;
  };
}

void Runtime::Take(std::vector<Taken> deliveries) {
  std::vector<Taken> returned;
  {
    absl::MutexLock lock(&mu_);
    for (Taken& taken : deliveries) {
      if (!IsLiveLocked(taken)) continue;
      if (draining_) {
        returned.push_back(std::move(taken));
      } else if (!AttachLocked(taken)) {
        backlog_.push_back(std::move(taken));
      }
    }
  }
  Return(returned);
  BeginMore();
}

// The broker delivers again what a lost connection had delivered: what of that
// has not begun is dropped, or two workers would run it.
bool Runtime::IsLiveLocked(const Taken& taken) {
  const uint64_t generation = taken.tag.generation;
  if (generation > generation_) {
    generation_ = generation;
    const auto is_older = [generation](const Taken& other) {
      return other.tag.generation < generation;
    };
    std::erase_if(backlog_, is_older);
    for (auto& [id, run] : runs_) {
      std::erase_if(run->joined, is_older);
      std::erase_if(run->waiting, is_older);
    }
  }
  return generation == generation_;
}

// A copy of what is under way here, or another attempt of it, hangs on to that.
bool Runtime::AttachLocked(Taken& taken) {
  auto found = runs_.find(taken.task.id);
  if (found == runs_.end()) return false;
  Run& run = *found->second;
  const bool same = AttemptOf(taken.task) == run.attempt;
  auto& list = same && !run.finish_sent ? run.joined : run.waiting;
  list.push_back(std::move(taken));
  return true;
}

// ---- from the backlog to a runner

std::shared_ptr<Runtime::Run> Runtime::NextToBeginLocked() {
  const int ahead = typical_run_ < kShortRun ? options_.prefetch : 0;
  while (!backlog_.empty() && !paused_ && !draining_ &&
         begun_ < options_.concurrency + ahead) {
    Taken taken = std::move(backlog_.front());
    backlog_.pop_front();
    if (AttachLocked(taken)) continue;
    auto run = std::make_shared<Run>();
    run->id = taken.task.id;
    run->attempt = AttemptOf(taken.task);
    run->handler = &*handlers_.find(taken.task.name);
    run->first = std::move(taken);
    // Short ones end before a record of their begin would be of use.
    if (typical_run_ < kShortRun && !run->first.redelivered &&
        run->attempt == 1) {
      run->begins = Lifecycle::Begins::kMayDefer;
    }
    ++begun_;
    runs_.emplace(run->id, run);
    return run;
  }
  return nullptr;
}

void Runtime::BeginMore() {
  while (true) {
    std::shared_ptr<Run> run;
    {
      absl::MutexLock lock(&mu_);
      run = NextToBeginLocked();
    }
    if (run == nullptr) return;
    Outside([&] {
      world_.lifecycle->Begin({run, &run->first.task}, run->first.queue,
                              options_.worker_id, run->begins,
                              [self = shared_from_this(),
                               run](absl::StatusOr<BeginVerdict> verdict) {
                                self->OnBegun(run, std::move(verdict));
                              });
    });
  }
}

void Runtime::OnBegun(const std::shared_ptr<Run>& run,
                      absl::StatusOr<BeginVerdict> verdict) {
  if (absl::IsCancelled(verdict.status())) {
    EndRun(run, End::kForget);
  } else if (!verdict.ok()) {
    PauseForBackend(verdict.status());  // first: or it comes straight back
    EndRun(run, End::kGiveBack);
  } else if (verdict->kind == BeginVerdict::kDone) {
    EndRun(run, End::kAck);
  } else {
    run->begun = *std::move(verdict);
    if (!ready_.Put(run)) EndRun(run, End::kGiveBack);  // draining
  }
}

// ---- the handler, and what follows

void Runtime::RunTasks() {
  std::shared_ptr<Run> run;
  while (ready_.WaitAndTake(run)) RunTask(run);
}

void Runtime::RunOneTask() {
  std::shared_ptr<Run> run;
  if (ready_.Take(run)) RunTask(run);
}

void Runtime::RunTask(const std::shared_ptr<Run>& run) {
  Taken& taken = run->first;
  const absl::Time start = world_.environment->Now();
  bool is_looked_at;
  {
    absl::MutexLock lock(&mu_);
    run->run_time = start;
    run->recorded = run->begun.recorded;
    is_looked_at = wide_ || !run->recorded;
  }
  if (is_looked_at) PlanRecording();
  if (auto timeout = TimeoutOf(taken.task)) {
    WatchDeadline(run, start + *timeout);
  }
  const WorkerHooks& hooks = options_.hooks;
  if (hooks.before_task) hooks.before_task(taken.task);
  Context context = MakeContext(taken.task, taken.queue, taken.redelivered,
                                run->stop.get_token());
  // Most handlers report none.
  struct OnDemand {
    absl::once_flag made;
    std::shared_ptr<ProgressReport> report;
  };
  const auto progress = std::make_shared<OnDemand>();
  context.report_progress = [self = shared_from_this(), run, progress](
                                double fraction, std::string_view line) {
    absl::call_once(progress->made,
                    [&] { progress->report = self->MakeProgress(run); });
    if (progress->report != nullptr) progress->report->Set(fraction, line);
  };
  absl::StatusOr<Results> results =
      CallHandler(run->handler->second, context, taken.task.args);
  absl::call_once(progress->made, [] {});  // from here on there is none to make
  if (progress->report != nullptr) progress->report->Close();
  bool given_up;
  bool widen;
  bool narrow;
  {
    absl::MutexLock lock(&mu_);
    given_up = run->given_up;
    run->finish_sent = true;
    if (given_up) std::erase(stuck_, run);
    if (run->timed_out) results = TimeoutError(taken.task);
    --begun_;
    const absl::Time now = world_.environment->Now();
    typical_run_ += (now - start - typical_run_) / 8;
    widen = MayWidenLocked(now);
    narrow = wide_ && typical_run_ >= kNarrowFrom;
  }
  if (widen) WidenPrefetch();
  if (narrow) NarrowPrefetch();
  if (!results.ok() && !given_up) ReportError(results.status(), &taken.task);
  if (hooks.after_task) hooks.after_task(taken.task);
  if (given_up) {
    Log(LogLevel::kWarning, "a handler that had timed out has returned",
        {{"task", taken.task.id}, {"name", taken.task.name}});
  } else {
    Outside([&] {
      world_.lifecycle->Finish(
          std::move(taken.task), run->begun, options_.worker_id,
          ToOutcome(std::move(results)),
          [self = shared_from_this(),
           run](absl::StatusOr<FinishVerdict> verdict) {
            self->OnFinished(run, std::move(verdict));
          });
    });
  }
  BeginMore();
}

std::shared_ptr<ProgressReport> Runtime::MakeProgress(
    const std::shared_ptr<Run>& run) {
  return std::make_shared<ProgressReport>(ProgressReport::World{
      .now = [self = shared_from_this()] {
        absl::Time now = absl::InfinitePast();
        self->Outside([&] { now = self->world_.environment->Now(); });
        return now;
      },
      .after =
          [self = shared_from_this()](absl::Duration pause, Closure task) {
            self->Outside([&] {
              self->world_.environment->RunAfter(pause, std::move(task));
            });
          },
      .write =
          [self = shared_from_this(), run](TaskProgress progress,
                                           Callback<bool> done) {
            self->RecordBegin(run);  // only a task that is STARTED has progress
            self->Outside([&] {
              self->world_.lifecycle->SetProgress(
                  run->id, run->begun.run, std::move(progress),
                  std::move(done));
            });
          }});
}

// ---- handlers that run for longer than was expected

void Runtime::PlanRecording() {
  {
    absl::MutexLock lock(&mu_);
    if (std::exchange(recording_planned_, true)) return;
  }
  Outside([&] {
    world_.environment->RunAfter(kShortRun, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->RecordLongRuns();
    });
  });
}

void Runtime::RecordLongRuns() {
  const absl::Time now = world_.environment->Now();
  std::vector<std::shared_ptr<Run>> due;
  bool others = false;
  int long_runs = 0;
  {
    absl::MutexLock lock(&mu_);
    recording_planned_ = false;
    for (const auto& [id, run] : runs_) {
      if (run->finish_sent || run->run_time == absl::InfiniteFuture()) continue;
      if (now - run->run_time >= kShortRun) {
        ++long_runs;
        if (!run->recorded) due.push_back(run);
      } else {
        others |= wide_ || !run->recorded;
      }
    }
  }
  for (const std::shared_ptr<Run>& run : due) RecordBegin(run);
  if (others) PlanRecording();
  // Their ends, by which a typical run is known, may be far off.
  if (2 * long_runs >= options_.concurrency) NarrowPrefetch();
}

// ---- how many are taken ahead

bool Runtime::MayWidenLocked(absl::Time now) {
  return !wide_ && options_.wide_prefetch > options_.prefetch &&
         typical_run_ < kWideBelow && now >= narrow_until_;
}

// Decided and said in one step: two threads may be at it.
void Runtime::WidenPrefetch() {
  Outside([&] {
    absl::MutexLock lock(&mu_);
    if (wide_ || draining_) return;
    wide_ = true;
    consumer_->SetPrefetch(options_.wide_prefetch);
  });
}

// What has not begun goes back, for other workers.
void Runtime::NarrowPrefetch() {
  std::vector<Taken> surplus;
  Outside([&] {
    absl::MutexLock lock(&mu_);
    if (!wide_ || draining_) return;
    wide_ = false;
    narrow_until_ = world_.environment->Now() + kNarrowFor;
    // First: or they come straight back.
    consumer_->SetPrefetch(options_.prefetch);
    std::move(backlog_.begin(), backlog_.end(), std::back_inserter(surplus));
    backlog_.clear();
  });
  Return(surplus);
}

// Not after the handler's end: the record would stand over the outcome.
void Runtime::RecordBegin(const std::shared_ptr<Run>& run) {
  std::optional<Task> task;
  {
    absl::MutexLock lock(&mu_);
    if (run->recorded || run->finish_sent) return;
    run->recorded = true;
    task = run->first.task;
  }
  Outside([&] {
    // Whatever it says, Finish will find it again.
    world_.lifecycle->RecordBegin(*task, run->begun, options_.worker_id,
                                  [](absl::StatusOr<bool>) {});
  });
}

void Runtime::OnFinished(const std::shared_ptr<Run>& run,
                         absl::StatusOr<FinishVerdict> verdict) {
  if (!verdict.ok()) {
    EndRun(run, End::kForget);
  } else if (verdict->kind == FinishVerdict::kStale) {
    EndRun(run, End::kAckFirst);
  } else {
    EndRun(run, End::kAck);
  }
}

void Runtime::EndRun(const std::shared_ptr<Run>& run, End end) {
  std::shared_ptr<Run> ended;
  {
    absl::MutexLock lock(&mu_);
    auto found = runs_.find(run->id);
    ended = std::move(found->second);
    runs_.erase(found);
    if (!ended->finish_sent) --begun_;  // its handler has not run
    ++in_hand_;  // a drain waits for the acks below
  }
  std::vector<Taken> again;
  if (end == End::kAckFirst || end == End::kGiveBack) {
    // The outcome does not stand for them: they begin anew.
    std::move(ended->joined.begin(), ended->joined.end(),
              std::back_inserter(again));
    ended->joined.clear();
  }
  std::move(ended->waiting.begin(), ended->waiting.end(),
            std::back_inserter(again));
  Outside([&] {
    if (end == End::kAck || end == End::kAckFirst) {
      consumer_->Ack(ended->first.tag);
      for (const Taken& copy : ended->joined) consumer_->Ack(copy.tag);
    } else if (end == End::kGiveBack) {
      consumer_->Return(ended->first.tag);
    }
  });
  if (end != End::kForget) Take(std::move(again));
  absl::MutexLock lock(&mu_);
  --in_hand_;
}

// ---- while the backend is away

void Runtime::PauseForBackend(const absl::Status& why) {
  {
    absl::MutexLock lock(&mu_);
    if (paused_ || draining_) return;
    paused_ = true;
  }
  Log(LogLevel::kWarning, "result backend unavailable: consuming paused",
      {{"why", why.message()}});
  Outside([&] { consumer_->Pause(); });
  ReportError(why, nullptr);
  PollBackend(kFirstPoll);
}

void Runtime::PollBackend(absl::Duration delay) {
  auto on_ping = [self = shared_from_this(), delay](absl::Status status) {
    if (!status.ok()) {
      self->PollBackend(std::min(2 * delay, kLastPoll));
      return;
    }
    {
      absl::MutexLock lock(&self->mu_);
      self->paused_ = false;
    }
    Log(LogLevel::kInfo, "result backend is back: consuming");
    self->Outside([&] { self->consumer_->Resume(); });
    self->BeginMore();
  };
  Outside([&] {
    // Half of it is jitter: many workers lost the backend at the same moment.
    world_.environment->RunAfter(
        delay * (0.5 + world_.environment->Random() / 2),
        [self = shared_from_this(), on_ping = std::move(on_ping)]() mutable {
          self->Outside(
              [&] { self->world_.backend->Ping(std::move(on_ping)); });
        });
  });
}

// ---- each minute

void Runtime::Tick() {
  const absl::Time now = world_.environment->Now();
  std::vector<std::string> refresh;
  std::vector<std::string> slow;
  {
    absl::MutexLock lock(&mu_);
    const bool due = now - refreshed_ >= options_.refresh_every;
    if (due) refreshed_ = now;
    for (auto& [id, run] : runs_) {
      if (due) refresh.push_back(id);
      if (!run->warned && now - run->run_time >= kLongRun) {
        run->warned = true;
        slow.push_back(id);
      }
    }
  }
  for (const std::string& id : slow) {
    Log(LogLevel::kWarning,
        "task runs for 25 minutes: RabbitMQ takes a delivery away after its "
        "consumer_timeout, 30 minutes by default",
        {{"task", id}});
  }
  Outside([&] {
    if (!refresh.empty()) world_.lifecycle->RefreshRunning(std::move(refresh));
    world_.environment->RunAfter(kTick, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->Tick();
    });
  });
}

// ---- when an attempt has run for too long

void Runtime::WatchDeadline(const std::shared_ptr<Run>& run,
                            absl::Time deadline) {
  Outside([&] {
    absl::MutexLock lock(&mu_);
    deadlines_.emplace(deadline, run);
    ArmDeadlineLocked();
  });
}

// One look is planned at a time, for the earliest: a task that ends in time costs
// no timer of its own.
void Runtime::ArmDeadlineLocked() {
  if (deadlines_.empty() || deadlines_.begin()->first >= next_look_) return;
  next_look_ = deadlines_.begin()->first;
  const absl::Duration pause = std::max(
      next_look_ - world_.environment->Now(), absl::ZeroDuration());
  world_.environment->RunAfter(pause, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->OnDeadline();
  });
}

void Runtime::OnDeadline() {
  std::vector<std::shared_ptr<Run>> due;
  Outside([&] {
    absl::MutexLock lock(&mu_);
    next_look_ = absl::InfiniteFuture();
    const absl::Time now = world_.environment->Now();
    while (!deadlines_.empty()) {
      const auto first = deadlines_.begin();
      std::shared_ptr<Run> run = first->second.lock();
      const bool runs = run != nullptr && !run->finish_sent;
      if (runs && first->first > now) break;
      deadlines_.erase(first);
      if (!runs) continue;
      run->timed_out = true;
      due.push_back(std::move(run));
    }
    ArmDeadlineLocked();
  });
  for (const std::shared_ptr<Run>& run : due) {
    run->stop.request_stop();
    Outside([&] {
      world_.environment->RunAfter(
          options_.timeout_grace, [weak = weak_from_this(), run] {
            if (auto self = weak.lock()) self->GiveUp(run);
          });
    });
  }
}

// The handler did not heed its stop token. Its thread cannot be taken from it, but
// its task goes on without it.
void Runtime::GiveUp(const std::shared_ptr<Run>& run) {
  {
    absl::MutexLock lock(&mu_);
    if (run->finish_sent) return;
    run->finish_sent = true;
    run->given_up = true;
    stuck_.push_back(run);
  }
  const absl::Status error = TimeoutError(run->first.task);
  Log(LogLevel::kError,
      "a handler ignores its stop token: it holds a thread of this worker",
      {{"task", run->id}, {"name", run->handler->first}});
  ReportError(error, &run->first.task);
  Outside([&] {
    world_.lifecycle->Finish(run->first.task, run->begun, options_.worker_id,
                             ToOutcome(error),
                             [self = shared_from_this(),
                              run](absl::StatusOr<FinishVerdict> verdict) {
                               self->OnFinished(run, std::move(verdict));
                             });
  });
}

// ---- each second

// One read for all that run for long enough to be worth it.
void Runtime::LookForCancelled() {
  const absl::Time now = world_.environment->Now();
  std::vector<std::string> running;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [id, run] : runs_) {
      if (!run->finish_sent && !run->stop.stop_requested() &&
          now - run->run_time >= kLook) {
        running.push_back(id);
      }
    }
  }
  Outside([&] {
    if (!running.empty()) {
      world_.lifecycle->FindEnded(
          std::move(running), [self = shared_from_this()](
                                  absl::StatusOr<std::vector<std::string>> ids) {
            if (ids.ok()) self->StopEnded(*ids);
          });
    }
    world_.environment->RunAfter(kLook, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->LookForCancelled();
    });
  });
}

void Runtime::StopEnded(const std::vector<std::string>& task_ids) {
  std::vector<std::stop_source> stops;
  {
    absl::MutexLock lock(&mu_);
    for (const std::string& id : task_ids) {
      auto found = runs_.find(id);
      if (found != runs_.end()) stops.push_back(found->second->stop);
    }
  }
  for (const std::string& id : task_ids) {
    Log(LogLevel::kInfo, "task was cancelled: its stop token fires",
        {{"task", id}});
  }
  // Runs stop callbacks: not with the lock held.
  for (std::stop_source& stop : stops) stop.request_stop();
}

// ---- the end

absl::Status Runtime::Drain(absl::Duration deadline) {
  const absl::Time give_up = absl::Now() + deadline;
  std::vector<Taken> returned;
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    std::move(backlog_.begin(), backlog_.end(), std::back_inserter(returned));
    backlog_.clear();
    for (auto& [id, run] : runs_) {
      std::move(run->waiting.begin(), run->waiting.end(),
                std::back_inserter(returned));
      run->waiting.clear();
    }
  }
  Outside([&] {
    consumer_->Stop([self = shared_from_this()](absl::Status) {
      absl::MutexLock lock(&self->mu_);
      self->consumer_stopped_ = true;
    });
  });
  Return(returned);
  ready_.Close();
  for (std::shared_ptr<Run> run; ready_.Take(run);) {
    EndRun(run, End::kGiveBack);
  }

  const absl::Condition quiet(this, &Runtime::QuietLocked);
  std::vector<std::stop_source> stops;
  {
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithDeadline(quiet, give_up)) return absl::OkStatus();
    for (const auto& [id, run] : runs_) stops.push_back(run->stop);
  }
  for (std::stop_source& stop : stops) stop.request_stop();

  absl::MutexLock lock(&mu_);
  if (mu_.AwaitWithTimeout(quiet, options_.drain_grace)) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(UnfinishedLocked());
}

absl::Status Runtime::Health() {
  {
    absl::MutexLock lock(&mu_);
    if (draining_) {
      return absl::UnavailableError("draining: no more tasks are taken");
    }
  }
  absl::Status consumer = absl::UnavailableError("takes no tasks");
  Outside([&] { consumer = consumer_->Health(); });
  if (consumer.ok()) return consumer;
  return absl::UnavailableError(absl::StrCat("broker: ", consumer.message()));
}

bool Runtime::QuietLocked() const {
  return consumer_stopped_ && runs_.empty() && stuck_.empty() && in_hand_ == 0;
}

std::string Runtime::UnfinishedLocked() const {
  constexpr size_t kShown = 10;
  std::vector<std::string> names;
  std::vector<std::shared_ptr<Run>> unfinished = stuck_;
  for (const auto& [id, run] : runs_) {
    if (!run->given_up) unfinished.push_back(run);
  }
  for (const std::shared_ptr<Run>& run : unfinished) {
    if (names.size() == kShown) break;
    names.push_back(absl::StrCat(run->id, " (", run->handler->first, ")"));
  }
  if (names.size() < unfinished.size()) {
    names.push_back(absl::StrCat("and ", unfinished.size() - kShown, " more"));
  }
  return absl::StrCat("not finished by the drain deadline: ",
                      absl::StrJoin(names, ", "));
}

void Runtime::Close() {
  std::unique_ptr<Consumer> consumer;
  {
    absl::MutexLock lock(&gate_);
    consumer = std::move(consumer_);
  }
  ready_.Close();
  // Without the gate: it waits for its thread, which may be in OnDelivery.
}

// ---- small things

void Runtime::Return(const std::vector<Taken>& deliveries) {
  if (deliveries.empty()) return;
  Outside([&] {
    std::for_each(deliveries.rbegin(), deliveries.rend(),
                  [&](const Taken& taken) { consumer_->Return(taken.tag); });
  });
}

void Runtime::ReportError(const absl::Status& error, const Task* task) const {
  if (task != nullptr) {
    Log(LogLevel::kInfo, "task failed",
        {{"task", task->id},
         {"name", task->name},
         {"code", absl::StatusCodeToString(error.code())}});
  }
  if (options_.hooks.on_error) options_.hooks.on_error(error, task);
}

}  // namespace penstock
