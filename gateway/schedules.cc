#include "gateway/schedules.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gateway/schedule_messages.h"
#include "gateway/sends.h"
#include "queue/cron.h"
#include "queue/errors.h"
#include "queue/ids.h"
#include "queue/scope.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

constexpr int kBatch = 20;      // of schedules leased at once, up to 1 MiB each
constexpr int kMaxTicks = 100;  // being sent at once
// A page ends here, below what gRPC clients accept by default (4 MiB).
constexpr size_t kMaxPageBytes = 3 << 20;
constexpr size_t kMaxErrorText = 500;

absl::Status NotFound(const std::string& name) {
  return MakeError(absl::StatusCode::kNotFound, reason::kScheduleNotFound,
                   "there is no schedule named " + name, {{"schedule", name}});
}

std::string TextOf(const absl::Status& error) {
  return absl::StrCat(absl::StatusCodeToString(error.code()), " ",
                      ReasonOf(error), ": ",
                      error.message().substr(0, kMaxErrorText));
}

// Of the gateways, that which has the tick's lease: it need not wait for one
// that died over it.
constexpr char kClaimant[] = "tick";

// The same for each gateway that takes this tick on, another for all others.
std::string RequestIdOf(const ScheduleRecord& record) {
  return absl::StrCat(
      "schedule-",
      Fingerprint(absl::StrCat(record.nonce, "\n",
                               absl::ToUnixMillis(record.next_tick)))
          .substr(0, 32));
}

ScheduleRun RunOf(const SentIds& ids, absl::Time tick) {
  ScheduleRun run{.tick = tick, .group_id = ids.group_id};
  if (!ids.callback_id.empty()) {
    run.task_id = ids.callback_id;
  } else if (ids.group_id.empty()) {
    run.task_id = ids.task_ids.back();
  }
  return run;
}

}  // namespace

struct Schedules::Core : std::enable_shared_from_this<Core> {
  Core(Lifecycle* lifecycle, Broker* broker, Backend* backend,
       Environment* environment, SchedulesOptions options)
      : lifecycle(lifecycle),
        backend(backend),
        environment(environment),
        options(options),
        default_queue(broker->DefaultQueue()) {}

  // Constant after construction.
  Lifecycle* const lifecycle;
  Backend* const backend;
  Environment* const environment;
  const SchedulesOptions options;
  const std::string default_queue;

  // Synchronises itself: closed by Stop.
  Gate gate;

  absl::Mutex mu;
  bool draining ABSL_GUARDED_BY(mu) = false;
  int ticks ABSL_GUARDED_BY(mu) = 0;  // being sent
  absl::Time next_look ABSL_GUARDED_BY(mu) = absl::InfiniteFuture();

  // Wraps `then`, which takes a StatusOr<T>: CANCELLED once the gate is closed.
  template <typename T, typename Then>
  Callback<T> Guard(Then then) {
    return [core = shared_from_this(),
            then = std::move(then)](absl::StatusOr<T> result) mutable {
      if (!core->gate.Enter()) {
        then(absl::StatusOr<T>(absl::CancelledError("stopped")));
        return;
      }
      then(std::move(result));
      core->gate.Leave();
    };
  }

  // ---- ticks

  // Looks at `time`, if not earlier.
  void LookAt(absl::Time time) {
    {
      absl::MutexLock lock(&mu);
      if (draining || time >= next_look) return;
      next_look = time;
    }
    environment->RunAfter(time - environment->Now(),
                          [weak = weak_from_this(), time] {
                            auto core = weak.lock();
                            if (core == nullptr || !core->gate.Enter()) return;
                            core->Look(time);
                            core->gate.Leave();
                          });
  }

  void Look(absl::Time time) {
    bool full = false;
    {
      absl::MutexLock lock(&mu);
      if (draining || next_look != time)
        return;  // an earlier one was asked for
      next_look = absl::InfiniteFuture();
      full = ticks >= kMaxTicks;
    }
    if (full) return LookAt(environment->Now() + options.look);
    backend->LeaseSchedules(
        kBatch, options.lease, options.grace,
        Guard<LeasedSchedules>([this](absl::StatusOr<LeasedSchedules> leased) {
          // This backend keeps none.
          if (absl::IsFailedPrecondition(leased.status())) return;
          LookAt(environment->Now() +
                 (leased.ok() ? Begin(*leased) : options.look));
        }));
  }

  // Begins what was leased; when to look again.
  absl::Duration Begin(const LeasedSchedules& leased) {
    {
      absl::MutexLock lock(&mu);
      if (draining) return options.look;  // its lease ends by itself
      ticks += static_cast<int>(leased.due.size());
    }
    for (const LeasedSchedule& due : leased.due) BeginTick(due, leased.now);
    if (leased.due.size() == kBatch) return absl::ZeroDuration();
    if (!leased.next_due.has_value()) return options.look;
    return std::clamp(*leased.next_due - leased.now, absl::Milliseconds(1),
                      options.look);
  }

  void BeginTick(const LeasedSchedule& leased, absl::Time now) {
    const ScheduleRecord& record = leased.record;
    ScheduleTick tick{.name = record.name,
                      .nonce = record.nonce,
                      .tick = record.next_tick,
                      .last_error = record.last_error};
    absl::StatusOr<CronSpec> spec = CronSpec::Parse(record.cron_spec);
    if (!spec.ok()) {
      // Another gateway took it: it knows the time zone.
      return RetryTick(std::move(tick), spec.status());
    }
    const bool missed = now - record.next_tick > options.grace;
    tick.next_tick =
        spec->NextInStep(record.next_tick, missed ? now : record.next_tick);
    tick.visit = tick.next_tick;
    if (!leased.run) {
      tick.skipped = true;
      return EndTick(std::move(tick));
    }
    absl::StatusOr<v1::CreateScheduleRequest> call = ReadCall(record);
    if (!call.ok()) return FailTick(std::move(tick), call.status());
    const std::string request_id = RequestIdOf(record);
    auto send = [&](auto request) {
      request.set_request_id(request_id);
      Send(std::move(request), std::move(tick), record.run_missed,
           now - environment->Now());
    };
    switch (call->payload_case()) {
      case v1::CreateScheduleRequest::kTask: {
        v1::SendTaskRequest request;
        request.mutable_task()->Swap(call->mutable_task());
        return send(std::move(request));
      }
      case v1::CreateScheduleRequest::kGroup:
        return send(std::move(*call->mutable_group()));
      case v1::CreateScheduleRequest::kChain:
        return send(std::move(*call->mutable_chain()));
      case v1::CreateScheduleRequest::kChord:
        return send(std::move(*call->mutable_chord()));
      case v1::CreateScheduleRequest::PAYLOAD_NOT_SET:
        return FailTick(std::move(tick),
                        absl::InternalError("the schedule sends nothing"));
    }
  }

  // Of a tick on its way.
  struct Sending {
    absl::Duration backends_lead;  // of its clock
    absl::Time end;                // of the sending, at the latest
    std::atomic<bool> ended{false};
  };

  template <typename Request>
  void Send(Request request, ScheduleTick tick, bool run_missed,
            absl::Duration lead) {
    auto read = [core = shared_from_this(), request](absl::Time time) {
      return ReadSend(request, IntakeOf(core->environment, core->default_queue,
                                        time, request.request_id()));
    };
    auto first = read(environment->Now());
    if (!first.ok()) return FailTick(std::move(tick), first.status());
    using Call = typename decltype(first)::value_type;
    Submission submission{
        .payload_hash = std::move(first->payload_hash),
        .deadline = environment->Now() + options.send_timeout};
    auto sending = std::make_shared<Sending>();
    sending->backends_lead = lead;
    sending->end = submission.deadline;
    Renew(sending, tick);
    std::make_shared<RepeatableSend<Call>>(
        lifecycle, shared_from_this(), request.request_id(),
        std::move(submission), std::move(read),
        Guard<Sent>([this, sending, tick = std::move(tick),
                     run_missed](absl::StatusOr<Sent> sent) mutable {
          sending->ended = true;
          OnSent(std::move(tick), run_missed, std::move(sent));
        }),
        kClaimant)
        ->Start();
  }

  void OnSent(ScheduleTick tick, bool run_missed, absl::StatusOr<Sent> sent) {
    if (absl::IsCancelled(sent.status())) {
      TickEnded();  // stopping; its lease ends by itself
    } else if (sent.ok()) {
      tick.run = RunOf(sent->ids, tick.tick);
      tick.last_error.clear();
      EndTick(std::move(tick));
    } else if (EndOf(sent.status(), {}) == RequestEnd::kRefused) {
      FailTick(std::move(tick), sent.status());
    } else if (!run_missed && environment->Now() - tick.tick > options.grace) {
      FailTick(std::move(tick), sent.status());
    } else {
      RetryTick(std::move(tick), sent.status());
    }
  }

  // Keeps the lease of a tick while it is being sent.
  void Renew(std::shared_ptr<Sending> sending, ScheduleTick tick) {
    tick.next_tick = tick.tick;
    tick.skipped = true;
    environment->RunAfter(
        options.lease / 3,
        [weak = weak_from_this(), sending = std::move(sending),
         tick = std::move(tick)]() mutable {
          auto core = weak.lock();
          if (core == nullptr || sending->ended || !core->gate.Enter()) return;
          const absl::Time now = core->environment->Now();
          if (now < sending->end) {
            tick.visit = now + sending->backends_lead + core->options.lease;
            core->backend->EndTick(tick, [](absl::Status) {});
            core->Renew(std::move(sending), std::move(tick));
          }
          core->gate.Leave();
        });
  }

  // The tick is not sent; the schedule goes on.
  void FailTick(ScheduleTick tick, const absl::Status& why) {
    const std::string text = TextOf(why);
    // Not each tick anew, which may be each second.
    if (text != tick.last_error) {
      Log(LogLevel::kWarning, "a schedule's tick could not be sent",
          {{"schedule", tick.name}, {"why", text}});
    }
    tick.last_error = text;
    EndTick(std::move(tick));
  }

  void RetryTick(ScheduleTick tick, const absl::Status& why) {
    tick.last_error = TextOf(why);
    tick.skipped = true;
    tick.next_tick = tick.tick;
    tick.visit = environment->Now() + options.retry;
    EndTick(std::move(tick));
  }

  // A tick whose end was not recorded is leased again; what it sent is not sent
  // again.
  void EndTick(ScheduleTick tick) {
    const absl::Time visit = tick.visit;
    backend->EndTick(std::move(tick),
                     [core = shared_from_this(), visit](absl::Status recorded) {
                       core->TickEnded();
                       if (!core->gate.Enter()) return;
                       if (recorded.ok()) core->LookAt(visit);
                       core->gate.Leave();
                     });
  }

  void TickEnded() {
    absl::MutexLock lock(&mu);
    --ticks;
  }

  // ---- calls

  // Answers with what was found.
  Callback<std::optional<ScheduleRecord>> Found(std::string name,
                                                Callback<v1::Schedule> done) {
    return [name = std::move(name), done = std::move(done)](
               absl::StatusOr<std::optional<ScheduleRecord>> found) mutable {
      if (!found.ok()) return std::move(done)(found.status());
      if (!found->has_value()) return std::move(done)(NotFound(name));
      v1::Schedule schedule;
      WriteSchedule(**found, &schedule);
      std::move(done)(std::move(schedule));
    };
  }
};

Schedules::Schedules(Lifecycle* lifecycle, Broker* broker, Backend* backend,
                     Environment* environment, SchedulesOptions options)
    : core_(std::make_shared<Core>(lifecycle, broker, backend, environment,
                                   options)) {}

Schedules::~Schedules() { Stop(); }

void Schedules::Start() { core_->LookAt(core_->environment->Now()); }

void Schedules::BeginDrain() {
  absl::MutexLock lock(&core_->mu);
  core_->draining = true;
}

bool Schedules::AwaitTicks(absl::Time deadline) {
  auto idle = [this] {
    core_->mu.AssertReaderHeld();
    return core_->ticks == 0;
  };
  absl::MutexLock lock(&core_->mu);
  return core_->mu.AwaitWithDeadline(absl::Condition(&idle), deadline);
}

void Schedules::Stop() {
  BeginDrain();
  core_->gate.Close();
}

void Schedules::Create(const v1::CreateScheduleRequest& request,
                       Callback<v1::CreateScheduleResponse> done) {
  Core* core = core_.get();
  absl::StatusOr<ScheduleRecord> record = ReadCreateSchedule(
      request, IntakeOf(core->environment, core->default_queue,
                        core->environment->Now(), ""));
  if (!record.ok()) return std::move(done)(record.status());
  std::string nonce = record->nonce;
  std::string hash = record->payload_hash;
  core->backend->CreateSchedule(
      *std::move(record),
      core->Guard<ScheduleRecord>(
          [core, nonce = std::move(nonce), hash = std::move(hash),
           done =
               std::move(done)](absl::StatusOr<ScheduleRecord> stands) mutable {
            if (!stands.ok()) return std::move(done)(stands.status());
            if (stands->payload_hash != hash) {
              return std::move(done)(MakeError(
                  absl::StatusCode::kAlreadyExists, reason::kScheduleExists,
                  absl::StrCat("there is another schedule named ", stands->name,
                               "; delete it first, or give another name"),
                  {{"schedule", stands->name}}));
            }
            v1::CreateScheduleResponse response;
            response.set_replayed(stands->nonce != nonce);
            WriteSchedule(*stands, response.mutable_schedule());
            core->LookAt(stands->next_tick);
            std::move(done)(std::move(response));
          }));
}

void Schedules::List(const v1::ListSchedulesRequest& request,
                     Callback<v1::ListSchedulesResponse> done) {
  absl::StatusOr<ListSchedulesCall> call = ReadListSchedules(request);
  if (!call.ok()) return std::move(done)(call.status());
  const size_t limit = static_cast<size_t>(call->limit);
  core_->backend->ListSchedules(
      std::move(call->after), call->limit + 1, call->with_call,
      [limit, done = std::move(done)](
          absl::StatusOr<std::vector<ScheduleRecord>> found) mutable {
        if (!found.ok()) return std::move(done)(found.status());
        v1::ListSchedulesResponse response;
        size_t bytes = 0;
        size_t shown = 0;
        while (shown < found->size() && shown < limit &&
               bytes < kMaxPageBytes) {
          v1::Schedule* out = response.add_schedules();
          WriteSchedule((*found)[shown++], out);
          bytes += out->ByteSizeLong();
        }
        if (shown < found->size()) {
          response.set_next_page_token(
              SchedulesPageToken((*found)[shown - 1].name));
        }
        std::move(done)(std::move(response));
      });
}

void Schedules::Pause(const std::string& name, Callback<v1::Schedule> done) {
  if (absl::Status status = CheckScheduleName(name); !status.ok()) {
    return std::move(done)(std::move(status));
  }
  core_->backend->PauseSchedule(name, /*paused=*/true, absl::UnixEpoch(),
                                core_->Found(name, std::move(done)));
}

// Two steps; a schedule that was made anew between them is not paused, and so
// is left as it is.
void Schedules::Resume(const std::string& name, Callback<v1::Schedule> done) {
  if (absl::Status status = CheckScheduleName(name); !status.ok()) {
    return std::move(done)(std::move(status));
  }
  Core* core = core_.get();
  core->backend->GetSchedule(
      name,
      core->Guard<std::optional<ScheduleRecord>>(
          [core, name, done = std::move(done)](
              absl::StatusOr<std::optional<ScheduleRecord>> found) mutable {
            if (!found.ok()) return std::move(done)(found.status());
            if (!found->has_value()) return std::move(done)(NotFound(name));
            absl::StatusOr<CronSpec> spec =
                CronSpec::Parse((*found)->cron_spec);
            if (!spec.ok()) {
              return std::move(done)(InvalidFields(
                  {{"cron_spec", std::string(spec.status().message())}}));
            }
            const absl::Time next = spec->Next(core->environment->Now());
            core->backend->PauseSchedule(name, /*paused=*/false, next,
                                         core->Found(name, std::move(done)));
            core->LookAt(next);
          }));
}

void Schedules::Delete(const std::string& name, Callback<v1::Schedule> done) {
  if (absl::Status status = CheckScheduleName(name); !status.ok()) {
    return std::move(done)(std::move(status));
  }
  core_->backend->DeleteSchedule(name, core_->Found(name, std::move(done)));
}

}  // namespace penstock
