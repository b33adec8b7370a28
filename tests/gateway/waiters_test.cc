// Waits for states: when they end, and how much they read. Fake clock.

#include "gateway/waiters.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "queue/errors.h"
#include "queue/memory/memory_backend.h"
#include "tests/support/failing_backend.h"
#include "tests/support/fake_environment.h"

namespace penstock {
namespace {

using State = std::optional<TaskState>;
using Until = Waiters::Until;

class WaitersTest : public ::testing::Test {
 protected:
  // What became of one wait.
  struct Wait {
    bool ended = false;
    absl::Status status;
    State state;
  };

  void SetPending(const std::string& id) {
    Submit([&](auto done) {
      backend_->CreatePending(
          {{.state = {.task_id = id, .status = Status::kPending},
            .payload_hash = "hash",
            .nonce = "nonce",
            .ttl = absl::Hours(1)}},
          [done](absl::StatusOr<std::vector<PendingAnswer>> answers) {
            done(answers.status());
          });
    });
  }

  void Begin(const std::string& id) {
    Submit([&](auto done) {
      backend_->Begin({.started = {.task_id = id,
                                   .status = Status::kStarted,
                                   .attempt = 1,
                                   .run = "run"},
                       .ttl = absl::Hours(1),
                       .final_ttl = absl::Hours(1),
                       .max_begins = 10},
                      [done](absl::StatusOr<BeginAnswer> answer) {
                        done(answer.status());
                      });
    });
  }

  void Succeed(const std::string& id) { Finish(id, Status::kSuccess); }
  void Retry(const std::string& id) { Finish(id, Status::kRetry); }

  void Finish(const std::string& id, Status status) {
    Submit([&](auto done) {
      backend_->Finish({.outcome = {.task_id = id,
                                    .status = status,
                                    .attempt = 1,
                                    .run = "run"},
                        .ttl = absl::Hours(1),
                        .final_ttl = absl::Hours(1)},
                       [done](absl::StatusOr<FinishAnswer> answer) {
                         done(answer.status());
                       });
    });
  }

  // The waits that a test begins live as long as it.
  Wait& Start(Waiters::Ticket ticket, const std::string& id, Until until,
              absl::Duration wait,
              absl::Time create_time = TaskState().create_time) {
    Wait& out = *waits_.emplace_back(std::make_unique<Wait>());
    waiters_->Wait(ticket, id, until,
                   TaskState{.task_id = id,
                             .status = Status::kPending,
                             .create_time = create_time},
                   environment_.Now() + wait,
                   [&out](absl::StatusOr<State> state) {
                     EXPECT_FALSE(out.ended);
                     out.ended = true;
                     out.status = state.status();
                     if (state.ok()) out.state = *std::move(state);
                   });
    return out;
  }
  Wait& WaitFor(const std::string& id, Until until = Until::kFinal,
                absl::Duration wait = absl::Seconds(60)) {
    return Start(waiters_->NewTicket(), id, until, wait);
  }

  int Reads() const { return backend_failing_.Calls("GetStates"); }

  void TearDown() override {
    EXPECT_EQ(waiters_->size(), 0u);
    waiters_.reset();
  }

  FakeEnvironment environment_;
  std::unique_ptr<Backend> backend_ = MakeMemoryBackend(&environment_);
  FailingBackend backend_failing_{backend_.get(), &environment_};
  std::unique_ptr<Waiters> waiters_ =
      std::make_unique<Waiters>(&backend_failing_, &environment_);
  std::vector<std::unique_ptr<Wait>> waits_;

 private:
  template <typename Call>
  void Submit(Call call) {
    bool ended = false;
    call([&ended](absl::Status status) {
      EXPECT_TRUE(status.ok()) << status;
      ended = true;
    });
    environment_.RunDue();
    ASSERT_TRUE(ended);
  }
};

TEST_F(WaitersTest, FinalStateEndsTheWait) {
  SetPending("t");
  Wait& wait = WaitFor("t");
  environment_.Advance(absl::Seconds(5));
  Begin("t");
  environment_.Advance(absl::Seconds(5));
  EXPECT_FALSE(wait.ended);
  Succeed("t");
  environment_.Advance(absl::Milliseconds(250));
  ASSERT_TRUE(wait.ended);
  EXPECT_EQ(wait.state->status, Status::kSuccess);
}

TEST_F(WaitersTest, ChangeEndsTheWaitOfWhoAskedForChanges) {
  SetPending("t");
  Wait& wait = WaitFor("t", Until::kChange);
  environment_.Advance(absl::Milliseconds(100));
  EXPECT_FALSE(wait.ended);
  Begin("t");
  environment_.Advance(absl::Milliseconds(20));
  ASSERT_TRUE(wait.ended);
  EXPECT_EQ(wait.state->status, Status::kStarted);
}

TEST_F(WaitersTest, WaitThatIsOverGetsTheStateAsItIs) {
  SetPending("t");
  Wait& wait = WaitFor("t", Until::kFinal, absl::Seconds(3));
  environment_.Advance(absl::Seconds(1));
  Begin("t");
  environment_.Advance(absl::Seconds(2) - absl::Milliseconds(1));
  EXPECT_FALSE(wait.ended);
  environment_.Advance(absl::Milliseconds(1));
  ASSERT_TRUE(wait.ended);
  EXPECT_EQ(wait.state->status, Status::kStarted);
}

TEST_F(WaitersTest, UnknownIdEndsWithNoState) {
  Wait& wait = WaitFor("nobody");
  environment_.Advance(absl::Milliseconds(20));
  ASSERT_TRUE(wait.ended);
  EXPECT_TRUE(wait.status.ok());
  EXPECT_FALSE(wait.state.has_value());
}

TEST_F(WaitersTest, AllWaitersShareTheReads) {
  std::vector<Wait*> waits;
  for (int i = 0; i < 900; ++i) {
    SetPending(absl::StrCat("t", i));
    waits.push_back(&WaitFor(absl::StrCat("t", i)));
  }
  environment_.Advance(absl::Milliseconds(999));
  // Each 20 ms, whatever their number.
  EXPECT_LE(Reads(), 50);
  EXPECT_GE(Reads(), 45);
  const int before = Reads();
  environment_.Advance(absl::Seconds(10));
  // Each 250 ms from then on.
  EXPECT_LE(Reads() - before, 45);
  EXPECT_GE(Reads() - before, 35);
  for (int i = 0; i < 900; ++i) {
    Begin(absl::StrCat("t", i));
    Succeed(absl::StrCat("t", i));
  }
  environment_.Advance(absl::Milliseconds(250));
  for (Wait* wait : waits) EXPECT_TRUE(wait->ended);
  const int after = Reads();
  environment_.Advance(absl::Seconds(60));
  EXPECT_EQ(Reads(), after);  // nobody waits: nothing is read
}

TEST_F(WaitersTest, HintIsReadAtOnce) {
  SetPending("t");
  Wait& wait = WaitFor("t", Until::kChange);
  environment_.Advance(absl::Seconds(10) + absl::Milliseconds(3));
  const absl::Time before = environment_.Now();
  Retry("t");  // the memory backend hints
  environment_.RunDue();
  EXPECT_TRUE(wait.ended);
  EXPECT_EQ(wait.state->status, Status::kRetry);
  EXPECT_EQ(environment_.Now(), before);
}

// Those of a whole fleet come, so nobody asks for them in vain.
TEST_F(WaitersTest, HintsAreWantedWhileSomebodyWaits) {
  SetPending("t");
  SetPending("u");
  EXPECT_FALSE(backend_failing_.wants_hints());
  Wait& first = WaitFor("t");
  EXPECT_TRUE(backend_failing_.wants_hints());
  environment_.Advance(absl::Seconds(30));
  EXPECT_TRUE(backend_failing_.wants_hints());
  Succeed("t");
  environment_.RunDue();
  EXPECT_TRUE(first.ended);
  // The next one may come soon.
  environment_.Advance(absl::Seconds(9));
  EXPECT_TRUE(backend_failing_.wants_hints());
  Wait& second = WaitFor("u");
  environment_.Advance(absl::Seconds(9));
  EXPECT_TRUE(backend_failing_.wants_hints());
  Succeed("u");
  environment_.Advance(absl::Seconds(20));
  EXPECT_TRUE(second.ended);
  EXPECT_FALSE(backend_failing_.wants_hints());
}

// Such as while the subscription was on its way, or lost.
TEST_F(WaitersTest, HintsThatMayBeLostAreMadeUpForByARead) {
  SetPending("t");
  Succeed("t");  // after the waiter's read
  Wait& first = WaitFor("t");
  environment_.RunDue();
  EXPECT_TRUE(first.ended);
  EXPECT_EQ(Reads(), 1);
}

TEST_F(WaitersTest, AnOutcomeThatComesWithItsHintIsNotRead) {
  SetPending("t");
  SetPending("u");
  Wait& first = WaitFor("t");
  Wait& second = WaitFor("t", Until::kChange);
  Wait& other = WaitFor("u");
  environment_.Advance(absl::Seconds(10) + absl::Milliseconds(3));
  const int reads = Reads();
  Succeed("t");
  environment_.RunDue();
  EXPECT_TRUE(first.ended);
  EXPECT_EQ(first.state->status, Status::kSuccess);
  EXPECT_EQ(first.state->run, "run");
  EXPECT_TRUE(second.ended);
  EXPECT_FALSE(other.ended);
  EXPECT_EQ(Reads(), reads);
  Succeed("u");
  environment_.RunDue();
  EXPECT_TRUE(other.ended);
}

// Such as one from another database of the same Redis.
TEST_F(WaitersTest, AnOutcomeOfAnotherTaskUnderTheIdIsNotTaken) {
  SetPending("t");
  Wait& wait = Start(waiters_->NewTicket(), "t", Until::kFinal,
                     absl::Seconds(60), absl::FromUnixSeconds(1'000));
  const int reads = Reads();
  Succeed("t");
  environment_.RunDue();
  EXPECT_EQ(Reads(), reads + 1);  // what the backend itself has
  EXPECT_TRUE(wait.ended);
}

TEST_F(WaitersTest, ForgottenWaitsDoNotRunAndAreNotRead) {
  SetPending("a");
  SetPending("b");
  const Waiters::Ticket ticket = waiters_->NewTicket();
  Wait& first = Start(ticket, "a", Until::kFinal, absl::Seconds(60));
  Wait& second = Start(ticket, "b", Until::kFinal, absl::Seconds(60));
  Wait& other = WaitFor("b");
  waiters_->Forget(ticket);
  EXPECT_EQ(waiters_->size(), 1u);
  environment_.Advance(absl::Seconds(60));
  EXPECT_FALSE(first.ended);
  EXPECT_FALSE(second.ended);
  EXPECT_TRUE(other.ended);
}

TEST_F(WaitersTest, DrainEndsAllWaitsWithTheStateAsItIsKnown) {
  SetPending("t");
  Wait& wait = WaitFor("t");
  environment_.Advance(absl::Milliseconds(30));
  waiters_->Drain();
  ASSERT_TRUE(wait.ended);
  EXPECT_EQ(wait.state->status, Status::kPending);
  EXPECT_TRUE(WaitFor("t").ended);
}

TEST_F(WaitersTest, BackendMayBeAwayForAWhile) {
  SetPending("t");
  Wait& wait = WaitFor("t");
  backend_failing_.SetMode(FailingBackend::kRefuse);
  environment_.Advance(absl::Seconds(10));
  EXPECT_FALSE(wait.ended);
  Begin("t");
  Succeed("t");
  backend_failing_.SetMode(FailingBackend::kWork);
  environment_.Advance(absl::Milliseconds(250));
  ASSERT_TRUE(wait.ended);
  EXPECT_EQ(wait.state->status, Status::kSuccess);
}

TEST_F(WaitersTest, BackendThatStaysAwayIsReportedWhenTheWaitIsOver) {
  SetPending("t");
  Wait& wait = WaitFor("t", Until::kFinal, absl::Seconds(3));
  backend_failing_.SetMode(FailingBackend::kRefuse);
  environment_.Advance(absl::Seconds(3) - absl::Milliseconds(1));
  EXPECT_FALSE(wait.ended);
  environment_.Advance(absl::Milliseconds(1));
  ASSERT_TRUE(wait.ended);
  EXPECT_EQ(wait.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(wait.status), "BACKEND_UNAVAILABLE");
}

TEST_F(WaitersTest, BackendThatDoesNotAnswerDoesNotHoldUpTheDeadline) {
  SetPending("t");
  Wait& wait = WaitFor("t", Until::kFinal, absl::Seconds(3));
  backend_failing_.SetMode(FailingBackend::kDie);
  environment_.Advance(absl::Seconds(3));
  ASSERT_TRUE(wait.ended);
  EXPECT_EQ(ReasonOf(wait.status), "BACKEND_UNAVAILABLE");
}

TEST_F(WaitersTest, NothingRunsAfterStop) {
  SetPending("t");
  Wait& wait = WaitFor("t");
  waiters_->Stop();
  const int reads = Reads();
  environment_.Advance(absl::Seconds(60));
  EXPECT_FALSE(wait.ended);
  EXPECT_EQ(Reads(), reads);
}

}  // namespace
}  // namespace penstock
