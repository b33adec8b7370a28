// Values between JavaScript and penstock.v1.Value. The kind follows from the
// JavaScript type alone, never from the value: a bigint is a whole number, a
// number is a float64. So 2 and 2.5 arrive as the same type, and a result that is
// sent on keeps its type.

import { create, type DescMessage } from "@bufbuild/protobuf";
import {
  BoolListSchema, FloatListSchema, IntListSchema, StringListSchema,
  UintListSchema, ValueSchema, type Value,
} from "./gen/penstock/v1/messages_pb";

type IntName =
  | "int" | "int8" | "int16" | "int32" | "int64"
  | "uint" | "uint8" | "uint16" | "uint32" | "uint64";
type FloatName = "float32" | "float64";
type ElementName = "bool" | IntName | FloatName | "string";

/** machinery's 29 names of types. */
export type TypeName = ElementName | `[]${ElementName}` | "[]byte";

type ElementOf<T extends ElementName> =
  T extends "bool" ? boolean
  : T extends IntName ? bigint | number
  : T extends FloatName ? number
  : string;

/** What {@link typed} takes for a type. Whole numbers may be bigint or number. */
export type ValueOf<T extends TypeName> =
  T extends "[]byte" ? Uint8Array | readonly (bigint | number)[]
  : T extends "[]uint8" ? Uint8Array | readonly (bigint | number)[]
  : T extends `[]${infer E extends ElementName}` ? readonly ElementOf<E>[]
  : T extends ElementName ? ElementOf<T>
  : never;

/** A value with the name of its type; made by {@link typed}. */
export class Typed {
  /** @internal */
  constructor(
    readonly type: TypeName,
    /** @internal */
    readonly kind: Value["kind"],
  ) {}
}

/**
 * An argument of a task:
 *
 * | JavaScript | machinery |
 * |---|---|
 * | `boolean` | bool |
 * | `bigint` | int64, or uint64 where it is too large for that |
 * | `number` | float64, whole or not |
 * | `string` | string |
 * | `Uint8Array`, `Buffer` | []byte |
 * | an array of one of the first four | []bool, []int64, []float64, []string |
 * | `typed("int8", 5)` | any other type, and empty lists |
 */
export type Input =
  | boolean | bigint | number | string | Uint8Array
  | readonly boolean[] | readonly bigint[] | readonly number[]
  | readonly string[]
  | Typed;

/**
 * A result of a task. Every whole number is a `bigint`, exact over the 64 bits;
 * every number with a fraction a `number`; []byte and []uint8 are a `Buffer`.
 */
export type Output =
  | boolean | bigint | number | string | Buffer
  | boolean[] | bigint[] | number[] | string[];

const MIN_INT64 = -(2n ** 63n);
const MAX_INT64 = 2n ** 63n - 1n;
const MAX_UINT64 = 2n ** 64n - 1n;

function show(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return "an array";
  if (typeof value === "object" && value !== null) {
    return `an object (${value.constructor?.name ?? "without a class"})`;
  }
  return String(value);
}

function readBool(type: string, value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw new TypeError(`${type} takes a boolean, not ${show(value)}`);
}

function readInt(type: string, value: unknown): bigint {
  const unsigned = type.includes("uint");
  let whole: bigint;
  if (typeof value === "bigint") {
    whole = value;
  } else if (typeof value === "number" && Number.isSafeInteger(value)) {
    whole = BigInt(value);
  } else if (typeof value === "number") {
    throw new RangeError(
      `${type} takes a bigint or an exact whole number, not ${value}`);
  } else {
    throw new TypeError(`${type} takes a bigint or a number, not ${show(value)}`);
  }
  const [least, most] =
    unsigned ? [0n, MAX_UINT64] : [MIN_INT64, MAX_INT64];
  if (whole < least || whole > most) {
    throw new RangeError(`${whole} does not fit in ${type}`);
  }
  return whole;
}

function readByte(type: string, value: unknown): number {
  const whole = readInt("uint8", value);
  if (whole <= 255n) return Number(whole);
  throw new RangeError(`${whole} does not fit in an element of ${type}`);
}

function readFloat(type: string, value: unknown): number {
  if (typeof value === "number") return value;
  throw new TypeError(`${type} takes a number, not ${show(value)}`);
}

// Text that is not well formed cannot be sent as UTF-8; an encoder would put
// U+FFFD in its place without a word.
function readString(type: string, value: unknown): string {
  if (typeof value !== "string") {
    throw new TypeError(`${type} takes a string, not ${show(value)}`);
  }
  if (/\p{Surrogate}/u.test(value)) {
    throw new TypeError(`${show(value)} has half a surrogate pair`);
  }
  return value;
}

function readList<T>(
  type: string, value: unknown, read: (type: string, value: unknown) => T,
): T[] {
  if (Array.isArray(value)) return value.map((element) => read(type, element));
  throw new TypeError(`${type} takes an array, not ${show(value)}`);
}

function readBytes(type: string, value: unknown): Uint8Array {
  if (value instanceof Uint8Array) return value;
  return Uint8Array.from(readList(type, value, readByte));
}

// How the values of a type travel, alone and in a list.
interface Kind {
  one: string;
  list: string;
  schema: DescMessage;
  read: (type: string, value: unknown) => unknown;
}

const BOOL: Kind =
  { one: "boolValue", list: "bools", schema: BoolListSchema, read: readBool };
const INT: Kind =
  { one: "intValue", list: "ints", schema: IntListSchema, read: readInt };
const UINT: Kind =
  { one: "uintValue", list: "uints", schema: UintListSchema, read: readInt };
const FLOAT: Kind =
  { one: "floatValue", list: "floats", schema: FloatListSchema, read: readFloat };
const STRING: Kind = {
  one: "stringValue", list: "strings", schema: StringListSchema, read: readString,
};

const KINDS = new Map<string, Kind>([
  ["bool", BOOL],
  ...["int", "int8", "int16", "int32", "int64"].map((t) => [t, INT] as const),
  ...["uint", "uint8", "uint16", "uint32", "uint64"].map((t) => [t, UINT] as const),
  ...["float32", "float64"].map((t) => [t, FLOAT] as const),
  ["string", STRING],
]);

function encode(type: string, value: unknown): Value["kind"] {
  if (type === "[]byte" || type === "[]uint8") {
    return { case: "bytesValue", value: readBytes(type, value) };
  }
  const isList = type.startsWith("[]");
  const kind = KINDS.get(isList ? type.slice(2) : type);
  if (kind === undefined) {
    throw new TypeError(`${show(type)} is not the name of a type`);
  }
  // The table and the generated union say the same; the compiler cannot know.
  return (isList
    ? {
        case: kind.list,
        value: create(kind.schema, { values: readList(type, value, kind.read) }),
      }
    : { case: kind.one, value: kind.read(type, value) }) as Value["kind"];
}

/**
 * Gives a value one of machinery's 29 types, such as `typed("int8", 5)` or
 * `typed("[]string", [])`. Whether a number is in the range of a narrow type is
 * checked by the gateway, whose error names the field.
 *
 * @throws TypeError for an unknown type or a value of another kind
 * @throws RangeError for a number that is not whole or that 64 bits cannot hold
 */
export function typed<T extends TypeName>(type: T, value: ValueOf<T>): Typed {
  return new Typed(type, encode(type, value));
}

// The type of a value that has none of its own.
function typeOf(value: unknown): string {
  switch (typeof value) {
    case "boolean": return "bool";
    case "bigint": return value > MAX_INT64 ? "uint64" : "int64";
    case "number": return "float64";
    case "string": return "string";
  }
  if (value instanceof Uint8Array) return "[]byte";
  if (!Array.isArray(value)) {
    throw new TypeError(`${show(value)} is no value of a task`);
  }
  if (value.length === 0) {
    throw new TypeError(
      'an empty array has no type: say it with typed(), as in typed("[]string", [])');
  }
  const first = typeof value[0] === "bigint" ? "int64" : typeOf(value[0]);
  if (first.startsWith("[]")) {
    throw new TypeError("lists of lists are no values of a task");
  }
  if (value.some((element) => typeof element !== typeof value[0])) {
    throw new TypeError("the elements of a list are of one kind");
  }
  return `[]${first}`;
}

/** The message for an argument. Throws TypeError and RangeError, as typed(). */
export function toValue(input: Input): Value {
  if (input instanceof Typed) {
    return create(ValueSchema, { type: input.type, kind: input.kind });
  }
  return create(ValueSchema, { kind: encode(typeOf(input), input) });
}

/** The JavaScript value of a result. */
export function fromValue(value: Value): Output {
  const kind = value.kind;
  switch (kind.case) {
    case undefined:
      throw new Error(`a result of type "${value.type}" has a kind that this ` +
        "version of the client does not know");
    case "bytesValue":
      // A copy, since the message's bytes are a view of all that came with it.
      return Buffer.from(kind.value);
    case "bools": case "ints": case "uints": case "floats": case "strings":
      return kind.value.values;
    default:
      return kind.value;
  }
}
