// The list of images, filtered by the server and loaded in pages.

import { get, jpeg } from "./api.js";
import { dot, element } from "./elements.js";

const find = (name) => document.getElementById(name);

export const VERDICTS = { accepted: "✓ accepted", corrected: "✎ corrected", rejected: "✕ rejected" };

const KEPT = 3; // pages: the browser visits every row at every frame, so that thousands would slow the brush down

/** `null` is unknown. */
export const confidenceWords = (value) => `confidence ${value === null ? "unknown" : value.toFixed(2)}`;

export class List {
  /**
   * `chosen(item)` is called on a click, `counted(counts)` with the number of decisions, and `pending(item)` returns what
   * the server does not have yet about an item. `open()` returns the open image, if any.
   */
  constructor({ classes, ranked, page }, { chosen, counted, pending, open }) {
    this.page = page; // images per answer
    this.from = this.after = Infinity; // the loaded ranks; none yet
    this.names = new Map(classes.map((each) => [each.id, each]));
    Object.assign(this, { chosen, counted, pending, open });
    this.items = [];
    this.loading = Promise.resolve();
    this.images = find("images");
    find("order-label").hidden = !ranked;
    if (!ranked) find("order").value = "list";
    this.more = element("li", { className: "more-images" });
    this.earlier = element("li", { className: "earlier" });
    const earlier = element("button", { type: "button", textContent: "Earlier images" });
    earlier.addEventListener("click", () => this.#asked(this.loadEarlier()));
    this.earlier.append(earlier);
    const seen = (entries) => entries.some((each) => each.isIntersecting) && this.#asked(this.load());
    this.observer = new IntersectionObserver(seen);
    this.observer.observe(this.more);
    let typed;
    find("find").addEventListener("input", () => {
      clearTimeout(typed);
      typed = setTimeout(() => this.#asked(this.reload()), 250);
    });
    for (const name of ["class", "state", "order"]) {
      find(name).addEventListener("change", () => this.#asked(this.reload()));
    }
  }

  #asked(answer) {
    answer.catch((error) => this.failed?.(error.message));
  }

  get query() {
    return Object.fromEntries(["find", "class", "state", "order"].map((name) => [name, find(name).value]));
  }

  /** Load the list again, around the open image if it is in the list, then call `changed`. */
  async reload() {
    const asked = (this.asked = {}), id = this.open()?.id;
    const at = id === undefined ? null : await this.place(id);
    if (asked !== this.asked) return; // a newer query
    await this.#restart(at && at.rank >= this.page ? at.rank - Math.ceil(this.page / 2) : -1);
    if (at && this.from >= 0 && !this.item(at.index)) await this.#restart(-1);
    if (asked === this.asked) this.changed?.();
  }

  /** The index and the rank of an ID. */
  place(id) {
    return get("api/index", { id, order: this.query.order });
  }

  /** Load the neighbourhood of a rank: extend the loaded part if the rank is near, otherwise restart there. */
  async reach(rank) {
    if (rank >= this.from) {
      await this.loading;
      if (!this.ended && rank > this.after && rank - this.after <= this.page) await this.load();
      if (this.ended || rank <= this.after) return;
    }
    await this.#restart(rank < this.page ? -1 : rank - Math.ceil(this.page / 2));
  }

  /** Restart the list after a rank. */
  #restart(after) {
    this.run = (this.run ?? 0) + 1;
    this.items = [];
    this.from = this.after = after;
    this.ended = false;
    this.earlier.hidden = after < 0;
    this.images.replaceChildren(this.earlier, this.more);
    this.loading = Promise.resolve();
    return this.load();
  }

  /** Load the next page, after any page that is loading. */
  load() {
    const loaded = this.loading.then(async () => {
      if (this.ended) return;
      const run = this.run;
      const page = await get("api/images", { ...this.query, after: this.after });
      if (run !== this.run) return;
      for (const item of page.images) this.more.before(this.#added(item));
      this.items.push(...page.images);
      this.#trim(0);
      this.after = this.items.at(-1)?.rank ?? this.after;
      this.ended = !page.more;
      this.more.hidden = this.ended;
      this.observer.unobserve(this.more); // asks again, also where the end of the list has stayed in view
      this.observer.observe(this.more);
      find("found").textContent = `${page.total.toLocaleString("en")} image${page.total === 1 ? "" : "s"}`;
      this.counted(page.counts);
    });
    this.loading = loaded.catch(() => {});
    return loaded;
  }

  /** Load the page before the first loaded one. */
  loadEarlier() {
    const loaded = this.loading.then(async () => {
      if (this.earlier.hidden) return;
      const run = this.run;
      const page = await get("api/images", { ...this.query, before: this.from + 1 });
      if (run !== this.run) return;
      const { images } = this, { scrollHeight: height, scrollWidth: width } = images;
      this.earlier.after(...page.images.map((item) => this.#added(item)));
      images.scrollBy(images.scrollWidth - width, images.scrollHeight - height); // the rows on the screen stay there
      this.items.unshift(...page.images);
      this.from = page.more ? page.images[0].rank - 1 : -1;
      this.earlier.hidden = !page.more;
      this.#trim(KEPT * this.page);
    });
    this.loading = loaded.catch(() => {});
    return loaded;
  }

  /** Drop rows beyond the kept ones: from the begin of the list on (0), or from a later row on. */
  #trim(start) {
    const many = this.items.length - KEPT * this.page;
    if (many <= 0) return;
    const { images } = this, { scrollHeight: height, scrollWidth: width } = images;
    const dropped = this.items.splice(start, many);
    for (const { node } of dropped) node.remove();
    if (start) {
      this.after = this.items.at(-1).rank;
      this.ended = this.more.hidden = false;
    } else {
      this.from = dropped.at(-1).rank;
      this.earlier.hidden = false;
      images.scrollBy(images.scrollWidth - width, images.scrollHeight - height); // the rows on the screen stay there
    }
  }

  /** The first undecided image after a rank; `suits` excludes decisions that the server does not have yet. */
  async undecided(rank, suits) {
    const loaded = this.items.find((item) => item.rank > rank && suits(item));
    if (loaded && rank >= this.from) return loaded;
    const { query } = this;
    if (query.state && query.state !== "undecided") return undefined;
    for (let after = rank; ; ) {
      const page = await get("api/images", { ...query, state: "undecided", after });
      const found = page.images.find(suits);
      if (found || !page.more) return found;
      after = page.images.at(-1).rank;
    }
  }

  item(index) {
    return this.items.find((item) => item.index === index);
  }

  /** The first image after (or before) a rank; loads the list there. */
  async neighbour(rank, step) {
    await this.reach(rank);
    for (;;) {
      const found = step > 0
        ? this.items.find((item) => item.rank > rank) : this.items.findLast((item) => item.rank < rank);
      if (found || (step > 0 ? this.ended : this.earlier.hidden)) return found;
      await (step > 0 ? this.load() : this.loadEarlier());
    }
  }

  /** The row of an item of the server. */
  #added(item) {
    Object.assign(item, this.pending(item));
    return (item.node = this.#row(item));
  }

  /** Update the decision of an image in the list. */
  update(index, decision) {
    const item = this.item(index);
    if (!item) return;
    Object.assign(item, decision);
    const row = this.#row(item);
    const focused = item.node.contains(document.activeElement);
    item.node.querySelector(".info").replaceWith(row.querySelector(".info"));
    if (focused) item.node.firstChild.focus({ preventScroll: true });
  }

  /** Mark the open image. */
  mark(index) {
    this.images.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const button = this.item(index)?.node.firstChild;
    button?.setAttribute("aria-current", "true");
    button?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #row(item) {
    const picture = element("img", {
      src: jpeg(item, "thumbnail"), alt: "", loading: "lazy", width: 72, height: 54, decoding: "async",
    });
    picture.addEventListener("error", () =>
      picture.replaceWith(element("span", { className: "no-picture", textContent: "cannot be read" })));
    const info = element("span", { className: "info" });
    const tags = element("span", { className: "dots" });
    for (const id of item.tags) {
      const { name, colour } = this.names.get(id), tag = element("span", { className: "one" });
      tag.append(dot(colour), element("bdi", { textContent: name }));
      tags.append(tag);
    }
    if (item.other_tags) tags.append(element("span", { className: "changed", textContent: "(changed)" }));
    info.append(tags);
    const { verdict } = item;
    const shown = item.unsaved ? "not saved" : VERDICTS[verdict] ?? "";
    const state = element("span", { className: `state ${verdict ?? ""}`, textContent: shown });
    if (!shown && item.ranked) state.textContent = confidenceWords(item.confidence);
    info.append(state);
    const button = element("button", { type: "button" });
    const words = element("span", { className: "words" });
    words.append(element("bdi", { className: "name", textContent: item.id, title: item.id }), info);
    button.append(picture, words);
    button.addEventListener("click", () => this.chosen(item));
    const row = element("li");
    row.append(button);
    return row;
  }
}
