// The drawing tools on the open mask, by pointer and keyboard; two fingers move and zoom the image.

import { speak } from "./elements.js";
import { Adjustment } from "./tools/adjustment.js";
import { colours, enlarged } from "./tools/colours.js";
import { snapped } from "./tools/edge_brush.js";
import { inside, Lasso } from "./tools/lasso.js";
import { similar } from "./tools/wand.js";

/** Brush diameters on the screen, in CSS pixels: the brush paints finer where the image is zoomed in. */
export const SIZES = [2, 4, 8, 12, 18, 24, 36, 54, 80, 120, 180, 270, 400];

const POINTS = ["fill", "lasso", "wand", "object"]; // tools without a size

export class Drawing {
  /** `target()` returns the mask to draw on, if any; `drawn(mask)` is called after a change and shows it. */
  constructor(view, panel, target, drawn) {
    this.view = view;
    this.panel = panel;
    this.target = target;
    this.drawn = drawn;
    this.tool = "brush";
    this.step = 5;
    this.adjustment = new Adjustment();
    this.lasso = new Lasso(view, (points) => this.#lassoed(points));
    this.spaced = false; // Space is pressed
    this.objects = null; // set by the review
    this.stroke = null; // {mask, path, pointer, finger, back, outside}; `finger` is the point of the screen under a finger
    this.held = new Map(); // the points of the screen under the pointers that move the image, by pointer
    this.cursor = null; // pixel of the keyboard brush
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event, () => this.finish()));
    canvas.addEventListener("pointercancel", (event) => this.#up(event, () => this.#drop()));
    canvas.addEventListener("pointerleave", () => !this.stroke && !this.cursor && this.#show(null));
    canvas.addEventListener("contextmenu", (event) => this.tool === "object" && event.preventDefault());
    canvas.addEventListener("auxclick", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), view.point(event));
    }, { passive: false });
  }

  /** The diameter of the brush in pixels of the image; odd, so that a disc is centred on a pixel. */
  get size() {
    return 2 * Math.floor((SIZES[this.step] * devicePixelRatio) / this.view.scale / 2) + 1;
  }

  /** The painted class: the selected one, or background. */
  get value() {
    return this.tool === "eraser" ? 0 : this.panel.chosen;
  }

  choose(tool) {
    this.finish();
    this.lasso.drop();
    this.tool = tool;
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    document.getElementById("tolerance-label").hidden = tool !== "wand";
    this.objects.choose(tool === "object");
    this.#cursorStyle();
    this.refresh();
  }

  resize(step) {
    this.step = Math.min(SIZES.length - 1, Math.max(0, step));
    document.getElementById("size").value = this.step;
    this.sizeShown();
    this.refresh();
  }

  /** Show the size of the brush at the zoom of the view. */
  sizeShown() {
    document.getElementById("size-shown").textContent = `${this.size} px of the image`;
    if (this.view.brush) this.view.brush.size = this.#brushSize;
  }

  get #brushSize() {
    return POINTS.includes(this.tool) ? 1 : this.size;
  }

  /** Redraw the brush. */
  refresh() {
    if (this.view.brush) this.#show(this.view.brush, Boolean(this.cursor));
  }

  /** Move the keyboard brush; it paints if it is down. */
  nudge(dx, dy, fine) {
    const mask = this.target();
    if (!mask) return;
    const far = fine ? 1 : Math.max(1, Math.round(this.size / 2));
    const from = this.cursor ?? { x: mask.width >> 1, y: mask.height >> 1 };
    const to = {
      x: Math.min(mask.width - 1, Math.max(0, from.x + dx * far)),
      y: Math.min(mask.height - 1, Math.max(0, from.y + dy * far)),
    };
    this.cursor = to;
    if (this.stroke) this.#paint(to);
    this.view.reveal(to);
    this.#show(to, true);
    speak(`${to.x}, ${to.y}: ${this.panel.name(mask.at(to.x, to.y))}`);
  }

  /** Set the keyboard brush down, or lift it; `outside`: what is there is not part of the object. */
  press(outside = false) {
    const mask = this.target();
    if (!mask) return;
    if (this.tool === "hand") {
      speak("The hand does not paint: select the brush");
      return;
    }
    this.cursor ??= { x: mask.width >> 1, y: mask.height >> 1 };
    if (this.stroke) {
      this.finish();
      speak("Brush lifted");
    } else {
      this.#begin(mask, this.cursor, { outside });
      if (POINTS.includes(this.tool)) this.finish();
      const { length } = this.lasso.points;
      const done = length ? `Point ${length}` : this.tool === "object" ? "Point set" : "Filled";
      speak(this.stroke ? `Brush down: ${this.panel.name(this.value)}` : done);
    }
    this.#show(this.cursor, true);
  }

  /** End the current stroke. */
  finish() {
    const stroke = this.stroke;
    this.stroke = null;
    if (stroke) this.#end(stroke);
    if (this.view.brush) this.#show(this.view.brush, Boolean(this.cursor));
  }

  /** End the stroke and hide the keyboard brush. */
  reset() {
    this.finish();
    this.lasso.drop();
    this.objects.drop();
    this.cursor = null;
    this.#show(null);
  }

  /** End a stroke by its tool. */
  #end({ mask, path, outside }) {
    const last = path.at(-1);
    if (["lasso", "wand", "object"].includes(this.tool)) mask.cancel();
    if (this.tool === "lasso") this.lasso.up();
    if (this.tool === "wand") this.#clicked(mask, last);
    if (this.tool === "object") this.objects.up(path[0], last, outside);
    if (this.tool === "fill") mask.fill(last.x, last.y, this.value);
    if (this.tool === "edge") this.#snap(mask, path);
    if (mask.end()) this.drawn(mask);
  }

  /** Drop the current stroke, as if it had not begun. */
  #drop() {
    const stroke = this.stroke;
    this.stroke = null;
    if (!stroke) return;
    stroke.mask.cancel();
    if (this.tool === "lasso") this.lasso.back();
    if (this.tool === "object") this.objects.drag(stroke.path[0], stroke.path[0]);
    stroke.back?.();
    this.view.changed();
  }

  #begin(mask, pixel, { pointer = null, finger = null, outside = false } = {}) {
    const back = this.onBegin?.();
    mask.begin();
    this.stroke = { mask, path: [pixel], pointer, finger, back, outside };
    if (this.tool === "lasso") this.lasso.down(pixel);
    this.#paint(pixel);
  }

  /** Paint to a pixel; a region is filled at the end, since a second finger may still come down. */
  #paint(pixel) {
    if (this.tool === "lasso") this.lasso.move(pixel);
    if (this.tool === "object") {
      this.stroke.path[1] = pixel;
      this.objects.drag(this.stroke.path[0], pixel);
    }
    if (POINTS.includes(this.tool)) return;
    const { mask, path } = this.stroke;
    mask.line(path.at(-1), pixel, this.size, this.value);
    path.push(pixel);
    this.view.changed();
  }

  /** Limit a stroke to the edges of the image. */
  #snap(mask, path) {
    const box = mask.box(path, this.size / 2 + 1);
    mask.cancel();
    if (!box) return;
    mask.begin();
    const picture = colours(this.view.image, mask, box), { step } = picture, value = this.value;
    const points = path.map(({ x, y }) => ({ x: (x - box.left) / step, y: (y - box.top) / step }));
    const isPainted = (x, y) => mask.at(box.left + Math.floor(x * step), box.top + Math.floor(y * step)) === value;
    const selected = snapped(picture, points, this.size / step, isPainted);
    mask.paint(box, enlarged(selected, picture, box), value);
    this.view.changed();
  }

  /** A click of the wand begins another step. */
  #clicked(mask, pixel) {
    if (!mask.inside(pixel.x, pixel.y)) return;
    this.adjustment.end();
    this.#flood(pixel, this.value);
  }

  /** Change the tolerance of the wand; the region of its last click follows, unless the mask has changed since. */
  tolerate(tolerance) {
    this.tolerance = tolerance;
    if (this.flooded && this.adjustment.follows("wand", this.target())) this.#flood(...this.flooded);
  }

  #flood(pixel, value) {
    const mask = this.target(), box = { left: 0, top: 0, right: mask.width, bottom: mask.height };
    const picture = colours(this.view.image, mask, box), { step } = picture;
    const start = { x: Math.floor(pixel.x / step), y: Math.floor(pixel.y / step) };
    const selected = enlarged(similar(picture, start, this.tolerance), picture, box);
    this.flooded = [pixel, value];
    this.adjust("wand", () => mask.paint(box, selected, value));
  }

  /** Change the mask in one undo step, which a repetition with the same key replaces. */
  adjust(key, change) {
    const mask = this.target();
    if (this.adjustment.apply(key, mask, change)) this.drawn(mask);
  }

  #lassoed(points) {
    const mask = this.target(), box = mask.box(points, 0);
    if (!box) return;
    mask.begin();
    mask.paint(box, inside(points, box), this.value);
    points.forEach((point, index) => mask.line(points.at(index - 1), point, 1, this.value));
    if (mask.end()) this.drawn(mask);
  }

  #down(event) {
    const { canvas } = this.view, point = this.view.point(event), finger = event.pointerType === "touch" ? point : null;
    canvas.focus({ preventScroll: true });
    if (finger && this.stroke?.finger) { // the second finger: both move the image, and the first one has painted nothing
      this.held.set(this.stroke.pointer, this.stroke.finger);
      this.#drop();
    }
    const hand = this.spaced || this.tool === "hand" || (finger && this.held.size > 0);
    if (event.button === 1 || (event.button === 0 && hand)) {
      event.preventDefault();
      this.held.set(event.pointerId, point);
      this.#show(null);
    } else if (event.button === 0 || (event.button === 2 && this.tool === "object")) {
      const mask = this.target();
      if (!mask || this.stroke) return;
      this.cursor = null;
      const outside = event.shiftKey || event.button === 2;
      this.#begin(mask, this.view.pixel(point), { pointer: event.pointerId, finger, outside });
    } else {
      return;
    }
    canvas.setPointerCapture(event.pointerId);
    this.#cursorStyle();
  }

  #move(event) {
    const point = this.view.point(event);
    if (this.held.has(event.pointerId)) {
      const before = grip(this.held);
      this.held.set(event.pointerId, point);
      const after = grip(this.held);
      this.view.move(after.x - before.x, after.y - before.y);
      if (before.spread > 0 && after.spread > 0) this.view.zoom(after.spread / before.spread, after);
      return;
    }
    const pixel = this.view.pixel(point);
    if (this.stroke?.pointer === event.pointerId) {
      if (this.stroke.finger) this.stroke.finger = point;
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) this.#paint(this.view.pixel(this.view.point(each)));
    }
    if (!this.cursor) this.#show(pixel);
  }

  #up(event, end) {
    if (!this.held.delete(event.pointerId) && this.stroke?.pointer === event.pointerId) end();
    this.#cursorStyle();
  }

  hold(space) {
    this.spaced = space;
    this.#cursorStyle();
  }

  #cursorStyle() {
    this.view.canvas.dataset.hand = this.held.size ? "grabbing" : this.spaced || this.tool === "hand" ? "grab" : "";
  }

  #show(pixel, keyboard = false) {
    const brush = pixel && { x: pixel.x, y: pixel.y, size: this.#brushSize, keyboard, down: Boolean(this.stroke) };
    this.view.brush = this.tool === "hand" ? null : brush;
    this.view.redraw();
    const mask = this.target(), value = pixel && mask ? mask.at(pixel.x, pixel.y) : null;
    document.getElementById("readout").textContent =
      value === null ? "" : `x ${pixel.x}  y ${pixel.y}  ${this.panel.name(value)}`;
  }
}

/** The centre of points, and their mean distance from it. */
function grip(points) {
  const all = [...points.values()], mean = (values) => values.reduce((sum, each) => sum + each, 0) / all.length;
  const [x, y] = [mean(all.map((each) => each.x)), mean(all.map((each) => each.y))];
  return { x, y, spread: mean(all.map((each) => Math.hypot(each.x - x, each.y - y))) };
}
