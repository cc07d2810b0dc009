/**
 * Why a request did not succeed.
 *
 * There are two families: *come back later* (`retryable` is true: the server said when, or nothing was heard) and
 * *never valid* (sending the same thing again would get the same answer).
 */
export class Refusal extends Error {
  constructor(message, { code = "", retryable = false, retryAfterS = null, correlationId = "" } = {}) {
    super(message);
    this.name = "Refusal";
    this.code = code;
    this.retryable = retryable;
    this.retryAfterS = retryAfterS;
    this.correlationId = correlationId;
  }

  /** Nothing was heard: the request may or may not have arrived, so it is safe only to repeat what is idempotent. */
  static unheard(message = "The server did not answer in time.") {
    return new Refusal(message, { code: "no_answer", retryable: true });
  }

  /** Reads `{success: false, error, code, retryAfter?, correlationId}`; anything else becomes a general text. */
  static fromAnswer(answer) {
    const retryAfterS = seconds(answer?.retryAfter);
    return new Refusal(text(answer?.error) || "Something went wrong on the server.", {
      code: text(answer?.code),
      retryable: retryAfterS !== null,
      retryAfterS,
      correlationId: text(answer?.correlationId),
    });
  }
}

function seconds(value) {
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  return Number.isFinite(number) && number >= 0 ? number : null;
}

function text(value) {
  return typeof value === "string" ? value : "";
}
