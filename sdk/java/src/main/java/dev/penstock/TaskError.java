package dev.penstock;

import java.io.Serializable;

/** Why a task failed. */
public final class TaskError implements Serializable {
  private static final long serialVersionUID = 1;

  private final String message;
  private final String type;

  TaskError(String message, String type) {
    this.message = message;
    this.type = type;
  }

  /** The error's text. */
  public String message() {
    return message;
  }

  /**
   * Its kind: "exception", a status code such as "INVALID_ARGUMENT", or one of Penstock's own, such
   * as "timeout", "expired" or "cancelled". Empty where a Go worker wrote it.
   */
  public String type() {
    return type;
  }

  @Override
  public String toString() {
    return type.isEmpty() ? message : message + " (" + type + ")";
  }
}
