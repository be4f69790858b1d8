// What is decided is saved at once, in order, and kept here until the server has it.

import { Refused, put } from "./api.js";

const PAUSE = 300; // milliseconds after a stroke: the next one may follow at once
const AGAIN = 4000; // milliseconds before another try, where the server was not reached

export class Saver {
  /** `kept(index, answer)` hears what the server has now; `told(state, message)` what to show. */
  constructor(kept, told) {
    this.kept = kept;
    this.told = told;
    this.waiting = new Map(); // the newest of each index and kind, in order
    this.busy = false;
  }

  /** A mask, bytes that nobody changes any more. */
  mask(index, pixels, verdict) {
    this.#add(index, "mask", { address: `/api/images/${index}/mask?verdict=${verdict}`, body: pixels, verdict });
  }

  /** A verdict without a mask: rejected, or null to take one back. */
  verdict(index, verdict) {
    this.#add(index, "mask", { address: `/api/images/${index}/verdict`, body: { verdict }, verdict });
  }

  tags(index, tags) {
    this.#add(index, "tags", { address: `/api/images/${index}/tags`, body: { tags } });
  }

  /** What waits of an image, `mask` or `tags`: {body, verdict}, or nothing. */
  pending(index, kind) {
    return this.waiting.get(`${index} ${kind}`);
  }

  get idle() {
    return this.waiting.size === 0;
  }

  /** Save now what waits; what is refused stays, and does not keep the others waiting. */
  async flush() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.busy) return;
    this.busy = true;
    const refused = new Map(); // jobs, with what the server said
    for (let job; (job = [...this.waiting.values()].find((each) => !refused.has(each))); ) {
      this.told("saving");
      try {
        const answer = await put(job.address, job.body);
        if (this.waiting.get(job.key) === job) this.waiting.delete(job.key);
        this.kept(job.index, answer);
      } catch (error) {
        refused.set(job, error.message);
        if (error instanceof Refused && error.status) continue;
        this.timer = setTimeout(() => this.flush(), AGAIN);
        break;
      }
    }
    this.busy = false;
    const [said] = refused.values();
    if (said) this.told("failed", `Not saved: ${said}`);
    else this.told("saved");
  }

  #add(index, kind, job) {
    const key = `${index} ${kind}`;
    this.waiting.delete(key); // the newest goes to the end
    this.waiting.set(key, { key, index, ...job });
    this.told("waiting");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), PAUSE);
  }
}
