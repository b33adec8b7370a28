// What a program of the bench prints: one line of JSON. The Go and Python peers
// print the same names.

#ifndef PENSTOCK_TESTS_BENCH_FIGURES_H_
#define PENSTOCK_TESTS_BENCH_FIGURES_H_

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace penstock::bench {

struct Figures {
  int tasks = 0;
  absl::Time begun;
  absl::Time ended;
  // Of single calls. Printed as p50_us, p99_us and p999_us.
  std::vector<absl::Duration> calls;
  // Printed as they are.
  std::map<std::string, double> more;
};

void Print(Figures figures);

// Ends the program with status 1: what could not be done or checked is no figure.
[[noreturn]] void Fail(const std::string& why);

// PREFIX-NUMBER: the ids of the tasks.
std::string TaskId(const std::string& prefix, int number);

}  // namespace penstock::bench

#endif  // PENSTOCK_TESTS_BENCH_FIGURES_H_
