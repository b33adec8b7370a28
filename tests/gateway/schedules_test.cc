// Schedules over the memory twins, with time, crashes and outages in the test's
// hands: several gateways share one backend, all on one thread.

#include "gateway/schedules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/convert.h"
#include "queue/errors.h"
#include "queue/memory/memory_backend.h"
#include "queue/memory/memory_broker.h"
#include "queue/wire/task_json.h"
#include "tests/support/failing_backend.h"
#include "tests/support/failing_broker.h"
#include "tests/support/fake_environment.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr char kQueue[] = "tasks";

v1::CreateScheduleRequest TaskSchedule(const std::string& name,
                                       const std::string& spec,
                                       const std::string& task = "add") {
  v1::CreateScheduleRequest request;
  request.set_name(name);
  request.set_cron_spec(spec);
  request.mutable_task()->set_name(task);
  request.mutable_task()->add_args()->set_int_value(1);
  return request;
}

// A broker that can be away, or slow.
class AwayBroker final : public FailingBroker {
 public:
  AwayBroker(Broker* real, Environment* environment)
      : FailingBroker(real, environment), environment_(environment) {}

  void Publish(Message message, Done done) override {
    ++publishes;
    if (!away) {
      environment_->RunAfter(slow, [this, message = std::move(message),
                                    done = std::move(done)]() mutable {
        FailingBroker::Publish(std::move(message), std::move(done));
      });
      return;
    }
    environment_->RunAfter(
        absl::ZeroDuration(), [done = std::move(done)]() mutable {
          std::move(done)(MakeError(absl::StatusCode::kUnavailable,
                                    reason::kBrokerUnavailable,
                                    "the test took it away"));
        });
  }

  bool away = false;
  absl::Duration slow = absl::ZeroDuration();
  int publishes = 0;

 private:
  Environment* const environment_;
};

class SchedulesTest : public ::testing::Test {
 protected:
  // One gateway: what of it schedules need.
  struct Gateway {
    Gateway(Broker* broker, Backend* real, Environment* environment)
        : backend(real, environment),
          lifecycle(broker, &backend, environment, {}),
          schedules(&lifecycle, broker, &backend, environment, {}) {
      lifecycle.Start();
      schedules.Start();
    }
    // Nothing that it asked for comes back.
    ~Gateway() {
      schedules.Stop();
      lifecycle.Stop();
    }
    FailingBackend backend;
    Lifecycle lifecycle;
    Schedules schedules;
  };

  SchedulesTest()
      : memory_broker_(MakeMemoryBroker(
            {.environment = &environment_, .default_queue = kQueue})),
        broker_(memory_broker_.get(), &environment_),
        backend_(MakeMemoryBackend(&environment_)) {
    auto consumer =
        broker_.Consume({.prefetch = 10'000}, [this](Delivery delivery) {
          absl::StatusOr<Task> task = DecodeTask(delivery.body);
          ASSERT_TRUE(task.ok()) << task.status();
          // A copy of a task that was sent is no other task.
          if (ids_.insert(task->id).second) ++sent_[task->name];
        });
    EXPECT_TRUE(consumer.ok()) << consumer.status();
    consumer_ = *std::move(consumer);
  }
  ~SchedulesTest() override {
    gateways_.clear();
    consumer_.reset();
    environment_.Advance(absl::Seconds(5));
  }

  Gateway& AddGateway() {
    gateways_.push_back(
        std::make_unique<Gateway>(&broker_, backend_.get(), &environment_));
    return *gateways_.back();
  }

  template <typename T, typename Call>
  absl::StatusOr<T> Await(Call call) {
    std::optional<absl::StatusOr<T>> answer;
    call([&](absl::StatusOr<T> result) { answer = std::move(result); });
    environment_.RunDue();
    EXPECT_TRUE(answer.has_value());
    return answer.has_value() ? *std::move(answer)
                              : absl::InternalError("none");
  }

  absl::StatusOr<v1::CreateScheduleResponse> Create(
      const v1::CreateScheduleRequest& request) {
    return Await<v1::CreateScheduleResponse>([&](auto done) {
      gateways_[0]->schedules.Create(request, std::move(done));
    });
  }
  v1::Schedule MustCreate(const v1::CreateScheduleRequest& request) {
    auto response = Create(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->schedule() : v1::Schedule();
  }
  absl::StatusOr<v1::ListSchedulesResponse> List(
      const v1::ListSchedulesRequest& request = {}) {
    return Await<v1::ListSchedulesResponse>([&](auto done) {
      gateways_[0]->schedules.List(request, std::move(done));
    });
  }
  v1::Schedule Only() {
    auto response = List();
    EXPECT_TRUE(response.ok() && response->schedules_size() == 1);
    return response.ok() && response->schedules_size() == 1
               ? response->schedules(0)
               : v1::Schedule();
  }
  absl::StatusOr<v1::Schedule> Do(
      void (Schedules::*method)(const std::string&, Callback<v1::Schedule>),
      const std::string& name) {
    return Await<v1::Schedule>([&](auto done) {
      (gateways_[0]->schedules.*method)(name, std::move(done));
    });
  }

  static std::vector<std::string> FieldsOf(const absl::Status& status) {
    std::vector<std::string> fields;
    for (const FieldViolation& bad : ViolationsOf(status)) {
      fields.push_back(bad.field);
    }
    return fields;
  }

  int64_t Seconds() { return absl::ToUnixSeconds(environment_.Now()); }

  FakeEnvironment environment_;
  std::unique_ptr<Broker> memory_broker_;
  AwayBroker broker_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Consumer> consumer_;
  std::vector<std::unique_ptr<Gateway>> gateways_;
  std::map<std::string, int> sent_;  // tasks, by name
  std::set<std::string> ids_;        // of these
};

TEST_F(SchedulesTest, EachTickIsSentOnceWhateverTheNumberOfGateways) {
  for (int i = 0; i < 3; ++i) AddGateway();
  MustCreate(TaskSchedule("s", "@every 10s"));
  EXPECT_THAT(sent_, IsEmpty());
  environment_.Advance(absl::Seconds(100));
  EXPECT_EQ(sent_["add"], 10);
  const v1::Schedule schedule = Only();
  EXPECT_EQ(schedule.last_tick_time().seconds(), Seconds());
  EXPECT_EQ(schedule.next_tick_time().seconds(), Seconds() + 10);
  EXPECT_EQ(schedule.last_run().tick_time().seconds(), Seconds());
  EXPECT_TRUE(ids_.contains(schedule.last_run().task_id()));
  EXPECT_EQ(schedule.last_error(), "");
}

TEST_F(SchedulesTest, ATickComesAtItsSecond) {
  AddGateway();
  MustCreate(TaskSchedule("s", "@every 1s"));
  for (int i = 1; i <= 20; ++i) {
    environment_.Advance(absl::Seconds(1));
    ASSERT_EQ(sent_["add"], i);
  }
}

TEST_F(SchedulesTest, WhatEachKindSendsIsShownInItsLastRun) {
  AddGateway();
  v1::CreateScheduleRequest group = TaskSchedule("group", "@every 10s");
  const v1::Task member = group.task();
  *group.mutable_group()->add_tasks() = member;
  *group.mutable_group()->add_tasks() = member;
  MustCreate(group);
  v1::CreateScheduleRequest chain = TaskSchedule("chain", "@every 10s");
  *chain.mutable_chain()->add_tasks() = member;
  chain.mutable_chain()->add_tasks()->set_name("second");
  MustCreate(chain);
  v1::CreateScheduleRequest chord = TaskSchedule("chord", "@every 10s");
  *chord.mutable_chord()->add_tasks() = member;
  chord.mutable_chord()->mutable_callback()->set_name("callback");
  MustCreate(chord);
  environment_.Advance(absl::Seconds(10));
  EXPECT_EQ(sent_["add"], 4);
  const auto list = List();
  ASSERT_EQ(list->schedules_size(), 3);
  EXPECT_THAT(list->schedules(0).last_run().task_id(), HasSubstr("task_"));
  EXPECT_EQ(list->schedules(0).last_run().group_id(), "");
  EXPECT_THAT(list->schedules(1).last_run().task_id(), HasSubstr("chord_"));
  EXPECT_THAT(list->schedules(1).last_run().group_id(), HasSubstr("group_"));
  EXPECT_EQ(list->schedules(2).last_run().task_id(), "");
  EXPECT_THAT(list->schedules(2).last_run().group_id(), HasSubstr("group_"));
  environment_.Advance(absl::Seconds(10));
  EXPECT_EQ(sent_["add"], 8);
}

// The first gateway dies at each of its operations on the way, done or not.
TEST_F(SchedulesTest, ATickOfAGatewayThatDiesIsSoonAnothers) {
  for (const char* operation : {"LeaseSchedules", "ClaimRequest",
                                "CreatePending", "EndRequest", "EndTick"}) {
    for (const FailingBackend::Mode last :
         {FailingBackend::kDie, FailingBackend::kLoseReply}) {
      SCOPED_TRACE(absl::StrCat(operation, " ", last));
      gateways_.clear();
      sent_.clear();
      FailingBackend& backend = AddGateway().backend;
      MustCreate(TaskSchedule("s", "@every 2m"));
      environment_.Advance(absl::Seconds(119.5));
      const int calls = backend.Calls(operation);
      backend.FailNext(operation, 1, last);
      while (backend.Calls(operation) == calls) {
        environment_.Advance(absl::Milliseconds(1));
      }
      backend.SetMode(FailingBackend::kDie);
      AddGateway();
      environment_.Advance(absl::Seconds(15));
      EXPECT_EQ(sent_["add"], 1);
      gateways_.erase(gateways_.begin());
      EXPECT_EQ(Only().last_error(), "");
      EXPECT_EQ(Only().last_run().tick_time().seconds(),
                Only().last_tick_time().seconds());
      EXPECT_EQ(
          Only().next_tick_time().seconds() - Only().last_tick_time().seconds(),
          120);
      ASSERT_TRUE(Do(&Schedules::Delete, "s").ok());
      environment_.Advance(absl::Minutes(5));
      EXPECT_EQ(sent_["add"], 1);
    }
  }
}

// The result backend fails once, at each operation on the way.
TEST_F(SchedulesTest, AnOperationThatFailsOrWhoseReplyIsLostLosesNoTick) {
  for (const char* operation : {"LeaseSchedules", "ClaimRequest",
                                "CreatePending", "EndRequest", "EndTick"}) {
    for (const FailingBackend::Mode mode :
         {FailingBackend::kLoseReply, FailingBackend::kRefuse}) {
      SCOPED_TRACE(absl::StrCat(operation, " ", mode));
      gateways_.clear();
      sent_.clear();
      FailingBackend& backend = AddGateway().backend;
      AddGateway();
      MustCreate(TaskSchedule("s", "@every 2m"));
      environment_.Advance(absl::Seconds(119.5));
      backend.FailNext(operation, 1, mode);
      environment_.Advance(absl::Seconds(100.5));
      EXPECT_EQ(sent_["add"], 1);
      EXPECT_EQ(Only().last_error(), "");
      EXPECT_EQ(Only().last_run().tick_time().seconds(), Seconds() - 100);
      EXPECT_EQ(Only().next_tick_time().seconds(), Seconds() + 20);
      ASSERT_TRUE(Do(&Schedules::Delete, "s").ok());
      environment_.Advance(absl::Minutes(5));
      EXPECT_EQ(sent_["add"], 1);
    }
  }
}

// Sending takes longer than the lease, and is not taken for death.
TEST_F(SchedulesTest, ASlowTickIsNotSentTwice) {
  AddGateway();
  AddGateway();
  MustCreate(TaskSchedule("s", "@every 10m"));
  environment_.Advance(absl::Minutes(10) - absl::Seconds(1));
  broker_.slow = absl::Seconds(25);
  environment_.Advance(absl::Seconds(40));
  EXPECT_EQ(sent_["add"], 1);
  EXPECT_EQ(broker_.publishes, 1);
  EXPECT_EQ(Only().last_error(), "");
}

TEST_F(SchedulesTest, SchedulesOutliveAllGateways) {
  AddGateway();
  MustCreate(TaskSchedule("s", "@every 10s"));
  gateways_.clear();
  environment_.Advance(absl::Seconds(8));
  AddGateway();
  environment_.Advance(absl::Seconds(12));
  EXPECT_EQ(sent_["add"], 2);
}

TEST_F(SchedulesTest, MissedTicksAreSkippedUnlessTheyAreToBeRunOnce) {
  AddGateway();
  MustCreate(TaskSchedule("skips", "@every 10m", "skip"));
  v1::CreateScheduleRequest request =
      TaskSchedule("runs", "@every 10m", "once");
  request.set_missed_ticks(v1::MISSED_TICKS_RUN_ONCE);
  MustCreate(request);
  gateways_.clear();
  environment_.Advance(absl::Minutes(35));
  AddGateway();
  environment_.Advance(absl::Seconds(5));
  EXPECT_THAT(sent_, UnorderedElementsAre(testing::Pair("once", 1)));
  auto list = List();
  EXPECT_EQ(list->schedules(0).missed_ticks(), v1::MISSED_TICKS_RUN_ONCE);
  EXPECT_TRUE(list->schedules(0).has_last_tick_time());
  EXPECT_EQ(list->schedules(1).missed_ticks(), v1::MISSED_TICKS_SKIP);
  EXPECT_FALSE(list->schedules(1).has_last_tick_time());
  environment_.Advance(absl::Minutes(10));
  EXPECT_EQ(sent_["skip"], 1);
  EXPECT_EQ(sent_["once"], 2);
}

TEST_F(SchedulesTest, ATickThatIsALittleLateIsNotMissed) {
  AddGateway();
  MustCreate(TaskSchedule("s", "@every 10s"));
  gateways_.clear();
  environment_.Advance(absl::Seconds(25));
  AddGateway();
  environment_.Advance(absl::Seconds(1));
  EXPECT_EQ(sent_["add"], 2);
}

TEST_F(SchedulesTest, PausedOnesDoNotTickAndMissNothing) {
  AddGateway();
  v1::CreateScheduleRequest request = TaskSchedule("s", "@every 10s");
  request.set_missed_ticks(v1::MISSED_TICKS_RUN_ONCE);
  MustCreate(request);
  const auto paused = Do(&Schedules::Pause, "s");
  ASSERT_TRUE(paused.ok()) << paused.status();
  EXPECT_TRUE(paused->paused());
  EXPECT_FALSE(paused->has_next_tick_time());
  ASSERT_TRUE(Do(&Schedules::Pause, "s").ok()) << "a repeat";
  environment_.Advance(absl::Minutes(5) + absl::Seconds(3));
  EXPECT_THAT(sent_, IsEmpty());

  const auto resumed = Do(&Schedules::Resume, "s");
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_FALSE(resumed->paused());
  EXPECT_EQ(resumed->next_tick_time().seconds(), Seconds() + 10);
  environment_.Advance(absl::Seconds(4));
  EXPECT_EQ(Do(&Schedules::Resume, "s")->next_tick_time().seconds(),
            Seconds() + 6)
      << "it ticks already";
  environment_.Advance(absl::Seconds(6));
  EXPECT_EQ(sent_["add"], 1);
}

TEST_F(SchedulesTest, AFailingTickIsRecordedAndTheScheduleGoesOn) {
  AddGateway();
  v1::CreateScheduleRequest request = TaskSchedule("s", "@every 10s");
  request.mutable_task()->set_routing_key("nowhere");
  MustCreate(request);
  environment_.Advance(absl::Seconds(30));
  const v1::Schedule schedule = Only();
  EXPECT_THAT(schedule.last_error(),
              HasSubstr("FAILED_PRECONDITION QUEUE_NOT_FOUND: "));
  EXPECT_EQ(schedule.last_tick_time().seconds(), Seconds());
  EXPECT_EQ(schedule.next_tick_time().seconds(), Seconds() + 10);
  EXPECT_FALSE(schedule.has_last_run());
}

TEST_F(SchedulesTest, WhileTheBrokerIsAwayATickIsTriedUntilItIsMissed) {
  AddGateway();
  MustCreate(TaskSchedule("skips", "@every 10m", "skip"));
  v1::CreateScheduleRequest request =
      TaskSchedule("runs", "@every 10m", "once");
  request.set_missed_ticks(v1::MISSED_TICKS_RUN_ONCE);
  MustCreate(request);
  broker_.away = true;
  environment_.Advance(absl::Minutes(12));
  broker_.away = false;
  auto list = List();
  EXPECT_THAT(list->schedules(0).last_error(), HasSubstr("UNAVAILABLE"));
  EXPECT_FALSE(list->schedules(0).has_last_tick_time()) << "it is tried on";
  EXPECT_THAT(list->schedules(1).last_error(), HasSubstr("UNAVAILABLE"));
  EXPECT_TRUE(list->schedules(1).has_last_tick_time()) << "it was given up";
  environment_.Advance(absl::Minutes(1));
  EXPECT_THAT(sent_, UnorderedElementsAre(testing::Pair("once", 1)));
  EXPECT_EQ(List()->schedules(0).last_error(), "");
  environment_.Advance(absl::Minutes(7));
  EXPECT_EQ(sent_["skip"], 1);
  EXPECT_EQ(sent_["once"], 2);
}

TEST_F(SchedulesTest, AShortOutageOfTheBrokerIsWaitedFor) {
  AddGateway();
  MustCreate(TaskSchedule("s", "@every 10m"));
  environment_.Advance(absl::Minutes(10) - absl::Seconds(5));
  broker_.away = true;
  environment_.Advance(absl::Seconds(15));
  EXPECT_THAT(sent_, IsEmpty());
  broker_.away = false;
  environment_.Advance(absl::Seconds(5));
  EXPECT_EQ(sent_["add"], 1);
}

TEST_F(SchedulesTest, AnEqualCreateIsAnsweredAnotherIsRefused) {
  AddGateway();
  const v1::CreateScheduleRequest request = TaskSchedule("s", "@every 10s");
  auto first = Create(request);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(first->replayed());
  v1::CreateScheduleRequest same = request;
  same.set_missed_ticks(v1::MISSED_TICKS_SKIP);  // the default
  auto again = Create(same);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->replayed());
  EXPECT_EQ(again->schedule().create_time().nanos(),
            first->schedule().create_time().nanos());

  for (auto other : {TaskSchedule("s", "@every 11s"),
                     TaskSchedule("s", "@every 10s", "multiply")}) {
    const absl::Status refused = Create(other).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(ReasonOf(refused), "SCHEDULE_EXISTS");
    EXPECT_EQ(MetadataOf(refused)["schedule"], "s");
  }
  ASSERT_TRUE(Do(&Schedules::Delete, "s").ok());
  EXPECT_FALSE(Create(TaskSchedule("s", "@every 11s"))->replayed());
}

TEST_F(SchedulesTest, UnknownNamesAreNotFound) {
  AddGateway();
  for (auto method :
       {&Schedules::Pause, &Schedules::Resume, &Schedules::Delete}) {
    const absl::Status status = Do(method, "unknown").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(ReasonOf(status), "SCHEDULE_NOT_FOUND");
    EXPECT_THAT(FieldsOf(Do(method, "").status()), ElementsAre("name"));
    EXPECT_THAT(FieldsOf(Do(method, "a b").status()), ElementsAre("name"));
  }
}

TEST_F(SchedulesTest, WhatIsWrongIsNamedAllAtOnce) {
  AddGateway();
  v1::CreateScheduleRequest empty;
  EXPECT_THAT(FieldsOf(Create(empty).status()),
              ElementsAre("name", "cron_spec", "task"));

  v1::CreateScheduleRequest task = TaskSchedule("a/b", "0 0 31 2 *", "");
  task.set_missed_ticks(static_cast<v1::MissedTicks>(7));
  task.mutable_task()->set_id("mine");
  task.mutable_task()->mutable_eta()->set_seconds(1);
  task.mutable_task()->add_on_success()->set_id("nested");
  const absl::Status status = Create(task).status();
  EXPECT_EQ(ReasonOf(status), "INVALID_FIELD");
  EXPECT_THAT(
      FieldsOf(status),
      UnorderedElementsAre("name", "cron_spec", "missed_ticks", "task.id",
                           "task.eta", "task.on_success[0].id", "task.name",
                           "task.on_success[0].name"));

  v1::CreateScheduleRequest chord = TaskSchedule("s", "@daily");
  chord.mutable_chord()->set_group_id("mine");
  chord.mutable_chord()->set_request_id("mine");
  chord.mutable_chord()->add_tasks()->set_id("mine");
  chord.mutable_chord()->mutable_callback()->mutable_delay()->set_seconds(1);
  EXPECT_THAT(FieldsOf(Create(chord).status()),
              UnorderedElementsAre("chord.group_id", "chord.request_id",
                                   "chord.tasks[0].id", "chord.tasks[0].id",
                                   "chord.tasks[0].name", "chord.callback.name",
                                   "chord.callback.delay"));
  EXPECT_EQ(List()->schedules_size(), 0);
}

TEST_F(SchedulesTest, OneThatIsTooLargeIsRefused) {
  AddGateway();
  v1::CreateScheduleRequest request = TaskSchedule("s", "@daily");
  request.mutable_task()->add_args()->set_string_value(
      std::string(1 << 20, 'x'));
  const absl::Status status = Create(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "PAYLOAD_TOO_LARGE");
}

TEST_F(SchedulesTest, PagesAreInTheOrderOfNamesAndBoundToTheirToken) {
  AddGateway();
  for (const char* name : {"c", "a-1", "b"}) {
    MustCreate(TaskSchedule(name, "@daily"));
  }
  v1::ListSchedulesRequest request;
  request.set_page_size(2);
  auto page = List(request);
  ASSERT_EQ(page->schedules_size(), 2);
  EXPECT_EQ(page->schedules(0).name(), "a-1");
  EXPECT_FALSE(page->schedules(0).has_task()) << "not asked for";
  request.set_page_token(page->next_page_token());
  request.set_include_payload(true);
  page = List(request);
  ASSERT_EQ(page->schedules_size(), 1);
  EXPECT_EQ(page->schedules(0).name(), "c");
  EXPECT_EQ(page->schedules(0).task().name(), "add");
  EXPECT_EQ(page->next_page_token(), "");

  request.set_page_token("made-up");
  request.set_page_size(-1);
  EXPECT_THAT(FieldsOf(List(request).status()),
              UnorderedElementsAre("page_token", "page_size"));
}

TEST_F(SchedulesTest, AStoppedGatewayLeavesItsTicksToOthers) {
  AddGateway();
  AddGateway();
  MustCreate(TaskSchedule("s", "@every 10s"));
  environment_.Advance(absl::Seconds(10));
  gateways_[0]->schedules.BeginDrain();
  EXPECT_TRUE(gateways_[0]->schedules.AwaitTicks(absl::InfiniteFuture()));
  gateways_[0]->schedules.Stop();
  environment_.Advance(absl::Seconds(20));
  EXPECT_EQ(sent_["add"], 3);
}

}  // namespace
}  // namespace penstock
