// What a handler may know of the task that it runs, by taking a
// `penstock::Context&` as its first parameter.

#ifndef PENSTOCK_CONTEXT_H_
#define PENSTOCK_CONTEXT_H_

#include <functional>
#include <map>
#include <stop_token>
#include <string>
#include <string_view>

namespace penstock {

struct Context {
  std::string task_id;
  std::string name;      // under which the handler is registered
  int attempt = 1;       // 2 on the first retry, and so on
  std::string group_id;  // empty: not in a group
  std::string queue;     // that the task was taken from
  // The task's headers that are strings; others are passed on but not shown.
  std::map<std::string, std::string> headers;
  // The broker says that it delivered this task before. Only a hint: a task may
  // run twice without it, so make handlers repeatable.
  bool redelivered = false;
  // Fires when the task was cancelled (it is seen within two seconds), and when
  // the worker's drain deadline has passed: return soon, with any result. That of
  // a cancelled task is dropped; what has not returned when the worker ends runs
  // again on another one.
  std::stop_token stop;

  // Says how far the handler has come: `fraction` from 0 to 1, and a line for
  // people, of which at most 1,000 bytes are kept. GetState and WatchState show
  // the newest while the handler runs. From any thread until the handler returns;
  // never blocks. It is written twice a second at most, and may be lost; where
  // RabbitMQ keeps the states it is not kept at all.
  void SetProgress(double fraction, std::string_view line = {}) const {
    if (report_progress) report_progress(fraction, line);
  }

  // Where SetProgress goes. Empty, as in a test of a handler: nowhere.
  std::function<void(double, std::string_view)> report_progress;
};

}  // namespace penstock

#endif  // PENSTOCK_CONTEXT_H_
