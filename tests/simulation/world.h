// The world of one seed: the memory twins in the middle, processes around them,
// and between them a network in which each request and each reply is an event
// of its own, so that it may be late, lost, or outlive its sender.
//
// A process is one life of a gateway or worker: the real Lifecycle, and for a
// worker the real Runtime, over the decorators of world.cc. A crash ends it at
// any event; what it had asked for may still arrive.
//
// Used by one thread only. Protocol: docs/architecture.md.

#ifndef PENSTOCK_TESTS_SIMULATION_WORLD_H_
#define PENSTOCK_TESTS_SIMULATION_WORLD_H_

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "queue/errors.h"
#include "queue/lifecycle.h"
#include "queue/memory/memory_backend.h"
#include "queue/memory/memory_broker.h"
#include "sdk/cpp/runtime.h"
#include "tests/simulation/history.h"
#include "tests/simulation/scheduler.h"
#include "tests/simulation/workload.h"

namespace penstock::simulation {

// How bad the world is. Probabilities are per request, or per event.
struct Profile {
  const char* name = "";
  double lost = 0;       // a request or its reply
  double late = 0;       // the caller gives up first, then it takes place
  double duplicate = 0;  // a message, by the broker
  double crash = 0;
  double cut = 0;      // a consumer's connection
  double stall = 0;    // a request takes up to 40 s
  int go_workers = 0;  // at most
  double go_error = 0;
  double long_handlers = 0.05;  // of up to 90 s
  int cpp_workers = 2;          // at most

  bool faultless() const {
    return lost + late + duplicate + crash + cut + stall == 0;
  }
};

// For gtest's texts.
inline void PrintTo(const Profile& profile, std::ostream* out) {
  *out << profile.name;
}

// Known mistakes, made on purpose: the simulator must find each.
enum class Bug {
  kNone,
  kFlagBeforeSend,         // the callback counts as sent once it is claimed
  kAckOnBackendError,      // a worker acks what it could not begin
  kBurntByFailedMember,    // a failed member uses the flag up and ends nothing
  kPendingOverFinal,       // a follow-up task's PENDING is a plain SET
  kRetriesFork,            // an older delivery begins over RETRY
  kMoverRemovesNextRetry,  // what is removed is the id, whatever lies there
  kSweeperSendsAgain,      // "sent" is not remembered
  kFinishIsNotRepeatable,  // a repeated RETRY calls itself stale
  kMembersExpire,          // an open group does not let its members live
  kTakesBackOthers,        // PENDING is taken back, whoever wrote it
};

// What the decorators ask the twins through: completions run when it is
// drained.
class TwinEnvironment : public Environment {
 public:
  explicit TwinEnvironment(Scheduler* scheduler) : scheduler_(scheduler) {}
  absl::Time Now() override { return scheduler_->Now(); }
  std::string NewUuid() override { return ""; }
  double Random() override { return 0.5; }
  void RunAfter(absl::Duration, Closure task) override {
    tasks_.push_back(std::move(task));
  }
  void Drain() {
    while (!tasks_.empty()) {
      Closure task = std::move(tasks_.front());
      tasks_.pop_front();
      std::move(task)();
    }
  }

 private:
  Scheduler* const scheduler_;
  std::deque<Closure> tasks_;
};

class World;
struct Body;

enum class Fate { kArrives, kNotDone, kReplyLost, kLate };

// One direction of a connection: what is sent later does not arrive earlier.
struct Lane {
  absl::Time last = absl::InfinitePast();
  absl::Time Next(absl::Time time) { return last = std::max(last, time); }
};

// A process has a connection for each.
enum LaneId { kWrites, kReads, kPublishes };

// One life of a gateway or worker. Its seams belong to it, and live as long as
// what it has asked for.
class Process : public std::enable_shared_from_this<Process> {
 public:
  Process(World* world, std::string name) : world_(world), name_(name) {}

  const std::string& name() const { return name_; }
  bool alive() const { return alive_; }
  World* world() const { return world_; }

  // Runs `task` later, if this process is still alive then; with `tell_dead` it
  // is run by the crash otherwise.
  void Later(absl::Duration delay, Scheduler::Kind kind, const char* what,
             Closure task, bool tell_dead = false);

  // What a handler has taken, by this process's clock alone: to all others it runs
  // in no time. From its end on the clock is the world's again.
  absl::Duration spent() const { return spent_; }
  void Spend(absl::Duration time) { spent_ += time; }
  void EndSpending() { spent_ = absl::ZeroDuration(); }

  // One request to the backend or the broker. `execute` takes a Callback<T> and
  // asks a twin.
  template <typename T, typename Execute>
  void Request(const char* what, const std::string& key, LaneId lane,
               absl::Status lost, Callback<T> done, Execute execute);

  // From now on it asks for nothing.
  void Die() { alive_ = false; }
  // Everything that it was waiting for ends with CANCELLED.
  void Bury();

 private:
  World* const world_;
  const std::string name_;
  bool alive_ = true;
  absl::Duration spent_ = absl::ZeroDuration();
  uint64_t tokens_ = 0;
  std::map<uint64_t, Closure> told_on_death_;
  std::array<Lane, 3> out_;
  std::array<Lane, 3> back_;
};
using ProcessPtr = std::shared_ptr<Process>;

// A consumer's connection; Cut ends it, and what it held is delivered again.
class Link : public std::enable_shared_from_this<Link> {
 public:
  Link(ProcessPtr process, ConsumeOptions options,
       absl::AnyInvocable<void(Delivery)> on_delivery)
      : process_(std::move(process)),
        options_(std::move(options)),
        on_delivery_(std::move(on_delivery)) {}

  void Connect();
  void Cut();
  // Cuts, and connects again after a while.
  void Break();
  void Settle(DeliveryTag tag, bool requeue);
  void SetTaking(bool taking);
  void SetPrefetch(int prefetch);
  void Close();
  bool connected() const { return inner_ != nullptr; }

 private:
  void OnDelivery(Delivery delivery);

  const ProcessPtr process_;
  ConsumeOptions options_;
  absl::AnyInvocable<void(Delivery)> on_delivery_;
  std::unique_ptr<Consumer> inner_;
  std::set<uint64_t> unacked_;
  uint64_t generation_ = 0;
  bool taking_ = true;
  bool closed_ = false;
  Lane deliveries_;
  Lane settles_;
};
using LinkPtr = std::shared_ptr<Link>;

class World {
 public:
  World(const Profile& profile, uint64_t seed, Bug bug, bool trace);
  ~World();

  // Runs the seed to its end. The violations are the history's.
  void Run();

  Scheduler& scheduler() { return scheduler_; }
  Dice& dice() { return scheduler_.dice(); }
  History& history() { return history_; }
  MemoryKeys& keys() { return *keys_; }
  Backend& backend() { return *backend_; }
  Broker& broker() { return *broker_; }
  void Drain() { twins_.Drain(); }
  const Profile& profile() const { return profile_; }
  const Workload& workload() const { return workload_; }
  Bug bug() const { return bug_; }
  const LifecycleOptions& options() const { return options_; }

  bool faults_on() const;
  bool Fault(double p) { return faults_on() && dice().Chance(p); }
  Fate DrawFate();
  absl::Duration Latency();
  absl::Duration HandlerTime();
  absl::StatusOr<Results> RunHandler(const std::string& name,
                                     const std::string& id);
  // Timers run late in a world where nothing happens: a legal slowness, which
  // saves the events of an idle fleet.
  absl::Duration Stretched(absl::Duration delay);
  void Progress() { progress_ = scheduler_.Now(); }
  std::string NewUuid();

  // A message into the broker, counted.
  void Store(const Message& message, Done done);
  // A message that the broker itself keeps until `due` (machinery's delay
  // queues).
  void StoreAt(Message message, absl::Time due);
  void Acked() { --messages_; }
  void Narrowed() { ++narrowed_; }
  int64_t narrowed() const { return narrowed_; }

  // The states of these may have changed.
  void Observe(const std::vector<std::string>& ids, bool by_go = false);

  void AddLink(const LinkPtr& link) { links_.push_back(link); }

 private:
  struct Member;  // of the fleet

  void Start(Member& member);
  void Crash(Member& member);
  void MaybeBreakSomething();
  void Submit(size_t call, int tries_left);
  void SubmitTo(Lifecycle& lifecycle, const Call& call,
                Callback<Submitted> done);
  void SubmitAsRequest(Lifecycle& lifecycle, const Call& call,
                       Callback<Submitted> done);
  void Answered(size_t call, int tries_left, absl::StatusOr<Submitted> answer);
  void AskToCancel(const Cancel& cancel, int tries_left);
  Lifecycle* AnyGateway();
  bool Quiet();
  std::string WhatIsLeft();

  const Profile profile_;
  const Bug bug_;
  Scheduler scheduler_;
  TwinEnvironment twins_;
  std::unique_ptr<Broker> broker_;
  MemoryKeys* keys_ = nullptr;
  std::unique_ptr<Backend> backend_;
  LifecycleOptions options_;
  Workload workload_;
  History history_;
  std::vector<std::unique_ptr<Member>> fleet_;
  std::vector<std::unique_ptr<Body>> bodies_;
  std::vector<std::weak_ptr<Link>> links_;
  absl::Time progress_;
  absl::Duration first_faults_;
  absl::Duration late_faults_;
  int crashes_left_ = 0;
  int64_t messages_ = 0;  // in queues, or delivered and not acked
  int64_t narrowed_ = 0;  // how often a worker took fewer tasks ahead
  int64_t waiting_calls_ = 0;
  uint64_t uuids_ = 0;
};

template <typename T, typename Execute>
void Process::Request(const char* what, const std::string& key, LaneId lane,
                      absl::Status lost, Callback<T> done, Execute execute) {
  if (!alive_) {
    world_->history().Violation(
        absl::StrCat("a Lifecycle that was stopped asks for ", what));
    return;
  }
  const uint64_t token = ++tokens_;
  auto pending = std::make_shared<Callback<T>>(std::move(done));
  auto answer = [pending](absl::StatusOr<T> result) {
    Callback<T> callback = std::exchange(*pending, nullptr);
    std::move(callback)(std::move(result));
  };
  told_on_death_[token] = [answer] { answer(absl::CancelledError("dead")); };
  const Fate fate = world_->DrawFate();
  const std::string who = absl::StrCat(name_, " ", key);
  auto reply = [self = shared_from_this(), token, answer, who, lane](
                   const char* what, absl::StatusOr<T> result) {
    Scheduler& scheduler = self->world_->scheduler();
    const absl::Time due =
        self->back_[lane].Next(scheduler.Now() + self->world_->Latency());
    scheduler.At(due, Scheduler::kWork, what, who,
                 [self, token, answer, result = std::move(result)]() mutable {
                   if (self->told_on_death_.erase(token) > 0) {
                     answer(std::move(result));
                   }
                 });
  };
  Scheduler& scheduler = world_->scheduler();
  absl::Time due = out_[lane].Next(scheduler.Now() + world_->Latency());
  if (fate == Fate::kLate) {
    reply("gives up", lost);
    due += world_->dice().Between(absl::ZeroDuration(), absl::Seconds(8));
  }
  scheduler.At(
      due, Scheduler::kWork, what, who,
      [self = shared_from_this(), fate, lost, reply,
       execute = std::move(execute)]() mutable {
        World* const world = self->world_;
        // Its sender died: the request may have left before, or not.
        if (!self->alive_ && world->dice().Chance(0.5)) return;
        if (fate == Fate::kNotDone) return reply("refused", lost);
        absl::StatusOr<T> result = lost;
        execute([&result](absl::StatusOr<T> r) { result = std::move(r); });
        world->Drain();
        if (fate == Fate::kLate) return;
        if (fate == Fate::kReplyLost) return reply("reply lost", lost);
        reply("reply", std::move(result));
      });
}

}  // namespace penstock::simulation

#endif  // PENSTOCK_TESTS_SIMULATION_WORLD_H_
