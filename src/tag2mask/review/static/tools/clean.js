// Removal of specks and holes.

/**
 * The mask without pieces of fewer than `least` pixels: each takes the class along most of its border, the smallest
 * first. A piece is a 4-connected region of one class, also of background; the largest of each class stays.
 * Returns {pixels, removed}, with the number of pieces that are gone.
 */
export function cleaned(pixels, width, height, least) {
  const { pieces, areas, classes } = label(pixels, width, height);
  const kept = new Map(); // the largest piece by class
  areas.forEach((area, piece) => {
    if (!(area <= areas[kept.get(classes[piece])])) kept.set(classes[piece], piece);
  });
  const small = areas.map((area, piece) => area < least && kept.get(classes[piece]) !== piece);
  const borders = new Map(); // of each small piece: the length of its border by neighbour
  const touch = (one, other) => {
    if (!small[one]) return;
    if (!borders.has(one)) borders.set(one, new Map());
    borders.get(one).set(other, (borders.get(one).get(other) ?? 0) + 1);
  };
  for (let at = 0; at < pixels.length; at++) {
    for (const next of [(at + 1) % width ? at + 1 : at, at + width]) {
      if (next >= pixels.length || pieces[next] === pieces[at]) continue;
      touch(pieces[at], pieces[next]);
      touch(pieces[next], pieces[at]);
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
    const [root] = [...lengths].reduce((best, each) => (each[1] > best[1] ? each : best), [piece, 0]);
    parents[piece] = root;
    if (small[root]) for (const [other, length] of lengths) if (other !== root) {
      borders.get(root).set(other, (borders.get(root).get(other) ?? 0) + length);
    }
  }
  return { pixels: Uint8Array.from(pieces, (piece) => classes[find(piece)]), removed: borders.size };
}

/** The 4-connected pieces: the number of each pixel's piece, and the area and the class of each piece. */
function label(pixels, width, height) {
  const pieces = new Int32Array(width * height).fill(-1), areas = [], classes = [], waiting = [];
  for (let start = 0; start < pixels.length; start++) {
    if (pieces[start] >= 0) continue;
    const piece = areas.length, value = pixels[start];
    let area = 0;
    pieces[start] = piece;
    waiting.push(start);
    while (waiting.length) {
      const at = waiting.pop(), x = at % width;
      area++;
      for (const next of [x ? at - 1 : at, x < width - 1 ? at + 1 : at, at - width, at + width]) {
        if (pieces[next] !== -1 || pixels[next] !== value) continue; // outside: undefined
        pieces[next] = piece;
        waiting.push(next);
      }
    }
    areas.push(area);
    classes.push(value);
  }
  return { pieces, areas, classes };
}
