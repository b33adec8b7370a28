// The client: what sends.

import { randomUUID } from "node:crypto";
import { toBinary } from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { Connection, type CallOptions, type ClientOptions } from "./connection";
import { PenstockError, WaitTimeout } from "./errors";
import {
  GatewayService, type SendTaskResult,
} from "./gen/penstock/v1/gateway_pb";
import { TaskSchema, type Task as ProtoTask } from "./gen/penstock/v1/messages_pb";
import {
  ChainHandle, ChordHandle, GroupHandle, LONGEST_WAIT_MS, SLACK_MS, TaskHandle, resultOf,
  type Result,
} from "./handles";
import { streamTasks } from "./stream";
import { fromState, isFinal, toDuration, toTask, type Task } from "./task";
import type { Input } from "./values";

/** What holds for one call that sends. */
export interface SendOptions extends CallOptions {
  /**
   * Names the call, so that it may be repeated safely, to any gateway: an equal one
   * is not carried out again within 24 hours. 1 to 200 characters of
   * `A-Z a-z 0-9 _ . : -`. Default: one of the client's own for each call, under
   * which it repeats the call itself.
   */
  requestId?: string;
}

/** What holds for one task that is sent and waited for. */
export interface RunOptions extends Omit<SendOptions, "deadlineMs"> {
  /** How long to wait for its end, in milliseconds. Default: until it has ended. */
  timeoutMs?: number;
}

/** What holds for one call that sends a group. */
export interface SendGroupOptions extends SendOptions {
  /** The id of the group. Default: the gateway makes one. */
  groupId?: string;
  /** How many messages are sent at once. Default: no limit of its own. */
  sendConcurrency?: number;
}

/** What holds for one call that sends a chord. */
export interface SendChordOptions extends SendGroupOptions {
  /**
   * Sent instead of the callback when a member failed or was cancelled, with the
   * text of why before its own arguments. Give it an `id` to wait for it by
   * `client.task(id)`; its state exists once it was sent. Default: none.
   */
  onFailure?: Task;
}

/** What became of one task of many: its handle, or why it was not accepted. */
export type StreamOutcome =
  | { index: number; handle: TaskHandle; error?: undefined }
  | { index: number; handle?: undefined; error: Error };

const { method } = GatewayService;
const BATCH_TASKS = 1_000;
// Half of what the gateway takes: what it does not count is well within the rest.
const BATCH_BYTES = 32 << 20;

/**
 * A client of one or several gateways. It keeps its connections: make one for the
 * process and close() it at the end. Calls reject with {@link PenstockError}; tasks
 * that cannot be said in a message with TypeError or RangeError, before any call.
 */
export class Client {
  /** @internal */
  readonly connection: Connection;
  /** @internal */
  readonly retryBudgetMs: number;

  /**
   * @param addresses one or several gateways, each `host:port`, or what gRPC takes,
   *   such as `dns:///name:port` for all addresses of a name. Calls go to them in
   *   turn; one that is away is left out. Connects when it is first used.
   */
  constructor(addresses: string | readonly string[], options: ClientOptions = {}) {
    this.connection = new Connection(addresses, options);
    this.retryBudgetMs = options.retryBudgetMs ?? 30_000;
  }

  /** Closes the connections; calls that are under way end. */
  close(): void {
    this.connection.close();
  }

  /** A task that was sent before, or elsewhere. Makes no call. */
  task(id: string): TaskHandle {
    return new TaskHandle(this, id);
  }

  /** A group or a chord that was sent before, or elsewhere. Makes no call. */
  group(id: string): GroupHandle {
    return new GroupHandle(this, id);
  }

  /** Sends a task: `client.send("add", [1n, 2n])`. */
  send(
    name: string, args?: readonly Input[], options?: SendOptions,
  ): Promise<TaskHandle>;
  /** Sends a task: `client.send({ name: "add", args: [1n], delayMs: 5_000 })`. */
  send(task: Task, options?: SendOptions): Promise<TaskHandle>;
  async send(
    task: string | Task, argsOrOptions?: readonly Input[] | SendOptions,
    lastOptions?: SendOptions,
  ): Promise<TaskHandle> {
    const { request, options } = sendOf(task, argsOrOptions, lastOptions);
    const { taskId, replayed } = await this.connection.call(
      method.sendTask, request, options);
    return new TaskHandle(this, taskId, replayed);
  }

  /**
   * Sends a task and waits for its result, in one call where the end comes within
   * 30 s: `await client.run("add", [1n, 2n], { timeoutMs: 10_000 })`. As
   * {@link TaskHandle.result}, whose errors it rejects with; a task that has not ended
   * in time goes on.
   */
  run<T = Result>(
    name: string, args?: readonly Input[], options?: RunOptions,
  ): Promise<T>;
  run<T = Result>(task: Task, options?: RunOptions): Promise<T>;
  async run<T = Result>(
    task: string | Task, argsOrOptions?: readonly Input[] | RunOptions,
    lastOptions?: RunOptions,
  ): Promise<T> {
    const { request, options } = sendOf(task, argsOrOptions, lastOptions);
    const { timeoutMs = Infinity, retryBudgetMs = this.retryBudgetMs, metadata, signal } =
      options;
    const end = Date.now() + timeoutMs;
    const left = () => Math.max(0, end - Date.now());
    const waitMs = Math.min(Math.max(0, timeoutMs), LONGEST_WAIT_MS);
    const send = (more: { wait?: Duration }, call: CallOptions) => this.connection.call(
      method.sendTask, { ...request, ...more }, { metadata, signal, ...call });
    const { taskId, replayed, state } = await send(
      { wait: toDuration("timeoutMs", waitMs) },
      { deadlineMs: waitMs + SLACK_MS, retryBudgetMs: 0 },
    ).catch((error) => {
      const may = error instanceof PenstockError && error.retryable && retryBudgetMs > 0;
      if (!may) throw error;
      // A repeat would wait as long again.
      return send({}, { retryBudgetMs: Math.min(retryBudgetMs, left()) });
    });
    const now = state && fromState(state);
    if (now !== undefined && isFinal(now.status)) return resultOf<T>(now);
    return new TaskHandle(this, taskId, replayed).result<T>(
      { timeoutMs: left(), metadata, signal },
    ).catch((error) => {
      if (!(error instanceof WaitTimeout)) throw error;
      throw new WaitTimeout(taskId, timeoutMs, { cause: error.cause });  // not what was left
    });
  }

  /** Sends 1 to 10,000 tasks that run in parallel. */
  async sendGroup(
    tasks: readonly Task[], options: SendGroupOptions = {},
  ): Promise<GroupHandle> {
    const { groupId, sendConcurrency } = options;
    const answer = await this.connection.call(method.sendGroup, {
      tasks: tasks.map(toTask), requestId: requestId(options), groupId,
      sendConcurrency,
    }, options);
    return new GroupHandle(this, answer.groupId, answer.taskIds, answer.replayed);
  }

  /**
   * Sends 1 to 1,000 tasks that run one after the other; each gets the results of
   * the one before it after its own arguments, unless that one is immutable.
   */
  async sendChain(
    tasks: readonly Task[], options: SendOptions = {},
  ): Promise<ChainHandle> {
    const { taskIds, replayed } = await this.connection.call(method.sendChain, {
      tasks: tasks.map(toTask), requestId: requestId(options),
    }, options);
    const handles = taskIds.map((id) => new TaskHandle(this, id, replayed));
    return new ChainHandle(this, handles, replayed);
  }

  /**
   * Sends a group of 1 to 10,000 tasks and, when all have succeeded, `callback`,
   * with all their results, member by member, after its own arguments.
   */
  async sendChord(
    tasks: readonly Task[], callback: Task, options: SendChordOptions = {},
  ): Promise<ChordHandle> {
    const { groupId, sendConcurrency, onFailure } = options;
    const answer = await this.connection.call(method.sendChord, {
      tasks: tasks.map(toTask), callback: toTask(callback),
      requestId: requestId(options), groupId, sendConcurrency,
      onFailure: onFailure && toTask(onFailure),
    }, options);
    const group = new GroupHandle(
      this, answer.groupId, answer.taskIds, answer.replayed);
    return new ChordHandle(this, answer.callbackTaskId, group);
  }

  /**
   * Sends any number of tasks that have nothing to do with each other, in few calls.
   * Resolves, in their order, to a handle for each, or to the error for which it was
   * not accepted; it does not reject, so look at each.
   */
  async sendMany(
    tasks: readonly Task[], options: SendOptions = {},
  ): Promise<(TaskHandle | Error)[]> {
    const outcomes: (TaskHandle | Error)[] = [];
    let batch: { index: number; task: ProtoTask }[] = [];
    let bytes = 0;
    const id = requestId(options);
    let batches = 0;
    const sendBatch = async () => {
      if (batch.length === 0) return;
      const batchId = batches++ === 0 ? id : `${id}.${batches}`;
      const sent = await this.#sendBatch(
        batch.map(({ task }) => task), { ...options, requestId: batchId });
      batch.forEach(({ index }, i) => (outcomes[index] = sent[i]!));
      batch = [];
      bytes = 0;
    };
    for (const [index, task] of tasks.entries()) {
      try {
        const proto = toTask(task);
        const size = toBinary(TaskSchema, proto).length;
        if (batch.length === BATCH_TASKS || bytes + size > BATCH_BYTES) {
          await sendBatch();
        }
        batch.push({ index, task: proto });
        bytes += size;
      } catch (error) {
        outcomes[index] = error as Error;
      }
    }
    await sendBatch();
    return outcomes;
  }

  /**
   * Sends tasks as they come, for as long as they come, and yields what became of
   * each as soon as that is known, which need not be in their order; `index` counts
   * the tasks from 0. It takes no more tasks than the gateway takes, and those that
   * a broken connection leaves in doubt are sent again and run once.
   *
   * Where `tasks` throws, so does this; where a gateway is away for longer than
   * `retryBudgetMs`, it throws the error. `deadlineMs` holds for the opening.
   */
  async *sendStream(
    tasks: Iterable<Task> | AsyncIterable<Task>, options: CallOptions = {},
  ): AsyncGenerator<StreamOutcome, void, void> {
    for await (const outcome of streamTasks(this.connection, tasks, options)) {
      yield "error" in outcome ? outcome : {
        index: outcome.index,
        handle: new TaskHandle(this, outcome.taskId, outcome.replayed),
      };
    }
  }

  // What became of each task of one call. Repeats the call while a task has an error
  // that is for the moment only: that sends those which are missing.
  async #sendBatch(
    tasks: ProtoTask[], options: SendOptions,
  ): Promise<(TaskHandle | Error)[]> {
    const { requestId } = options;
    const retry = this.connection.retry(options);
    for (;;) {
      let results: SendTaskResult[];
      try {
        const answer = await this.connection.call(
          method.batchSendTasks, { tasks, requestId }, options);
        results = answer.results;
      } catch (error) {
        return tasks.map(() => error as Error);
      }
      const outcomes = results.map(({ outcome, replayed }) =>
        outcome.case === "taskId"
          ? new TaskHandle(this, outcome.value, replayed)
          : new PenstockError(outcome.value!));
      const passing = outcomes.find(
        (outcome) => outcome instanceof PenstockError && outcome.retryable);
      if (passing === undefined) return outcomes;
      try {
        await retry.pause(passing);
      } catch {
        return outcomes;
      }
    }
  }
}

// The request of send() and run(), in either of their forms.
function sendOf<O extends SendOptions>(
  task: string | Task, argsOrOptions: readonly Input[] | O | undefined,
  lastOptions: O | undefined,
) {
  const options = (typeof task === "string"
    ? lastOptions : argsOrOptions as O | undefined) ?? {} as O;
  const message = toTask(typeof task === "string"
    ? { name: task, args: argsOrOptions as readonly Input[] | undefined } : task);
  return { request: { task: message, requestId: requestId(options) }, options };
}

function requestId(options: SendOptions): string {
  return options.requestId ?? randomUUID();
}
