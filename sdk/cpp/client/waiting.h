// Waiting for tasks and groups to end, and following what becomes of tasks.
// Included by .cc files only: it sees grpcpp.

#ifndef PENSTOCK_SDK_CPP_CLIENT_WAITING_H_
#define PENSTOCK_SDK_CPP_CLIENT_WAITING_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "penstock/client.h"
#include "sdk/cpp/client/core.h"

namespace penstock::client::internal {

// One call waits so long at most; another one follows.
constexpr absl::Duration kLongestWait = absl::Seconds(30);

// NOT_FINISHED when it has not ended by `until`.
void AwaitTask(const std::shared_ptr<Core>& core, const std::string& id,
               absl::Time until, Done<TaskState> done);
void AwaitGroup(const std::shared_ptr<Core>& core, const std::string& id,
                absl::Time until, Done<GroupState> done);

// Client::WatchAsync.
void Watch(const std::shared_ptr<Core>& core, std::vector<std::string> ids,
           absl::Time until, std::function<bool(const TaskState&)> on_state,
           absl::AnyInvocable<void(absl::Status) &&> done,
           const CallOptions& options);

}  // namespace penstock::client::internal

#endif  // PENSTOCK_SDK_CPP_CLIENT_WAITING_H_
