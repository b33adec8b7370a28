// penstock-bench-load: the client of a gateway, Penstock's or the Go peer's. Sends
// tasks in one of several shapes, or waits for results, checks every answer and
// prints one line of JSON.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "tests/bench/calls.h"
#include "tests/bench/figures.h"

ABSL_FLAG(std::string, mode, "unary",
          "unary, group, batch, stream, chord, latency, latency-two-calls or "
          "waiters; the last four need a worker");
ABSL_FLAG(std::string, gateway, "127.0.0.1:50051", "HOST:PORT");
ABSL_FLAG(int, channels, 1, "connections to the gateway");
ABSL_FLAG(std::string, prefix, "task", "the ids are PREFIX-0, PREFIX-1, ...");
ABSL_FLAG(int, tasks, 1, "how many tasks");
ABSL_FLAG(int, size, 50, "tasks of one call: of a group, a batch, a chord");
ABSL_FLAG(int, outstanding, 1, "calls at a time; of a stream: tasks");
ABSL_FLAG(double, rate, 0, "calls a second at most; 0: no limit");
ABSL_FLAG(std::string, task, "add", "name of the task");
ABSL_FLAG(int, queues, 0, "so many queues take the tasks in turn; 0: one");
ABSL_FLAG(std::string, queue, "", "with --queues: they are QUEUE-0, QUEUE-1, ...");
ABSL_FLAG(int, retries, 0, "retry_count of each task");
ABSL_FLAG(absl::Duration, retry_after, absl::Seconds(1), "with --retries");
ABSL_FLAG(double, due, 0, "Unix time when task 0 is due; 0: at once");
ABSL_FLAG(absl::Duration, span, absl::ZeroDuration(),
          "with --due: the last one is due so much later than the first");

namespace penstock::bench {
namespace {

using Stub = v1::GatewayService::Stub;
using Stubs = std::vector<std::unique_ptr<Stub>>;

// A state is waited for so long at most: see GetStateRequest.wait, and
// SendTaskRequest.wait.
constexpr int kWaitSeconds = 60;

Stubs Connect() {
  Stubs stubs;
  for (int i = 0; i < absl::GetFlag(FLAGS_channels); ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stubs.push_back(v1::GatewayService::NewStub(
        grpc::CreateCustomChannel(absl::GetFlag(FLAGS_gateway),
                                  grpc::InsecureChannelCredentials(),
                                  arguments)));
  }
  return stubs;
}

std::string Id(int number) {
  return TaskId(absl::GetFlag(FLAGS_prefix), number);
}

void SetDue(int number, v1::Task* task) {
  const absl::Time due =
      absl::UnixEpoch() + absl::Seconds(absl::GetFlag(FLAGS_due)) +
      absl::GetFlag(FLAGS_span) *
          (static_cast<double>(number) / absl::GetFlag(FLAGS_tasks));
  const timespec time = absl::ToTimespec(due);
  task->mutable_eta()->set_seconds(time.tv_sec);
  task->mutable_eta()->set_nanos(static_cast<int>(time.tv_nsec));
}

// add(number, 1), or another task with these arguments.
void FillTask(int number, v1::Task* task) {
  static const std::string name = absl::GetFlag(FLAGS_task);
  static const bool is_delayed = absl::GetFlag(FLAGS_due) > 0;
  static const int retries = absl::GetFlag(FLAGS_retries);
  static const int queues = absl::GetFlag(FLAGS_queues);
  task->set_id(Id(number));
  task->set_name(name);
  task->add_args()->set_int_value(number);
  task->add_args()->set_int_value(1);
  if (is_delayed) SetDue(number, task);
  if (queues > 0) {
    task->set_routing_key(
        absl::StrCat(absl::GetFlag(FLAGS_queue), "-", number % queues));
  }
  if (retries == 0) return;
  task->set_retry_count(retries);
  task->mutable_retry_delay()->set_seconds(
      absl::ToInt64Seconds(absl::GetFlag(FLAGS_retry_after)));
}

Load LoadOf(int calls) {
  return {.calls = calls,
          .outstanding = absl::GetFlag(FLAGS_outstanding),
          .rate = absl::GetFlag(FLAGS_rate)};
}

void CheckId(const std::string& id, int number) {
  if (id != Id(number)) Fail(absl::StrCat("wrong id in an answer: ", id));
}

// Number n must have the result n + 1.
void CheckResult(const v1::TaskState& state, int64_t want) {
  if (state.status() != v1::TASK_STATUS_SUCCESS || state.results_size() != 1 ||
      state.results(0).int_value() != want) {
    Fail(absl::StrCat("wrong state, not SUCCESS with ", want, ": ",
                      state.ShortDebugString()));
  }
}

std::vector<absl::Duration> SendUnary(Stubs& stubs) {
  return RunCalls<v1::SendTaskResponse>(
      LoadOf(absl::GetFlag(FLAGS_tasks)),
      [&](int number, grpc::ClientContext* context,
          grpc::CompletionQueue* queue) {
        v1::SendTaskRequest request;
        FillTask(number, request.mutable_task());
        return stubs[number % stubs.size()]->AsyncSendTask(context, request,
                                                           queue);
      },
      [](int number, const v1::SendTaskResponse& response) {
        CheckId(response.task_id(), number);
      });
}

// The members of call `call`, of `size`.
template <typename Request>
void FillTasks(int call, int size, Request* request) {
  for (int i = 0; i < size; ++i) {
    FillTask(call * size + i, request->add_tasks());
  }
}

std::vector<absl::Duration> SendGroups(Stubs& stubs) {
  const int size = absl::GetFlag(FLAGS_size);
  return RunCalls<v1::SendGroupResponse>(
      LoadOf(absl::GetFlag(FLAGS_tasks) / size),
      [&](int call, grpc::ClientContext* context,
          grpc::CompletionQueue* queue) {
        v1::SendGroupRequest request;
        FillTasks(call, size, &request);
        return stubs[call % stubs.size()]->AsyncSendGroup(context, request,
                                                          queue);
      },
      [size](int call, const v1::SendGroupResponse& response) {
        if (response.task_ids_size() != size) Fail("ids are missing");
        CheckId(response.task_ids(0), call * size);
      });
}

std::vector<absl::Duration> SendBatches(Stubs& stubs) {
  const int size = absl::GetFlag(FLAGS_size);
  return RunCalls<v1::BatchSendTasksResponse>(
      LoadOf(absl::GetFlag(FLAGS_tasks) / size),
      [&](int call, grpc::ClientContext* context,
          grpc::CompletionQueue* queue) {
        v1::BatchSendTasksRequest request;
        FillTasks(call, size, &request);
        return stubs[call % stubs.size()]->AsyncBatchSendTasks(context, request,
                                                               queue);
      },
      [size](int call, const v1::BatchSendTasksResponse& response) {
        if (response.results_size() != size) Fail("results are missing");
        for (int i = 0; i < size; ++i) {
          CheckId(response.results(i).task_id(), call * size + i);
        }
      });
}

// One stream: as many tasks without an answer as the gateway's credit and
// --outstanding allow, up to --size of them a message. One thread.
class StreamSender {
 public:
  explicit StreamSender(Stub& stub) : sent_at_(total_), took_(total_) {
    SetLimit(&context_);
    stream_ = stub.AsyncStreamTasks(&context_, &queue_, Tag(kStart));
  }

  std::vector<absl::Duration> Run() {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
      if (tag == Tag(kEnd)) break;
      Advance(static_cast<Step>(reinterpret_cast<intptr_t>(tag)), ok);
    }
    Check(status_, "StreamTasks");
    if (answered_ != total_) Fail("the stream ended too soon");
    return std::move(took_);
  }

 private:
  enum Step : intptr_t { kStart = 1, kRead, kWrite, kHalfClose, kEnd };
  static void* Tag(Step step) { return reinterpret_cast<void*>(step); }

  void Advance(Step step, bool ok) {
    if (step == kWrite || step == kStart) is_writing_ = false;
    if (step == kRead && !ok) return stream_->Finish(&status_, Tag(kEnd));
    if (step == kRead) TakeAnswer();
    if (step == kRead || step == kStart) stream_->Read(&answer_, Tag(kRead));
    if (ok) WriteNext();
  }

  void WriteNext() {
    const bool may = credit_ > 0 && sent_ < total_ &&
                     sent_ - answered_ < absl::GetFlag(FLAGS_outstanding);
    if (is_writing_ || !may) return;
    is_writing_ = true;
    v1::StreamTasksRequest request;
    const int room =
        std::min(credit_, absl::GetFlag(FLAGS_outstanding) - sent_ + answered_);
    const int many = std::min({room, most_, total_ - sent_});
    if (many <= 1) {
      request.set_sequence(sent_);
      AddTask(request.mutable_task());
    } else {
      for (int i = 0; i < many; ++i) {
        v1::StreamTask* task = request.add_tasks();
        task->set_sequence(sent_);
        AddTask(task->mutable_task());
      }
    }
    grpc::WriteOptions options;
    if (sent_ == total_) options.set_last_message();
    stream_->Write(request, options, Tag(kWrite));
  }

  void AddTask(v1::Task* task) {
    FillTask(sent_, task);
    sent_at_[sent_++] = absl::Now();
    --credit_;
  }

  void TakeAnswer() {
    credit_ += answer_.credit();
    if (answer_.max_tasks() > 0) {
      most_ = std::min(answer_.max_tasks(), absl::GetFlag(FLAGS_size));
    }
    for (const v1::StreamTaskResult& result : answer_.results()) {
      TakeResult(result);
    }
    if (answer_.outcome_case() != v1::StreamTasksResponse::OUTCOME_NOT_SET) {
      TakeResult(answer_);
    }
  }

  template <typename Result>
  void TakeResult(const Result& result) {
    const int number = static_cast<int>(result.sequence());
    CheckId(result.task_id(), number);
    took_[number] = absl::Now() - sent_at_[number];
    ++answered_;
  }

  const int total_ = absl::GetFlag(FLAGS_tasks);
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  grpc::Status status_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::StreamTasksRequest,
                                                v1::StreamTasksResponse>>
      stream_;
  v1::StreamTasksResponse answer_;
  std::vector<absl::Time> sent_at_;
  std::vector<absl::Duration> took_;
  bool is_writing_ = true;  // until the stream has started
  int credit_ = 0;
  int most_ = 1;  // tasks of a message
  int sent_ = 0;
  int answered_ = 0;
};

std::vector<absl::Duration> SendStream(Stubs& stubs) {
  return StreamSender(*stubs[0]).Run();
}

void AwaitResult(Stub& stub, const std::string& id, int64_t want) {
  grpc::ClientContext context;
  SetLimit(&context);
  v1::GetStateRequest request;
  request.set_task_id(id);
  request.mutable_wait()->set_seconds(kWaitSeconds);
  v1::GetStateResponse response;
  Check(stub.GetState(&context, request, &response), "GetState");
  CheckResult(response.state(), want);
}

// One after the other: each until its callback's result is here.
std::vector<absl::Duration> RunChords(Stubs& stubs) {
  const int size = absl::GetFlag(FLAGS_size);
  std::vector<absl::Duration> took;
  for (int call = 0; call < absl::GetFlag(FLAGS_tasks) / size; ++call) {
    v1::SendChordRequest request;
    FillTasks(call, size, &request);
    request.mutable_callback()->set_name("add");
    int64_t want = 0;
    for (int i = 0; i < size; ++i) want += call * size + i + 1;
    const absl::Time begun = absl::Now();
    grpc::ClientContext context;
    SetLimit(&context);
    v1::SendChordResponse response;
    Check(stubs[0]->SendChord(&context, request, &response), "SendChord");
    AwaitResult(*stubs[0], response.callback_task_id(), want);
    took.push_back(absl::Now() - begun);
  }
  return took;
}

// One task at a time, from the send to the result in this client's hands: by a send
// that waits, or by a send and then a wait.
template <bool two_calls>
std::vector<absl::Duration> RunOneByOne(Stubs& stubs) {
  std::vector<absl::Duration> took;
  for (int number = 0; number < absl::GetFlag(FLAGS_tasks); ++number) {
    v1::SendTaskRequest request;
    FillTask(number, request.mutable_task());
    if (!two_calls) request.mutable_wait()->set_seconds(kWaitSeconds);
    const absl::Time begun = absl::Now();
    grpc::ClientContext context;
    SetLimit(&context);
    v1::SendTaskResponse response;
    Check(stubs[0]->SendTask(&context, request, &response), "SendTask");
    if (two_calls) {
      AwaitResult(*stubs[0], Id(number), number + 1);
    } else {
      CheckId(response.task_id(), number);
      CheckResult(response.state(), number + 1);
    }
    took.push_back(absl::Now() - begun);
  }
  return took;
}

// One waiting call for each task, all at once, before any of them has run. Prints
// "open" when all are under way. What is returned is how long after the end of its
// task each answer came.
std::vector<absl::Duration> RunWaiters(Stubs& stubs) {
  const int tasks = absl::GetFlag(FLAGS_tasks);
  std::vector<absl::Duration> late;
  RunCalls<v1::GetStateResponse>(
      {.calls = tasks, .outstanding = tasks},
      [&](int number, grpc::ClientContext* context,
          grpc::CompletionQueue* queue) {
        v1::GetStateRequest request;
        request.set_task_id(Id(number));
        request.mutable_wait()->set_seconds(kWaitSeconds);
        auto reader = stubs[number % stubs.size()]->AsyncGetState(
            context, request, queue);
        if (number == tasks - 1) {
          std::puts("open");
          std::fflush(stdout);
        }
        return reader;
      },
      [&](int number, const v1::GetStateResponse& response) {
        CheckResult(response.state(), number + 1);
        const auto& end = response.state().finish_time();
        late.push_back(absl::Now() - absl::FromUnixSeconds(end.seconds()) -
                       absl::Nanoseconds(end.nanos()));
      });
  return late;
}

int Main() {
  using Mode = std::function<std::vector<absl::Duration>(Stubs&)>;
  const std::map<std::string, Mode> modes = {
      {"unary", SendUnary},
      {"group", SendGroups},
      {"batch", SendBatches},
      {"stream", SendStream},
      {"chord", RunChords},
      {"latency", RunOneByOne<false>},
      {"latency-two-calls", RunOneByOne<true>},
      {"waiters", RunWaiters},
  };
  const auto mode = modes.find(absl::GetFlag(FLAGS_mode));
  if (mode == modes.end()) Fail("unknown --mode");
  Stubs stubs = Connect();
  Figures figures{.tasks = absl::GetFlag(FLAGS_tasks), .begun = absl::Now()};
  figures.calls = mode->second(stubs);
  figures.ended = absl::Now();
  Print(std::move(figures));
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return penstock::bench::Main();
}
