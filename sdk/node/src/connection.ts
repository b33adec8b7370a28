// The channels to the gateways, and calls over them: one unary call with its
// repeats, or the opening of a stream.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import {
  create, fromBinary, toBinary, type DescMessage, type DescMethodBiDiStreaming,
  type DescMethodServerStreaming, type DescMethodUnary, type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { fromGrpc, PenstockError } from "./errors";
import { StatusSchema } from "./gen/google/rpc/status_pb";
import { Retry } from "./retry";

/** How to speak TLS to the gateways. */
export interface TlsOptions {
  /** A PEM file of the authorities to trust. Default: those of Node.js. */
  caFile?: string;
  /** A PEM file of the client's own certificate; needs `keyFile`. Default: none. */
  certFile?: string;
  /** A PEM file of its private key. */
  keyFile?: string;
  /** The name that the gateway's certificate must have. Default: the address's. */
  serverName?: string;
}

/** What holds for every call of a client. */
export interface ClientOptions {
  /** TLS: `true`, or files and names of your own. Default: plaintext. */
  tls?: boolean | TlsOptions;
  /** How long one call may take, in milliseconds. Default: 10,000. */
  deadlineMs?: number;
  /**
   * For how long a call that failed for the moment is repeated, in milliseconds.
   * Default: 30,000; 0: not at all.
   */
  retryBudgetMs?: number;
  /** Metadata of every call. A key that ends with `-bin` takes bytes. */
  metadata?: CallMetadata;
}

/** Metadata of a call. A key that ends with `-bin` takes bytes. */
export type CallMetadata = Readonly<Record<string, string | Uint8Array>>;

/** What holds for one call. */
export interface CallOptions {
  /** How long one try may take, in milliseconds. Default: the client's. */
  deadlineMs?: number;
  /** For how long it is repeated, in milliseconds. Default: the client's. */
  retryBudgetMs?: number;
  /** More metadata, such as `traceparent`, which travels on as a header. */
  metadata?: CallMetadata;
  /** Gives the call up when it fires; the call rejects with its reason. */
  signal?: AbortSignal;
}

const DEFAULT_DEADLINE_MS = 10_000;
const DEFAULT_RETRY_BUDGET_MS = 30_000;

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  // A name that stands for several gateways: all of them are used.
  "grpc.service_config": JSON.stringify({
    loadBalancingConfig: [{ round_robin: {} }],
  }),
  "grpc.service_config_disable_resolution": 1,
  // The gateway has limits of its own; 1,000 states are more than 4 MiB.
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  // A gateway that comes back is found within the budget of a call.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  // A host that is gone without a word is noticed during a wait.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
};

function credentials(tls: boolean | TlsOptions): grpc.ChannelCredentials {
  if (tls === false) return grpc.credentials.createInsecure();
  const { caFile, certFile, keyFile } = tls === true ? {} as TlsOptions : tls;
  const read = (file: string | undefined) =>
    file === undefined ? null : readFileSync(file);
  return grpc.credentials.createSsl(read(caFile), read(keyFile), read(certFile));
}

const same = (bytes: Buffer) => bytes;
const path = (method: { name: string; parent: { typeName: string } }) =>
  `/${method.parent.typeName}/${method.name}`;

function deadlineExceeded(message: string): PenstockError {
  return new PenstockError(create(StatusSchema, {
    code: grpc.status.DEADLINE_EXCEEDED, message,
  }));
}

export class Connection {
  readonly #channels: grpc.Client[];
  readonly #options: ClientOptions;
  #turn = 0;

  constructor(addresses: string | readonly string[], options: ClientOptions) {
    const { tls = false } = options;
    const channelOptions = { ...CHANNEL_OPTIONS };
    if (typeof tls === "object" && tls.serverName !== undefined) {
      channelOptions["grpc.ssl_target_name_override"] = tls.serverName;
    }
    const list = typeof addresses === "string" ? [addresses] : addresses;
    if (list.length === 0) throw new TypeError("a client needs an address");
    this.#options = options;
    this.#channels = list.map((address) =>
      new grpc.Client(address, credentials(tls), channelOptions));
  }

  close(): void {
    for (const channel of this.#channels) channel.close();
  }

  retry(options: CallOptions): Retry {
    return new Retry(
      options.retryBudgetMs ?? this.#options.retryBudgetMs ??
        DEFAULT_RETRY_BUDGET_MS,
      options.signal);
  }

  deadlineMs(options: CallOptions): number {
    return options.deadlineMs ?? this.#options.deadlineMs ?? DEFAULT_DEADLINE_MS;
  }

  /** Calls a method, again and again while its error is for the moment only. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>, request: MessageInitShape<I>,
    options: CallOptions,
  ): Promise<MessageShape<O>> {
    const bytes = Buffer.from(toBinary(method.input, create(method.input, request)));
    const metadata = this.#metadata(options);
    const retry = this.retry(options);
    for (;;) {
      try {
        return await this.#callOnce(method, bytes, metadata, options);
      } catch (error) {
        await retry.pause(error);
      }
    }
  }

  async #callOnce<O extends DescMessage>(
    method: DescMethodUnary<DescMessage, O>, bytes: Buffer,
    metadata: grpc.Metadata, options: CallOptions,
  ): Promise<MessageShape<O>> {
    const { signal } = options;
    const deadline = Date.now() + this.deadlineMs(options);
    const channel = await this.#pick(deadline, signal);
    return new Promise((resolve, reject) => {
      const cancel = () => {
        call.cancel();
        reject(signal?.reason);
      };
      const call = channel.makeUnaryRequest(
        path(method), same, (answer: Buffer) => fromBinary(method.output, answer),
        bytes, metadata, { deadline }, (error, answer) => {
          signal?.removeEventListener("abort", cancel);
          if (error) reject(fromGrpc(error));
          else resolve(answer as MessageShape<O>);
        });
      signal?.addEventListener("abort", cancel, { once: true });
    });
  }

  /** Asks once for a stream of answers, and yields them; see {@link answersOf}. */
  async *serverStream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>, request: MessageInitShape<I>,
    options: CallOptions,
  ): AsyncGenerator<MessageShape<O>> {
    const bytes = Buffer.from(toBinary(method.input, create(method.input, request)));
    const deadlineMs = this.deadlineMs(options);
    const channel = await this.#pick(Date.now() + deadlineMs, options.signal);
    const stream = channel.makeServerStreamRequest(
      path(method), same, (answer: Buffer) => fromBinary(method.output, answer),
      bytes, this.#metadata(options));
    yield* answersOf(stream, deadlineMs, options.signal);
  }

  /**
   * Opens a stream both ways, to which encoded requests are written; see
   * {@link answersOf} for how to read it.
   */
  async bidiStream<O extends DescMessage>(
    method: DescMethodBiDiStreaming<DescMessage, O>, options: CallOptions,
  ): Promise<grpc.ClientDuplexStream<Uint8Array, MessageShape<O>>> {
    const channel = await this.#pick(
      Date.now() + this.deadlineMs(options), options.signal);
    return channel.makeBidiStreamRequest(
      path(method),
      (request: Uint8Array) => Buffer.from(request),
      (answer: Buffer) => fromBinary(method.output, answer),
      this.#metadata(options));
  }

  #metadata(options: CallOptions): grpc.Metadata {
    const metadata = new grpc.Metadata();
    const all = { ...this.#options.metadata, ...options.metadata };
    for (const [key, value] of Object.entries(all)) {
      metadata.set(key, typeof value === "string" ? value : Buffer.from(value));
    }
    return metadata;
  }

  // The channel whose turn it is, of those that are connected. While none is, but
  // one may soon be, it waits for that.
  async #pick(deadline: number, signal?: AbortSignal): Promise<grpc.Client> {
    signal?.throwIfAborted();
    const all = this.#channels;
    let ready = all;
    // One channel alone does its own waiting.
    while (all.length > 1) {
      const states = all.map((channel) =>
        channel.getChannel().getConnectivityState(true));
      ready = all.filter((_, i) => states[i] === grpc.connectivityState.READY);
      if (ready.length > 0) break;
      ready = all;
      const hopeless = states.every((state) =>
        state === grpc.connectivityState.TRANSIENT_FAILURE);
      if (hopeless || Date.now() >= deadline) break;
      await sleep(5);
      signal?.throwIfAborted();
    }
    this.#turn = (this.#turn + 1) % ready.length;
    return ready[this.#turn]!;
  }
}

/**
 * Yields the answers of a stream, and cancels it at the end, also when the loop over
 * them is left early. A stream without a first answer within the deadline fails with
 * DEADLINE_EXCEEDED; after that it may live for ever.
 */
export async function* answersOf<T>(
  stream: grpc.ClientReadableStream<T>, deadlineMs: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<T> {
  let cause: unknown;
  const giveUp = (why: unknown) => {
    cause = why;
    stream.cancel();
  };
  const abort = () => giveUp(signal?.reason);
  const timer = setTimeout(
    () => giveUp(deadlineExceeded(`no answer within ${deadlineMs} ms`)), deadlineMs);
  // The error of a stream that nobody reads any more must not end the process.
  stream.on("error", () => {});
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort, { once: true });
  try {
    for await (const answer of stream) {
      clearTimeout(timer);
      yield answer as T;
    }
  } catch (error) {
    throw cause ?? fromGrpc(error as grpc.ServiceError);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    stream.cancel();
  }
}
