#include "queue/next_steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "absl/strings/str_cat.h"
#include "queue/policy.h"
#include "queue/wire/task_json.h"
#include "queue/workflow.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;

const Value kTwo = {.type = "int64", .json = "2"};
const Value kThree = {.type = "int64", .json = "3"};
const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

TaskState Succeeded(const std::string& id, std::vector<Value> results) {
  return {.task_id = id,
          .status = Status::kSuccess,
          .results = std::move(results),
          .results_null = false};
}
TaskState Failed(const std::string& id, const std::string& error,
                 std::string_view type = "exception") {
  return {.task_id = id,
          .status = Status::kFailure,
          .error = error,
          .error_type = std::string(type)};
}

std::string Describe(const Step& step) {
  if (auto* send = std::get_if<Send>(&step)) {
    std::string args;
    for (const Value& arg : send->task.args) absl::StrAppend(&args, " ", arg.json);
    return absl::StrCat("send ", send->task.id, args);
  }
  if (auto* abandon = std::get_if<Abandon>(&step)) {
    return absl::StrCat("abandon ", abandon->task_id, ": ", abandon->cause);
  }
  return absl::StrCat("join ", std::get<JoinGroup>(step).group_id);
}
std::vector<std::string> Describe(const std::vector<Step>& steps) {
  std::vector<std::string> lines;
  for (const Step& step : steps) lines.push_back(Describe(step));
  return lines;
}

// Each way a task may stand in a workflow, as task "t" named "add".
Task Shaped(const std::string& shape) {
  Task task{.id = "t", .name = "add"};
  const Task next{.id = "n", .name = "mul", .args = {kThree}, .args_null = false};
  if (shape == "chain" || shape == "immutable") {
    Task link = next;
    link.on_success = {EncodeTask({.id = "m", .name = "last"})};
    task.on_success = {EncodeTask(link)};
    task.immutable = shape == "immutable";
  } else if (shape == "group") {
    task.group_id = "g";
    task.group_task_count = 2;
  } else if (shape == "chord") {
    task.group_id = "g";
    task.group_task_count = 2;
    task.chord_callback = EncodeTask(next);
  } else if (shape == "on_error") {
    task.on_error = {EncodeTask({.id = "e", .name = "note", .args = {kThree},
                                 .args_null = false})};
  }
  return task;
}

struct Cell {
  std::string outcome;
  std::string shape;
  std::vector<std::string> steps;
};

// Every outcome against every shape. A retry has no steps: it is planned.
const std::vector<Cell>& Table() {
  static const auto& table = *new std::vector<Cell>{
      {"success", "single", {}},
      {"success", "chain", {"send n 3 2"}},
      {"success", "immutable", {"send n 3"}},
      {"success", "group", {}},
      {"success", "chord", {"join g"}},
      {"success", "on_error", {}},
      {"failure", "single", {}},
      {"failure", "chain",
       {"abandon n: link add (t) failed: boom",
        "abandon m: link add (t) failed: boom"}},
      {"failure", "immutable",
       {"abandon n: link add (t) failed: boom",
        "abandon m: link add (t) failed: boom"}},
      {"failure", "group", {}},
      {"failure", "chord", {"join g"}},
      {"failure", "on_error", {"send e \"boom\" 3"}},
      {"cancelled", "single", {}},
      {"cancelled", "chain",
       {"abandon n: link add (t) failed: boom",
        "abandon m: link add (t) failed: boom"}},
      {"cancelled", "immutable",
       {"abandon n: link add (t) failed: boom",
        "abandon m: link add (t) failed: boom"}},
      {"cancelled", "group", {}},
      {"cancelled", "chord", {"join g"}},
      {"cancelled", "on_error", {"send e \"boom\" 3"}},
      {"abandoned", "single", {}},
      {"abandoned", "chain",
       {"abandon n: link add (t) failed: boom",
        "abandon m: link add (t) failed: boom"}},
      {"abandoned", "immutable",
       {"abandon n: link add (t) failed: boom",
        "abandon m: link add (t) failed: boom"}},
      {"abandoned", "group", {}},
      {"abandoned", "chord", {"join g"}},
      {"abandoned", "on_error", {}},
  };
  return table;
}

TEST(NextSteps, FollowTheTable) {
  for (const Cell& cell : Table()) {
    const TaskState state =
        cell.outcome == "success" ? Succeeded("t", {kTwo})
        : cell.outcome == "failure"
            ? Failed("t", "boom")
            : Failed("t", "boom",
                     cell.outcome == "cancelled" ? kErrorCancelled
                                                 : kErrorAbandoned);
    EXPECT_EQ(Describe(NextSteps(Shaped(cell.shape), state)), cell.steps)
        << cell.outcome << " of " << cell.shape;
  }
}

TEST(NextSteps, TheTableHasEveryCell) {
  std::set<std::pair<std::string, std::string>> cells;
  for (const Cell& cell : Table()) cells.insert({cell.outcome, cell.shape});
  for (const char* outcome : {"success", "failure", "cancelled", "abandoned"}) {
    for (const char* shape :
         {"single", "chain", "immutable", "group", "chord", "on_error"}) {
      EXPECT_EQ(cells.count({outcome, shape}), 1u) << outcome << " " << shape;
    }
  }
}

TEST(NextSteps, AChildIsSentWithHeadersAndWithoutNamesOfResults) {
  Task task{.id = "t"};
  task.on_success = {EncodeTask({.id = "n", .headers_null = true})};
  Value named = kTwo;
  named.name = "sum";
  const std::vector<Step> steps = NextSteps(task, Succeeded("t", {named}));
  const Task& child = std::get<Send>(steps.at(0)).task;
  EXPECT_FALSE(child.headers_null);
  EXPECT_THAT(child.args, ElementsAre(kTwo));
}

TEST(NextSteps, AChildWithoutAnIdGetsTheSameOneEachTime) {
  Task task{.id = "t"};
  task.on_success = {EncodeTask({.name = "n"})};
  const auto once = NextSteps(task, Succeeded("t", {}));
  EXPECT_EQ(once, NextSteps(task, Succeeded("t", {})));
  EXPECT_EQ(std::get<Send>(once.at(0)).task.id, ChildId("t", "on_success", 0));
}

TEST(NextSteps, WhatCannotBeDecodedIsCounted) {
  Task task{.id = "t"};
  task.on_success = {"{\"UUID\":7}", EncodeTask({.id = "n"})};
  int undecodable = 0;
  EXPECT_THAT(Describe(NextSteps(task, Succeeded("t", {}), &undecodable)),
              ElementsAre("send n"));
  EXPECT_EQ(undecodable, 1);
}

TEST(ChordSteps, SendsTheCallbackWithAllResultsMemberByMember) {
  const std::string callback = EncodeTask(
      {.id = "cb", .args = {{.type = "int64", .json = "1"}}, .args_null = false});
  EXPECT_THAT(
      Describe(ChordSteps(callback, "", {Succeeded("a", {kTwo, kThree}),
                                     Succeeded("b", {}), Succeeded("c", {kTwo})})
                   .value()),
      ElementsAre("send cb 1 2 3 2"));
}

TEST(ChordSteps, AnImmutableCallbackTakesNoResults) {
  const std::string callback = EncodeTask({.id = "cb", .immutable = true});
  EXPECT_THAT(Describe(ChordSteps(callback, "", {Succeeded("a", {kTwo})}).value()),
              ElementsAre("send cb"));
}

TEST(ChordSteps, AFailedMemberAbandonsTheCallbackLast) {
  Task callback{.id = "cb"};
  callback.on_success = {EncodeTask({.id = "n"})};
  TaskState failed = Failed("b", "boom");
  failed.task_name = "add";
  EXPECT_THAT(
      Describe(ChordSteps(EncodeTask(callback), "",
                          {Succeeded("a", {kTwo}), failed, Failed("c", "x")})
                   .value()),
      ElementsAre("abandon n: group member add (b) failed: boom",
                  "abandon cb: group member add (b) failed: boom"));
}

TEST(ChordSteps, AFailedMemberSendsWhatWasLaidForThat) {
  const std::string callback = EncodeTask({.id = "cb"});
  const std::string on_failure = EncodeTask(
      {.id = "f", .args = {{.type = "int64", .json = "1"}}, .args_null = false});
  EXPECT_THAT(
      Describe(ChordSteps(callback, on_failure, {Failed("b", "boom")}).value()),
      ElementsAre("abandon cb: group member (b) failed: boom",
                  "send f \"group member (b) failed: boom\" 1"));
  EXPECT_THAT(Describe(ChordSteps(callback, on_failure, {Succeeded("a", {})})
                           .value()),
              ElementsAre("send cb"));
}

TEST(ChordSteps, ACallbackThatCannotBeDecodedIsAnError) {
  EXPECT_TRUE(absl::IsInvalidArgument(
      ChordSteps("[]", "", {Succeeded("a", {})}).status()));
}

TEST(PlanRetry, CountsDownAlongFibonacci) {
  Task task{.id = "t", .retry_count = 5};
  std::vector<int64_t> delays;
  absl::Time now = kNow;
  while (true) {
    const std::optional<RetryPlan> plan =
        PlanRetry(task, std::nullopt, /*permanent=*/false, now, 0.5);
    if (!plan.has_value()) break;
    EXPECT_EQ(plan->due, now + absl::Seconds(plan->retry_timeout_s));
    EXPECT_EQ(plan->attempt, AttemptOf(task) + 1);
    delays.push_back(plan->retry_timeout_s);
    task = NextAttempt(task, *plan);
    EXPECT_EQ(task.eta->time, plan->due);
    now = plan->due;
  }
  EXPECT_THAT(delays, ElementsAre(1, 2, 3, 5, 8));
  EXPECT_EQ(AttemptOf(task), 6);
  EXPECT_EQ(task.retry_count, 0);
}

TEST(PlanRetry, WhatTheHandlerAskedForUsesUpNoRetry) {
  const Task task{.id = "t", .retry_count = 0, .retry_timeout_s = 3};
  const std::optional<RetryPlan> plan =
      PlanRetry(task, absl::Milliseconds(1500), /*permanent=*/false, kNow, 0.5);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->due, kNow + absl::Milliseconds(1500));
  EXPECT_EQ(plan->retry_count, 0);
  EXPECT_EQ(plan->retry_timeout_s, 3);
  EXPECT_EQ(plan->attempt, 2);
}

TEST(PlanRetry, ABackoffOfItsOwnGrowsUpToItsLimit) {
  Task task{.id = "t", .retry_count = 9};
  SetBackoff(task, {.first = absl::Milliseconds(1500),
                    .factor = 3,
                    .max = absl::Seconds(10)});
  std::vector<absl::Duration> pauses;
  for (int i = 0; i < 4; ++i) {
    const auto plan = PlanRetry(task, std::nullopt, false, kNow, 0.5);
    ASSERT_TRUE(plan.has_value());
    EXPECT_EQ(plan->retry_count, 8 - i);
    pauses.push_back(plan->due - kNow);
    task = NextAttempt(task, *plan);
  }
  EXPECT_THAT(pauses,
              ElementsAre(absl::Milliseconds(1500), absl::Milliseconds(4500),
                          absl::Seconds(10), absl::Seconds(10)));
}

TEST(PlanRetry, APermanentFailureIsNotTriedAgain) {
  const Task task{.id = "t", .retry_count = 5};
  EXPECT_FALSE(PlanRetry(task, absl::Seconds(1), true, kNow, 0.5).has_value());
  EXPECT_FALSE(PlanRetry(task, std::nullopt, true, kNow, 0.5).has_value());
}

TEST(NextAttempt, ForgetsThatItsNameWasUnknownSomewhere) {
  Task task{.id = "t"};
  SetStringHeader(task, kUnknownSinceHeader, "1");
  SetStringHeader(task, kPassesHeader, "5");
  EXPECT_FALSE(StringHeader(NextAttempt(task, {.attempt = 2}), kPassesHeader)
                   .has_value());
  EXPECT_FALSE(StringHeader(NextAttempt(task, {.attempt = 2}),
                            kUnknownSinceHeader)
                   .has_value());
}

// The end of what followed the dead task was told: it is not sent a second time.
TEST(NextSteps, WhatFollowsACopyIsACopyToo) {
  Task last{.id = "last", .name = "c"};
  Task next{.id = "next",
            .name = "b",
            .group_id = "g",
            .group_task_count = 2,
            .on_success = {EncodeTask(last)},
            .chord_callback = "{}"};
  Task copy{.id = "copy", .name = "a", .on_success = {EncodeTask(next)}};
  copy.on_error = {EncodeTask(Task{.name = "unnamed"})};
  DetachCopy(copy, "dead", "copy");

  const std::vector<Step> sent =
      NextSteps(copy, {.task_id = "copy", .status = Status::kSuccess});
  ASSERT_EQ(sent.size(), 1u);
  const Task& child = std::get<Send>(sent[0]).task;
  EXPECT_EQ(child.id, ChildId("copy", "on_success", 0));
  EXPECT_EQ(StringHeader(child, kRetryOfHeader), "next");
  EXPECT_EQ(child.group_id, "");
  EXPECT_EQ(child.chord_callback, "");
  const std::vector<Promised> promised = PromisedAfter(copy);
  ASSERT_EQ(promised.size(), 2u);
  EXPECT_EQ(promised[0].task_id, child.id);
  EXPECT_EQ(promised[1].task_id, ChildId(child.id, "on_success", 0));
  EXPECT_EQ(promised[1].task_id, PromisedAfter(child)[0].task_id);

  const std::vector<Step> failed =
      NextSteps(copy, {.task_id = "copy", .status = Status::kFailure});
  const Task& error_task = std::get<Send>(failed.at(0)).task;
  EXPECT_EQ(error_task.id, ChildId("copy", "on_error", 0));
  EXPECT_EQ(StringHeader(error_task, kRetryOfHeader),
            ChildId("dead", "on_error", 0));
}

TEST(NextSteps, WhatIsAbandonedLivesAsLongAsItAskedFor) {
  Task next{.id = "next", .name = "b"};
  SetResultTtl(next, absl::Hours(5));
  const Task task{.id = "t", .name = "a", .on_success = {EncodeTask(next)}};
  const std::vector<Step> steps =
      NextSteps(task, {.task_id = "t", .status = Status::kFailure});
  EXPECT_EQ(std::get<Abandon>(steps.at(0)).result_ttl, absl::Hours(5));
}

TEST(NextFibonacci, IsStrictlyGreater) {
  const std::vector<std::pair<int64_t, int64_t>> expected = {
      {-1, 1}, {0, 1}, {1, 2}, {2, 3}, {3, 5}, {4, 5}, {5, 8}, {8, 13}, {100, 144}};
  for (const auto& [from, to] : expected) EXPECT_EQ(NextFibonacci(from), to);
  EXPECT_GT(NextFibonacci(7'540'113'804'746'346'428), 0);
}

}  // namespace
}  // namespace penstock
