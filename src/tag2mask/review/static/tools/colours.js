// The colours of the image for the tools that follow them.

const MOST = 1024 * 1024; // pixels; a larger part of the image is reduced

/**
 * The colours of a box of the mask: {width, height, step, data}, with 4 bytes for each pixel. One pixel covers `step`
 * pixels of the mask on each side.
 */
export function colours(image, size, { left, top, right, bottom }) {
  const step = Math.max(1, Math.sqrt(((right - left) * (bottom - top)) / MOST));
  const width = Math.ceil((right - left) / step), height = Math.ceil((bottom - top) / step);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  const [x, y] = [image.naturalWidth / size.width, image.naturalHeight / size.height];
  context.drawImage(image, left * x, top * y, width * step * x, height * step * y, 0, 0, width, height);
  return { width, height, step, data: context.getImageData(0, 0, width, height).data };
}

/** Enlarge a map of `colours` to the pixels of its box. */
export function enlarged(map, { width, step }, { left, top, right, bottom }) {
  if (step === 1) return map;
  const large = new Uint8Array((right - left) * (bottom - top));
  let at = 0;
  for (let y = 0; y < bottom - top; y++) {
    const row = Math.floor(y / step) * width;
    for (let x = 0; x < right - left; x++) large[at++] = map[row + Math.floor(x / step)];
  }
  return large;
}
