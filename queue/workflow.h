// Chain, group and chord as linked tasks, the way machinery links them. Pure.

#ifndef PENSTOCK_QUEUE_WORKFLOW_H_
#define PENSTOCK_QUEUE_WORKFLOW_H_

#include <string>
#include <vector>

#include "queue/task.h"

namespace penstock {

// The first link of a chain, the others nested in it: each link's on_success is
// the next one. `links` is not empty.
Task LinkChain(std::vector<Task> links);

// Makes `members` the members of `group_id`; with `callback` (a signature's JSON,
// empty: none) of a chord: each carries a copy of it.
void LinkGroup(std::vector<Task>& members, const std::string& group_id,
               const std::string& callback);

// The id of a nested task that came without one: the same each time, from its
// parent's id, the list it stands in ("on_success") and its place in it.
std::string ChildId(const std::string& parent_id, const std::string& list,
                    size_t index);

// Makes `task`, which has ended or was never to run, a task of its own under
// another id: the header penstock-retry-of names it (`old_id`), and it is in no
// group any more, so that it cannot end one a second time. What follows it becomes
// the same when it is sent (queue/next_steps.h).
void DetachCopy(Task& task, const std::string& old_id, std::string new_id);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_WORKFLOW_H_
