package dev.penstock;

/**
 * What this package throws, besides {@link IllegalArgumentException} for what it refuses before any
 * call: {@link RpcException} (a call failed), {@link TaskFailedException} and {@link
 * TaskCancelledException} (how a task ended), {@link ResultTimeoutException} (it did not end in
 * time).
 *
 * <p>A future completes with the same; as always, {@code join()} wraps it in a {@link
 * java.util.concurrent.CompletionException}.
 */
public class PenstockException extends RuntimeException {
  private static final long serialVersionUID = 1;

  PenstockException(String message, Throwable cause) {
    super(message, cause);
  }
}
