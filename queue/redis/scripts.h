// The Lua scripts of the result backend: one atomic step of the protocol each
// (docs/architecture.md sections 4 to 8), safe to repeat after a lost reply.
// They never decode JSON: machinery's members stand in a fixed order, and the
// few that matter are found by exact text, which cannot occur inside a JSON
// string.

#ifndef PENSTOCK_QUEUE_REDIS_SCRIPTS_H_
#define PENSTOCK_QUEUE_REDIS_SCRIPTS_H_

#include <string>
#include <string_view>

namespace penstock {

struct RedisScript {
  std::string body;
  std::string sha1;  // 40 hexadecimal digits: its name for EVALSHA
};

// `shared` is put before `body`: what several scripts need.
RedisScript MakeRedisScript(std::string_view shared, std::string_view body);

// Keys and arguments of each are written above its text in scripts.cc.
struct RedisScripts {
  RedisScript create_pending;
  RedisScript take_back;
  RedisScript begin;
  RedisScript finish;
  RedisScript set_progress;
  RedisScript continue_task;
  RedisScript abandon;
  RedisScript cancel;
  RedisScript refresh;
  RedisScript claim_request;
  RedisScript end_request;
  RedisScript claim_unique;
  RedisScript release_unique;
  RedisScript open_record;
  RedisScript create_record;
  RedisScript get_record;
  RedisScript mark_record;
  RedisScript remove_record;
  RedisScript close_open;
  RedisScript expire;
  RedisScript claim_chord;
  RedisScript lease_open;
  RedisScript lay;
  RedisScript lease_due;
  RedisScript get_delayed;
  RedisScript remove_leased;
  RedisScript lay_dead;
  RedisScript list_dead;
  RedisScript remove_dead;
};

const RedisScripts& Scripts();

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_SCRIPTS_H_
