// Which image is open: loading it, the next ones in the list, and loading the next one ahead.

import { get, getMap, getPicture } from "./api.js";

export class Navigation {
  /**
   * `leave(item)` is called before an image is loaded, `opened(details, image, pixels)` with its content, where the
   * image is null if it cannot be read, `failed(item, error)` without, and `say(text)` shows a short message.
   */
  constructor(list, saver, { leave, opened, failed, say }) {
    Object.assign(this, { list, saver, leave, opened, failed, say });
    this.rank = -1; // of the open image
  }

  /** Open an image of the list. */
  async show(item) {
    if (!item) return;
    this.leave(item);
    const opening = (this.opening = { index: item.index });
    this.rank = item.rank;
    const waiting = ["mask", "tags"].map((kind) => this.saver.pending(item.index, kind)); // newer than the answer
    try {
      const details = await get(`api/images/${item.index}`);
      if (!waiting.some(Boolean)) this.saver.seen.set(details.index, details.decision_version);
      const kept = prefer(details, ...waiting);
      const [image, base] = details.size ? await this.#content(details, kept) : [{}, {}];
      if (opening === this.opening) this.opened({ ...details, ...image.faults, ...base.faults }, image.picture, base.pixels);
    } catch (error) {
      if (opening === this.opening) this.failed(item, error);
    }
  }

  /** Open the next (or previous) image. */
  async go(step) {
    const next = await this.list.neighbour(this.rank, step);
    if (next) await this.show(next);
    else this.say(step > 0 ? "This is the last image." : "This is the first image.");
  }

  /** Open the next undecided image; the server finds it. */
  async nextUndecided() {
    const next = await this.#undecided();
    if (next) await this.show(next);
    else this.say("No undecided image after this one.");
  }

  /** Load the image that probably follows: the next undecided one, or else the next. */
  async loadAhead() {
    const { opening } = this;
    const next = (await this.#undecided()) ?? (await this.list.neighbour(this.rank, 1));
    if (opening !== this.opening) return;
    this.list.mark(opening.index); // the list may have been reloaded
    if (!next || this.ahead?.details.index === next.index) return;
    const details = await get(`api/images/${next.index}`);
    if (opening !== this.opening || !details.size) return;
    this.ahead = { details, content: load(details) };
    this.ahead.content.catch(() => (this.ahead = null));
  }

  #undecided() {
    return this.list.undecided(this.rank, ({ index, verdict }) => {
      const waiting = this.saver.pending(index, "mask");
      return !(waiting ? waiting.verdict : verdict);
    });
  }

  /** The picture and the mask of an image, from `ahead` if they are there. */
  async #content(details, kept) {
    const { ahead } = this;
    const same = (name) => ahead?.details[name] === details[name];
    if (!kept && ["index", "image_version", "decision_version", "start", "start_version"].every(same)) return ahead.content;
    return load(details, kept);
  }
}

/** Replace the details by pending changes; returns the pending mask, if any. */
function prefer(details, mask, tags) {
  if (tags) Object.assign(details, { tags: tags.body.tags, other_tags: tags.other });
  if (!mask || (mask.query && mask.query.of !== details.image_version)) return null; // drawn on another image
  const drawn = mask.body instanceof Uint8Array;
  details.verdict = mask.verdict;
  details.start = drawn ? "correction" : details.layers.find(isMask)?.name ?? null;
  return drawn ? mask.body : null;
}

/** Whether a layer has masks: that of the run, or a prediction. */
export function isMask({ name }) {
  return !name.startsWith("cam-") && name !== "seeds";
}

/** [{picture, faults}, {pixels, faults}] of an image: what can be read, and the details that tell of what cannot. */
function load(details, kept = null) {
  return Promise.all([readable(details), kept ? { pixels: kept } : base(details)]);
}

async function readable(details) {
  try {
    return { picture: await getPicture(details) };
  } catch (error) {
    if (error.status !== 422) throw error;
    return { faults: { size: null, fault: error.message } };
  }
}

/** The initial mask. If a correction cannot be read, the image is not opened, so that it is not overwritten. */
async function base(details) {
  try {
    return { pixels: details.start ? (await getMap(`api/images/${details.index}/labels/${details.start}`)).pixels : null };
  } catch (error) {
    if (details.start === "correction" || error.status !== 422) throw error;
    return { faults: { start: null, fault_of_mask: error.message } };
  }
}
