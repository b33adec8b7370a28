#include "queue/workflow.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "queue/next_steps.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

TEST(LinkChain, NestsEachLinkInTheOneBefore) {
  const Task first =
      LinkChain({{.id = "a", .name = "add"}, {.id = "b", .name = "add"},
                 {.id = "c", .name = "multiply"}});
  EXPECT_EQ(first.id, "a");
  ASSERT_EQ(first.on_success.size(), 1u);
  const Task second = DecodeTask(first.on_success[0]).value();
  EXPECT_EQ(second.id, "b");
  const Task third = DecodeTask(second.on_success.at(0)).value();
  EXPECT_EQ(third.id, "c");
  EXPECT_TRUE(third.on_success.empty());
}

TEST(LinkChain, KeepsWhatFollowsTheLastLink) {
  const std::string after = EncodeTask({.id = "z", .name = "note"});
  const Task first = LinkChain(
      {{.id = "a", .name = "add"},
       {.id = "b", .name = "add", .on_success = {after}}});
  const Task last = DecodeTask(first.on_success[0]).value();
  EXPECT_EQ(last.on_success, std::vector<std::string>{after});
}

TEST(LinkChain, AThousandLinksPromiseAllThatFollow) {
  std::vector<Task> links;
  for (int i = 0; i < 1000; ++i) {
    links.push_back({.id = absl::StrCat("link", i), .name = "add"});
  }
  const std::vector<Promised> promised = PromisedAfter(LinkChain(links));
  ASSERT_EQ(promised.size(), 999u);
  EXPECT_EQ(promised.front().task_id, "link1");
  EXPECT_EQ(promised.back().task_id, "link999");
}

TEST(LinkGroup, MarksMembersAndCopiesTheCallback) {
  std::vector<Task> members = {{.id = "a"}, {.id = "b"}};
  LinkGroup(members, "group_1", "{\"UUID\":\"cb\"}");
  for (const Task& member : members) {
    EXPECT_EQ(member.group_id, "group_1");
    EXPECT_EQ(member.group_task_count, 2);
    EXPECT_EQ(member.chord_callback, "{\"UUID\":\"cb\"}");
  }
}

TEST(ChildId, IsTheSameEachTimeAndDistinct) {
  EXPECT_EQ(ChildId("p", "on_success", 0), ChildId("p", "on_success", 0));
  EXPECT_NE(ChildId("p", "on_success", 0), ChildId("p", "on_success", 1));
  EXPECT_NE(ChildId("p", "on_success", 0), ChildId("p", "on_error", 0));
  EXPECT_NE(ChildId("p", "on_success", 0), ChildId("q", "on_success", 0));
}

}  // namespace
}  // namespace penstock
