package dev.penstock;

import dev.penstock.v1.Value;
import java.util.Objects;

/**
 * An argument of a type of your choice among machinery's 29: bool, int, int8, int16, int32, int64,
 * uint, uint8, uint16, uint32, uint64, float32, float64, string, each of these with [] before it,
 * and []byte.
 *
 * <pre>{@code
 * client.send("resize", Typed.of("uint16", 640), Typed.of("[]string", List.of()));
 * }</pre>
 */
public final class Typed {
  private final Value value;

  private Typed(Value value) {
    this.value = value;
  }

  /**
   * {@code value} as {@code type}. Whether a number fits into a narrow type such as int8 is for the
   * gateway to say, which names the field.
   *
   * @param value of the kind of the type: a Boolean; a whole number (BigInteger too); a Float, a
   *     Double or a whole number of at most 32 bits; a String; a byte[] ([]byte and []uint8); an
   *     array or a collection of these
   * @throws IllegalArgumentException no such type, or a value of another kind
   */
  public static Typed of(String type, Object value) {
    Objects.requireNonNull(type, "type");
    return new Typed(Values.toProto(type, value));
  }

  Value proto() {
    return value;
  }
}
