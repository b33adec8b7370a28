package dev.penstock;

import java.util.Optional;

/** What became of one task of {@link Client#sendMany}: it was accepted, or refused. */
public final class SendResult {
  private final TaskHandle handle;
  private final RpcException error;

  SendResult(TaskHandle handle, RpcException error) {
    this.handle = handle;
    this.error = error;
  }

  /** Whether the task was accepted. */
  public boolean isAccepted() {
    return error == null;
  }

  /**
   * The task.
   *
   * @throws RpcException it was refused
   */
  public TaskHandle handle() {
    if (error != null) throw error;
    return handle;
  }

  /** Why it was refused; empty: it was not. */
  public Optional<RpcException> error() {
    return Optional.ofNullable(error);
  }
}
