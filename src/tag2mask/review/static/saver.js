// Saves decisions in order, and keeps each until the server has stored it. A decision that somebody else has replaced
// since this page read it is not overwritten unless `retry` is called.

import { RequestError, put } from "./api.js";

const PAUSE = 300; // milliseconds after a stroke, to save several strokes together
const AGAIN = 4000; // milliseconds before a retry without a connection

export class Saver {
  /**
   * `stored(index, answer)` is called with the stored state, `refused(index)` if there is none, and
   * `notify(state, message)` with the state to show.
   */
  constructor(stored, refused, notify) {
    this.stored = stored;
    this.refused = refused;
    this.notify = notify;
    this.waiting = new Map(); // the newest job per image and kind, in order
    this.seen = new Map(); // the version of the stored decision per image
    this.busy = false;
  }

  /** Save a mask of an image with this version; its bytes are not modified later. */
  mask(index, of, pixels, verdict) {
    this.#add(index, "mask", { address: `api/images/${index}/mask`, query: { verdict, of }, body: pixels, verdict });
  }

  /** Save a verdict without a mask: rejected, or null to undo. */
  verdict(index, verdict) {
    this.#add(index, "mask", { address: `api/images/${index}/verdict`, body: { verdict }, verdict });
  }

  /** Save tags; `other` says whether they are others than those of the data set. */
  tags(index, tags, other) {
    this.#add(index, "tags", { address: `api/images/${index}/tags`, body: { tags }, other });
  }

  /** The pending job of an image, `mask` or `tags`: {body, verdict}, or undefined. */
  pending(index, kind) {
    return this.waiting.get(`${index} ${kind}`);
  }

  /** What the server does not have yet about an image: its verdict, its tags, and whether it has refused them. */
  unstored(index) {
    const [mask, tags] = ["mask", "tags"].map((kind) => this.pending(index, kind));
    return {
      ...(mask && { verdict: mask.verdict }), ...(tags && { tags: tags.body.tags, other_tags: tags.other }),
      unsaved: Boolean(mask?.refused || tags?.refused),
    };
  }

  get idle() {
    return this.waiting.size === 0;
  }

  /** Save all pending jobs now, also over the decisions of others. */
  retry() {
    for (const job of this.waiting.values()) {
      if (job.conflict) this.seen.delete(job.index);
      job.conflict = "";
    }
    return this.flush();
  }

  /** Save all pending jobs now; refused ones stay pending, and the others are saved. */
  async flush() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.busy) return;
    this.busy = true;
    const refused = new Map(); // jobs with their error messages
    for (const job of this.waiting.values()) if (job.conflict) refused.set(job, job.conflict);
    for (let job; (job = [...this.waiting.values()].find((each) => !refused.has(each))); ) {
      this.notify("saving");
      try {
        const answer = await put(job.address, job.body, { ...job.query, seen: this.seen.get(job.index) });
        this.seen.set(job.index, answer.decision_version);
        if (this.waiting.get(job.key) === job) this.waiting.delete(job.key);
        this.stored(job.index, answer);
      } catch (error) {
        refused.set(job, error.message);
        job.refused = true;
        this.refused(job.index);
        if (error.status === 409) job.conflict = error.message;
        if (error instanceof RequestError && error.status) continue;
        this.timer = setTimeout(() => this.flush(), AGAIN);
        break;
      }
    }
    this.busy = false;
    const [message] = [...refused].filter(([job]) => this.waiting.get(job.key) === job).map(([, said]) => said);
    if (message) this.notify("failed", `Not saved: ${message}`);
    else this.notify("saved");
  }

  #add(index, kind, job) {
    const key = `${index} ${kind}`;
    this.waiting.delete(key); // the newest goes to the end
    this.waiting.set(key, { key, index, ...job });
    this.notify("waiting");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), PAUSE);
  }
}
