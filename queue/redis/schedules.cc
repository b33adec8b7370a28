#include "queue/redis/schedules.h"

#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "queue/errors.h"

namespace penstock {
namespace {

// What the scripts share. KEYS of each: the names (of score 0, so in order),
// and the due times. Beside the names is a hash for each schedule.
constexpr std::string_view kShared = R"lua(
local fields = {'nonce', 'hash', 'spec', 'missed', 'created_ms', 'paused',
                'next_ms', 'last_ms', 'error', 'run_ms', 'task_id', 'group_id'}

local function key_of(name)
  return KEYS[1] .. ':of:' .. name
end

local function record_of(name, with_call)
  local record = redis.call('HMGET', key_of(name), unpack(fields))
  record[#fields + 1] = with_call and redis.call('HGET', key_of(name), 'call')
                        or ''
  record[#fields + 2] = name
  return record
end
)lua";

// ARGV: name, next tick, then fields and values.
constexpr std::string_view kCreate = R"lua(
local name = ARGV[1]
if redis.call('EXISTS', key_of(name)) == 0 then
  redis.call('HSET', key_of(name), unpack(ARGV, 3))
  redis.call('ZADD', KEYS[1], 0, name)
  redis.call('ZADD', KEYS[2], ARGV[2], name)
end
return record_of(name, false)
)lua";

// ARGV: name.
constexpr std::string_view kGet = R"lua(
if redis.call('EXISTS', key_of(ARGV[1])) == 0 then return {} end
return record_of(ARGV[1], true)
)lua";

// ARGV: the name before the first one, limit, '1': with what they send.
constexpr std::string_view kList = R"lua(
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local answer = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], from, '+',
                                 'LIMIT', 0, ARGV[2])) do
  answer[#answer + 1] = record_of(name, ARGV[3] == '1')
end
return answer
)lua";

// ARGV: name, '1' (pause) or '0', next tick. One that stands so already keeps
// its next tick.
constexpr std::string_view kPause = R"lua(
local name = ARGV[1]
local paused = redis.call('HGET', key_of(name), 'paused')
if not paused then return {} end
if paused ~= ARGV[2] then
  redis.call('HSET', key_of(name), 'paused', ARGV[2])
  if ARGV[2] == '1' then
    redis.call('ZREM', KEYS[2], name)
  else
    redis.call('HSET', key_of(name), 'next_ms', ARGV[3])
    redis.call('ZADD', KEYS[2], ARGV[3], name)
  end
end
return record_of(name, false)
)lua";

// ARGV: name.
constexpr std::string_view kRemove = R"lua(
local name = ARGV[1]
if redis.call('EXISTS', key_of(name)) == 0 then return {} end
local record = record_of(name, false)
redis.call('DEL', key_of(name))
redis.call('ZREM', KEYS[1], name)
redis.call('ZREM', KEYS[2], name)
return record
)lua";

// ARGV: limit, lease and grace in ms. A tick that is to be run is marked begun,
// so that whoever leases it after a crash runs it too, however late that is.
constexpr std::string_view kLease = R"lua(
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf',
                       string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
local answer = {string.format('%.0f', now), ''}
for _, name in ipairs(due) do
  local key = key_of(name)
  local tick = redis.call('HGET', key, 'next_ms')
  if tick then
    local run = redis.call('HGET', key, 'missed') == 'once' or
                redis.call('HGET', key, 'begun_ms') == tick or
                tonumber(tick) >= now - tonumber(ARGV[3])
    if run then redis.call('HSET', key, 'begun_ms', tick) end
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[2])),
               name)
    answer[#answer + 1] = run and '1' or '0'
    answer[#answer + 1] = record_of(name, true)
  else
    redis.call('ZREM', KEYS[2], name)
  end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if first[2] then answer[2] = first[2] end
return answer
)lua";

// ARGV: name, nonce, tick, next tick, visit, error, '1': skipped, then of what
// was sent, if anything was: tick, task id, group id.
constexpr std::string_view kEndTick = R"lua(
local name = ARGV[1]
local key = key_of(name)
local stands = redis.call('HMGET', key, 'nonce', 'next_ms', 'paused')
if stands[1] ~= ARGV[2] or stands[2] ~= ARGV[3] then return 0 end
redis.call('HSET', key, 'next_ms', ARGV[4], 'error', ARGV[6])
if ARGV[7] ~= '1' then redis.call('HSET', key, 'last_ms', ARGV[3]) end
if ARGV[8] ~= '' then
  redis.call('HSET', key, 'run_ms', ARGV[8], 'task_id', ARGV[9], 'group_id',
             ARGV[10])
end
if stands[3] ~= '1' then redis.call('ZADD', KEYS[2], ARGV[5], name) end
return 1
)lua";

std::string Millis(absl::Time time) {
  return absl::StrCat(absl::ToUnixMillis(time));
}

absl::Status Unexpected(absl::string_view what) {
  return MakeError(absl::StatusCode::kInternal, reason::kInternal,
                   std::string(absl::StrCat("a schedule in Redis cannot be ",
                                            "decoded: ", what)));
}

absl::StatusOr<absl::Time> ParseMillis(const std::string& text) {
  int64_t ms = 0;
  if (!absl::SimpleAtoi(text, &ms)) return Unexpected(text);
  return absl::FromUnixMillis(ms);
}

// As record_of orders the fields.
absl::StatusOr<ScheduleRecord> ParseRecord(const RedisReply& reply) {
  const std::vector<RedisReply>& in = reply.elements;
  if (in.size() != 14) return Unexpected("the number of its fields");
  auto created = ParseMillis(in[4].text);
  auto next = ParseMillis(in[6].text);
  if (!created.ok()) return created.status();
  if (!next.ok()) return next.status();
  ScheduleRecord record{.name = in[13].text,
                        .nonce = in[0].text,
                        .payload_hash = in[1].text,
                        .cron_spec = in[2].text,
                        .run_missed = in[3].text == "once",
                        .call = in[12].text,
                        .create_time = *created,
                        .paused = in[5].text == "1",
                        .next_tick = *next,
                        .last_error = in[8].text};
  if (!in[7].text.empty()) {
    auto last = ParseMillis(in[7].text);
    if (!last.ok()) return last.status();
    record.last_tick = *last;
  }
  if (!in[9].text.empty()) {
    auto tick = ParseMillis(in[9].text);
    if (!tick.ok()) return tick.status();
    record.last_run = ScheduleRun{
        .tick = *tick, .task_id = in[10].text, .group_id = in[11].text};
  }
  return record;
}

}  // namespace

const ScheduleScripts& ScriptsOfSchedules() {
  static const auto* const scripts = new ScheduleScripts{
      .create = MakeRedisScript(kShared, kCreate),
      .get = MakeRedisScript(kShared, kGet),
      .list = MakeRedisScript(kShared, kList),
      .pause = MakeRedisScript(kShared, kPause),
      .remove = MakeRedisScript(kShared, kRemove),
      .lease = MakeRedisScript(kShared, kLease),
      .end_tick = MakeRedisScript(kShared, kEndTick),
  };
  return *scripts;
}

std::vector<std::string> ScheduleKeys(const std::string& exchange) {
  const std::string key = absl::StrCat("penstock:schedules:{", exchange, "}");
  return {key, absl::StrCat(key, ":due")};
}

std::vector<std::string> CreateWords(const ScheduleRecord& record) {
  return {record.name,  Millis(record.next_tick),
          "nonce",      record.nonce,
          "hash",       record.payload_hash,
          "spec",       record.cron_spec,
          "missed",     record.run_missed ? "once" : "skip",
          "call",       record.call,
          "created_ms", Millis(record.create_time),
          "paused",     record.paused ? "1" : "0",
          "next_ms",    Millis(record.next_tick)};
}

std::vector<std::string> EndTickWords(const ScheduleTick& tick) {
  std::vector<std::string> words = {tick.name,
                                    tick.nonce,
                                    Millis(tick.tick),
                                    Millis(tick.next_tick),
                                    Millis(tick.visit),
                                    tick.last_error,
                                    tick.skipped ? "1" : "0"};
  if (tick.run.has_value()) {
    words.insert(words.end(), {Millis(tick.run->tick), tick.run->task_id,
                               tick.run->group_id});
  } else {
    words.insert(words.end(), {"", "", ""});
  }
  return words;
}

absl::StatusOr<std::optional<ScheduleRecord>> ParseSchedule(
    const RedisReply& reply) {
  if (reply.elements.empty()) return std::nullopt;
  absl::StatusOr<ScheduleRecord> record = ParseRecord(reply);
  if (!record.ok()) return record.status();
  return *std::move(record);
}

absl::StatusOr<std::vector<ScheduleRecord>> ParseSchedules(
    const RedisReply& reply) {
  std::vector<ScheduleRecord> records;
  for (const RedisReply& element : reply.elements) {
    absl::StatusOr<ScheduleRecord> record = ParseRecord(element);
    if (!record.ok()) return record.status();
    records.push_back(*std::move(record));
  }
  return records;
}

absl::StatusOr<LeasedSchedules> ParseLeasedSchedules(const RedisReply& reply) {
  const std::vector<RedisReply>& in = reply.elements;
  if (in.size() < 2) return Unexpected("the answer's size");
  LeasedSchedules leased;
  auto now = ParseMillis(in[0].text);
  if (!now.ok()) return now.status();
  leased.now = *now;
  if (!in[1].text.empty()) {
    auto next = ParseMillis(in[1].text);
    if (!next.ok()) return next.status();
    leased.next_due = *next;
  }
  for (size_t i = 2; i + 1 < in.size(); i += 2) {
    absl::StatusOr<ScheduleRecord> record = ParseRecord(in[i + 1]);
    if (!record.ok()) return record.status();
    leased.due.push_back(
        {.record = *std::move(record), .run = in[i].text == "1"});
  }
  return leased;
}

}  // namespace penstock
