// The Lua scripts of the Redis broker: how tasks move between a queue, the held
// lists of its workers and the delayed set. Each moves a task whole or not at
// all; what makes that safe is written in consumer.h.

#ifndef PENSTOCK_QUEUE_REDIS_BROKER_SCRIPTS_H_
#define PENSTOCK_QUEUE_REDIS_BROKER_SCRIPTS_H_

#include "queue/redis/scripts.h"

namespace penstock {

// Keys and arguments of each are written above its text in broker_scripts.cc.
struct RedisBrokerScripts {
  RedisScript hold;
  RedisScript take;
  RedisScript give_back;
  RedisScript release;
  RedisScript take_over;
  RedisScript read_due;
  RedisScript move_due;
  RedisScript bury_due;
  RedisScript bury;
};

const RedisBrokerScripts& BrokerScripts();

}  // namespace penstock

#endif  // PENSTOCK_QUEUE_REDIS_BROKER_SCRIPTS_H_
