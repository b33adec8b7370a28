// The client against a gateway that answers as each test says: repeats, errors,
// deadlines, waits and streams.

import assert from "node:assert/strict";
import { after, afterEach, test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import grpc from "@grpc/grpc-js";
import {
  Client, PenstockError, TaskCancelled, TaskFailed, TaskHandle, WaitTimeout,
} from "penstock";
import {
  BadRequestSchema, ErrorInfoSchema, RetryInfoSchema,
} from "../dist/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../dist/gen/google/rpc/status_pb.js";
import { GatewayService } from "../dist/gen/penstock/v1/gateway_pb.js";
import { pauseMs } from "../dist/retry.js";

const { status: Code } = grpc;
const SUCCESS = 5, FAILURE = 6, CANCELLED = 7, PENDING = 1;

// What the gateway does at each call, by method; a test sets it.
let handlers = {};
// What it was asked, in order.
let asked = [];

function statusOf(code, reason, { retryMs, fields, message = "no" } = {}) {
  const details = [];
  if (reason) {
    details.push(anyPack(ErrorInfoSchema,
      create(ErrorInfoSchema, { reason, metadata: { key: "value" } })));
  }
  if (retryMs !== undefined) {
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema,
      { retryDelay: { seconds: 0n, nanos: retryMs * 1e6 } })));
  }
  if (fields) {
    details.push(anyPack(BadRequestSchema, create(BadRequestSchema, {
      fieldViolations: fields.map((field) => ({ field, description: "bad" })),
    })));
  }
  return create(StatusSchema, { code, message, details });
}

function failure(...words) {
  const status = statusOf(...words);
  const metadata = new grpc.Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(toBinary(StatusSchema, status)));
  return { code: status.code, details: status.message, metadata };
}

// One error after the other, and then the answers of `last`.
function failing(errors, last) {
  let i = 0;
  return (request) => {
    if (i < errors.length) throw errors[i++];
    return last(request);
  };
}

function service() {
  const definition = {}, implementation = {};
  for (const method of GatewayService.methods) {
    definition[method.localName] = {
      path: `/${GatewayService.typeName}/${method.name}`,
      requestStream: method.methodKind === "bidi_streaming",
      responseStream: method.methodKind !== "unary",
      requestSerialize: (m) => Buffer.from(toBinary(method.input, m)),
      requestDeserialize: (b) => fromBinary(method.input, b),
      responseSerialize: (m) => Buffer.from(toBinary(method.output, create(method.output, m))),
      responseDeserialize: (b) => fromBinary(method.output, b),
    };
    implementation[method.localName] = (call, callback) => {
      if (method.methodKind !== "unary") return handlers[method.localName](call);
      asked.push({ ...call.request, metadata: call.metadata, deadline: call.getDeadline() });
      try {
        const answer = handlers[method.localName](call.request, call);
        if (answer !== undefined) callback(null, answer);
      } catch (error) {
        callback(error);
      }
    };
  }
  return [definition, implementation];
}

const server = new grpc.Server();
server.addService(...service());
const port = await new Promise((resolve, reject) => server.bindAsync(
  "127.0.0.1:0", grpc.ServerCredentials.createInsecure(),
  (error, bound) => error ? reject(error) : resolve(bound)));
const address = `127.0.0.1:${port}`;
const client = new Client(address, { metadata: { always: "there" } });
after(() => {
  client.close();
  server.forceShutdown();
});
afterEach(() => {
  handlers = {};
  asked = [];
});

const accepted = () => ({ taskId: "t" });
const state = (status, more = {}) => ({ state: { taskId: "t", status, ...more } });

test("a call is repeated under one request id while the error may pass", async () => {
  handlers.sendTask = failing([
    failure(Code.UNAVAILABLE, "DRAINING"),
    failure(Code.UNAVAILABLE),
    failure(Code.CANCELLED),
    failure(Code.RESOURCE_EXHAUSTED, "TOO_MANY_IN_FLIGHT", { retryMs: 1 }),
    failure(Code.DEADLINE_EXCEEDED, "CONFIRM_TIMEOUT"),
  ], accepted);
  assert.equal((await client.send("add", [1n])).id, "t");
  assert.equal(asked.length, 6);
  assert.match(asked[0].requestId, /^[0-9a-f-]{36}$/);
  assert.equal(new Set(asked.map((request) => request.requestId)).size, 1);
  await client.send("add", [1n]);
  assert.notEqual(asked[6].requestId, asked[0].requestId);
});

test("a run is one call", async () => {
  handlers.sendTask = failing([failure(Code.UNAVAILABLE, "DRAINING")], () => ({
    taskId: "t", ...state(SUCCESS, {
      results: [{ type: "int64", kind: { case: "intValue", value: 3n } }] }),
  }));
  assert.equal(await client.run("add", [1n, 2n], { timeoutMs: 7_000 }), 3n);
  assert.equal(asked.length, 2);
  assert.equal(asked[0].requestId, asked[1].requestId);
  assert.equal(asked[0].wait.seconds, 7n);
  assert.equal(asked[1].wait, undefined);  // or it might take twice as long
});

test("a run is repeated while its time lasts", async () => {
  handlers.sendTask = () => { throw failure(Code.UNAVAILABLE, "DRAINING"); };
  const unavailable = { code: "UNAVAILABLE" };
  await assert.rejects(client.run("add", [], { timeoutMs: 200 }), unavailable);
  asked = [];
  await assert.rejects(client.run("add", [], { retryBudgetMs: 0 }), unavailable);
  assert.equal(asked.length, 1);
  handlers.sendTask = accepted;
  handlers.getState = () => state(PENDING);
  await assert.rejects(client.run("add", [], { timeoutMs: -1 }), WaitTimeout);
});

test("how a run ended", async () => {
  handlers.sendTask = () => ({
    taskId: "t", ...state(FAILURE, { error: { message: "bad" } }) });
  await assert.rejects(client.run("add"), TaskFailed);
  handlers.sendTask = () => ({
    taskId: "t", ...state(CANCELLED, { error: { message: "cancelled" } }) });
  await assert.rejects(client.run({ name: "add" }), TaskCancelled);
  assert.equal(asked[1].wait.seconds, 30n);
});

test("a run that has not ended is waited for", async () => {
  for (const answer of [accepted(), { ...accepted(), ...state(PENDING) }]) {
    asked = [];
    handlers.sendTask = () => answer;
    handlers.getState = failing([], () => state(SUCCESS));
    assert.equal(await client.run({ name: "add" }, { timeoutMs: 5_000 }), null);
    assert.equal(asked[1].taskId, "t");
  }
  handlers.getState = () => state(PENDING);
  await assert.rejects(client.run("add", [], { timeoutMs: 50 }), (error) =>
    error instanceof WaitTimeout && error.message.includes("within 50 ms"));
});

test("a group that was sent in part is repeated", async () => {
  handlers.sendGroup = failing(
    [failure(Code.ABORTED, "GROUP_PARTIALLY_SENT")],
    () => ({ groupId: "g", taskIds: ["a", "b"] }));
  const group = await client.sendGroup([{ name: "a" }, { name: "b" }]);
  assert.deepEqual((await group.tasks()).map(({ id }) => id), ["a", "b"]);
  assert.equal(asked[0].requestId, asked[1].requestId);
});

test("an error that stays is not repeated, and says all that there is", async () => {
  handlers.sendTask = failing([failure(Code.INVALID_ARGUMENT, "INVALID_FIELD",
    { fields: ["task.name", "task.id"], message: "task.name: is required" })], accepted);
  await assert.rejects(client.send("", []), (error) => {
    assert.ok(error instanceof PenstockError);
    assert.equal(error.code, "INVALID_ARGUMENT");
    assert.equal(error.reason, "INVALID_FIELD");
    assert.equal(error.message, "task.name: is required");
    assert.deepEqual(error.metadata, { key: "value" });
    assert.deepEqual(error.fieldViolations, [
      { field: "task.name", description: "bad" },
      { field: "task.id", description: "bad" }]);
    assert.equal(error.retryable, false);
    return true;
  });
  for (const [code, reason] of [
    [Code.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE"], [Code.DEADLINE_EXCEEDED, ""],
    [Code.ABORTED, "OTHER"], [Code.INTERNAL, ""]]) {
    handlers.sendTask = failing([failure(code, reason)], accepted);
    await assert.rejects(client.send("add"), PenstockError);
  }
  assert.equal(asked.length, 5);
});

test("the repeats end with their budget", async () => {
  handlers.sendTask = () => { throw failure(Code.UNAVAILABLE, "DRAINING"); };
  await assert.rejects(client.send("add", [], { retryBudgetMs: 0 }), /no/);
  assert.equal(asked.length, 1);
  const begin = Date.now();
  await assert.rejects(client.send("add", [], { retryBudgetMs: 200 }), PenstockError);
  assert.ok(Date.now() - begin >= 200);
  assert.ok(asked.length >= 4, `${asked.length} calls`);
});

test("pauses double up to 2 s, with jitter, and heed the gateway", () => {
  const error = new PenstockError(statusOf(Code.UNAVAILABLE));
  const longest = (attempt) => pauseMs(attempt, error, () => 1);
  assert.deepEqual([0, 1, 2, 5, 6, 60].map(longest), [50, 100, 200, 1600, 2000, 2000]);
  assert.equal(pauseMs(2, error, () => 0), 100);
  const slow = new PenstockError(statusOf(Code.UNAVAILABLE, "", { retryMs: 700 }));
  assert.equal(pauseMs(0, slow), 700);
  assert.equal(pauseMs(6, slow, () => 1), 2000);
});

test("a call has a deadline, metadata, and ends by its signal", async () => {
  handlers.sendTask = accepted;
  await client.send("add", [], { deadlineMs: 5_000, metadata: { traceparent: "00-1" } });
  const left = asked[0].deadline - Date.now();
  assert.ok(left > 3_000 && left <= 5_100, `${left} ms`);
  assert.deepEqual(asked[0].metadata.get("always"), ["there"]);
  assert.deepEqual(asked[0].metadata.get("traceparent"), ["00-1"]);

  handlers.sendTask = () => undefined;
  await assert.rejects(client.send("add", [], { deadlineMs: 50 }),
    { name: "PenstockError", code: "DEADLINE_EXCEEDED", reason: "" });
  const why = new Error("enough");
  await assert.rejects(client.send("add", [], { signal: AbortSignal.abort(why) }), why);
  const controller = new AbortController();
  setTimeout(() => controller.abort(why), 50);
  await assert.rejects(client.send("add", [], { signal: controller.signal }), why);
});

test("one of several gateways that is away is left out", async () => {
  handlers.sendTask = accepted;
  const both = new Client(["127.0.0.1:1", address, "localhost:1"], { retryBudgetMs: 0 });
  for (let i = 0; i < 6; i++) await both.send("add");
  both.close();
  const none = new Client(["127.0.0.1:1", "localhost:1"], { retryBudgetMs: 0 });
  await assert.rejects(none.send("add"), { code: "UNAVAILABLE" });
  none.close();
  assert.throws(() => new Client([]), TypeError);
});

test("a wait asks again until the task has ended", async () => {
  const answers = [state(PENDING), state(PENDING),
    state(SUCCESS, { results: [{ type: "int64", kind: { case: "intValue", value: 3n } }] })];
  handlers.getState = () => answers.shift();
  const begin = Date.now();
  assert.equal(await client.task("t").result(), 3n);
  // It does not spin on answers that come early.
  assert.ok(Date.now() - begin >= 190);
  assert.equal(asked[0].wait.seconds, 30n);
  assert.ok(asked[0].deadline - begin > 39_000);
});

test("results are null, the value, or an array", async () => {
  const one = { type: "bool", kind: { case: "boolValue", value: true } };
  for (const [results, result] of [[[], null], [[one], true], [[one, one], [true, true]]]) {
    handlers.getState = () => state(SUCCESS, { results });
    assert.deepEqual(await client.task("t").result(), result);
    assert.equal((await client.task("t").results()).length, results.length);
  }
});

test("a task that did not end well rejects", async () => {
  handlers.getState = () => state(FAILURE, { error: { message: "oops", type: "exception" } });
  await assert.rejects(client.task("t").result(),
    { name: "TaskFailed", message: "oops", type: "exception", taskId: "t" });
  handlers.getState = () => state(CANCELLED, { error: { message: "cancelled: x" } });
  await assert.rejects(client.task("t").result(), (error) =>
    error instanceof TaskCancelled && error instanceof TaskFailed);
});

test("a wait that is over says so, also where no gateway answers", async () => {
  handlers.getState = () => state(PENDING);
  await assert.rejects(client.task("t").result({ timeoutMs: 250 }),
    { name: "WaitTimeout", id: "t", message: /250 ms/ });
  handlers.getState = () => { throw failure(Code.UNAVAILABLE, "BACKEND_UNAVAILABLE"); };
  await assert.rejects(client.task("t").result({ timeoutMs: 150 }),
    (error) => error instanceof WaitTimeout && error.cause.code === "UNAVAILABLE");
  handlers.getState = () => { throw failure(Code.NOT_FOUND, "TASK_NOT_FOUND"); };
  await assert.rejects(client.task("t").result(), { reason: "TASK_NOT_FOUND" });
});

test("a watch goes on over a broken stream, to the final state", async () => {
  let streams = 0;
  handlers.watchState = (call) => {
    if (++streams === 1) {
      call.write({ event: { case: "state", value: { taskId: "t", status: PENDING } } });
      call.write({ event: { case: "keepalive", value: {} } });
      call.emit("error", failure(Code.UNAVAILABLE, "DRAINING"));
    } else if (streams === 2) {
      call.end();
    } else {
      call.write({ event: { case: "state", value: { taskId: "t", status: SUCCESS } } });
      call.end();
    }
  };
  const seen = [];
  for await (const { status } of client.task("t").watch()) seen.push(status);
  assert.deepEqual(seen, ["PENDING", "SUCCESS"]);
  assert.equal(streams, 3);
  handlers.watchState = () => {};
  await assert.rejects(client.task("t").watch({ deadlineMs: 50 }).next(),
    { code: "DEADLINE_EXCEEDED" });
});

test("a watch that is left ends its stream", async () => {
  const left = new Promise((resolve) => {
    handlers.watchState = (call) => {
      call.write({ event: { case: "state", value: { taskId: "t", status: PENDING } } });
      call.on("cancelled", resolve);
    };
  });
  for await (const { status } of client.task("t").watch()) {
    assert.equal(status, "PENDING");
    break;
  }
  await left;
});

test("a group that was sent elsewhere is asked for its members", async () => {
  handlers.getGroupState = ({ pageToken, includeTasks }) => includeTasks
    ? pageToken === ""
      ? { group: { total: 2, tasks: [{ taskId: "a" }] }, nextPageToken: "2" }
      : { group: { total: 2, tasks: [{ taskId: "b" }] } }
    : { group: { groupId: "g", total: 2, done: true, counts: [{ status: SUCCESS, count: 2 }] } };
  const states = ["a", "b"].map((taskId) => ({ taskId, status: SUCCESS }));
  handlers.batchGetStates = () => ({ states: [...states].reverse() });
  const group = client.group("g");
  assert.deepEqual((await group.wait()).counts, { SUCCESS: 2 });
  assert.deepEqual((await group.states()).map(({ taskId }) => taskId), ["a", "b"]);
  assert.deepEqual(await group.results(), [[], []]);
  states.pop();
  await assert.rejects(group.states(), { code: "NOT_FOUND" });
});

test("a chain is its last link, and a chord its callback", async () => {
  const value = { type: "bool", kind: { case: "boolValue", value: true } };
  handlers.sendChain = () => ({ taskIds: ["a", "b"] });
  handlers.sendChord = () =>
    ({ groupId: "g", taskIds: ["a", "b"], callbackTaskId: "c", replayed: true });
  handlers.getState = ({ taskId }) =>
    ({ state: { taskId, status: SUCCESS, results: taskId > "a" ? [value] : [] } });
  const tasks = [{ name: "x" }, { name: "y" }];
  const chain = await client.sendChain(tasks);
  assert.deepEqual(chain.links.map(({ id }) => id), ["a", "b"]);
  assert.equal(chain.id, "b");
  assert.equal(await chain.result(), true);
  const chord = await client.sendChord(
    tasks, { name: "z" }, { onFailure: { name: "f", id: "f" } });
  assert.equal(asked.at(-1).onFailure.id, "f");
  assert.deepEqual([chord.id, chord.group.id, chord.replayed], ["c", "g", true]);
  assert.equal((await chord.group.tasks()).length, 2);
  assert.equal(await chord.result(), true);
});

test("many tasks go in calls of 1,000, and those that are missing again", async () => {
  let calls = 0;
  handlers.batchSendTasks = ({ tasks }) => {
    calls++;
    return { results: tasks.map(({ name }, i) => {
      if (name === "bad") {
        return { outcome: { case: "status", value: statusOf(Code.INVALID_ARGUMENT, "INVALID_FIELD") } };
      }
      if (calls === 1 && i === 5) {
        return { outcome: { case: "status", value: statusOf(Code.UNAVAILABLE, "BROKER_NACK") } };
      }
      return { outcome: { case: "taskId", value: name } };
    }) };
  };
  const tasks = Array.from({ length: 1_500 }, (_, i) => ({ name: `n${i}` }));
  tasks[7] = { name: "bad" };
  tasks[8] = { name: "worse", args: [null] };
  const sent = await client.sendMany(tasks, { requestId: "r" });
  assert.deepEqual(asked.map((request) => [request.requestId, request.tasks.length]),
    [["r", 1_000], ["r", 1_000], ["r.2", 499]]);
  assert.equal(sent[7].reason, "INVALID_FIELD");
  assert.ok(sent[8] instanceof TypeError);
  assert.ok(sent.every((handle, i) =>
    i === 7 || i === 8 || (handle instanceof TaskHandle && handle.id === `n${i}`)));
});

// The tasks of a message of a stream.
const tasksOf = ({ sequence, task, tasks }) =>
  tasks.length > 0 ? tasks : [{ sequence, task }];

// Answers them together, as they came; `refuse` gives the error of a task, if any.
function answer(call, request, refuse = () => undefined) {
  const results = tasksOf(request).map(({ sequence, task }) => {
    const error = refuse(sequence);
    return { sequence, outcome: error
      ? { case: "status", value: error } : { case: "taskId", value: task.id } };
  });
  const credit = results.length;
  call.write(request.tasks.length > 0 ? { credit, results } : { credit, ...results[0] });
}

for (const maxTasks of [0, 3, 100]) {
  test(`a stream keeps to its credit, and sends what is in doubt again, max_tasks ${maxTasks}`, async () => {
    const credit = 4;
    let streams = 0, most = 0, largest = 0;
    const ids = new Map(), done = new Set();
    handlers.streamTasks = (call) => {
      const number = ++streams;
      let open = 0, answered = 0, broken = false;
      call.write({ credit, maxTasks });
      call.on("end", () => call.end());
      call.on("data", (request) => {
        const tasks = tasksOf(request);
        largest = Math.max(largest, tasks.length);
        assert.notEqual(request.tasks.length, 1);
        most = Math.max(most, open += tasks.length);
        for (const { sequence, task } of tasks) {
          assert.match(task.id, /^task_/);
          assert.equal(ids.get(sequence) ?? task.id, task.id);
          ids.set(sequence, task.id);
        }
        setTimeout(() => {
          open -= tasks.length;
          if (broken) return;
          if (number === 1 && answered >= 6) {
            broken = true;
            call.emit("error", failure(Code.UNAVAILABLE, "DRAINING"));
            return;
          }
          answered += tasks.length;
          answer(call, request, (sequence) => {
            const again = done.has(sequence);
            done.add(sequence);
            if (sequence === 3n) return statusOf(Code.INVALID_ARGUMENT, "INVALID_FIELD");
            return sequence === 9n && !again
              ? statusOf(Code.UNAVAILABLE, "BROKER_NACK") : undefined;
          });
        }, 2);
      });
    };
    async function* source() {
      for (let i = 0; i < 20; i++) yield { name: "add", args: [BigInt(i)] };
      yield { name: "add", args: [null] };
    }
    const outcomes = [];
    for await (const outcome of client.sendStream(source())) outcomes[outcome.index] = outcome;
    assert.equal(outcomes.length, 21);
    assert.equal(streams, 2);
    assert.ok(most <= credit, `${most} without an answer`);
    assert.equal(largest, Math.min(credit, maxTasks || 1));
    outcomes.forEach(({ handle, error }, i) => {
      if (i === 3) assert.equal(error.reason, "INVALID_FIELD");
      else if (i === 20) assert.ok(error instanceof TypeError);
      else assert.equal(handle.id, ids.get(BigInt(i)));
    });
  });
}

test("what is ready goes in few messages, and only what is to be repeated again", async () => {
  const sizes = [], seen = [];
  handlers.streamTasks = (call) => {
    call.write({ credit: 1_000, maxTasks: 100 });
    call.on("data", (request) => {
      sizes.push(request.tasks.length);
      seen.push(...tasksOf(request).map(({ sequence }) => sequence));
      answer(call, request, (sequence) => sequence === 5n && seen.length < 251
        ? statusOf(Code.UNAVAILABLE, "BROKER_NACK") : undefined);
    });
  };
  const tasks = Array.from({ length: 250 }, (_, i) => ({ name: "add", id: `n${i}` }));
  const indices = [];
  for await (const { index, handle } of client.sendStream(tasks)) {
    assert.equal(handle.id, `n${index}`);
    indices.push(index);
  }
  // One alone is in `task`.
  assert.deepEqual(sizes, [100, 100, 50, 0]);
  const all = tasks.map((_, i) => i);
  assert.deepEqual(seen.map(Number), [...all, 5]);
  assert.deepEqual(indices, [...all.filter((i) => i !== 5), 5]);

  // A source that waits for each outcome is not waited for.
  sizes.length = 0;
  let told;
  async function* oneByOne() {
    for (let i = 0; i < 3; i++) {
      yield { name: "add" };
      await new Promise((resolve) => (told = resolve));
    }
  }
  for await (const { error } of client.sendStream(oneByOne())) {
    assert.equal(error, undefined);
    told();
  }
  assert.deepEqual(sizes, [0, 0, 0]);
});

test("messages of a stream are no larger than the gateway takes", async () => {
  const sizes = [];
  handlers.streamTasks = (call) => {
    call.write({ credit: 1_000, maxTasks: 100 });
    call.on("data", (request) => {
      sizes.push(tasksOf(request).length);
      answer(call, request);
    });
  };
  // 10 MB; this one takes 4 MiB, the default of gRPC.
  const text = "x".repeat(200_000);
  const tasks = Array.from({ length: 50 }, () => ({ name: "add", args: [text] }));
  tasks[7] = { name: "add", args: ["x".repeat(2_000_000)] };
  tasks[9] = { name: "add", priority: "high" };  // cannot be encoded
  const outcomes = [];
  for await (const outcome of client.sendStream(tasks)) outcomes[outcome.index] = outcome;
  assert.equal(outcomes.filter(({ handle }) => handle !== undefined).length, 49);
  assert.ok(outcomes[9].error instanceof Error);
  assert.equal(Math.max(...sizes), 5);
});

test("a gateway that takes one task in a message may follow one that takes several", async () => {
  const sizes = [[], []];
  let streams = 0;
  handlers.streamTasks = (call) => {
    const number = streams++;
    call.write({ credit: 1_000, maxTasks: number === 0 ? 10 : 0 });
    call.on("data", (request) => {
      sizes[number].push(request.tasks.length);
      if (number === 1 || sizes[0].length === 1) answer(call, request);
      else if (sizes[0].length === 2) call.emit("error", failure(Code.UNAVAILABLE, "DRAINING"));
    });
  };
  const tasks = Array.from({ length: 30 }, (_, i) => ({ name: "add", id: `n${i}` }));
  const outcomes = [];
  for await (const outcome of client.sendStream(tasks)) outcomes[outcome.index] = outcome;
  assert.ok(tasks.every(({ id }, i) => outcomes[i].handle.id === id));
  assert.equal(streams, 2);
  assert.equal(sizes[0][0], 10);
  assert.deepEqual(sizes[1], Array(20).fill(0));
});

test("a stream that is left, or whose source throws, ends", async () => {
  let ends = 0;
  const source = {
    [Symbol.iterator]: () => ({
      next: () => ({ value: { name: "add" }, done: false }),
      return: () => { ends++; return { done: true }; },
    }),
  };
  const cancelled = new Promise((resolve) => {
    handlers.streamTasks = (call) => {
      call.write({ credit: 1 });
      call.on("data", ({ sequence }) =>
        call.write({ sequence, credit: 1, outcome: { case: "taskId", value: "t" } }));
      call.on("cancelled", resolve);
    };
  });
  for await (const { handle } of client.sendStream(source)) {
    assert.equal(handle.id, "t");
    break;
  }
  await cancelled;
  assert.equal(ends, 1);
  const throwing = (function* () { throw new Error("no more"); })();
  await assert.rejects(client.sendStream(throwing).next(), /no more/);
  handlers.streamTasks = () => {};
  await assert.rejects(client.sendStream([{ name: "a" }], { deadlineMs: 50 }).next(),
    { code: "DEADLINE_EXCEEDED" });
});
