// The edge brush: a stroke that ends at the edges of the image.

import { Mask } from "../mask.js";

const SURE = 1 / 3; // of the diameter: painted in any case

/**
 * The part of a stroke up to the edges of the image, one byte per pixel of `picture`.
 *
 * The middle third of the stroke is inside. The pixels around the stroke are inside where they have the painted class
 * already, and outside elsewhere. A watershed on the gradient of the colours divides the pixels between them.
 * Source: Meyer's flooding, 1991; the seeds are ours.
 *
 * @param picture {width, height, data} with 4 bytes for each pixel, of which 3 are the colour.
 * @param path the points of the stroke, in pixels of the picture.
 * @param isPainted (x, y) => whether a pixel had the painted class before.
 */
export function snapped(picture, path, diameter, isPainted) {
  const { width, height } = picture;
  const stroke = new Mask(width, height); // 0 around, 1 to be divided, 2 inside
  stroke.begin();
  for (const [size, value] of [[diameter, 1], [Math.max(1, SURE * diameter), 2]]) {
    path.forEach((point, index) => stroke.line(path[Math.max(0, index - 1)], point, size, value));
  }
  const steps = gradient(picture);
  const inside = new Uint8Array(width * height), done = new Uint8Array(width * height);
  const queues = Array.from({ length: 256 }, () => []);
  for (let at = 0; at < done.length; at++) {
    const mark = stroke.pixels[at];
    if (mark === 1) continue;
    done[at] = 1;
    inside[at] = mark === 2 || isPainted(at % width, Math.floor(at / width)) ? 1 : 0;
    queues[0].push(at);
  }
  for (let level = 0; level < 256; level++) {
    const queue = queues[level];
    for (let first = 0; first < queue.length; first++) {
      const at = queue[first], x = at % width;
      for (const next of [x ? at - 1 : at, x < width - 1 ? at + 1 : at, at - width, at + width]) {
        if (done[next] !== 0) continue; // outside: undefined
        done[next] = 1;
        inside[next] = inside[at];
        queues[Math.max(level, steps[next])].push(next);
      }
    }
  }
  return inside.map((value, at) => (value && stroke.pixels[at] ? 1 : 0));
}

/** The larger of the horizontal and the vertical Sobel gradient of any channel, from 0 to 255. */
function gradient({ width, height, data }) {
  const steps = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const [above, below] = [Math.max(0, y - 1), Math.min(height - 1, y + 1)].map((row) => 4 * width * row);
    const own = 4 * width * y;
    for (let x = 0; x < width; x++) {
      const middle = 4 * x, left = x ? middle - 4 : middle, right = x < width - 1 ? middle + 4 : middle;
      let most = 0;
      for (let channel = 0; channel < 3; channel++) {
        const [a, o, b] = [above + channel, own + channel, below + channel];
        const corner = data[b + right] - data[a + left], other = data[a + right] - data[b + left];
        const across = Math.abs(corner + other + 2 * (data[o + right] - data[o + left]));
        const down = Math.abs(corner - other + 2 * (data[b + middle] - data[a + middle]));
        most = Math.max(most, across, down);
      }
      steps[y * width + x] = most >> 2;
    }
  }
  return steps;
}
