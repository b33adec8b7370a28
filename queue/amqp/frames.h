// A message as the bytes of its frames. The library writes each frame by itself,
// three system calls a message; so a burst of messages is one write. The shape of
// frames: AMQP 0-9-1, sections 2.3.5 and 4.2. Pure; any thread.

#ifndef PENSTOCK_QUEUE_AMQP_FRAMES_H_
#define PENSTOCK_QUEUE_AMQP_FRAMES_H_

#include <amqp.h>
#include <amqp_framing.h>

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace penstock {

struct PublishFrames {
  amqp_channel_t channel = 1;
  absl::string_view exchange;     // at most 255 bytes
  absl::string_view routing_key;  // at most 255 bytes
  bool mandatory = false;
  // Headers of texts, numbers and booleans only.
  amqp_basic_properties_t* properties = nullptr;
  absl::string_view body;
  size_t frame_max = 0;  // as negotiated, with the 8 bytes around a payload
};

// Appends basic.publish, its header and its body to `out`. False, and nothing
// appended: the properties do not fit into one frame.
bool AppendPublish(const PublishFrames& message, std::string* out);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_AMQP_FRAMES_H_
