#include "tests/simulation/workload.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/json.h"
#include "queue/policy.h"
#include "queue/wire/task_json.h"
#include "queue/workflow.h"

namespace penstock::simulation {
namespace {

class Maker {
 public:
  Maker(Dice& dice, absl::Time start, absl::Duration latest, bool go)
      : dice_(dice), start_(start), latest_(latest), go_(go) {}

  Workload Make() {
    const int calls = dice_.Between(1, 4);
    for (int i = 0; i < calls; ++i) {
      Call call{.name = absl::StrCat("call", i),
                .at = dice_.Between(absl::ZeroDuration(), absl::Seconds(5))};
      call.hash = absl::StrCat("hash-", call.name);
      call.twice = dice_.Chance(0.1);
      call.request = dice_.Chance(0.3);
      call_ = i;
      switch (dice_.Below(7)) {
        case 0:
        case 1:
          call.tasks.push_back(SingleTask());
          workload_.tasks[call.tasks.back().id].recorded = true;
          break;
        case 2:
        case 3:
          MakeChain(call);
          break;
        default:
          MakeGroup(call);
      }
      workload_.calls.push_back(std::move(call));
    }
    if (dice_.Chance(0.1)) AddImpostor();
    if (dice_.Chance(0.3)) AddCancels();
    return std::move(workload_);
  }

 private:
  Task Plain(const std::string& name, const std::string& parent) {
    Task task{.id = absl::StrCat("t", ++ids_), .name = name};
    task.args.push_back(Own(task.id));
    task.args_null = false;
    task.retry_count = name == "flaky" ? dice_.Between(0, 3) : dice_.Below(2);
    if (dice_.Chance(0.05)) task.priority = 5;
    Expect(task, parent);
    return task;
  }
  // A task with everything that may hang on it, but for what it is part of.
  Task Any(const std::string& parent) {
    static constexpr const char* kNames[] = {"ok",    "ok",    "ok",   "ok",
                                             "ok",    "flaky", "fail", "flaky",
                                             "later", "perm",  "ok",   "only0"};
    std::string name = kNames[dice_.Below(12)];
    if (dice_.Chance(0.02)) name = "nobody";
    Task task = Plain(name, parent);
    task.immutable = dice_.Chance(0.15);
    if (dice_.Chance(0.2)) {
      task.eta = ZonedTime{.time = start_ + dice_.Between(absl::ZeroDuration(),
                                                          absl::Seconds(40))};
    } else if (dice_.Chance(0.04)) {
      task.eta = ZonedTime{.time = start_ + latest_ * dice_.Unit()};
    }
    if (dice_.Chance(0.05)) {
      const absl::Time begin = task.eta.has_value() ? task.eta->time : start_;
      SetExpiry(task, begin + dice_.Between(absl::Milliseconds(1),
                                            absl::Minutes(2)));
      workload_.tasks[task.id].expiry = ExpiryOf(task);
    }
    if (dice_.Chance(0.15)) {
      Task child = Plain(dice_.Chance(0.8) ? "ok" : "fail", task.id);
      Expected expected = workload_.tasks.extract(child.id).mapped();
      expected.on_error = true;
      expected.args.insert(expected.args.begin(), "*");
      if (dice_.Chance(0.4)) child.id.clear();
      task.on_error = {EncodeTask(child)};
      task.on_error_null = false;
      if (child.id.empty()) child.id = ChildId(task.id, "on_error", 0);
      workload_.tasks[child.id] = std::move(expected);
    }
    return task;
  }
  Task SingleTask() {
    Task task = Any("");
    if (dice_.Chance(0.3)) AddOnSuccess(task);
    return task;
  }
  void AddOnSuccess(Task& task) {
    Task child = Plain(dice_.Chance(0.8) ? "ok" : "flaky", task.id);
    Expected expected = workload_.tasks.extract(child.id).mapped();
    if (!task.immutable) expected.args.push_back(ResultOf(task.id).json);
    if (dice_.Chance(0.4)) child.id.clear();
    if (!go_ && dice_.Chance(0.03)) child.routing_key = "nowhere";
    task.on_success = {EncodeTask(child)};
    task.on_success_null = false;
    if (child.id.empty()) child.id = ChildId(task.id, "on_success", 0);
    workload_.tasks[child.id] = std::move(expected);
  }
  void MakeChain(Call& call) {
    call.kind = Call::kChain;
    const int links = dice_.Between(2, 4);
    for (int i = 0; i < links; ++i) {
      Task link = Any(i == 0 ? "" : call.tasks.back().id);
      if (i > 0 && !call.tasks.back().immutable) {
        workload_.tasks[link.id].args.push_back(
            ResultOf(call.tasks.back().id).json);
      }
      if (!go_ && i > 0 && dice_.Chance(0.02)) link.routing_key = "nowhere";
      workload_.tasks[link.id].recorded = true;
      call.tasks.push_back(std::move(link));
    }
    if (dice_.Chance(0.2)) AddOnSuccess(call.tasks.back());
  }
  void MakeGroup(Call& call) {
    call.kind = Call::kGroup;
    call.group_id = absl::StrCat("g", call_);
    call.concurrency = dice_.Below(3);
    const int members = dice_.Between(1, 5);
    for (int i = 0; i < members; ++i) {
      call.tasks.push_back(SingleTask());
      workload_.tasks[call.tasks.back().id].recorded = true;
    }
    if (dice_.Chance(0.15)) return;  // a group without a callback
    Task callback = Plain(dice_.Chance(0.8) ? "ok" : "flaky", "");
    callback.immutable = dice_.Chance(0.15);
    Expected& expected = workload_.tasks[callback.id];
    expected.recorded = true;
    for (const Task& member : call.tasks) {
      expected.members.push_back(member.id);
      if (!callback.immutable) {
        expected.args.push_back(ResultOf(member.id).json);
      }
    }
    if (dice_.Chance(0.2)) AddOnSuccess(callback);
    if (dice_.Chance(0.3)) {
      call.on_failure = Plain("ok", "");
      Expected& follower = workload_.tasks[call.on_failure->id];
      follower.instead_of = callback.id;
      follower.args.insert(follower.args.begin(), "*");
    }
    call.callback = std::move(callback);
  }
  // Of what may be under way, or not yet sent, or over.
  void AddCancels() {
    const int cancels = dice_.Between(1, 2);
    for (int i = 0; i < cancels; ++i) {
      const Call& call =
          workload_
              .calls[dice_.Below(static_cast<int>(workload_.calls.size()))];
      Cancel cancel{.at = call.at + dice_.Between(absl::ZeroDuration(),
                                                  dice_.Chance(0.7)
                                                      ? absl::Seconds(2)
                                                      : absl::Minutes(2))};
      if (call.kind == Call::kGroup && dice_.Chance(0.4)) {
        cancel.group_id = call.group_id;
      } else if (call.callback.has_value() && dice_.Chance(0.2)) {
        cancel.task_id = call.callback->id;
      } else {
        cancel.task_id =
            call.tasks[dice_.Below(static_cast<int>(call.tasks.size()))].id;
      }
      workload_.cancels.push_back(std::move(cancel));
    }
  }
  void AddImpostor() {
    const Call& victim =
        workload_.calls[dice_.Below(static_cast<int>(workload_.calls.size()))];
    Call call{.name = "impostor",
              .at = dice_.Between(absl::ZeroDuration(), absl::Seconds(60)),
              .hash = "hash-impostor",
              .impostor = true};
    call.tasks = {{.id = victim.tasks.back().id, .name = "impostor"}};
    workload_.calls.push_back(std::move(call));
  }

  Value Own(const std::string& id) {
    return {.type = "string", .json = JsonString(absl::StrCat("own-", id))};
  }
  void Expect(const Task& task, const std::string& parent) {
    Expected& expected = workload_.tasks[task.id];
    expected.call = call_;
    expected.name = task.name;
    expected.parent = parent;
    for (const Value& arg : task.args) expected.args.push_back(arg.json);
  }

  Dice& dice_;
  const absl::Time start_;
  const absl::Duration latest_;
  const bool go_;
  Workload workload_;
  int call_ = 0;
  int ids_ = 0;
};

}  // namespace

Value ResultOf(const std::string& id) {
  return {.type = "string", .json = JsonString(id)};
}

Workload MakeWorkload(Dice& dice, absl::Time start, absl::Duration latest,
                      bool go) {
  return Maker(dice, start, latest, go).Make();
}

std::string Workload::Text() const {
  std::string text;
  for (const Call& call : calls) {
    static constexpr const char* kKinds[] = {"task", "chain", "group"};
    absl::StrAppend(&text, call.name, " at ", absl::FormatDuration(call.at),
                    ": ", kKinds[call.kind], " ", call.group_id,
                    call.twice ? " (twice)" : "",
                    call.request ? " (request)" : "", "\n");
    for (const Task& task : call.tasks) {
      absl::StrAppend(&text, "  ", EncodeTask(task), "\n");
    }
    if (call.callback.has_value()) {
      absl::StrAppend(&text, "  callback ", EncodeTask(*call.callback), "\n");
    }
    if (call.on_failure.has_value()) {
      absl::StrAppend(&text, "  on_failure ", EncodeTask(*call.on_failure),
                      "\n");
    }
  }
  for (const Cancel& cancel : cancels) {
    absl::StrAppend(&text, "cancel at ", absl::FormatDuration(cancel.at), ": ",
                    cancel.task_id, cancel.group_id, "\n");
  }
  return text;
}

}  // namespace penstock::simulation
