// When a call is repeated, and after how long.

import { setTimeout as sleep } from "node:timers/promises";
import { PenstockError } from "./errors";

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2_000;

/**
 * The pause before repeat number `attempt`, from 0: 50 ms, doubled each time up to
 * 2 s, of which a random half to the whole is taken; but at least what the gateway
 * asked for.
 */
export function pauseMs(
  attempt: number, error: PenstockError, random: () => number = Math.random,
): number {
  const whole = Math.min(FIRST_PAUSE_MS * 2 ** attempt, LONGEST_PAUSE_MS);
  return Math.max(whole * (0.5 + random() / 2), error.retryDelayMs ?? 0);
}

/** The repeats of one call, until its budget of time is over. */
export class Retry {
  #attempt = 0;
  #until: number;

  constructor(
    private readonly budgetMs: number, private readonly signal?: AbortSignal,
  ) {
    this.#until = Date.now() + budgetMs;
  }

  /** Starts anew, for what lives on after a success. */
  reset(): void {
    this.#attempt = 0;
    this.#until = Date.now() + this.budgetMs;
  }

  /**
   * Returns when it is time for a repeat; the last one is when the budget ends.
   *
   * @throws `error` when a repeat is of no use or comes too late, and what the
   *   signal was aborted with.
   */
  async pause(error: unknown): Promise<void> {
    const ms = this.next(error);
    await sleep(ms, undefined, { signal: this.signal }).catch((aborted) => {
      throw this.signal?.reason ?? aborted;
    });
  }

  /** As pause(), but tells how many milliseconds to wait, and does not wait. */
  next(error: unknown): number {
    const left = this.#until - Date.now();
    if (!(error instanceof PenstockError) || !error.retryable || left <= 0) {
      throw error;
    }
    return Math.min(pauseMs(this.#attempt++, error), left);
  }
}
