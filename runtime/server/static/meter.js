// The figures below an answer.

/** Counts one answer: what the user waited, and what the server measured. */
export class Meter {
  finish = null;
  #started = performance.now();
  #first = null;
  #pieces = 0;
  #latest = 0;
  #usage = null;
  #measured = {};

  get begun() {
    return this.#first !== null;
  }

  get note() {
    return this.finish === "length" ? "Cut: the longest answer or the end of the context was reached." : "";
  }

  count() {
    this.#latest = performance.now();
    this.#first ??= this.#latest;
    this.#pieces += 1;
  }

  usage(usage, measured) {
    this.#usage = usage;
    this.#measured = measured;
  }

  /** Value, unit and explanation of everything that is known. */
  figures() {
    if (!this.begun) return [];
    const spent = (this.#latest - this.#first) / 1000;
    const rate = this.#measured.decode_rate ?? (spent > 0 ? (this.#pieces - 1) / spent : null);
    const about = this.#usage ? "" : "≈ ";
    const tokens = this.#usage?.completion_tokens ?? this.#pieces;
    const told = [[`${about}${tokens}`, tokens === 1 ? "token" : "tokens", "Length of the answer"]];
    if (rate !== null) told.push([`${about}${rate.toFixed(1)}`, "tokens/s", "Speed after the first token"]);
    const first = (this.#first - this.#started) / 1000;
    told.push([`${first.toFixed(2)} s`, "to first token", "From sending to the first word, waiting included"]);
    if (this.#measured.device) told.push([this.#measured.device, "", "What computed the answer"]);
    return told;
  }
}
