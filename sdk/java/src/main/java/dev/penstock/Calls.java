package dev.penstock;

import com.google.protobuf.MessageLite;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Function;
import java.util.function.Predicate;
import java.util.function.Supplier;

/**
 * Calls of the gateway over one channel, repeated as {@link RetryRule} says. Nothing here blocks
 * but {@link #get}; callbacks run on gRPC's threads. Thread-safe.
 */
final class Calls {
  /** How long one call waits at most for an end. */
  static final Duration LONGEST_WAIT = Duration.ofSeconds(30);

  /** The pause before a wait that a stopping gateway ended early is taken up again. */
  private static final Duration EARLY_PAUSE = Duration.ofMillis(100);

  private static final long RECONNECT_EVERY_NANOS = TimeUnit.MILLISECONDS.toNanos(500);

  /** What all views of a client share. */
  static final class Link {
    final ManagedChannel channel;
    volatile boolean closed;
    private final AtomicLong reconnected =
        new AtomicLong(System.nanoTime() - RECONNECT_EVERY_NANOS);

    Link(ManagedChannel channel) {
      this.channel = channel;
    }

    /** gRPC would wait for up to two minutes before it connects again. */
    void reconnectSoon() {
      long last = reconnected.get();
      long now = System.nanoTime();
      if (now - last < RECONNECT_EVERY_NANOS || !reconnected.compareAndSet(last, now)) return;
      channel.resetConnectBackoff();
    }
  }

  final Link link;
  final Duration deadline;
  final Duration budget;
  final Metadata metadata;
  private final Channel channel;

  Calls(Link link, Duration deadline, Duration budget, Metadata metadata) {
    this.link = link;
    this.deadline = deadline;
    this.budget = budget;
    this.metadata = metadata;
    this.channel =
        ClientInterceptors.intercept(
            link.channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  /**
   * A call without a deadline, which the caller starts. It is ready when all that it was given has
   * left.
   */
  <Q, R> ClientCall<Q, R> open(MethodDescriptor<Q, R> method) {
    return channel.newCall(method, CallOptions.DEFAULT.withOnReadyThreshold(1));
  }

  /** One request, one answer, with the deadline and the retries of these calls. */
  <Q extends MessageLite, R> CompletableFuture<R> unary(MethodDescriptor<Q, R> method, Q request) {
    return unary(method, request, deadline, budget);
  }

  <Q extends MessageLite, R> CompletableFuture<R> unary(
      MethodDescriptor<Q, R> method, Q request, Duration deadline, Duration budget) {
    Unary<Q, R> call = new Unary<>(method, request, deadline, budget);
    call.start();
    return call.future;
  }

  /** A unary call with its repeats. One attempt at a time is under way. */
  private final class Unary<Q, R> implements StreamObserver<R> {
    final CompletableFuture<R> future = new CompletableFuture<>();
    private final MethodDescriptor<Q, R> method;
    private final Q request;
    private final Duration deadline;
    private final Duration budget;
    private final long began = System.nanoTime();
    private int tries;
    private R answer;
    private volatile ClientCall<Q, R> attempt;

    Unary(MethodDescriptor<Q, R> method, Q request, Duration deadline, Duration budget) {
      this.method = method;
      this.request = request;
      this.deadline = deadline;
      this.budget = budget;
      future.whenComplete(
          (value, error) -> {
            ClientCall<Q, R> current = attempt;
            if (future.isCancelled() && current != null) current.cancel("cancelled", null);
          });
    }

    void start() {
      if (future.isDone()) return;
      ++tries;
      ClientCall<Q, R> call =
          channel.newCall(
              method,
              CallOptions.DEFAULT.withDeadlineAfter(nanos(deadline), TimeUnit.NANOSECONDS));
      attempt = call;
      ClientCalls.asyncUnaryCall(call, request, this);
      if (future.isCancelled()) call.cancel("cancelled", null);
    }

    @Override
    public void onNext(R value) {
      answer = value;
    }

    @Override
    public void onCompleted() {
      future.complete(answer);
    }

    @Override
    public void onError(Throwable thrown) {
      if (future.isDone()) return; // it was cancelled
      RpcException error = RpcException.of(thrown);
      Optional<Duration> pause = pause(error, tries, began, budget);
      if (pause.isEmpty()) future.completeExceptionally(error);
      else after(pause.get(), this::start);
    }
  }

  /** The pause before the next try, if there is one. Sees to it that there is a connection. */
  Optional<Duration> pause(RpcException error, int tries, long began, Duration budget) {
    if (link.closed) return Optional.empty();
    Duration spent = Duration.ofNanos(System.nanoTime() - began);
    Optional<Duration> pause =
        RetryRule.pause(error, tries, spent, budget, ThreadLocalRandom.current().nextDouble());
    if (pause.isPresent()) link.reconnectSoon();
    return pause;
  }

  /**
   * Reads by calls that wait on the gateway until an answer is `over`.
   *
   * @param read the request that waits so long at the gateway
   * @param began when the wait began, by System.nanoTime()
   * @param timeout null: no limit; then the future completes with ResultTimeoutException
   * @param what for its message
   */
  <Q extends MessageLite, R> CompletableFuture<R> await(
      MethodDescriptor<Q, R> method,
      Function<Duration, Q> read,
      Predicate<R> over,
      long began,
      Duration timeout,
      String what) {
    Await<Q, R> wait = new Await<>(method, read, over, began, timeout, what);
    wait.step();
    return wait.future;
  }

  private final class Await<Q extends MessageLite, R> {
    final CompletableFuture<R> future = new CompletableFuture<>();
    private final MethodDescriptor<Q, R> method;
    private final Function<Duration, Q> read;
    private final Predicate<R> over;
    private final Duration timeout;
    private final String what;
    private final long began;
    private volatile CompletableFuture<R> call;

    Await(
        MethodDescriptor<Q, R> method,
        Function<Duration, Q> read,
        Predicate<R> over,
        long began,
        Duration timeout,
        String what) {
      this.method = method;
      this.read = read;
      this.over = over;
      this.began = began;
      this.timeout = timeout;
      this.what = what;
      future.whenComplete(
          (value, error) -> {
            CompletableFuture<R> current = call;
            if (future.isCancelled() && current != null) current.cancel(false);
          });
    }

    void step() {
      if (future.isDone()) return;
      Duration left = left();
      Duration wait = shorter(left, LONGEST_WAIT);
      boolean cut = left.compareTo(budget) < 0;
      long asked = System.nanoTime();
      CompletableFuture<R> next =
          unary(method, read.apply(wait), wait.plus(deadline), cut ? left : budget);
      call = next;
      next.whenComplete(
          (answer, error) -> {
            if (error != null) {
              boolean late =
                  isOver()
                      || cut
                          && error instanceof RpcException
                          && RetryRule.mayRepeat((RpcException) error);
              future.completeExceptionally(late ? timedOut(error) : error);
            } else if (over.test(answer)) {
              future.complete(answer);
            } else if (isOver()) {
              future.completeExceptionally(timedOut(null));
            } else {
              boolean early = System.nanoTime() - asked < nanos(wait);
              after(early ? EARLY_PAUSE : Duration.ZERO, this::step);
            }
          });
      if (future.isCancelled()) next.cancel(false);
    }

    private Duration left() {
      if (timeout == null) return LONGEST_WAIT.plus(budget);
      Duration left = timeout.minusNanos(System.nanoTime() - began);
      return left.isNegative() ? Duration.ZERO : left;
    }

    private boolean isOver() {
      return timeout != null && left().isZero();
    }

    private ResultTimeoutException timedOut(Throwable cause) {
      return new ResultTimeoutException(what + " did not end within " + timeout, cause);
    }
  }

  /** Runs `step` when `pause` is over, on a thread of the common pool. */
  static void after(Duration pause, Runnable step) {
    CompletableFuture.delayedExecutor(nanos(pause), TimeUnit.NANOSECONDS).execute(step);
  }

  /** `first` and then `change` of its value; to cancel it cancels `first`. */
  static <A, B> CompletableFuture<B> then(CompletableFuture<A> first, Function<A, B> change) {
    CompletableFuture<B> out = new CompletableFuture<>();
    first.whenComplete(
        (value, error) -> {
          if (error != null) {
            out.completeExceptionally(error);
            return;
          }
          try {
            out.complete(change.apply(value));
          } catch (RuntimeException e) {
            out.completeExceptionally(e);
          }
        });
    out.whenComplete(
        (value, error) -> {
          if (out.isCancelled()) first.cancel(false);
        });
    return out;
  }

  /** `first` and then `second` of its value; to cancel it cancels the one under way. */
  static <A, B> CompletableFuture<B> thenCall(
      CompletableFuture<A> first, Function<A, CompletableFuture<B>> second) {
    CompletableFuture<B> out = new CompletableFuture<>();
    CompletableFuture<CompletableFuture<B>> next = then(first, second);
    next.whenComplete(
        (call, error) -> {
          if (error != null) {
            out.completeExceptionally(error);
            return;
          }
          call.whenComplete(
              (value, failed) -> {
                if (failed != null) out.completeExceptionally(failed);
                else out.complete(value);
              });
          if (out.isCancelled()) call.cancel(false);
        });
    out.whenComplete(
        (value, error) -> {
          if (!out.isCancelled()) return;
          next.cancel(false);
          first.cancel(false);
          if (next.isDone() && !next.isCompletedExceptionally()) next.join().cancel(false);
        });
    return out;
  }

  /** `first`, or where it fails with what `may` be mended, `other`; to cancel it cancels both. */
  static <T> CompletableFuture<T> orElse(
      CompletableFuture<T> first,
      Predicate<RpcException> may,
      Supplier<CompletableFuture<T>> other) {
    CompletableFuture<CompletableFuture<T>> chosen = new CompletableFuture<>();
    first.whenComplete(
        (value, error) -> {
          boolean again = error instanceof RpcException && may.test((RpcException) error);
          chosen.complete(again ? other.get() : first);
        });
    CompletableFuture<T> out = thenCall(chosen, call -> call);
    out.whenComplete(
        (value, error) -> {
          if (out.isCancelled()) first.cancel(false);
        });
    return out;
  }

  static Duration shorter(Duration one, Duration other) {
    return one.compareTo(other) < 0 ? one : other;
  }

  /** Blocks until `future` is done; a thread that is interrupted cancels it. */
  static <T> T get(CompletableFuture<T> future) {
    try {
      return future.get();
    } catch (InterruptedException e) {
      future.cancel(false);
      Thread.currentThread().interrupt();
      throw new RpcException(Status.Code.CANCELLED, "", "the thread was interrupted", e);
    } catch (ExecutionException e) {
      Throwable error = e.getCause();
      if (error instanceof RuntimeException) {
        // The stack of gRPC's thread says nothing; the caller's does.
        error.fillInStackTrace();
        throw (RuntimeException) error;
      }
      if (error instanceof Error) throw (Error) error;
      throw new IllegalStateException(error);
    }
  }

  static long nanos(Duration time) {
    try {
      return time.toNanos();
    } catch (ArithmeticException tooLong) {
      return Long.MAX_VALUE;
    }
  }
}
