// See consumer.h. Everything but the constructor, the destructor and the seven
// calls of Consumer runs on the thread `redis-consume`.

#include "queue/redis/consumer.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "queue/redis/broker_scripts.h"
#include "queue/telemetry/log.h"

namespace penstock {
namespace {

constexpr int kMostTaken = 100;           // of one script
constexpr size_t kEnoughBytes = 1 << 20;  // of one script
constexpr int kMostTakenOver = 500;       // of one script
constexpr absl::Duration kVisited = absl::Hours(1);
constexpr absl::Duration kRetry = absl::Milliseconds(300);
constexpr absl::Duration kGoodbye = absl::Milliseconds(1'000);
// TCP gives up a lost connection's bytes after 10 s.
constexpr absl::Duration kNothingOnItsWay = absl::Seconds(12);

absl::Duration SteadyNow() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

std::string Millis(absl::Duration duration) {
  return absl::StrCat(absl::ToInt64Milliseconds(duration));
}

// What Redis Cluster finds the slot by: what stands between the first brace and
// the next one that closes it, if that is anything.
bool HasHashTag(const std::string& key) {
  const size_t open = key.find('{');
  if (open == key.npos) return false;
  const size_t close = key.find('}', open + 1);
  return close != key.npos && close > open + 1;
}

}  // namespace

RedisQueueKeys KeysOfQueue(const std::string& queue) {
  // A name with a hash tag of its own keeps it; the = keeps "{q}" and "q"
  // apart.
  const std::string tagged = HasHashTag(queue) ? absl::StrCat("=", queue)
                                               : absl::StrCat("{", queue, "}");
  return {.queue = queue,
          .held = absl::StrCat("penstock:held:", tagged, ":"),
          .holders = absl::StrCat("penstock:holders:", tagged),
          .dead = absl::StrCat("penstock:holders:dead:", tagged)};
}

RedisConsumer::RedisConsumer(Options options,
                             absl::AnyInvocable<void(Delivery)> on_delivery,
                             Environment* environment)
    : options_(std::move(options)),
      environment_(environment),
      health_(absl::UnavailableError("redis: not connected yet")),
      on_delivery_(std::move(on_delivery)),
      prefetch_(options_.consume.prefetch),
      sources_(options_.consume.queues.size()) {
  connection_ = std::make_unique<RedisConnection>(
      RedisConnection::Options{.address = options_.address,
                               .name = "redis-held"},
      environment_);
  for (size_t i = 0; i < sources_.size(); ++i) {
    Source& source = sources_[i];
    source.keys = KeysOfQueue(options_.consume.queues[i]);
    source.held = source.keys.held + environment_->NewUuid();
    source.pop = std::make_unique<RedisConnection>(
        RedisConnection::Options{
            .address = options_.address,
            .name = "redis-pop",
            .reply_timeout = options_.block + absl::Seconds(3)},
        environment_);
  }
  thread_ = std::jthread([this](std::stop_token stop) { Run(stop); });
}

RedisConsumer::~RedisConsumer() {
  thread_.request_stop();
  Post([] {});
  thread_.join();
  // A Stop that came while the thread ended.
  for (Closure& step : mailbox_.Take()) std::move(step)();
  CompleteStop();
}

void RedisConsumer::Post(Closure step) {
  // The mailbox is never closed.
  (void)mailbox_.Put(std::move(step));
}

void RedisConsumer::Ack(DeliveryTag tag) {
  Post([this, tag] { Settle(tag, /*returned=*/false); });
}

void RedisConsumer::Return(DeliveryTag tag) {
  Post([this, tag] { Settle(tag, /*returned=*/true); });
}

void RedisConsumer::Pause() {
  Post([this] {
    paused_ = true;
    Unblock();
  });
}

void RedisConsumer::Resume() {
  Post([this] { paused_ = false; });
}

void RedisConsumer::SetPrefetch(int prefetch) {
  Post([this, prefetch] { prefetch_ = prefetch; });
}

void RedisConsumer::Stop(Done done) {
  Post([this, done = std::move(done)]() mutable {
    stopped_ = true;
    stop_done_.push_back(std::move(done));
    Unblock();
  });
}

absl::Status RedisConsumer::Health() {
  absl::MutexLock lock(&mu_);
  return health_;
}

// ---- the thread ------------------------------------------------------------

void RedisConsumer::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "redis-consume");
  while (!stop.stop_requested()) {
    Turn();
    RunSteps(NextTurn());
  }
  SayGoodbye();
  closing_ = true;
  stopped_ = true;
  CompleteStop();
}

void RedisConsumer::RunSteps(absl::Duration until) {
  const absl::Duration left =
      std::clamp(until - SteadyNow(), absl::ZeroDuration(), absl::Seconds(1));
  std::vector<Closure> steps = mailbox_.WaitAndTake(absl::Now() + left);
  WakeLater later;  // what they send goes out together
  for (Closure& step : steps) std::move(step)();
}

void RedisConsumer::Turn() {
  WakeLater later;
  if (lease_lost_) EndGeneration();
  const absl::Duration now = SteadyNow();
  for (Source& source : sources_) {
    SendReturns(source);
    if (lease_lost_) continue;
    if (!source.renewing && now >= source.renew_at) Hold(source);
    if (!source.registered) continue;
    if (now >= source.recheck_at) {
      source.recheck_at = absl::InfiniteDuration();
      source.doubt = true;
    }
    Check(source);
    Take(source);
    TakeOver(source);
  }
  if (stopped_ && !Moving()) CompleteStop();
  LookAtHealth();
}

// A queue is taken from as long as its lease is renewed; see Take. Runs once a
// second at least, so it also sees that an answer does not come.
void RedisConsumer::LookAtHealth() {
  const absl::Duration now = SteadyNow();
  absl::Status health;
  for (const Source& source : sources_) {
    if (source.registered && now - source.held_since <= options_.lease / 2) {
      continue;
    }
    health = absl::UnavailableError(absl::StrCat(
        "redis: no lease on the queue ", source.keys.queue, ": ",
        source.failure.empty() ? "no answer yet" : source.failure));
    break;
  }
  absl::MutexLock lock(&mu_);
  health_ = std::move(health);
}

absl::Duration RedisConsumer::NextTurn() const {
  absl::Duration next = absl::InfiniteDuration();
  if (lease_lost_) return next;  // until all is answered
  const absl::Duration now = SteadyNow();
  for (const Source& source : sources_) {
    if (!source.renewing) next = std::min(next, source.renew_at);
    if (!source.registered) continue;
    if (!source.taking_over) next = std::min(next, source.take_over_at);
    if (source.retry_at > now) next = std::min(next, source.retry_at);
    next = std::min(next, source.recheck_at);
  }
  return next;
}

// Whether a task may still come.
bool RedisConsumer::Moving() const {
  return std::any_of(sources_.begin(), sources_.end(), [](const Source& s) {
    return s.popping || s.taking || s.checking;
  });
}

bool RedisConsumer::IsQuiet(const Source& source) const {
  return !source.renewing && !source.popping && !source.taking &&
         !source.checking && source.returns.empty() && source.settling.empty();
}

void RedisConsumer::CompleteStop() {
  for (Done& done : std::exchange(stop_done_, {})) {
    std::move(done)(absl::OkStatus());
  }
}

// Acks that were given must arrive, and what is held need not wait for the end
// of its lease.
void RedisConsumer::SayGoodbye() {
  closing_ = true;
  const absl::Duration end = SteadyNow() + kGoodbye;
  RunSteps(SteadyNow());
  Unblock();
  const auto busy = [this](const Source& source) {
    return !IsQuiet(source) || (source.registered && source.doubt);
  };
  while (SteadyNow() < end &&
         (lease_lost_ || std::any_of(sources_.begin(), sources_.end(), busy))) {
    Turn();
    RunSteps(SteadyNow() + absl::Milliseconds(50));
  }
  size_t released = 0;
  for (Source& source : sources_) {
    if (source.registered) {
      Release(source, [&released](absl::Status) { ++released; });
    } else {
      ++released;
    }
  }
  const absl::Duration last = SteadyNow() + kGoodbye;
  while (released < sources_.size() && SteadyNow() < last) {
    RunSteps(SteadyNow() + absl::Milliseconds(50));
  }
  // Fails what has no answer; `released` stands until then.
  connection_->Stop();
  for (Source& source : sources_) source.pop->Stop();
  RunSteps(SteadyNow());
}

// ---- the lease -------------------------------------------------------------

void RedisConsumer::Send(std::vector<std::string> words,
                         const RedisScript* script,
                         absl::AnyInvocable<void(Reply) &&> then) {
  connection_->Send(
      {.words = std::move(words),
       .script = script,
       .done = [this, then = std::move(then)](Reply reply) mutable {
         Post([then = std::move(then), reply = std::move(reply)]() mutable {
           std::move(then)(std::move(reply));
         });
       }});
}

void RedisConsumer::Hold(Source& source) {
  const absl::Duration now = SteadyNow();
  const bool first = !source.registered;
  source.renewing = true;
  source.renew_at = now + options_.lease / 4;
  const RedisScript& hold = BrokerScripts().hold;
  Send({"EVALSHA", hold.sha1, "2", source.keys.holders, source.held,
        Millis(options_.lease), first ? "first" : "again"},
       &hold, [this, &source, first, now](Reply reply) {
         OnHeld(source, first, now, std::move(reply));
       });
}

void RedisConsumer::OnHeld(Source& source, bool first, absl::Duration sent,
                           Reply reply) {
  source.renewing = false;
  if (!reply.ok()) {
    source.renew_at = SteadyNow() + std::min(kRetry, options_.lease / 4);
    source.failure = std::string(reply.status().message());
    if (source.logged.insert(std::string(reply.status().message())).second) {
      Log(LogLevel::kWarning, "redis: the lease of a worker is not renewed",
          {{"queue", source.keys.queue}, {"why", reply.status().message()}});
    }
    // Unknown whether it is registered, so perhaps condemned by the next try.
    if (first) source.held = source.keys.held + environment_->NewUuid();
    return;
  }
  if (reply->integer < 0) {
    LoseLease(source);
    return;
  }
  source.logged.clear();
  source.failure.clear();
  source.registered = true;
  source.held_since = sent;
  // More than can be explained, whatever the reason.
  if (static_cast<size_t>(reply->integer) > source.unacked.size() +
                                                source.settling.size() +
                                                (source.popping ? 1 : 0)) {
    source.doubt = true;
  }
}

void RedisConsumer::LoseLease(Source& source) {
  if (lease_lost_) return;
  Log(LogLevel::kWarning,
      "redis: the lease ended, other workers take what this one held",
      {{"queue", source.keys.queue}});
  lease_lost_ = true;
  Unblock();
}

// Not before everything is answered: what still comes belongs to the old lists.
// All queues share the end, since newer generations make tags of older ones
// worthless.
void RedisConsumer::EndGeneration() {
  const auto quiet = [this](const Source& source) { return IsQuiet(source); };
  if (!std::all_of(sources_.begin(), sources_.end(), quiet)) return;
  for (Source& source : sources_) {
    if (source.registered) Release(source, [](absl::Status) {});
    source.held = source.keys.held + environment_->NewUuid();
    source.unacked.clear();
    source.unsettled.clear();
    source.registered = false;
    source.doubt = false;
    source.stray = false;
    source.recheck_at = absl::InfiniteDuration();
    source.renew_at = SteadyNow();
  }
  ++generation_;
  lease_lost_ = false;
}

// If it does not arrive, the lease does the same.
void RedisConsumer::Release(Source& source, Done done) {
  const RedisScript& release = BrokerScripts().release;
  const bool surely = !source.stray && !source.popping;
  Send({"EVALSHA", release.sha1, "4", source.keys.queue, source.held,
        source.keys.holders, source.keys.dead, surely ? "surely" : "perhaps"},
       &release, [done = std::move(done)](Reply reply) mutable {
         std::move(done)(reply.status());
       });
}

void RedisConsumer::TakeOver(Source& source) {
  const absl::Duration now = SteadyNow();
  if (source.taking_over || closing_ || now < source.take_over_at) return;
  source.taking_over = true;
  source.take_over_at =
      now + options_.lease / 4 * (0.75 + environment_->Random() / 2);
  const RedisScript& take_over = BrokerScripts().take_over;
  Send({"EVALSHA", take_over.sha1, "3", source.keys.queue, source.keys.holders,
        source.keys.dead, absl::StrCat(kMostTakenOver), Millis(kVisited)},
       &take_over,
       [this, &source](Reply reply) { OnTakenOver(source, std::move(reply)); });
}

void RedisConsumer::OnTakenOver(Source& source, Reply reply) {
  source.taking_over = false;
  if (!reply.ok() || reply->integer <= 0) return;
  Log(LogLevel::kInfo, "redis: took over what dead workers held",
      {{"queue", source.keys.queue}, {"tasks", absl::StrCat(reply->integer)}});
  source.full = true;
  if (reply->integer >= kMostTakenOver) source.take_over_at = SteadyNow();
}

// ---- taking ----------------------------------------------------------------

void RedisConsumer::Take(Source& source) {
  const absl::Duration now = SteadyNow();
  if (!WantsDeliveries() || source.popping || source.taking || source.doubt ||
      now < source.retry_at || now - source.held_since > options_.lease / 2) {
    return;
  }
  const int room = prefetch_ - static_cast<int>(source.unacked.size());
  if (room <= 0) return;
  if (source.full) {
    SendTake(source, std::min(room, kMostTaken));
  } else {
    SendPop(source);
  }
}

void RedisConsumer::SendPop(Source& source) {
  source.popping = true;
  source.pop->Send(
      {.words = {"CLIENT", "ID"}, .done = [this, &source](Reply reply) {
         if (!reply.ok()) return;
         Post([this, &source, id = reply->integer] {
           source.pop_client = id;
           if (!WantsDeliveries() || lease_lost_) Unblock();
         });
       }});
  source.pop->Send(
      {.words = {"BLMOVE", source.keys.queue, source.held, "LEFT", "RIGHT",
                 absl::StrFormat("%.3f",
                                 absl::ToDoubleSeconds(options_.block))},
       .done = [this, &source](Reply reply) {
         Post([this, &source, reply = std::move(reply)]() mutable {
           OnPopped(source, std::move(reply));
         });
       }});
}

void RedisConsumer::OnPopped(Source& source, Reply reply) {
  source.popping = false;
  if (!reply.ok()) {
    source.stray = true;
    Doubt(source, reply.status());
  } else if (reply->kind == RedisReply::kText) {
    source.full = true;
    Deliver(source, std::move(reply->text));
  }
}

void RedisConsumer::SendTake(Source& source, int count) {
  source.taking = true;
  const RedisScript& take = BrokerScripts().take;
  Send({"EVALSHA", take.sha1, "3", source.keys.queue, source.held,
        source.keys.holders, absl::StrCat(count), absl::StrCat(kEnoughBytes)},
       &take,
       [this, &source](Reply reply) { OnTaken(source, std::move(reply)); });
}

void RedisConsumer::OnTaken(Source& source, Reply reply) {
  source.taking = false;
  if (!reply.ok()) {
    Doubt(source, reply.status());
    return;
  }
  if (reply->kind != RedisReply::kArray) {
    LoseLease(source);
    return;
  }
  source.full = !reply->elements.empty();
  for (RedisReply& element : reply->elements) {
    Deliver(source, std::move(element.text));
  }
}

void RedisConsumer::Deliver(Source& source, std::string body) {
  const size_t index = static_cast<size_t>(&source - sources_.data());
  const uint64_t tag = ++next_tag_ * sources_.size() + index;
  if (!WantsDeliveries() || lease_lost_) {
    source.unacked.emplace(tag, std::move(body));
    source.returns.push_back(tag);
    return;
  }
  source.unacked.emplace(tag, body);
  on_delivery_({.tag = {.generation = generation_, .tag = tag},
                .queue = source.keys.queue,
                .body = std::move(body)});
}

// Ends blocking moves that nobody wants any more. Those that it misses end by
// themselves.
void RedisConsumer::Unblock() {
  for (Source& source : sources_) {
    if (!source.popping || source.pop_client == 0) continue;
    Send({"CLIENT", "UNBLOCK", absl::StrCat(source.pop_client)}, nullptr,
         [](Reply) {});
  }
}

// ---- giving back -----------------------------------------------------------

void RedisConsumer::Settle(DeliveryTag tag, bool returned) {
  if (tag.generation != generation_) return;
  Source& source = sources_[tag.tag % sources_.size()];
  if (returned) {
    const bool known = source.unacked.contains(tag.tag) &&
                       std::find(source.returns.begin(), source.returns.end(),
                                 tag.tag) == source.returns.end();
    if (known) source.returns.push_back(tag.tag);
    return;
  }
  // Returned before, or acked.
  if (std::find(source.returns.begin(), source.returns.end(), tag.tag) !=
      source.returns.end()) {
    return;
  }
  auto node = source.unacked.extract(tag.tag);
  if (node.empty()) return;
  SendSettlement(source, {.body = std::move(node.mapped())});
}

// From the last delivered on, so that the first one stands foremost again.
void RedisConsumer::SendReturns(Source& source) {
  std::vector<uint64_t> returns = std::exchange(source.returns, {});
  std::sort(returns.rbegin(), returns.rend());
  for (const uint64_t tag : returns) {
    auto node = source.unacked.extract(tag);
    if (node.empty()) continue;
    SendSettlement(source,
                   {.returned = true, .body = std::move(node.mapped())});
  }
}

void RedisConsumer::SendSettlement(Source& source, Settlement settlement) {
  const RedisScript& give_back = BrokerScripts().give_back;
  std::vector<std::string> words;
  if (settlement.returned) {
    words = {"EVALSHA",         give_back.sha1, "2",
             source.keys.queue, source.held,    settlement.body};
    source.full = true;
  } else {
    words = {"LREM", source.held, "1", settlement.body};
  }
  const RedisScript* script = settlement.returned ? &give_back : nullptr;
  const uint64_t id = ++next_settlement_;
  source.settling.emplace(id, std::move(settlement));
  Send(std::move(words), script, [this, &source, id](Reply reply) {
    auto node = source.settling.extract(id);
    if (reply.ok()) return;
    source.unsettled.push_back(std::move(node.mapped()));
    Doubt(source, reply.status());
  });
}

// ---- after a lost reply ----------------------------------------------------

void RedisConsumer::Doubt(Source& source, const absl::Status& why) {
  const absl::Duration now = SteadyNow();
  source.doubt = true;
  source.full = true;
  source.pop_client = 0;
  source.retry_at = now + kRetry;
  source.recheck_at = now + options_.block + kNothingOnItsWay;
  if (source.logged.insert(std::string(why.message())).second) {
    Log(LogLevel::kWarning, "redis: no tasks from a queue",
        {{"queue", source.keys.queue}, {"why", why.message()}});
  }
}

void RedisConsumer::Check(Source& source) {
  if (!source.doubt || source.checking || source.popping || source.taking ||
      SteadyNow() < source.retry_at) {
    return;
  }
  source.checking = true;
  Send({"LRANGE", source.held, "0", "-1"}, nullptr,
       [this, &source](Reply reply) { OnChecked(source, std::move(reply)); });
}

void RedisConsumer::OnChecked(Source& source, Reply reply) {
  source.checking = false;
  if (!reply.ok()) {
    Doubt(source, reply.status());
    return;
  }
  source.doubt = false;
  if (lease_lost_) return;
  // Settled after the list was asked for: it may still be in it.
  std::multiset<std::string> known;
  for (const auto& [tag, body] : source.unacked) known.insert(body);
  for (const auto& [id, settlement] : source.settling) {
    known.insert(settlement.body);
  }
  std::vector<Settlement> unsettled = std::exchange(source.unsettled, {});
  for (RedisReply& element : reply->elements) {
    std::string& body = element.text;
    if (auto found = known.find(body); found != known.end()) {
      known.erase(found);
      continue;
    }
    const auto lost =
        std::find_if(unsettled.begin(), unsettled.end(),
                     [&](const Settlement& s) { return s.body == body; });
    if (lost != unsettled.end()) {
      SendSettlement(source, std::move(*lost));
      unsettled.erase(lost);
    } else {
      Deliver(source, std::move(body));
    }
  }
}

}  // namespace penstock
