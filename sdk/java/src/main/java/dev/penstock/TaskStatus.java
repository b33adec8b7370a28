package dev.penstock;

/** Where a task stands. */
public enum TaskStatus {
  /** A status that this version does not know, or a state that has expired. */
  UNKNOWN,
  /** Accepted; it waits for a worker, for its time, or for what comes before it. */
  PENDING,
  /** A Go worker has taken it. */
  RECEIVED,
  /** Its handler runs. */
  STARTED,
  /** A run failed; another one follows. */
  RETRY,
  /** Final: it ended well. */
  SUCCESS,
  /** Final: it failed, or can never run. */
  FAILURE,
  /** Final: it was cancelled. */
  CANCELLED;

  /** Whether a task that stands here stays here. */
  public boolean isFinal() {
    return this == SUCCESS || this == FAILURE || this == CANCELLED;
  }

  static TaskStatus of(dev.penstock.v1.TaskStatus status) {
    switch (status) {
      case TASK_STATUS_PENDING:
        return PENDING;
      case TASK_STATUS_RECEIVED:
        return RECEIVED;
      case TASK_STATUS_STARTED:
        return STARTED;
      case TASK_STATUS_RETRY:
        return RETRY;
      case TASK_STATUS_SUCCESS:
        return SUCCESS;
      case TASK_STATUS_FAILURE:
        return FAILURE;
      case TASK_STATUS_CANCELLED:
        return CANCELLED;
      default:
        return UNKNOWN;
    }
  }
}
