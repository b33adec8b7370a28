// What a user of the types may write, and what the compiler must refuse. It is
// compiled, not run.

import {
  Client, PenstockError, TaskHandle, typed, type Output, type Task,
} from "penstock";

const client = new Client(["a:1", "b:2"], { tls: { caFile: "ca.pem" }, deadlineMs: 1 });

export async function allowed() {
  const task: Task = { name: "add", args: [1n, 2, "3", true, Buffer.of(4), [5n]] };
  const sent: TaskHandle = await client.send("add", [1n, typed("int8", 5)]);
  await client.send(task, { requestId: "x", metadata: { traceparent: "00" } });
  const sum: bigint = await sent.result<bigint>({ timeoutMs: 1 });
  const all: Output[] = await sent.results();
  for await (const state of sent.watch()) console.log(state.status === "SUCCESS");
  for (const outcome of await client.sendMany([task])) {
    if (outcome instanceof TaskHandle) console.log(outcome.id);
    else console.log(outcome.message);
  }
  for await (const { index, handle, error } of client.sendStream([task])) {
    if (handle) console.log(index, handle.id);
    else console.log(error.message);
  }
  typed("[]uint8", Buffer.of(1));
  typed("[]float32", [1.5]);
  return { sum, all };
}

export async function refused() {
  // @ts-expect-error null is no value
  await client.send("add", [null]);
  // @ts-expect-error a list is of one kind
  await client.send("add", [[1n, "2"]]);
  // @ts-expect-error the option is delayMs
  await client.send({ name: "add", delay: 5 });
  // @ts-expect-error there is no such type
  typed("int128", 5);
  // @ts-expect-error text is no whole number
  typed("int8", "5");
  // @ts-expect-error codes have names
  new PenstockError({ code: 5 }).code === 5;
  // @ts-expect-error what is inside stays there
  client.connection;
}
