/** From a picture to what a network takes: the numbers are those of Python, where Pillow resizes, but for rounding. */

/** The network's input, (3, height, width), of an `ImageData`; `preprocessing` is as in export.json. */
export function preprocess(image, { size, crop, mean, std }) {
  const [height, width] = size;
  const box = crop === null ? [0, 0, image.width, image.height] : centre(image, size, crop);
  const resized = resize(image, width, height, box);
  const values = new Float32Array(3 * height * width);
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < height * width; i++) {
      values[channel * height * width + i] = (resized[3 * i + channel] / 255 - mean[channel]) / std[channel];
    }
  }
  return values;
}

/** The part of the picture (left, top, right, bottom) that becomes the centre of one that covers `size / crop`. */
function centre({ width, height }, size, crop) {
  const [coverHeight, coverWidth] = size.map((side) => roundToEven(side / crop));
  let [across, down] = [coverWidth, coverHeight];
  if (coverWidth * height >= coverHeight * width) down = Math.floor((height * coverWidth) / width);
  else across = Math.floor((width * coverHeight) / height);
  const left = roundToEven((across - size[1]) / 2);
  const top = roundToEven((down - size[0]) / 2);
  const [byX, byY] = [width / across, height / down];
  return [left * byX, top * byY, (left + size[1]) * byX, (top + size[0]) * byY];
}

/**
 * Resize a part of a picture as Pillow does: every new pixel is a weighted mean of all the old ones that it covers,
 * first along the rows, then along the columns. Returns red, green and blue of every pixel.
 */
export function resize({ data, width, height }, newWidth, newHeight, [left, top, right, bottom]) {
  const rows = new Uint8Array(3 * newWidth * height);
  const across = taps(width, left, right, newWidth);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++) {
      const from = 4 * (y * width + across[x].first); // ImageData has four values a pixel
      addUp(rows, 3 * (y * newWidth + x), data, from, 4, across[x].weights);
    }
  }
  const result = new Uint8Array(3 * newWidth * newHeight);
  const down = taps(height, top, bottom, newHeight);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const from = 3 * (down[y].first * newWidth + x);
      addUp(result, 3 * (y * newWidth + x), rows, from, 3 * newWidth, down[y].weights);
    }
  }
  return result;
}

/** For every new pixel of a line: the first of the old pixels that it covers, and the weights of these. */
function taps(oldLength, start, end, newLength) {
  const scale = (end - start) / newLength;
  const reach = Math.max(scale, 1);
  return Array.from({ length: newLength }, (_, i) => {
    const middle = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - reach + 0.5));
    const last = Math.min(oldLength, Math.trunc(middle + reach + 0.5));
    const near = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((first + k - middle + 0.5) / reach)),
    );
    const sum = near.reduce((a, b) => a + b, 0);
    return { first, weights: near.map((weight) => weight / sum) };
  });
}

function addUp(target, place, source, from, step, weights) {
  let [red, green, blue] = [0.5, 0.5, 0.5]; // The array cuts off what is behind the point, so this rounds.
  for (let k = 0; k < weights.length; k++) {
    red += source[from + k * step] * weights[k];
    green += source[from + k * step + 1] * weights[k];
    blue += source[from + k * step + 2] * weights[k];
  }
  target[place] = red;
  target[place + 1] = green;
  target[place + 2] = blue;
}

/** Round as Python does: a half goes to the even neighbour. */
function roundToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
