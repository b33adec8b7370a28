// The seam to the result backend: the states of tasks, the records of open
// groups and chains, the set of delayed tasks, dead letters. Implementations:
// redis/ (hiredis, one Lua script an operation), memory/ (embedded and unit
// tests), and the failing one of the tests. All pass
// tests/conformance/backend_conformance_test.cc.
//
// Every operation is atomic for the keys that it names and may be repeated after
// a lost reply: it then answers as it did the first time. Only Lifecycle orders
// them. Protocol: docs/architecture.md sections 4 to 8.
//
// For every method: thread-safe; never blocks; the callback runs once, on the
// backend's own thread, never inside the call. It gets UNAVAILABLE
// (BACKEND_UNAVAILABLE) when the backend cannot be reached or did not answer in
// time (the operation may then have taken place), INTERNAL when it refused.

#ifndef PENSTOCK_QUEUE_BACKEND_H_
#define PENSTOCK_QUEUE_BACKEND_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "queue/callback.h"
#include "queue/schedule.h"
#include "queue/task.h"

namespace penstock {

// ---- task states ----------------------------------------------------------

// A submission's claim on an id. `nonce` names the submission: only it may take
// its PENDING back. `payload_hash` tells an equal repeat from another task; empty:
// no other submission can have this id, and none need be told apart from it (a
// repeat after a lost reply then gets kTaken).
struct PendingRequest {
  TaskState state;  // PENDING
  std::string payload_hash;
  std::string nonce;
  absl::Duration ttl;
};

enum class PendingAnswer {
  kCreated,  // PENDING was written, or stands from an earlier try of this nonce
  kRepeat,   // PENDING of another submission with an equal payload
  kPast,     // an equal payload that is past PENDING
  kTaken,    // something else has this id
};

// `started` carries attempt, run, worker, group, start time; what it leaves out
// (create time, name) is kept from the record.
struct BeginRequest {
  TaskState started;
  absl::Duration ttl;
  absl::Duration final_ttl;  // of a final state restored from a mark
  int max_begins = 0;  // per attempt
};

struct BeginAnswer {
  enum Kind {
    kRun,      // STARTED was written (or stands from this very run): go on
    kFinal,    // `recorded` is final: complete its steps and ack
    kMove,     // `recorded` is RETRY of a later attempt: complete the move, ack
    kStale,    // a later attempt has begun: ack
    kWornOut,  // begun max_begins times without a Finish: make a dead letter
  } kind = kRun;
  TaskState recorded;
};

// A record as it was read: only the backend knows what is in it.
using SeenPending = std::string;

// `outcome` is SUCCESS, FAILURE or RETRY with attempt and run.
struct FinishRequest {
  TaskState outcome;
  absl::Duration ttl;
  absl::Duration final_ttl;
  SeenPending seen = {};  // if it stands still, it costs half; empty: not known
};

struct FinishAnswer {
  enum Kind {
    kWritten,  // it stands (or stood already: this very run wrote it)
    kFinal,    // another final state stood: `recorded`; follow that one
    kRetried,  // a RETRY of this attempt stands, of another run: `recorded`; lay
               // what it says before acking, since that run may have no delivery
    kStale,    // a RETRY, and a later attempt has begun or waits: dropped
  } kind = kWritten;
  TaskState recorded;
};

struct ContinueAnswer {
  enum Kind {
    kPublish,  // PENDING stands: publish (again)
    kFinal,    // `recorded` is final: carry out its own steps
    kPast,     // it has begun: nothing to do
  } kind = kPublish;
  TaskState recorded;
};

struct CancelAnswer {
  enum Kind {
    kCancelled,  // it had not begun: its steps are the caller's to carry out
    kRunning,    // it had: whoever holds its delivery carries them out
    kFinal,      // it had ended before
    kUnknown,    // no state stands; nothing was written
  } kind = kCancelled;
  TaskState recorded;  // what stands now
};

// ---- requests -------------------------------------------------------------

// A client's call under a request_id. `nonce` names the claimant.
struct RequestClaim {
  std::string request_id;
  std::string payload_hash;
  std::string nonce;
  absl::Time time;         // what its delays count from, if it is the first
  absl::Duration lease;    // for which it is the claimant's
  absl::Duration window;   // for which it is remembered
};

struct RequestAnswer {
  enum Kind {
    kOwned,  // carry it out, then EndRequest (or the claim is repeated)
    kDone,   // it was accepted
    kBusy,   // another claimant is at it
    kTaken,  // the id belongs to another payload
  } kind = kOwned;
  absl::Time time;    // of the first claim
  std::string nonce;  // with kOwned: what EndRequest is called with
};

enum class RequestEnd {
  kAccepted,  // a repeat is answered
  kOpen,      // not known: a repeat carries it out again, under the same time
  kRefused,   // nothing was kept: forget it
};

// ---- unique keys -----------------------------------------------------------

// A task's claim on a business key.
struct UniqueClaim {
  std::string key;
  std::string task_id;
  std::string ended_holder;  // has ended, so it is replaced; empty: none known
  absl::Duration ttl;
};

struct UniqueAnswer {
  enum Kind {
    kTaken,   // the task holds it from now on
    kStands,  // the task held it already
    kHeld,    // `holder` does
  } kind = kTaken;
  std::string holder;
  absl::Duration age;  // for how long, with kHeld
};

// ---- workflow records -----------------------------------------------------

// What must outlive a Go writer about an open group or chain. Its id is the
// group's, or the first link's.
struct WorkflowRecord {
  enum Kind { kGroup, kChain } kind = kGroup;
  std::string id;
  std::vector<std::string> task_ids;  // in order; never changes
  std::string callback;    // JSON text of a signature; empty: none
  std::string on_failure;  // JSON text of a signature; empty: none
  std::string payload_hash;
  std::string nonce;
  absl::Time create_time;

  bool submitted = false;  // every member's publish was confirmed
  std::optional<absl::Time> claim_time;  // a worker took it on to end the chord
  bool sent = false;                     // the callback's publish was confirmed
  std::optional<absl::Time> burnt_time;  // flag set without a claim: first seen
  bool chord_triggered = false;          // machinery's flag

  bool operator==(const WorkflowRecord&) const = default;
};

enum class RecordMark {
  kSubmitted,
  kSent,
  kBurntSeen,
  kVisited,       // only lets record and meta live
  kClaimRenewed,  // someone continues the claim: its age starts again
};

enum class ClaimAnswer {
  kWon,
  kLocked,   // a Go worker holds TriggerChordMutex: try again
  kRefused,  // the flag was set already
};

struct OpenEntry {
  WorkflowRecord::Kind kind = WorkflowRecord::kGroup;
  std::string id;
  absl::Time open_time;

  bool operator==(const OpenEntry&) const = default;
};

// ---- delayed tasks, dead letters ------------------------------------------

struct DelayedTask {
  std::string task_id;
  int attempt = 1;
  absl::Time due;           // kept to the millisecond
  std::string body;         // the signature's JSON
  std::string routing_key;
  std::string queue;        // not empty: straight to this queue (Message::queue)
  uint8_t priority = 0;

  bool operator==(const DelayedTask&) const = default;
};

struct LeasedTask {
  DelayedTask task;
  // What RemoveLeased matches: the entry's time in half milliseconds. A due time
  // is even and a lease odd, so a task that was laid again meanwhile never looks
  // as if it were still leased.
  int64_t lease = 0;
};

struct LeasedBatch {
  std::vector<LeasedTask> tasks;       // oldest due first
  std::optional<absl::Time> next_due;  // of what is not due yet
};

struct DeadTask {
  std::string task_id;
  std::string name;
  std::string queue;
  std::string reason;
  std::string body;  // the signature's JSON; empty where only the head is told
  absl::Time time;
  int attempts = 0;

  bool operator==(const DeadTask&) const = default;
};

// A place in a list of dead letters: that of the one with this id and time.
struct DeadPlace {
  absl::Time time;  // to the millisecond
  std::string task_id;

  bool operator==(const DeadPlace&) const = default;
};

class Backend {
 public:
  // Fails what is still pending (UNAVAILABLE), then ends the threads.
  virtual ~Backend() = default;

  // Claims ids for a submission; answers in request order.
  virtual void CreatePending(std::vector<PendingRequest> requests,
                             Callback<std::vector<PendingAnswer>> done) = 0;

  // Takes PENDING back where it stands and is of `nonce` (empty: of a submission
  // without a payload hash). True when none of the ids has a state any more.
  virtual void TakeBack(std::vector<std::string> task_ids, std::string nonce,
                        Callback<bool> done) = 0;

  // PENDING as it stands (for FinishRequest::seen), if it does and no mark; it
  // costs a tenth of a Begin. nullopt: something else stands, or this backend does
  // not say.
  virtual void SeePending(std::string task_id,
                          Callback<std::optional<SeenPending>> done) = 0;

  virtual void Begin(BeginRequest request, Callback<BeginAnswer> done) = 0;
  virtual void Finish(const FinishRequest& request,
                      Callback<FinishAnswer> done) = 0;

  // Puts `progress` into the state, if it is STARTED of this very run, which then
  // lives for `ttl`. False: it is not, and nothing was written.
  virtual void SetProgress(std::string task_id, std::string run,
                           TaskProgress progress, absl::Duration ttl,
                           Callback<bool> done) = 0;

  // PENDING for a follow-up task, only where no state stands.
  virtual void Continue(TaskState pending, absl::Duration ttl,
                        absl::Duration final_ttl,
                        Callback<ContinueAnswer> done) = 0;

  // FAILURE over PENDING or nothing, with a mark (its text is `failure.error`)
  // that survives a Go writer. False when the task has begun or is final.
  virtual void Abandon(TaskState failure, absl::Duration ttl,
                       Callback<bool> done) = 0;

  // Ends a task that is not final: `cancelled` is FAILURE with a run of its own.
  // A mark stays beside it as with Abandon, for as long as the task's delivery
  // may still come.
  virtual void Cancel(TaskState cancelled, absl::Duration final_ttl,
                      Callback<CancelAnswer> done) = 0;

  // Whether Cancel can ever succeed: otherwise no one need look for its marks.
  virtual bool CanCancel() const = 0;

  // Leases are measured by the backend's clock.
  virtual void ClaimRequest(RequestClaim claim,
                            Callback<RequestAnswer> done) = 0;

  // Does nothing when the request is no longer of `nonce`.
  virtual void EndRequest(std::string request_id, std::string nonce,
                          RequestEnd end, Done done) = 0;

  // A repeat after a lost reply may get kStands for kTaken.
  virtual void ClaimUnique(UniqueClaim claim, Callback<UniqueAnswer> done) = 0;

  // Gives back those of `claims` that their tasks still hold.
  virtual void ReleaseUnique(std::vector<UniqueClaim> claims, Done done) = 0;

  // States in request order; nullopt where none is known. Served apart from the
  // other operations, so that big reads do not delay them.
  virtual void GetStates(
      std::vector<std::string> task_ids,
      Callback<std::vector<std::optional<TaskState>>> done) = 0;

  // Lets states live: final ones for `final_ttl` at least, since a group or
  // chain may be open for longer than its results live; others for `ttl`, all of
  // them or only those that have not begun (PENDING, RETRY). Shortens no life.
  enum class RefreshWhich { kAll, kNotBegun };
  virtual void Refresh(std::vector<std::string> task_ids, RefreshWhich which,
                       absl::Duration ttl, absl::Duration final_ttl,
                       Done done) = 0;

  // Lists the record in the open set (first visit at `visit`), then writes it,
  // and for a group machinery's GroupMeta unless one stands. kPast is not given.
  virtual void CreateRecord(WorkflowRecord record, absl::Time visit,
                            absl::Duration ttl, Callback<PendingAnswer> done) = 0;
  virtual void GetRecord(WorkflowRecord::Kind kind, std::string id,
                         Callback<std::optional<WorkflowRecord>> done) = 0;
  virtual void GetGroupMeta(std::string group_id,
                            Callback<std::optional<GroupMeta>> done) = 0;

  // False when the record is gone. Each mark lets record and meta live for `ttl`
  // at least.
  virtual void MarkRecord(WorkflowRecord::Kind kind, std::string id,
                          RecordMark mark, absl::Time now, absl::Duration ttl,
                          Callback<bool> done) = 0;

  // Removes record, meta and open entry, if it is of `nonce`.
  virtual void RemoveRecord(WorkflowRecord::Kind kind, std::string id,
                            std::string nonce, Done done) = 0;

  // Claims the end of a chord: flips machinery's flag and writes claim time and
  // token, unless a Go worker holds the lock or the flag is set. A repeat with
  // the same token wins again.
  virtual void ClaimChord(std::string group_id, std::string token,
                          absl::Time now, absl::Duration ttl,
                          Callback<ClaimAnswer> done) = 0;

  // Open entries whose visit is due at `now`, at most `limit`; each is visited
  // next at `next_visit`.
  virtual void LeaseOpen(absl::Time now, absl::Time next_visit, int limit,
                         Callback<std::vector<OpenEntry>> done) = 0;

  // Takes an entry out of the open set; its record (and machinery's) lives for
  // `ttl` more. One that was opened anew meanwhile stays.
  virtual void CloseOpen(OpenEntry entry, absl::Duration ttl, Done done) = 0;

  // Lays a task to be published when due; replaces an earlier one of its id.
  virtual void Lay(DelayedTask task, Done done) = 0;

  // Leases what is due by the backend's clock: it is not leased again for
  // `lease`. At most `limit` (up to 1000).
  virtual void LeaseDue(int limit, absl::Duration lease,
                        Callback<LeasedBatch> done) = 0;

  // The delayed task of this id as RemoveLeased would find it now.
  virtual void GetDelayed(std::string task_id,
                          Callback<std::optional<LeasedTask>> done) = 0;

  // Removes a leased task after its publish was confirmed, only if the lease
  // still stands and the body is still of the attempt that was leased.
  virtual void RemoveLeased(LeasedTask leased, Done done) = 0;

  // Lays a dead letter into penstock:dead:<queue>; replaces an earlier one of its
  // id.
  virtual void LayDead(DeadTask task, Done done) = 0;

  // The heads (all but the body) of a queue's dead letters, newest first, at most
  // `limit` (from 1), from the first one past `after` on, whether that one still
  // lies there or not.
  virtual void ListDead(std::string queue, int limit,
                        std::optional<DeadPlace> after,
                        Callback<std::vector<DeadTask>> done) = 0;

  // The dead letter of this id, with its body.
  virtual void GetDead(std::string queue, std::string task_id,
                       Callback<std::optional<DeadTask>> done) = 0;

  // Removes it, and answers with its head; with `time`, only one of that time (to
  // the millisecond). A repeat after a lost reply finds nothing.
  virtual void RemoveDead(std::string queue, std::string task_id,
                          std::optional<absl::Time> time,
                          Callback<std::optional<DeadTask>> done) = 0;

  // ---- schedules: they never expire. Leases and grace are measured by the
  // backend's clock.

  // Keeps the schedule unless one of its name stands; answers with the one that
  // stands now, without its call.
  virtual void CreateSchedule(ScheduleRecord record,
                              Callback<ScheduleRecord> done) = 0;
  virtual void GetSchedule(std::string name,
                           Callback<std::optional<ScheduleRecord>> done) = 0;

  // At most `limit` (from 1), in the order of their names, from the first one
  // after `after` on (empty: from the very first); `with_call`: with their calls.
  virtual void ListSchedules(std::string after, int limit, bool with_call,
                             Callback<std::vector<ScheduleRecord>> done) = 0;

  // Pauses it, or lets it go on at `next_tick`; one that stands so already is left
  // as it is. Answers with it, without its call, or nullopt: there is none.
  virtual void PauseSchedule(std::string name, bool paused,
                             absl::Time next_tick,
                             Callback<std::optional<ScheduleRecord>> done) = 0;

  // Answers with what it was, without its call. A repeat after a lost reply finds
  // nothing.
  virtual void DeleteSchedule(std::string name,
                              Callback<std::optional<ScheduleRecord>> done) = 0;

  // Leases schedules whose tick is due, at most `limit`: they are not leased again
  // for `lease`. See LeasedSchedule::run: a tick older than `grace` is missed,
  // unless it was begun before.
  virtual void LeaseSchedules(int limit, absl::Duration lease,
                              absl::Duration grace,
                              Callback<LeasedSchedules> done) = 0;

  // Records what became of a tick; does nothing when the schedule is another by
  // now, or this tick is not its next one any more.
  virtual void EndTick(ScheduleTick tick, Done done) = 0;

  // `on_hint` gets the id of a task that may have a new state, from any thread
  // of the backend: a hint only, it may be lost, and a begin need not be told of.
  // With the end of a run it may get the final state too, as text, where that is
  // short enough to be sent to all; else `outcome` is empty. An empty id says that
  // hints may have been lost: any task may have a new state. One subscriber, set
  // before the first operation.
  using OnHint = absl::AnyInvocable<void(std::string_view task_id,
                                         std::string_view outcome)>;
  virtual void SubscribeHints(OnHint on_hint) = 0;

  // Hints come while they are wanted, which at first they are not: each process
  // that wants them gets those of all tasks. When they begin to come, an empty id
  // says so. Never blocks.
  virtual void WantHints(bool wanted) = 0;

  // OK when the backend can be read and written.
  virtual void Ping(Done done) = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_BACKEND_H_
