// The one place that knows which URL means which implementation. Runs on the
// main thread; the implementations connect on threads of their own.

#include "queue/open.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "queue/amqp/amqp_backend.h"
#include "queue/amqp/amqp_broker.h"
#include "queue/errors.h"
#include "queue/memory/memory_backend.h"
#include "queue/memory/memory_broker.h"
#include "queue/redis/periodic_lock.h"
#include "queue/redis/redis_backend.h"
#include "queue/redis/redis_broker.h"

namespace penstock {
namespace {

// For a URL that is missing, or that no check of the configuration saw.
absl::Status Refuse(absl::string_view key, const std::string& url,
                    absl::string_view supported) {
  std::string found = url.empty()
                          ? absl::StrCat("is not set; give --", key, "=URL")
                          : absl::StrCat("has no use for ", RedactUrl(url));
  return MakeError(absl::StatusCode::kInvalidArgument, reason::kInvalidField,
                   absl::StrCat(key, " ", found, "; supported are ", supported,
                                " and memory://"));
}

bool StartsWithOneOf(absl::string_view url,
                     std::initializer_list<absl::string_view> schemes) {
  return std::any_of(schemes.begin(), schemes.end(), [&](absl::string_view s) {
    return absl::StartsWith(url, s);
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Broker>> OpenBroker(const Options& options,
                                                   Environment* environment) {
  if (StartsWithOneOf(options.broker, {"amqp://", "amqps://"})) {
    return OpenAmqpBroker(options, environment);
  }
  if (StartsWithOneOf(options.broker,
                      {"redis://", "rediss://", "redis+socket://"})) {
    return OpenRedisBroker(options, environment);
  }
  if (absl::StartsWith(options.broker, "memory://")) {
    return MakeMemoryBroker(
        {.environment = environment, .default_queue = options.default_queue});
  }
  return Refuse("broker", options.broker,
                "amqp://, amqps://, redis://, rediss://, redis+socket://");
}

absl::StatusOr<std::unique_ptr<Backend>> OpenBackend(const Options& options,
                                                     Environment* environment) {
  if (StartsWithOneOf(options.result_backend,
                      {"redis://", "rediss://", "redis+socket://"})) {
    return OpenRedisBackend(options, environment);
  }
  if (StartsWithOneOf(options.result_backend, {"amqp://", "amqps://"})) {
    return OpenAmqpBackend(options, environment);
  }
  if (absl::StartsWith(options.result_backend, "memory://")) {
    return MakeMemoryBackend(environment);
  }
  return Refuse("result_backend", options.result_backend,
                "redis://, rediss://, redis+socket://, amqp://, amqps://");
}

absl::StatusOr<std::unique_ptr<PeriodicLock>> OpenLock(
    const Options& options, Environment* environment) {
  if (options.lock.empty()) return nullptr;
  return OpenRedisLock(options, environment);
}

}  // namespace penstock
