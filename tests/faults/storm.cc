// Clients amid kills: see storm.h.

#include "tests/faults/storm.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace penstock::testing {
namespace {

constexpr int kClients = 4;
// A chain of 4, a group of 5, a chord of 5 with its callback: 5 on average.
constexpr int kTasksPerCall = 5;
constexpr int kMembers = 5;
constexpr absl::Duration kPause = absl::Milliseconds(20);

v1::Task Add(std::initializer_list<int64_t> numbers) {
  v1::Task task;
  task.set_name("add");
  for (const int64_t number : numbers) task.add_args()->set_int_value(number);
  return task;
}

// Whether a repeat may succeed.
bool IsPassing(const std::string& ending) {
  return absl::StartsWith(ending, "UNAVAILABLE") ||
         absl::StartsWith(ending, "DEADLINE_EXCEEDED") ||
         absl::StrContains(ending, "GROUP_PARTIALLY_SENT");
}

}  // namespace

Storm::Storm(Cluster* cluster, int gateways, int tasks)
    : cluster_(cluster), gateways_(gateways), calls_(tasks / kTasksPerCall) {
  for (int client = 0; client < kClients; ++client) {
    clients_.emplace_back([this, client] { Run(client); });
  }
}

Storm::~Storm() {
  stop_.Notify();
  clients_.clear();
}

void Storm::Run(int client) {
  for (int number = client; number < calls_; number += kClients) {
    for (size_t attempt = 0; !stop_.HasBeenNotified(); ++attempt) {
      Answer answer;
      const grpc::Status status =
          Call(number, (client + attempt) % gateways_, answer);
      if (Settle(status, std::move(answer))) break;
      stop_.WaitForNotificationWithTimeout(kPause);
    }
  }
}

bool Storm::Settle(const grpc::Status& status, Answer answer) {
  const std::string ending = Ending(status);
  absl::MutexLock lock(&mu_);
  if (!status.ok() && IsPassing(ending)) {
    ++repeated_;
    return false;
  }
  ++settled_;
  if (!status.ok()) {
    refused_.push_back(absl::StrCat(ending, ": ", status.error_message()));
    return true;
  }
  ids_.insert(ids_.end(), answer.ids.begin(), answer.ids.end());
  expected_.merge(answer.expected);
  return true;
}

grpc::Status Storm::Call(int number, size_t gateway, Answer& answer) {
  v1::GatewayService::Stub& stub = cluster_->stub(gateway);
  const std::string request_id = absl::StrCat("storm-", number);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
  const auto take = [&answer](const auto& ids) {
    answer.ids.insert(answer.ids.end(), ids.begin(), ids.end());
  };
  const auto fill = [number](auto& request) {
    for (int member = 0; member < kMembers; ++member) {
      *request.add_tasks() = Add({number, member});
    }
  };
  switch (number % 3) {
    case 0: {
      v1::SendChainRequest request;
      request.set_request_id(request_id);
      *request.add_tasks() = Add({number, 1});
      for (const int64_t more : {10, 100, 1000}) {
        *request.add_tasks() = Add({more});
      }
      v1::SendChainResponse response;
      grpc::Status status = stub.SendChain(&context, request, &response);
      if (status.ok()) {
        take(response.task_ids());
        answer.expected[*response.task_ids().rbegin()] = number + 1111;
      }
      return status;
    }
    case 1: {
      v1::SendGroupRequest request;
      request.set_request_id(request_id);
      fill(request);
      v1::SendGroupResponse response;
      grpc::Status status = stub.SendGroup(&context, request, &response);
      if (status.ok()) {
        take(response.task_ids());
        for (int member = 0; member < kMembers; ++member) {
          answer.expected[response.task_ids(member)] = number + member;
        }
      }
      return status;
    }
    default: {
      v1::SendChordRequest request;
      request.set_request_id(request_id);
      fill(request);
      *request.mutable_callback() = Add({1000});
      v1::SendChordResponse response;
      grpc::Status status = stub.SendChord(&context, request, &response);
      if (status.ok()) {
        take(response.task_ids());
        answer.ids.push_back(response.callback_task_id());
        // 0 + 1 + ... + kMembers - 1
        answer.expected[response.callback_task_id()] =
            kMembers * number + kMembers * (kMembers - 1) / 2 + 1000;
      }
      return status;
    }
  }
}

bool Storm::AwaitSettled(int count, absl::Duration limit) {
  absl::MutexLock lock(&mu_);
  const int wanted = std::min(count, calls_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return settled_ >= wanted;
  };
  return mu_.AwaitWithTimeout(absl::Condition(&reached), limit);
}

std::vector<std::string> Storm::ids() const {
  absl::MutexLock lock(&mu_);
  return ids_;
}

std::map<std::string, int64_t> Storm::expected() const {
  absl::MutexLock lock(&mu_);
  return expected_;
}

int Storm::repeated() const {
  absl::MutexLock lock(&mu_);
  return repeated_;
}

std::vector<std::string> Storm::refused() const {
  absl::MutexLock lock(&mu_);
  return refused_;
}

}  // namespace penstock::testing
