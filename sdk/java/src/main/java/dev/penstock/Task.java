package dev.penstock;

import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * What to run. Immutable; may be sent as often as you like.
 *
 * <p>An argument is a Boolean, a whole number (BigInteger up to 2^64 - 1), a Float or Double, a
 * String, a byte[], an array or a collection of one of these kinds, or a {@link Typed}. A String[]
 * or Object[] that is the only argument of a varargs call is taken for the arguments themselves, as
 * always in Java: give a List.
 */
public final class Task {
  private final dev.penstock.v1.Task proto;

  private Task(dev.penstock.v1.Task proto) {
    this.proto = proto;
  }

  /**
   * The task {@code name} with these arguments and nothing else.
   *
   * @throws IllegalArgumentException an argument has no counterpart
   */
  public static Task of(String name, Object... args) {
    return builder(name).args(args).build();
  }

  /** Begins the description of a task; {@code name} is that of its handler. */
  public static Builder builder(String name) {
    return new Builder(name);
  }

  /** The name of its handler. */
  public String name() {
    return proto.getName();
  }

  /** The id that it was given; empty: the gateway makes one. */
  public String id() {
    return proto.getId();
  }

  @Override
  public String toString() {
    return "Task(" + name() + (id().isEmpty() ? "" : ", " + id()) + ")";
  }

  dev.penstock.v1.Task proto() {
    return proto;
  }

  /** Describes a task. All but the name may be left out; the gateway checks the limits. */
  public static final class Builder {
    private final dev.penstock.v1.Task.Builder proto = dev.penstock.v1.Task.newBuilder();

    private Builder(String name) {
      proto.setName(name);
    }

    /**
     * Adds arguments.
     *
     * @throws IllegalArgumentException an argument has no counterpart
     */
    public Builder args(Object... args) {
      for (Object arg : args) proto.addArgs(Values.toProto(arg));
      return this;
    }

    /**
     * An id of your own, 1 to 200 characters of A-Z a-z 0-9 _ . : - ; an equal task of this id is
     * not run twice. Default: the gateway makes one.
     */
    public Builder id(String id) {
      proto.setId(id);
      return this;
    }

    /** Which queue. Default: the gateway's default queue. */
    public Builder routingKey(String key) {
      proto.setRoutingKey(key);
      return this;
    }

    /** When to run, at the earliest, to the millisecond. In place of {@link #delay}. */
    public Builder eta(Instant time) {
      proto.setEta(Protos.timestamp(time));
      return this;
    }

    /** How long after the gateway took the call to run, at the earliest. Default: at once. */
    public Builder delay(Duration delay) {
      proto.setDelay(Protos.duration(delay));
      return this;
    }

    /** How many times a failed run is tried again. Default 0. */
    public Builder retryCount(int count) {
      proto.setRetryCount(count);
      return this;
    }

    /**
     * The first retry waits for the smallest Fibonacci number of seconds that is at least this,
     * each later one for the next Fibonacci number. Default 0: 1 s, 2 s, 3 s, 5 s.
     */
    public Builder retryDelay(Duration delay) {
      proto.setRetryDelay(Protos.duration(delay));
      return this;
    }

    /** Retries wait {@code first}, and then each twice as long as the one before, up to 1 hour. */
    public Builder exponentialBackoff(Duration first) {
      proto.setExponentialBackoff(
          dev.penstock.v1.ExponentialBackoff.newBuilder().setFirstDelay(Protos.duration(first)));
      return this;
    }

    /**
     * Retries wait {@code first}, and then each {@code factor} times as long as the one before.
     *
     * @param factor 1 to 100
     * @param max the longest pause
     * @param jitter by which share each pause is made shorter or longer at random, 0 to 1
     */
    public Builder exponentialBackoff(Duration first, double factor, Duration max, double jitter) {
      proto.setExponentialBackoff(
          dev.penstock.v1.ExponentialBackoff.newBuilder()
              .setFirstDelay(Protos.duration(first))
              .setFactor(factor)
              .setMaxDelay(Protos.duration(max))
              .setJitter(jitter));
      return this;
    }

    /** 0 to 255; higher is taken first, where the queue has priorities. Default 0. */
    public Builder priority(int priority) {
      proto.setPriority(priority);
      return this;
    }

    /** It takes no results of what it follows. Default false. */
    public Builder immutable(boolean immutable) {
      proto.setImmutable(immutable);
      return this;
    }

    /** Text that travels with the task to its handler. May be called for each of 64 headers. */
    public Builder header(String key, String value) {
      proto.putHeaders(key, value);
      return this;
    }

    /** As {@link #header}, for each of these. */
    public Builder headers(Map<String, String> headers) {
      proto.putAllHeaders(headers);
      return this;
    }

    /** Sent when this task succeeded, each with its results after its own arguments. */
    public Builder onSuccess(Task... tasks) {
      for (Task task : tasks) proto.addOnSuccess(task.proto);
      return this;
    }

    /** Sent when this task failed for good, each with the error's text before its own arguments. */
    public Builder onError(Task... tasks) {
      for (Task task : tasks) proto.addOnError(task.proto);
      return this;
    }

    /** A worker without this handler ends the task in FAILURE instead of passing it on. */
    public Builder ignoreWhenTaskNotRegistered(boolean ignore) {
      proto.setIgnoreWhenTaskNotRegistered(ignore);
      return this;
    }

    /** How long one attempt may run, 1 ms to 30 days. Default: no limit. */
    public Builder timeout(Duration timeout) {
      proto.setTimeout(Protos.duration(timeout));
      return this;
    }

    /** A task that has not begun so long after the gateway took it never does. Default: none. */
    public Builder expireAfter(Duration time) {
      proto.setExpireAfter(Protos.duration(time));
      return this;
    }

    /**
     * A name of the business: while a task that was sent under it is not final, another one is
     * refused with ALREADY_EXISTS UNIQUE_KEY_HELD. Default: none.
     */
    public Builder uniqueKey(String key) {
      proto.setUniqueKey(key);
      return this;
    }

    /** How long the final state can be read. Default: as the worker says, 1 hour if it does not. */
    public Builder resultTtl(Duration ttl) {
      proto.setResultTtl(Protos.duration(ttl));
      return this;
    }

    /** The task. */
    public Task build() {
      return new Task(proto.build());
    }
  }

  static List<dev.penstock.v1.Task> protos(List<Task> tasks) {
    return tasks.stream().map(Task::proto).collect(Collectors.toList());
  }
}
