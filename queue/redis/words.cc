#include "queue/redis/words.h"

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

constexpr size_t kFraming = 16;  // about so much is around each word

template <typename Words>
size_t BytesOf(const Words& words) {
  size_t bytes = kFraming;
  for (const auto& word : words) bytes += word.size() + kFraming;
  return bytes;
}

}  // namespace

RedisWords::RedisWords(std::initializer_list<std::string_view> words) {
  wire_.reserve(BytesOf(words));
  AddCommand(words);
}

RedisWords::RedisWords(const std::vector<std::string>& words) {
  wire_.reserve(BytesOf(words));
  BeginCommand(words.size());
  for (const std::string& word : words) Add(word);
}

RedisWords::RedisWords(const RedisScript& script,
                       const std::vector<std::string>& keys, size_t args) {
  constexpr size_t kUsual = 1024;  // a state and what is said of it
  wire_.reserve(kUsual);
  BeginCommand(3 + keys.size() + args);
  Add("EVALSHA");
  Add(script.sha1);
  const absl::AlphaNum count(keys.size());
  Add({count.data(), count.size()});
  for (const std::string& key : keys) Add(key);
}

void RedisWords::BeginCommand(size_t words) {
  absl::StrAppend(&wire_, "*", words, "\r\n");
}

void RedisWords::AddCommand(std::initializer_list<std::string_view> words) {
  BeginCommand(words.size());
  for (std::string_view word : words) Add(word);
}

void RedisWords::Add(std::string_view word) {
  absl::StrAppend(&wire_, "$", word.size(), "\r\n");
  wire_.append(word);
  wire_.append("\r\n");
}

RedisWords RedisWords::AsEval(const RedisScript& script) const {
  RedisWords name;
  name.Add("EVALSHA");
  name.Add(script.sha1);
  const size_t count = wire_.find("\r\n") + 2;
  RedisWords eval;
  eval.wire_ = wire_.substr(0, count);
  eval.Add("EVAL");
  eval.Add(script.body);
  eval.wire_.append(wire_, count + name.wire_.size());
  return eval;
}

}  // namespace penstock
