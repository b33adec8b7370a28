// Task states and group records, written by appending. The scripts of
// queue/redis/ match the texts "State":", "CreatedAt":", "TaskName":,
// "Attempt":, "Run":", "Begins":, "NextAttempt": and "Progress": here, so
// members have exactly these spellings and no white space.

#include "queue/wire/state_json.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/json.h"
#include "queue/wire/fields.h"

namespace penstock {
namespace {

// ---- writing --------------------------------------------------------------

// Appends members and the commas between them.
class Members {
 public:
  explicit Members(std::string* out) : out_(out) { out_->push_back('{'); }

  void String(absl::string_view name, std::string_view value) {
    Name(name);
    AppendJsonString(value, out_);
  }
  void Int(absl::string_view name, int64_t value) {
    Name(name);
    absl::StrAppend(out_, value);
  }
  void Bool(absl::string_view name, bool value) {
    Name(name);
    out_->append(value ? "true" : "false");
  }
  void Time(absl::string_view name, absl::Time value) {
    Name(name);
    absl::StrAppend(out_, "\"", FormatTime({.time = value}), "\"");
  }
  void Name(absl::string_view name) {
    if (out_->back() != '{') out_->push_back(',');
    absl::StrAppend(out_, "\"", name, "\":");
  }
  void End() { out_->push_back('}'); }

 private:
  std::string* const out_;
};

void AppendResults(const TaskState& state, std::string* out) {
  if (state.results.empty() && state.results_null) {
    out->append("null");
    return;
  }
  out->push_back('[');
  for (const Value& result : state.results) {
    if (out->back() != '[') out->push_back(',');
    out->append("{\"Type\":");
    AppendJsonString(result.type, out);
    absl::StrAppend(out, ",\"Value\":", result.json, "}");
  }
  out->push_back(']');
}

bool HasOurs(const TaskState& state) {
  return state.attempt != 0 || !state.run.empty() || state.begins != 0 ||
         !state.worker.empty() || !state.group_id.empty() ||
         !state.error_type.empty() || state.expiry.has_value() ||
         state.start_time.has_value() ||
         state.finish_time.has_value() || state.next_attempt != 0 ||
         state.next_attempt_time.has_value() || state.next_retry_count != 0 ||
         state.next_retry_timeout_s != 0 || state.progress.has_value();
}

// What is set, in a fixed order.
void AppendOurs(const TaskState& state, std::string* out) {
  Members members(out);
  if (state.attempt != 0) members.Int("Attempt", state.attempt);
  if (!state.run.empty()) members.String("Run", state.run);
  if (state.begins != 0) members.Int("Begins", state.begins);
  if (!state.worker.empty()) members.String("Worker", state.worker);
  if (!state.group_id.empty()) members.String("Group", state.group_id);
  if (!state.error_type.empty()) members.String("ErrorType", state.error_type);
  if (state.expiry) members.Time("Expires", *state.expiry);
  if (state.start_time) members.Time("Started", *state.start_time);
  if (state.finish_time) members.Time("Finished", *state.finish_time);
  const bool has_next = state.next_attempt != 0;
  if (has_next) members.Int("NextAttempt", state.next_attempt);
  if (state.next_attempt_time) members.Time("NextAt", *state.next_attempt_time);
  // The counters of a next attempt may well be 0.
  if (has_next || state.next_retry_count != 0) {
    members.Int("NextRetryCount", state.next_retry_count);
  }
  if (has_next || state.next_retry_timeout_s != 0) {
    members.Int("NextRetryTimeout", state.next_retry_timeout_s);
  }
  if (state.progress) {
    members.Name("Progress");
    out->append(EncodeProgress(*state.progress));
  }
  members.End();
}

// ---- reading --------------------------------------------------------------

// Reads a whole document over `record`; null at the top is an error.
template <typename Record, typename ReadField>
absl::StatusOr<Record> ReadDocument(std::string_view json, Record record,
                                    std::string_view noun,
                                    std::span<const std::string_view> names,
                                    const ReadField& read_field) {
  FieldReader in(json);
  if (in.json().Kind() == JsonKind::kNull) {
    in.Fail(noun, "found null, expected an object");
  }
  in.ReadMembers(noun, names,
                 [&](size_t field) { read_field(in, field, &record); });
  if (!in.ok()) return in.status();
  return record;
}

void ReadResult(FieldReader& in, Value* result) {
  static constexpr std::string_view kNames[] = {"Type", "Value"};
  result->json = "null";
  in.ReadMembers("result", kNames, [&](size_t field) {
    if (field == 0) {
      in.Read("Type", &result->type);
    } else {
      result->json = in.json().Canonical();
    }
  });
}

void ReadResults(FieldReader& in, TaskState* state) {
  state->results.clear();
  state->results_null = true;
  if (!in.EnterArray("Results")) return;
  state->results_null = false;
  while (in.ok() && in.json().NextElement()) {
    ReadResult(in, &state->results.emplace_back());
    in.Within("Results", state->results.size() - 1);
  }
}

void ReadStatus(FieldReader& in, TaskState* state) {
  std::string name;
  in.Read("State", &name);
  state->status = ParseStatus(name);
  state->raw_status =
      state->status == Status::kUnknown ? std::move(name) : std::string();
}

void ReadProgress(FieldReader& in, TaskState* state) {
  static constexpr std::string_view kNames[] = {"Fraction", "Text", "Time"};
  TaskProgress& progress = state->progress.emplace();
  in.ReadMembers("Progress", kNames, [&](size_t field) {
    switch (field) {
      case 0:
        return in.Read("Fraction", &progress.fraction);
      case 1:
        return in.Read("Text", &progress.text);
      case 2:
        return in.Read("Time", &progress.time);
    }
  });
}

void ReadOurs(FieldReader& in, TaskState* state) {
  static constexpr std::string_view kNames[] = {
      "Attempt",     "Run",       "Begins",         "Worker",
      "Group",       "ErrorType", "Started",        "Finished",
      "NextAttempt", "NextAt",    "NextRetryCount", "NextRetryTimeout",
      "Expires",     "Progress"};
  in.ReadMembers("Penstock", kNames, [&](size_t field) {
    const std::string_view name = kNames[field];
    switch (field) {
      case 0:
        return in.Read(name, &state->attempt);
      case 1:
        return in.Read(name, &state->run);
      case 2:
        return in.Read(name, &state->begins);
      case 3:
        return in.Read(name, &state->worker);
      case 4:
        return in.Read(name, &state->group_id);
      case 5:
        return in.Read(name, &state->error_type);
      case 6:
        return in.Read(name, &state->start_time);
      case 7:
        return in.Read(name, &state->finish_time);
      case 8:
        return in.Read(name, &state->next_attempt);
      case 9:
        return in.Read(name, &state->next_attempt_time);
      case 10:
        return in.Read(name, &state->next_retry_count);
      case 11:
        return in.Read(name, &state->next_retry_timeout_s);
      case 12:
        return in.Read(name, &state->expiry);
      case 13:
        return ReadProgress(in, state);
    }
  });
}

constexpr std::string_view kStateNames[] = {"TaskUUID", "TaskName", "State",
                                            "Results",  "Error",    "CreatedAt",
                                            "TTL",      "Penstock"};

void ReadStateField(FieldReader& in, size_t field, TaskState* state) {
  const std::string_view name = kStateNames[field];
  switch (field) {
    case 0:
      return in.Read(name, &state->task_id);
    case 1:
      return in.Read(name, &state->task_name);
    case 2:
      return ReadStatus(in, state);
    case 3:
      return ReadResults(in, state);
    case 4:
      return in.Read(name, &state->error);
    case 5:
      return in.Read(name, &state->create_time);
    case 6:
      return in.Read(name, &state->ttl);
    case 7:
      return ReadOurs(in, state);
  }
}

constexpr std::string_view kGroupNames[] = {
    "GroupUUID", "TaskUUIDs", "ChordTriggered", "Lock", "CreatedAt", "TTL"};

void ReadGroupField(FieldReader& in, size_t field, GroupMeta* meta) {
  const std::string_view name = kGroupNames[field];
  switch (field) {
    case 0:
      return in.Read(name, &meta->group_id);
    case 1:
      return in.Read(name, &meta->task_ids, &meta->task_ids_null);
    case 2:
      return in.Read(name, &meta->chord_triggered);
    case 3:
      return in.Read(name, &meta->lock);
    case 4:
      return in.Read(name, &meta->create_time);
    case 5:
      return in.Read(name, &meta->ttl);
  }
}

}  // namespace

std::string EncodeState(const TaskState& state) {
  std::string out;
  out.reserve(320);
  Members members(&out);
  members.String("TaskUUID", state.task_id);
  members.String("TaskName", state.task_name);
  members.String("State", state.status == Status::kUnknown
                              ? std::string_view(state.raw_status)
                              : StatusName(state.status));
  members.Name("Results");
  AppendResults(state, &out);
  members.String("Error", state.error);
  members.Time("CreatedAt", state.create_time);
  members.Int("TTL", state.ttl);
  if (HasOurs(state)) {
    members.Name("Penstock");
    AppendOurs(state, &out);
  }
  members.End();
  return out;
}

std::string EncodeProgress(const TaskProgress& progress) {
  std::string out;
  Members members(&out);
  members.Name("Fraction");
  AppendJsonDouble(progress.fraction, &out);
  members.String("Text", progress.text);
  members.Time("Time", progress.time);
  members.End();
  return out;
}

absl::StatusOr<TaskState> DecodeState(std::string_view json) {
  return ReadDocument(json, TaskState{.status = Status::kUnknown}, "task state",
                      kStateNames, ReadStateField);
}

std::string EncodeGroupMeta(const GroupMeta& meta) {
  std::string out;
  out.reserve(128 + 48 * meta.task_ids.size());
  Members members(&out);
  members.String("GroupUUID", meta.group_id);
  members.Name("TaskUUIDs");
  if (meta.task_ids.empty() && meta.task_ids_null) {
    out.append("null");
  } else {
    out.push_back('[');
    for (const std::string& id : meta.task_ids) {
      if (out.back() != '[') out.push_back(',');
      AppendJsonString(id, &out);
    }
    out.push_back(']');
  }
  members.Bool("ChordTriggered", meta.chord_triggered);
  members.Bool("Lock", meta.lock);
  members.Time("CreatedAt", meta.create_time);
  members.Int("TTL", meta.ttl);
  members.End();
  return out;
}

absl::StatusOr<GroupMeta> DecodeGroupMeta(std::string_view json) {
  return ReadDocument(json, GroupMeta{.task_ids_null = true}, "group record",
                      kGroupNames, ReadGroupField);
}

}  // namespace penstock
