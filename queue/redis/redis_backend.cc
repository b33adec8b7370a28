#include "queue/redis/redis_backend.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "queue/errors.h"
#include "queue/json.h"
#include "queue/redis/connection.h"
#include "queue/redis/schedules.h"
#include "queue/redis/scripts.h"
#include "queue/wire/fields.h"
#include "queue/wire/state_json.h"

namespace penstock {
namespace {

using Words = std::vector<std::string>;

constexpr std::string_view kHintChannel = "penstock:hint";
constexpr std::string_view kOpenSet = "penstock:open";
constexpr std::string_view kOpenSince = "{penstock:open}:since";
constexpr std::string_view kChordLock = "TriggerChordMutex";  // machinery's
constexpr size_t kReadKeys = 500;                             // of one MGET
// So few states are read between the operations: another thread to wake would cost
// more than they do. More could hold an operation up.
constexpr size_t kFewStates = 8;
constexpr size_t kMostTold = 2048;     // bytes of an outcome in a hint
constexpr size_t kClaimsAtOnce = 100;  // Redis does nothing else meanwhile
constexpr int kMostLeased = 1000;

absl::Status Internal(absl::string_view message) {
  return MakeError(absl::StatusCode::kInternal, reason::kInternal,
                   std::string(message));
}

// Whole seconds as EX and EXPIRE take them: at least one.
std::string Seconds(absl::Duration ttl) {
  constexpr int64_t kMost = int64_t{100} * 365 * 24 * 3600;
  const int64_t seconds =
      absl::ToInt64Seconds(absl::Ceil(ttl, absl::Seconds(1)));
  return absl::StrCat(std::clamp<int64_t>(seconds, 1, kMost));
}

std::string Millis(absl::Time time) {
  return absl::StrCat(absl::ToUnixMillis(time));
}

absl::StatusOr<int64_t> ParseInteger(const std::string& text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) {
    return Internal(absl::StrCat("redis: not a number: ", text.substr(0, 40)));
  }
  return value;
}

absl::StatusOr<absl::Time> ParseMillis(const std::string& text) {
  absl::StatusOr<int64_t> ms = ParseInteger(text);
  if (!ms.ok()) return ms.status();
  return absl::FromUnixMillis(*ms);
}

// ---- keys ------------------------------------------------------------------

std::string RequestKey(const std::string& id) {
  return absl::StrCat("penstock:request:{", id, "}");
}

std::string UniqueKey(const std::string& key) {
  return absl::StrCat("penstock:unique:{", key, "}");
}

std::string MarkKey(const std::string& id) {
  return absl::StrCat("penstock:mark:{", id, "}");
}
std::string SubmitKey(const std::string& id) {
  return absl::StrCat("penstock:submit:{", id, "}");
}
Words TaskKeys(const std::string& id) {
  return {id, MarkKey(id), SubmitKey(id)};
}

Words RecordKeys(WorkflowRecord::Kind kind, const std::string& id) {
  if (kind == WorkflowRecord::kChain) {
    return {absl::StrCat("penstock:chain:{", id, "}")};
  }
  return {absl::StrCat("penstock:group:{", id, "}"), id};
}

Words OpenKeys() { return {std::string(kOpenSet), std::string(kOpenSince)}; }

std::string OpenMember(WorkflowRecord::Kind kind, const std::string& id) {
  return absl::StrCat(kind == WorkflowRecord::kGroup ? "g:" : "c:", id);
}

Words DelayedKeys(const std::string& exchange) {
  const std::string key = absl::StrCat("penstock:delayed:{", exchange, "}");
  return {key, absl::StrCat(key, ":tasks")};
}

Words DeadKeys(const std::string& queue) {
  const std::string key = absl::StrCat("penstock:dead:", queue);
  return {key, absl::StrCat("{", key, "}:tasks")};
}

// ---- texts -----------------------------------------------------------------

// What stands between the quotes of the first member `name` of a state, whose
// value is a string without quotes; nullopt: there is none.
std::optional<std::string_view> MemberText(std::string_view state,
                                           absl::string_view name) {
  const std::string member = absl::StrCat("\"", name, "\":\"");
  size_t begin = state.find(member);
  if (begin == state.npos) return std::nullopt;
  begin += member.size();
  const size_t end = state.find('"', begin);
  if (end == state.npos) return std::nullopt;
  return state.substr(begin, end - begin);
}

// A state as the scripts take it, in three pieces: they put the record's create
// time in between.
class SplitState {
 public:
  explicit SplitState(const TaskState& state) : text_(EncodeState(state)) {
    constexpr std::string_view kMember = "\"CreatedAt\":\"";
    // The last one: a result may hold any JSON.
    begin_ = text_.rfind(kMember) + kMember.size();
    end_ = text_.find('"', begin_);
  }

  const std::string& text() const { return text_; }
  std::string_view head() const { return View().substr(0, begin_); }
  std::string_view created() const {
    return View().substr(begin_, end_ - begin_);
  }
  std::string_view tail() const { return View().substr(end_); }

 private:
  std::string_view View() const { return text_; }

  const std::string text_;
  size_t begin_;
  size_t end_;
};

// The create time that a new state keeps of a `seen` one; nullopt: not only that
// must be kept.
std::optional<std::string_view> CreatedOf(std::string_view seen,
                                          const SplitState& state) {
  const std::string_view head = state.head();
  const size_t names = head.find(",\"State\":\"");
  if (!seen.starts_with(head.substr(0, names))) return std::nullopt;
  const auto created = MemberText(seen, "CreatedAt");
  if (created == "0001-01-01T00:00:00Z") return std::nullopt;
  return created;
}

absl::StatusOr<TaskState> ReadState(const std::string& id,
                                    const std::string& text) {
  absl::StatusOr<TaskState> state = DecodeState(text);
  if (state.ok()) return state;
  return Internal(absl::StrCat("the state of task ", id, " cannot be decoded: ",
                               state.status().message()));
}

std::string IdsJson(const std::vector<std::string>& ids) {
  std::string json = "[";
  for (const std::string& id : ids) {
    if (json.size() > 1) json.push_back(',');
    AppendJsonString(id, &json);
  }
  return json + "]";
}

// The ids are kept as the GroupMeta has them, so its decoder reads them.
absl::StatusOr<std::vector<std::string>> ParseIds(const std::string& json) {
  absl::StatusOr<GroupMeta> meta =
      DecodeGroupMeta(absl::StrCat("{\"TaskUUIDs\":", json, "}"));
  if (!meta.ok()) return meta.status();
  return std::move(meta->task_ids);
}

// "<attempt> <due> <priority> <length of routing key> <length of queue>\n",
// then routing key, queue and body without anything in between.
std::string DelayedText(const DelayedTask& task) {
  return absl::StrCat(task.attempt, " ", absl::ToUnixMillis(task.due), " ",
                      static_cast<int>(task.priority), " ",
                      task.routing_key.size(), " ", task.queue.size(), "\n",
                      task.routing_key, task.queue, task.body);
}

absl::StatusOr<DelayedTask> ParseDelayed(const std::string& id,
                                         const std::string& text) {
  const size_t line = text.find('\n');
  std::array<int64_t, 5> numbers = {};
  size_t count = 0;
  if (line != text.npos) {
    for (absl::string_view word :
         absl::StrSplit(absl::string_view(text).substr(0, line), ' ')) {
      if (count == numbers.size() ||
          !absl::SimpleAtoi(word, &numbers[count++])) {
        count = 0;
        break;
      }
    }
  }
  const auto [attempt, due, priority, routing_size, queue_size] = numbers;
  if (count != numbers.size() || routing_size < 0 || queue_size < 0 ||
      static_cast<size_t>(routing_size + queue_size) > text.size() - line - 1) {
    return Internal(
        absl::StrCat("the delayed task ", id, " cannot be decoded"));
  }
  const size_t routing_at = line + 1;
  const size_t queue_at = routing_at + static_cast<size_t>(routing_size);
  const size_t body_at = queue_at + static_cast<size_t>(queue_size);
  return DelayedTask{
      .task_id = id,
      .attempt = static_cast<int>(attempt),
      .due = absl::FromUnixMillis(due),
      .body = text.substr(body_at),
      .routing_key = text.substr(routing_at, queue_at - routing_at),
      .queue = text.substr(queue_at, body_at - queue_at),
      .priority = static_cast<uint8_t>(priority)};
}

// A line of JSON, then the body as it came, whatever its bytes are.
std::string DeadText(const DeadTask& task) {
  return absl::StrCat("{\"TaskUUID\":", JsonString(task.task_id),
                      ",\"Name\":", JsonString(task.name),
                      ",\"Queue\":", JsonString(task.queue),
                      ",\"Reason\":", JsonString(task.reason),
                      ",\"Attempts\":", task.attempts, ",\"Time\":\"",
                      FormatTime({.time = task.time}), "\"}\n", task.body);
}

// `text` of DeadText, or only its first line.
absl::StatusOr<DeadTask> ParseDead(const std::string& id,
                                   const std::string& text) {
  static constexpr std::string_view kNames[] = {"TaskUUID", "Name",     "Queue",
                                                "Reason",   "Attempts", "Time"};
  DeadTask task{.task_id = id};
  if (text.empty()) return task;
  const size_t line = std::min(text.find('\n'), text.size());
  if (line < text.size()) task.body = text.substr(line + 1);
  FieldReader in(std::string_view(text).substr(0, line));
  in.ReadMembers("dead letter", kNames, [&](size_t field) {
    switch (field) {
      case 0:
        return in.Read(kNames[0], &task.task_id);
      case 1:
        return in.Read(kNames[1], &task.name);
      case 2:
        return in.Read(kNames[2], &task.queue);
      case 3:
        return in.Read(kNames[3], &task.reason);
      case 4:
        return in.Read(kNames[4], &task.attempts);
      case 5:
        return in.Read(kNames[5], &task.time);
    }
  });
  if (in.ok()) return task;
  return Internal(absl::StrCat("the dead letter ", id, " cannot be decoded: ",
                               in.status().message()));
}

absl::StatusOr<WorkflowRecord> ParseRecord(WorkflowRecord::Kind kind,
                                           const std::string& id,
                                           const RedisReply& reply) {
  std::map<std::string, std::string> fields;
  for (size_t i = 0; i + 1 < reply.elements.size(); i += 2) {
    fields[reply.elements[i].text] = reply.elements[i + 1].text;
  }
  auto time =
      [&](const char* field) -> absl::StatusOr<std::optional<absl::Time>> {
    auto it = fields.find(field);
    if (it == fields.end()) return std::nullopt;
    absl::StatusOr<absl::Time> value = ParseMillis(it->second);
    if (!value.ok()) return value.status();
    return *value;
  };
  auto ids = ParseIds(fields["ids"]);
  auto created = ParseMillis(fields["created_ms"]);
  auto claimed = time("claimed_ms");
  auto burnt = time("burnt_ms");
  for (const absl::Status& status :
       {ids.status(), created.status(), claimed.status(), burnt.status()}) {
    if (!status.ok()) {
      return Internal(
          absl::StrCat("the record of ", id, ": ", status.message()));
    }
  }
  return WorkflowRecord{.kind = kind,
                        .id = id,
                        .task_ids = *std::move(ids),
                        .callback = fields["callback"],
                        .on_failure = fields["on_failure"],
                        .payload_hash = fields["hash"],
                        .nonce = fields["nonce"],
                        .create_time = *created,
                        .submitted = fields.contains("submitted"),
                        .claim_time = *claimed,
                        .sent = fields.contains("sent"),
                        .burnt_time = *burnt,
                        .chord_triggered = fields["triggered"] == "1"};
}

// ---- replies ---------------------------------------------------------------

// Runs `read` (RedisReply -> StatusOr<T>) on a good reply.
template <typename T, typename Read>
Callback<RedisReply> Reading(Callback<T> done, Read read) {
  return [done = std::move(done),
          read = std::move(read)](absl::StatusOr<RedisReply> reply) mutable {
    if (!reply.ok()) {
      std::move(done)(reply.status());
    } else {
      std::move(done)(read(*reply));
    }
  };
}

Callback<RedisReply> Ignoring(Done done) {
  return [done = std::move(done)](absl::StatusOr<RedisReply> reply) mutable {
    std::move(done)(reply.status());
  };
}

absl::Status Unexpected(absl::string_view what) {
  return Internal(absl::StrCat("redis: unexpected answer: ", what));
}

// `reply` has a state and its mark. As in the scripts the first member of this
// name counts: before it are names, in which quotes have backslashes; behind it
// results, which may hold any JSON.
absl::StatusOr<std::optional<SeenPending>> ReadUnmarkedPending(
    const RedisReply& reply) {
  if (reply.elements.size() != 2) return Unexpected("its size");
  const std::string& text = reply.elements[0].text;
  if (MemberText(text, "State") != "PENDING" ||
      reply.elements[1].kind != RedisReply::kNil) {
    return std::nullopt;
  }
  return text;
}

// The answer {word, state} of Begin, Finish and Continue. `kinds` names the
// words.
template <typename Answer>
absl::StatusOr<Answer> ReadAnswer(
    const std::string& id, const RedisReply& reply,
    const std::vector<std::pair<const char*, typename Answer::Kind>>& kinds) {
  if (reply.elements.size() != 2) return Unexpected("its size");
  const std::string& word = reply.elements[0].text;
  for (const auto& [name, kind] : kinds) {
    if (word != name) continue;
    Answer answer;
    answer.kind = kind;
    const std::string& text = reply.elements[1].text;
    if (!text.empty()) {
      absl::StatusOr<TaskState> state = ReadState(id, text);
      if (!state.ok()) return state.status();
      answer.recorded = *std::move(state);
    }
    return answer;
  }
  return Unexpected(word);
}

absl::StatusOr<PendingAnswer> ReadPendingAnswer(const RedisReply& reply) {
  if (reply.text == "created") return PendingAnswer::kCreated;
  if (reply.text == "repeat") return PendingAnswer::kRepeat;
  if (reply.text == "past") return PendingAnswer::kPast;
  if (reply.text == "taken") return PendingAnswer::kTaken;
  return Unexpected(reply.text);
}

// Several commands of one operation. Their replies come one after the other on
// one thread, so it needs no lock.
class Gather {
 public:
  Gather(size_t count, Callback<std::vector<RedisReply>> done)
      : replies_(count), waiting_(count), done_(std::move(done)) {}

  static Callback<RedisReply> Part(const std::shared_ptr<Gather>& gather,
                                   size_t index) {
    return [gather, index](absl::StatusOr<RedisReply> reply) {
      gather->Settle(index, std::move(reply));
    };
  }

 private:
  void Settle(size_t index, absl::StatusOr<RedisReply> reply) {
    if (reply.ok()) {
      replies_[index] = *std::move(reply);
    } else if (status_.ok()) {
      status_ = reply.status();
    }
    if (--waiting_ > 0) return;
    if (status_.ok()) {
      std::move(done_)(std::move(replies_));
    } else {
      std::move(done_)(status_);
    }
  }

  std::vector<RedisReply> replies_;
  size_t waiting_;
  absl::Status status_;
  Callback<std::vector<RedisReply>> done_;
};

using Arguments = std::initializer_list<std::string_view>;

RedisCommand ScriptCommand(const RedisScript& script, const Words& keys,
                           Arguments args, Callback<RedisReply> done) {
  RedisWords words(script, keys, args.size());
  for (std::string_view arg : args) words.Add(arg);
  return {
      .words = std::move(words), .script = &script, .done = std::move(done)};
}

RedisCommand ScriptCommand(const RedisScript& script, const Words& keys,
                           const Words& args, Callback<RedisReply> done) {
  RedisWords words(script, keys, args.size());
  for (const std::string& arg : args) words.Add(arg);
  return {
      .words = std::move(words), .script = &script, .done = std::move(done)};
}

// A submission's claim on an id: the state, and beside it the submit key. One
// without a payload hash is on an id that nobody else can have: it needs no key.
class PendingClaim {
 public:
  explicit PendingClaim(PendingRequest request)
      : state_(request.state),
        id_(std::move(request.state.task_id)),
        hash_(std::move(request.payload_hash)),
        nonce_(std::move(request.nonce)),
        ttl_(Seconds(request.ttl)) {}

  bool HasKey() const { return !hash_.empty(); }

  // Make it where nothing stands; so many replies.
  size_t commands() const { return HasKey() ? 2 : 1; }
  void AddCommands(RedisWords& words) const {
    words.AddCommand({"SET", id_, state_.text(), "NX", "EX", ttl_});
    if (HasKey()) {
      words.AddCommand({"SET", SubmitKey(id_), Claim(), "NX", "EX", ttl_});
    }
  }

  const std::string& id() const { return id_; }

  // What they made, by their replies.
  struct Made {
    bool state = false;
    bool claim = false;
  };
  Made ReadMade(const RedisReply* replies) const {
    // Of a SET with NX: "OK", or nil.
    auto was = [](const RedisReply& reply) {
      return reply.kind == RedisReply::kText;
    };
    return {.state = was(replies[0]), .claim = !HasKey() || was(replies[1])};
  }

  // What to do where it does not stand.
  RedisCommand Judge(const Made& made) const {
    const std::string_view text = made.state && made.claim ? "both"
                                  : made.state             ? "state"
                                  : made.claim             ? "claim"
                                                           : "none";
    return ScriptCommand(
        Scripts().create_pending, TaskKeys(id_),
        {state_.text(), Claim(), hash_, nonce_, ttl_, text}, nullptr);
  }

 private:
  std::string Claim() const {
    if (hash_.empty()) return "";
    const std::string_view created = state_.created();
    return absl::StrCat(hash_, "\n", nonce_, "\n",
                        absl::string_view(created.data(), created.size()));
  }

  const SplitState state_;
  const std::string id_;
  const std::string hash_;
  const std::string nonce_;
  const std::string ttl_;
};

// Whether they are made in transactions, so that an equal call at the same time
// finds both keys of a claim or neither.
bool HaveKeys(const std::vector<PendingClaim>& claims) {
  return std::any_of(claims.begin(), claims.end(),
                     [](const PendingClaim& claim) { return claim.HasKey(); });
}

// Makes all of them where nothing stands. With keys: MULTI, theirs, how many of
// the ids have a mark, EXEC.
RedisCommand ClaimCommand(const std::vector<PendingClaim>& claims) {
  RedisCommand command{.replies = 0};
  const bool transactions = HaveKeys(claims);
  for (size_t begin = 0; begin < claims.size(); begin += kClaimsAtOnce) {
    const size_t end = std::min(begin + kClaimsAtOnce, claims.size());
    if (transactions) command.words.AddCommand({"MULTI"});
    for (size_t i = begin; i < end; ++i) {
      claims[i].AddCommands(command.words);
      command.replies += claims[i].commands();
    }
    if (!transactions) continue;
    command.words.BeginCommand(1 + end - begin);
    command.words.Add("EXISTS");
    for (size_t i = begin; i < end; ++i) {
      command.words.Add(MarkKey(claims[i].id()));
    }
    command.words.AddCommand({"EXEC"});
    command.replies += 3;
  }
  return command;
}

// One that may not stand: a script judges.
struct OpenClaim {
  size_t place;
  PendingClaim::Made made;
};

// `replies` are those to ClaimCommand's.
absl::StatusOr<std::vector<OpenClaim>> ReadOpenClaims(
    const std::vector<PendingClaim>& claims, const RedisReply& replies) {
  std::vector<OpenClaim> open;
  const bool transactions = HaveKeys(claims);
  const RedisReply* reply =
      replies.kind == RedisReply::kArray ? replies.elements.data() : &replies;
  for (size_t begin = 0; begin < claims.size(); begin += kClaimsAtOnce) {
    const size_t end = std::min(begin + kClaimsAtOnce, claims.size());
    const RedisReply* result = reply;
    bool marked = false;
    if (transactions) {
      size_t commands = 1;
      for (size_t i = begin; i < end; ++i) commands += claims[i].commands();
      const std::vector<RedisReply>& all = reply[1 + commands].elements;
      if (all.size() != commands) return Unexpected("its size");
      result = all.data();
      marked = all.back().integer != 0;
      reply += 1 + commands + 1;
    }
    for (size_t i = begin; i < end; ++i) {
      const PendingClaim::Made made = claims[i].ReadMade(result);
      if (!made.state || !made.claim || (marked && claims[i].HasKey())) {
        open.push_back({.place = i, .made = made});
      }
      result += claims[i].commands();
    }
    if (!transactions) reply = result;
  }
  return open;
}

// The id, and behind a line's end the outcome, if it came with it.
void TakeHint(std::string_view message, Backend::OnHint& on_hint) {
  const size_t end = std::min(message.find('\n'), message.size());
  const size_t outcome = std::min(end + 1, message.size());
  on_hint(message.substr(0, end), message.substr(outcome));
}

// ---- the backend -----------------------------------------------------------

class RedisBackend : public Backend {
 public:
  RedisBackend(RedisAddress address, std::string exchange,
               Environment* environment)
      : address_(std::move(address)),
        delayed_keys_(DelayedKeys(exchange)),
        schedule_keys_(ScheduleKeys(exchange)),
        environment_(environment),
        operations_({.address = address_, .name = "redis"}, environment),
        reads_({.address = address_, .name = "redis-read"}, environment) {}

  // A callback may use any of the connections: all threads end before the first
  // connection goes.
  ~RedisBackend() override {
    if (hints_ != nullptr) hints_->Stop();
    operations_.Stop();
    reads_.Stop();
    while (operations_.FailLeftovers() || reads_.FailLeftovers()) {
    }
  }

  // Nearly every id is new, and then plain commands do, at half of a script's cost
  // or less. Where they have found something, the script judges.
  void CreatePending(std::vector<PendingRequest> requests,
                     Callback<std::vector<PendingAnswer>> done) override {
    std::vector<PendingClaim> claims;
    claims.reserve(requests.size());
    for (PendingRequest& request : requests) {
      claims.emplace_back(std::move(request));
    }
    RedisCommand command = ClaimCommand(claims);
    if (claims.empty()) {
      command.words = {"PING"};  // answered on the connection's thread all the same
      command.replies = 1;
    }
    command.done = [this, claims = std::move(claims), done = std::move(done)](
                       absl::StatusOr<RedisReply> replies) mutable {
      if (!replies.ok()) return std::move(done)(replies.status());
      JudgeClaims(std::move(claims), *replies, std::move(done));
    };
    operations_.Send(std::move(command));
  }

  void TakeBack(std::vector<std::string> task_ids, std::string nonce,
                Callback<bool> done) override {
    std::vector<RedisCommand> commands;
    for (const std::string& id : task_ids) {
      commands.push_back(
          ScriptCommand(Scripts().take_back, TaskKeys(id), {nonce}, nullptr));
    }
    SendAll(operations_, std::move(commands),
            [done = std::move(done)](
                absl::StatusOr<std::vector<RedisReply>> replies) mutable {
              if (!replies.ok()) return std::move(done)(replies.status());
              std::move(done)(std::all_of(
                  replies->begin(), replies->end(),
                  [](const RedisReply& reply) { return reply.integer == 1; }));
            });
  }

  void SeePending(std::string task_id,
                  Callback<std::optional<SeenPending>> done) override {
    const Words keys = TaskKeys(task_id);
    operations_.Send({.words = {"MGET", keys[0], keys[1]},
                      .done = Reading(std::move(done), ReadUnmarkedPending)});
  }

  void Begin(BeginRequest request, Callback<BeginAnswer> done) override {
    TaskState& started = request.started;
    started.begins = 1;  // the script counts on from the record
    const SplitState state(started);
    Run(Scripts().begin, TaskKeys(started.task_id),
        {state.head(), state.created(), state.tail(),
         absl::StrCat(started.attempt), started.run,
         absl::StrCat(request.max_begins), Seconds(request.ttl),
         Seconds(request.final_ttl)},
        Reading(std::move(done), [id = started.task_id](
                                     const RedisReply& reply) {
          return ReadAnswer<BeginAnswer>(id, reply,
                                         {{"run", BeginAnswer::kRun},
                                          {"final", BeginAnswer::kFinal},
                                          {"move", BeginAnswer::kMove},
                                          {"stale", BeginAnswer::kStale},
                                          {"worn_out", BeginAnswer::kWornOut}});
        }));
  }

  void Finish(const FinishRequest& request,
              Callback<FinishAnswer> done) override {
    const TaskState& outcome = request.outcome;
    const SplitState state(outcome);
    const absl::Duration ttl =
        IsFinal(outcome.status) ? request.final_ttl : request.ttl;
    const std::optional<std::string_view> created =
        CreatedOf(request.seen, state);
    // Where there is much to do it is left out: it costs Redis a twentieth of what a
    // task does, and spares a read only to who waits.
    const bool is_told = IsFinal(outcome.status) && !operations_.IsBusy() &&
                         state.text().size() <= kMostTold;
    Run(Scripts().finish, TaskKeys(outcome.task_id),
        {state.head(), created.value_or(state.created()), state.tail(),
         StatusName(outcome.status), absl::StrCat(outcome.attempt),
         outcome.run, Seconds(ttl), Seconds(request.final_ttl),
         created.has_value() ? request.seen : "",
         is_told ? "told" : ""},
        Reading(std::move(done), [id = outcome.task_id](
                                     const RedisReply& reply) {
          return ReadAnswer<FinishAnswer>(id, reply,
                                          {{"written", FinishAnswer::kWritten},
                                           {"final", FinishAnswer::kFinal},
                                           {"retried", FinishAnswer::kRetried},
                                           {"stale", FinishAnswer::kStale}});
        }));
  }

  void SetProgress(std::string task_id, std::string run, TaskProgress progress,
                   absl::Duration ttl, Callback<bool> done) override {
    Run(Scripts().set_progress, TaskKeys(task_id),
        {std::move(run), EncodeProgress(progress), Seconds(ttl)},
        Reading(std::move(done), IsOne));
  }

  void Continue(TaskState pending, absl::Duration ttl, absl::Duration final_ttl,
                Callback<ContinueAnswer> done) override {
    Run(Scripts().continue_task, TaskKeys(pending.task_id),
        {EncodeState(pending), Seconds(ttl), Seconds(final_ttl)},
        Reading(std::move(done),
                [id = pending.task_id](const RedisReply& reply) {
                  return ReadAnswer<ContinueAnswer>(
                      id, reply,
                      {{"publish", ContinueAnswer::kPublish},
                       {"final", ContinueAnswer::kFinal},
                       {"past", ContinueAnswer::kPast}});
                }));
  }

  void Abandon(TaskState failure, absl::Duration ttl,
               Callback<bool> done) override {
    const SplitState state(failure);
    Run(Scripts().abandon, TaskKeys(failure.task_id),
        {state.head(), state.created(), state.tail(),
         absl::StrCat("\"Error\":", JsonString(failure.error)), Seconds(ttl)},
        Reading(std::move(done), IsOne));
  }

  void Cancel(TaskState cancelled, absl::Duration final_ttl,
              Callback<CancelAnswer> done) override {
    const SplitState state(cancelled);
    Run(Scripts().cancel, TaskKeys(cancelled.task_id),
        {state.head(), state.created(), state.tail(), cancelled.run,
         Seconds(final_ttl)},
        Reading(std::move(done),
                [id = cancelled.task_id](const RedisReply& reply) {
                  return ReadAnswer<CancelAnswer>(
                      id, reply,
                      {{"cancelled", CancelAnswer::kCancelled},
                       {"running", CancelAnswer::kRunning},
                       {"final", CancelAnswer::kFinal},
                       {"unknown", CancelAnswer::kUnknown}});
                }));
  }

  bool CanCancel() const override { return true; }

  void ClaimRequest(RequestClaim claim,
                    Callback<RequestAnswer> done) override {
    Run(Scripts().claim_request, {RequestKey(claim.request_id)},
        {std::move(claim.payload_hash), claim.nonce,
         absl::StrCat(absl::ToUnixNanos(claim.time)),
         absl::StrCat(absl::ToInt64Milliseconds(claim.lease)),
         absl::StrCat(absl::ToInt64Milliseconds(claim.window))},
        Reading(std::move(done),
                [nonce = claim.nonce](const RedisReply& reply)
                    -> absl::StatusOr<RequestAnswer> {
                  if (reply.elements.size() != 2) return Unexpected("its size");
                  const std::string& word = reply.elements[0].text;
                  auto time = ParseInteger(reply.elements[1].text);
                  if (!time.ok()) return time.status();
                  RequestAnswer answer{.time = absl::FromUnixNanos(*time),
                                       .nonce = nonce};
                  if (word == "owned") {
                    answer.kind = RequestAnswer::kOwned;
                  } else if (word == "done") {
                    answer.kind = RequestAnswer::kDone;
                  } else if (word == "busy") {
                    answer.kind = RequestAnswer::kBusy;
                  } else if (word == "taken") {
                    answer.kind = RequestAnswer::kTaken;
                  } else {
                    return Unexpected(word);
                  }
                  return answer;
                }));
  }

  void EndRequest(std::string request_id, std::string nonce, RequestEnd end,
                  Done done) override {
    const char* word = end == RequestEnd::kAccepted  ? "accepted"
                       : end == RequestEnd::kRefused ? "refused"
                                                     : "open";
    Run(Scripts().end_request, {RequestKey(request_id)},
        {std::move(nonce), word}, Ignoring(std::move(done)));
  }

  void ClaimUnique(UniqueClaim claim, Callback<UniqueAnswer> done) override {
    Run(Scripts().claim_unique, {UniqueKey(claim.key)},
        {std::move(claim.task_id), std::move(claim.ended_holder),
         absl::StrCat(absl::ToInt64Milliseconds(claim.ttl))},
        Reading(std::move(done),
                [](const RedisReply& reply) -> absl::StatusOr<UniqueAnswer> {
                  if (reply.elements.size() != 3) return Unexpected("its size");
                  const std::string& word = reply.elements[0].text;
                  auto age = ParseInteger(reply.elements[2].text);
                  if (!age.ok()) return age.status();
                  UniqueAnswer answer{.holder = reply.elements[1].text,
                                      .age = absl::Milliseconds(*age)};
                  if (word == "taken") {
                    answer.kind = UniqueAnswer::kTaken;
                  } else if (word == "stands") {
                    answer.kind = UniqueAnswer::kStands;
                  } else if (word == "held") {
                    answer.kind = UniqueAnswer::kHeld;
                  } else {
                    return Unexpected(word);
                  }
                  return answer;
                }));
  }

  void ReleaseUnique(std::vector<UniqueClaim> claims, Done done) override {
    std::vector<RedisCommand> commands;
    for (UniqueClaim& claim : claims) {
      commands.push_back(ScriptCommand(Scripts().release_unique,
                                       {UniqueKey(claim.key)},
                                       {std::move(claim.task_id)}, nullptr));
    }
    SendAll(operations_, std::move(commands),
            [done = std::move(done)](
                absl::StatusOr<std::vector<RedisReply>> replies) mutable {
              std::move(done)(replies.status());
            });
  }

  void GetStates(
      std::vector<std::string> task_ids,
      Callback<std::vector<std::optional<TaskState>>> done) override {
    std::vector<RedisCommand> commands;
    for (size_t i = 0; i < task_ids.size(); i += kReadKeys) {
      Words words = {"MGET"};
      const size_t end = std::min(i + kReadKeys, task_ids.size());
      words.insert(words.end(), task_ids.begin() + i, task_ids.begin() + end);
      commands.push_back({.words = std::move(words)});
    }
    SendAll(task_ids.size() <= kFewStates ? operations_ : reads_,
            std::move(commands),
            [ids = std::move(task_ids), done = std::move(done)](
                absl::StatusOr<std::vector<RedisReply>> replies) mutable {
              if (!replies.ok()) return std::move(done)(replies.status());
              std::move(done)(ReadStates(ids, *replies));
            });
  }

  void Refresh(std::vector<std::string> task_ids, RefreshWhich which,
               absl::Duration ttl, absl::Duration final_ttl,
               Done done) override {
    std::vector<RedisCommand> commands;
    for (const std::string& id : task_ids) {
      commands.push_back(ScriptCommand(
          Scripts().refresh, TaskKeys(id),
          {Seconds(ttl), which == RefreshWhich::kAll ? "all" : "not_begun",
           Seconds(final_ttl)},
          nullptr));
    }
    SendAll(operations_, std::move(commands),
            [done = std::move(done)](
                absl::StatusOr<std::vector<RedisReply>> replies) mutable {
              std::move(done)(replies.status());
            });
  }

  // Two steps, since the open set is in another slot; the entry comes first, so
  // that no record is ever without one.
  void CreateRecord(WorkflowRecord record, absl::Time visit, absl::Duration ttl,
                    Callback<PendingAnswer> done) override {
    Words args = {OpenMember(record.kind, record.id), Millis(visit),
                  absl::StrCat(Millis(record.create_time), " ", record.nonce)};
    Run(Scripts().open_record, OpenKeys(), std::move(args),
        [this, record = std::move(record), ttl,
         done = std::move(done)](absl::StatusOr<RedisReply> reply) mutable {
          if (!reply.ok()) return std::move(done)(reply.status());
          WriteRecord(std::move(record), ttl, std::move(done));
        });
  }

  void GetRecord(WorkflowRecord::Kind kind, std::string id,
                 Callback<std::optional<WorkflowRecord>> done) override {
    Run(Scripts().get_record, RecordKeys(kind, id), {},
        Reading(std::move(done),
                [kind, id](const RedisReply& reply)
                    -> absl::StatusOr<std::optional<WorkflowRecord>> {
                  if (reply.elements.empty()) return std::nullopt;
                  auto record = ParseRecord(kind, id, reply);
                  if (!record.ok()) return record.status();
                  return *std::move(record);
                }));
  }

  void GetGroupMeta(std::string group_id,
                    Callback<std::optional<GroupMeta>> done) override {
    operations_.Send(
        {.words = {"GET", group_id},
         .done =
             Reading(std::move(done),
                     [group_id](const RedisReply& reply)
                         -> absl::StatusOr<std::optional<GroupMeta>> {
                       if (reply.kind == RedisReply::kNil) return std::nullopt;
                       auto meta = DecodeGroupMeta(reply.text);
                       if (!meta.ok()) {
                         return Internal(absl::StrCat(
                             "the record of group ", group_id,
                             " cannot be decoded: ", meta.status().message()));
                       }
                       // The state of a task, for one, is no group.
                       if (meta->group_id.empty()) return std::nullopt;
                       return *std::move(meta);
                     })});
  }

  void MarkRecord(WorkflowRecord::Kind kind, std::string id, RecordMark mark,
                  absl::Time now, absl::Duration ttl,
                  Callback<bool> done) override {
    Words args;
    switch (mark) {
      case RecordMark::kSubmitted:
        args = {"submitted", "1"};
        break;
      case RecordMark::kSent:
        args = {"sent", "1"};
        break;
      case RecordMark::kBurntSeen:
        args = {"burnt_ms", Millis(now)};
        break;
      case RecordMark::kVisited:
        args = {"visited", "1"};
        break;
      case RecordMark::kClaimRenewed:
        args = {"claimed_ms", Millis(now)};
        break;
    }
    args.push_back(Seconds(ttl));
    args.push_back(mark == RecordMark::kClaimRenewed ? "HSET" : "HSETNX");
    Run(Scripts().mark_record, RecordKeys(kind, id), std::move(args),
        Reading(std::move(done), IsOne));
  }

  void RemoveRecord(WorkflowRecord::Kind kind, std::string id,
                    std::string nonce, Done done) override {
    Words keys = RecordKeys(kind, id);
    Words close = {OpenMember(kind, id), "", nonce};
    Run(Scripts().remove_record, std::move(keys), {std::move(nonce)},
        [this, close = std::move(close),
         done = std::move(done)](absl::StatusOr<RedisReply> reply) mutable {
          if (!reply.ok()) return std::move(done)(reply.status());
          if (reply->integer == 0) return std::move(done)(absl::OkStatus());
          Run(Scripts().close_open, OpenKeys(), std::move(close),
              Ignoring(std::move(done)));
        });
  }

  void ClaimChord(std::string group_id, std::string token, absl::Time now,
                  absl::Duration ttl, Callback<ClaimAnswer> done) override {
    Words keys = RecordKeys(WorkflowRecord::kGroup, group_id);
    keys.emplace_back(kChordLock);
    Run(Scripts().claim_chord, std::move(keys),
        {std::move(token), Millis(now), Seconds(ttl)},
        Reading(std::move(done),
                [](const RedisReply& reply) -> absl::StatusOr<ClaimAnswer> {
                  if (reply.text == "won") return ClaimAnswer::kWon;
                  if (reply.text == "locked") return ClaimAnswer::kLocked;
                  if (reply.text == "refused") return ClaimAnswer::kRefused;
                  return Unexpected(reply.text);
                }));
  }

  void LeaseOpen(absl::Time now, absl::Time next_visit, int limit,
                 Callback<std::vector<OpenEntry>> done) override {
    Run(Scripts().lease_open, OpenKeys(),
        {Millis(now), Millis(next_visit), absl::StrCat(std::max(limit, 0))},
        Reading(std::move(done), ReadOpen));
  }

  void CloseOpen(OpenEntry entry, absl::Duration ttl, Done done) override {
    Words keys = RecordKeys(entry.kind, entry.id);
    Words close = {OpenMember(entry.kind, entry.id), Millis(entry.open_time),
                   ""};
    Run(Scripts().close_open, OpenKeys(), std::move(close),
        [this, keys = std::move(keys), ttl,
         done = std::move(done)](absl::StatusOr<RedisReply> reply) mutable {
          if (!reply.ok()) return std::move(done)(reply.status());
          if (reply->integer == 0) return std::move(done)(absl::OkStatus());
          Run(Scripts().expire, std::move(keys), {Seconds(ttl)},
              Ignoring(std::move(done)));
        });
  }

  void Lay(DelayedTask task, Done done) override {
    Run(Scripts().lay, delayed_keys_,
        {task.task_id, Millis(task.due), DelayedText(task)},
        Ignoring(std::move(done)));
  }

  void LeaseDue(int limit, absl::Duration lease,
                Callback<LeasedBatch> done) override {
    Run(Scripts().lease_due, delayed_keys_,
        {absl::StrCat(std::clamp(limit, 0, kMostLeased)),
         absl::StrCat(absl::ToInt64Milliseconds(lease))},
        Reading(std::move(done), ReadLeased));
  }

  void GetDelayed(std::string task_id,
                  Callback<std::optional<LeasedTask>> done) override {
    Words args = {task_id};
    Run(Scripts().get_delayed, delayed_keys_, std::move(args),
        Reading(std::move(done),
                [id = std::move(task_id)](const RedisReply& reply)
                    -> absl::StatusOr<std::optional<LeasedTask>> {
                  if (reply.elements.empty()) return std::nullopt;
                  if (reply.elements.size() != 2) return Unexpected("its size");
                  auto score = ParseInteger(reply.elements[0].text);
                  if (!score.ok()) return score.status();
                  auto task = ParseDelayed(id, reply.elements[1].text);
                  if (!task.ok()) return task.status();
                  return LeasedTask{.task = *std::move(task), .lease = *score};
                }));
  }

  // When many fall due at once, they go together: those of a moment in one script,
  // and what comes while that is on its way in the next one.
  void RemoveLeased(LeasedTask leased, Done done) override {
    {
      absl::MutexLock lock(&mu_);
      removals_.push_back({.words = {std::move(leased.task.task_id),
                                     absl::StrCat(leased.lease),
                                     absl::StrCat(leased.task.attempt)},
                           .done = std::move(done)});
      if (std::exchange(removing_, true)) return;
    }
    RemoveNext();
  }

  void LayDead(DeadTask task, Done done) override {
    Run(Scripts().lay_dead, DeadKeys(task.queue),
        {task.task_id, Millis(task.time), DeadText(task)},
        Ignoring(std::move(done)));
  }

  void ListDead(std::string queue, int limit, std::optional<DeadPlace> after,
                Callback<std::vector<DeadTask>> done) override {
    Words args = {absl::StrCat(std::max(limit, 1)), "", ""};
    if (after.has_value()) {
      args[1] = Millis(after->time);
      args[2] = std::move(after->task_id);
    }
    Run(Scripts().list_dead, DeadKeys(queue), std::move(args),
        Reading(std::move(done),
                [](const RedisReply& reply)
                    -> absl::StatusOr<std::vector<DeadTask>> {
                  const std::vector<RedisReply>& elements = reply.elements;
                  std::vector<DeadTask> tasks;
                  for (size_t i = 0; i + 1 < elements.size(); i += 2) {
                    auto task = ParseDead(elements[i].text, elements[i + 1].text);
                    if (!task.ok()) return task.status();
                    tasks.push_back(*std::move(task));
                  }
                  return tasks;
                }));
  }

  void GetDead(std::string queue, std::string task_id,
               Callback<std::optional<DeadTask>> done) override {
    operations_.Send(
        {.words = {"HGET", DeadKeys(queue)[1], task_id},
         .done = Reading(std::move(done),
                         [task_id](const RedisReply& reply) {
                           return ReadDead(task_id, reply);
                         })});
  }

  void RemoveDead(std::string queue, std::string task_id,
                  std::optional<absl::Time> time,
                  Callback<std::optional<DeadTask>> done) override {
    Run(Scripts().remove_dead, DeadKeys(queue),
        {task_id, time.has_value() ? Millis(*time) : ""},
        Reading(std::move(done), [task_id](const RedisReply& reply) {
          return ReadDead(task_id, reply);
        }));
  }

  void CreateSchedule(ScheduleRecord record,
                      Callback<ScheduleRecord> done) override {
    Run(ScriptsOfSchedules().create, schedule_keys_, CreateWords(record),
        Reading(std::move(done),
                [](const RedisReply& reply) -> absl::StatusOr<ScheduleRecord> {
                  auto stands = ParseSchedule(reply);
                  if (!stands.ok()) return stands.status();
                  if (!stands->has_value()) return Unexpected("no schedule");
                  return **std::move(stands);
                }));
  }

  void GetSchedule(std::string name,
                   Callback<std::optional<ScheduleRecord>> done) override {
    Run(ScriptsOfSchedules().get, schedule_keys_, {std::move(name)},
        Reading(std::move(done), ParseSchedule));
  }

  void ListSchedules(std::string after, int limit, bool with_call,
                     Callback<std::vector<ScheduleRecord>> done) override {
    Run(ScriptsOfSchedules().list, schedule_keys_,
        {std::move(after), absl::StrCat(std::max(limit, 1)),
         with_call ? "1" : "0"},
        Reading(std::move(done), ParseSchedules));
  }

  void PauseSchedule(std::string name, bool paused, absl::Time next_tick,
                     Callback<std::optional<ScheduleRecord>> done) override {
    Run(ScriptsOfSchedules().pause, schedule_keys_,
        {std::move(name), paused ? "1" : "0", Millis(next_tick)},
        Reading(std::move(done), ParseSchedule));
  }

  void DeleteSchedule(std::string name,
                      Callback<std::optional<ScheduleRecord>> done) override {
    Run(ScriptsOfSchedules().remove, schedule_keys_, {std::move(name)},
        Reading(std::move(done), ParseSchedule));
  }

  void LeaseSchedules(int limit, absl::Duration lease, absl::Duration grace,
                      Callback<LeasedSchedules> done) override {
    Run(ScriptsOfSchedules().lease, schedule_keys_,
        {absl::StrCat(std::max(limit, 1)),
         absl::StrCat(absl::ToInt64Milliseconds(lease)),
         absl::StrCat(absl::ToInt64Milliseconds(grace))},
        Reading(std::move(done), ParseLeasedSchedules));
  }

  void EndTick(ScheduleTick tick, Done done) override {
    Run(ScriptsOfSchedules().end_tick, schedule_keys_, EndTickWords(tick),
        Ignoring(std::move(done)));
  }

  void SubscribeHints(OnHint on_hint) override {
    hints_ = std::make_unique<RedisConnection>(
        RedisConnection::Options{.address = address_,
                                 .name = "redis-subscribe",
                                 .channel = std::string(kHintChannel),
                                 .on_message =
                                     [on_hint = std::move(on_hint)](
                                         std::string_view message) mutable {
                                       TakeHint(message, on_hint);
                                     }},
        environment_);
  }

  void WantHints(bool wanted) override {
    if (hints_ != nullptr) hints_->SetSubscribed(wanted);
  }

  void Ping(Done done) override {
    // A write: a server that is full or a replica answers reads all the same.
    operations_.Send({.words = {"SET", "penstock:ping", "1", "EX", "60"},
                      .done = Ignoring(std::move(done))});
  }

 private:
  static absl::StatusOr<std::optional<DeadTask>> ReadDead(
      const std::string& id, const RedisReply& reply) {
    if (reply.text.empty()) return std::nullopt;
    absl::StatusOr<DeadTask> task = ParseDead(id, reply.text);
    if (!task.ok()) return task.status();
    return *std::move(task);
  }

  static absl::StatusOr<bool> IsOne(const RedisReply& reply) {
    return reply.integer == 1;
  }

  static absl::StatusOr<std::vector<std::optional<TaskState>>> ReadStates(
      const std::vector<std::string>& ids,
      const std::vector<RedisReply>& replies) {
    std::vector<std::optional<TaskState>> states;
    states.reserve(ids.size());
    for (const RedisReply& reply : replies) {
      for (const RedisReply& element : reply.elements) {
        if (states.size() == ids.size()) return Unexpected("too many states");
        if (element.kind == RedisReply::kNil) {
          states.emplace_back();
          continue;
        }
        auto state = ReadState(ids[states.size()], element.text);
        if (!state.ok()) return state.status();
        states.emplace_back(*std::move(state));
      }
    }
    if (states.size() != ids.size()) return Unexpected("too few states");
    return states;
  }

  static absl::StatusOr<std::vector<OpenEntry>> ReadOpen(
      const RedisReply& reply) {
    std::vector<OpenEntry> entries;
    for (size_t i = 0; i + 1 < reply.elements.size(); i += 2) {
      const std::string& member = reply.elements[i].text;
      auto time = ParseMillis(reply.elements[i + 1].text);
      if (!time.ok()) return time.status();
      entries.push_back({.kind = absl::StartsWith(member, "g:")
                                     ? WorkflowRecord::kGroup
                                     : WorkflowRecord::kChain,
                         .id = member.substr(2),
                         .open_time = *time});
    }
    return entries;
  }

  static absl::StatusOr<LeasedBatch> ReadLeased(const RedisReply& reply) {
    const std::vector<RedisReply>& elements = reply.elements;
    if (elements.size() < 2) return Unexpected("its size");
    LeasedBatch batch;
    auto lease = ParseInteger(elements[0].text);
    if (!lease.ok()) return lease.status();
    if (!elements[1].text.empty()) {
      auto next = ParseMillis(elements[1].text);
      if (!next.ok()) return next.status();
      batch.next_due = *next;
    }
    for (size_t i = 2; i + 1 < elements.size(); i += 2) {
      auto task = ParseDelayed(elements[i].text, elements[i + 1].text);
      if (!task.ok()) return task.status();
      batch.tasks.push_back({.task = *std::move(task), .lease = *lease});
    }
    return batch;
  }

  void RemoveNext() {
    std::vector<Removal> removals;
    {
      absl::MutexLock lock(&mu_);
      removals.swap(removals_);
      removing_ = !removals.empty();
    }
    if (removals.empty()) return;
    Words args;
    args.reserve(removals.size() * 3);
    for (Removal& removal : removals) {
      std::move(removal.words.begin(), removal.words.end(),
                std::back_inserter(args));
    }
    Run(Scripts().remove_leased, delayed_keys_, args,
        [this, removals = std::move(removals)](
            absl::StatusOr<RedisReply> reply) mutable {
          for (Removal& removal : removals) {
            std::move(removal.done)(reply.status());
          }
          RemoveNext();
        });
  }

  // `replies` are those to the claims' commands.
  void JudgeClaims(std::vector<PendingClaim> claims, const RedisReply& replies,
                   Callback<std::vector<PendingAnswer>> done) {
    std::vector<PendingAnswer> answers(claims.size(), PendingAnswer::kCreated);
    absl::StatusOr<std::vector<OpenClaim>> open =
        ReadOpenClaims(claims, replies);
    if (!open.ok()) return std::move(done)(open.status());
    if (open->empty()) return std::move(done)(std::move(answers));
    std::vector<RedisCommand> commands;
    for (const OpenClaim& each : *open) {
      commands.push_back(claims[each.place].Judge(each.made));
    }
    SendAll(operations_, std::move(commands),
            [answers = std::move(answers), open = *std::move(open),
             done = std::move(done)](
                absl::StatusOr<std::vector<RedisReply>> replies) mutable {
              if (!replies.ok()) return std::move(done)(replies.status());
              for (size_t i = 0; i < open.size(); ++i) {
                absl::StatusOr<PendingAnswer> answer =
                    ReadPendingAnswer((*replies)[i]);
                if (!answer.ok()) return std::move(done)(answer.status());
                answers[open[i].place] = *answer;
              }
              std::move(done)(std::move(answers));
            });
  }

  void WriteRecord(WorkflowRecord record, absl::Duration ttl,
                   Callback<PendingAnswer> done) {
    std::string meta;
    if (record.kind == WorkflowRecord::kGroup) {
      meta = EncodeGroupMeta({.group_id = record.id,
                              .task_ids = record.task_ids,
                              .chord_triggered = record.chord_triggered,
                              .create_time = record.create_time});
    }
    std::string ids = IdsJson(record.task_ids);
    Words args = {Seconds(ttl),
                  record.nonce,
                  record.payload_hash,
                  ids,
                  std::move(meta),
                  "ids",
                  ids,
                  "callback",
                  std::move(record.callback),
                  "on_failure",
                  std::move(record.on_failure),
                  "hash",
                  record.payload_hash,
                  "nonce",
                  record.nonce,
                  "created_ms",
                  Millis(record.create_time)};
    if (record.submitted) args.insert(args.end(), {"submitted", "1"});
    if (record.sent) args.insert(args.end(), {"sent", "1"});
    Run(Scripts().create_record, RecordKeys(record.kind, record.id),
        std::move(args), Reading(std::move(done), ReadPendingAnswer));
  }

  void Run(const RedisScript& script, const Words& keys, Arguments args,
           Callback<RedisReply> done) {
    operations_.Send(ScriptCommand(script, keys, args, std::move(done)));
  }
  void Run(const RedisScript& script, const Words& keys, const Words& args,
           Callback<RedisReply> done) {
    operations_.Send(ScriptCommand(script, keys, args, std::move(done)));
  }

  // Sends all at once; `done` gets the replies in order, or the first error.
  static void SendAll(RedisConnection& connection,
                      std::vector<RedisCommand> commands,
                      Callback<std::vector<RedisReply>> done) {
    if (commands.empty()) {  // answered on the connection's thread all the same
      connection.Send(
          {.words = {"PING"},
           .done = Reading(std::move(done),
                           [](const RedisReply&)
                               -> absl::StatusOr<std::vector<RedisReply>> {
                             return std::vector<RedisReply>();
                           })});
      return;
    }
    auto gather = std::make_shared<Gather>(commands.size(), std::move(done));
    WakeLater later;
    for (size_t i = 0; i < commands.size(); ++i) {
      commands[i].done = Gather::Part(gather, i);
      connection.Send(std::move(commands[i]));
    }
  }

  // Constant after construction.
  const RedisAddress address_;
  const Words delayed_keys_;
  const Words schedule_keys_;
  Environment* const environment_;

  struct Removal {
    Words words;  // of the script's for this one
    Done done;
  };
  absl::Mutex mu_;
  std::vector<Removal> removals_ ABSL_GUARDED_BY(mu_);  // not sent yet
  bool removing_ ABSL_GUARDED_BY(mu_) = false;          // one is on its way

  // Synchronise themselves.
  RedisConnection operations_;
  RedisConnection reads_;
  std::unique_ptr<RedisConnection> hints_;  // set once, by SubscribeHints
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> OpenRedisBackend(
    const Options& options, Environment* environment) {
  absl::StatusOr<RedisAddress> address =
      ParseRedisUrl(options.result_backend, options.tls);
  if (!address.ok()) return address.status();
  return std::make_unique<RedisBackend>(*std::move(address),
                                        options.amqp.exchange, environment);
}

}  // namespace penstock
