// Tasks and states as the client's users see them, and as the protos have them.

import { create } from "@bufbuild/protobuf";
import {
  timestampDate, timestampFromDate, type Duration, type Timestamp,
} from "@bufbuild/protobuf/wkt";
import {
  TaskSchema, TaskStatus as ProtoStatus, type GroupState as ProtoGroupState,
  type Task as ProtoTask, type TaskState as ProtoState,
} from "./gen/penstock/v1/messages_pb";
import { fromValue, toValue, type Input, type Output } from "./values";

/** What to run. Only `name` is required. All times are in milliseconds. */
export interface Task {
  /** The name under which a worker registered the handler. 1 to 255 bytes. */
  name: string;
  /** The arguments, in order. Default: none. */
  args?: readonly Input[];
  /**
   * The id of the task. Default: the gateway makes one. 1 to 200 characters of
   * `A-Z a-z 0-9 _ . : -`
   */
  id?: string;
  /** Which queue: the routing key of the message. Default: the default queue. */
  routingKey?: string;
  /** When to run, at the earliest. Default: at once. Excludes `delayMs`. */
  eta?: Date;
  /** How long after it was accepted to run, at the earliest. Default: 0. */
  delayMs?: number;
  /** How many times a failed run is tried again. Default: 0. */
  retryCount?: number;
  /**
   * The first retry waits for the smallest Fibonacci number of seconds that is at
   * least this, each later one for the next one. Default: 0, which is 1 s.
   */
  retryDelayMs?: number;
  /** How long retries wait, in place of `retryDelayMs`. Default: not set. */
  exponentialBackoff?: ExponentialBackoff;
  /** 0 to 255; higher is taken first, where the queue has priorities. Default: 0. */
  priority?: number;
  /** Its results are not passed on; as a callback: it takes none. Default: false. */
  immutable?: boolean;
  /** Text that travels with the task to its handler. At most 64 headers. */
  headers?: Readonly<Record<string, string>>;
  /** Sent when this task succeeded, each with its results after their own args. */
  onSuccess?: readonly Task[];
  /** Sent when it failed for good, each with the error's text before its args. */
  onError?: readonly Task[];
  /**
   * A worker that has no handler of this name ends the task in FAILURE instead of
   * passing it on to other workers. Default: false.
   */
  ignoreWhenTaskNotRegistered?: boolean;
  /** How long one attempt may run. At least 1. Default: no limit. */
  timeoutMs?: number;
  /** A task that has not begun so long after it was accepted fails. Default: never. */
  expireAfterMs?: number;
  /**
   * A name of the business: while a task that was sent under it has not ended,
   * another one is refused with `UNIQUE_KEY_HELD`. Default: none.
   */
  uniqueKey?: string;
  /** How long the final state can be read. Default: as the worker says, 1 h. */
  resultTtlMs?: number;
}

/** Retries that wait ever longer. */
export interface ExponentialBackoff {
  /** The first pause. 1 ms to 30 days. */
  firstDelayMs: number;
  /** How much longer each pause is than the one before, 1 to 100. Default: 2. */
  factor?: number;
  /** The longest pause. Default: 1 hour, or `firstDelayMs` if that is longer. */
  maxDelayMs?: number;
  /** By which share pauses are made shorter or longer at random, 0 to 1. Default: 0. */
  jitter?: number;
}

/** Where a task stands; SUCCESS, FAILURE and CANCELLED are final. */
export type TaskStatus = keyof typeof ProtoStatus;

/** Why a task failed. */
export interface TaskError {
  /** The error's text. */
  message: string;
  /** Its kind, such as `"exception"` or `"timeout"`; empty from a Go worker. */
  type: string;
  /** Whether another run follows. */
  retryable: boolean;
}

/** How far the handler of a running task says that it has come. */
export interface TaskProgress {
  /** From 0 to 1. */
  fraction: number;
  /** A line for people; may be empty. */
  text: string;
  /** When the handler said so. */
  updateTime: Date | undefined;
}

/** How a task stands. Much is not known of tasks that a Go worker runs. */
export interface TaskState {
  /** The id of the task. */
  taskId: string;
  /** Where it stands; UNSPECIFIED: see `rawStatus`. */
  status: TaskStatus;
  /** With SUCCESS: what the handler returned, in order; may be empty. */
  results: Output[];
  /** With FAILURE and CANCELLED, and with RETRY that of the last run. */
  error: TaskError | undefined;
  /** The name of the handler. */
  name: string;
  /** When it was accepted. */
  createTime: Date | undefined;
  /** When its current or last run began. */
  startTime: Date | undefined;
  /** When it became final. */
  finishTime: Date | undefined;
  /** The number of the current or last run, from 1; 0: it has not run. */
  attempt: number;
  /** With RETRY: when the next run is due. */
  nextAttemptTime: Date | undefined;
  /** Which worker runs or ran it; may be empty. */
  workerId: string;
  /** The group that it is a member of; empty: none. */
  groupId: string;
  /** With STARTED, once the handler has said so. */
  progress: TaskProgress | undefined;
  /** The status as stored, where this version of the gateway does not know it. */
  rawStatus: string;
}

/** How a group stands. */
export interface GroupState {
  /** The id of the group. */
  groupId: string;
  /** How many members it has. */
  total: number;
  /** How many members stand where; UNSPECIFIED: their state has expired. */
  counts: Partial<Record<TaskStatus, number>>;
  /** Whether the chord's callback was set off. */
  chordTriggered: boolean;
  /** The state of the chord's callback; not set for a plain group. */
  callback: TaskState | undefined;
  /** Whether all members are final and, in a chord, the callback too. */
  done: boolean;
}

/** Whether a task at this status has ended. */
export function isFinal(status: TaskStatus): boolean {
  return status === "SUCCESS" || status === "FAILURE" || status === "CANCELLED";
}

/** The message for a number of milliseconds, exact to the nanosecond. */
export function toDuration(name: string, ms: number): Duration {
  if (typeof ms !== "number" || !Number.isFinite(ms)) {
    throw new TypeError(`${name} takes a number of milliseconds, not ${ms}`);
  }
  const seconds = Math.trunc(ms / 1000);
  return {
    $typeName: "google.protobuf.Duration",
    seconds: BigInt(seconds),
    nanos: Math.round((ms - seconds * 1000) * 1e6),
  };
}

// A misspelt option of a program without types would else be dropped silently.
function refuseUnknown(what: string, unknown: object): void {
  for (const key of Object.keys(unknown)) {
    throw new TypeError(`${what} has no option "${key}"`);
  }
}

function toSchedule(
  eta: Date | undefined, delayMs: number | undefined,
): ProtoTask["schedule"] {
  if (eta !== undefined && delayMs !== undefined) {
    throw new TypeError("eta and delayMs exclude each other");
  }
  if (eta !== undefined) {
    if (!(eta instanceof Date) || Number.isNaN(eta.getTime())) {
      throw new TypeError("eta takes a valid Date");
    }
    return { case: "eta", value: timestampFromDate(eta) };
  }
  if (delayMs !== undefined) {
    return { case: "delay", value: toDuration("delayMs", delayMs) };
  }
  return { case: undefined };
}

function toBackoff(backoff: ExponentialBackoff) {
  const { firstDelayMs, factor, maxDelayMs, jitter, ...unknown } = backoff;
  refuseUnknown("exponentialBackoff", unknown);
  return {
    firstDelay: toDuration("firstDelayMs", firstDelayMs),
    factor,
    maxDelay:
      maxDelayMs === undefined ? undefined : toDuration("maxDelayMs", maxDelayMs),
    jitter,
  };
}

/**
 * The message for a task.
 *
 * @throws TypeError, RangeError for what cannot be said in it; the gateway says
 *   what else is wrong.
 */
export function toTask(task: Task): ProtoTask {
  const {
    name, args, id, routingKey, eta, delayMs, retryCount, retryDelayMs,
    exponentialBackoff, priority, immutable, headers, onSuccess, onError,
    ignoreWhenTaskNotRegistered, timeoutMs, expireAfterMs, uniqueKey, resultTtlMs,
    ...unknown
  } = task;
  refuseUnknown(`task "${name}"`, unknown);
  const duration = (option: string, ms: number | undefined) =>
    ms === undefined ? undefined : toDuration(option, ms);
  return create(TaskSchema, {
    name,
    args: args?.map((input, i) => {
      try {
        return toValue(input);
      } catch (error) {
        // With the place in front, and the kind of error that it is.
        if (error instanceof Error) {
          error.message = `argument ${i + 1} of task "${name}": ${error.message}`;
        }
        throw error;
      }
    }),
    id,
    routingKey,
    schedule: toSchedule(eta, delayMs),
    retryCount,
    retryDelay: duration("retryDelayMs", retryDelayMs),
    exponentialBackoff:
      exponentialBackoff === undefined ? undefined : toBackoff(exponentialBackoff),
    priority,
    immutable,
    headers,
    onSuccess: onSuccess?.map(toTask),
    onError: onError?.map(toTask),
    ignoreWhenTaskNotRegistered,
    timeout: duration("timeoutMs", timeoutMs),
    expireAfter: duration("expireAfterMs", expireAfterMs),
    uniqueKey,
    resultTtl: duration("resultTtlMs", resultTtlMs),
  });
}

function statusName(status: ProtoStatus): TaskStatus {
  return (ProtoStatus[status] ?? "UNSPECIFIED") as TaskStatus;
}

function toDate(time: Timestamp | undefined): Date | undefined {
  return time === undefined ? undefined : timestampDate(time);
}

/** A task's state from its message. */
export function fromState(state: ProtoState): TaskState {
  const { error, progress } = state;
  return {
    taskId: state.taskId,
    status: statusName(state.status),
    results: state.results.map(fromValue),
    error: error && {
      message: error.message, type: error.type, retryable: error.retryable,
    },
    name: state.name,
    createTime: toDate(state.createTime),
    startTime: toDate(state.startTime),
    finishTime: toDate(state.finishTime),
    attempt: state.attempt,
    nextAttemptTime: toDate(state.nextAttemptTime),
    workerId: state.workerId,
    groupId: state.groupId,
    progress: progress && {
      fraction: progress.fraction,
      text: progress.text,
      updateTime: toDate(progress.updateTime),
    },
    rawStatus: state.rawStatus,
  };
}

/** A group's state from its message, without the members. */
export function fromGroupState(group: ProtoGroupState): GroupState {
  return {
    groupId: group.groupId,
    total: group.total,
    counts: Object.fromEntries(
      group.counts.map(({ status, count }) => [statusName(status), count])),
    chordTriggered: group.chordTriggered,
    callback: group.callback && fromState(group.callback),
    done: group.done,
  };
}
