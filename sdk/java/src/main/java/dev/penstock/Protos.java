package dev.penstock;

import com.google.protobuf.Timestamp;
import java.time.Duration;
import java.time.Instant;

/** java.time to and from protobuf's well-known types. */
final class Protos {
  private Protos() {}

  static com.google.protobuf.Duration duration(Duration in) {
    // protobuf's nanos have the sign of the seconds, java.time's are never negative.
    long seconds = in.getSeconds();
    int nanos = in.getNano();
    if (seconds < 0 && nanos > 0) {
      seconds += 1;
      nanos -= 1_000_000_000;
    }
    return com.google.protobuf.Duration.newBuilder().setSeconds(seconds).setNanos(nanos).build();
  }

  static Duration duration(com.google.protobuf.Duration in) {
    return Duration.ofSeconds(in.getSeconds(), in.getNanos());
  }

  static Timestamp timestamp(Instant in) {
    return Timestamp.newBuilder().setSeconds(in.getEpochSecond()).setNanos(in.getNano()).build();
  }

  static Instant instant(Timestamp in) {
    return Instant.ofEpochSecond(in.getSeconds(), in.getNanos());
  }
}
