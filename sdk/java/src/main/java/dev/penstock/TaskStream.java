package dev.penstock;

import dev.penstock.v1.GatewayServiceGrpc;
import dev.penstock.v1.StreamTask;
import dev.penstock.v1.StreamTaskResult;
import dev.penstock.v1.StreamTasksRequest;
import dev.penstock.v1.StreamTasksResponse;
import io.grpc.ClientCall;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;

/**
 * Sends tasks as they come, with an answer for each: the way to send very many. A task without an
 * id gets one here, so that those without an answer can be sent again when the connection breaks.
 * Thread-safe.
 *
 * <pre>{@code
 * try (TaskStream stream = client.stream()) {
 *   for (Order order : orders) stream.send(Task.of("bill", order.id())).thenAccept(this::note);
 * }
 * }</pre>
 */
public final class TaskStream implements AutoCloseable {
  // 100 tasks may exceed what the gateway takes, and so much in one message is no cheaper than in
  // several.
  private static final int MESSAGE_BYTES = 1 << 20;

  /** A task without an answer. */
  private static final class Pending {
    final StreamTask task;
    final CompletableFuture<TaskHandle> future = new CompletableFuture<>();
    final long began = System.nanoTime();
    int tries;
    boolean pausing; // it is sent again when its pause is over

    Pending(StreamTask task) {
      this.task = task;
    }
  }

  private final Calls calls;

  // Guarded by this. Futures are completed without the lock.
  private final Map<Long, Pending> unanswered = new LinkedHashMap<>();
  private final Deque<Pending> queue = new ArrayDeque<>(); // to be sent, in order
  private Connection connection; // null: there is none, or a pause before the next
  private int credit; // how many tasks may be sent before another answer comes
  private int maxTasks = 1; // of a message, as far as is known
  private int senders; // threads that wait in send()
  private long sequence;
  private int tries; // since the last answer
  private long began;
  private boolean pausing; // before the next connection
  private boolean closing;
  private RpcException broken;

  TaskStream(Calls calls) {
    this.calls = calls;
  }

  /**
   * Sends a task. Blocks while as many are without an answer as the gateway allows, which is about
   * 1,000, and the next message is full.
   *
   * @return completes when the gateway accepted the task, or with {@link RpcException} when it
   *     refused it; runs dependents on a thread of gRPC's, where they must not block
   * @throws RpcException the stream is broken and could not be made anew within the retry budget
   * @throws IllegalStateException it was closed
   */
  public CompletableFuture<TaskHandle> send(Task task) {
    dev.penstock.v1.Task proto = task.proto();
    if (proto.getId().isEmpty()) {
      proto = proto.toBuilder().setId("task_" + UUID.randomUUID()).build();
    }
    synchronized (this) {
      ++senders;
      try {
        while (broken == null && !closing && !hasRoom()) {
          connect();
          pause();
        }
      } finally {
        --senders;
      }
      if (closing) throw new IllegalStateException("the stream was closed");
      if (broken != null) throw again(broken);
      Pending pending =
          new Pending(StreamTask.newBuilder().setSequence(sequence).setTask(proto).build());
      unanswered.put(sequence++, pending);
      queue.add(pending);
      pump();
      return pending.future;
    }
  }

  /** As {@link #send(Task)}, of {@code Task.of(name, args)}. */
  public CompletableFuture<TaskHandle> send(String name, Object... args) {
    return send(Task.of(name, args));
  }

  /**
   * Waits until every task has its answer, and ends the stream.
   *
   * @throws RpcException the stream broke; the futures of the tasks that have no answer say so too
   */
  @Override
  public void close() {
    synchronized (this) {
      closing = true;
      notifyAll();
      while (broken == null && !unanswered.isEmpty()) pause();
      if (connection != null) connection.requests.onCompleted();
      connection = null;
      if (broken != null) throw again(broken);
    }
  }

  /** Where messages take several tasks, as many get ready before there is credit for them. */
  private boolean hasRoom() {
    return queue.size() < (maxTasks > 1 ? maxTasks : Math.min(credit, 1));
  }

  /** Waits for news, with the lock given back meanwhile. */
  private void pause() {
    try {
      wait();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new RpcException(Status.Code.CANCELLED, "", "the thread was interrupted", e);
    }
  }

  /** Begins a connection where there is something to send and none. */
  private synchronized void connect() {
    boolean needed = !queue.isEmpty() || senders > 0;
    if (!needed || connection != null || pausing || broken != null) return;
    if (tries++ == 0) began = System.nanoTime();
    connection = new Connection();
    ClientCall<StreamTasksRequest, StreamTasksResponse> call =
        calls.open(GatewayServiceGrpc.getStreamTasksMethod());
    ClientCalls.asyncBidiStreamingCall(call, connection);
  }

  /**
   * Sends what may be sent. While a message is on its way out, the tasks gather that the next one
   * takes; with one task in each, that would only cost time.
   */
  private synchronized void pump() {
    connect();
    while (connection != null
        && credit > 0
        && !queue.isEmpty()
        && (maxTasks == 1 || connection.requests.isReady())) {
      connection.requests.onNext(message());
    }
    notifyAll();
  }

  /** With the tasks that are ready: it never waits for more. */
  private StreamTasksRequest message() {
    List<StreamTask> tasks = new ArrayList<>();
    int bytes = 0;
    do {
      Pending next = queue.remove();
      --credit;
      ++next.tries;
      tasks.add(next.task);
      bytes += next.task.getSerializedSize();
    } while (credit > 0
        && tasks.size() < maxTasks
        && !queue.isEmpty()
        && bytes + queue.element().task.getSerializedSize() <= MESSAGE_BYTES);
    StreamTasksRequest.Builder message = StreamTasksRequest.newBuilder();
    if (tasks.size() > 1) return message.addAllTasks(tasks).build();
    StreamTask one = tasks.get(0);
    return message.setSequence(one.getSequence()).setTask(one.getTask()).build();
  }

  private void answered(Connection from, StreamTasksResponse answer) {
    List<Runnable> told = new ArrayList<>();
    synchronized (this) {
      if (from != connection) return;
      tries = 0;
      credit += answer.getCredit();
      maxTasks = Math.max(maxTasks, answer.getMaxTasks()); // only the first one has it
      StreamTaskResult.Builder one =
          StreamTaskResult.newBuilder()
              .setSequence(answer.getSequence())
              .setReplayed(answer.getReplayed());
      if (answer.hasTaskId()) one.setTaskId(answer.getTaskId());
      if (answer.hasStatus()) one.setStatus(answer.getStatus());
      settle(one.build(), told);
      for (StreamTaskResult result : answer.getResultsList()) settle(result, told);
      pump();
    }
    told.forEach(Runnable::run);
  }

  /** Adds to `told` what completes the task's future, or has the task sent again. */
  private void settle(StreamTaskResult result, List<Runnable> told) {
    Pending pending = unanswered.get(result.getSequence());
    boolean isOutcome = result.hasTaskId() || result.hasStatus();
    if (!isOutcome || pending == null) return;
    if (result.hasStatus()) {
      RpcException error = RpcException.of(result.getStatus(), null);
      Optional<Duration> again = calls.pause(error, pending.tries, pending.began, calls.budget);
      if (again.isPresent()) {
        pending.pausing = true;
        Calls.after(again.get(), () -> sendAgain(pending));
        return;
      }
      told.add(() -> pending.future.completeExceptionally(error));
    } else {
      TaskHandle handle = new TaskHandle(calls, result.getTaskId(), result.getReplayed());
      told.add(() -> pending.future.complete(handle));
    }
    unanswered.remove(result.getSequence());
  }

  private synchronized void sendAgain(Pending pending) {
    pending.pausing = false;
    if (broken != null) return;
    queue.add(pending);
    pump();
  }

  /** The connection is gone: what has no answer goes to another one. */
  private void lost(Connection from, RpcException error) {
    List<Pending> failed = new ArrayList<>();
    synchronized (this) {
      if (from != connection) return;
      connection = null;
      credit = 0;
      maxTasks = 1;
      queue.clear();
      for (Pending pending : unanswered.values()) {
        if (!pending.pausing) queue.add(pending);
      }
      boolean isIdle = unanswered.isEmpty() && senders == 0;
      if (isIdle) {
        // The next send() connects anew.
        tries = 0;
        return;
      }
      if (tries == 0) {
        tries = 1;
        began = System.nanoTime();
      }
      Optional<Duration> pause = calls.pause(error, tries, began, calls.budget);
      if (pause.isPresent()) {
        pausing = true;
        Calls.after(
            pause.get(),
            () -> {
              synchronized (this) {
                pausing = false;
                connect();
              }
            });
      } else {
        broken = error;
        failed.addAll(unanswered.values());
        unanswered.clear();
        queue.clear();
      }
      notifyAll();
    }
    for (Pending pending : failed) pending.future.completeExceptionally(error);
  }

  /** `error` for another thread, with its stack. */
  private static RpcException again(RpcException error) {
    return new RpcException(error.code(), error.reason(), error.description(), error);
  }

  /** One call of StreamTasks. */
  private final class Connection
      implements ClientResponseObserver<StreamTasksRequest, StreamTasksResponse> {
    ClientCallStreamObserver<StreamTasksRequest> requests;

    @Override
    public void beforeStart(ClientCallStreamObserver<StreamTasksRequest> requests) {
      this.requests = requests;
      requests.setOnReadyHandler(TaskStream.this::pump);
    }

    @Override
    public void onNext(StreamTasksResponse answer) {
      answered(this, answer);
    }

    @Override
    public void onError(Throwable error) {
      lost(this, RpcException.of(error));
    }

    @Override
    public void onCompleted() {
      onError(Status.UNAVAILABLE.withDescription("the stream ended early").asException());
    }
  }
}
