// Thousands of seeds of the simulated fleet, the known bugs that they must
// find, and the proof that a seed is always the same run.
//
//   simulation_test --seed=N [--profile=NAME] [--bug=N]   one seed, with trace
//   PENSTOCK_SIMULATION_SEEDS=N                           seeds of each profile
//
// docs/architecture.md, "How this is tested".

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <tuple>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "queue/telemetry/log.h"
#include "tests/simulation/world.h"

namespace penstock::simulation {
namespace {

constexpr Profile kProfiles[] = {
    {.name = "calm"},
    {.name = "lost", .lost = 0.03, .duplicate = 0.02},
    {.name = "crash", .crash = 0.003},
    {.name = "cut", .duplicate = 0.02, .cut = 0.004},
    {.name = "storm",
     .lost = 0.02,
     .duplicate = 0.02,
     .crash = 0.002,
     .cut = 0.002,
     .stall = 0.001},
    {.name = "late", .lost = 0.01, .late = 0.01, .crash = 0.001},
    {.name = "mixed", .go_workers = 1},
    {.name = "mixed_storm",
     .lost = 0.01,
     .duplicate = 0.01,
     .crash = 0.002,
     .cut = 0.002,
     .go_workers = 2,
     .go_error = 0.01},
};

const Profile& ProfileOf(std::string_view name) {
  for (const Profile& profile : kProfiles) {
    if (name == profile.name) return profile;
  }
  std::fprintf(stderr, "no profile of that name\n");
  std::exit(2);
}

struct Result {
  std::string violation;
  uint64_t hash = 0;
  int64_t steps = 0;
  int64_t runs = 0;
  int64_t narrowed = 0;
  std::string story;  // workload and events, when traced
};

Result RunSeed(const Profile& profile, uint64_t seed, Bug bug, bool trace) {
  World world(profile, seed, bug, trace);
  world.Run();
  Result result{.violation = world.history().violation(),
                .hash = world.scheduler().hash(),
                .steps = world.scheduler().steps(),
                .runs = world.history().runs(),
                .narrowed = world.narrowed()};
  if (trace) {
    result.story =
        absl::StrCat(world.workload().Text(), "\n",
                     absl::StrJoin(world.scheduler().trace(), "\n"), "\n");
  }
  return result;
}

// The story of a seed that failed, cut to what a reader can take in.
std::string Told(const Profile& profile, uint64_t seed, Bug bug) {
  Result result = RunSeed(profile, seed, bug, /*trace=*/true);
  constexpr size_t kMost = 20'000;
  if (result.story.size() > kMost) {
    result.story = absl::StrCat(
        result.story.substr(0, 3'000), "\n...\n",
        result.story.substr(result.story.size() - (kMost - 3'000)));
  }
  return absl::StrCat("profile ", profile.name, ", seed ", seed, ": ",
                      result.violation,
                      "\nreplay: simulation_test --profile=", profile.name,
                      " --seed=", seed, "\n", result.story);
}

int Seeds() {
  const char* text = std::getenv("PENSTOCK_SIMULATION_SEEDS");
  int seeds = 0;
  if (text != nullptr && absl::SimpleAtoi(text, &seeds)) return seeds;
  return 200;
}

// The seeds of a profile are dealt out, so that ctest runs them side by side.
constexpr int kParts = 2;

class SimulationTest
    : public ::testing::TestWithParam<std::tuple<Profile, int>> {};

TEST_P(SimulationTest, KeepsItsPromises) {
  const auto& [profile, part] = GetParam();
  int64_t runs = 0;
  int64_t narrowed = 0;
  for (int seed = 1 + part; seed <= Seeds(); seed += kParts) {
    const Result result = RunSeed(profile, seed, Bug::kNone, false);
    runs += result.runs;
    narrowed += result.narrowed;
    if (!result.violation.empty()) FAIL() << Told(profile, seed, Bug::kNone);
  }
  EXPECT_GT(runs, 0);
  EXPECT_GT(narrowed, 0);
}

TEST_P(SimulationTest, ASeedIsAlwaysTheSameRun) {
  const auto& [profile, part] = GetParam();
  for (int seed = 1 + part; seed <= 6; seed += kParts) {
    const Result once = RunSeed(profile, seed, Bug::kNone, false);
    const Result again = RunSeed(profile, seed, Bug::kNone, true);
    EXPECT_EQ(once.hash, again.hash) << "seed " << seed;
    EXPECT_EQ(once.steps, again.steps) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Profiles, SimulationTest,
    ::testing::Combine(::testing::ValuesIn(kProfiles),
                       ::testing::Range(0, kParts)),
    [](const ::testing::TestParamInfo<std::tuple<Profile, int>>& info) {
      return absl::StrCat(std::get<0>(info.param).name, "_",
                          std::get<1>(info.param));
    });

// ---- known bugs

struct Mutation {
  const char* name;
  Bug bug;
  Profile profile;  // where it shows
};

const Mutation kMutations[] = {
    {"FlagBeforeSend",
     Bug::kFlagBeforeSend,
     {.name = "crashes", .crash = 0.02}},
    {"AckOnBackendError", Bug::kAckOnBackendError, ProfileOf("lost")},
    {"FlagBurntByAFailedMember", Bug::kBurntByFailedMember, ProfileOf("calm")},
    {"PendingOverAFinalState", Bug::kPendingOverFinal, ProfileOf("crash")},
    {"RetriesFork", Bug::kRetriesFork, ProfileOf("storm")},
    {"MoverRemovesTheNextRetry", Bug::kMoverRemovesNextRetry,
     ProfileOf("storm")},
    {"SweeperSendsABackloggedCallbackAgain",
     Bug::kSweeperSendsAgain,
     {.name = "slow", .long_handlers = 0.5}},
    {"FinishIsNotRepeatable", Bug::kFinishIsNotRepeatable, ProfileOf("lost")},
    {"MembersOfAnOpenGroupExpire", Bug::kMembersExpire, ProfileOf("calm")},
    {"TakesBackThePendingOfOthers", Bug::kTakesBackOthers, ProfileOf("storm")},
};

class KnownBugTest : public ::testing::TestWithParam<Mutation> {};

TEST_P(KnownBugTest, IsFound) {
  constexpr int kWithin = 1000;
  for (int seed = 1; seed <= kWithin; ++seed) {
    const Result result =
        RunSeed(GetParam().profile, seed, GetParam().bug, false);
    if (result.violation.empty()) continue;
    std::printf("found by seed %d: %s\n", seed, result.violation.c_str());
    return;
  }
  FAIL() << "not found within " << kWithin << " seeds";
}

INSTANTIATE_TEST_SUITE_P(Bugs, KnownBugTest, ::testing::ValuesIn(kMutations),
                         [](const ::testing::TestParamInfo<Mutation>& info) {
                           return std::string(info.param.name);
                         });

int Replay(uint64_t seed, const std::string& profile, int bug) {
  const Result result =
      RunSeed(ProfileOf(profile), seed, static_cast<Bug>(bug), /*trace=*/true);
  std::printf(
      "%s\n%s\nsteps %lld, trace hash %016llx\n", result.story.c_str(),
      result.violation.empty() ? "no violation" : result.violation.c_str(),
      static_cast<long long>(result.steps),
      static_cast<unsigned long long>(result.hash));
  return result.violation.empty() ? 0 : 1;
}

}  // namespace
}  // namespace penstock::simulation

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  penstock::SetLogLevel(penstock::LogLevel::kError);
  uint64_t seed = 0;
  std::string profile = "storm";
  int bug = 0;
  for (int i = 1; i < argc; ++i) {
    absl::string_view word = argv[i];
    if (absl::ConsumePrefix(&word, "--seed=")) {
      if (!absl::SimpleAtoi(word, &seed)) return 2;
    } else if (absl::ConsumePrefix(&word, "--profile=")) {
      profile = std::string(word);
    } else if (absl::ConsumePrefix(&word, "--bug=")) {
      if (!absl::SimpleAtoi(word, &bug)) return 2;
    }
  }
  if (seed != 0) return penstock::simulation::Replay(seed, profile, bug);
  return RUN_ALL_TESTS();
}
