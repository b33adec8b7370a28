// Reads the members of machinery's documents into C++ fields, with Go's rules:
// member names in any letter case, null leaves a field as it was, and a value
// of the wrong JSON type is an error that names the field. Used by task_json.cc
// and state_json.cc. Pure; one thread at a time.

#ifndef PENSTOCK_QUEUE_WIRE_FIELDS_H_
#define PENSTOCK_QUEUE_WIRE_FIELDS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "queue/json_reader.h"
#include "queue/task.h"

namespace penstock {

class FieldReader {
 public:
  explicit FieldReader(std::string_view json) : json_(json) {}

  // Reads the members of the object that comes next; read_field(i) is called for
  // each that `names` has, and consumes its value.
  template <typename ReadField>
  void ReadMembers(std::string_view field,
                   std::span<const std::string_view> names,
                   const ReadField& read_field) {
    if (!EnterObject(field)) return;
    size_t expected = 0;
    while (const std::optional<size_t> next = NextField(names, expected)) {
      if (*next < names.size()) {
        read_field(*next);
      } else {
        json_.Skip();
      }
      expected = *next + 1;
    }
  }

  // Each consumes the next value. After an error they do nothing.
  void Read(std::string_view field, std::string* out);
  void Read(std::string_view field, bool* out);
  void Read(std::string_view field, int64_t* out);
  void Read(std::string_view field, int* out);
  void Read(std::string_view field, uint8_t* out);
  void Read(std::string_view field, double* out);
  void Read(std::string_view field, ZonedTime* out);
  void Read(std::string_view field, absl::Time* out);
  void Read(std::string_view field, std::vector<std::string>* out,
            bool* is_null);
  template <typename T>
  void Read(std::string_view field, std::optional<T>* out) {
    if (TakeNull()) {
      out->reset();
    } else {
      Read(field, &out->emplace());
    }
  }

  // True when the next value is null, which is then consumed.
  bool TakeNull();
  // True when an object or array was entered; anything else is an error.
  bool EnterObject(std::string_view field);
  bool EnterArray(std::string_view field);

  JsonReader& json() { return json_; }
  bool ok() { return status_.ok() && json_.status().ok(); }
  absl::Status status() { return status_.ok() ? json_.status() : status_; }

  // Names the place of an error that was just met: "Args[2]." before its text.
  void Within(std::string_view list, size_t index);
  void Fail(std::string_view field, std::string_view text);

 private:
  // Consumes the name of the next member: where it stands in `names`, names.size()
  // when it does not; nullopt behind the last one, and after an error. Members come
  // in order, as a rule, so those from `expected` on are looked at first.
  std::optional<size_t> NextField(std::span<const std::string_view> names,
                                  size_t expected);

  // True when the next value is of `kind`; null is false and no error.
  bool Expect(std::string_view field, JsonKind kind, std::string_view expected);

  JsonReader json_;
  std::string key_;  // of NextField
  absl::Status status_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_WIRE_FIELDS_H_
