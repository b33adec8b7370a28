package dev.penstock;

/** The task whose result was asked for ended in FAILURE. */
public class TaskFailedException extends PenstockException {
  private static final long serialVersionUID = 1;

  private final String taskId;
  private final TaskError error;

  TaskFailedException(String taskId, TaskError error) {
    super("task " + taskId + " failed: " + error.message(), null);
    this.taskId = taskId;
    this.error = error;
  }

  /** The id of the task. */
  public String taskId() {
    return taskId;
  }

  /** The text of its error, and of which type that is. */
  public TaskError error() {
    return error;
  }
}
