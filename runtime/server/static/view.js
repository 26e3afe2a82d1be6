// What the page shows of a conversation: turns, answers that grow, figures, problems. Knows no server.

import { render } from "/page/markdown.js";

const LONG = 6000; // characters from which a growing answer is drawn less often
const clone = (name) => document.getElementById(name).content.firstElementChild.cloneNode(true);

/** A symbol of the sprite in index.html. */
export function icon(name) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  made.setAttribute("aria-hidden", "true");
  made.append(use);
  return made;
}

/** What the user said and showed. */
export function userTurn(text, attachments) {
  const turn = clone("t-user");
  turn.querySelector(".text").textContent = text;
  const media = turn.querySelector(".media");
  media.hidden = attachments.length === 0;
  for (const { kind, name, url } of attachments) {
    const item = document.createElement("li");
    const shown = document.createElement(kind === "image" ? "img" : "audio");
    if (kind === "image") shown.alt = name;
    else shown.controls = true;
    shown.setAttribute("aria-label", name);
    shown.src = url;
    item.append(shown);
    media.append(item);
  }
  return turn;
}

/** An attachment in the composer. */
export function attachmentChip({ kind, name, url }, onRemove) {
  const chip = clone("t-chip");
  chip.querySelector(".name").textContent = name;
  chip.title = name;
  const preview = chip.querySelector(".preview");
  if (kind === "image") {
    const picture = document.createElement("img");
    picture.src = url;
    picture.alt = "";
    preview.append(picture);
  } else {
    preview.append(icon("sound"));
  }
  const remove = chip.querySelector(".remove");
  remove.setAttribute("aria-label", `Remove ${name}`);
  remove.addEventListener("click", onRemove);
  return chip;
}

/** Something that went wrong. */
export function problem(title, text) {
  const made = clone("t-problem");
  made.querySelector("strong").textContent = title;
  made.querySelector("p").textContent = text;
  return made;
}

/** One answer, from the first dot to its figures. */
export class AnswerView {
  text = "";
  thought = "";
  #drawn = 0;
  #waitingForFrame = false;
  #thoughtStarted = 0;

  /** `onDraw()` is called after the answer grew on the screen. */
  constructor(onDraw, onAgain) {
    this.element = clone("t-answer");
    this.#onDraw = onDraw;
    this.#part(".copy").addEventListener("click", (event) => copy(this.text, event.currentTarget.querySelector("span")));
    this.#part(".again").addEventListener("click", onAgain);
  }

  #onDraw;

  /** Say what the answer waits for. */
  wait(text) {
    this.#part(".waiting-text").textContent = text;
  }

  /** More of the thought, folded away unless it is opened. */
  addThought(text) {
    this.#thoughtStarted ||= performance.now();
    this.thought += text;
    const details = this.#part(".thought");
    details.hidden = false;
    details.classList.add("now");
    this.#part(".waiting").hidden = true;
    this.#part(".thought-text").append(text);
    this.#onDraw();
  }

  /** More of the answer. */
  addText(text) {
    this.#endThought();
    this.text += text;
    this.#part(".waiting").hidden = true;
    this.#drawSoon();
  }

  /** The end. `figures`: pairs of a value and what it counts; `note`: why it ended early, "" where it did not. */
  finish(figures, note) {
    this.#endThought();
    this.#part(".waiting").hidden = true;
    this.#draw();
    this.#part(".note").textContent = note;
    this.#part(".note").hidden = !note;
    const list = this.#part(".figures");
    for (const [value, unit, explained] of figures) {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const number = document.createElement("dd");
      term.textContent = unit;
      number.textContent = value;
      pair.title = explained;
      pair.append(term, number);
      list.append(pair);
    }
    this.#part(".under").hidden = false;
    this.#part(".copy").hidden = !this.text;
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  #endThought() {
    const details = this.#part(".thought");
    if (!details.classList.contains("now")) return;
    details.classList.remove("now");
    const seconds = Math.max(1, Math.round((performance.now() - this.#thoughtStarted) / 1000));
    this.#part(".thought .label").textContent = `Thought for ${seconds} s`;
  }

  #drawSoon() {
    const pause = this.text.length > LONG ? 250 : 0;
    if (this.#waitingForFrame || performance.now() - this.#drawn < pause) return;
    this.#waitingForFrame = true;
    requestAnimationFrame(() => {
      this.#waitingForFrame = false;
      this.#draw();
    });
  }

  #draw() {
    this.#drawn = performance.now();
    this.#part(".text").replaceChildren(...render(this.text, codeBlock));
    this.#onDraw();
  }
}

function codeBlock(text, language) {
  const block = clone("t-code");
  block.querySelector("code").textContent = text;
  block.querySelector(".language").textContent = language || "text";
  const button = block.querySelector(".copy-code");
  button.addEventListener("click", () => copy(text, button));
  return block;
}

async function copy(text, label) {
  const before = label.textContent;
  try {
    await navigator.clipboard.writeText(text);
    label.textContent = "Copied";
  } catch {
    label.textContent = "Not allowed";
  }
  setTimeout(() => { label.textContent = before; }, 1500);
}
