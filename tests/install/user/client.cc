// A client as a user of the installed package writes it: 1 + 2 and a group, on
// the gateway at the address that is its argument.

#include <penstock/client.h>

#include <cstdint>
#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  penstock::client::Client client(argv[1]);
  auto task = client.Send("add", 1, 2);
  if (!task.ok()) {
    std::puts(task.status().ToString().c_str());
    return 1;
  }
  auto sum = task->Result<int64_t>(absl::Seconds(30));
  if (!sum.ok()) return 1;
  auto group = client.SendGroup(
      {.tasks = {{.name = "add", .args = {*sum}}, {.name = "panic"}}});
  if (!group.ok()) return 1;
  auto results = group->Results<int64_t>(absl::Seconds(30));
  if (!results.ok() || results->size() != 2 || (*results)[1].ok()) return 1;
  std::printf(
      "%lld, then %s\n", static_cast<long long>(*(*results)[0]),
      penstock::client::ErrorOf((*results)[1].status()).task->message.c_str());
  return 0;
}
