#include "queue/readiness.h"

#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "queue/scope.h"

namespace penstock {
namespace {

constexpr absl::Duration kInterval = absl::Seconds(1);
// A ping that has not been answered for so long counts as none.
constexpr absl::Duration kFresh = absl::Seconds(5);

}  // namespace

struct Readiness::Core : std::enable_shared_from_this<Core> {
  explicit Core(World given) : world(std::move(given)) {}

  const World world;

  // Synchronises itself: closed by the destructor, no call to the world after.
  Gate gate;

  absl::Mutex mu;
  bool pinging ABSL_GUARDED_BY(mu) = false;
  absl::Status last_ping ABSL_GUARDED_BY(mu) =
      absl::UnavailableError("was not asked yet");
  absl::Time last_answer ABSL_GUARDED_BY(mu) = absl::InfiniteFuture();
  std::optional<bool> told ABSL_GUARDED_BY(mu);

  void Probe() {
    if (!gate.Enter()) return;
    bool ping = false;
    {
      absl::MutexLock lock(&mu);
      ping = !std::exchange(pinging, true);
    }
    if (ping) {
      world.backend->Ping([core = shared_from_this()](absl::Status status) {
        if (!core->gate.Enter()) return;
        {
          absl::MutexLock lock(&core->mu);
          core->pinging = false;
          core->last_ping = std::move(status);
          core->last_answer = core->world.environment->Now();
        }
        core->Tell();
        core->gate.Leave();
      });
    } else {
      Tell();
    }
    world.environment->RunAfter(kInterval, [weak = weak_from_this()] {
      if (auto core = weak.lock()) core->Probe();
    });
    gate.Leave();
  }

  // Inside the gate.
  absl::Status Judge() {
    if (absl::Status program = world.program(); !program.ok()) {
      return absl::UnavailableError(program.message());
    }
    absl::MutexLock lock(&mu);
    if (!last_ping.ok()) {
      return absl::UnavailableError(
          absl::StrCat("result backend: ", last_ping.message()));
    }
    if (world.environment->Now() - last_answer > kFresh) {
      return absl::UnavailableError("result backend: does not answer");
    }
    return absl::OkStatus();
  }

  // Inside the gate.
  void Tell() {
    const absl::Status now = Judge();
    {
      absl::MutexLock lock(&mu);
      if (told == now.ok()) return;
      told = now.ok();
    }
    if (world.on_change) world.on_change(now);
  }
};

Readiness::Readiness(World world)
    : core_(std::make_shared<Core>(std::move(world))) {
  core_->Probe();
}

Readiness::~Readiness() { core_->gate.Close(); }

absl::Status Readiness::Get() const {
  if (!core_->gate.Enter()) return absl::UnavailableError("stopped");
  absl::Status status = core_->Judge();
  core_->gate.Leave();
  return status;
}

}  // namespace penstock
