// The public names of the package.

export {
  Client, type RunOptions, type SendChordOptions, type SendGroupOptions, type SendOptions,
  type StreamOutcome,
} from "./client";
export type {
  CallMetadata, CallOptions, ClientOptions, TlsOptions,
} from "./connection";
export {
  PenstockError, TaskCancelled, TaskFailed, WaitTimeout, type ErrorCode,
  type FieldViolation,
} from "./errors";
export {
  ChainHandle, ChordHandle, GroupHandle, TaskHandle, type Result, type WaitOptions,
} from "./handles";
export type {
  ExponentialBackoff, GroupState, Task, TaskError, TaskProgress, TaskState,
  TaskStatus,
} from "./task";
export {
  typed, type Input, type Output, type Typed, type TypeName,
  type ValueOf,
} from "./values";
