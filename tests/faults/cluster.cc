// Starts and asks what the tests of faults need: see cluster.h.

#include "tests/faults/cluster.h"

#include <signal.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace penstock::testing {
namespace {

constexpr int kIdsPerBatch = 1000;

std::string Binary(const std::string& name) {
  const char* directory = std::getenv("PENSTOCK_BIN_DIR");
  return absl::StrCat(directory == nullptr ? "build/dev/bin" : directory, "/",
                      name);
}

bool IsFinal(const v1::TaskState& state) {
  return state.status() == v1::TASK_STATUS_SUCCESS ||
         state.status() == v1::TASK_STATUS_FAILURE ||
         state.status() == v1::TASK_STATUS_CANCELLED;
}

void SetLimit(grpc::ClientContext& context, absl::Duration limit) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
}

}  // namespace

std::string Ending(const grpc::Status& status) {
  static const auto& names = *new std::map<int, std::string>{
      {grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE"},
      {grpc::StatusCode::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
  };
  if (status.ok()) return "OK";
  const auto name = names.find(status.error_code());
  std::string text =
      name == names.end() ? absl::StrCat(status.error_code()) : name->second;
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info)) absl::StrAppend(&text, " ", info.reason());
  }
  return text;
}

v1::Task AddTask(const std::string& id, int64_t left, int64_t right) {
  v1::Task task;
  task.set_id(id);
  task.set_name("add");
  task.add_args()->set_int_value(left);
  task.add_args()->set_int_value(right);
  return task;
}

int64_t WholeResult(const v1::TaskState& state) {
  if (state.results_size() != 1 || !state.results(0).has_int_value()) return -1;
  return state.results(0).int_value();
}

Cluster::Cluster(Options options)
    : options_(options),
      redis_({.durable = options.durable_redis, .extra = {}}),
      gateways_(options.gateways),
      workers_(options.workers) {
  for (Gateway& gateway : gateways_) gateway.port = FreePort();
}

// The workers end before the servers, so that they drain instead of retrying.
Cluster::~Cluster() {
  for (const std::unique_ptr<Process>& worker : workers_) {
    if (worker != nullptr) worker->Signal(SIGTERM).IgnoreError();
  }
  for (const Gateway& gateway : gateways_) {
    if (gateway.process != nullptr) {
      gateway.process->Stop(absl::Seconds(20)).IgnoreError();
    }
  }
  for (const std::unique_ptr<Process>& worker : workers_) {
    if (worker != nullptr) worker->Stop(absl::Seconds(20)).IgnoreError();
  }
}

std::string Cluster::broker_url() const {
  return options_.redis_broker ? redis_.url() : rabbit_.url();
}

absl::Status Cluster::Start() {
  if (!options_.redis_broker) {
    if (absl::Status status = rabbit_.Start(); !status.ok()) return status;
  }
  if (absl::Status status = redis_.Start(); !status.ok()) return status;
  for (size_t index = 0; index < gateways_.size(); ++index) {
    if (absl::Status status = StartGateway(index); !status.ok()) return status;
  }
  for (size_t index = 0; index < workers_.size(); ++index) {
    if (absl::Status status = StartWorker(index); !status.ok()) return status;
  }
  for (size_t index = 0; index < gateways_.size(); ++index) {
    if (absl::Status status = AwaitServing(index); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Cluster::StartGateway(size_t index) {
  Gateway& gateway = gateways_[index];
  const std::string address = absl::StrCat("127.0.0.1:", gateway.port);
  absl::StatusOr<std::unique_ptr<Process>> process = Process::Start(
      {.argv = {Binary("penstock-gateway"),
                absl::StrCat("--broker=", broker_url()),
                absl::StrCat("--result_backend=", redis_.url()),
                "--default_queue=faults", absl::StrCat("--listen=", address)},
       .environment = {},
       .log_file =
           absl::StrCat(directory_.path(), "/gateway", index, ".log")});
  if (!process.ok()) return process.status();
  gateway.process = *std::move(process);
  if (gateway.stub == nullptr) {
    // One that was killed is soon back: so its clients come back soon.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
    const auto channel = grpc::CreateCustomChannel(
        address, grpc::InsecureChannelCredentials(), arguments);
    gateway.stub = v1::GatewayService::NewStub(channel);
    gateway.admin = v1::AdminService::NewStub(channel);
  }
  return absl::OkStatus();
}

absl::Status Cluster::AwaitServing(size_t index) {
  const Gateway& gateway = gateways_[index];
  const std::unique_ptr<grpc::health::v1::Health::Stub> health =
      grpc::health::v1::Health::NewStub(
          grpc::CreateChannel(absl::StrCat("127.0.0.1:", gateway.port),
                              grpc::InsecureChannelCredentials()));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("penstock.v1.GatewayService");
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (absl::Now() < deadline) {
    grpc::ClientContext context;
    SetLimit(context, absl::Seconds(10));
    context.set_wait_for_ready(true);
    grpc::health::v1::HealthCheckResponse response;
    if (health->Check(&context, request, &response).ok() &&
        response.status() == grpc::health::v1::HealthCheckResponse::SERVING) {
      return absl::OkStatus();
    }
    if (gateway.process->Wait(absl::Milliseconds(50)).ok()) break;
  }
  return absl::UnavailableError("the gateway does not serve: " + Logs());
}

absl::Status Cluster::StartWorker(size_t index) {
  const char* binary = options_.count_runs ? "interop_worker" : "penstock-worker";
  std::map<std::string, std::string> environment = {
      {"PENSTOCK_BROKER", broker_url()},
      {"PENSTOCK_RESULT_BACKEND", redis_.url()},
      {"PENSTOCK_DEFAULT_QUEUE", "faults"},
      {"PENSTOCK_CONCURRENCY", "4"},
      {"PENSTOCK_REDIS_LEASE", "2"},
      {"INTEROP_RUNS", directory_.path() + "/runs"}};
  if (options_.prefetch > 0) {
    environment["PENSTOCK_AMQP_PREFETCH_COUNT"] =
        absl::StrCat(options_.prefetch);
  }
  absl::StatusOr<std::unique_ptr<Process>> worker = Process::Start(
      {.argv = {Binary(binary)},
       .environment = std::move(environment),
       .log_file = absl::StrCat(directory_.path(), "/worker", index, ".log")});
  if (!worker.ok()) return worker.status();
  workers_[index] = *std::move(worker);
  return absl::OkStatus();
}

absl::Status Cluster::ReplaceWorker(size_t index) {
  workers_[index]->Kill();
  return StartWorker(index);
}

absl::Status Cluster::ReplaceGateway(size_t index) {
  gateways_[index].process->Kill();
  return StartGateway(index);
}

std::map<std::string, int> Cluster::Runs() const {
  std::map<std::string, int> runs;
  std::ifstream lines(directory_.path() + "/runs");
  std::string id;
  std::string name;
  while (lines >> id >> name) ++runs[id];
  return runs;
}

grpc::Status Cluster::Send(const v1::Task& task) {
  grpc::ClientContext context;
  SetLimit(context, absl::Seconds(15));
  v1::SendTaskRequest request;
  *request.mutable_task() = task;
  v1::SendTaskResponse response;
  return stub().SendTask(&context, request, &response);
}

absl::StatusOr<std::map<std::string, v1::TaskState>> Cluster::AwaitFinal(
    const std::vector<std::string>& ids, absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  std::map<std::string, v1::TaskState> done;
  for (;;) {
    std::string waiting;
    v1::BatchGetStatesRequest request;
    const auto ask = [&]() -> absl::Status {
      grpc::ClientContext context;
      SetLimit(context, absl::Seconds(15));
      v1::BatchGetStatesResponse response;
      const grpc::Status status =
          stub().BatchGetStates(&context, request, &response);
      if (!status.ok()) {
        return absl::UnavailableError(
            absl::StrCat(Ending(status), ": ", status.error_message()));
      }
      for (v1::TaskState& state : *response.mutable_states()) {
        if (IsFinal(state)) {
          done.insert_or_assign(state.task_id(), std::move(state));
        } else {
          waiting = state.task_id();
        }
      }
      if (response.missing_task_ids_size() > 0) {
        return absl::NotFoundError(
            absl::StrCat(response.missing_task_ids(0), " has no state; ",
                         response.missing_task_ids_size(), " have none"));
      }
      request.clear_task_ids();
      return absl::OkStatus();
    };
    for (const std::string& id : ids) {
      if (done.contains(id)) continue;
      request.add_task_ids(id);
      if (request.task_ids_size() < kIdsPerBatch) continue;
      if (absl::Status status = ask(); !status.ok()) return status;
    }
    if (request.task_ids_size() > 0) {
      if (absl::Status status = ask(); !status.ok()) return status;
    }
    if (waiting.empty()) return done;
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          waiting, " is not final; ", done.size(), " of ", ids.size(), " are"));
    }
    grpc::ClientContext context;
    SetLimit(context, absl::Seconds(15));
    v1::GetStateRequest one;
    one.set_task_id(waiting);
    one.mutable_wait()->set_seconds(2);
    v1::GetStateResponse response;
    stub().GetState(&context, one, &response);
  }
}

absl::StatusOr<int> Cluster::CountFinal(const std::vector<std::string>& ids) {
  int count = 0;
  for (size_t begin = 0; begin < ids.size(); begin += kIdsPerBatch) {
    grpc::ClientContext context;
    SetLimit(context, absl::Seconds(15));
    v1::BatchGetStatesRequest request;
    for (size_t i = begin; i < ids.size() && i < begin + kIdsPerBatch; ++i) {
      request.add_task_ids(ids[i]);
    }
    v1::BatchGetStatesResponse response;
    const grpc::Status status =
        stub().BatchGetStates(&context, request, &response);
    if (!status.ok()) return absl::UnavailableError(status.error_message());
    for (const v1::TaskState& state : response.states()) {
      if (IsFinal(state)) ++count;
    }
  }
  return count;
}

absl::Status Cluster::AwaitEmptyQueues(absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  std::string busy;
  do {
    busy.clear();
    const absl::StatusOr<std::string> listed =
        rabbit_.Control({"list_queues", "-q", "--no-table-headers", "name",
                         "messages_ready", "messages_unacknowledged"});
    if (!listed.ok()) return listed.status();
    std::istringstream lines(*listed);
    std::string name;
    int ready = 0;
    int unacknowledged = 0;
    int queues = 0;
    while (lines >> name >> ready >> unacknowledged) {
      ++queues;
      if (ready + unacknowledged > 0) {
        absl::StrAppend(&busy, name, " ", ready, " ", unacknowledged, "; ");
      }
    }
    if (queues == 0) return absl::NotFoundError("no queue: " + *listed);
  } while (!busy.empty() && absl::Now() < deadline);
  if (busy.empty()) return absl::OkStatus();
  return absl::DeadlineExceededError("messages are left: " + busy);
}

absl::Status Cluster::AwaitNoImmortalKeys(absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  std::string kept;
  do {
    const absl::StatusOr<std::string> found = redis_.Command(
        {"EVAL",
         "local kept = {} "
         "for _, key in ipairs(redis.call('KEYS', '*')) do "
         "  if redis.call('TTL', key) == -1 then kept[#kept + 1] = key end "
         "end "
         "return table.concat(kept, ' ', 1, math.min(#kept, 20))",
         "0"});
    if (!found.ok()) return found.status();
    if (*found == "\n") return absl::OkStatus();
    kept = *found;
    if (gateway().Wait(absl::Milliseconds(200)).ok()) {
      return absl::UnavailableError("the gateway has ended");
    }
  } while (absl::Now() < deadline);
  return absl::DeadlineExceededError("these would stay for ever: " + kept);
}

std::string Cluster::Logs() const {
  std::string logs;
  for (size_t index = 0; index < gateways_.size(); ++index) {
    absl::StrAppend(
        &logs, "\ngateway ", index, ": ",
        TailOfFile(absl::StrCat(directory_.path(), "/gateway", index, ".log")));
  }
  for (size_t index = 0; index < workers_.size(); ++index) {
    absl::StrAppend(
        &logs, "\nworker ", index, ": ",
        TailOfFile(absl::StrCat(directory_.path(), "/worker", index, ".log")));
  }
  return logs;
}

}  // namespace penstock::testing
