// The bytes of a published message, read back frame by frame.

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "queue/amqp/frames.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;

struct Frame {
  int type = 0;
  int channel = 0;
  std::string payload;
};

uint64_t Integer(const std::string& bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
  }
  return value;
}

std::vector<Frame> Split(const std::string& bytes) {
  std::vector<Frame> frames;
  size_t at = 0;
  while (at < bytes.size()) {
    const size_t size = Integer(bytes, at + 3, 4);
    EXPECT_LE(at + size + 8, bytes.size());
    if (at + size + 8 > bytes.size()) break;
    frames.push_back({.type = static_cast<int>(Integer(bytes, at, 1)),
                      .channel = static_cast<int>(Integer(bytes, at + 1, 2)),
                      .payload = bytes.substr(at + 7, size)});
    EXPECT_EQ(Integer(bytes, at + 7 + size, 1), 0xCEu);
    at += size + 8;
  }
  return frames;
}

amqp_basic_properties_t Properties() {
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.delivery_mode = 2;
  return properties;
}

TEST(PublishFramesTest, AMessageIsAMethodAHeaderAndItsBody) {
  amqp_basic_properties_t properties = Properties();
  std::string out = "before";
  ASSERT_TRUE(AppendPublish({.channel = 3,
                             .exchange = "ex",
                             .routing_key = "key",
                             .mandatory = true,
                             .properties = &properties,
                             .body = "hello",
                             .frame_max = 4096},
                            &out));
  ASSERT_EQ(out.substr(0, 6), "before");
  const std::vector<Frame> frames = Split(out.substr(6));
  ASSERT_EQ(frames.size(), 3u);
  for (const Frame& frame : frames) EXPECT_EQ(frame.channel, 3);
  EXPECT_EQ(frames[0].type, AMQP_FRAME_METHOD);
  // Class 60, method 40, reserved, exchange, routing key, the bit `mandatory`.
  EXPECT_EQ(frames[0].payload,
            std::string("\0\x3c\0\x28\0\0\x02"
                        "ex\x03"
                        "key\x01",
                        14));
  EXPECT_EQ(frames[1].type, AMQP_FRAME_HEADER);
  // Class 60, weight, 5 bytes, the flag of the delivery mode, persistent.
  EXPECT_EQ(frames[1].payload,
            std::string("\0\x3c\0\0\0\0\0\0\0\0\0\x05\x10\0\x02", 15));
  EXPECT_EQ(frames[2].type, AMQP_FRAME_BODY);
  EXPECT_EQ(frames[2].payload, "hello");
}

TEST(PublishFramesTest, ABodyIsCutAtTheNegotiatedSize) {
  amqp_basic_properties_t properties = Properties();
  std::string out;
  ASSERT_TRUE(AppendPublish({.properties = &properties,
                             .body = std::string(250, 'x'),
                             .frame_max = 108},
                            &out));
  std::vector<size_t> sizes;
  for (const Frame& frame : Split(out)) {
    if (frame.type == AMQP_FRAME_BODY) sizes.push_back(frame.payload.size());
  }
  EXPECT_THAT(sizes, ElementsAre(100, 100, 50));
}

TEST(PublishFramesTest, AnEmptyBodyHasNoFrame) {
  amqp_basic_properties_t properties = Properties();
  std::string out;
  ASSERT_TRUE(AppendPublish(
      {.properties = &properties, .body = "", .frame_max = 4096}, &out));
  EXPECT_EQ(Split(out).size(), 2u);
}

TEST(PublishFramesTest, HeadersThatExceedAFrameAreRefused) {
  const std::string value(5000, 'x');
  amqp_table_entry_t entry{};
  entry.key = amqp_cstring_bytes("key");
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = {value.size(), const_cast<char*>(value.data())};
  amqp_basic_properties_t properties = Properties();
  properties._flags |= AMQP_BASIC_HEADERS_FLAG;
  properties.headers = {1, &entry};
  std::string out = "before";
  EXPECT_FALSE(AppendPublish(
      {.properties = &properties, .body = "b", .frame_max = 4096}, &out));
  EXPECT_EQ(out, "before");
  EXPECT_TRUE(AppendPublish(
      {.properties = &properties, .body = "b", .frame_max = 8192}, &out));
}

}  // namespace
}  // namespace penstock
