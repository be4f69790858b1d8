// The object under a click or in a box, which a model of the server finds.

import { get, getMap } from "../api.js";
import { showNote, showTrouble } from "../state.js";

const DRAG = 6; // CSS pixels on the screen from which a press is a box

const find = (name) => document.getElementById(name);

/** The prompts of an object are asked about one after the other; each answer replaces the last one of its object. */
export class Objects {
  constructor(review) {
    Object.assign(this, { review, view: review.view, drawing: review.drawing });
    this.on = false; // whether the tool is selected
    this.object = null; // {open, value, points, box, painted}: clicks refine it
    this.waiting = []; // objects with prompts that nobody has asked about
    find("outside").addEventListener("click", () => this.#take(!this.outside));
    find("next-object").addEventListener("click", () => this.next());
    this.#take(false);
  }

  /** Select the tool, or another one. */
  choose(on) {
    this.on = on;
    for (const name of ["object-buttons", "object-state"]) find(name).hidden = !on;
    this.drop();
    this.work();
  }

  /** Show the box while it is drawn. */
  drag(from, to) {
    this.view.line = this.#isBox(from, to) ? [to, { x: from.x, y: to.y }, from, { x: to.x, y: from.y }] : [];
    this.view.redraw();
  }

  /** A press from one pixel of the mask to another: a click, or a box that begins another object. */
  up(from, to, outside) {
    const mask = this.drawing.target(), label = outside || this.outside ? 0 : 1;
    this.drag(from, from);
    if (this.refused) showTrouble(""); // of the last click
    this.refused = false;
    if (this.#isBox(from, to)) {
      const box = mask.box([from, to], 0);
      if (!box) return;
      this.#begin([], [box.left, box.top, box.right, box.bottom]);
    } else {
      if (!mask.inside(from.x, from.y)) return;
      const point = [from.x + 0.5, from.y + 0.5, label];
      if (this.#follows(this.object)) this.object.points.push(point);
      else if (label) this.#begin([point]);
      else {
        showNote("Click the object first, then what is not part of it.");
        return;
      }
    }
    if (!this.waiting.includes(this.object)) this.waiting.push(this.object);
    this.#show();
    this.work();
  }

  /** The next click begins another object. */
  next() {
    this.object = null;
    this.#take(false);
    this.#show();
  }

  /** Also forget the clicks without an answer; returns whether there were any. */
  drop() {
    const waited = this.waiting.length > 0 || Boolean(this.asked);
    this.waiting = [];
    this.asked = null;
    this.refused = false;
    this.next();
    return waited;
  }

  #begin(points, box = null) {
    this.object = { open: this.review.open, value: this.drawing.value, points, box, painted: false };
    this.#take(false);
  }

  /** Whether clicks refine an object: nothing else has changed the mask since it was painted. */
  #follows(object) {
    return Boolean(object) && (!object.painted || this.drawing.adjustment.follows(object, this.drawing.target()));
  }

  /** Ask the server for one thing after the other: the encoding of the open image, then the prompts. */
  async work() {
    if (this.busy) return;
    this.busy = true;
    for (let task; (task = this.#task()); ) {
      const { open } = this.review;
      try {
        await task();
      } catch (error) {
        if (open !== this.review.open) continue; // of an image that is closed
        this.drop();
        this.refused = true;
        showTrouble(error.message);
      }
    }
    this.busy = false;
    this.#show();
  }

  /** The next request, if any. */
  #task() {
    const { open } = this.review;
    this.reading = this.on && open?.mask && this.encoded !== open;
    if (this.reading) {
      this.encoded = open;
      this.#show();
      return () => get(`api/images/${open.index}/encoding?${new URLSearchParams({ of: open.image_version })}`);
    }
    this.asked = this.waiting.shift();
    this.#show();
    return this.asked && (() => this.#ask(this.asked));
  }

  async #ask(object) {
    const { open: { index, image_version: of }, points, box } = object;
    const query = new URLSearchParams({ of, points: JSON.stringify(points), box: JSON.stringify(box ?? []) });
    const { width, height, pixels } = await getMap(`api/images/${index}/object?${query}`);
    if (this.asked !== object || object.open !== this.review.open || !this.#follows(object)) return;
    if (!pixels.includes(1)) showNote("The model finds no object there.");
    object.painted = true;
    const whole = { left: 0, top: 0, right: width, bottom: height };
    this.drawing.adjust(object, () => this.drawing.target().paint(whole, pixels, object.value));
  }

  #isBox(from, to) {
    return Math.hypot(to.x - from.x, to.y - from.y) * this.view.scale > DRAG * devicePixelRatio;
  }

  #take(outside) {
    this.outside = outside;
    find("outside").setAttribute("aria-pressed", String(outside));
  }

  /** Show the state of the tool, and the points of the object. */
  #show() {
    const open = this.#follows(this.object);
    const text = this.reading ? "Reading the image …" : this.asked ? "Looking for the object …"
      : open ? "Click what is missing. Shift + click what is too much. Esc: next object." : "Click an object, or drag a box around it.";
    if (find("object-state").textContent !== text) find("object-state").textContent = text;
    this.view.canvas.dataset.busy = this.on && (this.reading || this.asked) ? "busy" : "";
    this.view.points = open ? this.object.points : [];
    this.view.redraw();
  }
}
