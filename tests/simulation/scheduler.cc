#include "tests/simulation/scheduler.h"

#include "absl/strings/str_format.h"

namespace penstock::simulation {

void Scheduler::Write(std::string_view what, std::string_view detail) {
  lines_.push_back(absl::StrFormat(
      "%12.6f  %-22s %s", absl::ToDoubleSeconds(Elapsed()), what, detail));
}

}  // namespace penstock::simulation
