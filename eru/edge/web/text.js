/** The tab of a language model: a prompt goes in, and text appears token by token. */

import { generate, seeded } from "./generate.js";
import { showError } from "./page.js";
import { encodePrompt, lackingParts, makeTokenizer } from "./tokenizer.js";

const REFRESH = 250; // milliseconds between two figures of the speed; digits that change faster cannot be read

export const KINDS = ["language-model"];

/** Bring the tab to life. */
export async function start(panel, model) {
  if (model.fields.graph !== "step") {
    throw new Error("This model was exported for whole texts: export it again with --graph step.");
  }
  const tokenizer = makeTokenizer(await model.readJson(model.fields.tokenizer));
  const form = panel.querySelector("form");
  const { prompt, temperature, shown, tokens, seed, write, stop } = form.elements;
  const written = panel.querySelector(".written");
  let stopped = false;

  temperature.addEventListener("input", () => (shown.value = Number(temperature.value).toFixed(2)));
  stop.addEventListener("click", () => (stopped = true));
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(write);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (write.disabled) return;
    write.disabled = true;
    written.ariaBusy = "true"; // A screen reader waits for the whole text.
    stop.disabled = stopped = false;
    showError(panel, null);
    try {
      const chosen = seed.value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(seed.value);
      const options = { temperature: Number(temperature.value), random: seeded(chosen) };
      tellLacking(panel, lackingParts(tokenizer, prompt.value));
      const paper = openPaper(panel, tokenizer, encodePrompt(tokenizer, prompt.value));
      for await (const token of generate(model, tokenizer, paper.prompt, options)) {
        paper.add(token);
        if (stopped || paper.count === Number(tokens.value)) break;
      }
      paper.close(chosen);
    } catch (error) {
      showError(panel, error);
    }
    write.disabled = false;
    written.ariaBusy = "false";
    stop.disabled = true;
  });
}

/** What the text is written on: it grows with every token, and tells how fast. */
function openPaper(panel, tokenizer, prompt) {
  const written = panel.querySelector(".written");
  const figures = panel.querySelector(".figures");
  const [given, added] = written.children;
  const made = [];
  const began = performance.now();
  let told = began;

  const promptText = (given.textContent = tokenizer.decode(prompt));
  added.textContent = "";
  written.hidden = false;

  function tell(ending) {
    // Every token of the prompt takes a step of the model too.
    const speed = (prompt.length + made.length) / ((performance.now() - began) / 1000);
    figures.textContent = `${made.length} tokens, ${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s${ending}`;
  }

  return {
    prompt,
    get count() {
      return made.length;
    },
    add(token) {
      made.push(token);
      // A character whose bytes have not all come yet would show as a question mark.
      added.textContent = tokenizer.decode([...prompt, ...made]).slice(promptText.length).replace(/\ufffd+$/, "");
      if (performance.now() - told < REFRESH) return;
      told = performance.now();
      tell("");
    },
    close(seed) {
      tell(`, seed ${seed}`);
    },
  };
}

function tellLacking(panel, parts) {
  const warning = panel.querySelector(".warning");
  const quoted = parts.map((part) => `“${part}”`).join(", ");
  warning.hidden = parts.length === 0;
  warning.textContent = `Not in the model's vocabulary, so read as unknown: ${quoted}.`;
}
