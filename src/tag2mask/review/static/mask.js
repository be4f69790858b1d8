// An editable mask: class ids, one byte per pixel, and the undo history as patches.

export const IGNORED = 255;

const HISTORY = 256 * 1024 * 1024; // bytes of the undo history

export class Mask {
  /** A copy of `pixels`, which nobody modifies, or background. */
  constructor(width, height, pixels = null) {
    this.width = width;
    this.height = height;
    this.pixels = pixels ? pixels.slice() : new Uint8Array(width * height);
    this.earlier = this.pixels.slice(); // the pixels before the current change
    this.counts = new Int32Array(256); // pixels of each class
    for (let index = 0; index < this.pixels.length; index++) this.counts[this.pixels[index]]++;
    this.undone = [];
    this.done = [];
    this.stroke = null;
    this.settled = pixels ?? new Uint8Array(width * height);
    this.different = 0; // pixels that differ from `settled`
  }

  /** Make the current pixels those that `differs` compares with. */
  settle() {
    this.settled = this.pixels.slice();
    this.different = 0;
  }

  /** Whether any pixel is another than at the last `settle`. */
  get differs() {
    return this.different > 0;
  }

  /** The classes of the mask. */
  get present() {
    return [...this.counts.keys()].filter((value) => this.counts[value]);
  }

  at(x, y) {
    return this.inside(x, y) ? this.pixels[y * this.width + x] : null;
  }

  inside(x, y) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  /** Begin a change; everything until `end` is one undo step. */
  begin() {
    this.stroke = { box: null };
  }

  /** Drop the current change. */
  cancel() {
    const { box } = this.stroke ?? {};
    this.stroke = null;
    if (box) paste(this.pixels, this.width, box, cut(this.earlier, this.width, box));
  }

  /** End a change; returns whether any pixel changed. */
  end() {
    const { box } = this.stroke ?? {};
    this.stroke = null;
    if (!box) return false;
    const patch = { ...box, before: cut(this.earlier, this.width, box), after: cut(this.pixels, this.width, box) };
    if (!this.#count(patch, "before", "after")) return false;
    this.done.push(patch);
    this.undone = [];
    let kept = this.done.reduce((sum, each) => sum + 2 * each.after.length, 0);
    while (kept > HISTORY && this.done.length > 1) kept -= 2 * this.done.shift().after.length;
    return true;
  }

  /** Paint a line with a disc: each pixel whose centre is closer to the line than the radius. */
  line(from, to, diameter, value) {
    if (!this.stroke) return; // only within a change
    const radius = diameter / 2, box = this.box([from, to], radius);
    if (!box) return;
    for (let y = box.top; y < box.bottom; y++) {
      const [left, right] = closer(from, to, radius, y);
      const [first, end] = [Math.max(box.left, Math.ceil(left)), Math.min(box.right, Math.floor(right) + 1)];
      if (first < end) this.pixels.fill(value, y * this.width + first, y * this.width + end);
    }
    this.#touch(box);
  }

  /** Fill the 4-connected region of one class with another class. */
  fill(x, y, value) {
    const old = this.at(x, y);
    if (!this.stroke || old === null || old === value) return;
    const { width, height, pixels } = this;
    const box = { left: x, right: x + 1, top: y, bottom: y + 1 };
    const waiting = [[x, y]];
    while (waiting.length) {
      const [column, row] = waiting.pop();
      const start = row * width;
      if (pixels[start + column] !== old) continue;
      let left = column, right = column;
      while (left > 0 && pixels[start + left - 1] === old) left--;
      while (right < width - 1 && pixels[start + right + 1] === old) right++;
      pixels.fill(value, start + left, start + right + 1);
      box.left = Math.min(box.left, left);
      box.right = Math.max(box.right, right + 1);
      box.top = Math.min(box.top, row);
      box.bottom = Math.max(box.bottom, row + 1);
      for (const next of [row - 1, row + 1]) {
        if (next < 0 || next >= height) continue;
        for (let each = left; each <= right; each++) {
          const fresh = pixels[next * width + each] === old;
          if (fresh && (each === left || pixels[next * width + each - 1] !== old)) waiting.push([each, next]);
        }
      }
    }
    this.#touch(box);
  }

  /** Copy another mask of the same size. */
  replace(pixels) {
    if (!this.stroke) return;
    this.pixels.set(pixels);
    this.#touch({ left: 0, top: 0, right: this.width, bottom: this.height });
  }

  /** Paint the pixels of a box that are selected, one byte per pixel of the box. */
  paint(box, selected, value) {
    const width = box.right - box.left;
    for (let y = box.top; y < box.bottom; y++) {
      const row = (y - box.top) * width - box.left;
      for (let x = box.left; x < box.right; x++) if (selected[row + x]) this.pixels[y * this.width + x] = value;
    }
    this.#touch(box);
  }

  /** The box around points with a margin, inside the mask; null if there is nothing of it inside. */
  box(points, margin) {
    const [columns, rows] = [points.map(({ x }) => x), points.map(({ y }) => y)];
    const least = (values) => Math.floor(values.reduce((one, other) => Math.min(one, other)) - margin);
    const most = (values) => Math.ceil(values.reduce((one, other) => Math.max(one, other)) + margin) + 1;
    return this.#clipped(least(columns), least(rows), most(columns), most(rows));
  }

  /** Drop the undo history. */
  forget() {
    this.done = [];
    this.undone = [];
  }

  undo() {
    return this.#move(this.done, this.undone, "after", "before");
  }

  redo() {
    return this.#move(this.undone, this.done, "before", "after");
  }

  #move(from, to, old, fresh) {
    const patch = from.pop();
    if (!patch) return false;
    paste(this.pixels, this.width, patch, patch[fresh]);
    this.#count(patch, old, fresh);
    to.push(patch);
    return true;
  }

  /** Bring the counts and `earlier` up to date with a patch; returns whether any pixel changed. */
  #count(patch, old, fresh) {
    const { counts, settled, width } = this, { left, right, top, bottom, [old]: before, [fresh]: after } = patch;
    let changed = false;
    for (let y = top, index = 0; y < bottom; y++) {
      for (let at = y * width + left; at < y * width + right; at++, index++) {
        if (before[index] === after[index]) continue;
        changed = true;
        counts[before[index]]--;
        counts[after[index]]++;
        this.different += (after[index] !== settled[at]) - (before[index] !== settled[at]);
      }
    }
    paste(this.earlier, width, patch, after);
    return changed;
  }

  #clipped(left, top, right, bottom) {
    const box = {
      left: Math.max(0, left), top: Math.max(0, top),
      right: Math.min(this.width, right), bottom: Math.min(this.height, bottom),
    };
    return box.left < box.right && box.top < box.bottom ? box : null;
  }

  #touch(box) {
    const old = this.stroke.box;
    this.stroke.box = !old ? { ...box } : {
      left: Math.min(old.left, box.left), top: Math.min(old.top, box.top),
      right: Math.max(old.right, box.right), bottom: Math.max(old.bottom, box.bottom),
    };
  }
}

/** The first and the last x of a row that are closer to a line than the radius; the set is convex. */
function closer(from, to, radius, y) {
  let [left, right] = [Infinity, -Infinity];
  const add = (low, high) => ([left, right] = [Math.min(left, low), Math.max(right, high)]);
  for (const end of [from, to]) { // the discs at its ends
    const half = Math.sqrt(radius * radius - (y - end.y) ** 2);
    if (half >= 0) add(end.x - half, end.x + half);
  }
  const [dx, dy, down] = [to.x - from.x, to.y - from.y, y - from.y], length = Math.hypot(dx, dy);
  let [low, high] = [-Infinity, Infinity]; // between them: bounds of factor · (x − from.x) across and along the line
  for (const [factor, least, most] of [
    [dy, dx * down - radius * length, dx * down + radius * length], [dx, -dy * down, length * length - dy * down],
  ]) {
    if (factor) {
      const ends = [least / factor, most / factor];
      [low, high] = [Math.max(low, Math.min(...ends)), Math.min(high, Math.max(...ends))];
    } else if (least > 0 || most < 0) {
      return [left, right];
    }
  }
  if (length && low <= high) add(from.x + low, from.x + high);
  return [left, right];
}

/** The pixels of a box. */
function cut(pixels, width, { left, top, right, bottom }) {
  const patch = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) {
    patch.set(pixels.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  }
  return patch;
}

/** Write pixels into a box. */
function paste(pixels, width, { left, top, right, bottom }, patch) {
  for (let y = top; y < bottom; y++) {
    pixels.set(patch.subarray((y - top) * (right - left), (y - top + 1) * (right - left)), y * width + left);
  }
}
