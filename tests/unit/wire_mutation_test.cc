// Damaged documents: the decoders must answer, never crash, and what they take
// must be written and read again to the same value. Fixed seeds; the golden
// documents are the corpus.

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>

#include "queue/value.h"
#include "queue/wire/state_json.h"
#include "queue/wire/task_json.h"
#include "tests/unit/golden.h"

namespace penstock {
namespace {

constexpr int kRounds = 20'000;

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}

  const std::string& Pick(const std::vector<GoldenDocument>& documents) {
    return documents[Below(documents.size())].json;
  }

  std::string Mutate(std::string json) {
    for (size_t i = Below(4) + 1; i > 0 && !json.empty(); --i) Step(&json);
    return json;
  }

 private:
  size_t Below(size_t limit) { return random_() % limit; }

  void Step(std::string* json) {
    static constexpr std::array<std::string_view, 18> kTokens = {
        "null", "true", "-0",   "1e400", "\"",      "\\u",
        "\\",   "[",    "]",    "{",     "}",       ",",
        ":",    " ",    "\xff", "\\ud8", "\\ufffd", "\xe2\x80\xa8"};
    const size_t at = Below(json->size());
    switch (Below(5)) {
      case 0:
        (*json)[at] = static_cast<char>(Below(256));
        return;
      case 1:
        json->erase(at, Below(8) + 1);
        return;
      case 2:
        json->insert(at, kTokens[Below(kTokens.size())]);
        return;
      case 3:  // a value or a name in another's place
        json->insert(at, json->substr(Below(json->size()), Below(24)));
        return;
      default:
        json->resize(at);
    }
  }

  std::mt19937 random_;
};

TEST(WireMutationTest, Signatures) {
  Mutator mutator(1);
  int taken = 0;
  for (int round = 0; round < kRounds; ++round) {
    const std::string json = mutator.Mutate(mutator.Pick(Golden().tasks));
    const absl::StatusOr<Task> task = DecodeTask(json);
    if (!task.ok()) continue;
    ++taken;
    const absl::StatusOr<Task> again = DecodeTask(EncodeTask(*task));
    ASSERT_TRUE(again.ok()) << again.status() << "\n" << json;
    ASSERT_EQ(*again, *task) << json;
    for (const Value& arg : task->args) (void)ReadValue(arg);
  }
  EXPECT_GT(taken, kRounds / 20);  // or nothing was tested
}

TEST(WireMutationTest, States) {
  Mutator mutator(2);
  int taken = 0;
  for (int round = 0; round < kRounds; ++round) {
    const std::string json = mutator.Mutate(mutator.Pick(Golden().states));
    const absl::StatusOr<TaskState> state = DecodeState(json);
    if (!state.ok()) continue;
    ++taken;
    const absl::StatusOr<TaskState> again = DecodeState(EncodeState(*state));
    ASSERT_TRUE(again.ok()) << again.status() << "\n" << json;
    ASSERT_EQ(*again, *state) << json;
  }
  EXPECT_GT(taken, kRounds / 20);
}

TEST(WireMutationTest, Groups) {
  Mutator mutator(3);
  int taken = 0;
  for (int round = 0; round < kRounds; ++round) {
    const std::string json = mutator.Mutate(mutator.Pick(Golden().groups));
    const absl::StatusOr<GroupMeta> meta = DecodeGroupMeta(json);
    if (!meta.ok()) continue;
    ++taken;
    const absl::StatusOr<GroupMeta> again =
        DecodeGroupMeta(EncodeGroupMeta(*meta));
    ASSERT_TRUE(again.ok()) << again.status() << "\n" << json;
    ASSERT_EQ(*again, *meta) << json;
  }
  EXPECT_GT(taken, kRounds / 20);
}

}  // namespace
}  // namespace penstock
