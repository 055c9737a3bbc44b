// Resampling as Pillow has it, bit for bit (the rows first): a box filter by whole factors, then the view's own, in
// fixed point. A canvas scales by whatever its browser chooses, and the model would see other pixels than from any edge.

const GAP = 3; // how many times larger than wanted the box filter leaves a picture
const BITS = 22; // of a weight
const ROWS = 256; // read at a time, so that a large picture is never held twice

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** Each: how far it reaches, and its weight at a distance. */
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [
    2,
    (x) => {
      const d = Math.abs(x);
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
    },
  ],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/**
 * A box of a picture, {left, top, width, height} in its pixels, in a size no larger than that.
 *
 * `source` is whatever a canvas draws, `filter` one of `FILTERS`, by Pillow's name. The ImageData that is returned is
 * opaque: what was transparent is laid over white.
 */
export function resized(source, box, size, filter) {
  const across = Math.trunc(box.width / size.width / GAP) || 1;
  const down = Math.trunc(box.height / size.height / GAP) || 1;
  let { data, width, height } = reduce(source, box, across, down);
  if (size.width !== width || box.width !== width * across) {
    const span = Math.fround(box.width / across); // Pillow's boxes have single precision
    data = filtered(data, height, width, size.width, span, [4, 4 * width, 4 * size.width], FILTERS[filter]);
    width = size.width;
  }
  if (size.height !== height || box.height !== height * down) {
    const span = Math.fround(box.height / down);
    data = filtered(data, width, height, size.height, span, [4 * width, 4, 4], FILTERS[filter]);
  }
  return new ImageData(data, size.width, size.height);
}

/** Means of blocks of across × down pixels; those at the right and bottom edges may be smaller. */
function reduce(source, box, across, down) {
  const width = Math.ceil(box.width / across);
  const height = Math.ceil(box.height / down);
  const data = new Uint8ClampedArray(4 * width * height);
  const sums = new Uint32Array(4 * width);
  const lines = Math.max(1, Math.floor(ROWS / down)) * down;
  const canvas = new OffscreenCanvas(box.width, Math.min(lines, box.height));
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  context.imageSmoothingEnabled = false;
  for (let top = 0; top < box.height; top += lines) {
    const rows = Math.min(lines, box.height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, box.width, rows);
    context.drawImage(source, box.left, box.top + top, box.width, rows, 0, 0, box.width, rows);
    const pixels = context.getImageData(0, 0, box.width, rows).data;
    if (across === 1 && down === 1) {
      data.set(pixels, 4 * width * top);
      continue;
    }
    for (let first = 0; first < rows; first += down) {
      const count = Math.min(down, rows - first);
      sums.fill(0);
      for (let y = first; y < first + count; y++) {
        let at = 4 * box.width * y;
        for (let x = 0, place = 0, left = across; x < box.width; x++, at += 4) {
          sums[place] += pixels[at];
          sums[place + 1] += pixels[at + 1];
          sums[place + 2] += pixels[at + 2];
          if (--left === 0) {
            left = across;
            place += 4;
          }
        }
      }
      means(sums, data, 4 * width * ((top + first) / down), width, across, box.width, count);
    }
  }
  return { data, width, height };
}

function means(sums, data, at, width, across, length, count) {
  for (let x = 0; x < width; x++) {
    const pixels = Math.min(across, length - x * across) * count;
    const share = Math.trunc(Math.fround(2 ** 32 / (256 * pixels)));
    const half = Math.trunc(pixels / 2);
    for (let colour = 0; colour < 3; colour++) {
      data[at + 4 * x + colour] = Math.floor(((sums[4 * x + colour] + half) * share) / 2 ** 24);
    }
    data[at + 4 * x + 3] = 255;
  }
}

/** For each of `wanted` places the first of `length` pixels that counts, and the weights from there on. */
function weights(length, span, wanted, [support, filter]) {
  const scale = span / wanted;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  return Array.from({ length: wanted }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(length, Math.trunc(centre + reach + 0.5));
    const found = Array.from({ length: end - first }, (_, i) => filter((i + first - centre + 0.5) * (1 / stretch)));
    const total = found.reduce((sum, one) => sum + one, 0);
    const fixed = found.map((one) => Math.trunc((one / total) * 2 ** BITS + (one < 0 ? -0.5 : 0.5)));
    return { first, fixed: Int32Array.from(fixed) };
  });
}

/**
 * Lines of `length` pixels in `wanted` ones. Pixels lie `step` bytes apart; lines begin `line` bytes apart in the
 * data, and `to` bytes apart in what is returned.
 */
function filtered(data, lines, length, wanted, span, [step, line, to], filter) {
  const found = new Uint8ClampedArray(4 * lines * wanted);
  const taps = weights(length, span, wanted, filter);
  for (let y = 0; y < lines; y++) {
    for (let x = 0; x < wanted; x++) {
      const { first, fixed } = taps[x];
      blend(data, y * line + first * step, step, fixed, found, y * to + x * step);
    }
  }
  return found;
}

function blend(data, at, step, fixed, found, to) {
  let red = 2 ** (BITS - 1);
  let green = red;
  let blue = red;
  for (let i = 0; i < fixed.length; i++, at += step) {
    red += data[at] * fixed[i];
    green += data[at + 1] * fixed[i];
    blue += data[at + 2] * fixed[i];
  }
  found[to] = red >> BITS;
  found[to + 1] = green >> BITS;
  found[to + 2] = blue >> BITS;
  found[to + 3] = 255;
}
