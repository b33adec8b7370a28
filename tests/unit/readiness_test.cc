// When a program calls itself ready, and when it says that this has changed.
// Time is in the test's hands.

#include "queue/readiness.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "queue/memory/memory_backend.h"
#include "tests/support/failing_backend.h"
#include "tests/support/fake_environment.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReadinessTest : public ::testing::Test {
 protected:
  void Start() {
    readiness_.emplace(
        Readiness::World{.program = [this] { return program_; },
                         .backend = &backend_,
                         .environment = &environment_,
                         .on_change =
                             [this](const absl::Status& status) {
                               told_.push_back(std::string(status.message()));
                             }});
  }
  std::string Text() const { return std::string(readiness_->Get().message()); }

  FakeEnvironment environment_;
  std::unique_ptr<Backend> memory_ = MakeMemoryBackend(&environment_);
  FailingBackend backend_{memory_.get(), &environment_};
  absl::Status program_;
  std::vector<std::string> told_;
  std::optional<Readiness> readiness_;
};

TEST_F(ReadinessTest, NothingIsReadyBeforeTheBackendHasAnswered) {
  Start();
  EXPECT_EQ(readiness_->Get().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Text(), "result backend: was not asked yet");
  EXPECT_THAT(told_, IsEmpty());
  environment_.RunDue();
  EXPECT_EQ(readiness_->Get(), absl::OkStatus());
  EXPECT_THAT(told_, ElementsAre(""));
}

TEST_F(ReadinessTest, ItFollowsTheBackendWithinASecond) {
  Start();
  environment_.RunDue();
  backend_.SetMode(FailingBackend::kRefuse);
  environment_.Advance(absl::Seconds(1));
  EXPECT_THAT(Text(), HasSubstr("result backend: the test took it away"));
  environment_.Advance(absl::Seconds(10));
  backend_.SetMode(FailingBackend::kWork);
  environment_.Advance(absl::Seconds(1));
  EXPECT_EQ(readiness_->Get(), absl::OkStatus());
  EXPECT_THAT(told_, ElementsAre("", HasSubstr("took it away"), ""));
}

TEST_F(ReadinessTest, ABackendThatDoesNotAnswerIsNoneAfterFiveSeconds) {
  Start();
  environment_.RunDue();
  backend_.SetMode(FailingBackend::kDie);
  environment_.Advance(absl::Seconds(5));
  EXPECT_EQ(readiness_->Get(), absl::OkStatus());
  environment_.Advance(absl::Seconds(1));
  EXPECT_EQ(Text(), "result backend: does not answer");
  // One question at a time: those of an hour would come back all at once.
  const int asked = backend_.Calls("Ping");
  environment_.Advance(absl::Hours(1));
  EXPECT_EQ(backend_.Calls("Ping"), asked);
}

TEST_F(ReadinessTest, TheProgramsOwnTroubleIsSaidAtOnceAndToldWithinASecond) {
  Start();
  environment_.RunDue();
  program_ = absl::InternalError("broker: gone");
  EXPECT_EQ(readiness_->Get(), absl::UnavailableError("broker: gone"));
  EXPECT_THAT(told_, ElementsAre(""));
  environment_.Advance(absl::Seconds(1));
  EXPECT_THAT(told_, ElementsAre("", "broker: gone"));
}

TEST_F(ReadinessTest, AfterTheEndNothingIsAsked) {
  Start();
  environment_.RunDue();
  readiness_.reset();
  const int asked = backend_.Calls("Ping");
  environment_.Advance(absl::Seconds(10));
  EXPECT_EQ(backend_.Calls("Ping"), asked);
}

}  // namespace
}  // namespace penstock
