// The signature codec: to the byte what Go writes, and what Go reads.

#include "queue/wire/task_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/golden.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

// What a Go client sends when it sets nothing but name and id.
constexpr char kMinimal[] =
    R"({"UUID":"task_1","Name":"add","RoutingKey":"q","ETA":null,)"
    R"("GroupUUID":"","GroupTaskCount":0,"Args":null,"Headers":{},)"
    R"("Priority":0,"Immutable":false,"RetryCount":0,"RetryTimeout":0,)"
    R"("OnSuccess":null,"OnError":null,"ChordCallback":null,)"
    R"("BrokerMessageGroupId":"","SQSReceiptHandle":"",)"
    R"("StopTaskDeletionOnError":false,"IgnoreWhenTaskNotRegistered":false})";

Task Decode(std::string_view json) {
  absl::StatusOr<Task> task = DecodeTask(json);
  EXPECT_TRUE(task.ok()) << task.status() << "\n" << json;
  return task.ok() ? *std::move(task) : Task();
}

std::string ErrorOf(std::string_view json) {
  const absl::StatusOr<Task> task = DecodeTask(json);
  EXPECT_TRUE(absl::IsInvalidArgument(task.status())) << json;
  return std::string(task.status().message());
}

// A chain as Go nests it: each link in the OnSuccess of the one before.
std::string Chain(int links) {
  std::string json = "null";
  for (int i = 0; i < links; ++i) {
    Task link{.id = "link", .name = "add", .args_null = true};
    if (i > 0) {
      link.on_success_null = false;
      link.on_success = {json};
    }
    json = EncodeTask(link);
  }
  return json;
}

TEST(TaskJsonTest, EverySignatureOfGoIsWrittenAgainToTheSameBytes) {
  EXPECT_EQ(Golden().files, 44);
  EXPECT_GE(Golden().tasks.size(), 70u);
  for (const GoldenDocument& golden : Golden().tasks) {
    EXPECT_EQ(EncodeTask(Decode(golden.json)), golden.json) << golden.file;
  }
}

TEST(TaskJsonTest, NestedSignaturesOfGoAreWrittenAgainToTheSameBytes) {
  int nested = 0;
  for (const GoldenDocument& golden : Golden().tasks) {
    const Task task = Decode(golden.json);
    std::vector<std::string> children = task.on_success;
    children.insert(children.end(), task.on_error.begin(), task.on_error.end());
    if (!task.chord_callback.empty()) children.push_back(task.chord_callback);
    for (const std::string& child : children) {
      EXPECT_EQ(EncodeTask(Decode(child)), child) << golden.file;
      ++nested;
    }
  }
  EXPECT_GE(nested, 20);
}

TEST(TaskJsonTest, MinimalSignature) {
  const Task task{.id = "task_1", .name = "add", .routing_key = "q"};
  EXPECT_EQ(EncodeTask(task), kMinimal);
  EXPECT_EQ(Decode(kMinimal), task);
}

TEST(TaskJsonTest, EveryFieldSurvives) {
  Task task{
      .id = "task_<&>\x01",
      .name = "näme",
      .routing_key = "q",
      .eta = ZonedTime{absl::FromUnixNanos(1577912645060000001), 19800},
      .group_id = "group_1",
      .group_task_count = INT64_MAX,
      .args = {{"n", "int64", "-9223372036854775808"},
               {"", "mystery", R"({"a":[1.50,null]})"}},
      .headers = {{"a", R"("text")"}, {"b", "1.50"}, {"c", R"({"d":[]})"}},
      .priority = 255,
      .immutable = true,
      .retry_count = -3,
      .retry_timeout_s = 21,
      .on_success = {kMinimal, kMinimal},
      .on_error = {kMinimal},
      .chord_callback = kMinimal,
      .broker_message_group_id = "g",
      .sqs_receipt_handle = "h",
      .stop_task_deletion_on_error = true,
      .ignore_when_not_registered = true,
      .args_null = false,
      .headers_null = false,
      .on_success_null = false,
      .on_error_null = false,
  };
  EXPECT_EQ(Decode(EncodeTask(task)), task);
}

TEST(TaskJsonTest, NullAndEmptyListsStayApart) {
  const Task empty = Decode(R"({"Args":[],"Headers":{},"OnSuccess":[],)"
                            R"("OnError":[]})");
  EXPECT_THAT(EncodeTask(empty), HasSubstr(R"("Args":[],"Headers":{},)"));
  EXPECT_THAT(EncodeTask(empty), HasSubstr(R"("OnSuccess":[],"OnError":[],)"));
  const Task null = Decode(R"({"Args":null,"Headers":null,"OnSuccess":null,)"
                           R"("OnError":null})");
  EXPECT_THAT(EncodeTask(null), HasSubstr(R"("Args":null,"Headers":null,)"));
  EXPECT_THAT(EncodeTask(null),
              HasSubstr(R"("OnSuccess":null,"OnError":null,)"));
}

TEST(TaskJsonTest, MembersComeInAnyOrderAndCase) {
  const Task task = Decode(
      R"( {"priority" : 7 , "name":"a","unknown":{"x":[1,{}]},"uuid":"u",)"
      R"("NAME":"b","args":[{"value":1,"more":2,"TYPE":"int64"}]}  )");
  EXPECT_EQ(task.id, "u");
  EXPECT_EQ(task.name, "b");  // the last one wins
  EXPECT_EQ(task.priority, 7);
  EXPECT_THAT(task.args, ElementsAre(Value{"", "int64", "1"}));
}

TEST(TaskJsonTest, WhatFollowsTheFirstValueIsIgnored) {
  EXPECT_EQ(Decode(std::string(kMinimal) + "\" \xff ] trailing").id, "task_1");
}

TEST(TaskJsonTest, NullLeavesEveryFieldAtItsZero) {
  std::string json = kMinimal;
  std::string nulls = "{";
  for (size_t at = 0; (at = json.find('"', at)) != std::string::npos;) {
    const size_t end = json.find('"', at + 1);
    if (json[end + 1] == ':') {
      if (nulls.size() > 1) nulls += ',';
      nulls += json.substr(at, end + 1 - at) + ":null";
    }
    at = end + 1;
  }
  nulls += "}";
  Task zero;
  zero.headers_null = true;
  EXPECT_EQ(Decode(nulls), zero);
  EXPECT_EQ(Decode("{}"), zero);
}

TEST(TaskJsonTest, AWrongTypeNamesTheField) {
  EXPECT_EQ(ErrorOf(R"({"RetryCount":"3"})"),
            "RetryCount: found a string, expected an integer");
  EXPECT_EQ(ErrorOf(R"({"RetryCount":1.0})"),
            "RetryCount: found 1.0, expected an integer");
  EXPECT_EQ(ErrorOf(R"({"RetryTimeout":1e3})"),
            "RetryTimeout: found 1e3, expected an integer");
  EXPECT_EQ(ErrorOf(R"({"GroupTaskCount":9223372036854775808})"),
            "GroupTaskCount: found 9223372036854775808, expected an integer");
  EXPECT_EQ(ErrorOf(R"({"Priority":256})"),
            "Priority: found 256, expected an integer from 0 to 255");
  EXPECT_EQ(ErrorOf(R"({"Priority":-1})"),
            "Priority: found -1, expected an integer from 0 to 255");
  EXPECT_EQ(ErrorOf(R"({"Immutable":1})"),
            "Immutable: found a number, expected a boolean");
  EXPECT_EQ(ErrorOf(R"({"UUID":{}})"),
            "UUID: found an object, expected a string");
  EXPECT_EQ(ErrorOf(R"({"Args":{}})"),
            "Args: found an object, expected an array");
  EXPECT_EQ(ErrorOf(R"({"Headers":[]})"),
            "Headers: found an array, expected an object");
  EXPECT_EQ(ErrorOf(R"({"Args":[{"Value":1},{"Type":5}]})"),
            "Args[1].Type: found a number, expected a string");
  EXPECT_EQ(ErrorOf(R"({"OnSuccess":[null]})"),
            "OnSuccess[0].signature: found null, expected an object");
  EXPECT_THAT(ErrorOf(R"({"ETA":"tomorrow"})"), HasSubstr("ETA: \"tomorrow\""));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("found an array"));
  EXPECT_THAT(ErrorOf("null"), HasSubstr("found null"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("not JSON"));
}

TEST(TaskJsonTest, ValuesAreKeptAsGoWouldPassThemOn) {
  const Task task = Decode(
      R"({"Args":[{"Value":1.50},{"Value":"\u00e9<\/\u000a"},)"
      R"({"Value":[ 1 , "a b" ]},{"Value":{"b": 1,"a":{"z":"\u003c","y":2}}},)"
      R"({"Value":"\ufffd"},{"Value":")"
      "\xff"
      R"("},{"Name":"n"}],"Headers":{"z": "\u0041","a":[ {"d":1, "c":2} ]}})");
  EXPECT_THAT(
      task.args,
      ElementsAre(Value{"", "", "1.50"}, Value{"", "", R"("é\u003c/\n")"},
                  Value{"", "", R"([1,"a b"])"},
                  Value{"", "", R"({"a":{"y":2,"z":"\u003c"},"b":1})"},
                  Value{"", "", R"("\ufffd")"},
                  Value{"", "", "\"\xef\xbf\xbd\""}, Value{"n", "", "null"}));
  EXPECT_THAT(task.headers, ElementsAre(Pair("a", R"([{"c":2,"d":1}])"),
                                        Pair("z", R"("A")")));
}

TEST(TaskJsonTest, NestedSignaturesKeepWhatIsNotKnown) {
  const Task task =
      Decode(R"({"OnSuccess":[ { "UUID" : "a b", "extra": [ 1 ] } ]})");
  EXPECT_THAT(task.on_success, ElementsAre(R"({"UUID":"a b","extra":[1]})"));
}

TEST(TaskJsonTest, NestedTextIsChecked) {
  EXPECT_THAT(ErrorOf(R"({"OnSuccess":[{"UUID":tru}]})"),
              HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(R"({"ChordCallback":{"a":[1 2]}})"),
              HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(R"({"unknown":[1,]})"), HasSubstr("not JSON"));
}

TEST(TaskJsonTest, AChainOfAThousandLinks) {
  std::string json = Chain(1000);
  // Each hop copies the rest of the chain, so not all are made.
  for (int hop = 0; hop < 50; ++hop) {
    const Task task = Decode(json);
    ASSERT_EQ(EncodeTask(task), json);
    ASSERT_EQ(task.on_success.size(), 1u);
    json = task.on_success.front();
  }
  EXPECT_EQ(json, Chain(950));
}

TEST(TaskJsonTest, NestingHasALimit) {
  const auto nested = [](size_t levels) {
    return "{\"unknown\":" + std::string(levels, '[') +
           std::string(levels, ']') + "}";
  };
  EXPECT_TRUE(DecodeTask(nested(10'000)).ok());
  EXPECT_THAT(ErrorOf(nested(10'001)), HasSubstr("nested too deep"));
  // A value that holds objects is rebuilt, so it has a lower one.
  std::string deep = "1";
  for (int i = 0; i < 300; ++i) deep = "{\"a\":" + deep + "}";
  EXPECT_THAT(ErrorOf("{\"Args\":[{\"Value\":" + deep + "}]}"),
              HasSubstr("nested too deep"));
}

TEST(TaskJsonTest, NoTruncationIsTakenForAWholeDocument) {
  for (const GoldenDocument& golden : Golden().tasks) {
    for (size_t size = 0; size < golden.json.size(); ++size) {
      // A copy of its own, so that a sanitizer sees a read past the end.
      const std::string cut = golden.json.substr(0, size);
      EXPECT_FALSE(DecodeTask(cut).ok()) << cut;
    }
    if (&golden - Golden().tasks.data() > 10) break;
  }
}

TEST(TaskTest, HeadersAreStringsOrNothing) {
  Task task;
  task.headers_null = true;
  EXPECT_EQ(StringHeader(task, "k"), std::nullopt);
  SetStringHeader(task, "k", "a \"b\"");
  EXPECT_EQ(task.headers.at("k"), R"("a \"b\"")");
  EXPECT_FALSE(task.headers_null);
  EXPECT_EQ(StringHeader(task, "k"), "a \"b\"");
  task.headers["n"] = "5";
  EXPECT_EQ(StringHeader(task, "n"), std::nullopt);
}

TEST(TaskTest, TheAttemptIsOneUnlessTheHeaderSaysMore) {
  Task task;
  EXPECT_EQ(AttemptOf(task), 1);
  SetStringHeader(task, kAttemptHeader, "3");
  EXPECT_EQ(AttemptOf(task), 3);
  for (const char* garbled : {"", "x", "0", "-4", "99999999999"}) {
    SetStringHeader(task, kAttemptHeader, garbled);
    EXPECT_EQ(AttemptOf(task), 1) << garbled;
  }
}

}  // namespace
}  // namespace penstock
