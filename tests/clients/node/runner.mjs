// Carries out the cases of ../cases.json by the public API of the installed package;
// ../README.md says what a case is and what an outcome.

import { randomUUID } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(
  new URL("../../../.tools/node/app/package.json", import.meta.url));
const {
  Client, PenstockError, TaskCancelled, TaskFailed, TaskHandle, WaitTimeout, typed,
} = require("penstock");

const run = randomUUID().slice(0, 8);
const own = (id) => id?.startsWith("@") ? `node.${id.slice(1)}.${run}` : id;

const floatOf = (hex) => Buffer.from(hex, "hex").readDoubleBE();
function hexOf(number) {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(number);
  return bytes.toString("hex");
}

// The JavaScript value of X for the type.
function plain(type, x) {
  if (type === "[]byte") return Buffer.from(x, "hex");
  if (type.startsWith("[]")) return x.map((e) => plain(type.slice(2), e));
  if (type.startsWith("float")) return floatOf(x);
  if (type.includes("int")) return BigInt(x);
  return x;
}

const NATIVE = new Set(["bool", "int64", "float64", "string", "[]byte"]);
const NATIVE_LISTS = new Set(["[]bool", "[]int64", "[]float64", "[]string"]);

function input(value) {
  const [[type, x]] = Object.entries(value);
  const native = plain(type, x);
  if (NATIVE.has(type) || (NATIVE_LISTS.has(type) && x.length > 0) ||
      (type === "uint64" && native > 2n ** 63n - 1n)) {
    return native;
  }
  return typed(type, native);
}

function task(json) {
  const {
    name, args, id, delay_ms, retry_count, immutable, headers, on_success, on_error,
    unique_key, timeout_ms, expire_after_ms, routing_key, priority, ...unknown
  } = json;
  for (const key in unknown) throw new Error(`${key} of a task is not known here`);
  return {
    name,
    args: args.map(input),
    id: own(id),
    delayMs: delay_ms,
    retryCount: retry_count,
    immutable,
    headers,
    onSuccess: on_success?.map(task),
    onError: on_error?.map(task),
    uniqueKey: own(unique_key),
    timeoutMs: timeout_ms,
    expireAfterMs: expire_after_ms,
    routingKey: routing_key,
    priority,
  };
}

function result(value) {
  if (Buffer.isBuffer(value)) return { bytes: value.toString("hex") };
  if (Array.isArray(value)) return { list: value.map(result) };
  switch (typeof value) {
    case "boolean": return { bool: value };
    case "bigint": return { int: String(value) };
    case "number": return { float: hexOf(value) };
    case "string": return { string: value };
  }
  throw new Error(`a result is ${value}`);
}

// The outcome that an error is; one that is none is thrown on.
function failure(error) {
  if (error instanceof TaskFailed) {
    const status = error instanceof TaskCancelled ? "CANCELLED" : "FAILURE";
    return { task_error: { status, message: error.message, type: error.type } };
  }
  if (error instanceof WaitTimeout) return { timeout: true };
  if (error instanceof PenstockError) {
    const outcome = { code: error.code };
    if (error.reason !== "") outcome.reason = error.reason;
    const fields = error.fieldViolations.map(({ field }) => field);
    if (fields.length > 0) outcome.fields = fields;
    return { error: outcome };
  }
  if (error instanceof TypeError || error instanceof RangeError) {
    return { client_error: true };
  }
  throw error;
}

async function outcome(handle, timeoutMs = 20_000) {
  try {
    const results = await handle.results({ timeoutMs });
    return { results: results.map(result) };
  } catch (error) {
    return failure(error);
  }
}

const outcomeOrError = (sent) =>
  sent instanceof TaskHandle ? outcome(sent) : failure(sent);

// By `do`: carries a case out, and returns its outcome or throws the error of a call.
function actions(client) {
  const cancelled = async (handle, reason) => {
    const accepted = await handle.cancel(reason);
    return { accepted, outcome: await outcome(handle) };
  };
  return {
    send: async (c) => outcome(await client.send(task(c.task)), c.timeout_ms),
    metadata: async (c) =>
      outcome(await client.send(task(c.task), { metadata: c.metadata })),
    group: async (c) => {
      const group = await client.sendGroup(c.tasks.map(task));
      await group.wait({ timeoutMs: 20_000 });
      return { members: await Promise.all((await group.tasks()).map((t) => outcome(t))) };
    },
    chain: async (c) => outcome(await client.sendChain(c.tasks.map(task))),
    chord: async (c) => {
      const chord = await client.sendChord(c.tasks.map(task), task(c.callback));
      return outcome(chord);
    },
    chord_on_failure: async (c) => {
      const onFailure = task(c.on_failure);
      const chord = await client.sendChord(
        c.tasks.map(task), task(c.callback), { onFailure });
      await chord.group.wait({ timeoutMs: 20_000 });
      return {
        callback: await outcome(chord),
        on_failure: await outcome(client.task(onFailure.id)),
      };
    },
    many: async (c) => {
      const sent = await client.sendMany(c.tasks.map(task));
      return { members: await Promise.all(sent.map(outcomeOrError)) };
    },
    stream: async (c) => {
      const sent = [];
      for await (const { index, handle, error } of client.sendStream(c.tasks.map(task))) {
        sent[index] = handle ?? error;
      }
      return { members: await Promise.all(sent.map(outcomeOrError)) };
    },
    state: async (c) => ({ status: (await client.task(c.task_id).state()).status }),
    group_state: async (c) => ({ total: (await client.group(c.group_id).state()).total }),
    watch: async (c) => {
      let last;
      const handle = await client.send(task(c.task));
      for await (const { status } of handle.watch()) last = status;
      return { last };
    },
    cancel: async (c) => cancelled(await client.send(task(c.task)), c.reason),
    cancel_running: async (c) => {
      const handle = await client.send(task(c.task));
      for await (const { status } of handle.watch()) {
        if (status === "STARTED") break;
      }
      return cancelled(handle, c.reason);
    },
    wait_over: async (c) => {
      const handle = await client.send(task(c.task));
      const waited = await outcome(handle, c.timeout_ms);
      await handle.cancel();
      return waited;
    },
    repeat: async (c) => {
      const requestId = `node.${randomUUID()}`;
      const first = await client.send(task(c.task), { requestId });
      const second = await client.send(task(c.task), { requestId });
      return {
        same_id: first.id === second.id,
        replayed: [first.replayed, second.replayed],
        outcome: await outcome(second),
      };
    },
    reuse: async (c) => {
      const requestId = `node.${randomUUID()}`;
      await client.send(task(c.task), { requestId });
      return outcome(await client.send(task(c.other), { requestId }));
    },
    unique: async (c) => {
      const first = await client.send(task(c.task));
      try {
        return await outcome(await client.send(task(c.task)));
      } finally {
        await first.cancel();
      }
    },
    silent: async (c) => {
      const silent = new Client(process.env.CLIENTS_SILENT,
        { deadlineMs: 500, retryBudgetMs: 0 });
      try {
        return await outcome(await silent.send(task(c.task)));
      } finally {
        silent.close();
      }
    },
  };
}

async function runCases(client, cases) {
  const by = actions(client);
  const outcomes = {};
  for (const c of cases) {
    if (by[c.do] === undefined) throw new Error(`"${c.do}" is not known here`);
    try {
      outcomes[c.name] = await by[c.do](c);
    } catch (error) {
      outcomes[c.name] = failure(error);
    }
  }
  return outcomes;
}

async function roll(client, count, prefix) {
  const handles = [];
  let next = 0;
  let accepted = 0;
  const sender = async () => {
    while (next < count) {
      const i = next++;
      handles[i] = await client.send("record", [`${prefix}.${i}`]);
      if (++accepted % 100 === 0) console.log(`sent ${accepted}`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, sender));
  const outcomes = [];
  for (const handle of handles) outcomes.push(await outcome(handle, 120_000));
  return { sent: handles.map(({ id }) => id), outcomes };
}

const [mode, addresses, ...rest] = process.argv.slice(2);
const client = new Client(addresses.split(","));
try {
  if (mode === "cases") {
    const [cases, out] = rest;
    writeFileSync(out, JSON.stringify(
      await runCases(client, JSON.parse(readFileSync(cases, "utf8"))), null, 1));
  } else if (mode === "roll") {
    const [count, prefix, out] = rest;
    writeFileSync(out, JSON.stringify(await roll(client, Number(count), prefix)));
  } else {
    throw new Error(`"${mode}" is not known here`);
  }
} finally {
  client.close();
}
