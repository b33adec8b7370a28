// How JavaScript's values become those of a task, and back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { typed } from "penstock";
import { create } from "@bufbuild/protobuf";
import { ValueSchema } from "../dist/gen/penstock/v1/messages_pb.js";
import { toTask, fromState } from "../dist/task.js";
import { fromValue, toValue } from "../dist/values.js";

// The case, the type and the plain value of what is sent for `input`.
function sent(input) {
  const { type, kind } = toValue(input);
  const { value } = kind;
  return [type, kind.case, Array.isArray(value.values) ? value.values : value];
}

test("the JavaScript type decides on the kind, not the value", () => {
  assert.deepEqual(sent(true), ["", "boolValue", true]);
  assert.deepEqual(sent(2n), ["", "intValue", 2n]);
  assert.deepEqual(sent(2), ["", "floatValue", 2]);
  assert.deepEqual(sent("2"), ["", "stringValue", "2"]);
  assert.deepEqual(sent(Buffer.of(2)), ["", "bytesValue", Buffer.of(2)]);
  assert.deepEqual(sent([true]), ["", "bools", [true]]);
  assert.deepEqual(sent([2n]), ["", "ints", [2n]]);
  assert.deepEqual(sent([2]), ["", "floats", [2]]);
  assert.deepEqual(sent(["2"]), ["", "strings", ["2"]]);
});

test("whole numbers are exact to their ends, and refused past them", () => {
  assert.deepEqual(sent(-(2n ** 63n)), ["", "intValue", -(2n ** 63n)]);
  assert.deepEqual(sent(2n ** 63n - 1n), ["", "intValue", 2n ** 63n - 1n]);
  assert.deepEqual(sent(2n ** 63n), ["", "uintValue", 2n ** 63n]);
  assert.deepEqual(sent(2n ** 64n - 1n), ["", "uintValue", 2n ** 64n - 1n]);
  assert.throws(() => toValue(2n ** 64n), /^RangeError: 18446744073709551616 /);
  assert.throws(() => toValue(-(2n ** 63n) - 1n), RangeError);
  assert.throws(() => toValue([2n ** 63n]), RangeError);
});

test("typed() says any type", () => {
  assert.deepEqual(sent(typed("int8", 5)), ["int8", "intValue", 5n]);
  assert.deepEqual(sent(typed("uint64", 5n)), ["uint64", "uintValue", 5n]);
  assert.deepEqual(sent(typed("float32", 5)), ["float32", "floatValue", 5]);
  assert.deepEqual(sent(typed("[]string", [])), ["[]string", "strings", []]);
  assert.deepEqual(sent(typed("[]uint16", [5])), ["[]uint16", "uints", [5n]]);
  assert.deepEqual(
    sent(typed("[]uint8", [0, 255n])),
    ["[]uint8", "bytesValue", Uint8Array.of(0, 255)]);
  // The gateway knows the ranges, and names the field.
  assert.deepEqual(sent(typed("int8", 300)), ["int8", "intValue", 300n]);
  assert.throws(() => typed("int8", 5.5), RangeError);
  assert.throws(() => typed("int64", 2 ** 53), RangeError);
  assert.throws(() => typed("uint8", -1), RangeError);
  assert.throws(() => typed("[]uint8", [256]), RangeError);
  assert.throws(() => typed("int8", "5"), TypeError);
  assert.throws(() => typed("[]int8", 5), TypeError);
  assert.throws(() => typed("float64", 5n), TypeError);
  assert.throws(() => typed("bool", 1), TypeError);
  assert.throws(() => typed("integer", 5), /"integer" is not the name of a type/);
});

test("what is no value is refused", () => {
  for (const input of [null, undefined, {}, [null], [[1n]], () => {}, Symbol()]) {
    assert.throws(() => toValue(input), TypeError);
  }
  assert.throws(() => toValue([]), /typed\(\)/);
  assert.throws(() => toValue([1n, 2]), TypeError);
  assert.throws(() => toValue(["a", 2n]), TypeError);
  assert.throws(() => toValue("\ud800"), /surrogate/);
  assert.deepEqual(sent("\ud83d\ude00"), ["", "stringValue", "\ud83d\ude00"]);
});

test("an error says which argument of which task", () => {
  assert.throws(
    () => toTask({ name: "add", args: [1n, 2n ** 64n] }),
    /^RangeError: argument 2 of task "add": 18446744073709551616 does not fit/);
});

test("results come back as what was sent", () => {
  for (const input of [true, -5n, 2n ** 64n - 1n, -0, 0.1, "zwölf", [true], [1n], [""]]) {
    assert.deepEqual(fromValue(toValue(input)), input);
  }
  const bytes = fromValue(toValue(Uint8Array.of(1, 2)));
  assert.ok(Buffer.isBuffer(bytes));
  assert.deepEqual([...bytes], [1, 2]);
  assert.throws(() => fromValue(create(ValueSchema, { type: "new" })), /"new"/);
});

test("a task's times are exact, and its options are checked", () => {
  const task = toTask({
    name: "t", delayMs: 1_500.25, timeoutMs: -1, eta: undefined,
    exponentialBackoff: { firstDelayMs: 20 },
    onSuccess: [{ name: "next", args: [1n] }], headers: { a: "b" },
  });
  assert.deepEqual(
    [task.schedule.value.seconds, task.schedule.value.nanos], [1n, 500_250_000]);
  assert.deepEqual([task.timeout.seconds, task.timeout.nanos], [0n, -1_000_000]);
  assert.equal(task.exponentialBackoff.firstDelay.nanos, 20_000_000);
  assert.equal(task.onSuccess[0].args[0].kind.value, 1n);
  assert.deepEqual(task.headers, { a: "b" });
  const eta = new Date("2030-01-02T03:04:05.678Z");
  assert.equal(toTask({ name: "t", eta }).schedule.value.nanos, 678_000_000);
  assert.throws(() => toTask({ name: "t", eta, delayMs: 1 }), /exclude/);
  assert.throws(() => toTask({ name: "t", eta: "2030" }), /Date/);
  assert.throws(() => toTask({ name: "t", delayMs: NaN }), /milliseconds/);
  assert.throws(() => toTask({ name: "t", delay: 5 }), /no option "delay"/);
});

test("a status that is not known is UNSPECIFIED", () => {
  const state = { status: 99, results: [], rawStatus: "NEW" };
  assert.equal(fromState(state).status, "UNSPECIFIED");
});
