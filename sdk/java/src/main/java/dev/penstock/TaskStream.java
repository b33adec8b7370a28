package dev.penstock;

import dev.penstock.v1.GatewayServiceGrpc;
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
  /** A task without an answer. */
  private static final class Pending {
    final long sequence;
    final dev.penstock.v1.Task task;
    final CompletableFuture<TaskHandle> future = new CompletableFuture<>();
    final long began = System.nanoTime();
    int tries;
    boolean pausing; // it is sent again when its pause is over

    Pending(long sequence, dev.penstock.v1.Task task) {
      this.sequence = sequence;
      this.task = task;
    }
  }

  private final Calls calls;

  // Guarded by this. Futures are completed without the lock.
  private final Map<Long, Pending> unanswered = new LinkedHashMap<>();
  private final Deque<Pending> queue = new ArrayDeque<>(); // to be sent, in order
  private Connection connection; // null: there is none, or a pause before the next
  private int credit; // how many tasks may be sent before another answer comes
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
   * 1,000.
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
        while (broken == null && !closing && (credit <= 0 || !queue.isEmpty())) {
          connect();
          pause();
        }
      } finally {
        --senders;
      }
      if (closing) throw new IllegalStateException("the stream was closed");
      if (broken != null) throw again(broken);
      Pending pending = new Pending(sequence++, proto);
      unanswered.put(pending.sequence, pending);
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
    credit = 0;
    connection = new Connection();
    ClientCall<StreamTasksRequest, StreamTasksResponse> call =
        calls.open(GatewayServiceGrpc.getStreamTasksMethod());
    ClientCalls.asyncBidiStreamingCall(call, connection);
  }

  /** Sends what may be sent. */
  private synchronized void pump() {
    connect();
    while (connection != null && credit > 0 && !queue.isEmpty() && connection.requests.isReady()) {
      Pending next = queue.remove();
      --credit;
      ++next.tries;
      connection.requests.onNext(
          StreamTasksRequest.newBuilder().setSequence(next.sequence).setTask(next.task).build());
    }
    notifyAll();
  }

  private void answered(Connection from, StreamTasksResponse answer) {
    Pending done = null;
    RpcException error = null;
    synchronized (this) {
      if (from != connection) return;
      tries = 0;
      credit += answer.getCredit();
      Pending pending = unanswered.get(answer.getSequence());
      boolean isAnswer =
          answer.getOutcomeCase() != StreamTasksResponse.OutcomeCase.OUTCOME_NOT_SET;
      if (isAnswer && pending != null) {
        if (answer.hasStatus()) error = RpcException.of(answer.getStatus(), null);
        Optional<Duration> again =
            error == null
                ? Optional.empty()
                : calls.pause(error, pending.tries, pending.began, calls.budget);
        if (again.isPresent()) {
          pending.pausing = true;
          Calls.after(again.get(), () -> sendAgain(pending));
        } else {
          unanswered.remove(pending.sequence);
          done = pending;
        }
      }
      pump();
    }
    if (done == null) return;
    if (error != null) done.future.completeExceptionally(error);
    else done.future.complete(new TaskHandle(calls, answer.getTaskId(), answer.getReplayed()));
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
