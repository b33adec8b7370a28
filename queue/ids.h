// Ids and fingerprints. Pure but for RandomUuid; thread-safe.

#ifndef PENSTOCK_QUEUE_IDS_H_
#define PENSTOCK_QUEUE_IDS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace penstock {

std::string RandomUuid();  // version 4

// Version 5 of `name`, in Penstock's own name space: the same each time.
std::string NamedUuid(std::string_view name);

// SHA-256 of `bytes`, 64 hexadecimal digits.
std::string Fingerprint(std::string_view bytes);

// Whether a client may use `id` for a task or a group: it becomes a Redis key.
// INVALID_ARGUMENT says which rule it breaks (alphabet, length, reserved names).
absl::Status CheckId(std::string_view id);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_IDS_H_
