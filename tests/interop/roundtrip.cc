// The C++ half of the property test of the wire format (roundtrip_test.go): a
// filter from standard input to standard output, a line for a line.
//
//   interop_roundtrip                  each line is "K JSON", K being T (task),
//                                      S (state) or G (group); the answer is
//                                      the JSON that we write after reading it,
//                                      or
//                                      "! ERROR"
//   interop_roundtrip generate SEED N  writes N random documents in that form
//
// One thread. Follows docs/wire-format.md sections 2 and 5.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "queue/json.h"
#include "queue/task.h"
#include "queue/value.h"
#include "queue/wire/state_json.h"
#include "queue/wire/task_json.h"

namespace penstock {
namespace {

template <typename T>
std::string Answer(const absl::StatusOr<T>& decoded,
                   std::string (*encode)(const T&)) {
  if (!decoded.ok()) return absl::StrCat("! ", decoded.status().message());
  return encode(*decoded);
}

std::string AnswerTo(char kind, std::string_view json) {
  switch (kind) {
    case 'T':
      return Answer(DecodeTask(json), EncodeTask);
    case 'S':
      return Answer(DecodeState(json), EncodeState);
    case 'G':
      return Answer(DecodeGroupMeta(json), EncodeGroupMeta);
    default:
      return "! unknown kind";
  }
}

int Filter() {
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << AnswerTo(line.empty() ? ' ' : line[0],
                          std::string_view(line).substr(
                              std::min<size_t>(2, line.size())))
              << '\n';
  }
  return EXIT_SUCCESS;
}

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  std::string Document() {
    switch (Below(4)) {
      case 0:
        return absl::StrCat("S ", EncodeState(MakeState()));
      case 1:
        return absl::StrCat("G ", EncodeGroupMeta(MakeGroup()));
      default:
        return absl::StrCat("T ", EncodeTask(MakeTask(4)));
    }
  }

 private:
  uint64_t Below(uint64_t end) { return random_() % end; }
  bool Flip() { return Below(2) == 0; }

  int64_t Int() {
    switch (Below(4)) {
      case 0:
        return std::numeric_limits<int64_t>::min();
      case 1:
        return std::numeric_limits<int64_t>::max();
      case 2:
        return static_cast<int64_t>(Below(10)) - 5;
      default:
        return static_cast<int64_t>(random_());
    }
  }

  // Any finite double, by its bits.
  double Double() {
    while (true) {
      const uint64_t bits = random_();
      double value = 0;
      std::memcpy(&value, &bits, sizeof(value));
      if (std::isfinite(value)) return Flip() ? value : std::round(value);
    }
  }

  float Float() {
    while (true) {
      const uint32_t bits = static_cast<uint32_t>(random_());
      float value = 0;
      std::memcpy(&value, &bits, sizeof(value));
      if (std::isfinite(value)) return value;
    }
  }

  std::string Text() {
    static constexpr std::string_view kPieces[] = {
        "a",  " ",    "\"",           "\\",           "/",      "<&>", "ä",
        "漢", "😀",    "\xe2\x80\xa8", "\xef\xbf\xbd", "\n\r\t", "{",   "\b",
        "\f", "\x01", "\x7f",         "\xef\xbb\xbf"};
    std::string text;
    for (uint64_t left = Below(8); left > 0; --left) {
      text += kPieces[Below(std::size(kPieces))];
    }
    if (Below(8) == 0) text += '\0';
    return text;
  }

  template <typename Make>
  auto List(Make make) {
    std::vector<decltype(make())> list;
    for (uint64_t left = Below(4); left > 0; --left) list.push_back(make());
    return list;
  }

  TypedValue Typed() {
    switch (Below(11)) {
      case 0:
        return Flip();
      case 1:
        return Int();
      case 2:
        return random_();
      case 3:
        return Double();
      case 4:
        return Text();
      case 5:
        return List([this] { return static_cast<uint8_t>(Below(256)); });
      case 6:
        return List([this] { return Flip(); });
      case 7:
        return List([this] { return Int(); });
      case 8:
        return List([this]() -> uint64_t { return random_(); });
      case 9:
        return List([this] { return Double(); });
      default:
        return List([this] { return Text(); });
    }
  }

  Value MakeAny(bool named) {
    if (Below(8) == 0) {
      return *MakeValue(static_cast<double>(Float()), "float32");
    }
    return *MakeValue(Typed(), "", named ? Text() : "");
  }

  // A header holds any JSON.
  std::string Json(int depth) {
    switch (Below(depth > 0 ? 6 : 4)) {
      case 0:
        return JsonString(Text());
      case 1:
        return Flip() ? "true" : "null";
      case 2:
        return MakeAny(false).json;
      case 3:
        return absl::StrCat(Int());
      case 4:
        return absl::StrCat("[", Json(depth - 1), ",", Json(depth - 1), "]");
      default:
        return absl::StrCat("{\"a\":", Json(depth - 1), ",\"b\":", "{}", "}");
    }
  }

  // A year that both sides write with four digits.
  absl::Time Time() {
    return absl::FromUnixSeconds(static_cast<int64_t>(Below(250'000'000'000)) -
                                 60'000'000'000) +
           absl::Nanoseconds(Flip() ? 0 : Below(1'000'000'000));
  }

  Task MakeTask(int depth) {
    Task task;
    task.id = Text();
    task.name = Text();
    task.routing_key = Text();
    if (Flip()) {
      task.eta = ZonedTime{
          .time = Time(),
          .utc_offset_s =
              Flip() ? 0 : (static_cast<int>(Below(1400)) - 700) * 60};
    }
    task.group_id = Text();
    task.group_task_count = Int();
    task.args = List([this] { return MakeAny(true); });
    task.args_null = task.args.empty() && Flip();
    for (uint64_t left = Below(4); left > 0; --left) {
      task.headers[Text()] = Json(3);
    }
    task.headers_null = task.headers.empty() && Flip();
    task.priority = static_cast<uint8_t>(Below(256));
    task.immutable = Flip();
    task.retry_count = Int();
    task.retry_timeout_s = Int();
    if (depth > 0) {
      const auto nested = [this, depth] {
        return EncodeTask(MakeTask(depth - 1));
      };
      if (Below(3) == 0) task.on_success = List(nested);
      if (Below(3) == 0) task.on_error = List(nested);
      if (Below(3) == 0) task.chord_callback = nested();
    }
    task.on_success_null = task.on_success.empty() && Flip();
    task.on_error_null = task.on_error.empty() && Flip();
    task.broker_message_group_id = Text();
    task.sqs_receipt_handle = Text();
    task.stop_task_deletion_on_error = Flip();
    task.ignore_when_not_registered = Flip();
    return task;
  }

  TaskState MakeState() {
    static constexpr Status kAll[] = {Status::kPending, Status::kReceived,
                                      Status::kStarted, Status::kRetry,
                                      Status::kSuccess, Status::kFailure};
    TaskState state;
    state.task_id = Text();
    state.task_name = Text();
    state.status = kAll[Below(std::size(kAll))];
    state.results = List([this] { return MakeAny(false); });
    state.results_null = state.results.empty() && Flip();
    state.error = Text();
    state.create_time = Time();
    state.ttl = Int();
    return state;
  }

  GroupMeta MakeGroup() {
    GroupMeta meta;
    meta.group_id = Text();
    meta.task_ids = List([this] { return Text(); });
    meta.task_ids_null = meta.task_ids.empty() && Flip();
    meta.chord_triggered = Flip();
    meta.lock = Flip();
    meta.create_time = Time();
    meta.ttl = Int();
    return meta;
  }

  std::mt19937_64 random_;
};

int Generate(const char* seed, const char* count) {
  Generator generator(std::strtoull(seed, nullptr, 10));
  for (int left = std::atoi(count); left > 0; --left) {
    std::cout << generator.Document() << '\n';
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  if (argc == 1) return penstock::Filter();
  if (argc == 4 && std::string_view(argv[1]) == "generate") {
    return penstock::Generate(argv[2], argv[3]);
  }
  std::cerr << "usage: interop_roundtrip [generate SEED N]\n";
  return 2;
}
