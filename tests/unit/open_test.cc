// Which URLs open, and what is said about the others.

#include "queue/open.h"

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace penstock {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(OpenTest, MemoryNeedsNoServerAndKnowsTheDefaultQueue) {
  std::unique_ptr<Environment> environment = MakeSystemEnvironment();
  Options options{.broker = "memory://",
                  .result_backend = "memory://",
                  .default_queue = "q"};
  absl::StatusOr<std::unique_ptr<Broker>> broker =
      OpenBroker(options, environment.get());
  ASSERT_TRUE(broker.ok()) << broker.status();
  EXPECT_EQ((*broker)->DefaultQueue(), "q");
  absl::StatusOr<std::unique_ptr<Backend>> backend =
      OpenBackend(options, environment.get());
  EXPECT_TRUE(backend.ok()) << backend.status();
}

TEST(OpenTest, WhatIsNotSetIsAskedFor) {
  std::unique_ptr<Environment> environment = MakeSystemEnvironment();
  EXPECT_EQ(std::string(OpenBroker({}, environment.get()).status().message()),
            "broker is not set; give --broker=URL; supported are amqp://, "
            "amqps://, redis://, rediss://, redis+socket:// and memory://");
  EXPECT_EQ(std::string(OpenBackend({}, environment.get()).status().message()),
            "result_backend is not set; give --result_backend=URL; supported "
            "are redis://, rediss://, redis+socket://, amqp://, amqps:// and "
            "memory://");
}

TEST(OpenTest, ForeignUrlsAreRefusedWithoutTheirPassword) {
  std::unique_ptr<Environment> environment = MakeSystemEnvironment();
  Options options{.broker = "sqs://:secret@h",
                  .result_backend = "mongodb://u:secret@h"};
  for (const absl::Status& status :
       {OpenBroker(options, environment.get()).status(),
        OpenBackend(options, environment.get()).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("***@h"));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
  }
}

}  // namespace
}  // namespace penstock
