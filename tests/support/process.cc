// Children of a test, by fork and exec: see process.h. posix_spawn would do but
// for PR_SET_PDEATHSIG, which only the child itself can ask for.

#include "tests/support/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // glibc 2.36 forgot it
#include <sys/pidfd.h>
}

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

extern char** environ;

namespace penstock::testing {
namespace {

std::vector<std::string> MergedEnvironment(
    const std::map<std::string, std::string>& added) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!added.contains(text.substr(0, text.find('=')))) merged.push_back(text);
  }
  for (const auto& [name, value] : added) {
    merged.push_back(absl::StrCat(name, "=", value));
  }
  return merged;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// What the child does between fork and exec: async-signal-safe calls only.
[[noreturn]] void RunChild(char* const* argv, char* const* envp, int input,
                           int output, int death_signal, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, death_signal);
  if (getppid() != parent) _exit(127);  // the test died before prctl
  setpgid(0, 0);  // Ctrl-C in a terminal reaches the test alone
  dup2(input, STDIN_FILENO);
  if (output >= 0) {
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
  }
  execvpe(argv[0], argv, envp);
  _exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Process>> Process::Start(
    ProcessOptions options) {
  std::vector<std::string> environment = MergedEnvironment(options.environment);
  const std::vector<char*> argv = Pointers(options.argv);
  const std::vector<char*> envp = Pointers(environment);
  const int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
  int output = -1;
  if (!options.log_file.empty()) {
    output = open(options.log_file.c_str(),
                  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (output < 0) {
      close(input);
      return absl::ErrnoToStatus(errno, options.log_file);
    }
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    RunChild(argv.data(), envp.data(), input, output, options.death_signal,
             parent);
  }
  const int fork_error = errno;
  close(input);
  if (output >= 0) close(output);
  if (pid < 0) return absl::ErrnoToStatus(fork_error, "fork");
  const int pidfd = pidfd_open(pid, 0);
  if (pidfd < 0) {
    const int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(error, "pidfd_open");
  }
  return std::unique_ptr<Process>(new Process(pid, pidfd));
}

Process::~Process() {
  Kill();
  close(pidfd_);
}

bool Process::Running() { return !Wait(absl::ZeroDuration()).ok(); }

absl::Status Process::Signal(int signal) {
  if (reaped_) return absl::FailedPreconditionError("the process has ended");
  if (kill(pid_, signal) != 0) return absl::ErrnoToStatus(errno, "kill");
  return absl::OkStatus();
}

absl::StatusOr<int> Process::Wait(absl::Duration limit) {
  if (reaped_) return exit_status_;
  const absl::Time deadline = absl::Now() + limit;
  pollfd ended{.fd = pidfd_, .events = POLLIN, .revents = 0};
  for (;;) {
    const absl::Duration left =
        std::max(deadline - absl::Now(), absl::ZeroDuration());
    const int ready = poll(&ended, 1, absl::ToInt64Milliseconds(left));
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "poll");
    if (left == absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat("process ", pid_, " still runs"));
    }
  }
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) {
    return absl::ErrnoToStatus(errno, "waitpid");
  }
  reaped_ = true;
  exit_status_ =
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_status_;
}

absl::StatusOr<int> Process::Stop(absl::Duration grace) {
  if (reaped_) return exit_status_;
  kill(pid_, SIGTERM);
  kill(pid_, SIGCONT);
  absl::StatusOr<int> status = Wait(grace);
  if (!status.ok()) Kill();
  return status;
}

void Process::Kill() {
  if (reaped_) return;
  kill(-pid_, SIGKILL);  // and what it started: it leads a group of its own
  kill(pid_, SIGKILL);
  Wait(absl::Seconds(30)).IgnoreError();
}

absl::StatusOr<int64_t> Process::PeakResidentBytes() const {
  std::ifstream file(absl::StrCat("/proc/", pid_, "/status"));
  std::string word;
  int64_t kilobytes = 0;
  while (file >> word) {
    if (word == "VmHWM:" && file >> kilobytes) return kilobytes * 1024;
  }
  return absl::NotFoundError(absl::StrCat("no memory of process ", pid_));
}

absl::StatusOr<std::string> RunCommand(ProcessOptions options,
                                       absl::Duration limit) {
  const TempDirectory directory;
  options.log_file = directory.path() + "/output";
  const std::string shown = absl::StrJoin(options.argv, " ");
  const std::string log_file = options.log_file;
  absl::StatusOr<std::unique_ptr<Process>> process =
      Process::Start(std::move(options));
  if (!process.ok()) return process.status();
  const absl::StatusOr<int> status = (*process)->Wait(limit);
  std::ifstream file(log_file);
  std::ostringstream output;
  output << file.rdbuf();
  if (!status.ok()) {
    return absl::DeadlineExceededError(
        absl::StrCat(shown, " did not end in time: ", output.str()));
  }
  if (*status != 0) {
    return absl::UnknownError(
        absl::StrCat(shown, " ended with ", *status, ": ", output.str()));
  }
  return output.str();
}

TempDirectory::TempDirectory() {
  std::string pattern =
      std::filesystem::temp_directory_path() / "penstock-test.XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    perror("mkdtemp");
    abort();
  }
  path_ = pattern;
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

int FreePort() {
  std::random_device random;
  std::uniform_int_distribution<int> ports(10000, 32000);
  for (;;) {
    const int port = ports(random);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    const bool free =
        bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (free) return port;
  }
}

std::string TailOfFile(const std::string& path, size_t bytes) {
  std::ifstream file(path);
  std::ostringstream content;
  content << file.rdbuf();
  const std::string text = content.str();
  return text.size() > bytes ? text.substr(text.size() - bytes) : text;
}

}  // namespace penstock::testing
