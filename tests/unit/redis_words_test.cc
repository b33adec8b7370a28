// Commands as bytes.

#include "queue/redis/words.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace penstock {
namespace {

TEST(RedisWordsTest, AreWrittenAsTheServerReadsThem) {
  EXPECT_EQ(RedisWords({"GET", "k"}).wire(),
            "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
  const std::vector<std::string> words = {"SET", "", "two\r\nlines"};
  EXPECT_EQ(RedisWords(words).wire(),
            "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$10\r\ntwo\r\nlines\r\n");
}

TEST(RedisWordsTest, AScriptTheServerDoesNotKnowIsSentWhole) {
  const RedisScript script = {.body = "return 1", .sha1 = std::string(40, 'a')};
  RedisWords by_name(script, {"key"}, 2);
  by_name.Add("one");
  by_name.Add("");
  EXPECT_EQ(by_name.wire(),
            RedisWords({"EVALSHA", script.sha1, "1", "key", "one", ""}).wire());
  EXPECT_EQ(by_name.AsEval(script).wire(),
            RedisWords({"EVAL", script.body, "1", "key", "one", ""}).wire());
}

}  // namespace
}  // namespace penstock
