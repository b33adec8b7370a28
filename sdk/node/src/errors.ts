// The errors of the client, and how those of gRPC become them.

import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack, type Duration } from "@bufbuild/protobuf/wkt";
import { status as Code, type ServiceError } from "@grpc/grpc-js";
import {
  BadRequestSchema, ErrorInfoSchema, RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb";
import { StatusSchema, type Status } from "./gen/google/rpc/status_pb";
import type { TaskState } from "./task";

/** The codes of gRPC. */
export type ErrorCode = keyof typeof Code;

/** What is wrong with one field of a request. */
export interface FieldViolation {
  /** Its path, such as `tasks[3].args[0].int_value`. */
  field: string;
  /** Why it is bad. */
  description: string;
}

/** A call that failed. */
export class PenstockError extends Error {
  override name = "PenstockError";
  /** The code of gRPC, such as `"INVALID_ARGUMENT"`. */
  readonly code: ErrorCode;
  /**
   * Penstock's reason, such as `"QUEUE_NOT_FOUND"`; the .proto files say which
   * call ends with which. Empty where the gateway did not answer.
   */
  readonly reason: string;
  /** What belongs to the reason, such as `task_id` of `UNIQUE_KEY_HELD`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** With `INVALID_FIELD`: all bad fields. */
  readonly fieldViolations: readonly FieldViolation[];
  /** How long the gateway asks to wait before a repeat, in milliseconds. */
  readonly retryDelayMs: number | undefined;

  /** @internal */
  constructor(status: Status, options?: ErrorOptions) {
    super(status.message, options);
    this.code = (Code[status.code] ?? "UNKNOWN") as ErrorCode;
    const detail = <T>(unpack: (any: Status["details"][number]) => T | undefined) => {
      for (const any of status.details) {
        const message = unpack(any);
        if (message !== undefined) return message;
      }
      return undefined;
    };
    const info = detail((any) => anyUnpack(any, ErrorInfoSchema));
    const retry = detail((any) => anyUnpack(any, RetryInfoSchema));
    const bad = detail((any) => anyUnpack(any, BadRequestSchema));
    this.reason = info?.reason ?? "";
    this.metadata = { ...info?.metadata };
    this.fieldViolations = (bad?.fieldViolations ?? [])
      .map(({ field, description }) => ({ field, description }));
    this.retryDelayMs =
      retry?.retryDelay === undefined ? undefined : milliseconds(retry.retryDelay);
  }

  /**
   * Whether a repeat of the call may succeed. The client has repeated it already,
   * for as long as `retryBudgetMs` says.
   */
  get retryable(): boolean {
    return this.code === "UNAVAILABLE" ||
      // By another than this program, which sees its own signal's reason instead: so
      // ends what reaches a gateway in the moment in which it stops.
      this.code === "CANCELLED" ||
      (this.code === "RESOURCE_EXHAUSTED" && this.retryDelayMs !== undefined) ||
      (this.code === "DEADLINE_EXCEEDED" && this.reason === "CONFIRM_TIMEOUT") ||
      // The ids of the members follow from request_id: a repeat sends the rest.
      (this.code === "ABORTED" && this.reason === "GROUP_PARTIALLY_SENT");
  }
}

/** A task that ended in FAILURE. `message` is the text of its error. */
export class TaskFailed extends Error {
  override name = "TaskFailed";
  /** The id of the task. */
  readonly taskId: string;
  /**
   * The kind of the error: `"exception"`, a status code such as
   * `"INVALID_ARGUMENT"`, or one of Penstock's own, such as `"timeout"`; see
   * TaskError in messages.proto. Empty where a Go worker wrote the state.
   */
  readonly type: string;
  /** The state that it ended with. */
  readonly state: TaskState;

  /** @internal */
  constructor(state: TaskState) {
    super(state.error?.message ?? "");
    this.taskId = state.taskId;
    this.type = state.error?.type ?? "";
    this.state = state;
  }
}

/** A task that was cancelled. `message` is `cancelled: ` and the reason. */
export class TaskCancelled extends TaskFailed {
  override name = "TaskCancelled";
}

/** What was waited for did not end in time; it goes on. */
export class WaitTimeout extends Error {
  override name = "WaitTimeout";
  /** The id of the task or the group. */
  readonly id: string;

  /** @internal */
  constructor(id: string, timeoutMs: number, options?: ErrorOptions) {
    super(`${id} has not ended within ${timeoutMs} ms`, options);
    this.id = id;
  }
}

function milliseconds(duration: Duration): number {
  return Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

/** The error of a call that gRPC ended. */
export function fromGrpc(error: ServiceError): PenstockError {
  const details = error.metadata?.get("grpc-status-details-bin")[0];
  const status: Status = {
    $typeName: "google.rpc.Status",
    code: error.code,
    message: error.details || error.message,
    details: [],
  };
  if (Buffer.isBuffer(details)) {
    try {
      status.details = fromBinary(StatusSchema, details).details;
    } catch {
      // Not from a gateway. The code and the text say what there is to say.
    }
  }
  return new PenstockError(status, { cause: error });
}
