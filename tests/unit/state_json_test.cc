// The codec of task states and group records.

#include "queue/wire/state_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/golden.h"

namespace penstock {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

TaskState Decode(std::string_view json) {
  absl::StatusOr<TaskState> state = DecodeState(json);
  EXPECT_TRUE(state.ok()) << state.status() << "\n" << json;
  return state.ok() ? *std::move(state) : TaskState();
}

TaskState Full() {
  return TaskState{
      .task_id = "task_1",
      .task_name = "add",
      .status = Status::kRetry,
      .error = "failed: \"x\"",
      .create_time = absl::FromUnixNanos(1795303115023283453),
      .attempt = 1,
      .run = "run-1",
      .begins = 2,
      .worker = "host:7",
      .group_id = "group_1",
      .error_type = "exception",
      .expiry = absl::FromUnixMillis(2000),
      .start_time = absl::FromUnixSeconds(1),
      .finish_time = absl::FromUnixMillis(2500),
      .next_attempt = 2,
      .next_attempt_time = absl::FromUnixSeconds(3),
      .next_retry_count = 0,
      .next_retry_timeout_s = 1,
  };
}

TEST(StateJsonTest, EveryStateOfGoIsWrittenAgainToTheSameBytes) {
  EXPECT_GE(Golden().states.size(), 200u);
  for (const GoldenDocument& golden : Golden().states) {
    EXPECT_EQ(EncodeState(Decode(golden.json)), golden.json) << golden.file;
  }
}

TEST(StateJsonTest, EveryGroupOfGoIsWrittenAgainToTheSameBytes) {
  EXPECT_GE(Golden().groups.size(), 10u);
  for (const GoldenDocument& golden : Golden().groups) {
    const absl::StatusOr<GroupMeta> meta = DecodeGroupMeta(golden.json);
    ASSERT_TRUE(meta.ok()) << meta.status() << golden.file;
    EXPECT_EQ(EncodeGroupMeta(*meta), golden.json) << golden.file;
  }
}

TEST(StateJsonTest, WhatMachineryHasNoPlaceForIsTheLastMember) {
  EXPECT_EQ(
      EncodeState(Full()),
      R"({"TaskUUID":"task_1","TaskName":"add","State":"RETRY","Results":null,)"
      R"("Error":"failed: \"x\"","CreatedAt":"2026-11-21T23:18:35.023283453Z",)"
      R"("TTL":0,"Penstock":{"Attempt":1,"Run":"run-1","Begins":2,)"
      R"("Worker":"host:7","Group":"group_1","ErrorType":"exception",)"
      R"("Expires":"1970-01-01T00:00:02Z",)"
      R"("Started":"1970-01-01T00:00:01Z","Finished":"1970-01-01T00:00:02.5Z",)"
      R"("NextAttempt":2,"NextAt":"1970-01-01T00:00:03Z","NextRetryCount":0,)"
      R"("NextRetryTimeout":1}})");
  EXPECT_EQ(Decode(EncodeState(Full())), Full());
}

TEST(StateJsonTest, ProgressStandsLast) {
  TaskState state{.task_id = "t", .run = "r"};
  state.progress = TaskProgress{.fraction = 0.1,
                                .text = "\"page\" 1",
                                .time = absl::FromUnixMillis(1'500)};
  EXPECT_THAT(
      EncodeState(state),
      EndsWith(R"("Penstock":{"Run":"r","Progress":{"Fraction":0.1,)"
               R"("Text":"\"page\" 1","Time":"1970-01-01T00:00:01.5Z"}}})"));
  EXPECT_EQ(Decode(EncodeState(state)), state);
  EXPECT_EQ(DecodeState(R"({"Penstock":{"Progress":{"Fraction":"1"}}})")
                .status()
                .message(),
            "Fraction: found a string, expected a number");
}

TEST(StateJsonTest, OnlyWhatIsSetIsWritten) {
  TaskState state{.task_id = "t"};
  EXPECT_THAT(EncodeState(state), Not(HasSubstr("Penstock")));
  state.attempt = 1;
  EXPECT_THAT(EncodeState(state), EndsWith(R"("Penstock":{"Attempt":1}})"));
  state.attempt = 0;
  state.run = "r";
  EXPECT_THAT(EncodeState(state), EndsWith(R"("Penstock":{"Run":"r"}})"));
}

TEST(StateJsonTest, AStatusThatIsNotKnownSurvives) {
  const std::string json =
      R"({"TaskUUID":"t","TaskName":"","State":"PAUSED","Results":[],)"
      R"("Error":"","CreatedAt":"0001-01-01T00:00:00Z","TTL":7})";
  const TaskState state = Decode(json);
  EXPECT_EQ(state.status, Status::kUnknown);
  EXPECT_EQ(state.raw_status, "PAUSED");
  EXPECT_EQ(state.create_time, GoZeroTime());
  EXPECT_EQ(state.ttl, 7);
  EXPECT_EQ(EncodeState(state), json);
}

TEST(StateJsonTest, ADocumentWithoutMembersIsNoPendingTask) {
  EXPECT_EQ(Decode("{}").status, Status::kUnknown);
  EXPECT_EQ(Decode(R"({"State":null})").status, Status::kUnknown);
}

TEST(StateJsonTest, AWrongTypeNamesTheField) {
  const auto error = [](std::string_view json) {
    return std::string(DecodeState(json).status().message());
  };
  EXPECT_EQ(error(R"({"TTL":"0"})"),
            "TTL: found a string, expected an integer");
  EXPECT_EQ(error(R"({"Results":[{"Value":1},{"Type":1}]})"),
            "Results[1].Type: found a number, expected a string");
  EXPECT_EQ(error(R"({"Penstock":{"Attempt":4294967296}})"),
            "Attempt: found 4294967296, expected a 32-bit integer");
  EXPECT_THAT(error("null"), HasSubstr("found null"));
  EXPECT_THAT(error("{"), HasSubstr("not JSON"));
  EXPECT_EQ(DecodeGroupMeta(R"({"TaskUUIDs":[1]})").status().message(),
            "TaskUUIDs: found a number, expected a string");
}

TEST(StateJsonTest, NoTruncationIsTakenForAWholeDocument) {
  const std::string state = EncodeState(Full());
  for (size_t size = 0; size < state.size(); ++size) {
    EXPECT_FALSE(DecodeState(state.substr(0, size)).ok()) << size;
  }
  const std::string group =
      EncodeGroupMeta({.group_id = "g", .task_ids = {"a", "b"}});
  for (size_t size = 0; size < group.size(); ++size) {
    EXPECT_FALSE(DecodeGroupMeta(group.substr(0, size)).ok()) << size;
  }
}

TEST(StateJsonTest, GroupsKeepNullAndEmptyApart) {
  EXPECT_EQ(EncodeGroupMeta({.group_id = "g", .task_ids_null = true}),
            R"({"GroupUUID":"g","TaskUUIDs":null,"ChordTriggered":false,)"
            R"("Lock":false,"CreatedAt":"0001-01-01T00:00:00Z","TTL":0})");
  EXPECT_THAT(EncodeGroupMeta({.group_id = "g"}),
              HasSubstr(R"("TaskUUIDs":[],)"));
  EXPECT_TRUE(DecodeGroupMeta("{}")->task_ids_null);
}

TEST(StatusTest, NamesAndStatusesGoBothWays) {
  for (const Status status :
       {Status::kPending, Status::kReceived, Status::kStarted, Status::kRetry,
        Status::kSuccess, Status::kFailure}) {
    EXPECT_EQ(ParseStatus(StatusName(status)), status);
  }
  EXPECT_EQ(StatusName(Status::kReceived), "RECEIVED");
  EXPECT_EQ(StatusName(Status::kUnknown), "");
  EXPECT_EQ(ParseStatus(""), Status::kUnknown);
  EXPECT_EQ(ParseStatus("success"), Status::kUnknown);
}

}  // namespace
}  // namespace penstock
