// The wand: a connected region of similar colour.

/**
 * The pixels of `picture` that are 4-connected to a pixel by colours whose channels all differ from its own by at most
 * `tolerance`, one byte per pixel.
 */
export function similar({ width, height, data }, { x, y }, tolerance) {
  const region = new Uint8Array(width * height), start = y * width + x, waiting = [start];
  const own = data.slice(4 * start, 4 * start + 3);
  region[start] = 1;
  while (waiting.length) {
    const at = waiting.pop(), column = at % width;
    for (const next of [column ? at - 1 : at, column < width - 1 ? at + 1 : at, at - width, at + width]) {
      if (region[next] !== 0) continue; // outside: undefined
      if (own.some((value, channel) => Math.abs(data[4 * next + channel] - value) > tolerance)) continue;
      region[next] = 1;
      waiting.push(next);
    }
  }
  return region;
}
