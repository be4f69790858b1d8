// A class as the region where its CAM reaches a threshold.

/**
 * The mask with a class exactly where its CAM is at least `threshold`. Its other pixels become background.
 *
 * @param heat {width, height, pixels}: the CAM, 255 = 1; it is enlarged bilinearly.
 */
export function thresholded(mask, heat, threshold, value) {
  const pixels = mask.pixels.slice(), least = 255 * threshold;
  const columns = Array.from({ length: mask.width }, (_, x) => between(x, mask.width, heat.width));
  for (let y = 0; y < mask.height; y++) {
    const row = between(y, mask.height, heat.height);
    const [upper, lower] = [row.first * heat.width, row.second * heat.width];
    for (let x = 0; x < mask.width; x++) {
      const { first, second, share } = columns[x], { pixels: cam } = heat, at = y * mask.width + x;
      const above = cam[upper + first] * (1 - share) + cam[upper + second] * share;
      const below = cam[lower + first] * (1 - share) + cam[lower + second] * share;
      if (above * (1 - row.share) + below * row.share >= least) pixels[at] = value;
      else if (pixels[at] === value) pixels[at] = 0;
    }
  }
  return pixels;
}

/** The two pixels of a shorter line on both sides of a pixel of a longer one, and the share of the second. */
function between(index, length, shorter) {
  const at = Math.min(shorter - 1, Math.max(0, ((index + 0.5) * shorter) / length - 0.5)), first = Math.floor(at);
  return { first, second: Math.min(shorter - 1, first + 1), share: at - first };
}
