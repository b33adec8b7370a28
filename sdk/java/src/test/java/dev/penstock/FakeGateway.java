package dev.penstock;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import dev.penstock.v1.BatchSendTasksRequest;
import dev.penstock.v1.BatchSendTasksResponse;
import dev.penstock.v1.CancelGroupRequest;
import dev.penstock.v1.CancelGroupResponse;
import dev.penstock.v1.GatewayServiceGrpc;
import dev.penstock.v1.GetGroupStateRequest;
import dev.penstock.v1.GetGroupStateResponse;
import dev.penstock.v1.GetStateRequest;
import dev.penstock.v1.GetStateResponse;
import dev.penstock.v1.SendTaskRequest;
import dev.penstock.v1.SendTaskResponse;
import dev.penstock.v1.StreamTask;
import dev.penstock.v1.StreamTaskResult;
import dev.penstock.v1.StreamTasksRequest;
import dev.penstock.v1.StreamTasksResponse;
import dev.penstock.v1.TaskState;
import dev.penstock.v1.TaskStatus;
import dev.penstock.v1.Value;
import dev.penstock.v1.WatchStateRequest;
import dev.penstock.v1.WatchStateResponse;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.BiConsumer;
import java.util.function.Function;

/** A gateway whose answers a test writes. Listens on a free port of 127.0.0.1. */
final class FakeGateway extends GatewayServiceGrpc.GatewayServiceImplBase implements AutoCloseable {
  final List<SendTaskRequest> sends = new CopyOnWriteArrayList<>();
  final List<Metadata> headers = new CopyOnWriteArrayList<>();

  /** What SendTask answers to its nth request, from 0; what it throws is the error. */
  Function<Integer, SendTaskResponse> onSend = n -> accepted("t");

  BiConsumer<GetStateRequest, StreamObserver<GetStateResponse>> onGetState;
  Function<GetGroupStateRequest, GetGroupStateResponse> onGetGroupState;
  Function<CancelGroupRequest, CancelGroupResponse> onCancelGroup;
  Function<BatchSendTasksRequest, BatchSendTasksResponse> onBatch;
  BiConsumer<WatchStateRequest, StreamObserver<WatchStateResponse>> onWatch;
  Function<StreamObserver<StreamTasksResponse>, StreamObserver<StreamTasksRequest>> onStream;

  private final Server server;

  FakeGateway() throws IOException {
    this(0, InsecureServerCredentials.create());
  }

  FakeGateway(int port, ServerCredentials credentials) throws IOException {
    ServerInterceptor keep =
        new ServerInterceptor() {
          @Override
          public <Q, R> ServerCall.Listener<Q> interceptCall(
              ServerCall<Q, R> call, Metadata metadata, ServerCallHandler<Q, R> next) {
            headers.add(metadata);
            return Contexts.interceptCall(Context.current(), call, metadata, next);
          }
        };
    server =
        Grpc.newServerBuilderForPort(port, credentials)
            .addService(this)
            .intercept(keep)
            .build()
            .start();
  }

  int port() {
    return server.getPort();
  }

  String address() {
    return "127.0.0.1:" + port();
  }

  Client client() {
    return Client.connect(address());
  }

  @Override
  public void close() throws InterruptedException {
    server.shutdownNow().awaitTermination();
  }

  static SendTaskResponse accepted(String id) {
    return SendTaskResponse.newBuilder().setTaskId(id).build();
  }

  /** The answer to a SendTask that has waited. */
  static SendTaskResponse ended(TaskStatus status) {
    return accepted("t").toBuilder().setState(state(status)).build();
  }

  /** The tasks of a message of a stream, with their numbers. */
  static List<StreamTask> tasksOf(StreamTasksRequest message) {
    if (message.getTasksCount() > 0) return message.getTasksList();
    return List.of(
        StreamTask.newBuilder()
            .setSequence(message.getSequence())
            .setTask(message.getTask())
            .build());
  }

  /** The answer to a message of a stream; a task that `refusals` has no place for is accepted. */
  static StreamTasksResponse answer(
      StreamTasksRequest message, com.google.rpc.Status... refusals) {
    StreamTasksResponse.Builder out = StreamTasksResponse.newBuilder();
    for (StreamTask task : tasksOf(message)) {
      StreamTaskResult.Builder result = out.addResultsBuilder().setSequence(task.getSequence());
      if (out.getResultsCount() > refusals.length) result.setTaskId(task.getTask().getId());
      else result.setStatus(refusals[out.getResultsCount() - 1]);
    }
    out.setCredit(out.getResultsCount());
    if (message.getTasksCount() > 0) return out.build();
    StreamTaskResult one = out.getResults(0);
    out.clearResults().setSequence(one.getSequence());
    if (one.hasStatus()) out.setStatus(one.getStatus());
    else out.setTaskId(one.getTaskId());
    return out.build();
  }

  /** The state of a task, with one result if it is a success. */
  static TaskState state(TaskStatus status) {
    TaskState.Builder out = TaskState.newBuilder().setTaskId("t").setStatus(status);
    if (status == TaskStatus.TASK_STATUS_SUCCESS) {
      out.addResults(Value.newBuilder().setType("int64").setIntValue(2));
    }
    return out.build();
  }

  static com.google.rpc.Status status(Status.Code code, String reason, Message... details) {
    com.google.rpc.Status.Builder out =
        com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage("text");
    if (!reason.isEmpty()) {
      ErrorInfo info = ErrorInfo.newBuilder().setReason(reason).putMetadata("k", "v").build();
      out.addDetails(Any.pack(info));
    }
    for (Message detail : details) out.addDetails(Any.pack(detail));
    return out.build();
  }

  static StatusRuntimeException error(Status.Code code, String reason, Message... details) {
    return StatusProto.toStatusRuntimeException(status(code, reason, details));
  }

  @Override
  public void sendTask(SendTaskRequest request, StreamObserver<SendTaskResponse> out) {
    int n;
    synchronized (this) {
      n = sends.size();
      sends.add(request);
    }
    try {
      SendTaskResponse answer = onSend.apply(n);
      if (answer == null) return; // never answers
      out.onNext(answer);
      out.onCompleted();
    } catch (StatusRuntimeException e) {
      out.onError(e);
    }
  }

  @Override
  public void getState(GetStateRequest request, StreamObserver<GetStateResponse> out) {
    onGetState.accept(request, out);
  }

  @Override
  public void getGroupState(
      GetGroupStateRequest request, StreamObserver<GetGroupStateResponse> out) {
    out.onNext(onGetGroupState.apply(request));
    out.onCompleted();
  }

  @Override
  public void cancelGroup(CancelGroupRequest request, StreamObserver<CancelGroupResponse> out) {
    out.onNext(onCancelGroup.apply(request));
    out.onCompleted();
  }

  @Override
  public void batchSendTasks(
      BatchSendTasksRequest request, StreamObserver<BatchSendTasksResponse> out) {
    try {
      out.onNext(onBatch.apply(request));
      out.onCompleted();
    } catch (StatusRuntimeException e) {
      out.onError(e);
    }
  }

  @Override
  public void watchState(WatchStateRequest request, StreamObserver<WatchStateResponse> out) {
    onWatch.accept(request, out);
  }

  @Override
  public StreamObserver<StreamTasksRequest> streamTasks(StreamObserver<StreamTasksResponse> out) {
    return onStream.apply(out);
  }
}
