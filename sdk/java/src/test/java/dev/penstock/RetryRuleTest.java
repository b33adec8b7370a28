package dev.penstock;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.RetryInfo;
import io.grpc.Status.Code;
import java.time.Duration;
import java.util.Optional;
import org.junit.jupiter.api.Test;

class RetryRuleTest {
  private static final Duration BUDGET = Duration.ofSeconds(30);

  private static RpcException error(Code code, String reason) {
    return RpcException.of(FakeGateway.status(code, reason), null);
  }

  private static RpcException full(Duration retryIn) {
    RetryInfo info = RetryInfo.newBuilder().setRetryDelay(Protos.duration(retryIn)).build();
    return RpcException.of(
        FakeGateway.status(Code.RESOURCE_EXHAUSTED, "TOO_MANY_IN_FLIGHT", info), null);
  }

  private static Optional<Duration> pause(int tries, Duration spent, double random) {
    return RetryRule.pause(error(Code.UNAVAILABLE, ""), tries, spent, BUDGET, random);
  }

  @Test
  void repeatsWhatMayPass() {
    assertTrue(RetryRule.mayRepeat(error(Code.UNAVAILABLE, "DRAINING")));
    assertTrue(RetryRule.mayRepeat(full(Duration.ZERO)));
    // What a C++ server says to calls that reach it while it shuts down.
    assertTrue(RetryRule.mayRepeat(error(Code.CANCELLED, "")));
    assertTrue(RetryRule.mayRepeat(error(Code.DEADLINE_EXCEEDED, "CONFIRM_TIMEOUT")));
    assertTrue(RetryRule.mayRepeat(error(Code.ABORTED, "GROUP_PARTIALLY_SENT")));
  }

  @Test
  void doesNotRepeatTheRest() {
    assertFalse(RetryRule.mayRepeat(error(Code.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")));
    assertFalse(RetryRule.mayRepeat(error(Code.DEADLINE_EXCEEDED, "")));
    assertFalse(RetryRule.mayRepeat(error(Code.ABORTED, "")));
    assertFalse(RetryRule.mayRepeat(error(Code.INVALID_ARGUMENT, "INVALID_FIELD")));
    assertFalse(RetryRule.mayRepeat(error(Code.ALREADY_EXISTS, "REQUEST_ID_REUSED")));
  }

  @Test
  void pausesGrowFrom50MsTo2S() {
    assertEquals(Duration.ofMillis(50), pause(1, Duration.ZERO, 0).orElseThrow());
    assertEquals(Duration.ofMillis(100), pause(1, Duration.ZERO, 1).orElseThrow());
    assertEquals(Duration.ofMillis(200), pause(2, Duration.ZERO, 1).orElseThrow());
    assertEquals(Duration.ofSeconds(2), pause(6, Duration.ZERO, 1).orElseThrow());
    assertEquals(Duration.ofSeconds(2), pause(1000, Duration.ZERO, 1).orElseThrow());
  }

  @Test
  void theGatewaysLongerPauseCounts() {
    Duration asked = Duration.ofSeconds(3);
    assertEquals(
        asked, RetryRule.pause(full(asked), 1, Duration.ZERO, BUDGET, 1).orElseThrow());
  }

  @Test
  void thereIsNoTryPastTheBudget() {
    assertTrue(pause(1, Duration.ofMillis(29_900), 1).isPresent());
    assertFalse(pause(1, Duration.ofMillis(29_901), 1).isPresent());
    RpcException away = error(Code.UNAVAILABLE, "");
    assertFalse(RetryRule.pause(away, 1, Duration.ZERO, Duration.ZERO, 0).isPresent());
  }
}
