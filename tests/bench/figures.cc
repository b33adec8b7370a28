#include "tests/bench/figures.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace penstock::bench {
namespace {

std::string Member(const std::string& name, double value) {
  return absl::StrFormat(", \"%s\": %.6f", name, value);
}

double Unix(absl::Time time) {
  return absl::ToDoubleSeconds(time - absl::UnixEpoch());
}

}  // namespace

void Print(Figures figures) {
  std::string line = absl::StrCat("{\"tasks\": ", figures.tasks);
  line += Member("seconds",
                 absl::ToDoubleSeconds(figures.ended - figures.begun));
  line += Member("begun", Unix(figures.begun));
  line += Member("ended", Unix(figures.ended));
  std::vector<absl::Duration>& calls = figures.calls;
  if (!calls.empty()) {
    std::sort(calls.begin(), calls.end());
    const auto at = [&calls](double share) {
      return absl::ToDoubleMicroseconds(
          calls[static_cast<size_t>(share * (calls.size() - 1))]);
    };
    line += Member("p50_us", at(0.5));
    line += Member("p99_us", at(0.99));
    line += Member("p999_us", at(0.999));
  }
  for (const auto& [name, value] : figures.more) line += Member(name, value);
  std::printf("%s}\n", line.c_str());
  std::fflush(stdout);
}

void Fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(1);
}

std::string TaskId(const std::string& prefix, int number) {
  return absl::StrCat(prefix, "-", number);
}

}  // namespace penstock::bench
