// The example tasks: those of Go machinery's example and of its integration
// tests, under the same names, so that its clients can be tried against
// Penstock.

#ifndef PENSTOCK_WORKER_EXAMPLE_TASKS_H_
#define PENSTOCK_WORKER_EXAMPLE_TASKS_H_

#include "penstock/worker.h"

namespace penstock {

//   add, multiply            any number of int64        -> int64
//   sum_ints, sum            []int64                    -> int64
//   sum_floats               []float64                  -> float64
//   concat                   []string                   -> string
//   split                    string                     -> []string, by
//   character swap                     string, string             -> string,
//   string panic_task, panic        nothing                    fails: "oops"
//   long_running_task        nothing                    takes ten seconds
//   return_just_error        string, bool (fail)        fails with the text
//   return_multiple_values   string, string, bool (fail) -> string, string
//   delay_test               nothing                    -> int64, ns since 1970
void RegisterExampleTasks(Worker& worker);

}  // namespace penstock

#endif  // PENSTOCK_WORKER_EXAMPLE_TASKS_H_
