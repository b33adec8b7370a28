// What the Sends have in common: from a request to Lifecycle's call, and a call
// under a request_id. The RPCs and the ticks of schedules both send by it.
// Owns no thread.

#ifndef PENSTOCK_GATEWAY_SENDS_H_
#define PENSTOCK_GATEWAY_SENDS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/convert.h"
#include "queue/environment.h"
#include "queue/lifecycle.h"

namespace penstock {

// What became of one task of a batch.
struct BatchResult {
  std::string task_id;
  absl::Status refused;  // OK: it was accepted
  bool replayed = false;
};
using BatchResults = std::vector<BatchResult>;

// The ids that a Send answers with.
struct SentIds {
  std::string group_id;
  std::vector<std::string> task_ids;
  std::string callback_id;
  std::shared_ptr<const BatchResults> batch;  // of a BatchSend alone
};

// A BatchCall without what its reading refused: that is among the results.
struct BatchSend {
  std::vector<TaskCall> tasks;
  std::vector<size_t> places;  // of each of them, among the results
  std::shared_ptr<BatchResults> results;
  std::string payload_hash;
};

struct Sent {
  SentIds ids;
  Submitted submitted;
};

// With a `request_id` the ids follow from it: each time the same ones.
Intake IntakeOf(Environment* environment, const std::string& default_queue,
                absl::Time now, const std::string& request_id,
                TraceContext trace = {});

SentIds SentIdsOf(const TaskCall& call);
SentIds SentIdsOf(const BatchSend& call);
SentIds SentIdsOf(const ChainCall& call);
SentIds SentIdsOf(const GroupCall& call);

void Submit(Lifecycle& lifecycle, TaskCall call, Submission submission,
            Callback<Submitted> done);
// OK whatever became of each, but CANCELLED when Lifecycle has stopped.
void Submit(Lifecycle& lifecycle, BatchSend call, Submission submission,
            Callback<Submitted> done);
void Submit(Lifecycle& lifecycle, ChainCall call, Submission submission,
            Callback<Submitted> done);
void Submit(Lifecycle& lifecycle, GroupCall call, Submission submission,
            Callback<Submitted> done);

inline auto ReadSend(const v1::SendTaskRequest& request, const Intake& intake) {
  return ReadSendTask(request, intake);
}
absl::StatusOr<BatchSend> ReadSend(const v1::BatchSendTasksRequest& request,
                                   const Intake& intake);
inline auto ReadSend(const v1::SendChainRequest& request,
                     const Intake& intake) {
  return ReadSendChain(request, intake);
}
inline auto ReadSend(const v1::SendGroupRequest& request,
                     const Intake& intake) {
  return ReadSendGroup(request, intake);
}
inline auto ReadSend(const v1::SendChordRequest& request,
                     const Intake& intake) {
  return ReadSendChord(request, intake);
}

// How the call of `ids` that Lifecycle answered with `status` ended: whether a
// repeat of it is answered, carried out again, or a new call.
RequestEnd EndOf(const absl::Status& status, const SentIds& ids);

// One Send under a request_id: claims it, submits it as of the time of the
// first claim, says how it ended. One callback at a time, so it needs no lock.
// `Call` is a TaskCall, a BatchSend, a ChainCall or a GroupCall.
template <typename Call>
class RepeatableSend
    : public std::enable_shared_from_this<RepeatableSend<Call>> {
 public:
  // Reads the request as of a time.
  using Read = absl::AnyInvocable<absl::StatusOr<Call>(absl::Time)>;

  // `hold` lives as long as the call. `claimant`: see Lifecycle::ClaimRequest.
  RepeatableSend(Lifecycle* lifecycle, std::shared_ptr<void> hold,
                 std::string request_id, Submission submission, Read read,
                 Callback<Sent> done, std::string claimant = "")
      : lifecycle_(lifecycle),
        hold_(std::move(hold)),
        request_id_(std::move(request_id)),
        submission_(std::move(submission)),
        read_(std::move(read)),
        done_(std::move(done)),
        nonce_(std::move(claimant)) {}

  void Start() {
    lifecycle_->ClaimRequest(
        request_id_, submission_.payload_hash, submission_.deadline,
        [self =
             this->shared_from_this()](absl::StatusOr<RequestAnswer> answer) {
          self->OnClaimed(std::move(answer));
        },
        nonce_);
  }

 private:
  void OnClaimed(absl::StatusOr<RequestAnswer> answer) {
    if (!answer.ok()) return std::move(done_)(answer.status());
    nonce_ = std::move(answer->nonce);
    // As the first claim saw it: a delay counts from then.
    absl::StatusOr<Call> call = read_(answer->time);
    if (!call.ok()) return End(call.status());
    ids_ = SentIdsOf(*call);
    if (answer->kind == RequestAnswer::kDone) {
      return Answer({.replayed = true, .create_time = answer->time});
    }
    Submit(
        *lifecycle_, *std::move(call), submission_,
        [self = this->shared_from_this()](absl::StatusOr<Submitted> submitted) {
          self->End(std::move(submitted));
        });
  }

  // A lost EndRequest only makes a repeat wait for the lease, and then find its
  // tasks sent.
  void End(absl::StatusOr<Submitted> submitted) {
    if (absl::IsCancelled(submitted.status())) {
      // Lifecycle has stopped, and may be gone.
      return std::move(done_)(submitted.status());
    }
    lifecycle_->EndRequest(
        request_id_, nonce_, EndOf(submitted.status(), ids_),
        [self = this->shared_from_this(),
         submitted = std::move(submitted)](absl::Status) {
          if (!submitted.ok()) {
            return std::move(self->done_)(submitted.status());
          }
          self->Answer(*submitted);
        });
  }

  void Answer(const Submitted& submitted) {
    std::move(done_)(Sent{std::move(ids_), submitted});
  }

  Lifecycle* const lifecycle_;
  const std::shared_ptr<void> hold_;
  const std::string request_id_;
  const Submission submission_;
  Read read_;
  Callback<Sent> done_;
  std::string nonce_;
  SentIds ids_;
};

}  // namespace penstock

#endif  // PENSTOCK_GATEWAY_SENDS_H_
