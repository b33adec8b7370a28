// The words of one Redis command or of several, as the server reads them: one
// string, written on the thread that asks, so that the connection's has little
// left to do.

#ifndef PENSTOCK_QUEUE_REDIS_WORDS_H_
#define PENSTOCK_QUEUE_REDIS_WORDS_H_

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "queue/redis/scripts.h"

namespace penstock {

class RedisWords {
 public:
  RedisWords() = default;
  RedisWords(std::initializer_list<std::string_view> words);
  RedisWords(const std::vector<std::string>& words);

  // EVALSHA of `script`: `args` further words follow by Add.
  RedisWords(const RedisScript& script, const std::vector<std::string>& keys,
             size_t args);

  void Add(std::string_view word);

  // One more command, with a reply of its own: whole, or of so many words that
  // follow by Add.
  void AddCommand(std::initializer_list<std::string_view> words);
  void BeginCommand(size_t words);

  const std::string& wire() const { return wire_; }

  // Of an EVALSHA: the same as EVAL, with the whole script.
  RedisWords AsEval(const RedisScript& script) const;

 private:
  std::string wire_;
};

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_WORDS_H_
