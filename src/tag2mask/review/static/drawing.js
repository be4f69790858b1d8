// Brush, eraser and fill on the open mask, by pointer and keyboard.

import { speak } from "./elements.js";
import { SIZES } from "./mask.js";

export class Drawing {
  /** `target()` returns the mask to draw on, if any; `drawn(mask)` is called after a change. */
  constructor(view, panel, target, drawn) {
    this.view = view;
    this.panel = panel;
    this.target = target;
    this.drawn = drawn;
    this.tool = "brush";
    this.step = 4;
    this.spaced = false; // Space is pressed
    this.stroke = null; // {mask, last, pointer}
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
    if (this.stroke) {
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
    mask.begin();
    this.stroke = { mask, last: pixel, pointer };
    if (this.tool === "fill") {
      mask.fill(pixel.x, pixel.y, this.value);
      this.view.changed();
      this.finish();
    } else {
      this.#paint(pixel);
    }
  }

  #paint(pixel) {
    const { mask, last } = this.stroke;
    mask.line(last, pixel, this.size, this.value);
    this.stroke.last = pixel;
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
    if (this.stroke?.pointer === event.pointerId) {
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) this.#paint(this.view.pixel(this.view.point(each)));
    }
    if (!this.cursor) this.#show(pixel);
  }

  #up(event) {
    if (this.moved) this.moved = null;
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
    const size = this.tool === "fill" ? 1 : this.size;
    this.view.brush = pixel && { x: pixel.x, y: pixel.y, size, keyboard, down: Boolean(this.stroke) };
    this.view.redraw();
    const mask = this.target(), value = pixel && mask ? mask.at(pixel.x, pixel.y) : null;
    document.getElementById("readout").textContent =
      value === null ? "" : `x ${pixel.x}  y ${pixel.y}  ${this.panel.name(value)}`;
  }
}
