#include "queue/redis/words.h"

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

constexpr size_t kFraming = 16;  // about so much is around each word

template <typename Words>
size_t BytesOf(const Words& words) {
  size_t bytes = 0;
  for (const auto& word : words) bytes += word.size() + kFraming;
  return bytes;
}

}  // namespace

RedisWords::RedisWords(std::initializer_list<std::string_view> words) {
  Begin(words.size(), BytesOf(words));
  for (std::string_view word : words) Add(word);
}

RedisWords::RedisWords(const std::vector<std::string>& words) {
  Begin(words.size(), BytesOf(words));
  for (const std::string& word : words) Add(word);
}

RedisWords::RedisWords(const RedisScript& script,
                       const std::vector<std::string>& keys, size_t args) {
  constexpr size_t kUsual = 1024;  // a state and what is said of it
  Begin(3 + keys.size() + args, kUsual);
  Add("EVALSHA");
  Add(script.sha1);
  const absl::AlphaNum count(keys.size());
  Add({count.data(), count.size()});
  for (const std::string& key : keys) Add(key);
}

void RedisWords::Begin(size_t words, size_t bytes) {
  wire_.reserve(bytes + kFraming);
  absl::StrAppend(&wire_, "*", words, "\r\n");
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
