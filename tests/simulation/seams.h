// The seams of one process: each hands a request to the network of the world.
// This is also where the known bugs of `Bug` are made.

#ifndef PENSTOCK_TESTS_SIMULATION_SEAMS_H_
#define PENSTOCK_TESTS_SIMULATION_SEAMS_H_

#include <functional>
#include <memory>

#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/environment.h"
#include "tests/simulation/world.h"

namespace penstock::simulation {

std::unique_ptr<Environment> MakeSimEnvironment(ProcessPtr process);
// `on_run` is called when a Begin has answered that the task may run.
std::unique_ptr<Backend> MakeSimBackend(ProcessPtr process,
                                        std::function<void()> on_run);
std::unique_ptr<Broker> MakeSimBroker(ProcessPtr process);

}  // namespace penstock::simulation

#endif  // PENSTOCK_TESTS_SIMULATION_SEAMS_H_
