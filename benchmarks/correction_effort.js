// The scripted user of correction_effort.py: which action brings a mask nearest to its ground truth for each click.

// HAND: pixels by which a free line leaves the outline. RIM: pixels that the mask of an object lacks at its edge.
const IGNORED = 255, ENOUGH = 0.9, HAND = 4, RIM = 3;

/** The tools of the review page at `address`. */
async function tools(address) {
  const from = (name) => import(`${address}static/${name}.js`);
  const names = ["mask", "tools/clean", "tools/colours", "tools/edge_brush", "tools/wand", "tools/cam", "tools/lasso", "tools/correct"];
  return Object.assign({}, ...(await Promise.all(names.map(from))));
}

/** Each class of the ground truth with its IoU, ignored pixels left out. */
function ious(pixels, truth) {
  const both = new Int32Array(256), found = new Int32Array(256), there = new Int32Array(256);
  for (let at = 0; at < truth.length; at++) {
    const value = truth[at];
    if (value === IGNORED) continue;
    there[value]++;
    found[pixels[at]]++;
    if (pixels[at] === value) both[value]++;
  }
  const classes = [...there.keys()].filter((value) => there[value]);
  return classes.map((value) => [value, both[value] / (there[value] + found[value] - both[value])]);
}

/** The mean IoU, each counted up to the one that is enough. */
function score(pixels, truth) {
  const each = ious(pixels, truth).map(([, iou]) => Math.min(iou, ENOUGH));
  return each.reduce((sum, iou) => sum + iou, 0) / each.length;
}

function reached(pixels, truth) {
  return Math.min(...ious(pixels, truth).map(([, iou]) => iou)) >= ENOUGH;
}

/**
 * The action with the largest gain of mean IoU for each click, {tool, gain, cost, pixels, …}; null if none gains.
 *
 * @param t the tools of the page.
 * @param allowed the names of the tools that the user may take.
 * @param state {mask, truth, image, sizes, shares, heats, tolerance, room}: `heats` are CAMs by class, `sizes` the brush
 *   diameters, `shares` the steps of Clean, `room` the distance of two clicks of a lasso.
 */
function best(t, allowed, state) {
  const before = score(state.mask.pixels, state.truth);
  let found = null;
  const consider = (action, pixels) => {
    const gain = score(pixels, state.truth) - before;
    if (gain > 1e-9 && (!found || gain / action.cost > found.gain / found.cost)) found = { ...action, gain, pixels };
  };
  const names = ["brush", "fill", "clean", "threshold", "edge", "wand", "polygon", "lasso", "object"].filter((each) => allowed.includes(each));
  const regions = wrong(state.mask, state.truth);
  for (const name of names) CANDIDATES[name](t, state, regions, consider);
  return found;
}

const CANDIDATES = {
  brush(t, { mask, sizes }, regions, consider) {
    for (const region of regions) {
      for (const step of steps(sizes, region, [0.5, 1, 1.5])) {
        const copy = edited(t, mask), path = ridge(region, sizes[step]);
        path.forEach((point, at) => copy.line(path[Math.max(0, at - 1)], point, sizes[step], region.value));
        consider({ tool: "brush", cost: 1, step, path, value: region.value }, copy.pixels);
      }
    }
  },

  fill(t, { mask }, regions, consider) {
    for (const { peak, value } of regions) {
      const copy = edited(t, mask);
      copy.fill(peak.x, peak.y, value);
      consider({ tool: "fill", cost: 1, path: [peak], value }, copy.pixels);
    }
  },

  clean(t, { mask, shares }, _, consider) {
    shares.forEach((share, step) => {
      const { pixels } = t.cleaned(mask.pixels, mask.width, mask.height, (share / 100) * mask.pixels.length);
      consider({ tool: "clean", cost: 1, step }, pixels);
    });
  },

  threshold(t, { mask, heats }, _, consider) {
    for (const [value, heat] of Object.entries(heats)) {
      for (let step = 1; step < 20; step++) {
        const threshold = Number((0.05 * step).toFixed(2));
        const pixels = t.thresholded(mask, heat, threshold, Number(value));
        consider({ tool: "threshold", cost: 1, threshold, value: Number(value) }, pixels);
      }
    }
  },

  edge(t, { mask, sizes, image }, regions, consider) {
    for (const region of regions) {
      for (const step of steps(sizes, region, [1, 1.5, 2, 2.5])) {
        const size = sizes[step], path = ridge(region, size / 2), box = mask.box(path, size / 2 + 1);
        const picture = t.colours(image, mask, box);
        const points = path.map(({ x, y }) => ({ x: x - box.left, y: y - box.top }));
        const painted = (x, y) => mask.at(box.left + x, box.top + y) === region.value;
        const copy = edited(t, mask);
        copy.paint(box, t.snapped(picture, points, size, painted), region.value);
        consider({ tool: "edge", cost: 1, step, path, value: region.value }, copy.pixels);
      }
    }
  },

  wand(t, { mask, image, tolerance }, regions, consider) {
    const box = { left: 0, top: 0, right: mask.width, bottom: mask.height };
    const picture = t.colours(image, mask, box);
    for (const { peak, value } of regions) {
      for (const each of [8, 16, 24, 40, 64, 96]) {
        const copy = edited(t, mask);
        copy.paint(box, t.similar(picture, peak, each), value);
        consider({ tool: "wand", cost: each === tolerance ? 1 : 2, tolerance: each, path: [peak], value }, copy.pixels);
      }
    }
  },

  polygon(t, { mask, room }, regions, consider) {
    for (const region of regions) {
      for (const error of [2, 4, 8]) {
        const path = apart(simplified(contour(region), error), room);
        if (path.length < 3 || path.length > 40) continue;
        consider({ tool: "polygon", cost: path.length + 1, path, value: region.value }, around(t, mask, region, path));
      }
    }
  },

  lasso(t, { mask }, regions, consider) {
    for (const region of regions) {
      const path = simplified(contour(region), HAND);
      if (path.length < 3) continue;
      consider({ tool: "lasso", cost: 1, path, value: region.value }, around(t, mask, region, path));
    }
  },

  object(t, { mask, truth }, regions, consider) {
    for (const { peak, value } of regions) {
      const copy = edited(t, mask);
      copy.paint({ left: 0, top: 0, right: mask.width, bottom: mask.height }, objectAt(peak, mask, truth), value);
      consider({ tool: "object", cost: 1, path: [peak], value }, copy.pixels);
    }
  },
};

/** The connected region of the ground truth at a pixel, without its rim; what lies outside the image has no rim. */
function objectAt({ x, y }, { width, height }, truth) {
  const list = [y * width + x], there = new Uint8Array(truth.length);
  there[list[0]] = 1;
  for (let first = 0; first < list.length; first++) {
    for (const next of neighbours(list[first], width, height)) {
      if (there[next] || truth[next] !== truth[list[0]]) continue;
      there[next] = 1;
      list.push(next);
    }
  }
  const kept = there.slice();
  for (let at = 0; at < truth.length; at++) {
    if (there[at]) continue;
    const column = at % width, row = Math.floor(at / width);
    for (let down = Math.max(0, row - RIM); down <= Math.min(height - 1, row + RIM); down++) {
      kept.fill(0, down * width + Math.max(0, column - RIM), down * width + Math.min(width, column + RIM + 1));
    }
  }
  return kept;
}

/** The mask with a class inside a closed line. */
function around(t, mask, { value }, path) {
  const copy = edited(t, mask), box = copy.box(path, 0);
  copy.paint(box, t.inside(path, box), value);
  path.forEach((point, at) => copy.line(path.at(at - 1), point, 1, value));
  return copy.pixels;
}

function edited(t, mask) {
  const copy = new t.Mask(mask.width, mask.height, mask.pixels);
  copy.begin();
  return copy;
}

/** The four largest regions that should have another class, for classes whose IoU is not enough yet: {value, pixels, peak, away, width, height}. */
function wrong(mask, truth) {
  const { width, height, pixels } = mask, seen = new Uint8Array(pixels.length), regions = [];
  const good = new Set(ious(pixels, truth).filter(([, iou]) => iou >= ENOUGH).map(([value]) => value));
  const isWrong = (at, value) =>
    truth[at] === value && pixels[at] !== value && !(good.has(value) && good.has(pixels[at]));
  for (let start = 0; start < pixels.length; start++) {
    const value = truth[start];
    if (seen[start] || value === IGNORED || !isWrong(start, value)) continue;
    const list = [start];
    seen[start] = 1;
    for (let first = 0; first < list.length; first++) {
      for (const next of neighbours(list[first], width, height)) {
        if (seen[next] || !isWrong(next, value)) continue;
        seen[next] = 1;
        list.push(next);
      }
    }
    regions.push({ value, list, width, height });
  }
  regions.sort((one, other) => other.list.length - one.list.length);
  return regions.slice(0, 4).map((region) => ({ ...region, ...distances(region) }));
}

/** The 4 neighbours of a pixel. */
function neighbours(at, width, height) {
  const x = at % width, found = [];
  if (x > 0) found.push(at - 1);
  if (x < width - 1) found.push(at + 1);
  if (at >= width) found.push(at - width);
  if (at < width * (height - 1)) found.push(at + width);
  return found;
}

/** The distance of each pixel of a region to its outside (chamfer 3-4), and the pixel with the largest. */
function distances({ list, width, height }) {
  const away = new Float32Array(width * height);
  for (const at of list) away[at] = Infinity;
  const least = (at, x, y, dx, dy, step) => {
    const [column, row] = [x + dx, y + dy];
    const other = column < 0 || row < 0 || column >= width || row >= height ? 0 : away[row * width + column];
    away[at] = Math.min(away[at], other + step);
  };
  const sorted = [...list].sort((one, other) => one - other);
  for (const [order, sign] of [[sorted, 1], [sorted.toReversed(), -1]]) {
    for (const at of order) {
      const [x, y] = [at % width, Math.floor(at / width)];
      for (const [dx, dy, step] of [[-1, 0, 1], [0, -1, 1], [-1, -1, 4 / 3], [1, -1, 4 / 3]]) {
        least(at, x, y, sign * dx, sign * dy, step);
      }
    }
  }
  const top = list.reduce((one, other) => (away[other] > away[one] ? other : one), list[0]);
  return { away, peak: { x: top % width, y: Math.floor(top / width) } };
}

/** The brush sizes nearest to some multiples of the largest disc of a region, as indices. */
function steps(sizes, { away, peak, width }, factors) {
  const disc = 2 * away[peak.y * width + peak.x];
  const nearest = (size) => sizes.reduce((one, each, at) =>
    (Math.abs(Math.log(each / size)) < Math.abs(Math.log(sizes[one] / size)) ? at : one), 0);
  return [...new Set(factors.map((factor) => nearest(factor * disc)))];
}

/** A stroke along the middle of a region for a disc: the longest path through the pixels where the disc fits. */
function ridge({ away, peak, width, height }, diameter) {
  const start = peak.y * width + peak.x, room = Math.min(0.9 * (diameter / 2), 0.99 * away[start]);
  const farthest = (from) => {
    const before = new Map([[from, from]]), queue = [from];
    for (let first = 0; first < queue.length; first++) {
      for (const next of neighbours(queue[first], width, height)) {
        if (before.has(next) || away[next] < room) continue;
        before.set(next, queue[first]);
        queue.push(next);
      }
    }
    return { end: queue.at(-1), before };
  };
  const { end: one } = farthest(start), { end: other, before } = farthest(one);
  const path = [];
  for (let at = other; ; at = before.get(at)) {
    path.push({ x: at % width, y: Math.floor(at / width) });
    if (at === one) break;
  }
  return simplified(path, 1, false);
}

/** The outline of a region, along its own pixels. */
function contour({ list, width, height }) {
  const there = new Set(list), turns = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]];
  const [first] = list, has = (x, y) =>
    x >= 0 && y >= 0 && x < width && y < height && there.has(y * width + x);
  let [x, y, turn] = [first % width, Math.floor(first / width), 0];
  const path = [];
  do {
    path.push({ x, y });
    let tries = 0;
    turn = (turn + 5) % 8;
    while (tries++ < 8 && !has(x + turns[turn][0], y + turns[turn][1])) turn = (turn + 1) % 8;
    if (tries > 8) break;
    [x, y] = [x + turns[turn][0], y + turns[turn][1]];
  } while ((y * width + x !== first || path.length < 2) && path.length < 20000);
  return path;
}

/** The points of a line that are apart: a click on the first or the last one would close the line. */
function apart(path, room) {
  const far = (one, other) => Math.hypot(one.x - other.x, one.y - other.y) > room;
  return path.reduce((kept, each) => (kept.length && !(far(each, kept[0]) && far(each, kept.at(-1))) ? kept : [...kept, each]), []);
}

/** A line without the points that lie nearer to it than `error` (Douglas and Peucker, 1973). */
function simplified(path, error, closed = true) {
  if (path.length < 3) return path;
  const keep = (from, to) => {
    const [a, b] = [path[from], path[to]], length = Math.hypot(b.x - a.x, b.y - a.y);
    let [most, at] = [error, -1];
    for (let each = from + 1; each < to; each++) {
      const { x, y } = path[each];
      const away = length ? Math.abs((b.x - a.x) * (a.y - y) - (a.x - x) * (b.y - a.y)) / length : Math.hypot(x - a.x, y - a.y);
      if (away > most) [most, at] = [away, each];
    }
    return at < 0 ? [a] : [...keep(from, at), ...keep(at, to)];
  };
  const line = keep(0, path.length - 1);
  return closed && line.length > 1 ? line : [...line, path.at(-1)];
}
