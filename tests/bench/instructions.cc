// Does the work of one task many times, for tests/bench/instructions, which counts
// instructions: how many encoding, decoding, Submit and Finish take, over the
// memory twins and with a clock that stands still. One thread, no sleep, the same
// each time.
//
// Prints the kind of build, then the name of each piece of work in the order in
// which it was done: each is one call of PenstockMeasured, which callgrind knows by
// its name.

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "queue/lifecycle.h"
#include "queue/memory/memory_backend.h"
#include "queue/memory/memory_broker.h"
#include "queue/wire/state_json.h"
#include "queue/wire/task_json.h"
#include "tests/support/fake_environment.h"

namespace penstock::bench {

constexpr int kTimes = 200;

// Not inlined, and of a plain name: see above.
extern "C" [[gnu::noinline]] void PenstockMeasured(
    const std::function<void(int)>& work) {
  for (int i = 0; i < kTimes; ++i) work(i);
}

namespace {

void Demand(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "%s failed\n", what);
  std::exit(1);
}

void Measure(const char* name, const std::function<void(int)>& work) {
  PenstockMeasured(work);
  std::puts(name);
}

Value Int(int64_t value) {
  return {.type = "int64", .json = absl::StrCat(value)};
}

Task Add(const std::string& prefix, int number) {
  Task task{.id = absl::StrCat(prefix, "-", number), .name = "add"};
  task.args = {Int(number), Int(1)};
  task.args_null = false;
  return task;
}

class World {
 public:
  World()
      : broker_(MakeMemoryBroker({.environment = &environment_})),
        backend_(MakeMemoryBackend(&environment_)),
        lifecycle_(broker_.get(), backend_.get(), &environment_, {}) {}
  ~World() {
    lifecycle_.Stop();
    environment_.RunDue();
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void Submit(const std::string& prefix, int number) {
    bool accepted = false;
    lifecycle_.SubmitTask(Add(prefix, number), {.payload_hash = "hash"},
                          [&accepted](absl::StatusOr<Submitted> answer) {
                            accepted = answer.ok();
                          });
    environment_.RunDue();
    Demand(accepted, "Submit");
  }

  BeginVerdict Begin(const std::string& prefix, int number) {
    BeginVerdict begun;
    bool is_begun = false;
    lifecycle_.Begin(std::make_shared<const Task>(Add(prefix, number)),
                     "machinery_tasks", "worker", Lifecycle::Begins::kMayDefer,
                     [&](absl::StatusOr<BeginVerdict> answer) {
                       is_begun = answer.ok() &&
                                  answer->kind == BeginVerdict::kRun;
                       if (is_begun) begun = *std::move(answer);
                     });
    environment_.RunDue();
    Demand(is_begun, "Begin");
    return begun;
  }

  void Finish(const std::string& prefix, int number, BeginVerdict begun) {
    bool stands = false;
    lifecycle_.Finish(Add(prefix, number), std::move(begun), "worker",
                      {.results = {Int(number + 1)}},
                      [&stands](absl::StatusOr<FinishVerdict> answer) {
                        stands = answer.ok() &&
                                 answer->kind == FinishVerdict::kStands;
                      });
    environment_.RunDue();
    Demand(stands, "Finish");
  }

 private:
  FakeEnvironment environment_;
  const std::unique_ptr<Broker> broker_;
  const std::unique_ptr<Backend> backend_;
  Lifecycle lifecycle_;
};

void MeasureCodec() {
  const Task task = Add("codec", 1);
  const std::string text = EncodeTask(task);
  Measure("encode a task",
          [&](int) { Demand(EncodeTask(task) == text, "EncodeTask"); });
  Measure("decode a task",
          [&](int) { Demand(DecodeTask(text).ok(), "DecodeTask"); });
  TaskState state;
  state.task_id = task.id;
  state.task_name = task.name;
  state.status = Status::kSuccess;
  state.results = {Int(2)};
  const std::string state_text = EncodeState(state);
  Measure("encode a state",
          [&](int) { Demand(EncodeState(state) == state_text, "EncodeState"); });
  Measure("decode a state",
          [&](int) { Demand(DecodeState(state_text).ok(), "DecodeState"); });
}

void MeasureLifecycle() {
  World world;
  world.Submit("first", 0);
  world.Finish("first", 0, world.Begin("first", 0));
  Measure("submit a task", [&](int i) { world.Submit("task", i); });
  std::vector<BeginVerdict> begun(kTimes);
  Measure("begin a task", [&](int i) { begun[i] = world.Begin("task", i); });
  Measure("finish a task",
          [&](int i) { world.Finish("task", i, std::move(begun[i])); });
}

}  // namespace
}  // namespace penstock::bench

int main() {
  std::puts(PENSTOCK_BUILD_TYPE);
  penstock::bench::MeasureCodec();
  penstock::bench::MeasureLifecycle();
  return EXIT_SUCCESS;
}
