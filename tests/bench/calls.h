// Runs many gRPC calls, some at a time, on one thread with a completion queue: the
// client that costs least, since it shares the cores with what is measured.

#ifndef PENSTOCK_TESTS_BENCH_CALLS_H_
#define PENSTOCK_TESTS_BENCH_CALLS_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/bench/figures.h"

namespace penstock::bench {

// No call of the bench may hang.
inline constexpr absl::Duration kCallLimit = absl::Minutes(3);

inline void SetLimit(grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
}

inline void Check(const grpc::Status& status, const std::string& what) {
  if (status.ok()) return;
  Fail(absl::StrCat(what, ": ", status.error_code(), " ",
                    status.error_message()));
}

struct Load {
  int calls = 1;
  int outstanding = 1;
  double rate = 0;  // calls begun a second at most; 0: as many as can be
};

// One unary call in flight.
template <typename Response>
struct Call {
  int number = 0;
  absl::Time begun;
  grpc::ClientContext context;
  grpc::Status status;
  Response response;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> reader;
};

// Begin(number, context, queue) starts a call and returns its reader;
// End(number, response) looks at its answer. How long each call took. A call that
// fails ends the program.
template <typename Response, typename Begin, typename End>
std::vector<absl::Duration> RunCalls(const Load& load, Begin begin, End end) {
  grpc::CompletionQueue queue;
  std::vector<absl::Duration> took;
  took.reserve(load.calls);
  const absl::Time start = absl::Now();
  const auto due = [&](int number) {
    return load.rate == 0 ? absl::InfinitePast()
                          : start + absl::Seconds(number / load.rate);
  };
  int begun = 0;
  const auto begin_one = [&] {
    auto* call = new Call<Response>;
    call->number = begun++;
    call->begun = absl::Now();
    SetLimit(&call->context);
    call->reader = begin(call->number, &call->context, &queue);
    call->reader->Finish(&call->response, &call->status, call);
  };
  while (static_cast<int>(took.size()) < load.calls) {
    const bool may_begin =
        begun < load.calls &&
        begun - static_cast<int>(took.size()) < load.outstanding;
    if (may_begin && due(begun) <= absl::Now()) {
      begin_one();
      continue;
    }
    void* tag = nullptr;
    bool ok = false;
    const absl::Time until = may_begin ? due(begun) : absl::InfiniteFuture();
    if (queue.AsyncNext(&tag, &ok, absl::ToChronoTime(until)) !=
        grpc::CompletionQueue::GOT_EVENT) {
      continue;
    }
    const std::unique_ptr<Call<Response>> call(
        static_cast<Call<Response>*>(tag));
    Check(call->status, absl::StrCat("call ", call->number));
    end(call->number, call->response);
    took.push_back(absl::Now() - call->begun);
  }
  queue.Shutdown();
  return took;
}

}  // namespace penstock::bench

#endif  // PENSTOCK_TESTS_BENCH_CALLS_H_
