// The small settings panel: what it holds, and what of it goes into a request. Kept in this browser.

const NAME = "edgephi-settings";
const FIELDS = { system: "system", temperature: "temperature", maxTokens: "max-tokens", thinking: "thinking" };

export class Settings {
  #values = { system: "", temperature: "", maxTokens: "", thinking: "", theme: "", model: "" };

  /** `dialog` is the panel of index.html. */
  constructor(dialog) {
    try {
      Object.assign(this.#values, JSON.parse(localStorage.getItem(NAME) ?? "{}"));
    } catch { /* written by something else: begin anew */ }
    this.#showTheme();
    for (const [name, id] of Object.entries(FIELDS)) {
      const input = document.getElementById(id);
      input.value = this.#values[name];
      input.addEventListener("input", () => this.#set(name, input.validity.valid ? input.value.trim() : ""));
    }
    for (const input of dialog.querySelectorAll("[name=theme]")) {
      input.checked = input.value === this.#values.theme;
      input.addEventListener("change", () => {
        this.#set("theme", input.value);
        this.#showTheme();
      });
    }
  }

  /** The model that was chosen last. */
  get model() {
    return this.#values.model;
  }

  set model(name) {
    this.#set("model", name);
  }

  /** The messages that stand before every conversation. */
  get opening() {
    return this.#values.system ? [{ role: "system", content: this.#values.system }] : [];
  }

  /** Members of a request; what is left open is not sent, so that the server's own values hold. */
  get options() {
    const { temperature, maxTokens, thinking } = this.#values;
    return {
      ...(temperature === "" ? {} : { temperature: Number(temperature) }),
      ...(maxTokens === "" ? {} : { max_completion_tokens: Number(maxTokens) }),
      ...(thinking === "" ? {} : { thinking_budget: Number(thinking) }),
    };
  }

  #set(name, value) {
    this.#values[name] = value;
    localStorage.setItem(NAME, JSON.stringify(this.#values));
  }

  #showTheme() {
    document.documentElement.dataset.theme = this.#values.theme;
  }
}
