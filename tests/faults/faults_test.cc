// What the design promises, on real servers and real processes: nothing that
// was answered OK is lost when RabbitMQ, Redis or a worker goes away, and
// nothing is left behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "tests/faults/cluster.h"
#include "tests/faults/storm.h"
#include "tests/faults/traffic.h"

namespace penstock::testing {
namespace {

using ::testing::IsEmpty;
using ::testing::Le;

constexpr int64_t kMemoryLimit = 128 << 20;
constexpr absl::Duration kLimit = absl::Seconds(120);

// The n of "traffic-THREAD-n" and "task-n".
int64_t NumberOf(const std::string& id) {
  return std::stoll(id.substr(id.rfind('-') + 1));
}

// Every id ended in SUCCESS of add(its number, 1).
void ExpectAllAdded(Cluster& cluster, const std::vector<std::string>& ids) {
  const auto states = cluster.AwaitFinal(ids, kLimit);
  ASSERT_TRUE(states.ok()) << states.status() << "\n" << cluster.Logs();
  ASSERT_EQ(states->size(), ids.size());
  for (const auto& [id, state] : *states) {
    ASSERT_EQ(state.status(), v1::TASK_STATUS_SUCCESS)
        << state.ShortDebugString();
    ASSERT_EQ(WholeResult(state), NumberOf(id) + 1) << state.ShortDebugString();
  }
}

// Nothing is in flight or unacked, nothing would stay in Redis for ever, and
// nobody grew.
void ExpectNothingLeft(Cluster& cluster) {
  const absl::Status empty = cluster.AwaitEmptyQueues(absl::Seconds(30));
  EXPECT_TRUE(empty.ok()) << empty << "\n" << cluster.Logs();
  const absl::Status mortal = cluster.AwaitNoImmortalKeys(kLimit);
  EXPECT_TRUE(mortal.ok()) << mortal;
}

TEST(FaultsTest, TenThousandTasksEndAndLeaveNothing) {
  constexpr int kTasks = 10000;
  constexpr int kSenders = 8;
  Cluster cluster({.workers = 2});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;

  std::vector<std::string> ids;
  for (int n = 0; n < kTasks; ++n) ids.push_back(absl::StrCat("task-", n));
  std::vector<std::string> failures(kSenders);
  {
    std::vector<std::jthread> senders;
    for (int sender = 0; sender < kSenders; ++sender) {
      senders.emplace_back([&, sender] {
        for (int n = sender; n < kTasks; n += kSenders) {
          const grpc::Status status = cluster.Send(AddTask(ids[n], n, 1));
          if (!status.ok()) {
            failures[sender] =
                absl::StrCat(Ending(status), ": ", status.error_message());
          }
        }
      });
    }
  }
  EXPECT_EQ(failures, std::vector<std::string>(kSenders)) << cluster.Logs();
  ExpectAllAdded(cluster, ids);
  ExpectNothingLeft(cluster);
  EXPECT_THAT(cluster.gateway().PeakResidentBytes().value(), Le(kMemoryLimit));
  EXPECT_THAT(cluster.worker(0).PeakResidentBytes().value(), Le(kMemoryLimit));
  EXPECT_THAT(cluster.worker(1).PeakResidentBytes().value(), Le(kMemoryLimit));
}

// Calls that ended neither well nor in one of `allowed`.
std::map<std::string, int> Unexplained(
    const Traffic& traffic, const std::vector<std::string>& allowed) {
  std::map<std::string, int> endings = traffic.endings();
  endings.erase("OK");
  for (const std::string& ending : allowed) endings.erase(ending);
  return endings;
}

TEST(FaultsTest, RabbitStoppedAndStartedUnderTraffic) {
  Cluster cluster({.workers = 2});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;
  Traffic traffic(&cluster);
  ASSERT_TRUE(traffic.Await("OK", 200, kLimit)) << cluster.Logs();

  ASSERT_TRUE(cluster.rabbit().Stop().ok());
  EXPECT_TRUE(traffic.Await("UNAVAILABLE BROKER_UNAVAILABLE", 20, kLimit))
      << cluster.Logs();
  const absl::Status restarted = cluster.rabbit().Start();
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_TRUE(traffic.Await("OK", 200, kLimit)) << cluster.Logs();
  traffic.Stop();

  // A confirm that was under way when the server left is unknown, not failed.
  EXPECT_EQ(Unexplained(traffic, {"UNAVAILABLE BROKER_UNAVAILABLE",
                                  "DEADLINE_EXCEEDED CONFIRM_TIMEOUT"}),
            (std::map<std::string, int>{}));
  ExpectAllAdded(cluster, traffic.accepted());
  ExpectNothingLeft(cluster);
}

TEST(FaultsTest, RedisStoppedAndStartedUnderTraffic) {
  Cluster cluster({.workers = 2, .durable_redis = true});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;
  Traffic traffic(&cluster);
  ASSERT_TRUE(traffic.Await("OK", 200, kLimit)) << cluster.Logs();

  ASSERT_TRUE(cluster.redis().Stop().ok());
  EXPECT_TRUE(traffic.Await("UNAVAILABLE BACKEND_UNAVAILABLE", 20, kLimit))
      << cluster.Logs();
  const absl::Status restarted = cluster.redis().Start();
  ASSERT_TRUE(restarted.ok()) << restarted;
  EXPECT_TRUE(traffic.Await("OK", 200, kLimit)) << cluster.Logs();
  traffic.Stop();

  EXPECT_EQ(Unexplained(traffic, {"UNAVAILABLE BACKEND_UNAVAILABLE"}),
            (std::map<std::string, int>{}));
  ExpectAllAdded(cluster, traffic.accepted());
  ExpectNothingLeft(cluster);
}

// 100 chains of 4 tasks and 50 chords of 11 and a callback: 1,000 tasks.
struct Workflows {
  std::vector<std::string> ids;             // of every task
  std::map<std::string, int64_t> expected;  // last id -> its result
};

v1::Task Named(const std::string& name, const std::vector<int64_t>& args) {
  v1::Task task;
  task.set_name(name);
  for (const int64_t arg : args) task.add_args()->set_int_value(arg);
  return task;
}

grpc::Status SendChain(Cluster& cluster, int64_t start, Workflows& sent) {
  grpc::ClientContext context;
  v1::SendChainRequest request;
  *request.add_tasks() = AddTask("", start, 1);
  *request.add_tasks() = Named("add", {10});
  *request.add_tasks() = Named("multiply", {3});
  *request.add_tasks() = Named("add", {100});
  v1::SendChainResponse response;
  grpc::Status status = cluster.stub().SendChain(&context, request, &response);
  sent.ids.insert(sent.ids.end(), response.task_ids().begin(),
                  response.task_ids().end());
  if (status.ok()) {
    sent.expected[*response.task_ids().rbegin()] = (start + 11) * 3 + 100;
  }
  return status;
}

grpc::Status SendChord(Cluster& cluster, int64_t start, Workflows& sent) {
  constexpr int kMembers = 11;
  grpc::ClientContext context;
  v1::SendChordRequest request;
  int64_t sum = 0;
  for (int member = 0; member < kMembers; ++member) {
    *request.add_tasks() = AddTask("", start, member);
    sum += start + member;
  }
  *request.mutable_callback() = Named("add", {1000});
  v1::SendChordResponse response;
  grpc::Status status = cluster.stub().SendChord(&context, request, &response);
  sent.ids.insert(sent.ids.end(), response.task_ids().begin(),
                  response.task_ids().end());
  if (status.ok()) {
    sent.ids.push_back(response.callback_task_id());
    sent.expected[response.callback_task_id()] = sum + 1000;
  }
  return status;
}

TEST(FaultsTest, WorkersKilledAmidChainsAndChords) {
  Cluster cluster({.workers = 2});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;
  Workflows sent;
  int killed_amid = 0;
  for (int n = 0; n < 50; ++n) {
    for (const grpc::Status& status :
         {SendChain(cluster, 2 * n, sent), SendChord(cluster, n, sent),
          SendChain(cluster, 2 * n + 1, sent)}) {
      ASSERT_TRUE(status.ok()) << Ending(status) << status.error_message();
    }
    if (n % 5 != 4) continue;
    // Each worker in turn, while it has deliveries of what was just sent.
    const absl::Status replaced = cluster.ReplaceWorker((n / 5) % 2);
    ASSERT_TRUE(replaced.ok()) << replaced;
    const absl::StatusOr<int> done = cluster.CountFinal(sent.ids);
    ASSERT_TRUE(done.ok()) << done.status();
    if (*done < static_cast<int>(sent.ids.size())) ++killed_amid;
  }
  ASSERT_EQ(sent.ids.size(), 1000u);
  EXPECT_GT(killed_amid, 0) << "no worker was killed while there was work";

  const auto states = cluster.AwaitFinal(sent.ids, kLimit);
  ASSERT_TRUE(states.ok()) << states.status() << "\n" << cluster.Logs();
  for (const auto& [id, state] : *states) {
    ASSERT_EQ(state.status(), v1::TASK_STATUS_SUCCESS)
        << state.ShortDebugString();
  }
  for (const auto& [id, result] : sent.expected) {
    EXPECT_EQ(WholeResult(states->at(id)), result) << id;
  }
  ExpectNothingLeft(cluster);
}

// Gateways at random, again and again: between two kills there is time for a
// tick or two.
TEST(FaultsTest, EachTickOfAScheduleIsSentOnceUnderKillsOfGateways) {
  constexpr int kKills = 20;
  Cluster cluster({.gateways = 2, .workers = 1, .count_runs = true});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;
  const auto context = [] {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_wait_for_ready(true);
    context->set_deadline(absl::ToChronoTime(absl::Now() + kLimit));
    return context;
  };
  v1::CreateScheduleRequest request;
  request.set_name("often");
  request.set_cron_spec("@every 1s");
  *request.mutable_task() = AddTask("", 1, 1);
  v1::CreateScheduleResponse created;
  ASSERT_TRUE(
      cluster.admin().CreateSchedule(context().get(), request, &created).ok());

  std::mt19937 random(1);
  for (int kill = 0; kill < kKills; ++kill) {
    absl::SleepFor(absl::Milliseconds(random() % 1000));
    const absl::Status replaced = cluster.ReplaceGateway(random() % 2);
    ASSERT_TRUE(replaced.ok()) << replaced;
  }
  // A tick that a gateway died over is another's within seconds.
  v1::ListSchedulesResponse list;
  const int64_t caught_up = absl::ToUnixSeconds(absl::Now());
  while (list.schedules_size() != 1 ||
         list.schedules(0).last_tick_time().seconds() < caught_up) {
    absl::SleepFor(absl::Milliseconds(50));
    const grpc::Status status =
        cluster.admin().ListSchedules(context().get(), {}, &list);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  v1::PauseScheduleRequest pause;
  pause.set_name("often");
  v1::PauseScheduleResponse paused;
  ASSERT_TRUE(
      cluster.admin().PauseSchedule(context().get(), pause, &paused).ok());
  // One may have been on its way.
  absl::SleepFor(absl::Seconds(1));
  ASSERT_TRUE(cluster.admin().ListSchedules(context().get(), {}, &list).ok());
  const v1::Schedule& schedule = list.schedules(0);
  EXPECT_EQ(schedule.last_error(), "");
  const int64_t ticks = schedule.last_run().tick_time().seconds() -
                        created.schedule().next_tick_time().seconds() + 1;
  const auto last = cluster.AwaitFinal({schedule.last_run().task_id()}, kLimit);
  ASSERT_TRUE(last.ok()) << last.status() << "\n" << cluster.Logs();
  const absl::Status empty = cluster.AwaitEmptyQueues(kLimit);
  ASSERT_TRUE(empty.ok()) << empty;
  EXPECT_EQ(static_cast<int64_t>(cluster.Runs().size()), ticks)
      << cluster.Logs();
  for (const auto& [id, runs] : cluster.Runs()) EXPECT_EQ(runs, 1) << id;
}

int KillsFromEnvironment() {
  const char* kills = std::getenv("PENSTOCK_STORM_KILLS");
  return kills == nullptr ? 8 : std::stoi(kills);
}

// Workers and gateways at random, a hundred tasks for each kill. Calls that a
// gateway did not answer are repeated at the other one.
TEST(FaultsTest, KillsOfWorkersAndGatewaysLoseNothingAndAcceptNothingTwice) {
  constexpr int kGateways = 2;
  constexpr int kWorkers = 3;
  const int kills = KillsFromEnvironment();
  Cluster cluster(
      {.gateways = kGateways, .workers = kWorkers, .count_runs = true});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;
  Storm storm(&cluster, kGateways, 100 * kills);
  std::mt19937 random(static_cast<uint32_t>(kills));
  for (int kill = 0; kill < kills; ++kill) {
    const int calls = storm.calls() * kill / kills + random() % 10;
    ASSERT_TRUE(storm.AwaitSettled(calls, kLimit)) << cluster.Logs();
    const size_t victim = random() % (kGateways + kWorkers);
    const absl::Status replaced =
        victim < kGateways ? cluster.ReplaceGateway(victim)
                           : cluster.ReplaceWorker(victim - kGateways);
    ASSERT_TRUE(replaced.ok()) << replaced;
  }
  ASSERT_TRUE(storm.AwaitSettled(storm.calls(), kLimit)) << cluster.Logs();
  EXPECT_THAT(storm.refused(), IsEmpty());

  const std::vector<std::string> ids = storm.ids();
  const auto states = cluster.AwaitFinal(ids, kLimit);
  ASSERT_TRUE(states.ok()) << states.status() << "\n" << cluster.Logs();
  for (const auto& [id, state] : *states) {
    ASSERT_EQ(state.status(), v1::TASK_STATUS_SUCCESS)
        << state.ShortDebugString();
  }
  for (const auto& [id, result] : storm.expected()) {
    EXPECT_EQ(WholeResult(states->at(id)), result) << id;
  }
  const std::map<std::string, int> runs = cluster.Runs();
  const std::set<std::string> accepted(ids.begin(), ids.end());
  EXPECT_EQ(accepted.size(), ids.size()) << "two calls were given one id";
  int again = 0;
  for (const auto& [id, count] : runs) {
    EXPECT_TRUE(accepted.contains(id)) << id << " ran, and no call has it";
    again += count - 1;
  }
  EXPECT_EQ(runs.size(), accepted.size());
  std::cout << ids.size() << " tasks, " << kills << " kills, "
            << storm.repeated() << " calls repeated, " << again
            << " runs cut short and run again" << std::endl;
  ExpectNothingLeft(cluster);
}

// Keys that Redis has looked up for reading since it started.
int64_t KeysRead(Cluster& cluster) {
  const std::string stats =
      cluster.redis().Command({"INFO", "stats"}).value_or("");
  int64_t keys = 0;
  for (const absl::string_view line : absl::StrSplit(stats, '\n')) {
    const std::pair<absl::string_view, absl::string_view> stat =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    int64_t count = 0;
    if ((stat.first == "keyspace_hits" || stat.first == "keyspace_misses") &&
        absl::SimpleAtoi(stat.second, &count)) {
      keys += count;
    }
  }
  return keys;
}

// By machinery's way it would be ten times as many at ten times the size.
TEST(GroupCostTest, KeysReadForEachMemberStayTheSame) {
  Cluster cluster({.workers = 1});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;
  std::map<int, double> keys_per_member;
  for (const int members : {100, 1000, 10000}) {
    v1::SendChordRequest request;
    for (int member = 0; member < members; ++member) {
      *request.add_tasks() = AddTask("", member, 0);
    }
    *request.mutable_callback() = Named("add", {});
    const int64_t before = KeysRead(cluster);
    const absl::Time begin = absl::Now();
    grpc::ClientContext context;
    v1::SendChordResponse response;
    const grpc::Status sent =
        cluster.stub().SendChord(&context, request, &response);
    ASSERT_TRUE(sent.ok()) << Ending(sent);
    const std::string& callback = response.callback_task_id();
    const auto states = cluster.AwaitFinal({callback}, kLimit);
    ASSERT_TRUE(states.ok()) << states.status() << "\n" << cluster.Logs();
    EXPECT_EQ(WholeResult(states->at(callback)),
              int64_t{members} * (members - 1) / 2);
    const int64_t keys = KeysRead(cluster) - before;
    ASSERT_GT(keys, members);
    keys_per_member[members] = static_cast<double>(keys) / members;
    std::cout << members << " members: " << keys_per_member[members]
              << " keys read for each, " << absl::Now() - begin << std::endl;
  }
  EXPECT_THAT(keys_per_member[10000], Le(1.5 * keys_per_member[1000]));
  EXPECT_THAT(keys_per_member[1000], Le(1.5 * keys_per_member[100]));
}

// What machinery's Redis broker loses: what a worker had taken and not
// finished.
TEST(FaultsTest, WorkerKilledWithAThousandTasksOfARedisBroker) {
  constexpr int kTasks = 1000;
  Cluster cluster({.workers = 1, .redis_broker = true, .prefetch = 2 * kTasks});
  const absl::Status started = cluster.Start();
  ASSERT_TRUE(started.ok()) << started;
  // They keep the runners busy while the rest is taken and held.
  std::vector<std::string> busy;
  for (int n = 0; n < 4; ++n) {
    busy.push_back(absl::StrCat("busy-", n));
    v1::Task task;
    task.set_id(busy.back());
    task.set_name("long_running_task");
    ASSERT_TRUE(cluster.Send(task).ok());
  }
  std::vector<std::string> ids;
  for (int n = 0; n < kTasks; ++n) {
    ids.push_back(absl::StrCat("task-", n));
    const grpc::Status sent = cluster.Send(AddTask(ids[n], n, 1));
    ASSERT_TRUE(sent.ok()) << Ending(sent);
  }
  const auto ask = [&](const std::string& script) {
    return std::stoi(
        cluster.redis().Command({"EVAL", script, "0"}).value_or("-1"));
  };
  // All in flight: none left in the queue, all in the worker's held list.
  const std::string held =
      "local held = 0 "
      "for _, key in ipairs(redis.call('KEYS', 'penstock:held:*')) do "
      "  held = held + redis.call('LLEN', key) "
      "end "
      "return held";
  const absl::Time patience = absl::Now() + kLimit;
  while (ask(held) < kTasks + 4 && absl::Now() < patience) {
  }
  ASSERT_EQ(ask(held), kTasks + 4) << cluster.Logs();
  const absl::StatusOr<int> early = cluster.CountFinal(ids);
  ASSERT_TRUE(early.ok()) << early.status();
  EXPECT_EQ(*early, 0);

  const absl::Status replaced = cluster.ReplaceWorker(0);
  ASSERT_TRUE(replaced.ok()) << replaced;
  ExpectAllAdded(cluster, ids);
  const auto states = cluster.AwaitFinal(busy, kLimit);
  ASSERT_TRUE(states.ok()) << states.status() << "\n" << cluster.Logs();
  for (const auto& [id, state] : *states) {
    EXPECT_EQ(state.status(), v1::TASK_STATUS_SUCCESS)
        << state.ShortDebugString();
  }
  while (ask(held) > 0 && absl::Now() < patience) {
  }
  EXPECT_EQ(ask(held), 0);
  EXPECT_EQ(ask("return redis.call('LLEN', 'faults')"), 0);
}

}  // namespace
}  // namespace penstock::testing
