// The result backend in this process's memory: what --embedded runs on, and the
// trustworthy twin in unit tests. It answers what the Redis scripts answer;
// nothing survives the process. Completions run on the environment's thread.

#ifndef PENSTOCK_QUEUE_MEMORY_MEMORY_BACKEND_H_
#define PENSTOCK_QUEUE_MEMORY_MEMORY_BACKEND_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "queue/backend.h"
#include "queue/environment.h"
#include "queue/task.h"

namespace penstock {

// The keys behind the backend's back, as another program on the same Redis reads
// and writes them: what a Go worker does. For tests. Lives as long as the
// backend; thread-safe.
class MemoryKeys {
 public:
  virtual ~MemoryKeys() = default;

  virtual std::optional<TaskState> Get(const std::string& task_id) = 0;
  // A plain SET ... EX: whatever stood there is gone.
  virtual void Set(TaskState state, absl::Duration ttl) = 0;
  virtual std::optional<GroupMeta> GetGroup(const std::string& group_id) = 0;
  virtual void SetGroup(GroupMeta meta, absl::Duration ttl) = 0;

  // machinery's lock TriggerChordMutex. False while it is taken.
  virtual bool LockChords(absl::Duration ttl) = 0;
  virtual void UnlockChords() = 0;

  // The first half of CreateRecord, as when its caller dies in the middle.
  virtual void OpenOnly(const WorkflowRecord& record, absl::Time visit) = 0;

  // What is left to do: the open groups and chains ("g:<id>", "c:<id>"), and the
  // ids of the delayed tasks.
  virtual std::vector<std::string> Open() = 0;
  virtual std::vector<std::string> Waiting() = 0;
};

// `environment` is not owned and must outlive the backend. `keys` gets its keys.
std::unique_ptr<Backend> MakeMemoryBackend(Environment* environment,
                                           MemoryKeys** keys = nullptr);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_MEMORY_MEMORY_BACKEND_H_
