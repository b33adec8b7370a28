#include "queue/redis/delayed.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "queue/errors.h"
#include "queue/json.h"
#include "queue/redis/broker_scripts.h"
#include "queue/telemetry/log.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

constexpr int kMostMoved = 100;           // of one script
constexpr size_t kEnoughBytes = 4 << 20;  // of one script

}  // namespace

std::vector<std::string> DeadKeysOfQueue(const std::string& queue) {
  const std::string key = absl::StrCat("penstock.dead.", queue);
  return {key, absl::StrCat("{", key, "}:reasons")};
}

std::string DeadReason(const std::string& reason, absl::Time now) {
  return absl::StrCat("{\"Reason\":", JsonString(reason), ",\"Time\":",
                      JsonString(absl::FormatTime(absl::RFC3339_full, now,
                                                  absl::UTCTimeZone())),
                      "}");
}

RedisDelayed::RedisDelayed(Options options, Environment* environment)
    : options_(std::move(options)),
      environment_(environment),
      connection_({.address = options_.address, .name = "redis-delayed"},
                  environment_),
      thread_([this](std::stop_token stop) { Run(stop); }) {}

RedisDelayed::~RedisDelayed() {
  thread_.request_stop();
  expected_.Close();
  connection_.Stop();
  // The thread may still send one command, and waits for its end.
  while (!ended_.WaitForNotificationWithTimeout(absl::Milliseconds(5))) {
    connection_.FailLeftovers();
  }
  thread_.join();
}

void RedisDelayed::Expect(absl::Time due) {
  // Closed: nobody looks any more.
  (void)expected_.Put(due);
}

void RedisDelayed::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "redis-move");
  std::set<absl::Time> laid;     // expected, by this process' clock
  std::set<std::string> logged;  // of this outage
  while (!stop.stop_requested()) {
    if (options_.on_poll) options_.on_poll();
    absl::Duration pause = options_.poll_period;
    const absl::StatusOr<absl::Duration> next = MoveDue();
    if (stop.stop_requested()) break;
    if (next.ok()) {
      pause = std::min(pause, *next);
      logged.clear();
    } else if (logged.insert(std::string(next.status().message())).second) {
      Log(LogLevel::kWarning, "redis: delayed tasks are not moved",
          {{"why", next.status().message()}});
    }
    const absl::Time now = absl::Now();
    laid.erase(laid.begin(), laid.upper_bound(now));
    // One that is laid now may be due before the known ones.
    absl::Time wake = now + pause;
    do {
      for (const absl::Time due : expected_.WaitAndTake(wake)) {
        if (due < absl::Now() + options_.poll_period) laid.insert(due);
      }
      if (!laid.empty()) wake = std::min(wake, *laid.begin());
    } while (absl::Now() < wake && !stop.stop_requested());
  }
  ended_.Notify();
}

absl::StatusOr<absl::Duration> RedisDelayed::MoveDue() {
  absl::StatusOr<RedisReply> due =
      Call(BrokerScripts().read_due, {options_.key},
           {absl::StrCat(kMostMoved), absl::StrCat(kEnoughBytes)});
  if (!due.ok()) return due.status();
  std::vector<RedisReply>& found = due->elements;
  if (found.empty()) return absl::InternalError("redis: an empty answer");
  if (found.size() > 1) {
    std::vector<std::string> tasks;
    for (size_t i = 1; i < found.size(); ++i) {
      tasks.push_back(std::move(found[i].text));
    }
    absl::Status moved = Move(std::move(tasks));
    if (!moved.ok()) return moved;
    return absl::ZeroDuration();  // there may be more
  }
  if (found[0].integer < 0) return absl::InfiniteDuration();
  return absl::Microseconds(found[0].integer);
}

absl::Status RedisDelayed::Move(std::vector<std::string> tasks) {
  std::vector<std::string> keys = {options_.key};
  std::vector<std::string> moved;
  for (std::string& body : tasks) {
    absl::StatusOr<Task> task = DecodeTask(body);
    if (!task.ok()) {
      absl::Status buried = Bury(std::move(body), options_.default_queue,
                                 std::string(task.status().message()));
      if (!buried.ok()) return buried;
      continue;
    }
    keys.push_back(task->routing_key.empty() ? options_.default_queue
                                             : std::move(task->routing_key));
    moved.push_back(std::move(body));
  }
  if (moved.empty()) return absl::OkStatus();
  absl::StatusOr<RedisReply> answer =
      Call(BrokerScripts().move_due, keys, moved);
  if (!answer.ok()) return answer.status();
  for (const RedisReply& refused : answer->elements) {
    const size_t index = static_cast<size_t>(refused.integer);
    if (index < 1 || index > moved.size()) continue;
    absl::Status buried =
        Bury(moved[index - 1], keys[index],
             absl::StrCat("the key \"", keys[index],
                          "\" is no list, so it cannot be a queue"));
    if (!buried.ok()) return buried;
  }
  return absl::OkStatus();
}

absl::Status RedisDelayed::Bury(std::string task, const std::string& queue,
                                const std::string& reason) {
  Log(LogLevel::kError, "a delayed task goes to the dead letters",
      {{"queue", queue},
       {"why", reason},
       {"begins", absl::string_view(task).substr(0, 200)}});
  std::vector<std::string> keys = DeadKeysOfQueue(queue);
  keys.insert(keys.begin(), options_.key);
  return Call(BrokerScripts().bury_due, std::move(keys),
              {std::move(task), DeadReason(reason, environment_->Now())})
      .status();
}

absl::StatusOr<RedisReply> RedisDelayed::Call(
    const RedisScript& script, std::vector<std::string> keys,
    std::vector<std::string> arguments) {
  std::vector<std::string> words = {"EVALSHA", script.sha1,
                                    absl::StrCat(keys.size())};
  std::move(keys.begin(), keys.end(), std::back_inserter(words));
  std::move(arguments.begin(), arguments.end(), std::back_inserter(words));
  absl::StatusOr<RedisReply> answer;
  absl::Notification came;
  connection_.Send({.words = std::move(words),
                    .script = &script,
                    .done = [&](absl::StatusOr<RedisReply> reply) {
                      answer = std::move(reply);
                      came.Notify();
                    }});
  came.WaitForNotification();
  return answer;
}

}  // namespace penstock
