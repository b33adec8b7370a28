// What a task asks of Penstock workers beyond machinery's signature. It rides in
// headers of ours, as text, so that it survives Go workers, which do not heed it.
// docs/wire-format.md section 2. Pure.

#ifndef PENSTOCK_QUEUE_POLICY_H_
#define PENSTOCK_QUEUE_POLICY_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "queue/task.h"

namespace penstock {

// How long one attempt may run: the header penstock-timeout, milliseconds.
// nullopt: no limit.
std::optional<absl::Duration> TimeoutOf(const Task& task);
void SetTimeout(Task& task, absl::Duration timeout);

// After this the first attempt does not begin any more: the header
// penstock-expires, Unix milliseconds. nullopt: never.
std::optional<absl::Time> ExpiryOf(const Task& task);
void SetExpiry(Task& task, absl::Time expiry);
void DropExpiry(Task& task);
// What is said of a task that expired.
std::string ExpiryText(absl::Time expiry);

// Of the tasks sent under one key only one is not final at a time: the header
// penstock-unique-key. nullopt: any number.
std::optional<std::string> UniqueKeyOf(const Task& task);
void SetUniqueKey(Task& task, const std::string& key);

// How long its final state lives: the header penstock-result-ttl, milliseconds.
// nullopt: results_expire_in of whoever writes it.
std::optional<absl::Duration> ResultTtlOf(const Task& task);
void SetResultTtl(Task& task, absl::Duration ttl);

// Retries that wait for first, first * factor, first * factor^2, ... up to `max`,
// each made shorter or longer at random by up to its share `jitter`.
struct ExponentialBackoff {
  absl::Duration first;
  double factor = 2;
  absl::Duration max;
  double jitter = 0;  // 0 to 1

  bool operator==(const ExponentialBackoff&) const = default;
};

// The header penstock-backoff, "FIRST_MS FACTOR MAX_MS JITTER". nullopt:
// machinery's Fibonacci.
std::optional<ExponentialBackoff> BackoffOf(const Task& task);
void SetBackoff(Task& task, const ExponentialBackoff& backoff);

// The pause after attempt number `attempt` (from 1); `random` in [0, 1).
absl::Duration PauseAfter(const ExponentialBackoff& backoff, int attempt,
                          double random);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_POLICY_H_
