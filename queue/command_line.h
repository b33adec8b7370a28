// The command line of a daemon: --NAME=VALUE or --NAME VALUE for its abseil
// flags, and nothing else. absl::ParseCommandLine would know abseil's own flags
// too, and exit with 1 over a wrong one. For main(), before any thread.

#ifndef PENSTOCK_QUEUE_COMMAND_LINE_H_
#define PENSTOCK_QUEUE_COMMAND_LINE_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

// Sets the flags named in `names`; gives those that were given, with their
// texts. INVALID_ARGUMENT says what is wrong; nothing is to be relied on then.
absl::StatusOr<std::map<std::string, std::string>> ParseFlags(
    int argc, char** argv, absl::Span<const char* const> names);

// "--help" among the arguments.
bool AsksForHelp(int argc, char** argv);

// `usage`, then a line for each flag in `names`, on standard output.
void PrintHelp(const char* usage, absl::Span<const char* const> names);

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_COMMAND_LINE_H_
