// See topology.h.

#include "queue/amqp/topology.h"

#include <amqp_framing.h>

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace penstock {
namespace {

bool IsDirect(const Options& options) {
  return options.amqp.exchange_type == "direct";
}

// Borrows the strings of `args`.
std::vector<amqp_table_entry_t> Entries(
    const std::map<std::string, DeclareArg>& args) {
  std::vector<amqp_table_entry_t> entries;
  for (const auto& [key, arg] : args) {
    amqp_table_entry_t& entry = entries.emplace_back();
    entry.key = ToBytes(key);
    switch (arg.kind) {
      case DeclareArg::kString:
        entry.value.kind = AMQP_FIELD_KIND_UTF8;
        entry.value.value.bytes = ToBytes(arg.string_value);
        break;
      case DeclareArg::kInt:
        entry.value.kind = AMQP_FIELD_KIND_I64;
        entry.value.value.i64 = arg.int_value;
        break;
      case DeclareArg::kBool:
        entry.value.kind = AMQP_FIELD_KIND_BOOLEAN;
        entry.value.value.boolean = arg.bool_value;
        break;
    }
  }
  return entries;
}

amqp_table_t Table(std::vector<amqp_table_entry_t>& entries) {
  return {static_cast<int>(entries.size()), entries.data()};
}

std::string BindingKey(const Options& options, const std::string& queue) {
  if (queue == options.default_queue || !IsDirect(options)) {
    return options.amqp.binding_key;
  }
  return queue;
}

}  // namespace

std::string AmqpDefaultRoutingKey(const Options& options) {
  return IsDirect(options) ? options.amqp.binding_key : options.default_queue;
}

std::string DeadQueueName(absl::string_view queue) {
  return absl::StrCat("penstock.dead.", queue);
}

QueueSpec StateQueue(std::string task_id, absl::Duration expires) {
  const int64_t ms = absl::ToInt64Milliseconds(expires);
  return {
      .name = std::move(task_id),
      .durable = false,
      .auto_delete = true,
      .bind = true,
      .args = {
          {.kind = QueueArg::kInt32, .key = "x-expires", .number = ms},
          {.kind = QueueArg::kInt32, .key = "x-message-ttl", .number = ms}}};
}

QueueSpec DelayQueue(int64_t delay_ms, const Options& options,
                     const std::string& routing_key, const std::string& queue) {
  const std::string exchange = queue.empty() ? options.amqp.exchange : "";
  const std::string& key = queue.empty() ? routing_key : queue;
  return {.name = absl::StrCat("delay.", delay_ms, ".", exchange, ".", key),
          .auto_delete = options.amqp.auto_delete,
          .bind = true,
          .args = {{.key = "x-dead-letter-exchange", .text = exchange},
                   {.key = "x-dead-letter-routing-key", .text = key},
                   {.kind = QueueArg::kInt64,
                    .key = "x-expires",
                    .number = 2 * delay_ms},
                   {.kind = QueueArg::kInt64,
                    .key = "x-message-ttl",
                    .number = delay_ms}}};
}

bool HasBinding(const QueueSpec& spec, const Options& options) {
  return spec.bind && !options.amqp.exchange.empty();
}

absl::Status SendDeclare(AmqpConnection& connection, amqp_channel_t channel,
                         const QueueSpec& spec, const Options& options) {
  std::vector<amqp_table_entry_t> args;
  for (const QueueArg& arg : spec.args) {
    amqp_table_entry_t& entry = args.emplace_back();
    entry.key = ToBytes(arg.key);
    switch (arg.kind) {
      case QueueArg::kText:
        entry.value.kind = AMQP_FIELD_KIND_UTF8;
        entry.value.value.bytes = ToBytes(arg.text);
        break;
      case QueueArg::kInt32:
        entry.value.kind = AMQP_FIELD_KIND_I32;
        entry.value.value.i32 = static_cast<int32_t>(arg.number);
        break;
      case QueueArg::kInt64:
        entry.value.kind = AMQP_FIELD_KIND_I64;
        entry.value.value.i64 = arg.number;
        break;
    }
  }
  amqp_queue_declare_t declare{};
  declare.queue = ToBytes(spec.name);
  declare.durable = spec.durable;
  declare.auto_delete = spec.auto_delete;
  declare.arguments = Table(args);
  const amqp_connection_state_t handle = connection.handle();
  if (auto status = connection.SendStatus(amqp_send_method(
          handle, channel, AMQP_QUEUE_DECLARE_METHOD, &declare));
      !status.ok() || !HasBinding(spec, options)) {
    return status;
  }
  std::vector<amqp_table_entry_t> binding_args =
      Entries(options.amqp.queue_binding_args);
  amqp_queue_bind_t bind{};
  bind.queue = ToBytes(spec.name);
  bind.exchange = ToBytes(options.amqp.exchange);
  bind.routing_key = ToBytes(spec.name);
  // machinery gives a delay queue's binding arguments, and a state queue's
  // none.
  if (spec.durable) bind.arguments = Table(binding_args);
  return connection.SendStatus(
      amqp_send_method(handle, channel, AMQP_QUEUE_BIND_METHOD, &bind));
}

absl::Status DeclareTopology(AmqpConnection& connection, const Options& options,
                             const std::vector<std::string>& queues) {
  const AmqpOptions& amqp = options.amqp;
  const amqp_connection_state_t handle = connection.handle();
  constexpr amqp_channel_t kChannel = AmqpConnection::kChannel;
  // Everything is bound to the nameless exchange already.
  const bool has_exchange = !amqp.exchange.empty();
  if (has_exchange) {
    amqp_exchange_declare(handle, kChannel, ToBytes(amqp.exchange),
                          ToBytes(amqp.exchange_type), /*passive=*/0,
                          /*durable=*/1, /*auto_delete=*/0, /*internal=*/0,
                          amqp_empty_table);
    if (auto status = connection.RpcStatus(absl::StrCat(
            "exchange \"", amqp.exchange, "\" cannot be declared"));
        !status.ok()) {
      return status;
    }
  }
  std::vector<amqp_table_entry_t> declare_args =
      Entries(amqp.queue_declare_args);
  std::vector<amqp_table_entry_t> binding_args =
      Entries(amqp.queue_binding_args);
  for (const std::string& queue : queues) {
    amqp_queue_declare(handle, kChannel, ToBytes(queue), /*passive=*/0,
                       /*durable=*/1, /*exclusive=*/0, /*auto_delete=*/0,
                       Table(declare_args));
    if (auto status = connection.RpcStatus(
            absl::StrCat("queue \"", queue, "\" cannot be declared"));
        !status.ok()) {
      return status;
    }
    if (!has_exchange) continue;
    amqp_queue_bind(handle, kChannel, ToBytes(queue), ToBytes(amqp.exchange),
                    ToBytes(BindingKey(options, queue)), Table(binding_args));
    if (auto status = connection.RpcStatus(
            absl::StrCat("queue \"", queue, "\" cannot be bound"));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace penstock
