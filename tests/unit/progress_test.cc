// What a handler reports, how often it is written, and what is dropped. Time is
// in the test's hands; writes end when the test says so.

#include "sdk/cpp/progress.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_environment.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

class ProgressTest : public ::testing::Test {
 protected:
  // Answers the oldest write that has no answer.
  void Answer(absl::StatusOr<bool> stands = true) {
    ASSERT_LT(answered_, done_.size());
    std::move(done_[answered_++])(std::move(stands));
  }

  FakeEnvironment environment_;
  std::vector<TaskProgress> written_;
  std::vector<std::string> lines_;  // of written_
  std::vector<Callback<bool>> done_;
  size_t answered_ = 0;
  std::shared_ptr<ProgressReport> report_ =
      std::make_shared<ProgressReport>(ProgressReport::World{
          .now = [this] { return environment_.Now(); },
          .after =
              [this](absl::Duration pause, Closure task) {
                environment_.RunAfter(pause, std::move(task));
              },
          .write =
              [this](TaskProgress progress, Callback<bool> done) {
                lines_.push_back(progress.text);
                written_.push_back(std::move(progress));
                done_.push_back(std::move(done));
              }});
};

TEST_F(ProgressTest, TheFirstIsWrittenAtOnce) {
  report_->Set(0.25, "a quarter");
  ASSERT_THAT(written_, SizeIs(1));
  EXPECT_EQ(written_[0], (TaskProgress{.fraction = 0.25,
                                       .text = "a quarter",
                                       .time = environment_.Now()}));
}

TEST_F(ProgressTest, ManyAreTwoWritesASecondAndTheNewestWins) {
  for (int i = 0; i < 1000; ++i) {
    report_->Set(i / 1000.0, std::to_string(i));
    if (answered_ < done_.size()) Answer();
    environment_.Advance(absl::Milliseconds(2));
  }
  EXPECT_THAT(lines_, ElementsAre("0", "249", "499", "749", "999"));
}

TEST_F(ProgressTest, OneWriteIsUnderWayAtATime) {
  report_->Set(0.1, "1");
  report_->Set(0.2, "2");
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(lines_, ElementsAre("1"));
  report_->Set(0.3, "3");
  Answer();
  EXPECT_THAT(lines_, ElementsAre("1", "3"));
}

TEST_F(ProgressTest, WhatCouldNotBeWrittenIsTriedAgainUnlessThereIsNewer) {
  report_->Set(0.1, "1");
  Answer(absl::UnavailableError("away"));
  environment_.Advance(absl::Milliseconds(500));
  EXPECT_THAT(lines_, ElementsAre("1", "1"));
  report_->Set(0.2, "2");
  Answer(absl::UnavailableError("away"));
  environment_.Advance(absl::Milliseconds(500));
  EXPECT_THAT(lines_, ElementsAre("1", "1", "2"));
  Answer();
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(lines_, SizeIs(3));
}

TEST_F(ProgressTest, WhereItIsNotKeptItIsNotSentAgain) {
  report_->Set(0.1, "1");
  Answer(absl::FailedPreconditionError("not kept"));
  report_->Set(0.2, "2");
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(lines_, ElementsAre("1"));
}

TEST_F(ProgressTest, ARunThatIsNoLongerTheTasksReportsNoMore) {
  report_->Set(0.1, "1");
  report_->Set(0.2, "2");
  Answer(false);
  report_->Set(0.3, "3");
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(lines_, ElementsAre("1"));
}

TEST_F(ProgressTest, AfterTheEndNothingIsWritten) {
  report_->Set(0.1, "1");
  report_->Set(0.2, "2");
  report_->Close();
  Answer();
  report_->Set(0.3, "3");
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(lines_, ElementsAre("1"));
}

TEST_F(ProgressTest, FractionsAndLinesAreBroughtIntoBounds) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string long_line = std::string(999, 'x') + "\xC3\xA9";
  const std::pair<double, double> cases[] = {
      {-1, 0}, {2, 1}, {nan, 0}, {HUGE_VAL, 1}, {0.5, 0.5}};
  for (const auto& [given, kept] : cases) {
    report_->Set(given, long_line);
    Answer();
    EXPECT_EQ(written_.back().fraction, kept);
    EXPECT_EQ(written_.back().text, std::string(999, 'x'));
    environment_.Advance(absl::Seconds(1));
  }
  EXPECT_THAT(written_, SizeIs(5));
}

}  // namespace
}  // namespace penstock
