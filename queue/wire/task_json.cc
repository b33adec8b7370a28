// Signatures, written by appending and read by one walk over the text. Nested
// signatures are not decoded: they are cut out and kept as compact text.

#include "queue/wire/task_json.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/json.h"
#include "queue/wire/fields.h"

namespace penstock {
namespace {

// Go's names and order; the enumerators are indices into kNames.
enum Field {
  kUuid,
  kName,
  kRoutingKey,
  kEta,
  kGroupUuid,
  kGroupTaskCount,
  kArgs,
  kHeaders,
  kPriority,
  kImmutable,
  kRetryCount,
  kRetryTimeout,
  kOnSuccess,
  kOnError,
  kChordCallback,
  kBrokerMessageGroupId,
  kSqsReceiptHandle,
  kStopTaskDeletionOnError,
  kIgnoreWhenTaskNotRegistered,
};

constexpr std::string_view kNames[] = {
    "UUID",
    "Name",
    "RoutingKey",
    "ETA",
    "GroupUUID",
    "GroupTaskCount",
    "Args",
    "Headers",
    "Priority",
    "Immutable",
    "RetryCount",
    "RetryTimeout",
    "OnSuccess",
    "OnError",
    "ChordCallback",
    "BrokerMessageGroupId",
    "SQSReceiptHandle",
    "StopTaskDeletionOnError",
    "IgnoreWhenTaskNotRegistered",
};

constexpr std::string_view kArgNames[] = {"Name", "Type", "Value"};

// ---- writing --------------------------------------------------------------

// A list that Go spells null when it is nil; `is_null` counts only when empty.
template <typename List, typename AppendElement>
void AppendList(const List& list, bool is_null, std::string* out,
                const AppendElement& append_element) {
  if (list.empty() && is_null) {
    out->append("null");
    return;
  }
  out->push_back('[');
  for (const auto& element : list) {
    if (out->back() != '[') out->push_back(',');
    append_element(element);
  }
  out->push_back(']');
}

void AppendArgs(const Task& task, std::string* out) {
  AppendList(task.args, task.args_null, out, [out](const Value& arg) {
    out->append("{\"Name\":");
    AppendJsonString(arg.name, out);
    out->append(",\"Type\":");
    AppendJsonString(arg.type, out);
    absl::StrAppend(out, ",\"Value\":", arg.json, "}");
  });
}

void AppendHeaders(const Task& task, std::string* out) {
  if (task.headers.empty() && task.headers_null) {
    out->append("null");
    return;
  }
  out->push_back('{');
  for (const auto& [key, value] : task.headers) {
    if (out->back() != '{') out->push_back(',');
    AppendJsonString(key, out);
    absl::StrAppend(out, ":", value);
  }
  out->push_back('}');
}

void AppendSignatures(const std::vector<std::string>& signatures, bool is_null,
                      std::string* out) {
  AppendList(signatures, is_null, out,
             [out](const std::string& json) { out->append(json); });
}

// ,"field": before a value.
void AppendName(Field field, std::string* out) {
  const std::string_view name = kNames[field];
  out->push_back(field == kUuid ? '{' : ',');
  out->push_back('"');
  out->append(name);
  out->append("\":");
}

void AppendString(Field field, std::string_view value, std::string* out) {
  AppendName(field, out);
  AppendJsonString(value, out);
}

void AppendInt(Field field, int64_t value, std::string* out) {
  AppendName(field, out);
  absl::StrAppend(out, value);
}

void AppendBool(Field field, bool value, std::string* out) {
  AppendName(field, out);
  out->append(value ? "true" : "false");
}

// ---- reading --------------------------------------------------------------

void ReadArg(FieldReader& in, Value* arg) {
  arg->json = "null";
  in.ReadMembers("argument", kArgNames, [&](size_t field) {
    if (field == 0) {
      in.Read("Name", &arg->name);
    } else if (field == 1) {
      in.Read("Type", &arg->type);
    } else {
      arg->json = in.json().Canonical();
    }
  });
}

void ReadArgs(FieldReader& in, Task* task) {
  task->args.clear();
  task->args_null = true;
  if (!in.EnterArray(kNames[kArgs])) return;
  task->args_null = false;
  while (in.ok() && in.json().NextElement()) {
    ReadArg(in, &task->args.emplace_back());
    in.Within(kNames[kArgs], task->args.size() - 1);
  }
}

void ReadHeaders(FieldReader& in, Task* task) {
  task->headers.clear();
  task->headers_null = true;
  if (!in.EnterObject(kNames[kHeaders])) return;
  task->headers_null = false;
  std::string key;
  while (in.ok() && in.json().NextMember(&key)) {
    task->headers.insert_or_assign(key, in.json().Canonical());
  }
}

// The text of a nested signature. A null in a list is an error: Go crashes when
// its turn comes.
std::string ReadSignature(FieldReader& in) {
  const JsonKind kind = in.json().Kind();
  if (kind != JsonKind::kObject && kind != JsonKind::kNone) {
    in.Fail("signature", absl::StrCat("found ", std::string(KindName(kind)),
                                      ", expected an object"));
    return "";
  }
  return in.json().Compact();
}

void ReadSignatures(FieldReader& in, Field field,
                    std::vector<std::string>* list, bool* is_null) {
  list->clear();
  *is_null = true;
  if (!in.EnterArray(kNames[field])) return;
  *is_null = false;
  while (in.ok() && in.json().NextElement()) {
    list->push_back(ReadSignature(in));
    in.Within(kNames[field], list->size() - 1);
  }
}

void ReadChordCallback(FieldReader& in, Task* task) {
  task->chord_callback.clear();
  if (!in.TakeNull()) task->chord_callback = ReadSignature(in);
}

void ReadField(FieldReader& in, Field field, Task* task) {
  const std::string_view name = kNames[field];
  switch (field) {
    case kUuid:
      return in.Read(name, &task->id);
    case kName:
      return in.Read(name, &task->name);
    case kRoutingKey:
      return in.Read(name, &task->routing_key);
    case kEta:
      return in.Read(name, &task->eta);
    case kGroupUuid:
      return in.Read(name, &task->group_id);
    case kGroupTaskCount:
      return in.Read(name, &task->group_task_count);
    case kArgs:
      return ReadArgs(in, task);
    case kHeaders:
      return ReadHeaders(in, task);
    case kPriority:
      return in.Read(name, &task->priority);
    case kImmutable:
      return in.Read(name, &task->immutable);
    case kRetryCount:
      return in.Read(name, &task->retry_count);
    case kRetryTimeout:
      return in.Read(name, &task->retry_timeout_s);
    case kOnSuccess:
      return ReadSignatures(in, field, &task->on_success,
                            &task->on_success_null);
    case kOnError:
      return ReadSignatures(in, field, &task->on_error, &task->on_error_null);
    case kChordCallback:
      return ReadChordCallback(in, task);
    case kBrokerMessageGroupId:
      return in.Read(name, &task->broker_message_group_id);
    case kSqsReceiptHandle:
      return in.Read(name, &task->sqs_receipt_handle);
    case kStopTaskDeletionOnError:
      return in.Read(name, &task->stop_task_deletion_on_error);
    case kIgnoreWhenTaskNotRegistered:
      return in.Read(name, &task->ignore_when_not_registered);
  }
}

}  // namespace

std::string EncodeTask(const Task& task) {
  std::string out;
  out.reserve(512);
  AppendString(kUuid, task.id, &out);
  AppendString(kName, task.name, &out);
  AppendString(kRoutingKey, task.routing_key, &out);
  AppendName(kEta, &out);
  if (task.eta.has_value()) {
    absl::StrAppend(&out, "\"", FormatTime(*task.eta), "\"");
  } else {
    out.append("null");
  }
  AppendString(kGroupUuid, task.group_id, &out);
  AppendInt(kGroupTaskCount, task.group_task_count, &out);
  AppendName(kArgs, &out);
  AppendArgs(task, &out);
  AppendName(kHeaders, &out);
  AppendHeaders(task, &out);
  AppendInt(kPriority, task.priority, &out);
  AppendBool(kImmutable, task.immutable, &out);
  AppendInt(kRetryCount, task.retry_count, &out);
  AppendInt(kRetryTimeout, task.retry_timeout_s, &out);
  AppendName(kOnSuccess, &out);
  AppendSignatures(task.on_success, task.on_success_null, &out);
  AppendName(kOnError, &out);
  AppendSignatures(task.on_error, task.on_error_null, &out);
  AppendName(kChordCallback, &out);
  out.append(task.chord_callback.empty() ? "null" : task.chord_callback);
  AppendString(kBrokerMessageGroupId, task.broker_message_group_id, &out);
  AppendString(kSqsReceiptHandle, task.sqs_receipt_handle, &out);
  AppendBool(kStopTaskDeletionOnError, task.stop_task_deletion_on_error, &out);
  AppendBool(kIgnoreWhenTaskNotRegistered, task.ignore_when_not_registered,
             &out);
  out.push_back('}');
  return out;
}

absl::StatusOr<Task> DecodeTask(std::string_view json) {
  Task task;
  task.headers_null = true;  // as a document without the member means
  FieldReader in(json);
  if (in.json().Kind() == JsonKind::kNull) {
    return absl::InvalidArgumentError(
        "signature: found null, expected an object");
  }
  in.ReadMembers("signature", kNames, [&](size_t field) {
    ReadField(in, static_cast<Field>(field), &task);
  });
  if (!in.ok()) return in.status();
  return task;
}

}  // namespace penstock
