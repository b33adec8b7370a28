// See amqp_probe.h.

#include "tests/support/amqp_probe.h"

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

namespace penstock::testing {
namespace {

amqp_bytes_t ToBytes(const std::string& text) {
  return {text.size(), const_cast<char*>(text.data())};
}

std::string ToString(amqp_bytes_t bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

[[noreturn]] void Die(const std::string& text) {
  fprintf(stderr, "%s\n", text.c_str());
  exit(1);
}

std::string FieldText(const amqp_field_value_t& value) {
  const std::string kind(1, static_cast<char>(value.kind));
  switch (value.kind) {
    case AMQP_FIELD_KIND_UTF8:
      return kind + ":" + ToString(value.value.bytes);
    case AMQP_FIELD_KIND_BOOLEAN:
      return kind + ":" + std::to_string(value.value.boolean);
    case AMQP_FIELD_KIND_I64:
      return kind + ":" + std::to_string(value.value.i64);
    default:
      return kind;
  }
}

}  // namespace

std::string TestAmqpUrl() {
  const char* url = getenv("PENSTOCK_TEST_AMQP_URL");
  if (url == nullptr || *url == '\0') {
    Die("PENSTOCK_TEST_AMQP_URL is not set: run the tests by tests/run, which "
        "starts the servers");
  }
  return url;
}

std::string WithPort(const std::string& url, int port) {
  std::string text = url;
  amqp_connection_info info;
  if (amqp_parse_url(text.data(), &info) != AMQP_STATUS_OK) Die("bad URL");
  return std::string("amqp://") + info.user + ":" + info.password + "@" +
         info.host + ":" + std::to_string(port) + "/" +
         (std::string(info.vhost) == "/" ? "" : info.vhost);
}

AmqpProbe::AmqpProbe(const std::string& url) {
  std::string text = url;
  amqp_connection_info info;
  if (amqp_parse_url(text.data(), &info) != AMQP_STATUS_OK) Die("bad URL");
  const std::string vhost = *info.vhost == '\0' ? "/" : info.vhost;
  connection_ = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(connection_);
  if (amqp_socket_open(socket, info.host, info.port) != AMQP_STATUS_OK ||
      amqp_login(connection_, vhost.c_str(), 0, 131072, 0,
                 AMQP_SASL_METHOD_PLAIN, info.user, info.password)
              .reply_type != AMQP_RESPONSE_NORMAL) {
    Die("the probe cannot reach RabbitMQ");
  }
  OpenChannel();
}

AmqpProbe::~AmqpProbe() {
  amqp_connection_close(connection_, AMQP_REPLY_SUCCESS);
  amqp_destroy_connection(connection_);
}

void AmqpProbe::OpenChannel() { amqp_channel_open(connection_, ++channel_); }

bool AmqpProbe::DeclareQueue(
    const std::string& queue, const std::map<std::string, int64_t>& int_args,
    const std::map<std::string, std::string>& text_args) {
  std::vector<amqp_table_entry_t> entries;
  for (const auto& [key, value] : int_args) {
    amqp_table_entry_t& entry = entries.emplace_back();
    entry.key = ToBytes(key);
    entry.value.kind = AMQP_FIELD_KIND_I64;
    entry.value.value.i64 = value;
  }
  for (const auto& [key, value] : text_args) {
    amqp_table_entry_t& entry = entries.emplace_back();
    entry.key = ToBytes(key);
    entry.value.kind = AMQP_FIELD_KIND_UTF8;
    entry.value.value.bytes = ToBytes(value);
  }
  const bool declared =
      amqp_queue_declare(
          connection_, channel_, ToBytes(queue), 0, /*durable=*/1, 0, 0,
          {static_cast<int>(entries.size()), entries.data()}) != nullptr;
  if (!declared) OpenChannel();
  return declared;
}

void AmqpProbe::DeleteQueue(const std::string& queue) {
  amqp_queue_delete(connection_, channel_, ToBytes(queue), 0, 0);
}

void AmqpProbe::DeleteExchange(const std::string& exchange) {
  amqp_exchange_delete(connection_, channel_, ToBytes(exchange), 0);
}

std::optional<int64_t> AmqpProbe::MessagesReady(const std::string& queue) {
  const amqp_queue_declare_ok_t* found =
      amqp_queue_declare(connection_, channel_, ToBytes(queue), /*passive=*/1,
                         1, 0, 0, amqp_empty_table);
  if (found != nullptr) return found->message_count;
  OpenChannel();
  return std::nullopt;
}

std::optional<AmqpProbe::Message> AmqpProbe::Take(const std::string& queue) {
  amqp_maybe_release_buffers(connection_);
  const amqp_rpc_reply_t reply =
      amqp_basic_get(connection_, channel_, ToBytes(queue), /*no_ack=*/1);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL ||
      reply.reply.id != AMQP_BASIC_GET_OK_METHOD) {
    return std::nullopt;
  }
  const auto* got = static_cast<amqp_basic_get_ok_t*>(reply.reply.decoded);
  Message message;
  message.exchange = ToString(got->exchange);
  message.routing_key = ToString(got->routing_key);
  message.redelivered = got->redelivered != 0;
  amqp_message_t content;
  amqp_read_message(connection_, channel_, &content, 0);
  message.body = ToString(content.body);
  const amqp_basic_properties_t& properties = content.properties;
  if (properties._flags & AMQP_BASIC_CONTENT_TYPE_FLAG) {
    message.content_type = ToString(properties.content_type);
  }
  if (properties._flags & AMQP_BASIC_MESSAGE_ID_FLAG) {
    message.message_id = ToString(properties.message_id);
  }
  if (properties._flags & AMQP_BASIC_DELIVERY_MODE_FLAG) {
    message.delivery_mode = properties.delivery_mode;
  }
  if (properties._flags & AMQP_BASIC_PRIORITY_FLAG) {
    message.priority = properties.priority;
  }
  if (properties._flags & AMQP_BASIC_HEADERS_FLAG) {
    for (int i = 0; i < properties.headers.num_entries; ++i) {
      const amqp_table_entry_t& entry = properties.headers.entries[i];
      message.headers[ToString(entry.key)] = FieldText(entry.value);
    }
  }
  amqp_destroy_message(&content);
  return message;
}

void AmqpProbe::Publish(const std::string& queue, const std::string& body) {
  amqp_basic_publish(connection_, channel_, amqp_empty_bytes, ToBytes(queue), 0,
                     0, nullptr, ToBytes(body));
}

}  // namespace penstock::testing
