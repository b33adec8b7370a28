// A child process of a test: started, signalled, waited for with a bound, and
// never left behind. Every method is for the thread that made the object, which
// must outlive the child: the kernel kills the child when that thread ends, so
// nothing survives a test that crashes.

#ifndef PENSTOCK_TESTS_SUPPORT_PROCESS_H_
#define PENSTOCK_TESTS_SUPPORT_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace penstock::testing {

struct ProcessOptions {
  std::vector<std::string> argv;  // argv[0] is looked up in PATH
  std::map<std::string, std::string> environment;  // added to this process' own
  std::string log_file;  // takes stdout and stderr, appended; empty: inherited
  int death_signal = 9;  // what the child gets when the test dies
};

class Process {
 public:
  static absl::StatusOr<std::unique_ptr<Process>> Start(ProcessOptions options);

  // Kills a child that is still running, and reaps it.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  bool Running();

  absl::Status Signal(int signal);

  // Waits for the end: the exit status, or 128 + the signal that ended it.
  // DEADLINE_EXCEEDED when it still runs after `limit`.
  absl::StatusOr<int> Wait(absl::Duration limit);

  // SIGTERM, and SIGKILL when `grace` has passed (then DEADLINE_EXCEEDED). The
  // exit status otherwise. Wakes a stopped (SIGSTOP) child first.
  absl::StatusOr<int> Stop(absl::Duration grace);

  // SIGKILL to it and its children, and reaps it. Nothing when it has ended.
  void Kill();

  // Resident memory at its highest.
  absl::StatusOr<int64_t> PeakResidentBytes() const;

 private:
  Process(pid_t pid, int pidfd) : pid_(pid), pidfd_(pidfd) {}

  const pid_t pid_;
  const int pidfd_;
  bool reaped_ = false;
  int exit_status_ = 0;
};

// Runs a command to its end: its output, or an error that shows it.
absl::StatusOr<std::string> RunCommand(ProcessOptions options,
                                       absl::Duration limit);

// A directory of its own, removed with all that is in it.
class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A TCP port on 127.0.0.1 that nothing listens on, below the range from which
// the kernel serves outgoing connections: so no client takes it while its
// server is down, and none connects to itself.
int FreePort();

// The last `bytes` of a file, for error texts; empty when it cannot be read.
std::string TailOfFile(const std::string& path, size_t bytes = 2000);

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_PROCESS_H_
