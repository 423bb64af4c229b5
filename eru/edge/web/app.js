/** The page: which models lie beside it, a tab for each, and what opens when a tab is chosen. */

import { loadRuntime, openModel, readExport } from "./model.js";
import { megabytes, showError } from "./page.js";
import * as pictures from "./pictures.js";
import * as text from "./text.js";

const TABS = [
  { name: "text", code: text },
  { name: "pictures", code: pictures },
];

const notice = document.querySelector("#notice");

async function startPage() {
  notice.hidden = true;
  const runtime = await loadRuntime();
  const found = [];
  for (const { name, code } of TABS) {
    const exported = await readExport(name).catch((error) => error);
    if (exported !== null) found.push(makeTab(name, code, exported, runtime));
  }
  if (found.length === 0) {
    throw new Error("No model lies beside this page: eru export with the option --web puts one there.");
  }
  document.querySelector("[role=tablist]").hidden = found.length === 1;
  found.forEach(({ button }, i) => {
    button.hidden = false;
    button.addEventListener("click", () => choose(found, i));
    button.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) choose(found, (i + step + found.length) % found.length).button.focus();
    });
  });
  choose(found, 0);
}

/** One tab: `open` downloads its model when it is chosen for the first time. */
function makeTab(name, code, exported, runtime) {
  const panel = document.querySelector(`#${name}`);
  const work = panel.querySelector(".work");
  const footer = panel.querySelector("footer");
  let opened = false;

  async function open() {
    if (opened) return;
    opened = true;
    try {
      if (exported instanceof Error) throw exported;
      if (!code.KINDS.includes(exported.kind)) {
        throw new Error(`The model in the folder ${name} is for ${exported.kind}, which another tab shows.`);
      }
      const model = await openModel(runtime, name, exported, (done, total) => {
        footer.textContent = `Loading the model: ${megabytes(done)}${total ? ` of ${megabytes(total)}` : ""}`;
      });
      await code.start(panel, model);
      footer.textContent = describe(model);
      work.inert = false;
    } catch (error) {
      footer.textContent = "";
      work.hidden = true;
      showError(panel, error);
    }
  }

  return { panel, open, button: document.querySelector(`#${name}-tab`) };
}

function choose(tabs, chosen) {
  tabs.forEach(({ button, panel }, i) => {
    button.ariaSelected = i === chosen;
    button.tabIndex = i === chosen ? 0 : -1;
    panel.hidden = i !== chosen;
    if (i !== chosen) panel.dispatchEvent(new Event("leave"));
  });
  tabs[chosen].open();
  return tabs[chosen];
}

function describe({ fields, bytes }) {
  const numbers = fields.quantize === "none" ? "float32" : fields.quantize;
  const licence = fields.licence ? [`licence ${fields.licence}`] : [];
  return [fields.name, fields.kind.replace("-", " "), megabytes(bytes), numbers, ...licence].join(" · ");
}

startPage().catch((error) => {
  notice.classList.remove("late");
  notice.textContent = error.message;
  notice.hidden = false;
});
