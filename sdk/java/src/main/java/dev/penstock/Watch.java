package dev.penstock;

import dev.penstock.v1.GatewayServiceGrpc;
import dev.penstock.v1.WatchStateRequest;
import dev.penstock.v1.WatchStateResponse;
import io.grpc.ClientCall;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.function.Consumer;

/**
 * The states of a task as they change, the final one last. A stream that breaks is taken up again.
 * For one thread.
 *
 * <pre>{@code
 * try (Watch watch = handle.watch()) {
 *   for (TaskState state : watch) System.out.println(state.status());
 * }
 * }</pre>
 */
public final class Watch implements Iterator<TaskState>, Iterable<TaskState>, AutoCloseable {
  // A state, or the future below when there is no more.
  private final BlockingQueue<Object> news = new LinkedBlockingQueue<>();
  private final CompletableFuture<TaskState> end;
  private Object next;

  Watch(Calls calls, String taskId) {
    end = start(calls, taskId, news::add);
    end.whenComplete((state, error) -> news.add(end));
  }

  /** Gives each state to `onState`, one at a time, and completes with the final one. */
  static CompletableFuture<TaskState> start(
      Calls calls, String taskId, Consumer<TaskState> onState) {
    Stream stream = new Stream(calls, taskId, onState);
    stream.start();
    return stream.future;
  }

  /**
   * Waits for the next state.
   *
   * @return false: the last state was the final one, or this was closed
   * @throws RpcException the watch failed
   */
  @Override
  public boolean hasNext() {
    if (next == null) {
      try {
        next = news.take();
      } catch (InterruptedException e) {
        close();
        Thread.currentThread().interrupt();
        throw new RpcException(
            Status.Code.CANCELLED, "", "the thread was interrupted", e);
      }
    }
    if (next != end) return true;
    if (!end.isCancelled()) Calls.get(end);
    return false;
  }

  /** The next state; see {@link #hasNext}. */
  @Override
  public TaskState next() {
    if (!hasNext()) throw new NoSuchElementException();
    TaskState state = (TaskState) next;
    next = null;
    return state;
  }

  /** This, so that it may stand in a for loop; there is no second run. */
  @Override
  public Iterator<TaskState> iterator() {
    return this;
  }

  /** Ends the watch. The task goes on. */
  @Override
  public void close() {
    end.cancel(false);
  }

  /** The calls of a watch, one after the other. */
  private static final class Stream {
    final CompletableFuture<TaskState> future = new CompletableFuture<>();
    private final Calls calls;
    private final String taskId;
    private final Consumer<TaskState> onState;
    private volatile ClientCall<WatchStateRequest, WatchStateResponse> call;
    private TaskState last;
    private int tries; // since the last message
    private long began;

    Stream(Calls calls, String taskId, Consumer<TaskState> onState) {
      this.calls = calls;
      this.taskId = taskId;
      this.onState = onState;
      future.whenComplete((state, error) -> cancelCall());
    }

    void start() {
      if (future.isDone()) return;
      if (tries++ == 0) began = System.nanoTime();
      call = calls.open(GatewayServiceGrpc.getWatchStateMethod());
      ClientCalls.asyncServerStreamingCall(
          call, WatchStateRequest.newBuilder().addTaskIds(taskId).build(), new Messages());
      if (future.isDone()) cancelCall();
    }

    private void cancelCall() {
      ClientCall<?, ?> current = call;
      if (current != null) current.cancel("the watch is over", null);
    }

    private final class Messages implements StreamObserver<WatchStateResponse> {
      @Override
      public void onNext(WatchStateResponse message) {
        tries = 0;
        if (!message.hasState() || future.isDone()) return;
        TaskState state = new TaskState(message.getState());
        // A call that takes up a watch begins with the state as it is.
        if (state.equals(last)) return;
        last = state;
        try {
          onState.accept(state);
        } catch (RuntimeException e) {
          future.completeExceptionally(e);
        }
      }

      @Override
      public void onCompleted() {
        if (last != null && last.status().isFinal()) future.complete(last);
        else onError(Status.UNAVAILABLE.withDescription("it ended early").asException());
      }

      @Override
      public void onError(Throwable thrown) {
        if (future.isDone()) return; // it was closed
        RpcException error = RpcException.of(thrown);
        if (tries == 0) {
          tries = 1;
          began = System.nanoTime();
        }
        Optional<Duration> pause = calls.pause(error, tries, began, calls.budget);
        if (pause.isEmpty()) future.completeExceptionally(error);
        else Calls.after(pause.get(), Stream.this::start);
      }
    }
  }
}
