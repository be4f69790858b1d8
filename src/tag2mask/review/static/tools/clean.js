// Removal of specks and holes.

import { IGNORED } from "../mask.js";

/**
 * The mask without pieces of fewer than `least` pixels: each takes the class along most of its border, the smallest
 * first. A piece is a 4-connected region of one class, also of background; the largest of each class stays. Pixels that
 * are not sure (255) all stay, and only a piece that has no other neighbour becomes one of them.
 * Returns {pixels, removed}, with the number of pieces that are gone.
 */
export function cleaned(pixels, width, height, least) {
  const { pieces, areas, classes } = label(pixels, width, height);
  const kept = new Map(); // the largest piece by class
  areas.forEach((area, piece) => {
    if (!(area <= areas[kept.get(classes[piece])])) kept.set(classes[piece], piece);
  });
  const small = areas.map((area, piece) =>
    area < least && classes[piece] !== IGNORED && kept.get(classes[piece]) !== piece);
  const borders = new Map(); // of each small piece: the length of its border by neighbour
  const touch = (one, other) => {
    if (!small[one]) return;
    if (!borders.has(one)) borders.set(one, new Map());
    borders.get(one).set(other, (borders.get(one).get(other) ?? 0) + 1);
  };
  const meet = (one, other) => {
    touch(one, other);
    touch(other, one);
  };
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const piece = pieces[at], right = x < width - 1 ? pieces[at + 1] : piece;
      const below = y < height - 1 ? pieces[at + width] : piece;
      if (right !== piece) meet(piece, right);
      if (below !== piece) meet(piece, below);
    }
  }
  const parents = areas.map((_, piece) => piece);
  const find = (piece) => {
    while (parents[piece] !== piece) piece = parents[piece] = parents[parents[piece]];
    return piece;
  };
  for (const piece of [...borders.keys()].sort((one, other) => areas[one] - areas[other])) {
    const lengths = new Map();
    for (const [other, length] of borders.get(piece)) {
      const root = find(other);
      if (root !== piece) lengths.set(root, (lengths.get(root) ?? 0) + length);
    }
    const sure = [...lengths].filter(([other]) => classes[other] !== IGNORED);
    const [[root]] = (sure.length ? sure : [...lengths]).sort((one, other) => other[1] - one[1]);
    parents[piece] = root;
    if (small[root]) for (const [other, length] of lengths) if (other !== root) {
      borders.get(root).set(other, (borders.get(root).get(other) ?? 0) + length);
    }
  }
  const values = areas.map((_, piece) => classes[find(piece)]), result = new Uint8Array(pixels.length);
  for (let at = 0; at < result.length; at++) result[at] = values[pieces[at]];
  return { pixels: result, removed: borders.size };
}

/** The 4-connected pieces: the number of each pixel's piece, and the area and the class of each piece. */
function label(pixels, width, height) {
  const pieces = new Int32Array(width * height).fill(-1), areas = [], classes = [];
  const waiting = new Int32Array(width * height);
  for (let start = 0; start < pixels.length; start++) {
    if (pieces[start] >= 0) continue;
    const piece = areas.length, value = pixels[start];
    let count = 0;
    pieces[start] = piece;
    waiting[count++] = start;
    for (let first = 0; first < count; first++) {
      const at = waiting[first], x = at % width;
      for (let side = 0; side < 4; side++) {
        const next = side === 0 ? at - width : side === 1 ? at + width : side === 2 ? at - 1 : at + 1;
        if ((side === 2 && x === 0) || (side === 3 && x === width - 1)) continue;
        if (next < 0 || next >= pixels.length || pieces[next] !== -1 || pixels[next] !== value) continue;
        pieces[next] = piece;
        waiting[count++] = next;
      }
    }
    areas.push(count);
    classes.push(value);
  }
  return { pieces, areas, classes };
}
