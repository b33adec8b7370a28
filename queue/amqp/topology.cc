// See topology.h.

#include "queue/amqp/topology.h"

#include <amqp_framing.h>

#include <map>

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
