// Pictures and recordings → parts of a message. What the server cannot read but the browser can is converted here.

const RATE = 16000; // what the model hears
const PICTURES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const RECORDINGS = { wav: /wav|wave/, flac: /flac/, mp3: /mpeg|mp3/, ogg: /ogg|opus/ };

/** Something attached to a message: `kind` is "image" or "audio", `url` a data: URL. */
async function attachment(kind, name, blob) {
  return { kind, name, url: await dataUrl(blob) };
}

/** A file that was chosen, dropped or pasted. Throws an Error whose text is for people. */
export async function fromFile(file) {
  if (file.type.startsWith("image/")) {
    return attachment("image", file.name, PICTURES.includes(file.type) ? file : await toPng(file));
  }
  if (file.type.startsWith("audio/") || file.type.startsWith("video/")) {
    const known = Object.values(RECORDINGS).some((pattern) => pattern.test(file.type));
    return attachment("audio", file.name, known ? file : await toWav(file, file.name));
  }
  throw new Error(`${file.name} is neither a picture nor a recording.`);
}

/** The part of an OpenAI message. */
export function part({ kind, url }) {
  if (kind === "image") return { type: "image_url", image_url: { url } };
  const [head, data] = url.split(",", 2);
  const format = Object.keys(RECORDINGS).find((name) => RECORDINGS[name].test(head)) ?? "wav";
  return { type: "input_audio", input_audio: { data, format } };
}

/** Records from the microphone until it is told to stop. */
export class Recorder {
  #recorder = null;
  #started = 0;

  get active() {
    return this.#recorder !== null;
  }

  get seconds() {
    return (performance.now() - this.#started) / 1000;
  }

  /** Throws an Error whose text is for people. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("This browser gives no microphone to pages that come over plain HTTP from another machine.");
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, noiseSuppression: true } });
    } catch (error) {
      throw new Error(error.name === "NotAllowedError" ? "The microphone is not allowed for this page."
        : "There is no microphone that can be used.");
    }
    this.#recorder = new MediaRecorder(stream);
    this.#recorder.start();
    this.#started = performance.now();
  }

  /** The recording as an attachment. Throws an Error whose text is for people. */
  async stop() {
    const recorder = this.#recorder;
    const pieces = [];
    const ended = new Promise((resolve) => {
      recorder.ondataavailable = (event) => pieces.push(event.data);
      recorder.onstop = resolve;
    });
    recorder.stop();
    await ended;
    this.#recorder = null;
    recorder.stream.getTracks().forEach((track) => track.stop());
    const wav = await toWav(new Blob(pieces, { type: recorder.mimeType }), "The recording");
    return attachment("audio", `Recording, ${Math.max(1, Math.round((wav.size - 44) / 2 / RATE))} s`, wav);
  }
}

/** Whatever the browser can decode → one channel of 16-bit samples at RATE, as a WAV file. */
async function toWav(blob, name) {
  let decoded;
  try {
    decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer());
  } catch {
    throw new Error(`${name} holds no sound that this browser can read.`);
  }
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, index) => decoded.getChannelData(index));
  const view = new DataView(new ArrayBuffer(44 + decoded.length * 2));
  const text = (at, letters) => [...letters].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + decoded.length * 2, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, RATE * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, decoded.length * 2, true);
  for (let index = 0; index < decoded.length; index += 1) {
    const mean = channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length;
    view.setInt16(44 + index * 2, Math.round(Math.max(-1, Math.min(1, mean)) * 32767), true);
  }
  return new Blob([view], { type: "audio/wav" });
}

async function toPng(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no picture that this browser can read.`);
  }
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}
