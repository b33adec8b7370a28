package dev.penstock;

import com.google.protobuf.ByteString;
import dev.penstock.v1.BoolList;
import dev.penstock.v1.FloatList;
import dev.penstock.v1.IntList;
import dev.penstock.v1.StringList;
import dev.penstock.v1.UintList;
import dev.penstock.v1.Value;
import java.lang.reflect.Array;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Set;

/** Java's values to and from the messages. Whole numbers are exact over all 64 bits. */
final class Values {
  private static final BigInteger MAX_UINT64 = new BigInteger("18446744073709551615");
  private static final BigInteger MAX_INT64 = BigInteger.valueOf(Long.MAX_VALUE);
  private static final BigInteger MIN_INT64 = BigInteger.valueOf(Long.MIN_VALUE);

  private static final Set<String> INTS = Set.of("int", "int8", "int16", "int32", "int64");
  private static final Set<String> UINTS = Set.of("uint", "uint8", "uint16", "uint32", "uint64");
  private static final Set<String> FLOATS = Set.of("float32", "float64");

  private Values() {}

  /** An argument without a type of its own. */
  static Value toProto(Object value) {
    if (value instanceof Typed) return ((Typed) value).proto();
    if (value == null) throw refused("null is no argument: it has no type");
    if (value instanceof byte[]) return bytes((byte[]) value).build();
    List<?> elements = elements(value);
    if (elements != null) return list(value, elements);
    Value.Builder out = Value.newBuilder();
    if (value instanceof Boolean) return out.setBoolValue((Boolean) value).build();
    if (value instanceof String) return out.setStringValue(text(value)).build();
    if (isFloat(value)) return out.setFloatValue(((Number) value).doubleValue()).build();
    if (isWhole(value)) {
      BigInteger number = whole(value);
      return fitsInt(number)
          ? out.setIntValue(number.longValue()).build()
          : out.setUintValue(uint(number)).build();
    }
    throw refused("no argument can be a " + value.getClass().getName());
  }

  /** An argument of one of machinery's types. */
  static Value toProto(String type, Object value) {
    if (value == null) throw refused("null is no " + type);
    Value.Builder out = Value.newBuilder();
    boolean isList = type.startsWith("[]");
    String element = isList ? type.substring(2) : type;
    if (isList && value instanceof byte[] && (element.equals("byte") || element.equals("uint8"))) {
      return bytes((byte[]) value).setType(type).build();
    }
    if (type.equals("[]byte")) throw refused("[]byte takes a byte[], not " + named(value));
    List<?> elements = isList ? elements(value) : List.of(value);
    if (elements == null) throw refused(type + " takes a list, not " + named(value));
    if (element.equals("bool")) {
      BoolList.Builder bools = BoolList.newBuilder();
      for (Object x : elements) bools.addValues((Boolean) ofClass(Boolean.class, element, x));
      if (isList) out.setBools(bools);
      else out.setBoolValue(bools.getValues(0));
    } else if (element.equals("string")) {
      StringList.Builder strings = StringList.newBuilder();
      for (Object x : elements) strings.addValues(text(ofClass(String.class, element, x)));
      if (isList) out.setStrings(strings);
      else out.setStringValue(strings.getValues(0));
    } else if (INTS.contains(element)) {
      IntList.Builder ints = IntList.newBuilder();
      for (Object x : elements) {
        if (!isWhole(x) || !fitsInt(whole(x))) throw refused(named(x) + " is no " + element);
        ints.addValues(whole(x).longValue());
      }
      if (isList) out.setInts(ints);
      else out.setIntValue(ints.getValues(0));
    } else if (UINTS.contains(element)) {
      UintList.Builder uints = UintList.newBuilder();
      for (Object x : elements) {
        if (!isWhole(x)) throw refused(named(x) + " is no " + element);
        uints.addValues(uint(whole(x)));
      }
      if (isList) out.setUints(uints);
      else out.setUintValue(uints.getValues(0));
    } else if (FLOATS.contains(element)) {
      FloatList.Builder floats = FloatList.newBuilder();
      for (Object x : elements) {
        // A long may not be exact in a double.
        boolean exact = isFloat(x) || isWhole(x) && !(x instanceof Long || x instanceof BigInteger);
        if (!exact) throw refused(named(x) + " is no " + element);
        floats.addValues(((Number) x).doubleValue());
      }
      if (isList) out.setFloats(floats);
      else out.setFloatValue(floats.getValues(0));
    } else {
      throw refused("\"" + type + "\" is none of machinery's types");
    }
    return out.setType(type).build();
  }

  /**
   * A result: a Boolean, a Long (a BigInteger above Long.MAX_VALUE), a Double, a String, a byte[],
   * or an unmodifiable List of these.
   */
  static Object fromProto(Value value) {
    switch (value.getKindCase()) {
      case BOOL_VALUE:
        return value.getBoolValue();
      case INT_VALUE:
        return value.getIntValue();
      case UINT_VALUE:
        return fromUint(value.getUintValue());
      case FLOAT_VALUE:
        return value.getFloatValue();
      case STRING_VALUE:
        return value.getStringValue();
      case BYTES_VALUE:
        return value.getBytesValue().toByteArray();
      case BOOLS:
        return List.copyOf(value.getBools().getValuesList());
      case INTS:
        return List.copyOf(value.getInts().getValuesList());
      case UINTS:
        {
          List<Object> out = new ArrayList<>(value.getUints().getValuesCount());
          for (long bits : value.getUints().getValuesList()) out.add(fromUint(bits));
          return Collections.unmodifiableList(out);
        }
      case FLOATS:
        return List.copyOf(value.getFloats().getValuesList());
      case STRINGS:
        return List.copyOf(value.getStrings().getValuesList());
      default:
        throw new PenstockException("the result has a kind that this version does not know", null);
    }
  }

  private static Value list(Object value, List<?> elements) {
    Class<?> component = value.getClass().getComponentType();
    if (elements.isEmpty() && (component == null || !component.isPrimitive())) {
      if (component == String.class) return toProto("[]string", elements);
      throw refused("an empty list has no type of its own: use Typed.of(\"[]string\", List.of())");
    }
    if (component == boolean.class || allOf(elements, Boolean.class)) {
      return toProto("[]bool", elements);
    }
    if (allOf(elements, String.class)) return toProto("[]string", elements);
    if (component == double.class
        || component == float.class
        || elements.stream().allMatch(Values::isFloat) && !elements.isEmpty()) {
      return toProto("[]float64", elements);
    }
    if (elements.stream().allMatch(Values::isWhole)) {
      boolean fit = elements.stream().allMatch(x -> fitsInt(whole(x)));
      return toProto(fit ? "[]int64" : "[]uint64", elements);
    }
    throw refused("a list must be of one kind: Boolean, whole number, Float and Double, or String");
  }

  /** What is in an array or a collection; null: it is neither. */
  private static List<?> elements(Object value) {
    if (value instanceof Collection) return new ArrayList<>((Collection<?>) value);
    if (!value.getClass().isArray() || value instanceof char[]) return null;
    List<Object> out = new ArrayList<>(Array.getLength(value));
    for (int i = 0; i < Array.getLength(value); ++i) out.add(Array.get(value, i));
    return out;
  }

  private static boolean allOf(List<?> elements, Class<?> kind) {
    return !elements.isEmpty() && elements.stream().allMatch(kind::isInstance);
  }

  private static boolean isFloat(Object value) {
    return value instanceof Double || value instanceof Float;
  }

  private static boolean isWhole(Object value) {
    return value instanceof Long
        || value instanceof Integer
        || value instanceof BigInteger
        || value instanceof Short
        || value instanceof Byte;
  }

  private static BigInteger whole(Object value) {
    return value instanceof BigInteger
        ? (BigInteger) value
        : BigInteger.valueOf(((Number) value).longValue());
  }

  private static boolean fitsInt(BigInteger number) {
    return number.compareTo(MIN_INT64) >= 0 && number.compareTo(MAX_INT64) <= 0;
  }

  private static long uint(BigInteger number) {
    if (number.signum() < 0 || number.compareTo(MAX_UINT64) > 0) {
      throw refused(number + " does not fit in 64 bits");
    }
    return number.longValue();
  }

  private static Object fromUint(long bits) {
    if (bits >= 0) return bits;
    return BigInteger.valueOf(bits).and(MAX_UINT64);
  }

  private static Value.Builder bytes(byte[] value) {
    return Value.newBuilder().setBytesValue(ByteString.copyFrom(value));
  }

  /** Text that UTF-8 can hold: protobuf would write '?' for half a surrogate pair. */
  private static String text(Object value) {
    String text = (String) value;
    if (!StandardCharsets.UTF_8.newEncoder().canEncode(text)) {
      throw refused("the text has half a surrogate pair, which UTF-8 cannot hold");
    }
    return text;
  }

  private static Object ofClass(Class<?> kind, String type, Object value) {
    if (!kind.isInstance(value)) throw refused(named(value) + " is no " + type);
    return value;
  }

  private static String named(Object value) {
    if (value == null) return "null";
    String text = value instanceof Number ? value + " " : "";
    return text + "(" + value.getClass().getSimpleName() + ")";
  }

  private static IllegalArgumentException refused(String message) {
    return new IllegalArgumentException(message);
  }
}
