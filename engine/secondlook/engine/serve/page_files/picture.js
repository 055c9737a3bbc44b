// One original, and the two pictures of it that are sent: the whole, shrunk, and a part at its own sharpness.

import { sentSize } from "./view.js";
import { resized } from "./resample.js";

const QUALITY = 0.9;

export class Unreadable extends Error {}

/** What people take for pictures that can be read, by how the file begins: what it is, and what to do. */
const OTHERS = [
  [/^.{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)/s, "a HEIC picture, which this browser cannot read",
    "Save it as JPEG. On an iPhone: Settings, Camera, Formats, Most Compatible."],
  [/^.{4}ftypavi[fs]/s, "an AVIF picture that this browser cannot read", "Save it as JPEG."],
  [/^.{4}ftyp|^\x1aE\xdf\xa3|^RIFF.{4}AVI /s, "a video", "Save one of its frames as JPEG."],
  [/^%PDF/, "a PDF document", "Save the page as JPEG or PNG."],
  [/^(II\*\0|MM\0\*)/, "a TIFF picture or a camera's raw data", "Save it as JPEG."],
  [/^\xff\xd8\xff|^\x89PNG|^GIF8|^RIFF.{4}WEBP|^BM/s, "a damaged picture, or one too large for this browser",
    "Save it anew, or smaller."],
];

/** A picture that is decoded: its upright size in pixels, and how many bytes the file has. */
export class Picture {
  constructor(bitmap, bytes) {
    this.bitmap = bitmap;
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.bytes = bytes;
  }

  /** The whole as a JPEG, in the size that is sent for a view. */
  globalImage(view) {
    return this.localImage({ left: 0, top: 0, right: this.width, bottom: this.height }, view);
  }

  /** One region, {left, top, right, bottom}, as a JPEG in the size that is sent for a view. */
  async localImage({ left, top, right, bottom }, view) {
    const box = { left, top, width: right - left, height: bottom - top };
    const size = sentSize(view, box);
    return { jpeg: await encoded(resized(this.bitmap, box, size, view.filter)), ...size };
  }

  close() {
    this.bitmap.close();
  }
}

/**
 * Open a file, turned as its EXIF data say.
 *
 * @throws Unreadable: the browser cannot decode it; the message says what it is and what to do.
 */
export async function openFile(file) {
  if (!file.size) throw new Unreadable("This file is empty. Choose another one.");
  try {
    // Colours as they are stored, as other edges send them.
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
    return new Picture(await createImageBitmap(file, options), file.size);
  } catch {
    const begin = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()));
    const [, what, advice] = OTHERS.find(([signature]) => signature.test(begin)) ?? [
      null, "not a picture that this browser can read", "Choose a JPEG, PNG or WebP file."];
    throw new Unreadable(`This file is ${what}. ${advice}`);
  }
}

/** What a video element shows now; `bytes` is what the whole frame would have as a JPEG. */
export async function openFrame(video) {
  const bitmap = await createImageBitmap(video);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const whole = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  return new Picture(bitmap, whole.size);
}

function encoded(pixels) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height);
  canvas.getContext("2d", { alpha: false }).putImageData(pixels, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}
