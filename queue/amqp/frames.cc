#include "queue/amqp/frames.h"

#include <algorithm>
#include <cstdint>

namespace penstock {
namespace {

constexpr char kFrameEnd = static_cast<char>(AMQP_FRAME_END);
constexpr size_t kFrameHead = 7;
constexpr size_t kAround = 8;  // the head and the end
// Of properties without headers: a content type, two short numbers, an id.
constexpr size_t kPlainProperties = 1'024;

void AppendInteger(uint64_t value, int bytes, std::string* out) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    out->push_back(static_cast<char>(value >> shift));
  }
}

// At least what the properties take when encoded.
size_t MostBytes(const amqp_basic_properties_t& properties) {
  size_t most = kPlainProperties;
  for (int i = 0; i < properties.headers.num_entries; ++i) {
    const amqp_table_entry_t& entry = properties.headers.entries[i];
    most += entry.key.len + 16;
    if (entry.value.kind == AMQP_FIELD_KIND_UTF8) {
      most += entry.value.value.bytes.len;
    }
  }
  return most;
}

void AppendShortString(absl::string_view text, std::string* out) {
  out->push_back(static_cast<char>(text.size()));
  out->append(text.data(), text.size());
}

// Begins a frame; EndFrame fills in its size.
size_t BeginFrame(uint8_t type, amqp_channel_t channel, std::string* out) {
  const size_t begin = out->size();
  out->push_back(static_cast<char>(type));
  AppendInteger(channel, 2, out);
  AppendInteger(0, 4, out);
  return begin;
}

void EndFrame(size_t begin, std::string* out) {
  const size_t size = out->size() - begin - kFrameHead;
  for (int i = 0; i < 4; ++i) {
    (*out)[begin + 3 + i] = static_cast<char>(size >> (24 - 8 * i));
  }
  out->push_back(kFrameEnd);
}

}  // namespace

bool AppendPublish(const PublishFrames& message, std::string* out) {
  const size_t start = out->size();
  size_t begin = BeginFrame(AMQP_FRAME_METHOD, message.channel, out);
  AppendInteger(AMQP_BASIC_PUBLISH_METHOD, 4, out);
  AppendInteger(0, 2, out);  // reserved
  AppendShortString(message.exchange, out);
  AppendShortString(message.routing_key, out);
  out->push_back(message.mandatory ? 1 : 0);
  EndFrame(begin, out);

  begin = BeginFrame(AMQP_FRAME_HEADER, message.channel, out);
  AppendInteger(AMQP_BASIC_CLASS, 2, out);
  AppendInteger(0, 2, out);  // weight, unused
  AppendInteger(message.body.size(), 8, out);
  const size_t most = MostBytes(*message.properties);
  const size_t at = out->size();
  out->resize(at + most);
  const int size =
      amqp_encode_properties(AMQP_BASIC_CLASS, message.properties,
                             {.len = most, .bytes = out->data() + at});
  if (size < 0 || at - begin + static_cast<size_t>(size) + 1 >
                      message.frame_max) {
    out->resize(start);
    return false;
  }
  out->resize(at + static_cast<size_t>(size));
  EndFrame(begin, out);

  absl::string_view rest = message.body;
  while (!rest.empty()) {
    const size_t piece = std::min(rest.size(), message.frame_max - kAround);
    begin = BeginFrame(AMQP_FRAME_BODY, message.channel, out);
    out->append(rest.data(), piece);
    EndFrame(begin, out);
    rest.remove_prefix(piece);
  }
  return true;
}

}  // namespace penstock
