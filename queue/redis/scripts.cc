#include "queue/redis/scripts.h"

#include <openssl/sha.h>

#include <string_view>

#include "absl/strings/escaping.h"

namespace penstock {
namespace {

// What the scripts about one task share. KEYS of each: the task's id (its state),
// its mark, its submit key. A state comes from C++ in three pieces, `head` up to
// the value of CreatedAt, that value, and `tail` from there on.
constexpr std::string_view kTask = R"lua(
local function state_of(text)
  return text and string.match(text, '"State":"(%u+)"') or ''
end

local function is_final(text)
  local state = state_of(text)
  return state == 'SUCCESS' or state == 'FAILURE'
end

-- A value of the member "Penstock", which stands last.
local function ours(text, pattern)
  local at = text and string.find(text, ',"Penstock":{', 1, true)
  return at and string.match(text, pattern, at)
end

local function run_of(text)
  return ours(text, '"Run":"([^"]*)"') or ''
end

local function number_of(text, pattern)
  return tonumber(ours(text, pattern) or '0')
end

-- Where the JSON string begins and ends that follows `key`; quotes included.
local function string_at(text, key)
  local _, from = string.find(text, key, 1, true)
  local at = from
  while at do
    at = string.find(text, '["\\]', at + 1)
    if at and string.byte(text, at) == 34 then return from, at end
    at = at and at + 1
  end
end

-- A new state that keeps the create time and the name of the old one.
local function merged(old, head, created, tail)
  local kept = old and string.match(old, '"CreatedAt":"([%dTZ:.+-]+)"')
  if kept and kept ~= '0001-01-01T00:00:00Z' then created = kept end
  if old then
    local from, to = string_at(old, '"TaskName":"')
    local new_from, new_to = string_at(head, '"TaskName":"')
    if from and new_from and to > from + 1 then
      head = string.sub(head, 1, new_from - 1) .. string.sub(old, from, to) ..
             string.sub(head, new_to + 1)
    end
  end
  return head .. created .. tail
end

-- The claim of the submission lives as long as the state that it explains.
local function write(text, ttl)
  redis.call('SET', KEYS[1], text, 'EX', ttl)
  redis.call('EXPIRE', KEYS[3], ttl)
end

local function hint()
  redis.call('PUBLISH', 'penstock:hint', KEYS[1])
end

local function let_live(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) * 1000 then
    redis.call('EXPIRE', key, ttl)
  end
end

-- The state that stands, where `text` is recorded. A mark over one that is not
-- final turns it back into the FAILURE that was written with the mark.
local function standing_over(text, final_ttl)
  if is_final(text) then return text end
  local mark = redis.call('GET', KEYS[2])
  if not mark then return text end
  write(mark, final_ttl)
  let_live(KEYS[2], final_ttl)
  hint()
  return mark
end

local function standing(final_ttl)
  return standing_over(redis.call('GET', KEYS[1]), final_ttl)
end
)lua";

// The submit key holds hash, nonce and the create time of the state that it is
// about, a line each (one of old has no time). About another state it says nothing.
constexpr std::string_view kClaim = R"lua(
-- The last one: a result may hold any JSON.
local function created_of(text)
  return string.match(text, '.*"CreatedAt":"([^"]*)"')
end

-- The third is the hash of a claim that does not count.
local function claim_on(text)
  local stands = redis.call('GET', KEYS[3])
  if not stands then return end
  local hash, nonce, created =
      string.match(stands, '^([^\n]*)\n([^\n]*)\n?(.*)$')
  local now = created_of(text)
  if created == '' or created == now or now == '0001-01-01T00:00:00Z' then
    return hash, nonce
  end
  return nil, nil, hash
end
)lua";

// ARGV: the state, its claim, payload hash, nonce, ttl, and what plain commands
// have just written of it: 'state', 'claim', 'both' (but a mark stands) or 'none'.
constexpr std::string_view kCreatePending = R"lua(
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' or
   (ARGV[6] == 'state' and redis.call('GET', KEYS[1]) == ARGV[1]) then
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[5])
    redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[5])
    return 'created'
  end
elseif ARGV[6] == 'claim' and redis.call('GET', KEYS[3]) == ARGV[2] then
  redis.call('DEL', KEYS[3])  -- what stands had none
end
if kind ~= 'none' and kind ~= 'string' then return 'taken' end
local text = standing(ARGV[5])
local hash, nonce, old_hash = claim_on(text)
if old_hash == ARGV[3] and
   string.gsub(text, '"CreatedAt":"[^"]*"', '') ==
   string.gsub(ARGV[1], '"CreatedAt":"[^"]*"', '') then
  -- PENDING of an equal call that has not come to replace the old claim.
  redis.call('SET', KEYS[3], ARGV[3] .. '\n' .. ARGV[4] .. '\n' ..
             created_of(text), 'EX', ARGV[5])
  return 'repeat'
end
if hash ~= ARGV[3] then return 'taken' end
if state_of(text) ~= 'PENDING' then return 'past' end
return nonce == ARGV[4] and 'created' or 'repeat'
)lua";

// ARGV: nonce (empty: it made no claim). 1: no state stands any more.
constexpr std::string_view kTakeBack = R"lua(
local text = redis.call('GET', KEYS[1])
if not text then return 1 end
local hash, nonce = claim_on(text)
if state_of(text) ~= 'PENDING' or (nonce or '') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[3])
return 1
)lua";

// ARGV: head, created, tail (with Begins 1), attempt, run, max_begins, ttl,
// final_ttl.
constexpr std::string_view kBegin = R"lua(
local old = standing(ARGV[8])
local tail = ARGV[3]
if old then
  if is_final(old) then return {'final', old} end
  local state = state_of(old)
  local attempt = tonumber(ARGV[4])
  if state == 'RETRY' and
     number_of(old, '"NextAttempt":(%d+)') > attempt then
    return {'move', old}
  end
  local begins = 1
  if state == 'STARTED' then
    local begun = number_of(old, '"Attempt":(%d+)')
    if begun > attempt then return {'stale', old} end
    if begun == attempt then
      if run_of(old) == ARGV[5] then return {'run', ''} end
      begins = number_of(old, '"Begins":(%d+)') + 1
    end
  end
  if begins > tonumber(ARGV[6]) then return {'worn_out', old} end
  tail = string.gsub(tail, '"Begins":1', '"Begins":' .. begins, 1)
end
write(merged(old, ARGV[1], ARGV[2], tail), ARGV[7])
return {'run', ''}
)lua";

// ARGV of it and of kFinish: head, created, tail, state, attempt, run, ttl (of the
// outcome), final_ttl, the state that is likely to stand (empty: not known), whose
// create time and name the new one has, and whether the hint brings the outcome.
// Before all that kTask defines, which costs as much again.
constexpr std::string_view kFinishSeen = R"lua(
local seen = ARGV[9] ~= '' and redis.call('MGET', KEYS[1], KEYS[2])
if seen and seen[1] == ARGV[9] and not seen[2] then
  local text = ARGV[1] .. ARGV[2] .. ARGV[3]
  redis.call('SET', KEYS[1], text, 'EX', ARGV[7])
  redis.call('EXPIRE', KEYS[3], ARGV[7])
  redis.call('PUBLISH', 'penstock:hint',
             ARGV[10] ~= '' and KEYS[1] .. '\n' .. text or KEYS[1])
  return {'written', ''}
end
)lua";

constexpr std::string_view kFinish = R"lua(
local before = redis.call('GET', KEYS[1])
local run = ARGV[6]
if is_final(before) and run ~= '' and run_of(before) == run then
  return {'written', ''}
end
local old = standing_over(before, ARGV[8])
if is_final(old) then return {'final', old} end
if ARGV[4] == 'RETRY' and old then
  local writer = run_of(old)
  local attempt = number_of(old, '"Attempt":(%d+)')
  -- A record that carries no run is a Go writer's.
  if writer ~= '' then
    if state_of(old) == 'RETRY' and attempt == tonumber(ARGV[5]) then
      if writer == run then return {'written', ''} end
      return {'retried', old}
    end
    -- Another run of this attempt does not count: its Begin may have come late,
    -- when nobody waited for it any more.
    if attempt > tonumber(ARGV[5]) then return {'stale', ''} end
  end
end
write(merged(old, ARGV[1], ARGV[2], ARGV[3]), ARGV[7])
hint()
return {'written', ''}
)lua";

// ARGV: run, the progress as JSON, ttl. It stands last of all.
constexpr std::string_view kSetProgress = R"lua(
local text = redis.call('GET', KEYS[1])
if state_of(text) ~= 'STARTED' or run_of(text) ~= ARGV[1] then return 0 end
local ours_at = string.find(text, ',"Penstock":{', 1, true)
local at = string.find(text, ',"Progress":{', ours_at, true) or #text - 1
write(string.sub(text, 1, at - 1) .. ',"Progress":' .. ARGV[2] .. '}}', ARGV[3])
hint()
return 1
)lua";

// ARGV: the state, ttl, final_ttl.
constexpr std::string_view kContinue = R"lua(
local text = standing(ARGV[3])
if not text then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
  return {'publish', ''}
end
if is_final(text) then return {'final', text} end
return {state_of(text) == 'PENDING' and 'publish' or 'past', ''}
)lua";

// ARGV: head, created, tail, the member Error as JSON, ttl. The mark holds the
// whole FAILURE, so that it can be restored as it was.
constexpr std::string_view kAbandon = R"lua(
local old = standing(ARGV[5])
if is_final(old) then
  local marked = redis.call('EXISTS', KEYS[2]) == 1
  return marked and string.find(old, ARGV[4], 1, true) and 1 or 0
end
if old and state_of(old) ~= 'PENDING' then return 0 end
local text = merged(old, ARGV[1], ARGV[2], ARGV[3])
redis.call('SET', KEYS[2], text, 'EX', ARGV[5])
write(text, ARGV[5])
hint()
return 1
)lua";

// ARGV: head, created, tail, run, final_ttl.
constexpr std::string_view kCancel = R"lua(
local before = redis.call('GET', KEYS[1])
if is_final(before) and run_of(before) == ARGV[4] then
  return {'cancelled', before}
end
local old = standing_over(before, ARGV[5])
if not old then return {'unknown', ''} end
if is_final(old) then return {'final', old} end
local state = state_of(old)
local text = merged(old, ARGV[1], ARGV[2], ARGV[3])
-- The delivery may come as late as the state would have lived.
local left = math.ceil(redis.call('PTTL', KEYS[1]) / 1000)
redis.call('SET', KEYS[2], text, 'EX',
           string.format('%.0f', math.max(left, tonumber(ARGV[5]))))
write(text, ARGV[5])
hint()
local waits = state == 'PENDING' or state == 'RETRY'
return {waits and 'cancelled' or 'running', text}
)lua";

// ARGV: ttl, 'all' or 'not_begun', final_ttl. It never shortens a life.
constexpr std::string_view kRefresh = R"lua(
local text = redis.call('GET', KEYS[1])
if not text then return 0 end
if is_final(text) then
  let_live(KEYS[1], ARGV[3])
  let_live(KEYS[3], ARGV[3])
  return 1
end
local state = state_of(text)
if ARGV[2] ~= 'all' and state ~= 'PENDING' and state ~= 'RETRY' then
  return 0
end
let_live(KEYS[1], ARGV[1])
let_live(KEYS[3], ARGV[1])
return 1
)lua";

// KEYS: the request. ARGV: payload hash, nonce, time, lease and window in ms.
constexpr std::string_view kClaimRequest = R"lua(
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local lease_end = string.format('%.0f', now + tonumber(ARGV[4]))
local stands = redis.call('HMGET', KEYS[1], 'hash', 'time', 'nonce',
                          'leased_until_ms', 'accepted')
if not stands[1] then
  redis.call('HSET', KEYS[1], 'hash', ARGV[1], 'time', ARGV[3], 'nonce',
             ARGV[2], 'leased_until_ms', lease_end)
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  return {'owned', ARGV[3]}
end
if stands[1] ~= ARGV[1] then return {'taken', stands[2]} end
if stands[5] then return {'done', stands[2]} end
if stands[3] ~= ARGV[2] and now < tonumber(stands[4]) then
  return {'busy', stands[2]}
end
redis.call('HSET', KEYS[1], 'nonce', ARGV[2], 'leased_until_ms', lease_end)
return {'owned', stands[2]}
)lua";

// KEYS: the request. ARGV: nonce, 'accepted', 'open' or 'refused'.
constexpr std::string_view kEndRequest = R"lua(
local stands = redis.call('HMGET', KEYS[1], 'nonce', 'accepted')
if stands[1] ~= ARGV[1] or stands[2] then return 0 end
if ARGV[2] == 'refused' then
  redis.call('DEL', KEYS[1])
elseif ARGV[2] == 'accepted' then
  redis.call('HSET', KEYS[1], 'accepted', '1')
else
  redis.call('HSET', KEYS[1], 'leased_until_ms', '0')
end
return 1
)lua";

// KEYS: the unique key. ARGV: the task, a holder that has ended, ttl ms.
constexpr std::string_view kClaimUnique = R"lua(
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local stands = redis.call('HMGET', KEYS[1], 'task', 'since_ms')
if stands[1] == ARGV[1] then return {'stands', stands[1], '0'} end
if stands[1] and stands[1] ~= ARGV[2] then
  return {'held', stands[1], string.format('%.0f', now - tonumber(stands[2]))}
end
redis.call('HSET', KEYS[1], 'task', ARGV[1], 'since_ms',
           string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'taken', ARGV[1], '0'}
)lua";

// KEYS: the unique key. ARGV: the task.
constexpr std::string_view kReleaseUnique = R"lua(
if redis.call('HGET', KEYS[1], 'task') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
)lua";

// What the scripts about a group or chain share. KEYS of each: the record, and
// for a group machinery's GroupMeta.
constexpr std::string_view kRecord = R"lua(
local function flag_of(meta)
  return meta and string.match(meta, '"ChordTriggered":%s*(%a+)')
end

local function let_live(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) * 1000 then
    redis.call('EXPIRE', key, ttl)
  end
end
)lua";

// KEYS: the open set, the hash beside it. ARGV: member, visit, what to close it
// by ("<open time> <nonce>"). An entry that stands keeps its visit, but who closes
// it by the older time or nonce is too late: the newest caller counts on it.
constexpr std::string_view kOpenRecord = R"lua(
redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
)lua";

// ARGV: ttl, nonce, hash, the ids as JSON, the meta as JSON (empty: a chain),
// then fields and values of the record.
constexpr std::string_view kCreateRecord = R"lua(
if redis.call('EXISTS', KEYS[1]) == 1 then
  local stands = redis.call('HMGET', KEYS[1], 'nonce', 'hash')
  if stands[1] == ARGV[2] then return 'created' end
  return stands[2] == ARGV[3] and 'repeat' or 'taken'
end
if ARGV[5] ~= '' then
  local kind = redis.call('TYPE', KEYS[2]).ok
  if kind ~= 'none' and kind ~= 'string' then return 'taken' end
  local meta = redis.call('GET', KEYS[2])
  if not meta then
    redis.call('SET', KEYS[2], ARGV[5], 'EX', ARGV[1])
  elseif string.find(meta, '"TaskUUIDs":' .. ARGV[4], 1, true) then
    let_live(KEYS[2], ARGV[1])
  else
    return 'taken'
  end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 'created'
)lua";

constexpr std::string_view kGetRecord = R"lua(
local record = redis.call('HGETALL', KEYS[1])
if #record == 0 then return {} end
local meta = KEYS[2] and redis.call('GET', KEYS[2])
local flag = flag_of(meta)
-- The meta may be gone; a claim says that the flag had been set.
local triggered = flag == 'true' or
    (not flag and redis.call('HEXISTS', KEYS[1], 'claimed_ms') == 1)
record[#record + 1] = 'triggered'
record[#record + 1] = triggered and '1' or '0'
return record
)lua";

// ARGV: field, value, ttl, 'HSETNX' (the first value of a field stays) or 'HSET'.
constexpr std::string_view kMarkRecord = R"lua(
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call(ARGV[4], KEYS[1], ARGV[1], ARGV[2])
let_live(KEYS[1], ARGV[3])
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then
  let_live(KEYS[2], ARGV[3])
end
return 1
)lua";

// ARGV: nonce. 0: the record is another submission's, and so is its open entry.
constexpr std::string_view kRemoveRecord = R"lua(
local nonce = redis.call('HGET', KEYS[1], 'nonce')
if not nonce then return 1 end
if nonce ~= ARGV[1] then return 0 end
redis.call('DEL', unpack(KEYS))
return 1
)lua";

// KEYS: the open set, the hash beside it. ARGV: member, open time ('': any),
// nonce ('': any). What was opened anew meanwhile is another's, and stays.
constexpr std::string_view kCloseOpen = R"lua(
local since = redis.call('HGET', KEYS[2], ARGV[1])
if since then
  local time, nonce = string.match(since, '^(%-?%d+) (.*)$')
  if ARGV[2] ~= '' and time ~= ARGV[2] then return 0 end
  if ARGV[3] ~= '' and nonce ~= ARGV[3] then return 0 end
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
)lua";

// ARGV: ttl. What has ended lives as long as its results do.
constexpr std::string_view kExpire = R"lua(
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[1]) end
return 1
)lua";

// KEYS: also machinery's one lock for all chords, TriggerChordMutex. It is in
// another slot than the group, so this script needs one Redis, not a cluster.
// ARGV: token, now, ttl.
constexpr std::string_view kClaimChord = R"lua(
local record = redis.call('HMGET', KEYS[1], 'nonce', 'token')
if record[2] == ARGV[1] then return 'won' end
if redis.call('EXISTS', KEYS[3]) == 1 then return 'locked' end
if not record[1] or record[2] then return 'refused' end
local meta = redis.call('GET', KEYS[2])
local flag = flag_of(meta)
if flag == 'true' then return 'refused' end
if flag then
  -- Everything but the flag stays as its writer wrote it.
  local from, to = string.find(meta, '"ChordTriggered":%s*%a+')
  meta = string.sub(meta, 1, from - 1) .. '"ChordTriggered":true' ..
         string.sub(meta, to + 1)
  local left = math.ceil(redis.call('PTTL', KEYS[2]) / 1000)
  redis.call('SET', KEYS[2], meta, 'EX', math.max(left, tonumber(ARGV[3])))
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'claimed_ms', ARGV[2])
let_live(KEYS[1], ARGV[3])
return 'won'
)lua";

// KEYS: the open set, the hash beside it. ARGV: now, next visit, limit.
constexpr std::string_view kLeaseOpen = R"lua(
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1],
                       'LIMIT', 0, ARGV[3])
local answer = {}
for _, member in ipairs(due) do
  redis.call('ZADD', KEYS[1], ARGV[2], member)
  local since = redis.call('HGET', KEYS[2], member) or '0'
  answer[#answer + 1] = member
  answer[#answer + 1] = string.match(since, '^%-?%d+')
end
return answer
)lua";

// KEYS of the four: the delayed set, the hash beside it. ARGV: id, due, text;
// the text begins with the attempt and a space.
constexpr std::string_view kLay = R"lua(
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
)lua";

// ARGV: limit (up to 1000: Lua's stack), lease in ms. The server's clock decides,
// so that the movers of a fleet agree. A lease ends in the middle of a millisecond,
// where no due time is: so a task that was laid again, whatever its due time, is
// not taken for the leased one. LeasedTask::lease is twice the score.
constexpr std::string_view kLeaseDue = R"lua(
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease = string.format('%.1f', now + tonumber(ARGV[2]) + 0.5)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf',
                       string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
local answer = {string.format('%.0f', tonumber(lease) * 2), ''}
if #due > 0 then
  local texts = redis.call('HMGET', KEYS[2], unpack(due))
  for i, id in ipairs(due) do
    if texts[i] then
      redis.call('ZADD', KEYS[1], lease, id)
      answer[#answer + 1] = id
      answer[#answer + 1] = texts[i]
    else
      redis.call('ZREM', KEYS[1], id)
    end
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  answer[2] = string.format('%.0f', math.ceil(tonumber(first[2])))
end
return answer
)lua";

// ARGV: id. Its score and its text, or nothing.
constexpr std::string_view kGetDelayed = R"lua(
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
local text = redis.call('HGET', KEYS[2], ARGV[1])
if not score or not text then return {} end
return {string.format('%.0f', tonumber(score) * 2), text}
)lua";

// ARGV: id, lease and attempt of each.
constexpr std::string_view kRemoveLeased = R"lua(
for i = 1, #ARGV, 3 do
  local id = ARGV[i]
  local score = redis.call('ZSCORE', KEYS[1], id)
  if score and tonumber(score) * 2 == tonumber(ARGV[i + 1]) then
    local text = redis.call('HGET', KEYS[2], id)
    if not text or string.match(text, '^(%d+) ') == ARGV[i + 2] then
      redis.call('ZREM', KEYS[1], id)
      redis.call('HDEL', KEYS[2], id)
    end
  end
end
return 1
)lua";

// KEYS: the dead letters of a queue, the hash beside them. ARGV: id, time, text.
constexpr std::string_view kLayDead = R"lua(
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
)lua";

// KEYS: the same. ARGV: limit, then the time and id of the place to begin after
// (empty: at the newest). What lies there may be gone: a mark says where it was.
constexpr std::string_view kListDead = R"lua(
local from = 0
if ARGV[3] ~= '' then
  local added = redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[3])
  local score = redis.call('ZSCORE', KEYS[1], ARGV[3])
  if tonumber(score) == tonumber(ARGV[2]) then
    from = redis.call('ZREVRANK', KEYS[1], ARGV[3]) + 1 - added
  else
    from = redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[2], '+inf')
  end
  if added == 1 then redis.call('ZREM', KEYS[1], ARGV[3]) end
end
local answer = {}
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], from,
                               from + tonumber(ARGV[1]) - 1)) do
  local text = redis.call('HGET', KEYS[2], id)
  answer[#answer + 1] = id
  answer[#answer + 1] = text and string.match(text, '^[^\n]*') or ''
end
return answer
)lua";

// KEYS: the same. ARGV: id, time (empty: any).
constexpr std::string_view kRemoveDead = R"lua(
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then return '' end
if ARGV[2] ~= '' and tonumber(score) ~= tonumber(ARGV[2]) then return '' end
local text = redis.call('HGET', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return text and string.match(text, '^[^\n]*') or ''
)lua";

std::string Joined(std::string_view first, std::string_view second) {
  return std::string(first) + std::string(second);
}

}  // namespace

RedisScript MakeRedisScript(std::string_view shared, std::string_view body) {
  RedisScript script;
  script.body = std::string(shared) + std::string(body);
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const unsigned char*>(script.body.data()),
       script.body.size(), digest);
  script.sha1 = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<char*>(digest), sizeof digest));
  return script;
}

const RedisScripts& Scripts() {
  static const RedisScripts* const scripts = new RedisScripts{
      .create_pending = MakeRedisScript(Joined(kTask, kClaim), kCreatePending),
      .take_back = MakeRedisScript(Joined(kTask, kClaim), kTakeBack),
      .begin = MakeRedisScript(kTask, kBegin),
      .finish = MakeRedisScript(Joined(kFinishSeen, kTask), kFinish),
      .set_progress = MakeRedisScript(kTask, kSetProgress),
      .continue_task = MakeRedisScript(kTask, kContinue),
      .abandon = MakeRedisScript(kTask, kAbandon),
      .cancel = MakeRedisScript(kTask, kCancel),
      .refresh = MakeRedisScript(kTask, kRefresh),
      .claim_request = MakeRedisScript("", kClaimRequest),
      .end_request = MakeRedisScript("", kEndRequest),
      .claim_unique = MakeRedisScript("", kClaimUnique),
      .release_unique = MakeRedisScript("", kReleaseUnique),
      .open_record = MakeRedisScript("", kOpenRecord),
      .create_record = MakeRedisScript(kRecord, kCreateRecord),
      .get_record = MakeRedisScript(kRecord, kGetRecord),
      .mark_record = MakeRedisScript(kRecord, kMarkRecord),
      .remove_record = MakeRedisScript("", kRemoveRecord),
      .close_open = MakeRedisScript("", kCloseOpen),
      .expire = MakeRedisScript("", kExpire),
      .claim_chord = MakeRedisScript(kRecord, kClaimChord),
      .lease_open = MakeRedisScript("", kLeaseOpen),
      .lay = MakeRedisScript("", kLay),
      .lease_due = MakeRedisScript("", kLeaseDue),
      .get_delayed = MakeRedisScript("", kGetDelayed),
      .remove_leased = MakeRedisScript("", kRemoveLeased),
      .lay_dead = MakeRedisScript("", kLayDead),
      .list_dead = MakeRedisScript("", kListDead),
      .remove_dead = MakeRedisScript("", kRemoveDead),
  };
  return *scripts;
}

}  // namespace penstock
