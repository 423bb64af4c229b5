/** A model's folder: what its export.json tells, and the session that computes. */

const RUNTIME = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
const FRESH = { cache: "no-cache" }; // The browser asks whether its copy is still right: a model may be exported anew.

/** Load onnxruntime-web, which `npm install` has put beside the page. */
export async function loadRuntime() {
  let ort;
  try {
    ort = await import(`${RUNTIME}ort.wasm.min.mjs`);
  } catch {
    throw new Error("onnxruntime-web is missing: run npm install in the folder of this page, then load it again.");
  }
  ort.env.wasm.wasmPaths = RUNTIME;
  ort.env.wasm.numThreads = 1; // More threads need headers that a plain web server does not send.
  ort.env.wasm.proxy = true; // The model computes in a worker, so the page stays quick to answer.
  return ort;
}

/** What a folder's export.json tells, or `null` where there is none. */
export async function readExport(folder) {
  const response = await fetch(`${folder}/export.json`, FRESH);
  if (!response.ok) return null;
  const fields = parseJson(await response.text(), `${folder}/export.json`);
  if (typeof fields?.kind !== "string" || typeof fields.file !== "string" || !Array.isArray(fields.inputs)) {
    throw damaged(`${folder}/export.json`);
  }
  if (fields.format !== "onnx") {
    throw new Error(`The model in ${folder} has the format ${fields.format}, but this page needs onnx.`);
  }
  return fields;
}

/**
 * Download a model and open it. Returns its fields (as `readExport` gives them), its size in bytes, `run`, from inputs
 * to outputs, and `readText` and `readJson` for the other files of its folder.
 *
 * `onProgress` is called with the bytes that have come and the bytes in all, which may be unknown (0).
 */
export async function openModel(ort, folder, fields, onProgress) {
  const content = await download(`${folder}/${fields.file}`, onProgress);
  const bytes = content.byteLength; // asked now, since the worker takes the content over
  let session;
  try {
    session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new Error(`The model ${folder}/${fields.file} cannot be opened: ${error.message}`);
  }
  const run = (inputs) =>
    session.run(inputs).catch((error) => {
      throw new Error(`The model cannot compute this: ${error.message}`);
    });
  const readText = async (name) => (await fetched(`${folder}/${name}`)).text();
  const readJson = async (name) => parseJson(await readText(name), `${folder}/${name}`);
  return { fields, bytes, ort, run, readText, readJson };
}

function parseJson(text, address) {
  try {
    return JSON.parse(text);
  } catch {
    throw damaged(address);
  }
}

function damaged(address) {
  return new Error(`The file ${address} is damaged: export the model again.`);
}

async function fetched(address) {
  const response = await fetch(address, FRESH).catch(() => {
    throw new Error(`The file ${address} cannot be read: the server does not answer.`);
  });
  if (!response.ok) throw new Error(`The file ${address} cannot be read: the server answers ${response.status}.`);
  return response;
}

async function download(address, onProgress) {
  const response = await fetched(address);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let done = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { value, done: ended } = await reader.read();
    if (ended) break;
    parts.push(value);
    done += value.byteLength;
    onProgress(done, total);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
