// Periodic tasks: keeps schedules in the backend, and runs their ticks. Each
// gateway looks for what is due; a lease and a request_id that follows from
// schedule and tick see to it that a tick is sent once, whichever gateways take
// it on and whenever they die. docs/architecture.md section 12.
//
// Owns no thread: runs on those of environment, backend and broker.

#ifndef PENSTOCK_GATEWAY_SCHEDULES_H_
#define PENSTOCK_GATEWAY_SCHEDULES_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "penstock/v1/admin.pb.h"
#include "queue/backend.h"
#include "queue/broker.h"
#include "queue/callback.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"

namespace penstock {

struct SchedulesOptions {
  // How often to look for what other gateways keep; own schedules are awaited.
  absl::Duration look = absl::Seconds(1);
  absl::Duration lease = absl::Seconds(10);  // of a tick that is being sent
  absl::Duration grace = absl::Seconds(30);  // then a tick counts as missed
  absl::Duration send_timeout = absl::Seconds(30);
  absl::Duration retry = absl::Seconds(2);  // of a tick that could not be sent
};

// Thread-safe.
class Schedules {
 public:
  // None is owned; all must outlive it.
  Schedules(Lifecycle* lifecycle, Broker* broker, Backend* backend,
            Environment* environment, SchedulesOptions options);
  ~Schedules();  // Stop

  // From now on ticks are run.
  void Start();

  // No tick is begun any more.
  void BeginDrain();

  // Waits for the ticks that were begun; false: `deadline` came first.
  bool AwaitTicks(absl::Time deadline);

  // Touches none of the four any more; calls that are still open get CANCELLED.
  // Idempotent. Not from inside a callback.
  void Stop();

  // The RPCs of proto/penstock/v1/admin.proto. What is refused at once is
  // answered inside the call.
  void Create(const v1::CreateScheduleRequest& request,
              Callback<v1::CreateScheduleResponse> done);
  void List(const v1::ListSchedulesRequest& request,
            Callback<v1::ListSchedulesResponse> done);
  void Pause(const std::string& name, Callback<v1::Schedule> done);
  void Resume(const std::string& name, Callback<v1::Schedule> done);
  void Delete(const std::string& name, Callback<v1::Schedule> done);

 private:
  struct Core;
  std::shared_ptr<Core> core_;
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_SCHEDULES_H_
