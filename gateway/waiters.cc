#include "gateway/waiters.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "queue/errors.h"
#include "queue/scope.h"
#include "queue/wire/state_json.h"

namespace penstock {
namespace {

constexpr absl::Duration kFast = absl::Milliseconds(20);
constexpr absl::Duration kSlow = absl::Milliseconds(250);
constexpr absl::Duration kFastFor = absl::Seconds(1);
// Hints of all tasks of the fleet are asked for while somebody waits, and for so
// long after: the next one who waits need not ask for them anew.
constexpr absl::Duration kHintsFor = absl::Seconds(10);
constexpr size_t kChunk = 1000;  // ids asked for at once
// A read that has not answered for so long says that the backend is away.
constexpr absl::Duration kReadTooSlow = absl::Seconds(1);

using State = std::optional<TaskState>;

absl::Status Away() {
  return MakeError(absl::StatusCode::kUnavailable, reason::kBackendUnavailable,
                   "the result backend cannot be read");
}

}  // namespace

struct Waiters::Core : std::enable_shared_from_this<Waiters::Core> {
  using EntryId = uint64_t;

  struct Entry {
    Ticket ticket;
    std::string id;
    Until until;
    State known;
    absl::Time deadline;
    Callback<State> done;
  };

  // An id that someone waits for.
  struct Waited {
    std::vector<EntryId> entries;
    absl::Time newest;     // when the youngest wait began
    absl::Time next_read;
    bool reading = false;  // then it is not in by_read
    bool hinted = false;   // while it was being read
  };

  // A wait that has ended, to be run without the lock.
  struct Ended {
    Callback<State> done;
    absl::StatusOr<State> result;
  };

  Core(Backend* backend, Environment* environment)
      : backend(backend), environment(environment) {}

  // Constant after construction.
  Backend* const backend;
  Environment* const environment;

  // Synchronises itself: closed by the destructor, no call to backend after.
  Gate gate;

  mutable absl::Mutex mu;
  Ticket last_ticket ABSL_GUARDED_BY(mu) = 0;
  EntryId last_entry ABSL_GUARDED_BY(mu) = 0;
  bool drained ABSL_GUARDED_BY(mu) = false;
  std::unordered_map<EntryId, Entry> entries ABSL_GUARDED_BY(mu);
  std::unordered_map<Ticket, std::vector<EntryId>> by_ticket
      ABSL_GUARDED_BY(mu);
  std::unordered_map<std::string, Waited> waited ABSL_GUARDED_BY(mu);
  std::set<std::pair<absl::Time, std::string>> by_read ABSL_GUARDED_BY(mu);
  std::set<std::pair<absl::Time, EntryId>> by_deadline ABSL_GUARDED_BY(mu);
  // When the timer that is set runs; infinite: none is.
  absl::Time wake ABSL_GUARDED_BY(mu) = absl::InfiniteFuture();
  bool wants_hints ABSL_GUARDED_BY(mu) = false;
  absl::Time hints_until ABSL_GUARDED_BY(mu);  // if nobody waits until then
  int chunks_in_flight ABSL_GUARDED_BY(mu) = 0;
  absl::Time read_began ABSL_GUARDED_BY(mu);
  absl::Status last_read ABSL_GUARDED_BY(mu);  // how it went

  // Ids are read on a common grid, so that they share reads.
  absl::Time NextRead(const Waited& id, absl::Time now) const {
    const absl::Duration pause = now - id.newest < kFastFor ? kFast : kSlow;
    const absl::Duration since_epoch = now + pause - absl::UnixEpoch();
    return absl::UnixEpoch() + absl::Floor(since_epoch, kFast);
  }

  void SetNextRead(const std::string& name, Waited& id, absl::Time time)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    by_read.erase({id.next_read, name});
    id.next_read = time;
    by_read.emplace(time, name);
  }

  // The delay after which the timer must be set to run; nullopt: it is set.
  std::optional<absl::Duration> ArmTimer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    absl::Time next = absl::InfiniteFuture();
    if (!by_deadline.empty()) next = by_deadline.begin()->first;
    if (wants_hints) next = std::min(next, hints_until);
    if (chunks_in_flight == 0 && !by_read.empty()) {
      next = std::min(next, by_read.begin()->first);
    }
    if (next >= wake) return std::nullopt;
    wake = next;
    return std::max(next - environment->Now(), absl::ZeroDuration());
  }

  void SetTimer(std::optional<absl::Duration> delay) {
    if (!delay.has_value()) return;
    environment->RunAfter(*delay, [weak = weak_from_this()] {
      if (auto core = weak.lock()) core->Tick();
    });
  }

  // For one who waits from now on.
  void WantHints(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    hints_until = now + kHintsFor;
    if (!std::exchange(wants_hints, true)) backend->WantHints(true);
  }

  // Looks whether anybody still waits, or has of late.
  void KeepHints(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (!wants_hints) return;
    if (!entries.empty()) hints_until = now + kHintsFor;
    if (now < hints_until) return;
    wants_hints = false;
    backend->WantHints(false);
  }

  // Takes an entry out of all the tables.
  Entry Remove(EntryId number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const auto found = entries.find(number);
    Entry entry = std::move(found->second);
    entries.erase(found);
    by_deadline.erase({entry.deadline, number});
    const auto ticket = by_ticket.find(entry.ticket);
    std::erase(ticket->second, number);
    if (ticket->second.empty()) by_ticket.erase(ticket);
    const auto id = waited.find(entry.id);
    std::erase(id->second.entries, number);
    if (id->second.entries.empty()) {
      by_read.erase({id->second.next_read, entry.id});
      waited.erase(id);
    }
    return entry;
  }

  // What a wait that is over gets.
  absl::StatusOr<State> LastKnown(Entry& entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (!last_read.ok()) return last_read;
    const bool hangs = chunks_in_flight > 0 &&
                       environment->Now() - read_began > kReadTooSlow;
    if (hangs || !entry.known.has_value()) return Away();
    return std::move(entry.known);
  }

  static void Run(std::vector<Ended> ended) {
    for (Ended& wait : ended) std::move(wait.done)(std::move(wait.result));
  }

  void Tick() {
    if (!gate.Enter()) return;
    std::vector<Ended> ended;
    std::vector<std::vector<std::string>> chunks;
    std::optional<absl::Duration> delay;
    {
      absl::MutexLock lock(&mu);
      const absl::Time now = environment->Now();
      if (now >= wake) wake = absl::InfiniteFuture();
      KeepHints(now);
      while (!by_deadline.empty() && by_deadline.begin()->first <= now) {
        Entry entry = Remove(by_deadline.begin()->second);
        auto result = LastKnown(entry);
        ended.push_back({std::move(entry.done), std::move(result)});
      }
      if (chunks_in_flight == 0) chunks = TakeDue(now);
      delay = ArmTimer();
    }
    SetTimer(delay);
    for (std::vector<std::string>& ids : chunks) {
      auto asked = ids;
      backend->GetStates(
          std::move(ids),
          [core = shared_from_this(), asked = std::move(asked)](
              absl::StatusOr<std::vector<State>> states) mutable {
            core->TakeStates(std::move(asked), std::move(states));
          });
    }
    gate.Leave();
    Run(std::move(ended));
  }

  // The ids whose read is due, in chunks.
  std::vector<std::vector<std::string>> TakeDue(absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    std::vector<std::vector<std::string>> chunks;
    while (!by_read.empty() && by_read.begin()->first <= now) {
      if (chunks.empty() || chunks.back().size() == kChunk) {
        chunks.emplace_back();
      }
      auto node = by_read.extract(by_read.begin());
      Waited& id = waited.find(node.value().second)->second;
      id.reading = true;
      id.hinted = false;
      chunks.back().push_back(std::move(node.value().second));
    }
    chunks_in_flight = static_cast<int>(chunks.size());
    if (!chunks.empty()) read_began = now;
    return chunks;
  }

  void TakeStates(std::vector<std::string> ids,
                  absl::StatusOr<std::vector<State>> states) {
    std::vector<Ended> ended;
    std::optional<absl::Duration> delay;
    {
      absl::MutexLock lock(&mu);
      --chunks_in_flight;
      last_read = states.status();
      const absl::Time now = environment->Now();
      for (size_t i = 0; i < ids.size(); ++i) {
        if (states.ok()) TakeState(ids[i], (*states)[i], ended);
        // Those who wait on are read again.
        const auto found = waited.find(ids[i]);
        if (found == waited.end() || !found->second.reading) continue;
        Waited& id = found->second;
        id.reading = false;
        SetNextRead(ids[i], id, id.hinted ? now : NextRead(id, now));
      }
      delay = ArmTimer();
    }
    SetTimer(delay);
    Run(std::move(ended));
  }

  void TakeState(const std::string& name, const State& state,
                 std::vector<Ended>& ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const auto found = waited.find(name);
    if (found == waited.end()) return;
    const std::vector<EntryId> numbers = found->second.entries;
    for (const EntryId number : numbers) {
      Entry& entry = entries.find(number)->second;
      const bool over =
          !state.has_value() || IsFinal(state->status) ||
          (entry.until == Until::kChange && state != entry.known);
      if (over) {
        ended.push_back({Remove(number).done, state});
      } else {
        entry.known = state;
      }
    }
  }

  void ReadSoon(const std::string& name, Waited& id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (id.reading) {
      id.hinted = true;
    } else {
      SetNextRead(name, id, environment->Now());
    }
  }

  // Hints may have been lost.
  void ReadAllSoon() {
    std::optional<absl::Duration> delay;
    {
      absl::MutexLock lock(&mu);
      for (auto& [name, id] : waited) ReadSoon(name, id);
      delay = ArmTimer();
    }
    SetTimer(delay);
  }

  // From any thread of the backend. Without the outcome it only moves the read
  // forward; with it all waits of the id end, before a read that is on its way.
  void TakeHint(std::string_view name, std::string_view outcome) {
    const std::string task_id(name);
    std::vector<Ended> ended;
    std::optional<absl::Duration> delay;
    {
      absl::MutexLock lock(&mu);
      const auto found = waited.find(task_id);
      if (found == waited.end()) return;
      Waited& id = found->second;
      const State state = OutcomeOf(task_id, outcome);
      if (state.has_value() && IsOfAllWaits(id, *state)) {
        TakeState(task_id, state, ended);
      } else {
        ReadSoon(task_id, id);
        delay = ArmTimer();
      }
    }
    SetTimer(delay);
    Run(std::move(ended));
  }

  // Hints come from all databases of a Redis, and may come late: by its create time
  // an outcome is that of the very task that is waited for, and no other's under
  // the same id.
  bool IsOfAllWaits(const Waited& id, const TaskState& state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    return std::all_of(
        id.entries.begin(), id.entries.end(), [&](EntryId number) {
          mu.AssertHeld();
          const State& known = entries.find(number)->second.known;
          return known.has_value() && known->create_time == state.create_time;
        });
  }

  // What a hint has brought; nullopt: nothing that ends a wait.
  static State OutcomeOf(const std::string& task_id, std::string_view text) {
    if (text.empty()) return std::nullopt;
    absl::StatusOr<TaskState> state = DecodeState(text);
    const bool counts =
        state.ok() && IsFinal(state->status) && state->task_id == task_id;
    return counts ? State(*std::move(state)) : std::nullopt;
  }
};

Waiters::Waiters(Backend* backend, Environment* environment)
    : core_(std::make_shared<Core>(backend, environment)) {
  backend->SubscribeHints(
      [weak = std::weak_ptr<Core>(core_)](std::string_view id,
                                          std::string_view outcome) {
        auto core = weak.lock();
        if (core == nullptr) return;
        if (id.empty()) return core->ReadAllSoon();
        core->TakeHint(id, outcome);
      });
}

Waiters::~Waiters() { Stop(); }

void Waiters::Stop() {
  core_->gate.Close();
  std::unordered_map<Core::EntryId, Core::Entry> dropped;
  absl::MutexLock lock(&core_->mu);
  core_->drained = true;
  core_->by_read.clear();
  core_->by_deadline.clear();
  core_->by_ticket.clear();
  core_->waited.clear();
  dropped.swap(core_->entries);
}

Waiters::Ticket Waiters::NewTicket() {
  absl::MutexLock lock(&core_->mu);
  return ++core_->last_ticket;
}

void Waiters::Wait(Ticket ticket, std::string id, Until until,
                   std::optional<TaskState> known, absl::Time deadline,
                   Callback<std::optional<TaskState>> done) {
  std::optional<absl::Duration> delay;
  bool waits = false;
  {
    absl::MutexLock lock(&core_->mu);
    if (!core_->drained) {
      waits = true;
      const absl::Time now = core_->environment->Now();
      core_->WantHints(now);
      const Core::EntryId number = ++core_->last_entry;
      Core::Waited& waited = core_->waited[id];
      waited.newest = now;
      waited.entries.push_back(number);
      if (!waited.reading) {
        core_->SetNextRead(id, waited, core_->NextRead(waited, now));
      }
      core_->by_ticket[ticket].push_back(number);
      core_->by_deadline.emplace(deadline, number);
      core_->entries.emplace(
          number, Core::Entry{ticket, std::move(id), until, std::move(known),
                              deadline, std::move(done)});
      delay = core_->ArmTimer();
    }
  }
  core_->SetTimer(delay);
  if (waits) return;
  if (known.has_value()) {
    std::move(done)(std::move(known));
  } else {
    std::move(done)(Away());
  }
}

void Waiters::Forget(Ticket ticket) {
  std::vector<Core::Entry> dropped;  // destroyed without the lock
  absl::MutexLock lock(&core_->mu);
  const auto found = core_->by_ticket.find(ticket);
  if (found == core_->by_ticket.end()) return;
  const std::vector<Core::EntryId> numbers = found->second;
  for (const Core::EntryId number : numbers) {
    dropped.push_back(core_->Remove(number));
  }
}

void Waiters::Drain() {
  std::vector<Core::Ended> ended;
  {
    absl::MutexLock lock(&core_->mu);
    core_->drained = true;
    while (!core_->entries.empty()) {
      Core::Entry entry = core_->Remove(core_->entries.begin()->first);
      auto result = core_->LastKnown(entry);
      ended.push_back({std::move(entry.done), std::move(result)});
    }
  }
  Core::Run(std::move(ended));
}

size_t Waiters::size() const {
  absl::MutexLock lock(&core_->mu);
  return core_->entries.size();
}

}  // namespace penstock
