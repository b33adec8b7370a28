// Tasks that are sent as they come, over StreamTasks: as many at once as the gateway
// gives credit for, those that are ready together in one message, and over a new
// stream when one breaks.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { answersOf, type CallOptions, type Connection } from "./connection";
import { PenstockError } from "./errors";
import {
  GatewayService, StreamTaskSchema, StreamTasksRequestSchema,
  type StreamTasksResponse,
} from "./gen/penstock/v1/gateway_pb";
import type { Retry } from "./retry";
import { toTask, type Task } from "./task";

/** What became of a task: its id, or its error. */
export type Outcome =
  | { index: number; taskId: string; replayed: boolean }
  | { index: number; error: Error };

/** A task that has no outcome yet. */
interface Unanswered {
  index: number;
  /** Its StreamTask; encoded, so that its size is known. */
  bytes: Uint8Array;
  /** Its repeats, where the gateway could not take it for the moment. */
  retry: Retry | undefined;
}

// The gateway takes 64 MiB, which 100 tasks may exceed; and that much in one message
// is no cheaper than in several.
const MESSAGE_BYTES = 1 << 20;

type Duplex = Awaited<ReturnType<typeof open>>;

type Event =
  | { is: "answer"; stream: Duplex; answer: StreamTasksResponse }
  | { is: "broken"; stream: Duplex; error: unknown }
  | { is: "drain"; stream: Duplex }
  | { is: "task"; task: IteratorResult<Task> }
  | { is: "no task"; error: unknown }
  | { is: "again"; stream: Duplex; task: Unanswered }
  | { is: "turn" };

// Hands events from callbacks to the one loop that reads them.
class Mailbox<T> {
  readonly #waiting: T[] = [];
  #reader: ((event: T) => void) | undefined;

  push(event: T): void {
    const reader = this.#reader;
    this.#reader = undefined;
    if (reader === undefined) this.#waiting.push(event);
    else reader(event);
  }

  next(): Promise<T> {
    const event = this.#waiting.shift();
    if (event !== undefined) return Promise.resolve(event);
    return new Promise((resolve) => (this.#reader = resolve));
  }
}

function open(connection: Connection, options: CallOptions) {
  return connection.bidiStream(GatewayService.method.streamTasks, options);
}

// A StreamTasksRequest. One task has the fields there that it has in a StreamTask.
function toRequest(tasks: Unanswered[]): Uint8Array {
  if (tasks.length === 1) return tasks[0]!.bytes;
  const field = StreamTasksRequestSchema.field.tasks.number;
  const writer = new BinaryWriter();
  for (const { bytes } of tasks) {
    writer.tag(field, WireType.LengthDelimited).bytes(bytes);
  }
  return writer.finish();
}

/** Sends `tasks` and yields an outcome for each, as they come in. */
export async function* streamTasks(
  connection: Connection, tasks: Iterable<Task> | AsyncIterable<Task>,
  options: CallOptions,
): AsyncGenerator<Outcome> {
  const mailbox = new Mailbox<Event>();
  const source = Symbol.asyncIterator in tasks
    ? tasks[Symbol.asyncIterator]() : tasks[Symbol.iterator]();
  const unanswered = new Map<bigint, Unanswered>();
  const retry = connection.retry(options);
  let toSend: Unanswered[] = [];
  let count = 0;
  let asked = false;  // for the next task
  let ended = false;  // there is no next task
  let turning = false;  // a "turn" is on its way
  let credit = 0;
  let maxTasks = 1;  // of a message
  let writable = true;
  let stream: Duplex;

  const start = async () => {
    const started = await open(connection, options);
    stream = started;
    credit = 0;
    maxTasks = 1;
    writable = true;
    started.on("drain", () => mailbox.push({ is: "drain", stream: started }));
    void (async () => {
      const answers = answersOf(
        started, connection.deadlineMs(options), options.signal);
      try {
        for await (const answer of answers) {
          mailbox.push({ is: "answer", stream: started, answer });
        }
        throw new Error("the gateway has ended the stream before its time");
      } catch (error) {
        mailbox.push({ is: "broken", stream: started, error });
      }
    })();
  };

  const askForTask = async () => {
    asked = true;
    try {
      mailbox.push({ is: "task", task: await source.next() });
    } catch (error) {
      mailbox.push({ is: "no task", error });
    }
  };

  // Writes while at least so many tasks may be sent.
  const send = (least: number) => {
    while (writable && Math.min(toSend.length, credit) >= least) {
      const most = Math.min(toSend.length, credit, maxTasks);
      let count = 1;
      let bytes = toSend[0]!.bytes.length;
      while (count < most &&
        (bytes += toSend[count]!.bytes.length) <= MESSAGE_BYTES) count++;
      credit -= count;
      writable = stream.write(toRequest(toSend.splice(0, count)));
    }
  };

  try {
    await start();
    for (;;) {
      send(maxTasks);
      if (ended && unanswered.size === 0) return;
      if (credit > 0 && writable) {
        if (toSend.length < credit && !asked && !ended) void askForTask();
        // What fills no message leaves when the event loop has made its turn: all
        // that is ready now is there by then.
        if (toSend.length > 0 && !turning) {
          turning = true;
          setImmediate(() => mailbox.push({ is: "turn" }));
        }
      }

      const event = await mailbox.next();
      if ("stream" in event && event.stream !== stream!) continue;
      switch (event.is) {
        case "task": {
          asked = false;
          if (event.task.done) {
            ended = true;
            break;
          }
          const index = count++;
          try {
            const task = toTask(event.task.value);
            // With an id of its own it may be sent again, and runs once.
            task.id ||= `task_${randomUUID()}`;
            const sequence = BigInt(index);
            const bytes = toBinary(
              StreamTaskSchema, create(StreamTaskSchema, { sequence, task }));
            const entry = { index, bytes, retry: undefined };
            unanswered.set(sequence, entry);
            toSend.push(entry);
          } catch (error) {
            yield { index, error: error as Error };
          }
          break;
        }
        case "no task":
          throw event.error;
        case "again":
          toSend.push(event.task);
          break;
        case "turn":
          turning = false;
          send(1);
          break;
        case "drain":
          writable = true;
          break;
        case "broken":
          await retry.pause(event.error);
          await start();
          toSend = [...unanswered.values()];
          break;
        case "answer": {
          const { answer, stream } = event;
          credit += answer.credit;
          // The first one, which is about no task, says it.
          maxTasks = Math.max(maxTasks, answer.maxTasks);
          retry.reset();
          for (const { sequence, outcome, replayed } of [answer, ...answer.results]) {
            const entry = unanswered.get(sequence);
            if (outcome.case === undefined || entry === undefined) continue;
            const { index } = entry;
            if (outcome.case === "taskId") {
              unanswered.delete(sequence);
              yield { index, taskId: outcome.value, replayed };
              continue;
            }
            const error = new PenstockError(outcome.value);
            entry.retry ??= connection.retry(options);
            let ms: number;
            try {
              ms = entry.retry.next(error);
            } catch {
              unanswered.delete(sequence);
              yield { index, error };
              continue;
            }
            void sleep(ms, undefined, { ref: true })
              .then(() => mailbox.push({ is: "again", stream, task: entry }));
          }
          break;
        }
      }
    }
  } finally {
    stream!?.cancel();
    await source.return?.();
  }
}
