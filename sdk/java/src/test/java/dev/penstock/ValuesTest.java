package dev.penstock;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.penstock.v1.Value;
import java.math.BigInteger;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ValuesTest {
  private static final BigInteger MAX_UINT64 = new BigInteger("18446744073709551615");

  private static Object again(Object value) {
    return Values.fromProto(Values.toProto(value));
  }

  private static void refused(Object value) {
    assertThrows(IllegalArgumentException.class, () -> Values.toProto(value));
  }

  @Test
  void wholeNumbersAreInt64() {
    assertEquals(5L, again(5));
    assertEquals(5L, again((byte) 5));
    assertEquals(-5L, again((short) -5));
    assertEquals(Long.MIN_VALUE, again(Long.MIN_VALUE));
    assertEquals(Value.KindCase.INT_VALUE, Values.toProto(Long.MAX_VALUE).getKindCase());
    assertEquals(Value.KindCase.INT_VALUE, Values.toProto(BigInteger.TEN).getKindCase());
  }

  @Test
  void numbersOverInt64AreUint64() {
    BigInteger over = BigInteger.ONE.shiftLeft(63);
    assertEquals(Value.KindCase.UINT_VALUE, Values.toProto(over).getKindCase());
    assertEquals(over, again(over));
    assertEquals(MAX_UINT64, again(MAX_UINT64));
  }

  @Test
  void numbersOver64BitsAreRefused() {
    refused(MAX_UINT64.add(BigInteger.ONE));
    refused(BigInteger.ONE.shiftLeft(63).negate().subtract(BigInteger.ONE));
    refused(List.of(-1, MAX_UINT64));
  }

  @Test
  void otherKindsKeepTheirKind() {
    assertEquals(true, again(true));
    assertEquals(1.5, again(1.5));
    assertEquals((double) 0.1f, again(0.1f));
    assertEquals("a😀", again("a😀"));
    assertArrayEquals(new byte[] {0, -1}, (byte[]) again(new byte[] {0, -1}));
    assertArrayEquals(new byte[0], (byte[]) again(new byte[0]));
  }

  @Test
  void listsAndArraysOfOneKind() {
    assertEquals(List.of(1L, 2L), again(List.of(1, 2L)));
    assertEquals(List.of(1L, 2L), again(new int[] {1, 2}));
    assertEquals(List.of(), again(new long[0]));
    assertEquals("[]float64", Values.toProto(new double[0]).getType());
    assertEquals("[]bool", Values.toProto(new boolean[0]).getType());
    assertEquals("[]string", Values.toProto(new String[0]).getType());
    assertEquals(List.of(1.5, 2.0), again(Arrays.asList(1.5, 2f)));
    assertEquals(List.of(true), again(Set.of(true)));
    assertEquals(List.of("a"), again(new String[] {"a"}));
    assertEquals(List.of(1L, MAX_UINT64), again(List.of(1, MAX_UINT64)));
  }

  @Test
  void whatHasNoCounterpartIsRefused() {
    refused(null);
    refused(List.of());
    refused(new Object[0]);
    refused(List.of(1, 1.5));
    refused(List.of("a", true));
    refused(Arrays.asList("a", null));
    refused(List.of(List.of(1)));
    refused(new char[] {'a'});
    refused('a');
    refused(new Object());
  }

  @Test
  void halfASurrogatePairIsRefused() {
    refused("a\ud83d");
    refused(List.of("\ude00"));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "int", "int8", "int16", "int32", "int64", "uint", "uint8", "uint16", "uint32", "uint64"
      })
  void typedWholeNumbers(String type) {
    assertEquals(type, Typed.of(type, 5).proto().getType());
    assertEquals(5L, again(Typed.of(type, BigInteger.valueOf(5))));
    assertEquals(List.of(5L), again(Typed.of("[]" + type, List.of(5))));
    assertEquals(List.of(), again(Typed.of("[]" + type, List.of())));
    assertThrows(IllegalArgumentException.class, () -> Typed.of(type, 5.0));
    assertThrows(IllegalArgumentException.class, () -> Typed.of(type, List.of(5)));
    assertThrows(IllegalArgumentException.class, () -> Typed.of("[]" + type, 5));
  }

  @Test
  void typedOthers() {
    assertEquals(1.0, again(Typed.of("float32", 1)));
    assertEquals(List.of(0.5), again(Typed.of("[]float32", new double[] {0.5})));
    assertEquals(true, again(Typed.of("bool", true)));
    assertEquals(List.of(), again(Typed.of("[]bool", List.of())));
    assertEquals("x", again(Typed.of("string", "x")));
    assertArrayEquals(new byte[] {1}, (byte[]) again(Typed.of("[]uint8", new byte[] {1})));
    assertArrayEquals(new byte[] {1}, (byte[]) again(Typed.of("[]byte", new byte[] {1})));
  }

  @Test
  void typedRefusesOtherKinds() {
    assertThrows(IllegalArgumentException.class, () -> Typed.of("int128", 1));
    assertThrows(IllegalArgumentException.class, () -> Typed.of("byte", 1));
    assertThrows(IllegalArgumentException.class, () -> Typed.of("[]byte", List.of(1)));
    assertThrows(IllegalArgumentException.class, () -> Typed.of("uint8", -1));
    assertThrows(IllegalArgumentException.class, () -> Typed.of("int64", MAX_UINT64));
    assertThrows(IllegalArgumentException.class, () -> Typed.of("float64", 1L << 60));
    assertThrows(IllegalArgumentException.class, () -> Typed.of("string", null));
  }
}
