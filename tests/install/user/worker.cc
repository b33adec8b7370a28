// A worker as a user of the installed SDK writes it.

#include <penstock/worker.h>

#include <cstdint>
#include <cstdio>

int main() {
  penstock::WorkerOptions options;
  options.config.broker = "memory://";
  options.config.result_backend = "memory://";
  penstock::Worker worker(options);
  worker.Register("add", [](int64_t a, int64_t b) { return a + b; });
  absl::Status status = worker.Start();
  if (status.ok()) status = worker.Drain(absl::Seconds(10));
  std::puts(status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
