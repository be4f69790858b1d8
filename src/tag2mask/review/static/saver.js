// What is decided is saved at once, in order, and kept here until the server has it.

import { Refused, put } from "./api.js";

const PAUSE = 300; // milliseconds after a stroke: the next one may follow at once
const AGAIN = 4000; // milliseconds before another try, where the server was not reached

export class Saver {
  /** `kept(place, answer)` hears what the server has now; `told(state, message)` what to show. */
  constructor(kept, told) {
    this.kept = kept;
    this.told = told;
    this.waiting = new Map(); // the newest of each place and kind, in order
    this.busy = false;
  }

  /** A mask, bytes that nobody changes any more. */
  mask(place, pixels, verdict) {
    this.#add(place, "mask", { address: `/api/photos/${place}/mask?verdict=${verdict}`, body: pixels, verdict });
  }

  /** A verdict without a mask: rejected, or null to take one back. */
  verdict(place, verdict) {
    this.#add(place, "mask", { address: `/api/photos/${place}/verdict`, body: { verdict }, verdict });
  }

  tags(place, tags) {
    this.#add(place, "tags", { address: `/api/photos/${place}/tags`, body: { tags } });
  }

  /** What waits of a photograph, `mask` or `tags`: {body, verdict}, or nothing. */
  pending(place, kind) {
    return this.waiting.get(`${place} ${kind}`);
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
        this.kept(job.place, answer);
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

  #add(place, kind, job) {
    const key = `${place} ${kind}`;
    this.waiting.delete(key); // the newest goes to the end
    this.waiting.set(key, { key, place, ...job });
    this.told("waiting");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), PAUSE);
  }
}
