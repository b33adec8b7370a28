package dev.penstock;

/**
 * A task or a group did not end in the time that was given; it goes on. The cause, if any, is the
 * last error of asking for it.
 */
public class ResultTimeoutException extends PenstockException {
  private static final long serialVersionUID = 1;

  ResultTimeoutException(String message, Throwable cause) {
    super(message, cause);
  }
}
