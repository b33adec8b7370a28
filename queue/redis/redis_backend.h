// The result backend on Redis: machinery's own keys and JSON, and keys of ours
// for what machinery has no place for (docs/architecture.md section 5).
//
//   <task id>                         its state, JSON
//   <group id>                        machinery's GroupMeta, JSON
//   penstock:mark:{<id>}              a FAILURE that Go cannot undo, JSON
//   penstock:submit:{<id>}            whose PENDING it is: docs/adr/0006
//   penstock:group:{<id>}             the record of a group, hash
//   penstock:chain:{<id>}             the record of a chain, hash
//   penstock:request:{<id>}           a client's call under a request_id, hash
//   penstock:schedules:{<exchange>}   schedules: names, :due times, :of:<name>
//   penstock:open                     open groups and chains by next visit;
//   {penstock:open}:since             when each was opened, and by whom
//   penstock:delayed:{<exchange>}     tasks that wait, by due time in ms;
//   penstock:delayed:{<exchange>}:tasks   the tasks themselves
//   penstock:dead:<queue>             dead letters by time in ms;
//   {penstock:dead:<queue>}:tasks     a line of JSON each, then the body
//   penstock:hint                     channel: ids of tasks with a new state
//
// Braces put the keys of one script into one slot. Three connections, a thread
// each: operations, reads of states, hints.

#ifndef PENSTOCK_QUEUE_REDIS_REDIS_BACKEND_H_
#define PENSTOCK_QUEUE_REDIS_REDIS_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "queue/backend.h"
#include "queue/config.h"
#include "queue/environment.h"

namespace penstock {

// Uses options.result_backend (the URL) and options.amqp.exchange. Connects in
// the background. INVALID_ARGUMENT for a URL that can never work, without its
// password. `environment` is not owned and must outlive the backend.
absl::StatusOr<std::unique_ptr<Backend>> OpenRedisBackend(
    const Options& options, Environment* environment);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_REDIS_BACKEND_H_
