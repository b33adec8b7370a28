// A worker's own periodic tasks, with time, lock and broker in the test's
// hands.

#include "sdk/cpp/periodic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "penstock/worker.h"
#include "queue/memory/memory_backend.h"
#include "queue/memory/memory_broker.h"
#include "queue/wire/task_json.h"
#include "tests/support/failing_broker.h"
#include "tests/support/fake_environment.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

Task Named(const std::string& name) { return {.name = name}; }

// Of one fleet: who asks first has it.
class FakeLock final : public PeriodicLock {
 public:
  explicit FakeLock(Environment* environment) : environment_(environment) {}

  void TryLock(std::string key, absl::Time until,
               Callback<bool> done) override {
    absl::StatusOr<bool> answer = absl::UnavailableError("away");
    if (!away) {
      absl::Time& ends = ends_[key];
      answer = ends <= environment_->Now();
      if (*answer) ends = until;
    }
    environment_->RunAfter(absl::ZeroDuration(),
                           [answer, done = std::move(done)]() mutable {
                             std::move(done)(answer);
                           });
  }

  std::vector<std::string> keys() const {
    std::vector<std::string> keys;
    for (const auto& [key, ends] : ends_) keys.push_back(key);
    return keys;
  }

  bool away = false;

 private:
  Environment* const environment_;
  std::map<std::string, absl::Time> ends_;
};

class PeriodicTest : public ::testing::Test {
 protected:
  PeriodicTest()
      : memory_broker_(MakeMemoryBroker({.environment = &environment_})),
        broker_(memory_broker_.get(), &environment_),
        backend_(MakeMemoryBackend(&environment_)),
        lifecycle_(&broker_, backend_.get(), &environment_, {}),
        lock_(&environment_) {
    auto consumer =
        broker_.Consume({.prefetch = 1000}, [this](Delivery delivery) {
          absl::StatusOr<Task> task = DecodeTask(delivery.body);
          ASSERT_TRUE(task.ok()) << task.status();
          EXPECT_TRUE(ids_.insert(task->id).second) << task->id;
          ++sent_[task->name];
          last_ = *std::move(task);
        });
    EXPECT_TRUE(consumer.ok()) << consumer.status();
    consumer_ = *std::move(consumer);
  }
  ~PeriodicTest() override {
    for (const auto& process : processes_) process->Stop();
    lifecycle_.Stop();
    consumer_.reset();
    environment_.Advance(absl::Seconds(5));
  }

  // One process with one schedule.
  void Start(const std::string& spec, PeriodicCall call, bool with_lock = true,
             const std::string& name = "name") {
    absl::StatusOr<PeriodicEntry> entry =
        MakePeriodicEntry(spec, name, std::move(call));
    ASSERT_TRUE(entry.ok()) << entry.status();
    processes_.push_back(std::make_shared<Periodic>(
        &lifecycle_, &environment_, with_lock ? &lock_ : nullptr, "program",
        std::vector<PeriodicEntry>{*std::move(entry)}));
    processes_.back()->Start();
  }

  FakeEnvironment environment_;
  std::unique_ptr<Broker> memory_broker_;
  FailingBroker broker_;
  std::unique_ptr<Backend> backend_;
  Lifecycle lifecycle_;
  FakeLock lock_;
  std::unique_ptr<Consumer> consumer_;
  std::vector<std::shared_ptr<Periodic>> processes_;
  std::map<std::string, int> sent_;
  std::set<std::string> ids_;
  Task last_;
};

TEST_F(PeriodicTest, OfSeveralProcessesOneSendsATick) {
  for (int i = 0; i < 3; ++i) Start("@every 1s", {.tasks = {Named("a")}});
  environment_.Advance(absl::Seconds(10));
  EXPECT_THAT(sent_, ElementsAre(Pair("a", 10)));
  EXPECT_THAT(lock_.keys(), ElementsAre("machinery_lock_programname@every 1s"));
}

TEST_F(PeriodicTest, WithoutALockEachProcessSends) {
  for (int i = 0; i < 3; ++i) {
    Start("@every 1s", {.tasks = {Named("a")}}, /*with_lock=*/false);
  }
  environment_.Advance(absl::Seconds(10));
  EXPECT_THAT(sent_, ElementsAre(Pair("a", 30)));
}

TEST_F(PeriodicTest, WithoutAnAnswerOfTheLockNothingIsSent) {
  Start("@every 1s", {.tasks = {Named("a")}});
  lock_.away = true;
  environment_.Advance(absl::Seconds(5));
  EXPECT_TRUE(sent_.empty());
  lock_.away = false;
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(sent_, ElementsAre(Pair("a", 5)));
}

TEST_F(PeriodicTest, SchedulesOfOtherNamesAndSpecsHaveTheirOwnLocks) {
  Start("@every 1s", {.tasks = {Named("a")}}, true, "a");
  Start("@every 1s", {.tasks = {Named("b")}}, true, "b");
  Start("@every 2s", {.tasks = {Named("c")}}, true, "a");
  environment_.Advance(absl::Seconds(10));
  EXPECT_THAT(sent_, ElementsAre(Pair("a", 10), Pair("b", 10), Pair("c", 5)));
}

TEST_F(PeriodicTest, ChainsGroupsAndChordsAreSentAsSuch) {
  Start("@every 10s", {.kind = PeriodicCall::kGroup,
                       .tasks = {Named("member"), Named("member")}});
  environment_.Advance(absl::Seconds(10));
  EXPECT_THAT(sent_, ElementsAre(Pair("member", 2)));
  EXPECT_THAT(last_.group_id, HasSubstr("group_"));
  processes_[0]->Stop();

  Start("@every 10s", {.kind = PeriodicCall::kChain,
                       .tasks = {Named("first"), Named("second")}});
  environment_.Advance(absl::Seconds(10));
  ASSERT_EQ(last_.name, "first");
  ASSERT_EQ(last_.on_success.size(), 1);
  EXPECT_THAT(last_.on_success[0], HasSubstr("\"Name\":\"second\""));
  processes_[1]->Stop();

  Start("@every 10s", {.kind = PeriodicCall::kChord,
                       .tasks = {Named("one")},
                       .callback = Named("callback")});
  environment_.Advance(absl::Seconds(10));
  ASSERT_EQ(last_.name, "one");
  EXPECT_THAT(last_.chord_callback, HasSubstr("\"Name\":\"callback\""));
}

TEST_F(PeriodicTest, ATickThatTheBrokerDidNotTakeIsSentAgainUnderItsIds) {
  Start("@every 1m", {.tasks = {Named("a")}});
  for (int i = 0; i < 3; ++i) {
    broker_.FailNextPublish(absl::UnavailableError("away"));
  }
  environment_.Advance(absl::Seconds(61));
  EXPECT_TRUE(sent_.empty());
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(sent_, ElementsAre(Pair("a", 1)));
}

TEST_F(PeriodicTest, AfterDrainNoTickIsBegun) {
  Start("@every 1s", {.tasks = {Named("a")}});
  environment_.Advance(absl::Seconds(2));
  processes_[0]->Drain(absl::InfiniteFuture());
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(sent_, ElementsAre(Pair("a", 2)));
}

TEST(WorkerScheduleTest, WhatIsWrongIsNamed) {
  Worker worker({});
  const auto error = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(error(worker.Schedule("60 * * * *", "n", Named("a"))),
            "Schedule \"n\": spec \"60 * * * *\": minute \"60\": must be 0 to "
            "59");
  EXPECT_THAT(error(worker.Schedule("@daily", "", Named("a"))),
              HasSubstr("needs a name"));
  EXPECT_THAT(error(worker.Schedule("@daily", "n", Task{})),
              HasSubstr("has no name"));
  EXPECT_THAT(error(worker.ScheduleGroup("@daily", "n", {})),
              HasSubstr("no task"));
  EXPECT_THAT(error(worker.ScheduleChain(
                  "@daily", "n", {Named("a"), {.id = "x", .name = "b"}})),
              HasSubstr("task b has an id; leave it empty"));
  Task followed = Named("d");
  followed.on_success = {"{}"};
  EXPECT_THAT(
      error(worker.ScheduleChain("@daily", "n", {followed, Named("e")})),
      HasSubstr("only the last link"));
  Task late = Named("c");
  late.eta = ZonedTime{.time = absl::UnixEpoch()};
  EXPECT_THAT(error(worker.ScheduleChord("@daily", "n", {Named("a")}, late)),
              HasSubstr("task c has an eta"));
  EXPECT_TRUE(worker.Schedule("57 9 * * ?", "n", Named("a")).ok());
}

}  // namespace
}  // namespace penstock
