// The canvas: the image with labels or a heat map over it, at screen resolution.

import { IGNORED } from "./mask.js";

const OUTLINE = 0xebffffff; // ABGR: white, nearly opaque
const HATCH = [0xc8c0e0e0, 0x96607070]; // ABGR: the colour of 255 in mask files, and half of it
const FINEST = 64; // maximum screen pixels per mask pixel

/** `#rrggbb` as ABGR, the byte order of a canvas. */
export function packed(colour, alpha) {
  const value = parseInt(colour.slice(1), 16);
  return ((alpha << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

/** Paint labels into the ABGR pixels of a screen box; `scale` and `origin` place the labels on the screen. */
export function paintLabels(target, box, map, scale, origin, colours, opacity) {
  const width = box.right - box.left;
  const columns = new Int32Array(width);
  for (let x = 0; x < width; x++) columns[x] = clamped((x + box.left + 0.5 - origin.x) / scale, map.width);
  const outline = opacity > 0 ? OUTLINE : 0;
  let above = -1;
  for (let y = box.top; y < box.bottom; y++) {
    const start = clamped((y + 0.5 - origin.y) / scale, map.height) * map.width;
    const line = (y - box.top) * width;
    for (let x = 0; x < width; x++) {
      const value = map.pixels[start + columns[x]];
      const left = x ? map.pixels[start + columns[x - 1]] : value;
      const upper = above < 0 ? value : map.pixels[above + columns[x]];
      const edge = (left !== value && left !== IGNORED) || (upper !== value && upper !== IGNORED);
      if (value === IGNORED) target[line + x] = opacity > 0 ? HATCH[((x + box.left + y) >> 2) & 1] : 0;
      else target[line + x] = edge ? outline : colours[value];
    }
    above = start;
  }
}

function clamped(value, length) {
  return Math.min(length - 1, Math.max(0, Math.floor(value)));
}

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.over = document.createElement("canvas");
    this.colours = new Uint32Array(256);
    this.opacity = 0.55;
    this.clear();
    new ResizeObserver(() => this.#resized()).observe(canvas.parentElement);
  }

  /** Clear the canvas. */
  clear() {
    this.image = this.map = this.heat = this.brush = null;
    this.size = { width: 1, height: 1 };
    this.scale = 1;
    this.origin = { x: 0, y: 0 };
    this.changed();
  }

  /** Show an image of `size` pixels; its picture may be reduced. */
  open(image, size) {
    this.image = image;
    this.size = size;
    this.fit();
  }

  /** Set the overlay: labels (`map`), a heat map (a canvas), or none. */
  lay({ map = null, heat = null } = {}) {
    this.map = map;
    this.heat = heat;
    this.changed();
  }

  setColours(classes) {
    this.classes = classes;
    this.colours.fill(0);
    for (const { id, colour } of classes) this.colours[id] = packed(colour, Math.round(255 * this.opacity));
    this.changed();
  }

  setOpacity(value) {
    this.opacity = value;
    this.setColours(this.classes);
  }

  /** Redraw at the next frame, with the labels. */
  changed() {
    this.stale = true;
    this.redraw();
  }

  /** Redraw at the next frame, with cached labels. */
  redraw() {
    this.frame ??= requestAnimationFrame(() => this.#draw());
  }

  /** Hide the overlay while a key is pressed. */
  hide(hidden) {
    if (hidden === this.hidden) return;
    this.hidden = hidden;
    this.redraw();
  }

  fit() {
    const margin = 12 * devicePixelRatio, { width, height } = this.canvas;
    const room = { x: Math.max(1, width - 2 * margin), y: Math.max(1, height - 2 * margin) };
    this.least = Math.min(room.x / this.size.width, room.y / this.size.height);
    this.scale = Math.min(FINEST, this.least);
    this.fitted = true;
    this.origin = { x: (width - this.size.width * this.scale) / 2, y: (height - this.size.height * this.scale) / 2 };
    this.changed();
  }

  /** Zoom by a factor around a point of the screen, by default the centre. */
  zoom(factor, at = { x: this.canvas.width / 2, y: this.canvas.height / 2 }) {
    const scale = Math.min(FINEST, Math.max(this.least / 2, this.scale * factor)), ratio = scale / this.scale;
    this.origin = { x: at.x - (at.x - this.origin.x) * ratio, y: at.y - (at.y - this.origin.y) * ratio };
    this.scale = scale;
    this.fitted = false;
    this.changed();
  }

  move(dx, dy) {
    this.origin.x += dx;
    this.origin.y += dy;
    this.fitted = false;
    this.changed();
  }

  /** The point of the screen under a pointer. */
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left) * devicePixelRatio, y: (event.clientY - box.top) * devicePixelRatio };
  }

  /** The mask pixel at a point of the screen; may be outside. */
  pixel(point) {
    return {
      x: Math.floor((point.x - this.origin.x) / this.scale), y: Math.floor((point.y - this.origin.y) / this.scale),
    };
  }

  /** Move the view so that a mask pixel is visible. */
  reveal({ x, y }) {
    const at = { x: this.origin.x + (x + 0.5) * this.scale, y: this.origin.y + (y + 0.5) * this.scale };
    const dx = Math.max(0, 20 - at.x) + Math.min(0, this.canvas.width - 20 - at.x);
    const dy = Math.max(0, 20 - at.y) + Math.min(0, this.canvas.height - 20 - at.y);
    if (dx || dy) this.move(dx, dy);
  }

  #resized() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const [width, height] = [clientWidth, clientHeight].map((side) => Math.max(1, Math.round(side * devicePixelRatio)));
    if (width === this.canvas.width && height === this.canvas.height) return;
    [this.canvas.width, this.canvas.height] = [width, height];
    if (this.fitted ?? true) this.fit();
    else this.changed();
  }

  #draw() {
    this.frame = undefined;
    if (this.announced !== this.scale) this.zoomed?.(this.scale / devicePixelRatio);
    this.announced = this.scale;
    const { context, scale, origin, size } = this, [width, height] = [size.width * scale, size.height * scale];
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image) return;
    context.imageSmoothingEnabled = scale < 2;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, origin.x, origin.y, width, height);
    if (this.heat && !this.hidden) {
      context.save();
      context.imageSmoothingEnabled = true;
      context.globalAlpha = this.opacity;
      context.drawImage(this.heat, origin.x, origin.y, width, height);
      context.restore();
    }
    if (this.map && !this.hidden) this.#drawLabels();
    if (this.line?.length) this.#drawLine();
    if (this.points?.length) this.#drawPoints();
    if (this.brush) this.#drawBrush();
  }

  /** The open line of the lasso, from its first point to the brush. */
  #drawLine() {
    const { context, origin, scale } = this;
    const points = [...this.line, this.brush ?? this.line.at(-1)];
    const places = points.map(({ x, y }) => [origin.x + (x + 0.5) * scale, origin.y + (y + 0.5) * scale]);
    context.beginPath();
    places.forEach(([x, y]) => context.lineTo(x, y));
    context.rect(places[0][0] - 3 * devicePixelRatio, places[0][1] - 3 * devicePixelRatio, 6 * devicePixelRatio, 6 * devicePixelRatio);
    for (const [width, colour] of [[3, "#000"], [1.25, "#ffd24a"]]) {
      context.lineWidth = width * devicePixelRatio;
      context.strokeStyle = colour;
      context.stroke();
    }
  }

  /** The points [x, y, label] of an object: a disc on it, a cross outside it. */
  #drawPoints() {
    const { context, origin, scale } = this, radius = 5 * devicePixelRatio;
    context.beginPath();
    for (const [x, y, label] of this.points) {
      const [column, row] = [origin.x + x * scale, origin.y + y * scale];
      if (label) {
        context.moveTo(column + radius, row);
        context.arc(column, row, radius, 0, 2 * Math.PI);
        continue;
      }
      for (const side of [-1, 1]) {
        context.moveTo(column - radius, row - side * radius);
        context.lineTo(column + radius, row + side * radius);
      }
    }
    for (const [width, colour] of [[5, "#000"], [2.5, "#ffd24a"]]) {
      context.lineWidth = width * devicePixelRatio;
      context.strokeStyle = colour;
      context.stroke();
    }
  }

  #drawLabels() {
    const { origin, scale, size, over } = this;
    const box = {
      left: Math.max(0, Math.round(origin.x)), top: Math.max(0, Math.round(origin.y)),
      right: Math.min(this.canvas.width, Math.round(origin.x + size.width * scale)),
      bottom: Math.min(this.canvas.height, Math.round(origin.y + size.height * scale)),
    };
    const [width, height] = [box.right - box.left, box.bottom - box.top];
    if (width < 1 || height < 1) return;
    if (this.stale || over.width !== width || over.height !== height) {
      [over.width, over.height] = [width, height];
      const pixels = new ImageData(width, height);
      // A map may be smaller than the image.
      const finer = (scale * size.width) / this.map.width;
      paintLabels(new Uint32Array(pixels.data.buffer), box, this.map, finer, origin, this.colours, this.opacity);
      over.getContext("2d").putImageData(pixels, 0, 0);
      this.stale = false;
    }
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(over, box.left, box.top);
  }

  #drawBrush() {
    const { context, origin, scale, brush } = this;
    const at = { x: origin.x + (brush.x + 0.5) * scale, y: origin.y + (brush.y + 0.5) * scale };
    const radius = Math.max(2, (brush.size / 2) * scale);
    context.lineWidth = 3 * devicePixelRatio;
    for (const colour of ["#000", brush.down ? "#ffd24a" : "#fff"]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(at.x, at.y, radius, 0, 2 * Math.PI);
      if (brush.keyboard) {
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          context.moveTo(at.x + dx * radius, at.y + dy * radius);
          context.lineTo(at.x + dx * (radius + 8 * devicePixelRatio), at.y + dy * (radius + 8 * devicePixelRatio));
        }
      }
      context.stroke();
      context.lineWidth = 1.25 * devicePixelRatio;
    }
  }
}
