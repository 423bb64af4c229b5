/** The tab of a vision model: a picture goes in, by a file or the camera, and the answer is drawn over it. */

import { readAnswer } from "./answers.js";
import { openCamera } from "./camera.js";
import { drawAnswer } from "./drawing.js";
import { percent, showError } from "./page.js";
import { preprocess } from "./resize.js";
import { listRows } from "./rows.js";

const LONGEST_SIDE = 1600; // of a picture in pixels; a phone's photographs would fill the memory

export const KINDS = ["segmentation", "classification", "detection"];

/** Bring the tab to life. */
export async function start(panel, model) {
  if (model.fields.nms === false) {
    throw new Error("This detector lacks its last part, which chooses the boxes: export it with --nms.");
  }
  const names = (await model.readText(model.fields.labels)).replace(/\r?\n$/, "").split(/\r?\n/);
  const chooser = panel.querySelector("input[type=file]");
  const button = panel.querySelector("[name=camera]");
  const summary = panel.querySelector(".summary");
  let camera = null;
  let last = Promise.resolve(); // One picture at a time: the next waits for the one before.

  function answer(source, width, height) {
    const turn = last.then(async () => {
      const picture = asCanvas(source, width, height);
      const { answered, computed } = await ask(model, names, picture);
      show(panel, picture, answered);
      panel.querySelector(".figures").textContent = `${computed.toFixed(0)} ms a picture`;
    });
    last = turn.catch(() => {}); // Whoever asked is told of the error; the next picture is not held up by it.
    return turn;
  }

  async function answerFile(file) {
    if (!file) return;
    stopCamera();
    showError(panel, null);
    try {
      const bitmap = await createImageBitmap(file).catch(() => {
        throw new Error(`“${file.name}” is no picture that this browser can read.`);
      });
      await answer(bitmap, bitmap.width, bitmap.height);
    } catch (error) {
      showError(panel, error);
    }
  }

  async function runCamera() {
    showError(panel, null);
    try {
      const own = await openCamera();
      stopCamera(); // Whoever clicks twice while the browser asks has opened two.
      if (panel.hidden) return own.stop();
      camera = own;
      button.textContent = "Stop camera";
      summary.ariaLive = "off"; // Nobody could listen to so many answers.
      while (camera === own) {
        await answer(own.video, own.video.videoWidth, own.video.videoHeight);
        await new Promise(requestAnimationFrame); // waits while the page is not seen
      }
    } catch (error) {
      stopCamera();
      showError(panel, error);
    }
  }

  function stopCamera() {
    camera?.stop();
    camera = null;
    button.textContent = "Start camera";
    summary.ariaLive = "polite";
  }

  chooser.addEventListener("change", () => {
    answerFile(chooser.files[0]);
    chooser.value = ""; // The same file can be chosen again.
  });
  button.addEventListener("click", () => (camera ? stopCamera() : runCamera()));
  panel.addEventListener("leave", stopCamera);
  panel.addEventListener("dragover", (event) => event.preventDefault()); // which lets a picture be dropped
  panel.addEventListener("drop", (event) => {
    event.preventDefault();
    answerFile(event.dataTransfer.files[0]);
  });
}

/** The picture as a canvas of moderate size, on white where it is transparent. */
function asCanvas(source, width, height) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * width));
  canvas.height = Math.max(1, Math.round(scale * height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The model's answer about a picture, and how many milliseconds the model took for it. */
async function ask(model, names, picture) {
  const pixels = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
  const [{ name, shape }] = model.fields.inputs;
  const input = new model.ort.Tensor("float32", preprocess(pixels, model.fields.preprocessing), shape);
  const began = performance.now();
  const outputs = await model.run({ [name]: input });
  const computed = performance.now() - began;
  return { answered: readAnswer(model, names, outputs), computed };
}

function show(panel, picture, answered) {
  const canvas = panel.querySelector("canvas");
  drawAnswer(canvas, picture, answered);
  canvas.hidden = false;
  panel.querySelector(".stage .hint").hidden = true;
  listRows(panel.querySelector(".answer"), answered.rows);
  const told = answered.rows.map(({ name, share }) => `${name} ${percent(share)}`).join(", ");
  panel.querySelector(".summary").textContent = told || "The model finds nothing that it knows.";
}
