#include "queue/redis/periodic_lock.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "queue/redis/connection.h"

namespace penstock {
namespace {

constexpr int kTries = 4;  // machinery's: one and three more, without a pause

// One process of a fleet: machinery's steps, one command after the other. Not a
// script: Go processes take them too, and the last of two GETSETs must see the
// first one's value.
class RedisLock : public PeriodicLock {
 public:
  RedisLock(RedisAddress address, Environment* environment)
      : environment_(environment),
        connection_({.address = std::move(address), .name = "redis-lock"},
                    environment) {}

  ~RedisLock() override {
    connection_.Stop();
    while (connection_.FailLeftovers()) {
    }
  }

  void TryLock(std::string key, absl::Time until,
               Callback<bool> done) override {
    Try({.key = std::move(key), .until = until, .done = std::move(done)});
  }

 private:
  struct Attempt {
    std::string key;
    absl::Time until;
    Callback<bool> done;
    int tries = 0;
    absl::Time now;  // of this try

    // When the lock ends: just before the next tick, so that this one is past
    // it.
    int64_t value() const { return absl::ToUnixNanos(until) - 1; }
  };

  void Try(Attempt attempt) {
    ++attempt.tries;
    attempt.now = environment_->Now();
    std::vector<std::string> words = {"SET", attempt.key,
                                      absl::StrCat(attempt.value())};
    const absl::Duration left = attempt.until - attempt.now;
    if (left >= absl::Seconds(1) &&
        left % absl::Seconds(1) == absl::ZeroDuration()) {
      words.insert(words.end(),
                   {"EX", absl::StrCat(absl::ToInt64Seconds(left)), "NX"});
    } else {
      const int64_t ms = std::max<int64_t>(1, absl::ToInt64Milliseconds(left));
      words.insert(words.end(), {"PX", absl::StrCat(ms), "NX"});
    }
    Send(std::move(words), std::move(attempt),
         [this](Attempt attempt, absl::StatusOr<RedisReply> reply) {
           if (reply.ok() && reply->kind != RedisReply::kNil) {
             return std::move(attempt.done)(true);
           }
           if (!reply.ok()) return Again(std::move(attempt), reply.status());
           ReadHolder(std::move(attempt));
         });
  }

  // A lock whose time is over may be taken: its key is about to expire, or was
  // left without a time to live.
  void ReadHolder(Attempt attempt) {
    std::vector<std::string> words = {"GET", attempt.key};
    Send(std::move(words), std::move(attempt),
         [this](Attempt attempt, absl::StatusOr<RedisReply> reply) {
           if (!reply.ok() || !IsOver(*reply, attempt)) {
             return Again(std::move(attempt), reply.status());
           }
           TakeOver(std::move(attempt));
         });
  }

  void TakeOver(Attempt attempt) {
    std::vector<std::string> words = {"GETSET", attempt.key,
                                      absl::StrCat(attempt.value())};
    Send(std::move(words), std::move(attempt),
         [this](Attempt attempt, absl::StatusOr<RedisReply> reply) {
           if (!reply.ok() || !IsOver(*reply, attempt)) {
             return Again(std::move(attempt), reply.status());
           }
           SetLife(std::move(attempt));
         });
  }

  void SetLife(Attempt attempt) {
    const int64_t seconds =
        std::max<int64_t>(1, absl::ToInt64Seconds(attempt.until - attempt.now));
    std::vector<std::string> words = {"EXPIRE", attempt.key,
                                      absl::StrCat(seconds)};
    Send(std::move(words), std::move(attempt),
         [](Attempt attempt, absl::StatusOr<RedisReply>) {
           std::move(attempt.done)(true);
         });
  }

  static bool IsOver(const RedisReply& reply, const Attempt& attempt) {
    int64_t ends = 0;
    return reply.kind == RedisReply::kText &&
           absl::SimpleAtoi(reply.text, &ends) && ends != 0 &&
           absl::ToUnixNanos(attempt.now) > ends;
  }

  void Again(Attempt attempt, absl::Status why) {
    if (attempt.tries < kTries) return Try(std::move(attempt));
    if (why.ok()) {
      std::move(attempt.done)(false);
    } else {
      std::move(attempt.done)(std::move(why));
    }
  }

  template <typename Then>
  void Send(std::vector<std::string> words, Attempt attempt, Then then) {
    connection_.Send({.words = std::move(words),
                      .done = [attempt = std::move(attempt),
                               then](absl::StatusOr<RedisReply> reply) mutable {
                        then(std::move(attempt), std::move(reply));
                      }});
  }

  Environment* const environment_;
  RedisConnection connection_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PeriodicLock>> OpenRedisLock(
    const Options& options, Environment* environment) {
  absl::StatusOr<RedisAddress> address =
      ParseRedisUrl(options.lock, options.tls, "lock");
  if (!address.ok()) return address.status();
  return std::make_unique<RedisLock>(*std::move(address), environment);
}

}  // namespace penstock
