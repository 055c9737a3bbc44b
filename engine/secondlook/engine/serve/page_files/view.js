// Sizes: how large a picture is sent for a view. Equal to secondlook/edge/geometry.py, number for number.

const MOST_SLENDER = 200;

export class TooSlender extends Error {}

/** Python's `round`: a half goes to the even side. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** What the model takes of an original (or region) of this size; TooSlender: a budget has no size for it. */
export function target(view, original) {
  const rule = view.size;
  if (rule.kind === "fixed") return { width: rule.width, height: rule.height };
  if (rule.kind === "tiles") return withinSheet(sheet(rule, original), original);
  const { width, height } = original;
  if (Math.max(width, height) / Math.min(width, height) > MOST_SLENDER) {
    throw new TooSlender(
      `This picture of ${width} × ${height} pixels is too slender for the model: one side may be at most ` +
        `${MOST_SLENDER} times the other. Crop it and try again.`,
    );
  }
  return withinBudget(rule, original);
}

function withinBudget(rule, { width, height }) {
  const cells = rule.multiple;
  let across = roundHalfEven(width / cells) * cells;
  let down = roundHalfEven(height / cells) * cells;
  if (across * down > rule.most_pixels) {
    const shrink = Math.sqrt((height * width) / rule.most_pixels);
    across = Math.max(cells, Math.floor(width / shrink / cells) * cells);
    down = Math.max(cells, Math.floor(height / shrink / cells) * cells);
  } else if (across * down < rule.least_pixels) {
    const grow = Math.sqrt(rule.least_pixels / (height * width));
    across = Math.ceil((width * grow) / cells) * cells;
    down = Math.ceil((height * grow) / cells) * cells;
  }
  return { width: across, height: down };
}

/** The sheet that shows most of an original's pixels; of several such, the one with the least padding. */
function sheet(rule, { width, height }) {
  let best = null;
  for (const [across, down] of rule.sheets) {
    const scale = Math.min(across / width, down / height);
    const seen = Math.min(Math.trunc(width * scale) * Math.trunc(height * scale), width * height);
    const pixels = across * down;
    if (!best || seen > best.seen || (seen === best.seen && pixels < best.pixels)) {
      best = { width: across, height: down, seen, pixels };
    }
  }
  return best;
}

function withinSheet(sheet, original) {
  const across = sheet.width / original.width;
  const down = sheet.height / original.height;
  if (across < down) {
    return { width: sheet.width, height: Math.min(Math.ceil(original.height * across), sheet.height) };
  }
  return { width: Math.min(Math.ceil(original.width * down), sheet.width), height: sheet.height };
}

/** Where a picture of this size lies in a target, in target pixels: {left, top, width, height}. */
export function place(image, into, fit) {
  if (fit === "squash") return { left: 0, top: 0, width: into.width, height: into.height };
  let { width, height } = into;
  if (image.width * height >= image.height * width) height = scaled(image.height, width, image.width);
  else width = scaled(image.width, height, image.height);
  return { left: (into.width - width) >> 1, top: (into.height - height) >> 1, width, height };
}

/** length · numerator / denominator, rounded half up, at least 1; exact, for the remainder of integers is. */
function scaled(length, numerator, denominator) {
  const dividend = 2 * length * numerator + denominator;
  const divisor = 2 * denominator;
  return Math.max(1, (dividend - (dividend % divisor)) / divisor);
}

/** How large an original (or region) is sent: never enlarged, never padded. The server does both. */
export function sentSize(view, original) {
  const { width, height } = place(original, target(view, original), view.fit);
  return { width: Math.min(width, original.width), height: Math.min(height, original.height) };
}
