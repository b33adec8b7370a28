// Reasons and metadata ride on a status and survive an annotation.

#include "queue/errors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(ErrorsTest, CarriesReasonAndMetadata) {
  const absl::Status status =
      MakeError(absl::StatusCode::kNotFound, reason::kTaskNotFound, "no task",
                {{"task_id", "t/1"}, {"note", ""}});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "no task");
  EXPECT_EQ(ReasonOf(status), "TASK_NOT_FOUND");
  EXPECT_THAT(MetadataOf(status),
              ElementsAre(Pair("note", ""), Pair("task_id", "t/1")));
}

TEST(ErrorsTest, AnnotationKeepsEverythingElse) {
  const absl::Status status =
      Annotate(MakeError(absl::StatusCode::kUnavailable,
                         reason::kBrokerUnavailable, "lost", {{"sent", "3"}}),
               "publish");
  EXPECT_EQ(status.message(), "publish: lost");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "BROKER_UNAVAILABLE");
  EXPECT_THAT(MetadataOf(status), ElementsAre(Pair("sent", "3")));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "publish").ok());
}

TEST(ErrorsTest, AStatusWithoutAReasonHasADefaultOne) {
  EXPECT_EQ(ReasonOf(absl::InvalidArgumentError("x")), "INVALID_FIELD");
  EXPECT_EQ(ReasonOf(absl::UnavailableError("x")), "INTERNAL");
  EXPECT_THAT(MetadataOf(absl::InternalError("x")), IsEmpty());
}

}  // namespace
}  // namespace penstock
