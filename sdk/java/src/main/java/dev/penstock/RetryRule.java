package dev.penstock;

import java.time.Duration;
import java.util.Optional;

/** Which calls are repeated, and after which pause. */
final class RetryRule {
  private static final long FIRST_MS = 50;
  private static final long LONGEST_MS = 2_000;

  private RetryRule() {}

  /** Whether a repeat, with the same request_id or ids, may do better. */
  static boolean mayRepeat(RpcException error) {
    switch (error.code()) {
      case UNAVAILABLE:
        return true;
      case CANCELLED:
        // So gRPC's C++ server ends calls that reach it once it shuts down. Those that this
        // client cancels do not come here.
        return error.reason().isEmpty();
      case RESOURCE_EXHAUSTED:
        return error.retryDelay().isPresent();
      case DEADLINE_EXCEEDED:
        return error.reason().equals("CONFIRM_TIMEOUT");
      case ABORTED:
        return error.reason().equals("GROUP_PARTIALLY_SENT");
      default:
        return false;
    }
  }

  /**
   * How long to wait before try {@code tries + 1}; empty: there is none.
   *
   * @param tries how many there were, at least 1
   * @param spent the time since the first one began
   * @param random from 0 to 1
   */
  static Optional<Duration> pause(
      RpcException error, int tries, Duration spent, Duration budget, double random) {
    if (!mayRepeat(error)) return Optional.empty();
    long longest = Math.min(LONGEST_MS, FIRST_MS << Math.min(tries, 10));
    Duration pause = Duration.ofMillis(FIRST_MS + (long) (random * (longest - FIRST_MS)));
    Duration asked = error.retryDelay().orElse(Duration.ZERO);
    if (asked.compareTo(pause) > 0) pause = asked;
    return spent.plus(pause).compareTo(budget) > 0 ? Optional.empty() : Optional.of(pause);
  }
}
