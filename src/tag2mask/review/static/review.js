// The state of the page: the open image, its decision, and the undo history of decisions.

import { getMap } from "./api.js";
import { Drawing } from "./drawing.js";
import { List } from "./list.js";
import { Mask } from "./mask.js";
import { isMask, Navigation } from "./navigation.js";
import { Panel } from "./panel.js";
import { Saver } from "./saver.js";
import { Layers } from "./layers.js";
import { showNote, showProgress, showSaving, showTitle, showTrouble, showVerdict } from "./state.js";
import { Correct } from "./tools/correct.js";
import { Objects } from "./tools/object.js";
import { View } from "./view.js";

const find = (name) => document.getElementById(name);
const LOOK = 500; // milliseconds that an image is on the screen before it can be decided: a double click decides once
const HISTORY = 256 * 1024 * 1024; // bytes of masks in the undo history of decisions

export class Review {
  constructor(settings) {
    this.total = settings.total;
    this.view = new View(find("canvas"));
    this.view.setColours(settings.classes);
    this.panel = new Panel(settings.classes, () => this.#classChosen(), (tags) => this.#tagged(tags));
    this.layers = new Layers(this.view, this.panel, settings.heat, (layer) => this.#layerShown(layer));
    this.layers.failed = showTrouble;
    this.drawing = new Drawing(this.view, this.panel, () => this.open?.mask, (mask) => this.#drawn(mask));
    this.drawing.onBegin = () => this.#showMask();
    this.drawing.objects = new Objects(this);
    this.correct = new Correct(this, showNote);
    const refused = (index) => this.list.update(index, { unsaved: true });
    this.saver = new Saver((...answer) => this.#stored(...answer), refused, showSaving);
    this.list = new List(settings, {
      chosen: (item) => this.navigation.show(item), counted: (counts) => showProgress(this.total, counts),
      pending: ({ index }) => this.saver.unstored(index), open: () => this.open,
    });
    this.list.changed = () => this.listChanged();
    this.list.failed = showTrouble;
    this.navigation = new Navigation(this.list, this.saver, {
      leave: (item) => this.#leave(item), opened: (...content) => this.#opened(...content),
      failed: (item, error) => this.#failed(item, error), say: showNote,
    });
    this.view.zoomed = (scale) => {
      find("zoom").textContent = `${Math.round(100 * scale)} %`;
      this.drawing.sizeShown();
    };
    this.before = []; // undo history: {index, id, of, verdict, pixels}
    showProgress(this.total, settings.counts);
  }

  /** End the work on the open image. */
  #leave(item) {
    this.drawing.reset();
    this.saver.flush();
    this.open = null;
    this.#readyShown(false);
    this.list.mark(item.index);
  }

  #failed(item, error) {
    if (error.status === 0 || error.status === 403) this.#stay(); // the server has ended, or is another one
    else this.#unopened(item);
    showTrouble(error.message);
  }

  /** Keep the image that is on the screen, with its drawing. */
  #stay() {
    const { last } = this;
    this.open = last;
    if (!last) return;
    this.navigation.rank = last.rank;
    this.list.mark(last.index);
    this.#await();
  }

  /** Show that an image could not be opened; then nothing is drawn or decided. */
  #unopened({ id = "" }) {
    this.last = null;
    showTitle(id, null, "This image could not be opened.");
    find("verdict").textContent = "";
    this.view.clear();
    this.panel.open([], [], []);
  }

  async go(step) {
    this.drawing.finish();
    await this.navigation.go(step);
  }

  async nextUndecided() {
    this.drawing.finish();
    await this.navigation.nextUndecided();
  }

  /** Accept the mask. */
  async accept() {
    const { open } = this;
    if (!this.#canDecide()) return;
    if (!open.mask) {
      showNote("There is no mask to accept: this image cannot be read.");
    } else if (!open.start && !open.drawn) {
      showNote("There is no mask to accept: draw one, or use a layer as the mask.");
    } else {
      const good = open.verdict === "accepted" || open.verdict === "corrected";
      await this.#decideAndLeave(good ? open.verdict : open.drawn ? "corrected" : "accepted");
    }
  }

  /** Reject the mask. */
  async reject() {
    if (this.#canDecide() && !this.#hidesMask()) await this.#decideAndLeave("rejected");
  }

  /** Whether a mask by hand is stored that cannot be shown, so that another decision would lose it. */
  #hidesMask() {
    const { mask, kept, start } = this.open;
    const hidden = !mask && !kept && start === "correction";
    if (hidden) showNote("The mask by hand cannot be shown, and would be lost: repair the image, then reload the page.");
    return hidden;
  }

  /** Whether the mask of the open image has been on the screen for a moment; if another layer is shown, show the mask. */
  #canDecide() {
    this.drawing.finish();
    if (!this.ready) return false;
    if (this.open.mask && this.#showMask()) {
      showNote("This is the mask that you decide about: press again.");
      this.#await();
      return false;
    }
    return true;
  }

  async #decideAndLeave(verdict) {
    const { open } = this;
    this.drawing.objects.drop();
    this.#readyShown(false); // no second decision on the way to the next image
    if (open.verdict !== verdict) {
      this.#remember();
      this.#decide(verdict);
    }
    this.#settle();
    open.mask?.forget();
    this.saver.flush();
    try {
      await this.nextUndecided();
    } finally {
      if (open === this.open) this.#await(); // there is no next image
    }
  }

  /** Allow decisions when the open image has been on the screen for a moment. */
  async #await() {
    const { open } = this;
    this.#readyShown(false);
    for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame); // drawn, then on the screen
    await new Promise((passed) => setTimeout(passed, LOOK));
    if (open === this.open) this.#readyShown(true);
  }

  #readyShown(ready) {
    this.ready = ready;
    for (const name of ["accept", "reject"]) {
      document.querySelector(`[data-do=${name}]`).setAttribute("aria-disabled", String(!ready));
    }
  }

  /** Undo the last decision about this image; without one, the last decision of all. */
  async undecide() {
    this.drawing.finish();
    if (!this.open) return;
    if (!this.open.verdict) {
      const last = this.before.at(-1);
      if (!last) {
        showNote("There is no decision to undo.");
        return;
      }
      const { index, id } = last;
      await this.navigation.show(this.list.item(index) ?? { id, ...(await this.list.place(id)) });
      if (this.open?.index !== index || !this.open.verdict) return;
    }
    if (this.#hidesMask()) return;
    const { open } = this;
    const entry = this.before.findLast(({ index }) => index === open.index);
    const last = entry ?? { verdict: null, pixels: null };
    const pixels = last.pixels ?? (await this.#runMask(open));
    if (open !== this.open) return;
    this.drawing.finish(); // a stroke that began meanwhile is undone too
    this.drawing.objects.drop();
    const since = this.before.indexOf(entry);
    this.before = this.before.filter((each, number) => each.index !== open.index || number < since);
    if (pixels && open.mask) {
      open.mask.begin();
      open.mask.replace(pixels);
      open.mask.end();
    }
    open.drawn = last.verdict === "corrected";
    this.#decide(last.verdict, last.pixels ?? open.mask?.pixels);
    this.#settle();
    this.saver.flush();
    this.#maskChanged();
    showNote("The decision is undone.");
  }

  undoStroke(again = false) {
    const { open } = this;
    if (this.drawing.lasso.drop() || this.drawing.objects.drop()) return;
    this.drawing.finish();
    if (!open?.mask || !(again ? open.mask.redo() : open.mask.undo())) return;
    this.#drawn(open.mask);
  }

  /** Use the shown layer as the mask. */
  async takeOver() {
    const { open } = this, { layer } = this.layers;
    if (!open?.mask || !layer?.labels) return;
    try {
      const { pixels } = await this.layers.whole();
      if (open !== this.open) return;
      this.drawing.finish();
      open.mask.begin();
      open.mask.replace(pixels);
      if (open.mask.end() || !open.start) this.#drawn(open.mask, !open.start);
      this.layers.show("edit");
      showNote(`${layer.title} is the mask now.`);
    } catch (error) {
      showTrouble(error.message);
    }
  }

  ownTags() {
    const { open } = this;
    if (!open) return;
    this.panel.setTags([...open.own_tags]);
    this.#tagged([...open.own_tags]);
  }

  save() {
    this.drawing.finish();
    this.saver.flush();
  }

  /** The mask without a correction, for an undone decision. */
  async #runMask(open) {
    const layer = open.layers.find(isMask);
    open.start = layer?.name ?? null;
    if (!open.mask) return null;
    if (!layer) return new Uint8Array(open.mask.pixels.length);
    return getMap(`api/images/${open.index}/labels/${layer.name}`).then(({ pixels }) => pixels, () => null);
  }

  #opened(details, image, base = null) {
    const [height, width] = details.size ?? [1, 1];
    const mask = details.size ? new Mask(width, height, base) : null;
    const kept = details.start === "correction" ? base : null; // the stored mask; never modified
    this.open = this.last = { ...details, rank: this.navigation.rank, mask, kept };
    this.open.drawn = standing(this.open) === "corrected";
    this.open.settled = { verdict: standing(this.open), drawn: this.open.drawn };
    const fits = ({ index, of }) => index !== details.index || of === details.image_version;
    this.before = this.before.filter(fits); // masks of an image that has changed are not undone to
    showTitle(details.id, details.ranked, details.fault ?? "");
    if (mask) {
      this.view.open(image, { width, height });
      this.panel.open(details.own_tags, details.tags, mask.present);
      this.layers.open(details, image, mask);
    } else {
      this.view.clear();
      this.panel.open(details.own_tags, details.tags, []);
    }
    showVerdict(this.open);
    this.list.update(details.index, { verdict: details.verdict, tags: details.tags, other_tags: details.other_tags });
    this.#await();
    this.drawing.objects.work();
    showTrouble(details.fault_of_decision ?? details.fault_of_mask ?? "");
    try {
      history.replaceState(null, "", `#${encodeURIComponent(details.id)}`);
    } catch {
      history.replaceState(null, "", "#"); // the ID cannot be encoded
    }
    this.list.mark(details.index);
    this.navigation.loadAhead().catch(() => {}); // the error comes again when the image is opened
  }

  /** A drawing is a correction, except one that is back where it began: then the decision from before returns. */
  #drawn(mask, decided = false) {
    const { open } = this;
    if (mask !== open?.mask) return;
    const back = !decided && !mask.differs && open.settled;
    if (back && back.verdict !== open.verdict) this.before.pop();
    if (!back && open.verdict !== "corrected") this.#remember();
    open.drawn = back ? back.drawn : true;
    this.#decide(back ? back.verdict : "corrected");
    this.#maskChanged();
  }

  /** Show the mask; returns how to go back to another layer. */
  #showMask() {
    const { current } = this.layers;
    if (current === "edit") return null;
    this.layers.show("edit");
    return () => this.layers.show(current);
  }

  /** Remember the state that a drawing begins at. */
  #settle() {
    const { open } = this;
    open.settled = { verdict: open.verdict, drawn: open.drawn };
    open.mask?.settle();
  }

  #maskChanged() {
    if (!this.open.mask) return;
    this.view.changed();
    this.layers.redrawMask();
    this.panel.setPresent(this.open.mask.present);
  }

  /** Set the verdict here and on the server. */
  #decide(verdict, pixels = this.open.mask?.pixels) {
    const { open } = this;
    open.verdict = verdict;
    open.kept = verdict === "accepted" || verdict === "corrected" ? pixels.slice() : null;
    if (open.kept) this.saver.mask(open.index, open.image_version, open.kept, verdict);
    else this.saver.verdict(open.index, verdict);
    this.list.update(open.index, { verdict });
    showVerdict(this.open);
  }

  /** Add the current decision to the undo history. */
  #remember() {
    const { index, id, image_version: of, kept } = this.open;
    this.before.push({ index, id, of, verdict: standing(this.open), pixels: kept });
    let bytes = this.before.reduce((sum, { pixels }) => sum + (pixels?.length ?? 0), 0);
    while (bytes > HISTORY && this.before.length > 1) bytes -= this.before.shift().pixels?.length ?? 0;
  }

  #tagged(tags) {
    const { open } = this;
    if (!open) return;
    const changed = { tags, other_tags: String(tags) !== String(open.own_tags) };
    Object.assign(open, changed);
    this.saver.tags(open.index, tags, changed.other_tags);
    this.list.update(open.index, changed);
    showVerdict(this.open);
    this.layers.refresh();
  }

  #stored(index, state) {
    const { counts, ...decision } = state;
    Object.assign(decision, this.saver.unstored(index)); // what is newer
    this.list.update(index, decision);
    showProgress(this.total, counts);
    if (this.open?.index === index) {
      Object.assign(this.open, decision);
      showVerdict(this.open);
    }
  }

  #classChosen() {
    this.drawing.refresh();
    this.drawing.objects.next();
    this.correct.refresh();
    if (this.drawing.tool === "eraser") this.drawing.choose("brush");
    if (this.layers.layer?.heats?.length) this.layers.refresh();
  }

  #layerShown(layer) {
    this.correct.refresh();
    find("take").disabled = !layer?.labels;
    find("as").hidden = !layer?.heats?.length || !layer.labels;
    for (const button of find("as").children) {
      button.setAttribute("aria-pressed", String(this.layers.asHeat === (button.dataset.as === "heat")));
    }
    find("heat-of").textContent = layer?.heats?.length ? ` of ${this.panel.name(this.layers.heatClass(layer))}` : "";
    find("canvas").setAttribute("aria-label", `${this.open?.id ?? ""}: ${layer?.title ?? ""}`);
  }

  async listChanged() {
    const first = this.list.items[0];
    const same = this.open && this.list.item(this.open.index);
    if (same) {
      this.navigation.rank = this.open.rank = same.rank;
      this.list.mark(same.index);
    } else if (first) {
      await this.navigation.show(first);
    } else {
      this.navigation.rank = -1;
    }
  }
}

/** The verdict. A stored mask whose decision is damaged counts as corrected, as on the server. */
function standing({ verdict, kept }) {
  return verdict ?? (kept ? "corrected" : null);
}
