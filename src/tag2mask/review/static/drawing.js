// The drawing tools on the open mask, by pointer and keyboard.

import { speak } from "./elements.js";
import { SIZES } from "./mask.js";
import { Adjustment } from "./tools/adjustment.js";
import { colours, enlarged } from "./tools/colours.js";
import { snapped } from "./tools/edge_brush.js";
import { inside, Lasso } from "./tools/lasso.js";
import { similar } from "./tools/wand.js";

export class Drawing {
  /** `target()` returns the mask to draw on, if any; `drawn(mask)` is called after a change. */
  constructor(view, panel, target, drawn) {
    this.view = view;
    this.panel = panel;
    this.target = target;
    this.drawn = drawn;
    this.tool = "brush";
    this.step = 4;
    this.tolerance = 24; // of the wand
    this.adjustment = new Adjustment();
    this.lasso = new Lasso(view, (points) => this.#lassoed(points));
    this.spaced = false; // Space is pressed
    this.stroke = null; // {mask, path, pointer}
    this.moved = null; // the last point of a drag
    this.cursor = null; // pixel of the keyboard brush
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => !this.stroke && !this.cursor && this.#show(null));
    canvas.addEventListener("auxclick", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), view.point(event));
    }, { passive: false });
  }

  get size() {
    return SIZES[this.step];
  }

  /** The painted class: the selected one, or background. */
  get value() {
    return this.tool === "eraser" ? 0 : this.panel.chosen;
  }

  choose(tool) {
    this.finish();
    this.tool = tool;
    for (const button of document.querySelectorAll("[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    document.getElementById("tolerance-label").hidden = tool !== "wand";
    this.refresh();
  }

  resize(step) {
    this.step = Math.min(SIZES.length - 1, Math.max(0, step));
    document.getElementById("size").value = this.step;
    document.getElementById("size-shown").textContent = `${this.size} px`;
    this.refresh();
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

  /** Set the keyboard brush down, or lift it. */
  press() {
    const mask = this.target();
    if (!mask) return;
    this.cursor ??= { x: mask.width >> 1, y: mask.height >> 1 };
    if (this.tool === "lasso") {
      this.#begin(mask, this.cursor, null);
      this.lasso.held = null;
      speak(this.lasso.points.length ? `Point ${this.lasso.points.length}` : "Filled");
    } else if (this.stroke) {
      this.finish();
      speak("Brush lifted");
    } else {
      this.#begin(mask, this.cursor, null);
      speak(this.stroke ? `Brush down: ${this.panel.name(this.value)}` : "Filled");
    }
    this.#show(this.cursor, true);
  }

  /** End the current stroke. */
  finish() {
    const stroke = this.stroke;
    this.stroke = null;
    this.lasso.drop();
    if (stroke && this.tool === "edge") this.#snap(stroke);
    if (stroke && stroke.mask.end()) this.drawn(stroke.mask);
    if (this.view.brush) this.#show(this.view.brush, Boolean(this.cursor));
  }

  /** End the stroke and hide the keyboard brush. */
  reset() {
    this.finish();
    this.cursor = null;
    this.#show(null);
  }

  #begin(mask, pixel, pointer) {
    this.onBegin?.();
    if (this.tool === "lasso") {
      this.lasso.down(pixel);
      return;
    }
    if (this.tool === "wand") {
      this.spot = mask.inside(pixel.x, pixel.y) ? { ...pixel } : null;
      this.adjustment.key = null; // another click is another step
      this.wand();
      return;
    }
    mask.begin();
    this.stroke = { mask, path: [pixel], pointer };
    if (this.tool === "fill") {
      mask.fill(pixel.x, pixel.y, this.value);
      this.view.changed();
      this.finish();
    } else {
      this.#paint(pixel);
    }
  }

  #paint(pixel) {
    const { mask, path } = this.stroke;
    mask.line(path.at(-1), pixel, this.size, this.value);
    path.push(pixel);
    this.view.changed();
  }

  /** Limit a stroke to the edges of the image. */
  #snap({ mask, path }) {
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

  /** Paint the region of similar colour around the last click of the wand, again after a change of the tolerance. */
  wand() {
    const mask = this.target(), { spot, value } = this;
    if (!mask || !spot) return;
    const box = { left: 0, top: 0, right: mask.width, bottom: mask.height };
    const picture = colours(this.view.image, mask, box);
    const start = { x: Math.floor(spot.x / picture.step), y: Math.floor(spot.y / picture.step) };
    const selected = enlarged(similar(picture, start, this.tolerance), picture, box);
    this.adjust("wand", (changed) => changed.paint(box, selected, value));
  }

  /** Change the mask in one undo step, which a repetition with the same key replaces. */
  adjust(key, change) {
    const mask = this.target();
    if (!mask || !this.adjustment.apply(key, mask, change)) return;
    this.view.changed();
    this.drawn(mask);
  }

  #lassoed(points) {
    const mask = this.target(), box = mask?.box(points, 0);
    if (!box) return;
    mask.begin();
    mask.paint(box, inside(points, box), this.value);
    points.forEach((point, index) => mask.line(points.at(index - 1), point, 1, this.value));
    if (mask.end()) this.drawn(mask);
    this.view.changed();
  }

  #down(event) {
    this.view.canvas.focus({ preventScroll: true });
    const point = this.view.point(event);
    if (event.button === 1 || (event.button === 0 && this.spaced)) {
      event.preventDefault();
      this.moved = point;
    } else if (event.button === 0) {
      const mask = this.target();
      if (!mask || this.stroke) return;
      this.cursor = null;
      this.#begin(mask, this.view.pixel(point), event.pointerId);
    } else {
      return;
    }
    this.view.canvas.setPointerCapture(event.pointerId);
    this.#cursorStyle();
  }

  #move(event) {
    const point = this.view.point(event);
    if (this.moved) {
      this.view.move(point.x - this.moved.x, point.y - this.moved.y);
      this.moved = point;
      return;
    }
    const pixel = this.view.pixel(point);
    if (this.lasso.held) this.lasso.move(pixel);
    if (this.stroke?.pointer === event.pointerId) {
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) this.#paint(this.view.pixel(this.view.point(each)));
    }
    if (!this.cursor) this.#show(pixel);
  }

  #up(event) {
    if (this.moved) this.moved = null;
    else if (this.tool === "lasso") this.lasso.up();
    else if (this.stroke?.pointer === event.pointerId) this.finish();
    this.#cursorStyle();
  }

  hold(space) {
    this.spaced = space;
    this.#cursorStyle();
  }

  #cursorStyle() {
    this.view.canvas.dataset.hand = this.moved ? "grabbing" : this.spaced ? "grab" : "";
  }

  #show(pixel, keyboard = false) {
    const size = ["fill", "lasso", "wand"].includes(this.tool) ? 1 : this.size;
    this.view.brush = pixel && { x: pixel.x, y: pixel.y, size, keyboard, down: Boolean(this.stroke) };
    this.view.redraw();
    const mask = this.target(), value = pixel && mask ? mask.at(pixel.x, pixel.y) : null;
    document.getElementById("readout").textContent =
      value === null ? "" : `x ${pixel.x}  y ${pixel.y}  ${this.panel.name(value)}`;
  }
}
