/**
 * From a vision model's outputs to its answer: `rows` of a name, a share from 0 to 1 and, where it has one, a colour;
 * with a segmentation also the `mask`, with a detection the `boxes`.
 */

const MOST_LABELS = 5;
const LEAST_SCORE = 0.3; // of a detection, as in Python
const GREY = [140, 145, 150]; // of the background's bar; in the picture it has no colour

/** The answer of a model (as `openModel` gives it) whose classes have these names. */
export function readAnswer({ fields }, names, outputs) {
  const read = { classification: classify, segmentation: segment, detection: detect }[fields.kind];
  return read(outputs, fields, names);
}

function classify({ logits }, { multi_label: several }, names) {
  check(logits, names);
  const scores = Array.from(logits.data);
  const largest = Math.max(...scores);
  const weights = scores.map((score) => (several ? 1 / (1 + Math.exp(-score)) : Math.exp(score - largest)));
  const sum = several ? 1 : weights.reduce((a, b) => a + b, 0);
  const rows = weights.map((weight, i) => ({ name: names[i], share: weight / sum }));
  rows.sort((a, b) => b.share - a.share);
  return { rows: several ? rows.filter((row) => row.share > 0.5) : rows.slice(0, MOST_LABELS) };
}

function segment({ logits }, { colours, background }, names) {
  check(logits, names);
  const [, outputs, height, width] = logits.dims;
  const size = height * width;
  const classes = new Uint16Array(size); // of the pixels
  if (outputs === 1) {
    // The one score tells what it stands for from a background, which has no name of its own.
    classes.forEach((_, pixel) => (classes[pixel] = logits.data[pixel] > 0));
    [names, colours, background] = [["background", ...names], [GREY, ...colours], 0];
  }
  for (let c = 1; c < outputs; c++) {
    for (let pixel = 0; pixel < size; pixel++) {
      if (logits.data[c * size + pixel] > logits.data[classes[pixel] * size + pixel]) classes[pixel] = c;
    }
  }
  const counts = new Array(names.length).fill(0);
  classes.forEach((c) => counts[c]++);
  const tints = colours.map((colour, c) => (c === background ? null : colour));
  const rows = counts.map((count, c) => ({ name: names[c], share: count / size, colour: tints[c] ?? GREY }));
  rows.sort((a, b) => b.share - a.share);
  return { rows: rows.filter((row) => row.share > 0), mask: { classes, width, height, tints } };
}

function detect({ boxes, labels, scores }, { colours }, names) {
  const found = [];
  scores.data.forEach((score, i) => {
    if (!Number.isFinite(score)) throw new Error("The model's outputs are not finite: its file may be damaged.");
    if (score < LEAST_SCORE) return;
    const label = Number(labels.data[i]);
    if (!(label in names)) {
      throw new Error(`The model found the class ${label}, but labels.txt has ${names.length} names.`);
    }
    const box = [...boxes.data.slice(4 * i, 4 * i + 4)];
    found.push({ name: names[label], share: score, colour: colours[label], box });
  });
  found.sort((a, b) => b.share - a.share);
  return { rows: found, boxes: found };
}

function check(logits, names) {
  const classes = logits.dims[1];
  if (classes !== names.length) {
    throw new Error(`The model tells ${classes} classes apart, but labels.txt has ${names.length} names.`);
  }
  if (!logits.data.every(Number.isFinite)) {
    throw new Error("The model's outputs are not finite: its file may be damaged.");
  }
}
