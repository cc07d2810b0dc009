/** A minimal set of named signals: `on` returns the function that unsubscribes. */
export class Signals {
  #handlers = new Map();

  on(name, handler) {
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
    return () => this.#handlers.get(name).delete(handler);
  }

  emit(name, value) {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) {
      // One subscriber's mistake must not keep the others, or the outbox, from hearing the news.
      try {
        handler(value);
      } catch (error) {
        console.error(error);
      }
    }
  }
}
