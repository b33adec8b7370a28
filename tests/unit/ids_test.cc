// Ids: their form, and that the same name gives the same one for ever.

#include "queue/ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace penstock {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

constexpr char kUuidForm[] =
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

TEST(IdsTest, RandomUuidsAreVersionFourAndDiffer) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = RandomUuid();
    EXPECT_THAT(id, MatchesRegex(kUuidForm));
    EXPECT_EQ(id[14], '4');
    EXPECT_THAT(id.substr(19, 1), MatchesRegex("[89ab]"));
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 1000u);
}

// Values of Python's uuid.uuid5. They must never change: an upgraded worker has
// to find the children that the old one sent.
TEST(IdsTest, NamedUuidsNeverChange) {
  EXPECT_EQ(NamedUuid("task_1/on_success/0"),
            "01349cf7-86cd-5048-a578-c1063a984a76");
  EXPECT_EQ(NamedUuid(""), "721d4da9-8ac6-513f-8cb4-b800fc7b1008");
}

TEST(IdsTest, FingerprintIsSha256) {
  EXPECT_EQ(Fingerprint("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(IdsTest, AnIdMayBeAnythingHarmless) {
  for (const std::string& id :
       {std::string("a"), std::string("task_9.x:y-Z"), std::string(200, 'x'),
        std::string("my_penstock:x")}) {
    EXPECT_TRUE(CheckId(id).ok()) << id;
  }
}

TEST(IdsTest, ARefusedIdIsToldWhy) {
  const auto why = [](std::string_view id) {
    const absl::Status status = CheckId(id);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << id;
    return std::string(status.message());
  };
  EXPECT_THAT(why(""), HasSubstr("empty"));
  EXPECT_THAT(why(std::string(201, 'x')), HasSubstr("at most 200"));
  for (const std::string_view id :
       {std::string_view("a\0b", 3), std::string_view("a b"),
        std::string_view("a{b}"), std::string_view("a*"), std::string_view("ä"),
        std::string_view("a/b"), std::string_view("a\n")}) {
    EXPECT_THAT(why(id), HasSubstr("letters, digits"));
  }
  for (const std::string_view id : {"penstock:x", "machinery_lock_x",
                                    "TriggerChordMutex", "delayed_tasks"}) {
    EXPECT_THAT(why(id), HasSubstr("must not begin"));
  }
}

}  // namespace
}  // namespace penstock
