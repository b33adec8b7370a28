// The servers of tests/support: what the tests of faults build on.

#include "tests/support/servers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <string>

namespace penstock::testing {
namespace {

using ::testing::HasSubstr;

TEST(ProcessTest, TellsHowACommandEnded) {
  const auto output = RunCommand({.argv = {"sh", "-c", "echo $WORD"},
                                  .environment = {{"WORD", "here"}},
                                  .log_file = ""},
                                 absl::Seconds(10));
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(*output, "here\n");
  const auto failed = RunCommand({.argv = {"sh", "-c", "echo why; exit 3"},
                                  .environment = {},
                                  .log_file = ""},
                                 absl::Seconds(10));
  EXPECT_THAT(failed.status().ToString(), HasSubstr("ended with 3: why"));
}

TEST(ProcessTest, EndsAChildThatIgnoresSigterm) {
  const TempDirectory directory;
  auto process = Process::Start(
      {.argv = {"sh", "-c", "trap '' TERM; echo ready; sleep 1000"},
       .environment = {},
       .log_file = directory.path() + "/log"});
  ASSERT_TRUE(process.ok()) << process.status();
  while (TailOfFile(directory.path() + "/log") != "ready\n") {
    ASSERT_TRUE((*process)->Running());
  }
  EXPECT_EQ((*process)->Stop(absl::Milliseconds(100)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*process)->Wait(absl::ZeroDuration()).value(), 128 + SIGKILL);
}

TEST(RedisServerTest, DurableServerKeepsItsDataOverKillAndStop) {
  RedisServer redis({.durable = true, .extra = {}});
  ASSERT_TRUE(redis.Start().ok());
  ASSERT_TRUE(redis.Command({"SET", "key", "value"}).ok());
  redis.Kill();
  EXPECT_FALSE(redis.Command({"GET", "key"}).ok());
  ASSERT_TRUE(redis.Start().ok());
  EXPECT_EQ(redis.Command({"GET", "key"}).value(), "value\n");
  ASSERT_TRUE(redis.Restart().ok());
  EXPECT_EQ(redis.Command({"GET", "key"}).value(), "value\n");
}

TEST(RabbitServerTest, KeepsItsPortAndQueuesOverARestart) {
  RabbitServer rabbit;
  absl::Status started = rabbit.Start();
  ASSERT_TRUE(started.ok()) << started;
  const std::string url = rabbit.url();
  const auto declared = rabbit.Control(
      {"eval",
       "rabbit_amqqueue:declare({resource,<<\"/\">>,queue,<<\"kept\">>},true,"
       "false,[],none,<<\"test\">>)."});
  ASSERT_TRUE(declared.ok()) << declared.status();
  ASSERT_TRUE(rabbit.Pause().ok());
  ASSERT_TRUE(rabbit.Continue().ok());
  ASSERT_TRUE(rabbit.Restart().ok());
  EXPECT_EQ(rabbit.url(), url);
  EXPECT_THAT(rabbit.Control({"list_queues", "-q", "name"}).value(),
              HasSubstr("kept"));
}

}  // namespace
}  // namespace penstock::testing
