// A plain client of Redis, for what a test writes and reads past the code that
// it tests: what a Go program or an operator would do.

#ifndef PENSTOCK_TESTS_SUPPORT_REDIS_PROBE_H_
#define PENSTOCK_TESTS_SUPPORT_REDIS_PROBE_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "queue/environment.h"
#include "queue/redis/connection.h"

namespace penstock::testing {

// The server that tests/run started.
inline std::string TestRedisUrl() {
  const char* url = std::getenv("PENSTOCK_TEST_REDIS_URL");
  return url == nullptr ? "redis://127.0.0.1:6379" : url;
}

class RedisProbe {
 public:
  RedisProbe(const std::string& url, Environment* environment)
      : connection_({.address = *ParseRedisUrl(url, {}), .name = "probe"},
                    environment) {}

  // Fails the test when Redis refuses it.
  RedisReply Call(std::vector<std::string> words) {
    RedisReply answer;
    absl::Notification came;
    connection_.Send({.words = std::move(words),
                      .done = [&](absl::StatusOr<RedisReply> reply) {
                        EXPECT_TRUE(reply.ok()) << reply.status();
                        if (reply.ok()) answer = *std::move(reply);
                        came.Notify();
                      }});
    came.WaitForNotification();
    return answer;
  }

  // A list, or a sorted set by its scores.
  std::vector<std::string> Texts(std::vector<std::string> words) {
    std::vector<std::string> texts;
    for (RedisReply& element : Call(std::move(words)).elements) {
      texts.push_back(std::move(element.text));
    }
    return texts;
  }
  std::vector<std::string> List(const std::string& key) {
    return Texts({"LRANGE", key, "0", "-1"});
  }

 private:
  RedisConnection connection_;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_REDIS_PROBE_H_
