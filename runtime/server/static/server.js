// Talks to the server that this page came from: models, health, and answers as a stream of chunks.

const QUIET_STATUSES = [429, 503];

/** What the server refused, in its own words. `retryAfter`: seconds, where asking again makes sense. */
export class Problem extends Error {
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export class Server {
  #key = sessionStorage.getItem("edgephi-key") ?? "";

  /** The API key, kept until the tab is closed. */
  set key(value) {
    this.#key = value;
    sessionStorage.setItem("edgephi-key", value);
  }

  /** The items of /v1/models. Throws Problem. */
  async models() {
    return (await this.#json("/v1/models")).data;
  }

  /** State, queue and device of every model by name. Throws Problem. */
  async health() {
    return (await this.#json("/health")).models ?? {};
  }

  /** The chunks of one answer. `onBusy(seconds)` is told when the queue is full and the request has to wait. */
  async *chat(body, signal, onBusy) {
    const options = { method: "POST", body: JSON.stringify(body), signal };
    let response = await this.#ask("/v1/chat/completions", options);
    for (let tries = 0; QUIET_STATUSES.includes(response.status) && tries < 20; tries += 1) {
      const seconds = Number(response.headers.get("retry-after"));
      if (!seconds) break;
      onBusy(seconds);
      await pause(seconds * 1000, signal);
      response = await this.#ask("/v1/chat/completions", options);
    }
    if (!response.ok) throw await refusal(response);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(chunk.error.message, { code: chunk.error.code });
      yield chunk;
    }
    throw new Problem("The connection ended before the answer did.");
  }

  async #json(path) {
    const response = await this.#ask(path, {});
    if (!response.ok) throw await refusal(response);
    return response.json();
  }

  async #ask(path, options) {
    const headers = { "content-type": "application/json" };
    if (this.#key) headers.authorization = `Bearer ${this.#key}`;
    try {
      return await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server cannot be reached. Is it still running?");
    }
  }
}

async function refusal(response) {
  const told = await response.json().catch(() => ({}));
  const { message = `The server answered ${response.status}.`, code = null } = told.error ?? {};
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  return new Problem(message, { status: response.status, code, retryAfter });
}

/** The data of every server-sent event; comments are signs of life and are passed over. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (held + value).split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The connection broke before the answer ended.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    }, { once: true });
  });
}
