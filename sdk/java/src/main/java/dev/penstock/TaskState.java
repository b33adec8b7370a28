package dev.penstock;

import java.time.Instant;
import java.util.List;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.stream.Collectors;

/** How a task stood when it was asked for. What a Go worker does not keep is empty. */
public final class TaskState {
  private final dev.penstock.v1.TaskState proto;

  TaskState(dev.penstock.v1.TaskState proto) {
    this.proto = proto;
  }

  /** The id of the task. */
  public String taskId() {
    return proto.getTaskId();
  }

  /** Where it stands. */
  public TaskStatus status() {
    return TaskStatus.of(proto.getStatus());
  }

  /** The status as stored, where {@link #status} is UNKNOWN. */
  public String rawStatus() {
    return proto.getRawStatus();
  }

  /**
   * What the handler returned: null for nothing, the value itself for one, a List for several. A
   * value is a Boolean, a Long (a BigInteger above Long.MAX_VALUE), a Double, a String, a byte[],
   * or an unmodifiable List of one of these.
   *
   * @throws TaskFailedException it ended in FAILURE
   * @throws TaskCancelledException it was cancelled
   * @throws IllegalStateException it is not final
   */
  public Object result() {
    List<Object> results = results();
    if (results.isEmpty()) return null;
    return results.size() == 1 ? results.get(0) : results;
  }

  /**
   * As {@link #result}, always as a list of the values that the handler returned.
   *
   * @throws TaskFailedException it ended in FAILURE
   * @throws TaskCancelledException it was cancelled
   * @throws IllegalStateException it is not final
   */
  public List<Object> results() {
    switch (status()) {
      case SUCCESS:
        return proto.getResultsList().stream()
            .map(Values::fromProto)
            .collect(Collectors.toUnmodifiableList());
      case FAILURE:
        throw new TaskFailedException(taskId(), error().orElseThrow());
      case CANCELLED:
        throw new TaskCancelledException(taskId(), error().orElseThrow());
      default:
        throw new IllegalStateException("task " + taskId() + " has no result: it is " + status());
    }
  }

  /** Why it failed or was cancelled; with RETRY, why its last run failed. */
  public Optional<TaskError> error() {
    boolean ended = status() == TaskStatus.FAILURE || status() == TaskStatus.CANCELLED;
    if (!proto.hasError() && !ended) return Optional.empty();
    return Optional.of(new TaskError(proto.getError().getMessage(), proto.getError().getType()));
  }

  /** The name of the handler. */
  public String name() {
    return proto.getName();
  }

  /** When it was accepted. */
  public Optional<Instant> createTime() {
    return time(proto.hasCreateTime(), proto.getCreateTime());
  }

  /** When its current or last run began. */
  public Optional<Instant> startTime() {
    return time(proto.hasStartTime(), proto.getStartTime());
  }

  /** When it became final. */
  public Optional<Instant> finishTime() {
    return time(proto.hasFinishTime(), proto.getFinishTime());
  }

  /** When the next run is due; only with RETRY. */
  public Optional<Instant> nextAttemptTime() {
    return time(proto.hasNextAttemptTime(), proto.getNextAttemptTime());
  }

  /** The number of the current or last run, from 1; 0: it has not run. */
  public int attempt() {
    return proto.getAttempt();
  }

  /** Which worker runs or ran it. */
  public String workerId() {
    return proto.getWorkerId();
  }

  /** The group that it is a member of; empty: none. */
  public String groupId() {
    return proto.getGroupId();
  }

  /** How far its handler says that it has come, from 0 to 1; only with STARTED. */
  public OptionalDouble progress() {
    return proto.hasProgress()
        ? OptionalDouble.of(proto.getProgress().getFraction())
        : OptionalDouble.empty();
  }

  /** What its handler says besides about its progress, for people. */
  public String progressText() {
    return proto.getProgress().getText();
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof TaskState && proto.equals(((TaskState) other).proto);
  }

  @Override
  public int hashCode() {
    return proto.hashCode();
  }

  @Override
  public String toString() {
    return "TaskState(" + taskId() + ", " + status() + ")";
  }

  private static Optional<Instant> time(boolean has, com.google.protobuf.Timestamp time) {
    return has ? Optional.of(Protos.instant(time)) : Optional.empty();
  }
}
