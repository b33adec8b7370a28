package dev.penstock;

import dev.penstock.v1.CancelTaskRequest;
import dev.penstock.v1.CancelTaskResponse;
import dev.penstock.v1.GatewayServiceGrpc;
import dev.penstock.v1.GetStateRequest;
import dev.penstock.v1.GetStateResponse;
import java.math.BigInteger;
import java.time.Duration;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/**
 * A task that was sent. Every method may throw {@link RpcException}; NOT_FOUND TASK_NOT_FOUND means
 * that the gateway never saw it, or that its state has expired. Thread-safe.
 */
public class TaskHandle {
  private final Calls calls;
  private final String id;
  private final boolean replayed;

  TaskHandle(Calls calls, String id, boolean replayed) {
    this.calls = calls;
    this.id = id;
    this.replayed = replayed;
  }

  /** Its id. */
  public String id() {
    return id;
  }

  /** Whether an equal task or call had been accepted before: it runs once. */
  public boolean replayed() {
    return replayed;
  }

  /**
   * Waits for it to end, without a limit.
   *
   * @return see {@link TaskState#result}
   * @throws TaskFailedException it ended in FAILURE
   * @throws TaskCancelledException it was cancelled
   */
  public Object result() {
    return Calls.get(resultAsync());
  }

  /**
   * Waits for it to end, at most so long.
   *
   * @return see {@link TaskState#result}
   * @throws TaskFailedException it ended in FAILURE
   * @throws TaskCancelledException it was cancelled
   * @throws ResultTimeoutException it did not end in time; it goes on
   */
  public Object result(Duration timeout) {
    return Calls.get(resultAsync(timeout));
  }

  /**
   * As {@link #result()}, of this class: Boolean, Long, Double, String, byte[], List, or BigInteger
   * for any whole number.
   *
   * @throws ClassCastException the result is of another class
   */
  public <T> T result(Class<T> type) {
    return cast(result(), type);
  }

  /** As {@link #result(Duration)}, of this class: see {@link #result(Class)}. */
  public <T> T result(Class<T> type, Duration timeout) {
    return cast(result(timeout), type);
  }

  /** As {@link #result()}, without blocking. To cancel the future ends the wait, not the task. */
  public CompletableFuture<Object> resultAsync() {
    return Calls.then(awaitFinal(System.nanoTime(), null), TaskState::result);
  }

  /** As {@link #result(Duration)}, without blocking. */
  public CompletableFuture<Object> resultAsync(Duration timeout) {
    return Calls.then(waitDoneAsync(timeout), TaskState::result);
  }

  /**
   * Waits for it to end, at most so long; that it failed or was cancelled is no error here.
   *
   * @throws ResultTimeoutException it did not end in time; it goes on
   */
  public TaskState waitDone(Duration timeout) {
    return Calls.get(waitDoneAsync(timeout));
  }

  /** As {@link #waitDone}, without blocking. */
  public CompletableFuture<TaskState> waitDoneAsync(Duration timeout) {
    return awaitFinal(System.nanoTime(), Objects.requireNonNull(timeout, "timeout"));
  }

  /** How it stands now. */
  public TaskState state() {
    return Calls.get(stateAsync());
  }

  /** As {@link #state}, without blocking. */
  public CompletableFuture<TaskState> stateAsync() {
    return Calls.then(
        calls.unary(GatewayServiceGrpc.getGetStateMethod(), request(Duration.ZERO)),
        TaskHandle::stateOf);
  }

  /**
   * Follows it: its state now, then each change that is seen; quick ones may be skipped, the final
   * one never, with which it ends. Close it when you leave before the end.
   */
  public Watch watch() {
    return new Watch(calls, id);
  }

  /**
   * As {@link #watch}, without blocking: each state is given to {@code onState}, one at a time, on
   * a thread of gRPC's. The future completes with the final state; to cancel it ends the watch.
   */
  public CompletableFuture<TaskState> watchAsync(Consumer<TaskState> onState) {
    return Watch.start(calls, id, onState);
  }

  /**
   * Cancels it: one that waits never starts, the handler of one that runs is told to stop.
   *
   * @param reason for people: the error's text is "cancelled: " and this; may be empty
   * @return whether this call cancelled it; false: it was final already
   */
  public boolean cancel(String reason) {
    return Calls.get(cancelAsync(reason));
  }

  /** As {@link #cancel}, without blocking. */
  public CompletableFuture<Boolean> cancelAsync(String reason) {
    return Calls.then(
        calls.unary(
            GatewayServiceGrpc.getCancelTaskMethod(),
            CancelTaskRequest.newBuilder().setTaskId(id).setReason(reason).build()),
        CancelTaskResponse::getAccepted);
  }

  @Override
  public String toString() {
    return getClass().getSimpleName() + "(" + id + ")";
  }

  /** As {@link #waitDoneAsync}, of a wait that began before, by System.nanoTime(). */
  CompletableFuture<TaskState> awaitFinal(long began, Duration timeout) {
    return Calls.then(
        calls.await(
            GatewayServiceGrpc.getGetStateMethod(),
            this::request,
            answer -> stateOf(answer).status().isFinal(),
            began,
            timeout,
            "task " + id),
        TaskHandle::stateOf);
  }

  private GetStateRequest request(Duration wait) {
    return GetStateRequest.newBuilder().setTaskId(id).setWait(Protos.duration(wait)).build();
  }

  private static TaskState stateOf(GetStateResponse answer) {
    return new TaskState(answer.getState());
  }

  private static <T> T cast(Object result, Class<T> type) {
    if (type == BigInteger.class && result instanceof Long) {
      return type.cast(BigInteger.valueOf((Long) result));
    }
    if (result != null && !type.isInstance(result)) {
      throw new ClassCastException(
          "the result is a " + result.getClass().getName() + ", not a " + type.getName());
    }
    return type.cast(result);
  }
}
