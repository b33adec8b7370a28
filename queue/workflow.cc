#include "queue/workflow.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "queue/ids.h"
#include "queue/wire/task_json.h"

namespace penstock {

Task LinkChain(std::vector<Task> links) {
  for (size_t i = links.size() - 1; i > 0; --i) {
    links[i - 1].on_success = {EncodeTask(links[i])};
    links[i].on_success.clear();  // it lives on in the text only
  }
  return std::move(links.front());
}

void LinkGroup(std::vector<Task>& members, const std::string& group_id,
               const std::string& callback) {
  for (Task& member : members) {
    member.group_id = group_id;
    member.group_task_count = static_cast<int64_t>(members.size());
    member.chord_callback = callback;
  }
}

std::string ChildId(const std::string& parent_id, const std::string& list,
                    size_t index) {
  return absl::StrCat("task_",
                      NamedUuid(absl::StrCat(parent_id, "\n", list, "\n", index)));
}

void DetachCopy(Task& task, const std::string& old_id, std::string new_id) {
  SetStringHeader(task, kRetryOfHeader, old_id);
  task.headers_null = false;
  task.id = std::move(new_id);
  task.group_id.clear();
  task.group_task_count = 0;
  task.chord_callback.clear();
}

}  // namespace penstock
