// The command line of penstockctl: words -> Command, and the help texts. Both
// follow from two tables in args.cc. Pure; docs/penstockctl.md shows it in use.

#ifndef PENSTOCK_TOOLS_PENSTOCKCTL_ARGS_H_
#define PENSTOCK_TOOLS_PENSTOCKCTL_ARGS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace penstock::ctl {

enum class Verb {
  kSend,
  kGroup,
  kChain,
  kChord,
  kState,
  kWatch,
  kGroupState,
  kCancel,
  kCancelGroup,
  kSchedulesCreate,
  kSchedulesList,
  kSchedulesPause,
  kSchedulesResume,
  kSchedulesDelete,
  kDeadList,
  kDeadRetry,
  kDeadDelete,
  kHelp,
  kVersion,
};

// A task as typed: its name and its arguments, not yet values.
struct TaskWords {
  std::string name;
  std::vector<std::string> args;

  bool operator==(const TaskWords&) const = default;
};

struct Command {
  Verb verb = Verb::kHelp;
  std::vector<TaskWords> tasks;  // send: one; chord: the last is the callback
  std::vector<std::string> ids;  // of all that ask about what was sent; names
  std::string topic;             // help: of which command; empty: of all

  std::string address = "localhost:50051";
  bool json = false;
  std::optional<absl::Duration> timeout;  // of a call, beyond its wait
  absl::Duration wait = absl::ZeroDuration();
  std::optional<absl::Time> eta;
  std::optional<absl::Duration> delay;
  std::string queue;
  std::string id;
  std::string unique_key;
  std::string request_id;
  std::string reason;
  std::string schedule_name;
  std::string cron_spec;
  Verb scheduled = Verb::kSend;  // or kGroup, kChain, kChord
  bool run_missed = false;
  int32_t retries = 0;
  uint32_t priority = 0;
};

// Reads the words after the program's name. Flags stand anywhere until a lone
// `--`; what looks like a number is never one. `environment` looks a variable
// up. INVALID_ARGUMENT is a usage error and names the word at fault.
absl::StatusOr<Command> ParseArgs(
    const std::vector<std::string>& words,
    const std::function<std::optional<std::string>(const std::string&)>&
        environment);

// The help on `topic`, a command's name, or on all of them when it is empty.
std::string HelpText(const std::string& topic);

}  // namespace penstock::ctl

#endif  // PENSTOCK_TOOLS_PENSTOCKCTL_ARGS_H_
