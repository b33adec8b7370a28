// The result backend in this process's memory: what --embedded runs on, and the
// trustworthy twin in unit tests. It answers what the Redis scripts answer;
// nothing survives the process. Completions run on the environment's thread.

#ifndef PENSTOCK_QUEUE_MEMORY_MEMORY_BACKEND_H_
#define PENSTOCK_QUEUE_MEMORY_MEMORY_BACKEND_H_

#include <memory>

#include "queue/backend.h"
#include "queue/environment.h"

namespace penstock {

// `environment` is not owned and must outlive the backend.
std::unique_ptr<Backend> MakeMemoryBackend(Environment* environment);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_MEMORY_MEMORY_BACKEND_H_
