// The broker in this process's memory: what --embedded runs on, and the
// trustworthy twin in unit tests. Semantics are those of broker.h; nothing
// survives the process. Deliveries and completions run on the environment's
// thread.

#ifndef PENSTOCK_QUEUE_MEMORY_MEMORY_BROKER_H_
#define PENSTOCK_QUEUE_MEMORY_MEMORY_BROKER_H_

#include <memory>
#include <string>

#include "queue/broker.h"
#include "queue/environment.h"

namespace penstock {

struct MemoryBrokerOptions {
  Environment* environment = nullptr;  // not owned; must outlive the broker
  // Exists from the start; the routing key of a task without one.
  std::string default_queue = "machinery_tasks";
};

// Must outlive its consumers.
std::unique_ptr<Broker> MakeMemoryBroker(MemoryBrokerOptions options);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_MEMORY_MEMORY_BROKER_H_
