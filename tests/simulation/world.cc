#include "tests/simulation/world.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "queue/wire/task_json.h"
#include "sdk/cpp/penstock/errors.h"
#include "tests/simulation/go_worker.h"
#include "tests/simulation/seams.h"

namespace penstock::simulation {
namespace {

// Far enough that finals expire meanwhile, near enough to be reached soon.
constexpr absl::Duration kLatest = absl::Minutes(90);
constexpr int kTries = 6;
// A seed that is still busy then has something that never ends.
constexpr absl::Duration kLongest = absl::Hours(24);
// By then, a STARTED of the dead has expired too.
constexpr absl::Duration kDropped = absl::Hours(3);
constexpr int64_t kMostSteps = 400'000;

}  // namespace

// ---- a process

void Process::Later(absl::Duration delay, Scheduler::Kind kind,
                    const char* what, Closure task, bool tell_dead) {
  if (!alive_) return;
  const uint64_t token = ++tokens_;
  auto shared = std::make_shared<Closure>(std::move(task));
  auto run = [shared] {
    Closure once = std::exchange(*shared, nullptr);
    if (once) std::move(once)();
  };
  if (tell_dead) told_on_death_[token] = run;
  world_->scheduler().After(delay, kind, what, name_,
                            [self = shared_from_this(), token, run] {
                              if (!self->alive_) return;
                              self->told_on_death_.erase(token);
                              run();
                            });
}

void Process::Bury() {
  while (!told_on_death_.empty()) {
    auto told = std::exchange(told_on_death_, {});
    for (auto& [token, closure] : told) std::move(closure)();
  }
}

// ---- a consumer's connection

void Link::Connect() {
  if (closed_ || !process_->alive()) return;
  inner_ =
      process_->world()
          ->broker()
          .Consume(options_, [this](Delivery d) { OnDelivery(std::move(d)); })
          .value();
  if (!taking_) inner_->Pause();
  process_->world()->Drain();
}

void Link::Cut() {
  inner_.reset();
  unacked_.clear();
  process_->world()->Drain();
}

void Link::Break() {
  Cut();
  World* const world = process_->world();
  process_->Later(
      world->dice().Between(absl::Milliseconds(1), absl::Seconds(3)),
      Scheduler::kWork, "reconnects",
      [self = shared_from_this()] { self->Connect(); });
}

void Link::Close() {
  closed_ = true;
  Cut();
  on_delivery_ = nullptr;
}

void Link::OnDelivery(Delivery delivery) {
  World* const world = process_->world();
  world->Progress();
  unacked_.insert(delivery.tag.tag);
  generation_ = delivery.tag.generation;
  if (world->Fault(0.2)) delivery.redelivered = !delivery.redelivered;
  const absl::Time now = world->scheduler().Now();
  process_->Later(
      deliveries_.Next(now + world->Latency()) - now, Scheduler::kWork,
      "delivery",
      [self = shared_from_this(), delivery = std::move(delivery)]() mutable {
        if (self->inner_ == nullptr ||
            self->generation_ != delivery.tag.generation) {
          return;  // the connection ended with it on the way
        }
        Scheduler& scheduler = self->process_->world()->scheduler();
        if (scheduler.tracing()) {
          scheduler.Detail(absl::StrCat(self->process_->name(), " gets ",
                                        delivery.body.substr(0, 40)));
        }
        self->on_delivery_(std::move(delivery));
      });
}

void Link::Settle(DeliveryTag tag, bool requeue) {
  World* const world = process_->world();
  const absl::Time now = world->scheduler().Now();
  process_->Later(
      settles_.Next(now + world->Latency()) - now, Scheduler::kWork,
      requeue ? "return" : "ack", [self = shared_from_this(), tag, requeue] {
        if (self->inner_ == nullptr || self->generation_ != tag.generation ||
            self->unacked_.erase(tag.tag) == 0) {
          return;
        }
        World* const world = self->process_->world();
        world->Progress();
        if (requeue) {
          self->inner_->Return(tag);
        } else {
          self->inner_->Ack(tag);
          world->Acked();
        }
        world->Drain();
      });
}

void Link::SetPrefetch(int prefetch) {
  World* const world = process_->world();
  world->scheduler().Note("prefetch",
                          absl::StrCat(process_->name(), " ", prefetch));
  if (prefetch < options_.prefetch) world->Narrowed();
  options_.prefetch = prefetch;
  if (inner_ == nullptr) return;
  inner_->SetPrefetch(prefetch);
  process_->world()->Drain();
}

void Link::SetTaking(bool taking) {
  taking_ = taking;
  if (inner_ == nullptr) return;
  if (taking) {
    inner_->Resume();
  } else {
    inner_->Pause();
  }
  process_->world()->Drain();
}

// ---- the fleet

// What a process is made of. Kept to the end of the seed: requests of the dead
// may still arrive.
struct Body {
  ProcessPtr process;
  std::unique_ptr<Environment> environment;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Broker> broker;
  std::unique_ptr<Lifecycle> lifecycle;
  std::shared_ptr<Runtime> runtime;
  std::unique_ptr<GoWorker> go;

  void Kill() {
    process->Die();
    if (lifecycle != nullptr) lifecycle->Stop();
    if (runtime != nullptr) runtime->Close();
    process->Bury();
    go.reset();
    runtime.reset();
    lifecycle.reset();
  }
};

struct World::Member {
  enum Kind { kGateway, kWorker, kGo } kind;
  int number = 0;
  int lives = 0;
  int concurrency = 1;
  int prefetch = 1;
  Body* body = nullptr;  // the current life; nullptr: down
};

World::World(const Profile& profile, uint64_t seed, Bug bug, bool trace)
    : profile_(profile),
      bug_(bug),
      scheduler_(seed, trace),
      twins_(&scheduler_),
      broker_(
          MakeMemoryBroker({.environment = &twins_, .default_queue = kQueue})),
      backend_(MakeMemoryBackend(&twins_, &keys_)),
      options_{.results_expire_in = absl::Minutes(10),
               .pending_expire_in = absl::Hours(2),
               .request_window = absl::Minutes(30),
               .not_registered_limit = absl::Minutes(10)},
      workload_(MakeWorkload(dice(), scheduler_.Now(), kLatest,
                             profile.go_workers > 0)),
      progress_(scheduler_.Now()),
      first_faults_(dice().Between(absl::Seconds(1), absl::Seconds(90))),
      late_faults_(absl::InfiniteDuration()),
      crashes_left_(dice().Between(1, 6)) {
  history_.Start(&workload_, options_.results_expire_in, profile.faultless(),
                 profile.go_workers > 0);
  for (const Call& call : workload_.calls) {
    for (const Task& task : call.tasks) {
      if (!task.eta.has_value()) continue;
      const absl::Duration after = task.eta->time - scheduler_.Now();
      if (after > absl::Minutes(2)) late_faults_ = after - absl::Seconds(5);
    }
  }
}

World::~World() {
  for (auto& body : bodies_) body->Kill();
  scheduler_.Clear();
  twins_.Drain();
}

bool World::faults_on() const {
  const absl::Duration elapsed = scheduler_.Elapsed();
  return elapsed < first_faults_ ||
         (elapsed > late_faults_ && elapsed < late_faults_ + absl::Minutes(1));
}

Fate World::DrawFate() {
  if (Fault(profile_.lost)) {
    return dice().Chance(0.5) ? Fate::kNotDone : Fate::kReplyLost;
  }
  return Fault(profile_.late) ? Fate::kLate : Fate::kArrives;
}

absl::Duration World::Latency() {
  if (Fault(profile_.stall)) {
    return dice().Between(absl::ZeroDuration(), absl::Seconds(40));
  }
  return dice().Between(absl::Microseconds(10), dice().Chance(0.9)
                                                    ? absl::Milliseconds(3)
                                                    : absl::Milliseconds(150));
}

absl::Duration World::HandlerTime() {
  const double p = dice().Unit();
  const double long_ones = profile_.long_handlers;
  return dice().Between(absl::ZeroDuration(), p < long_ones ? absl::Seconds(90)
                                              : p < long_ones + 0.15
                                                  ? absl::Seconds(5)
                                                  : absl::Milliseconds(50));
}

absl::StatusOr<Results> World::RunHandler(const std::string& name,
                                          const std::string& id) {
  if (name == "impostor") history_.Violation("an impostor runs");
  if (name == "fail") return absl::InternalError("boom");
  if (name == "perm") return Permanent(absl::InternalError("never"));
  if (name == "flaky" && dice().Chance(0.5)) {
    return absl::InternalError("not this time");
  }
  if (name == "later" && dice().Chance(0.4)) {
    return RetryAfter(
        dice().Between(absl::Milliseconds(100), absl::Seconds(40)), "busy");
  }
  return Results{ResultOf(id)};
}

absl::Duration World::Stretched(absl::Duration delay) {
  if (delay < absl::Milliseconds(400)) return delay;
  const absl::Duration silence = scheduler_.Now() - progress_;
  return delay + std::min(silence / 2, absl::Seconds(100));
}

std::string World::NewUuid() {
  const std::string number = absl::StrCat(++uuids_);
  return absl::StrCat("uuid-", number);
}

void World::Store(const Message& message, Done done) {
  Progress();
  broker_->Publish(message, [this, &message, done = std::move(done)](
                                absl::Status status) mutable {
    if (status.ok()) {
      ++messages_;
      history_.Published(message.task_id, message.body);
    }
    std::move(done)(std::move(status));
  });
  Drain();
}

void World::StoreAt(Message message, absl::Time due) {
  ++messages_;
  scheduler_.At(due, Scheduler::kTimer, "go: delay queue", message.task_id,
                [this, message = std::move(message)] {
                  --messages_;
                  Store(message, [](absl::Status) {});
                });
}

void World::Observe(const std::vector<std::string>& ids, bool by_go) {
  for (const std::string& id : ids) {
    std::optional<TaskState> state = keys_->Get(id);
    if (scheduler_.tracing() && state.has_value()) {
      scheduler_.Detail(absl::StrCat(id, " stands as ",
                                     std::string(StatusName(state->status)),
                                     " ", state->run, " ", state->error));
    }
    history_.Stands(id, state, scheduler_.Now(), by_go);
  }
}

void World::Start(Member& member) {
  static constexpr const char* kNames[] = {"gateway", "worker", "go"};
  const std::string name =
      absl::StrCat(kNames[member.kind], member.number, ".", ++member.lives);
  scheduler_.Note("starts", name);
  bodies_.push_back(std::make_unique<Body>());
  Body& body = *bodies_.back();
  member.body = &body;
  body.process = std::make_shared<Process>(this, name);
  if (member.kind == Member::kGo) {
    body.go = std::make_unique<GoWorker>(body.process, member.prefetch);
    return;
  }
  body.environment = MakeSimEnvironment(body.process);
  body.broker = MakeSimBroker(body.process);
  body.backend = MakeSimBackend(body.process, [this, &body] {
    body.process->Later(HandlerTime(), Scheduler::kWork, "handler", [&body] {
      if (body.runtime != nullptr) body.runtime->RunOneTask();
      body.process->EndSpending();
    });
  });
  body.lifecycle = std::make_unique<Lifecycle>(
      body.broker.get(), body.backend.get(), body.environment.get(), options_);
  body.lifecycle->Start();
  if (member.kind == Member::kGateway) return;

  Handlers handlers;
  for (const char* handler :
       {"ok", "fail", "flaky", "later", "perm", "impostor", "only0"}) {
    if (handler == std::string("only0") && member.number != 0) continue;
    handlers.emplace(
        handler,
        [this, handler, &body](
            Context& context,
            absl::Span<const Value>) -> absl::StatusOr<Results> {
          // Some take long enough that fewer tasks are taken ahead.
          if (dice().Chance(0.1)) {
            body.process->Spend(
                dice().Between(absl::ZeroDuration(), absl::Milliseconds(100)));
          }
          return RunHandler(handler, context.task_id);
        });
  }
  RuntimeOptions options{.worker_id = name,
                         .concurrency = member.concurrency,
                         .prefetch = member.prefetch,
                         .wide_prefetch = 3 * member.prefetch,
                         .refresh_every = absl::Minutes(30),
                         // Half of them defer the record of a begin.
                         .typical_run = member.number % 2 == 0
                                            ? absl::ZeroDuration()
                                            : absl::Seconds(1)};
  options.hooks.before_task = [this](const Task& task) {
    scheduler_.Note("runs", absl::StrCat(task.id, " ", AttemptOf(task)));
    history_.Runs(task);
  };
  body.runtime = std::make_shared<Runtime>(
      Runtime::World{.broker = body.broker.get(),
                     .backend = body.backend.get(),
                     .environment = body.environment.get(),
                     .lifecycle = body.lifecycle.get()},
      std::move(handlers), std::move(options));
  absl::Status started =
      body.runtime->Start({.queues = {kQueue}, .prefetch = member.prefetch});
  if (!started.ok()) history_.Violation(started.ToString());
}

void World::Crash(Member& member) {
  scheduler_.Note("crashes", member.body->process->name());
  std::exchange(member.body, nullptr)->Kill();
  const absl::Duration pause =
      dice().Chance(0.7)
          ? dice().Between(absl::ZeroDuration(), absl::Seconds(5))
          : dice().Between(absl::Seconds(5), absl::Minutes(2));
  scheduler_.After(pause, Scheduler::kTimer, "restart", "",
                   [this, &member] { Start(member); });
}

void World::MaybeBreakSomething() {
  if (!faults_on()) return;
  if (crashes_left_ > 0 && dice().Chance(profile_.crash)) {
    Member& member = *fleet_[dice().Below(static_cast<int>(fleet_.size()))];
    const bool harmless = member.kind == Member::kGo && profile_.go_error == 0;
    if (member.body != nullptr && !harmless) {
      --crashes_left_;
      Crash(member);
    }
  }
  if (dice().Chance(profile_.cut)) {
    std::erase_if(links_, [](const auto& weak) { return weak.expired(); });
    if (links_.empty()) return;
    LinkPtr link = links_[dice().Below(static_cast<int>(links_.size()))].lock();
    if (link->connected()) {
      scheduler_.Note("connection ends", "");
      link->Break();
    }
  }
}

// ---- the clients

// nullptr: none is up.
Lifecycle* World::AnyGateway() {
  std::vector<Member*> gateways;
  for (auto& member : fleet_) {
    if (member->kind == Member::kGateway && member->body != nullptr) {
      gateways.push_back(member.get());
    }
  }
  if (gateways.empty()) return nullptr;
  return gateways[dice().Below(static_cast<int>(gateways.size()))]
      ->body->lifecycle.get();
}

void World::Submit(size_t index, int tries_left) {
  const Call& call = workload_.calls[index];
  Lifecycle* const lifecycle = AnyGateway();
  if (lifecycle == nullptr) {
    scheduler_.After(absl::Seconds(1), Scheduler::kWork, "no gateway",
                     call.name,
                     [this, index, tries_left] { Submit(index, tries_left); });
    return;
  }
  if (call.impostor && !keys_->Get(call.tasks[0].id).has_value()) {
    --waiting_calls_;
    return;
  }
  Callback<Submitted> done = [this, index,
                              tries_left](absl::StatusOr<Submitted> answer) {
    Answered(index, tries_left, std::move(answer));
  };
  if (call.request) {
    SubmitAsRequest(*lifecycle, call, std::move(done));
  } else {
    SubmitTo(*lifecycle, call, std::move(done));
  }
}

void World::SubmitTo(Lifecycle& lifecycle, const Call& call,
                     Callback<Submitted> done) {
  Submission submission{.payload_hash = call.hash};
  switch (call.kind) {
    case Call::kTask:
      lifecycle.SubmitTask(call.tasks[0], submission, std::move(done));
      return;
    case Call::kChain:
      lifecycle.SubmitChain(call.tasks, submission, std::move(done));
      return;
    case Call::kGroup:
      lifecycle.SubmitGroup({.id = call.group_id,
                             .members = call.tasks,
                             .callback = call.callback,
                             .on_failure = call.on_failure,
                             .send_concurrency = call.concurrency},
                            submission, std::move(done));
      return;
  }
}

// As the gateway does: RepeatableSend.
void World::SubmitAsRequest(Lifecycle& lifecycle, const Call& call,
                            Callback<Submitted> done) {
  lifecycle.ClaimRequest(
      call.name, call.hash, scheduler_.Now() + absl::Seconds(30),
      [this, &lifecycle, &call,
       done = std::move(done)](absl::StatusOr<RequestAnswer> answer) mutable {
        if (!answer.ok()) return std::move(done)(answer.status());
        if (answer->kind == RequestAnswer::kDone) {
          return std::move(done)(Submitted{.replayed = true});
        }
        SubmitTo(lifecycle, call,
                 [&lifecycle, &call, nonce = answer->nonce,
                  done = std::move(done)](
                     absl::StatusOr<Submitted> submitted) mutable {
                   const absl::Status status = submitted.status();
                   // It died: nobody is left to say so.
                   if (absl::IsCancelled(status)) {
                     return std::move(done)(std::move(submitted));
                   }
                   const bool open = absl::IsUnavailable(status) ||
                                     absl::IsDeadlineExceeded(status) ||
                                     absl::IsAborted(status);
                   lifecycle.EndRequest(
                       call.name, nonce,
                       status.ok() ? RequestEnd::kAccepted
                       : open      ? RequestEnd::kOpen
                                   : RequestEnd::kRefused,
                       [submitted = std::move(submitted),
                        done = std::move(done)](absl::Status ended) mutable {
                         if (absl::IsCancelled(ended)) {
                           return std::move(done)(std::move(ended));
                         }
                         std::move(done)(std::move(submitted));
                       });
                 });
      });
}

// A client that is told that it may not have been done asks again.
void World::AskToCancel(const Cancel& cancel, int tries_left) {
  Lifecycle* const lifecycle = AnyGateway();
  auto again = [this, &cancel, tries_left](const absl::Status& status) {
    scheduler_.Note("canceller is told",
                    absl::StrCat(cancel.task_id, cancel.group_id, " ",
                                 absl::StatusCodeToString(status.code())));
    if (status.ok() || tries_left == 0) {
      --waiting_calls_;
      return;
    }
    scheduler_.After(dice().Between(absl::ZeroDuration(), absl::Seconds(5)),
                     Scheduler::kWork, "cancels again", cancel.task_id,
                     [this, &cancel, tries_left] {
                       AskToCancel(cancel, tries_left - 1);
                     });
  };
  if (lifecycle == nullptr) return again(absl::UnavailableError("no gateway"));
  if (!cancel.task_id.empty()) {
    history_.CancelAsked(cancel.task_id);
    lifecycle->CancelTask(
        cancel.task_id, "why",
        [this, &cancel,
         again](absl::StatusOr<std::optional<CancelledTask>> answer) {
          if (answer.ok() && answer->has_value() && (*answer)->accepted) {
            history_.Cancelled(cancel.task_id);
          }
          again(answer.status());
        });
    return;
  }
  for (const Call& call : workload_.calls) {
    if (call.group_id != cancel.group_id) continue;
    for (const Task& member : call.tasks) history_.CancelAsked(member.id);
    if (call.callback.has_value()) history_.CancelAsked(call.callback->id);
  }
  lifecycle->CancelGroup(cancel.group_id, "why",
                         [again](absl::StatusOr<std::optional<int>> answer) {
                           again(answer.status());
                         });
}

void World::Answered(size_t index, int tries_left,
                     absl::StatusOr<Submitted> answer) {
  const Call& call = workload_.calls[index];
  // Not ToString: absl shuffles its payloads.
  scheduler_.Note("client is told",
                  absl::StrCat(call.name, " ",
                               absl::StatusCodeToString(answer.status().code()),
                               " ", answer.status().message()));
  const bool unknown = absl::IsUnavailable(answer.status()) ||
                       absl::IsDeadlineExceeded(answer.status()) ||
                       absl::IsAborted(answer.status()) ||
                       absl::IsCancelled(answer.status());
  if (unknown && tries_left > 0 && dice().Chance(0.8)) {
    scheduler_.After(
        dice().Between(absl::ZeroDuration(), absl::Seconds(15)),
        Scheduler::kWork, "client tries again", call.name,
        [this, index, tries_left] { Submit(index, tries_left - 1); });
    return;
  }
  --waiting_calls_;
  if (call.impostor) {
    if (answer.ok() && profile_.faultless()) {
      history_.Violation("an impostor was accepted");
    }
    return;
  }
  if (answer.ok()) {
    history_.Accepted(index);
  } else {
    history_.Refused(index, answer.status());
  }
}

// ---- the run

bool World::Quiet() {
  if (scheduler_.busy() || messages_ != 0 || waiting_calls_ != 0 ||
      !keys_->Waiting().empty()) {
    return false;
  }
  const std::vector<std::string> open = keys_->Open();
  if (open.empty()) return true;
  // What a Go worker has dropped looks like what waits in a backlog: its group
  // or chain stays open for good, and is all that does.
  if (profile_.go_error == 0 || scheduler_.Now() - progress_ < kDropped) {
    return false;
  }
  return std::all_of(open.begin(), open.end(), [this](const std::string& key) {
    return history_.GoDropped(key.substr(2));
  });
}

std::string World::WhatIsLeft() {
  return absl::StrCat("busy: ", scheduler_.busy(), ", messages: ", messages_,
                      ", calls: ", waiting_calls_,
                      ", open: ", absl::StrJoin(keys_->Open(), " "),
                      ", delayed: ", absl::StrJoin(keys_->Waiting(), " "), "; ",
                      history_.Missing());
}

void World::Run() {
  auto add = [this](Member::Kind kind, int number) {
    fleet_.push_back(
        std::make_unique<Member>(Member{.kind = kind,
                                        .number = number,
                                        .concurrency = dice().Between(1, 3),
                                        .prefetch = dice().Between(1, 6)}));
    Start(*fleet_.back());
  };
  const int gateways = dice().Between(1, 2);
  const int workers = dice().Between(1, profile_.cpp_workers);
  for (int i = 0; i < gateways; ++i) add(Member::kGateway, i);
  for (int i = 0; i < workers; ++i) add(Member::kWorker, i);
  const int go = profile_.go_workers;
  for (int i = 0; i < go; ++i) add(Member::kGo, i);

  for (size_t i = 0; i < workload_.calls.size(); ++i) {
    const Call& call = workload_.calls[i];
    for (int copy = 0; copy < (call.twice ? 2 : 1); ++copy) {
      ++waiting_calls_;
      scheduler_.After(call.at, Scheduler::kWork, "client calls", call.name,
                       [this, i] { Submit(i, kTries); });
    }
  }
  for (const Cancel& cancel : workload_.cancels) {
    ++waiting_calls_;
    scheduler_.After(cancel.at, Scheduler::kWork, "client cancels",
                     absl::StrCat(cancel.task_id, cancel.group_id),
                     [this, &cancel] { AskToCancel(cancel, kTries); });
  }
  while (history_.violation().empty() && !Quiet()) {
    if (!scheduler_.Step()) break;
    MaybeBreakSomething();
    if (scheduler_.Elapsed() > kLongest || scheduler_.steps() > kMostSteps) {
      history_.Violation(absl::StrCat("it does not end: ", WhatIsLeft()));
    }
  }
  if (history_.violation().empty()) history_.CheckEnd(gateways + workers);
}

}  // namespace penstock::simulation
