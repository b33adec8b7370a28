// A plain AMQP client for tests: looks at what Penstock left in RabbitMQ, plays
// another program that declares and deletes, and cleans up. Calls wait for
// their answer. One thread.

#ifndef PENSTOCK_TESTS_SUPPORT_AMQP_PROBE_H_
#define PENSTOCK_TESTS_SUPPORT_AMQP_PROBE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

struct amqp_connection_state_t_;

namespace penstock::testing {

// PENSTOCK_TEST_AMQP_URL: the server that tests/run has started. Without it the
// program ends with a message that says so: nothing is skipped silently.
std::string TestAmqpUrl();
// `url` with another port.
std::string WithPort(const std::string& url, int port);

class AmqpProbe {
 public:
  // "amqp://user:password@127.0.0.1:port/vhost"; aborts when it cannot connect.
  explicit AmqpProbe(const std::string& url);
  ~AmqpProbe();
  AmqpProbe(const AmqpProbe&) = delete;
  AmqpProbe& operator=(const AmqpProbe&) = delete;

  // False when the server refuses (it exists with other arguments).
  bool DeclareQueue(const std::string& queue,
                    const std::map<std::string, int64_t>& int_args = {},
                    const std::map<std::string, std::string>& text_args = {});
  void DeleteQueue(const std::string& queue);
  void DeleteExchange(const std::string& exchange);

  // nullopt: there is no such queue.
  std::optional<int64_t> MessagesReady(const std::string& queue);

  struct Message {
    std::string exchange;
    std::string routing_key;
    std::string body;
    std::string content_type;
    std::string message_id;
    int delivery_mode = 0;
    std::optional<int> priority;
    std::map<std::string, std::string> headers;  // "S:text", "t:1", "l:42"
    bool redelivered = false;
  };
  // Takes one message, acked; nullopt: the queue is empty.
  std::optional<Message> Take(const std::string& queue);

  // Sends to the queue by the nameless exchange.
  void Publish(const std::string& queue, const std::string& body);

 private:
  void OpenChannel();

  amqp_connection_state_t_* connection_ = nullptr;
  uint16_t channel_ = 0;
};

}  // namespace penstock::testing

#endif  // PENSTOCK_TESTS_SUPPORT_AMQP_PROBE_H_
