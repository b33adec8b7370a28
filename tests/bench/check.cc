// penstock-bench-check: waits until every task of a load has ended in SUCCESS, and
// reads its result. It looks at the states in Redis, so that it sees those of
// Penstock and of machinery in the same way and at the same cost.
//
// The result of task number n must be n + 1, which is what add(n, 1) returns. With
// --due it is a time in nanoseconds, when the task ran: then lateness is printed,
// and a task that ran before it was due fails the check.

#include <hiredis/hiredis.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/bench/figures.h"

ABSL_FLAG(int, redis_port, 6379, "port of Redis on this machine");
ABSL_FLAG(std::string, prefix, "task", "the ids are PREFIX-0, PREFIX-1, ...");
ABSL_FLAG(int, tasks, 1, "how many");
ABSL_FLAG(absl::Duration, patience, absl::Minutes(2), "how long to wait");
ABSL_FLAG(double, due, 0,
          "Unix time when task 0 is due; 0: the tasks are add(n, 1)");
ABSL_FLAG(absl::Duration, span, absl::ZeroDuration(),
          "with --due: the last one is due so much later than the first");

namespace penstock::bench {
namespace {

constexpr int kBatch = 256;
// Between two looks that found less than half a batch. It bounds what the check
// costs Redis, and is the error of the time of the end.
constexpr absl::Duration kPause = absl::Milliseconds(5);

struct FreeContext {
  void operator()(redisContext* context) const { redisFree(context); }
};
struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Context = std::unique_ptr<redisContext, FreeContext>;
using Reply = std::unique_ptr<redisReply, FreeReply>;

Reply ReadStates(redisContext* redis, const std::vector<std::string>& ids) {
  std::vector<const char*> words = {"MGET"};
  std::vector<size_t> sizes = {4};
  for (const std::string& id : ids) {
    words.push_back(id.data());
    sizes.push_back(id.size());
  }
  Reply reply(static_cast<redisReply*>(redisCommandArgv(
      redis, static_cast<int>(words.size()), words.data(), sizes.data())));
  if (reply == nullptr || reply->type != REDIS_REPLY_ARRAY ||
      reply->elements != ids.size()) {
    Fail("Redis does not answer MGET");
  }
  return reply;
}

// The value of the one result, which is an int64.
int64_t ResultOf(std::string_view state) {
  constexpr std::string_view kBefore = R"("Results":[{"Type":"int64","Value":)";
  const size_t begin = state.find(kBefore);
  if (begin == state.npos) return -1;
  const std::string_view rest = state.substr(begin + kBefore.size());
  int64_t value = -1;
  const size_t end = rest.find('}');
  if (end == rest.npos || rest.substr(end, 2) != "}]" ||
      !absl::SimpleAtoi({rest.data(), end}, &value)) {
    return -1;
  }
  return value;
}

class Checker {
 public:
  Checker() : due_(absl::GetFlag(FLAGS_due)), span_(absl::GetFlag(FLAGS_span)) {
    for (int n = 0; n < absl::GetFlag(FLAGS_tasks); ++n) open_.push_back(n);
  }

  void Run() {
    Context redis(redisConnect("127.0.0.1", absl::GetFlag(FLAGS_redis_port)));
    if (redis == nullptr || redis->err != 0) Fail("cannot connect to Redis");
    Figures figures{.tasks = absl::GetFlag(FLAGS_tasks), .begun = absl::Now()};
    const absl::Time deadline =
        figures.begun + absl::GetFlag(FLAGS_patience);
    while (!open_.empty()) {
      if (Look(redis.get()) < kBatch / 2) absl::SleepFor(kPause);
      if (absl::Now() > deadline) {
        Fail(absl::StrCat(open_.size(), " tasks have not ended; the first is ",
                          Id(open_.front())));
      }
    }
    figures.ended = absl::Now();
    figures.calls = std::move(late_);
    Print(std::move(figures));
  }

 private:
  static std::string Id(int number) {
    return TaskId(absl::GetFlag(FLAGS_prefix), number);
  }

  // Reads the oldest open tasks and closes those that have ended; how many.
  int Look(redisContext* redis) {
    std::vector<int> numbers;
    std::vector<std::string> ids;
    while (!open_.empty() && numbers.size() < kBatch) {
      numbers.push_back(open_.front());
      ids.push_back(Id(open_.front()));
      open_.pop_front();
    }
    const Reply states = ReadStates(redis, ids);
    int ended = 0;
    for (size_t i = numbers.size(); i-- > 0;) {
      const redisReply* state = states->element[i];
      if (state->type == REDIS_REPLY_STRING &&
          HasEnded({state->str, state->len}, numbers[i])) {
        ++ended;
      } else {
        open_.push_front(numbers[i]);
      }
    }
    return ended;
  }

  bool HasEnded(std::string_view state, int number) {
    if (state.find(R"("State":"FAILURE")") != state.npos) {
      Fail(absl::StrCat(Id(number), " has failed: ", std::string(state)));
    }
    if (state.find(R"("State":"SUCCESS")") == state.npos) return false;
    const int64_t result = ResultOf(state);
    if (due_ == 0 ? result != number + 1 : !RanInTime(result, number)) {
      Fail(absl::StrCat(Id(number), " has a wrong result: ",
                        std::string(state)));
    }
    return true;
  }

  bool RanInTime(int64_t nanos, int number) {
    const absl::Time due =
        absl::UnixEpoch() + absl::Seconds(due_) +
        span_ * (static_cast<double>(number) / absl::GetFlag(FLAGS_tasks));
    // Etas are kept to the millisecond.
    late_.push_back(absl::FromUnixNanos(nanos) - due);
    return late_.back() > -absl::Milliseconds(1);
  }

  const double due_;
  const absl::Duration span_;
  std::deque<int> open_;  // numbers of tasks that have not ended, in order
  std::vector<absl::Duration> late_;
};

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  penstock::bench::Checker().Run();
  return EXIT_SUCCESS;
}
