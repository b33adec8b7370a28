// penstock-bench-ceiling: what the servers and gRPC themselves can do, in the
// fastest way that we know and without any of Penstock's work. Prints one line of
// JSON.
//
//   publish   persistent, mandatory messages with confirms, a window unanswered
//   consume   the messages of publish, acked up to 64 at a time
//   redis     SETs of a state, a window unanswered
//   echo      serves SendTask that answers at once, until SIGTERM; the load client
//             is its client
//   delete    removes the queue and the exchange that are named so
//
// publish declares the queue as machinery does, so that it works alone.

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <grpcpp/grpcpp.h>
#include <hiredis/hiredis.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "penstock/v1/gateway.grpc.pb.h"
#include "tests/bench/figures.h"

ABSL_FLAG(std::string, mode, "publish",
          "publish, consume, redis, echo or delete");
ABSL_FLAG(int, amqp_port, 5672, "port of RabbitMQ on this machine");
ABSL_FLAG(int, redis_port, 6379, "port of Redis on this machine");
ABSL_FLAG(std::string, queue, "bench", "queue, exchange and binding key");
ABSL_FLAG(bool, quorum, false, "x-queue-type: quorum");
ABSL_FLAG(int, tasks, 1, "how many messages or SETs");
ABSL_FLAG(int, window, 1024, "unconfirmed or unanswered at a time");
ABSL_FLAG(int, bytes, 440, "size of a message: that of add(n, 1)");
ABSL_FLAG(int, prefetch, 256, "deliveries held");
ABSL_FLAG(std::string, listen, "", "HOST:PORT of echo");

namespace penstock::bench {
namespace {

constexpr amqp_channel_t kChannel = 1;
constexpr int kAckEach = 64;

void Demand(bool ok, const std::string& what) {
  if (!ok) Fail(absl::StrCat("RabbitMQ: ", what, " failed"));
}

amqp_bytes_t Bytes(const std::string& text) {
  return {text.size(), const_cast<char*>(text.data())};
}

// A connection with one channel. Waits for ever nowhere: the run ends what takes
// too long.
class Rabbit {
 public:
  Rabbit() : connection_(amqp_new_connection()) {
    amqp_socket_t* socket = amqp_tcp_socket_new(connection_);
    Demand(amqp_socket_open(socket, "127.0.0.1",
                            absl::GetFlag(FLAGS_amqp_port)) == AMQP_STATUS_OK,
           "connect");
    Demand(amqp_login(connection_, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
                      "guest", "guest")
                   .reply_type == AMQP_RESPONSE_NORMAL,
           "login");
    Demand(amqp_channel_open(connection_, kChannel) != nullptr, "channel");
  }
  ~Rabbit() { amqp_destroy_connection(connection_); }
  Rabbit(const Rabbit&) = delete;
  Rabbit& operator=(const Rabbit&) = delete;

  void Declare() {
    amqp_table_entry_t entry = {
        amqp_cstring_bytes("x-queue-type"),
        {.kind = AMQP_FIELD_KIND_UTF8,
         .value = {.bytes = amqp_cstring_bytes("quorum")}}};
    const amqp_table_t quorum = {1, &entry};
    const amqp_bytes_t name = Bytes(queue_);
    Demand(amqp_exchange_declare(connection_, kChannel, name,
                                 amqp_cstring_bytes("direct"), 0, 1, 0, 0,
                                 amqp_empty_table) != nullptr,
           "exchange.declare");
    Demand(amqp_queue_declare(connection_, kChannel, name, 0, 1, 0, 0,
                              absl::GetFlag(FLAGS_quorum) ? quorum
                                                          : amqp_empty_table) !=
               nullptr,
           "queue.declare");
    Demand(amqp_queue_bind(connection_, kChannel, name, name, name,
                           amqp_empty_table) != nullptr,
           "queue.bind");
    amqp_confirm_select(connection_, kChannel);
  }

  void Delete() {
    Demand(amqp_queue_delete(connection_, kChannel, Bytes(queue_), 0, 0) !=
               nullptr,
           "queue.delete");
    Demand(amqp_exchange_delete(connection_, kChannel, Bytes(queue_), 0) !=
               nullptr,
           "exchange.delete");
  }

  // Publishes while the window is open, and reads confirms while it is not.
  void Publish(int total) {
    const std::string body(absl::GetFlag(FLAGS_bytes), 'x');
    amqp_basic_properties_t properties = {};
    properties._flags =
        AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    properties.content_type = amqp_cstring_bytes("application/json");
    const int window = absl::GetFlag(FLAGS_window);
    int sent = 0;
    while (confirmed_ < total) {
      if (sent < total && sent - confirmed_ < window) {
        Demand(amqp_basic_publish(connection_, kChannel, Bytes(queue_),
                                  Bytes(queue_), 1, 0, &properties,
                                  Bytes(body)) == AMQP_STATUS_OK,
               "publish");
        ++sent;
        if (sent % kAckEach == 0) ReadConfirms(false);
      } else {
        ReadConfirms(true);
      }
    }
  }

  // Acks up to kAckEach deliveries with one frame, and the rest at the end.
  void Consume(int total) {
    amqp_basic_qos(connection_, kChannel, 0,
                   static_cast<uint16_t>(absl::GetFlag(FLAGS_prefetch)), 0);
    Demand(amqp_basic_consume(connection_, kChannel, Bytes(queue_),
                              amqp_empty_bytes, 0, 0, 0,
                              amqp_empty_table) != nullptr,
           "consume");
    for (int taken = 1; taken <= total; ++taken) {
      amqp_envelope_t envelope;
      amqp_maybe_release_buffers(connection_);
      Demand(amqp_consume_message(connection_, &envelope, nullptr, 0)
                     .reply_type == AMQP_RESPONSE_NORMAL,
             "a delivery");
      const uint64_t tag = envelope.delivery_tag;
      amqp_destroy_envelope(&envelope);
      if (taken % kAckEach == 0 || taken == total) {
        Demand(amqp_basic_ack(connection_, kChannel, tag, 1) == AMQP_STATUS_OK,
               "ack");
      }
    }
    // The answer to an RPC says that the acks before it have arrived.
    amqp_basic_qos(connection_, kChannel, 0, 1, 0);
  }

 private:
  // Confirms of one connection may come out of order; each counts by itself.
  void ReadConfirms(bool wait) {
    timeval none = {};
    amqp_frame_t frame;
    amqp_maybe_release_buffers(connection_);
    while (amqp_simple_wait_frame_noblock(connection_, &frame,
                                          wait ? nullptr : &none) ==
           AMQP_STATUS_OK) {
      wait = false;
      if (frame.frame_type != AMQP_FRAME_METHOD) continue;
      Demand(frame.payload.method.id == AMQP_BASIC_ACK_METHOD, "a confirm");
      const auto* ack =
          static_cast<const amqp_basic_ack_t*>(frame.payload.method.decoded);
      Confirm(ack->delivery_tag, ack->multiple != 0);
    }
  }

  void Confirm(uint64_t tag, bool multiple) {
    if (settled_.size() <= tag) settled_.resize(tag + 1024);
    uint64_t first = multiple ? oldest_ : tag;
    for (; first <= tag; ++first) {
      if (!settled_[first]) ++confirmed_;
      settled_[first] = true;
    }
    while (oldest_ < settled_.size() && settled_[oldest_]) ++oldest_;
  }

  const std::string queue_ = absl::GetFlag(FLAGS_queue);
  const amqp_connection_state_t connection_;
  std::vector<bool> settled_;  // by delivery tag
  uint64_t oldest_ = 1;        // the first tag that is not settled
  int confirmed_ = 0;
};

// Each returns when its work proper began.
absl::Time Publish(int total) {
  Rabbit rabbit;
  rabbit.Declare();
  const absl::Time begun = absl::Now();
  rabbit.Publish(total);
  return begun;
}

absl::Time Consume(int total) {
  Rabbit rabbit;
  const absl::Time begun = absl::Now();
  rabbit.Consume(total);
  return begun;
}

absl::Time Delete(int) {
  Rabbit().Delete();
  return absl::Now();
}

absl::Time SetInRedis(int total) {
  redisContext* redis =
      redisConnect("127.0.0.1", absl::GetFlag(FLAGS_redis_port));
  if (redis == nullptr || redis->err != 0) Fail("cannot connect to Redis");
  const std::string value(absl::GetFlag(FLAGS_bytes), 'x');
  const int window = absl::GetFlag(FLAGS_window);
  const absl::Time begun = absl::Now();
  int answered = 0;
  for (int sent = 0; answered < total;) {
    const int until = std::min(total, answered + window);
    for (; sent < until; ++sent) {
      redisAppendCommand(redis, "SET %s%d %b EX 3600", "ceiling-", sent,
                         value.data(), value.size());
    }
    for (; answered < sent; ++answered) {
      redisReply* reply = nullptr;
      if (redisGetReply(redis, reinterpret_cast<void**>(&reply)) != REDIS_OK ||
          reply->type != REDIS_REPLY_STATUS) {
        Fail("Redis: SET failed");
      }
      freeReplyObject(reply);
    }
  }
  redisFree(redis);
  return begun;
}

class Echo final : public v1::GatewayService::CallbackService {
  grpc::ServerUnaryReactor* SendTask(grpc::CallbackServerContext* context,
                                     const v1::SendTaskRequest* request,
                                     v1::SendTaskResponse* response) override {
    response->set_task_id(request->task().id());
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// SIGTERM's default action ends it: there is nothing to save.
absl::Time ServeEcho(int) {
  Echo service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::GetFlag(FLAGS_listen),
                           grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) Fail("cannot listen");
  server->Wait();
  return absl::Now();
}

int Main() {
  const std::map<std::string, std::function<absl::Time(int)>> modes = {
      {"publish", Publish}, {"consume", Consume}, {"redis", SetInRedis},
      {"echo", ServeEcho},  {"delete", Delete},
  };
  const auto mode = modes.find(absl::GetFlag(FLAGS_mode));
  if (mode == modes.end()) Fail("unknown --mode");
  const int tasks = absl::GetFlag(FLAGS_tasks);
  Figures figures{.tasks = tasks, .begun = mode->second(tasks)};
  figures.ended = absl::Now();
  Print(std::move(figures));
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return penstock::bench::Main();
}
