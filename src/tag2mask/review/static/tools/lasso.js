// The lasso: a closed line, drawn freely or from point to point, whose inside is painted.

const NEAR = 10; // CSS pixels on the screen: a point on another one

export class Lasso {
  /** `closed(points)` is called with the pixels of a closed line. */
  constructor(view, closed) {
    this.view = view;
    this.closed = closed;
    this.points = [];
  }

  /** Begin a line, add a point, or close the line on its first or last point when the pointer goes up. */
  down(pixel) {
    const { points } = this;
    this.held = points.length === 0 ? pixel : null;
    this.closing = points.length > 2 && [points[0], points.at(-1)].some((point) => this.#near(pixel, point));
    if (!this.closing) this.#add(pixel);
  }

  /** Draw on while the pointer that began the line is down. */
  move(pixel) {
    if (this.held) this.#add(pixel);
  }

  /** Drop what was drawn since the pointer came down. */
  back() {
    if (!this.closing) this.points = this.held ? [] : this.points.slice(0, -1);
    this.held = null;
    this.#show();
  }

  /** Close a line that was drawn in one stroke, too; a single point stays open. */
  up() {
    const { points, held, closing } = this;
    this.held = null;
    if (!closing && !(held && points.some((point) => !this.#near(point, held)))) return;
    this.drop();
    this.closed(points);
  }

  /** Remove the open line; returns whether there was one. */
  drop() {
    const open = this.points.length > 0;
    this.points = [];
    this.#show();
    return open;
  }

  #add({ x, y }) {
    const last = this.points.at(-1);
    if (last?.x !== x || last?.y !== y) this.points.push({ x, y });
    this.#show();
  }

  #near(one, other) {
    return Math.hypot(one.x - other.x, one.y - other.y) * this.view.scale < NEAR * devicePixelRatio;
  }

  #show() {
    this.view.line = this.points;
    this.view.redraw();
  }
}

/** The pixels whose centre is inside a closed line (non-zero winding), one byte per pixel of the box. */
export function inside(points, { left, top, right, bottom }) {
  const width = right - left, region = new Uint8Array(width * (bottom - top));
  for (let y = top; y < bottom; y++) {
    const crossings = [];
    points.forEach((from, index) => {
      const to = points[(index + 1) % points.length];
      if (from.y <= y === to.y <= y) return;
      crossings.push({ x: from.x + ((y - from.y) * (to.x - from.x)) / (to.y - from.y), turn: from.y < to.y ? 1 : -1 });
    });
    crossings.sort((one, other) => one.x - other.x);
    let winding = 0;
    crossings.forEach(({ x, turn }, index) => {
      winding += turn;
      if (!winding) return;
      const [start, end] = [Math.ceil(x), Math.floor(crossings[index + 1].x) + 1];
      const row = (y - top) * width - left;
      region.fill(1, row + Math.max(left, start), row + Math.max(left, Math.min(right, end)));
    });
  }
  return region;
}
