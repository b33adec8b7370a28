#include "queue/redis/broker_scripts.h"

#include <string_view>

namespace penstock {
namespace {

constexpr std::string_view kClock = R"lua(
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local function whole(number) return string.format('%.0f', number) end
)lua";

// Everything of a held list to the front of the queue, the first one foremost.
constexpr std::string_view kEmpty = R"lua(
local function empty(held, queue, limit)
  local moved = 0
  while moved < limit and
        redis.call('LMOVE', held, queue, 'RIGHT', 'LEFT') do
    moved = moved + 1
  end
  return moved
end
)lua";

// KEYS: holders, held. ARGV: lease in ms, 'first' or 'again'. The length of the
// held list; -1: the holder is gone, another worker took over what it held.
constexpr std::string_view kHold = R"lua(
if ARGV[2] == 'again' and not redis.call('ZSCORE', KEYS[1], KEYS[2]) then
  return -1
end
redis.call('ZADD', KEYS[1], whole(now_ms + ARGV[1]), KEYS[2])
return redis.call('LLEN', KEYS[2])
)lua";

// KEYS: queue, held, holders. ARGV: most tasks, bytes after which it is enough.
// The tasks; nil: the holder is gone.
constexpr std::string_view kTake = R"lua(
if not redis.call('ZSCORE', KEYS[3], KEYS[2]) then return false end
local taken, bytes = {}, 0
while #taken < tonumber(ARGV[1]) and bytes < tonumber(ARGV[2]) do
  local body = redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
  if not body then break end
  taken[#taken + 1] = body
  bytes = bytes + #body
end
return taken
)lua";

// KEYS: queue, held. ARGV: tasks, the last delivered first.
constexpr std::string_view kGiveBack = R"lua(
for _, body in ipairs(ARGV) do
  if redis.call('LREM', KEYS[2], 1, body) == 1 then
    redis.call('LPUSH', KEYS[1], body)
  end
end
return 1
)lua";

// KEYS: queue, held, holders, dead holders. ARGV: 'surely' when nothing can be
// moved to the held list any more.
constexpr std::string_view kRelease = R"lua(
local moved = empty(KEYS[2], KEYS[1], math.huge)
redis.call('ZREM', KEYS[3], KEYS[2])
if ARGV[1] == 'surely' then
  redis.call('ZREM', KEYS[4], KEYS[2])
else
  redis.call('ZADD', KEYS[4], whole(now_ms), KEYS[2])
end
return moved
)lua";

// KEYS: queue, holders, dead holders. ARGV: most tasks, how long a dead holder
// is visited, in ms. How many tasks were moved. The youngest of the dead come
// first: what still reaches a held list, reaches one of theirs.
constexpr std::string_view kTakeOver = R"lua(
local now = whole(now_ms)
for _, held in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now,
                                 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], held)
  redis.call('ZADD', KEYS[3], now, held)
end
local moved, limit = 0, tonumber(ARGV[1])
for _, held in ipairs(redis.call('ZREVRANGE', KEYS[3], 0, 999)) do
  moved = moved + empty(held, KEYS[1], limit - moved)
  if moved >= limit then return moved end
end
for _, held in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf',
                                 whole(now_ms - ARGV[2]), 'LIMIT', 0, 100)) do
  if redis.call('EXISTS', held) == 0 then redis.call('ZREM', KEYS[3], held) end
end
return moved
)lua";

// KEYS: delayed set. ARGV: most tasks, bytes after which it is enough. How long
// to wait in us (-1: nothing waits), then the tasks that are due, oldest first.
constexpr std::string_view kReadDue = R"lua(
local now = whole(now_us * 1000)
local answer, bytes = {-1}, 0
while #answer <= tonumber(ARGV[1]) and bytes < tonumber(ARGV[2]) do
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now,
                           'LIMIT', #answer - 1, 1)
  if not found[1] then break end
  answer[#answer + 1] = found[1]
  bytes = bytes + #found[1]
end
local next = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf',
                        'WITHSCORES', 'LIMIT', 0, 1)
if next[2] then
  answer[1] = math.min(math.ceil(tonumber(next[2]) / 1000 - now_us), 1e12)
end
return answer
)lua";

// KEYS: delayed set, then the queue of each task. ARGV: the tasks. Answers with
// the numbers of those whose queue is no list. A task leaves the set only after
// it was pushed: a script that fails is not rolled back.
constexpr std::string_view kMoveDue = R"lua(
local refused = {}
for i, body in ipairs(ARGV) do
  if redis.call('ZSCORE', KEYS[1], body) then
    local pushed = redis.pcall('RPUSH', KEYS[i + 1], body)
    if type(pushed) == 'number' then
      redis.call('ZREM', KEYS[1], body)
    elseif string.find(pushed.err, 'WRONGTYPE', 1, true) then
      refused[#refused + 1] = i
    else
      return redis.error_reply(pushed.err)
    end
  end
end
return refused
)lua";

// KEYS: delayed set, dead letters, their reasons. ARGV: task, reason.
constexpr std::string_view kBuryDue = R"lua(
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
)lua";

// KEYS: dead letters, their reasons. ARGV: task, reason.
constexpr std::string_view kBury = R"lua(
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[2], ARGV[2])
return 1
)lua";

}  // namespace

const RedisBrokerScripts& BrokerScripts() {
  static const RedisBrokerScripts* const scripts = [] {
    const std::string moving = std::string(kClock) + std::string(kEmpty);
    return new RedisBrokerScripts{
        .hold = MakeRedisScript(kClock, kHold),
        .take = MakeRedisScript("", kTake),
        .give_back = MakeRedisScript("", kGiveBack),
        .release = MakeRedisScript(moving, kRelease),
        .take_over = MakeRedisScript(moving, kTakeOver),
        .read_due = MakeRedisScript(kClock, kReadDue),
        .move_due = MakeRedisScript("", kMoveDue),
        .bury_due = MakeRedisScript("", kBuryDue),
        .bury = MakeRedisScript("", kBury),
    };
  }();
  return *scripts;
}

}  // namespace penstock
