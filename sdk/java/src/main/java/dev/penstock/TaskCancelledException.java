package dev.penstock;

/** The task whose result was asked for was cancelled. */
public class TaskCancelledException extends PenstockException {
  private static final long serialVersionUID = 1;

  private final String taskId;
  private final TaskError error;

  TaskCancelledException(String taskId, TaskError error) {
    super("task " + taskId + " was cancelled: " + error.message(), null);
    this.taskId = taskId;
    this.error = error;
  }

  /** The id of the task. */
  public String taskId() {
    return taskId;
  }

  /** Why: the message is "cancelled: " and the reason that was given. */
  public TaskError error() {
    return error;
  }
}
