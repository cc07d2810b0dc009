/**
 * How long to wait before the next try: doubling from `minMs` to `maxMs`, with jitter.
 *
 * Five hundred phones lose the same line in the same second. The jitter keeps them from coming back in the same
 * millisecond. A `retryAfterS` of the server is a lower bound: jitter is only ever added to it.
 */
export class Backoff {
  #attempts = 0;

  constructor({ minMs = 500, maxMs = 5000, jitter = 0.5, random = Math.random } = {}) {
    Object.assign(this, { minMs, maxMs, jitter, random });
  }

  nextMs(retryAfterS = null) {
    const plainMs = Math.min(this.maxMs, this.minMs * 2 ** this.#attempts++);
    const spreadMs = plainMs * this.jitter;
    if (retryAfterS !== null) return Math.round(retryAfterS * 1000 + this.random() * spreadMs);
    return Math.round(plainMs + (this.random() * 2 - 1) * spreadMs);
  }

  reset() {
    this.#attempts = 0;
  }
}
