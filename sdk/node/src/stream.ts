// Tasks that are sent as they come, over StreamTasks: as many at once as the gateway
// gives credit for, and over a new stream when one breaks.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { answersOf, type CallOptions, type Connection } from "./connection";
import { PenstockError } from "./errors";
import {
  GatewayService, StreamTasksRequestSchema, type StreamTasksRequest,
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
  request: StreamTasksRequest;
  /** Its repeats, where the gateway could not take it for the moment. */
  retry: Retry | undefined;
}

type Duplex = Awaited<ReturnType<typeof open>>;

type Event =
  | { is: "answer"; stream: Duplex; answer: StreamTasksResponse }
  | { is: "broken"; stream: Duplex; error: unknown }
  | { is: "drain"; stream: Duplex }
  | { is: "task"; task: IteratorResult<Task> }
  | { is: "no task"; error: unknown }
  | { is: "again"; task: Unanswered };

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
  let credit = 0;
  let writable = true;
  let stream: Duplex;

  const start = async () => {
    const started = await open(connection, options);
    stream = started;
    credit = 0;
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

  try {
    await start();
    for (;;) {
      while (credit > 0 && writable && toSend.length > 0) {
        credit--;
        writable = stream!.write(toSend.shift()!.request);
      }
      if (ended && unanswered.size === 0) return;
      if (credit > 0 && writable && !asked && !ended) void askForTask();

      const event = await mailbox.next();
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
            const request = create(StreamTasksRequestSchema, { sequence, task });
            const entry = { index, request, retry: undefined };
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
        case "drain":
          if (event.stream === stream!) writable = true;
          break;
        case "broken": {
          if (event.stream !== stream!) break;
          await retry.pause(event.error);
          await start();
          toSend = [...unanswered.values()];
          break;
        }
        case "answer": {
          if (event.stream !== stream!) break;
          const { sequence, outcome, replayed } = event.answer;
          credit += event.answer.credit;
          retry.reset();
          const entry = unanswered.get(sequence);
          if (outcome.case === undefined || entry === undefined) break;
          const { index } = entry;
          if (outcome.case === "taskId") {
            unanswered.delete(sequence);
            yield { index, taskId: outcome.value, replayed };
            break;
          }
          const error = new PenstockError(outcome.value);
          entry.retry ??= connection.retry(options);
          let ms: number;
          try {
            ms = entry.retry.next(error);
          } catch {
            unanswered.delete(sequence);
            yield { index, error };
            break;
          }
          void sleep(ms, undefined, { ref: true })
            .then(() => mailbox.push({ is: "again", task: entry }));
          break;
        }
      }
    }
  } finally {
    stream!?.cancel();
    await source.return?.();
  }
}
