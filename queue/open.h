// URL -> Broker / Backend. Its .cc is the only file that names the
// implementations; main files and tests call it.

#ifndef PENSTOCK_QUEUE_OPEN_H_
#define PENSTOCK_QUEUE_OPEN_H_

#include <memory>

#include "absl/status/statusor.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/config.h"
#include "queue/environment.h"
#include "queue/lock.h"

namespace penstock {

// Opens what options.broker and options.result_backend name. They connect in the
// background and reconnect by themselves: a server that is away is no error
// here. INVALID_ARGUMENT for a URL that can never work; the text has no password.
// `environment` is not owned and must outlive them.
absl::StatusOr<std::unique_ptr<Broker>> OpenBroker(const Options& options,
                                                   Environment* environment);
absl::StatusOr<std::unique_ptr<Backend>> OpenBackend(const Options& options,
                                                     Environment* environment);

// Opens what options.lock names, in the same way; null when it names nothing.
absl::StatusOr<std::unique_ptr<PeriodicLock>> OpenLock(
    const Options& options, Environment* environment);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_OPEN_H_
