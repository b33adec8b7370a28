// What a sent task, group, chain or chord is followed by.

import { setTimeout as sleep } from "node:timers/promises";
import type { CallOptions } from "./connection";
import type { Client } from "./client";
import { PenstockError, TaskCancelled, TaskFailed, WaitTimeout } from "./errors";
import { StatusSchema } from "./gen/google/rpc/status_pb";
import { GatewayService } from "./gen/penstock/v1/gateway_pb";
import {
  fromGroupState, fromState, isFinal, toDuration, type GroupState, type TaskState,
} from "./task";
import type { Output } from "./values";
import { create } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";

/** How to wait. */
export interface WaitOptions {
  /** How long to wait, in milliseconds. Default: until it has ended. */
  timeoutMs?: number;
  /** Metadata of the calls. */
  metadata?: CallOptions["metadata"];
  /** Gives up waiting when it fires; the wait rejects with its reason. */
  signal?: AbortSignal;
}

/** What {@link TaskHandle.result} resolves to. */
export type Result = Output | Output[] | null;

const { method } = GatewayService;
/** @internal */
export const LONGEST_WAIT_MS = 30_000;
/** @internal */
export const SLACK_MS = 10_000;
const PAUSE_MS = 100;
const PAGE = 1_000;

// Calls `ask` with times to wait until it gives an answer. A gateway that stops
// answers early, and so may one that is asked again: hence the pause.
async function waitFor<T>(
  client: Client, id: string, options: WaitOptions,
  ask: (waitMs: number, call: CallOptions) => Promise<T | undefined>,
): Promise<T> {
  const { timeoutMs = Infinity, metadata, signal } = options;
  const end = Date.now() + timeoutMs;
  for (;;) {
    const begin = Date.now();
    const left = Math.max(0, end - begin);
    const waitMs = Math.min(left, LONGEST_WAIT_MS);
    try {
      const answer = await ask(waitMs, {
        deadlineMs: waitMs + SLACK_MS,
        retryBudgetMs: Math.min(left, client.retryBudgetMs),
        metadata,
        signal,
      });
      if (answer !== undefined) return answer;
    } catch (error) {
      const late = error instanceof PenstockError && Date.now() >= end &&
        (error.retryable || error.code === "DEADLINE_EXCEEDED");
      throw late ? new WaitTimeout(id, timeoutMs, { cause: error }) : error;
    }
    if (Date.now() >= end) throw new WaitTimeout(id, timeoutMs);
    if (Date.now() - begin < waitMs) {
      await sleep(Math.min(PAUSE_MS, end - Date.now()));
      signal?.throwIfAborted();
    }
  }
}

// The results of a task that has ended.
function resultsOf(state: TaskState): Output[] {
  if (state.status === "FAILURE") throw new TaskFailed(state);
  if (state.status === "CANCELLED") throw new TaskCancelled(state);
  return state.results;
}

/** @internal */
export function resultOf<T>(state: TaskState): T {
  const results = resultsOf(state);
  const result = results.length > 1 ? results : results[0] ?? null;
  return result as T;
}

function expired(taskId: string): PenstockError {
  return new PenstockError(create(StatusSchema, {
    code: Code.NOT_FOUND,
    message: `no state of the task ${taskId} is known, or not any more`,
  }));
}

/** A task that was sent, here or elsewhere. */
export class TaskHandle {
  /** @internal */
  constructor(
    /** @internal */
    protected readonly client: Client,
    /** The id of the task. */
    readonly id: string,
    /** Whether an equal task had been accepted under this id before. */
    readonly replayed: boolean = false,
  ) {}

  /** How the task stands. Rejects with NOT_FOUND `TASK_NOT_FOUND`. */
  async state(options: CallOptions = {}): Promise<TaskState> {
    const { state } = await this.client.connection.call(
      method.getState, { taskId: this.id }, options);
    return fromState(state!);
  }

  /**
   * Waits for the task to end, well or not, and resolves to its final state.
   * Rejects with {@link WaitTimeout} when the time is over.
   */
  wait(options: WaitOptions = {}): Promise<TaskState> {
    return waitFor(this.client, this.id, options, async (waitMs, call) => {
      const { state } = await this.client.connection.call(
        method.getState,
        { taskId: this.id, wait: toDuration("timeoutMs", waitMs) }, call);
      const now = fromState(state!);
      return isFinal(now.status) ? now : undefined;
    });
  }

  /**
   * Waits for the results of the task. Rejects with {@link TaskFailed},
   * {@link TaskCancelled}, or {@link WaitTimeout} when the time is over.
   */
  async results(options: WaitOptions = {}): Promise<Output[]> {
    return resultsOf(await this.wait(options));
  }

  /**
   * As results(), but resolves to the result itself where there is one, to null
   * where there is none, and to an array where there are several. `T` says what is
   * expected: `await handle.result<bigint>()`; nothing checks that.
   */
  async result<T = Result>(options: WaitOptions = {}): Promise<T> {
    return resultOf<T>(await this.wait(options));
  }

  /**
   * The state of the task now, and each change that is seen, up to the final one:
   * `for await (const state of handle.watch())`. Quick changes may be skipped, and
   * after a lost connection a state may come twice.
   */
  async *watch(options: CallOptions = {}): AsyncGenerator<TaskState, void, void> {
    const { connection } = this.client;
    const retry = connection.retry(options);
    for (;;) {
      const answers = connection.serverStream(
        method.watchState, { taskIds: [this.id] }, options);
      try {
        for await (const { event } of answers) {
          retry.reset();
          if (event.case !== "state") continue;
          const state = fromState(event.value);
          yield state;
          if (isFinal(state.status)) return;
        }
      } catch (error) {
        await retry.pause(error);
        continue;
      }
      // A gateway that stops may end the stream with OK.
      await sleep(PAUSE_MS);
    }
  }

  /**
   * Cancels the task. Resolves to whether this call did it; false: it had ended
   * already. A repeat after a lost answer resolves to false, too.
   */
  async cancel(reason = "", options: CallOptions = {}): Promise<boolean> {
    const { accepted } = await this.client.connection.call(
      method.cancelTask, { taskId: this.id, reason }, options);
    return accepted;
  }
}

/** A chain that was sent: its last link, whose result is that of the chain. */
export class ChainHandle extends TaskHandle {
  /** @internal */
  constructor(
    client: Client,
    /** All links, in order. */
    readonly links: readonly TaskHandle[],
    replayed: boolean,
  ) {
    super(client, links[links.length - 1]!.id, replayed);
  }
}

/** A group that was sent, here or elsewhere. */
export class GroupHandle {
  #taskIds: readonly string[] | undefined;

  /** @internal */
  constructor(
    /** @internal */
    private readonly client: Client,
    /** The id of the group. */
    readonly id: string,
    taskIds?: readonly string[],
    /** Whether an equal group had been accepted under this id before. */
    readonly replayed: boolean = false,
  ) {
    this.#taskIds = taskIds;
  }

  /** How the group stands. Rejects with NOT_FOUND `GROUP_NOT_FOUND`. */
  async state(options: CallOptions = {}): Promise<GroupState> {
    const { group } = await this.client.connection.call(
      method.getGroupState, { groupId: this.id }, options);
    return fromGroupState(group!);
  }

  /**
   * Waits for all members to end, and for a chord's callback. Rejects with
   * {@link WaitTimeout} when the time is over.
   */
  wait(options: WaitOptions = {}): Promise<GroupState> {
    return waitFor(this.client, this.id, options, async (waitMs, call) => {
      const { group } = await this.client.connection.call(
        method.getGroupState,
        { groupId: this.id, wait: toDuration("timeoutMs", waitMs) }, call);
      return group!.done ? fromGroupState(group!) : undefined;
    });
  }

  /** The members, in order. Asks the gateway where the group was sent elsewhere. */
  async tasks(options: CallOptions = {}): Promise<TaskHandle[]> {
    this.#taskIds ??= await this.#listTaskIds(options);
    return this.#taskIds.map((id) => new TaskHandle(this.client, id, this.replayed));
  }

  /** The states of the members, in order. Rejects where one has expired. */
  async states(options: CallOptions = {}): Promise<TaskState[]> {
    const ids = (await this.tasks(options)).map(({ id }) => id);
    const known = new Map<string, TaskState>();
    for (let i = 0; i < ids.length; i += PAGE) {
      const { states } = await this.client.connection.call(
        method.batchGetStates, { taskIds: ids.slice(i, i + PAGE) }, options);
      for (const state of states) known.set(state.taskId, fromState(state));
    }
    return ids.map((id) => {
      const state = known.get(id);
      if (state === undefined) throw expired(id);
      return state;
    });
  }

  /**
   * Waits for the results of all members, in order: of each an array of them.
   * Rejects with {@link TaskFailed} or {@link TaskCancelled} for the first member
   * that did not end well, once all have ended; states() tells of the others.
   */
  async results(options: WaitOptions = {}): Promise<Output[][]> {
    await this.wait(options);
    const { metadata, signal } = options;
    return (await this.states({ metadata, signal })).map(resultsOf);
  }

  /**
   * Cancels all members, and a chord's callback. Resolves to how many tasks this
   * call cancelled; the others had ended already.
   */
  async cancel(reason = "", options: CallOptions = {}): Promise<number> {
    const { cancelledCount } = await this.client.connection.call(
      method.cancelGroup, { groupId: this.id, reason }, options);
    return cancelledCount;
  }

  async #listTaskIds(options: CallOptions): Promise<string[]> {
    const ids: string[] = [];
    let pageToken = "";
    do {
      const answer = await this.client.connection.call(
        method.getGroupState,
        { groupId: this.id, includeTasks: true, pageSize: PAGE, pageToken }, options);
      ids.push(...answer.group!.tasks.map(({ taskId }) => taskId));
      pageToken = answer.nextPageToken;
    } while (pageToken !== "");
    return ids;
  }
}

/** A chord that was sent: its callback, whose result is that of the chord. */
export class ChordHandle extends TaskHandle {
  /** @internal */
  constructor(
    client: Client, callbackTaskId: string,
    /** The members. Its state and its end are those of the callback, too. */
    readonly group: GroupHandle,
  ) {
    super(client, callbackTaskId, group.replayed);
  }
}
