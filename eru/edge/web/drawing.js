/** A picture with the answer drawn over it: coloured regions, or labelled boxes. */

import { percent } from "./page.js";

const TINT = 0.55; // how strongly a region's colour covers the picture
const EDGE = [245, 245, 245, 200]; // red, green, blue and opacity of the line between two regions

/** Draw a picture (a canvas) and the answer over it into another canvas, at once, so that nothing flickers. */
export function drawAnswer(canvas, picture, { mask, boxes }) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  if (mask) drawMask(context, mask);
  if (boxes) drawBoxes(context, boxes);
}

function drawMask(context, { classes, width, height, tints }) {
  const small = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  classes.forEach((c, i) => {
    const right = (i + 1) % width ? classes[i + 1] : c; // The last pixel of a row and a column has no neighbour.
    const below = classes[i + width] ?? c;
    if (c !== right || c !== below) image.data.set(EDGE, 4 * i);
    else if (tints[c]) image.data.set([...tints[c], 255 * TINT], 4 * i);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high"; // soft edges where the mask grows to the picture's size
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}

function drawBoxes(context, boxes) {
  const { width, height } = context.canvas;
  const size = Math.max(13, Math.min(width, height) / 26); // Text and lines grow with the picture.
  const line = Math.max(2, size / 6);
  const inPixels = (box) => box.map((side, i) => side * (i % 2 ? height : width));
  const placed = boxes.map(({ box, ...rest }) => ({ ...rest, sides: inPixels(box) }));
  placed.reverse(); // The surest one comes last, on top.
  for (const { colour, sides: [left, top, right, bottom] } of placed) {
    for (const [style, thickness] of [["white", line + 2], [`rgb(${colour})`, line]]) {
      context.strokeStyle = style;
      context.lineWidth = thickness;
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }
  // The labels come after all boxes, so that no line crosses a label.
  context.font = `600 ${size}px ${getComputedStyle(context.canvas).fontFamily}`;
  context.textBaseline = "middle";
  for (const { name, share, colour, sides: [left, top] } of placed) {
    const text = `${name} ${percent(share)}`;
    const [across, down] = [context.measureText(text).width + size, 1.5 * size];
    const x = Math.max(0, Math.min(left, width - across));
    const y = top >= down ? top - down : Math.max(0, top);
    context.fillStyle = `rgb(${colour})`;
    context.fillRect(x, y, across, down);
    context.fillStyle = isLight(colour) ? "black" : "white";
    context.fillText(text, x + size / 2, y + down / 2);
  }
}

function isLight([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}
