// The page: who said what, and what every button does. The server is server.js, the look of a conversation view.js.

import { Recorder, fromFile, part } from "/page/media.js";
import { Meter } from "/page/meter.js";
import { Server } from "/page/server.js";
import { Settings } from "/page/settings.js";
import { AnswerView, attachmentChip, problem, userTurn } from "/page/view.js";

const $ = (id) => document.getElementById(id);
const PATIENCE = 700; // milliseconds without a word after which the page says what it waits for
const AGAIN = 3000; // milliseconds between two tries to reach a server that is not there
const NEAR = 90; // pixels from the end within which the page follows a growing answer
const IDEAS = {
  image: ["What is in this picture?"],
  audio: ["Write down what is said in this recording."],
  text: [
    "Write a polite reminder for an invoice that is two weeks late.",
    "Give me a Python function that reverses the words of a line.",
    "Explain rotary position embeddings in two sentences.",
  ],
};
const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];

const server = new Server();
const settings = new Settings($("settings"));
const recorder = new Recorder();
let models = []; // items of /v1/models
let turns = []; // {content, text, attachments, answer}: what the next request repeats
let attachments = []; // of the message that is being written
let answering = null; // the AbortController of the answer in progress
let failed = []; // what is shown of a failure, until something is asked again

// ---- The server and its models

async function connect() {
  try {
    models = await server.models();
  } catch (error) {
    if (error.status === 401) {
      askKey();
    } else {
      showState("away", error.message);
      setTimeout(connect, AGAIN);
    }
    return;
  }
  const wanted = models.some(({ id }) => id === settings.model) ? settings.model : models[0].id;
  $("model").replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === wanted)));
  $("model").disabled = models.length < 2;
  showModel();
  await refresh();
}

function askKey() {
  const dialog = $("key-dialog");
  $("key-problem").textContent = $("key").value ? "The server does not take this key." : "";
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
}

const model = () => models.find(({ id }) => id === $("model").value);

function showModel() {
  const { context_length: context, architecture, license } = model();
  const kinds = architecture.input_modalities;
  $("model").title = `${kinds.join(", ")} · ${context} tokens of context · licence: ${license || "not stated"}`;
  $("microphone").disabled = !kinds.includes("audio");
  $("microphone").title = kinds.includes("audio") ? "Record from the microphone" : "This model takes no recordings";
  const ideas = Object.keys(IDEAS).filter((kind) => kinds.includes(kind))
    .flatMap((kind) => IDEAS[kind].map((text) => ({ kind, text }))).slice(0, 3);
  $("ideas").replaceChildren(...ideas.map(({ kind, text }) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => {
      write(text);
      if (kind !== "text") $("files").click();
    });
    item.append(button);
    return item;
  }));
  document.title = `${model().id} – edgephi`;
}

/** Read the state of the chosen model again, and show it. Returns it, undefined where the server does not answer. */
async function refresh() {
  let told;
  try {
    told = (await server.health())[$("model").value];
  } catch (error) {
    showState("away", error.message);
    return undefined;
  }
  if (told) {
    $("device").textContent = told.device;
    $("device").hidden = false;
    showState(told.state, { unloaded: "idle", loading: "loading", loaded: "ready" }[told.state]);
  }
  return told;
}

function showState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = state === "away" ? "not reachable" : text;
  $("state").title = text;
  $("state").hidden = false;
}

// ---- Asking

async function send() {
  const text = $("prompt").value.trim();
  if (answering || recorder.active || !model() || (!text && !attachments.length)) return;
  const turn = { text, attachments, content: content(text, attachments), answer: null };
  forgetFailure();
  attachments = [];
  showAttachments();
  write("");
  const asked = userTurn(text, turn.attachments);
  $("welcome").hidden = true;
  $("log").append(asked);
  turns.push(turn);
  await answer(turn, asked);
}

function content(text, given) {
  return given.length ? [...given.map(part), ...(text ? [{ type: "text", text }] : [])] : text;
}

function request() {
  const messages = turns.flatMap(({ content, answer }) => [
    { role: "user", content },
    ...(answer ? [{ role: "assistant", content: answer }] : []),
  ]);
  return {
    model: $("model").value,
    messages: [...settings.opening, ...messages],
    ...settings.options,
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** Have the last turn answered and shown; what fails gives the question back to the composer. */
async function answer(turn, asked) {
  const view = new AnswerView(follow, () => askAgain(turn, asked, view));
  const meter = new Meter();
  $("log").append(view.element);
  begin(new AbortController());
  const waiting = setInterval(() => sayWhatIsAwaited(view, meter), PATIENCE);
  try {
    const chunks = server.chat(request(), answering.signal, (seconds) => {
      view.wait(`The server is busy; asking again in ${seconds} s`);
    });
    for await (const chunk of chunks) take(chunk, view, meter);
    view.finish(meter.figures(), meter.note);
  } catch (error) {
    if (error.name === "AbortError") view.finish(meter.figures(), "Stopped.");
    else fail(error, turn, asked, view, meter);
  } finally {
    clearInterval(waiting);
    turn.answer = view.text;
    if (!view.text) turns = turns.filter((each) => each !== turn);
    end(view);
  }
}

function take(chunk, view, meter) {
  const choice = chunk.choices[0];
  const thought = choice?.delta.reasoning_content;
  const text = choice?.delta.content;
  if (thought || text) meter.count();
  if (thought) view.addThought(thought);
  if (text) view.addText(text);
  if (choice?.finish_reason) meter.finish = choice.finish_reason;
  if (chunk.usage) meter.usage(chunk.usage, chunk.edgephi ?? {});
}

async function sayWhatIsAwaited(view, meter) {
  if (meter.begun) return;
  const told = await refresh();
  if (!told || meter.begun) return;
  if (told.state !== "loaded") view.wait("Loading the model");
  else if (told.waiting) view.wait("Waiting for its turn");
  else view.wait("Reading the question");
}

function fail(error, turn, asked, view, meter) {
  const title = error.status === 400 ? "The server did not take this message" : "There is no answer";
  const shown = problem(view.text ? "The answer broke off" : title, error.message);
  if (view.text) {
    view.finish(meter.figures(), "");
    $("log").append(shown);
    failed = [shown];
    return;
  }
  view.element.replaceWith(shown);
  failed = [asked, shown];
  if (!$("prompt").value && !attachments.length) {
    write(turn.text);
    attachments = turn.attachments;
    showAttachments();
  }
  if (error.status === 401) askKey();
}

async function askAgain(turn, asked, view) {
  if (answering) return;
  forgetFailure();
  if (!turns.includes(turn)) turns.push(turn);
  turn.answer = null;
  view.element.remove();
  await answer(turn, asked);
}

function forgetFailure() {
  failed.forEach((element) => element.remove());
  failed = [];
}

function begin(controller) {
  answering = controller;
  $("log").setAttribute("aria-busy", "true");
  $("send").hidden = true;
  $("stop").hidden = false;
  $("announce").textContent = "Answering";
  $("scroll").scrollTo({ top: $("scroll").scrollHeight });
}

function end(view) {
  answering = null;
  $("log").setAttribute("aria-busy", "false");
  $("send").hidden = false;
  if (document.activeElement === $("stop")) $("prompt").focus();
  $("stop").hidden = true;
  $("announce").textContent = view.text ? "The answer is complete" : "";
  follow();
  refresh();
}

// ---- The composer

function write(text) {
  $("prompt").value = text;
  grow();
  $("prompt").focus();
}

/** For browsers without `field-sizing`. */
function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${$("prompt").scrollHeight}px`;
}

async function attach(files) {
  for (const file of files) {
    try {
      attachments.push(await fromFile(file));
    } catch (error) {
      say(error.message);
    }
  }
  showAttachments();
  $("prompt").focus();
}

function showAttachments() {
  $("attached").hidden = attachments.length === 0;
  $("attached").replaceChildren(...attachments.map((each) => attachmentChip(each, () => {
    attachments = attachments.filter((other) => other !== each);
    showAttachments();
    $("prompt").focus();
  })));
}

/** Show a problem of this page's own, until the next message. */
function say(text) {
  const shown = problem("That cannot be attached", text);
  failed.push(shown);
  $("welcome").hidden = true;
  $("log").append(shown);
  follow();
}

async function record() {
  const starting = !recorder.active;
  try {
    if (starting) await recorder.start();
    else attachments.push(await recorder.stop());
  } catch (error) {
    say(error.message);
  }
  $("microphone").setAttribute("aria-pressed", String(recorder.active));
  $("microphone").setAttribute("aria-label", recorder.active ? "End the recording" : "Record from the microphone");
  $("recording").textContent = recorder.active ? "0 s" : "";
  showAttachments();
}

setInterval(() => {
  if (recorder.active) $("recording").textContent = `${Math.round(recorder.seconds)} s`;
}, 500);

// ---- Scrolling

let following = true;
const left = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight;

function follow() {
  if (following) $("scroll").scrollTop = $("scroll").scrollHeight;
  $("to-end").hidden = left() < NEAR;
}

$("scroll").addEventListener("scroll", () => {
  following = left() < NEAR;
  $("to-end").hidden = following;
});

// ---- Buttons, keys, files

function newChat() {
  answering?.abort();
  turns = [];
  failed = [];
  $("log").replaceChildren();
  $("welcome").hidden = false;
  $("prompt").focus();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  attach([...event.clipboardData.files]);
});
$("stop").addEventListener("click", () => answering?.abort());
$("attach").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", async () => {
  const chosen = [...$("files").files];
  $("files").value = "";
  await attach(chosen);
});
$("microphone").addEventListener("click", record);
$("new-chat").addEventListener("click", newChat);
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("to-end").addEventListener("click", () => $("scroll").scrollTo({ top: $("scroll").scrollHeight, behavior: "smooth" }));
$("model").addEventListener("change", () => {
  settings.model = $("model").value;
  showModel();
  refresh();
});
$("key-dialog").addEventListener("close", () => {
  if ($("key-dialog").returnValue !== "save") return;
  server.key = $("key").value;
  connect();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && answering && !document.querySelector("dialog[open]")) answering.abort();
  if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    newChat();
  }
});

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").hidden = true;
});
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = true;
  attach([...event.dataTransfer.files]);
});

if (LOOPBACK.includes(location.hostname)) $("place").textContent = "this computer";
connect();
