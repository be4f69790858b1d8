// An editable mask: class ids, one byte per pixel, and the undo history as patches.

export const IGNORED = 255;

/** Brush diameters in pixels; odd, so that a disc is centred on a pixel. */
export const SIZES = [1, 3, 5, 9, 15, 25, 41, 65, 101, 161, 251, 401];

const HISTORY = 256 * 1024 * 1024; // bytes of the undo history

export class Mask {
  /** A copy of `pixels`, or background. */
  constructor(width, height, pixels = null) {
    this.width = width;
    this.height = height;
    this.pixels = pixels ? pixels.slice() : new Uint8Array(width * height);
    this.undone = [];
    this.done = [];
    this.stroke = null;
  }

  at(x, y) {
    return this.inside(x, y) ? this.pixels[y * this.width + x] : null;
  }

  inside(x, y) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  /** Begin a change; everything until `end` is one undo step. */
  begin() {
    this.stroke = { before: this.pixels.slice(), box: null };
  }

  /** End a change; returns whether any pixel changed. */
  end() {
    const { before, box } = this.stroke ?? {};
    this.stroke = null;
    if (!box) return false;
    const patch = { ...box, before: cut(before, this.width, box), after: cut(this.pixels, this.width, box) };
    if (patch.before.every((value, index) => value === patch.after[index])) return false;
    this.done.push(patch);
    this.undone = [];
    let kept = this.done.reduce((sum, each) => sum + 2 * each.after.length, 0);
    while (kept > HISTORY && this.done.length > 1) kept -= 2 * this.done.shift().after.length;
    return true;
  }

  /** Paint a line with a disc: each pixel whose centre is closer to the line than the radius. */
  line(from, to, diameter, value) {
    if (!this.stroke) return; // only within a change
    const radius = diameter / 2, limit = radius * radius;
    const box = this.box([from, to], radius);
    if (!box) return;
    const [dx, dy] = [to.x - from.x, to.y - from.y], length = dx * dx + dy * dy;
    for (let y = box.top; y < box.bottom; y++) {
      for (let x = box.left; x < box.right; x++) {
        const along = length ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / length)) : 0;
        const [awayX, awayY] = [x - from.x - along * dx, y - from.y - along * dy];
        if (awayX * awayX + awayY * awayY < limit) this.pixels[y * this.width + x] = value;
      }
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

  /** Drop the current change. */
  cancel() {
    if (this.stroke?.box) this.pixels.set(this.stroke.before);
    this.stroke = null;
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

  undo() {
    return this.#move(this.done, this.undone, "before");
  }

  redo() {
    return this.#move(this.undone, this.done, "after");
  }

  #move(from, to, side) {
    const patch = from.pop();
    if (!patch) return false;
    const width = patch.right - patch.left;
    for (let y = patch.top; y < patch.bottom; y++) {
      const row = patch[side].subarray((y - patch.top) * width, (y - patch.top + 1) * width);
      this.pixels.set(row, y * this.width + patch.left);
    }
    to.push(patch);
    return true;
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

/** The pixels of a box. */
function cut(pixels, width, { left, top, right, bottom }) {
  const patch = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) {
    patch.set(pixels.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  }
  return patch;
}
