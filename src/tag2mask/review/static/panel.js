// The panel on the right: classes to paint with, and tags.

import { dot, element } from "./elements.js";
import { IGNORED } from "./mask.js";

const FEW = 12; // at most as many classes are all listed

export class Panel {
  /** `painted(id)` is called when a class is selected, `tagged(tags)` when the tags change. */
  constructor(classes, painted, tagged) {
    this.classes = classes;
    this.byName = new Map(classes.map((each) => [each.name, each.id]));
    this.painted = painted;
    this.tagged = tagged;
    this.listed = [];
    this.chosen = classes[0]?.id ?? IGNORED;
    this.own = this.tags = [];
    this.always = classes.length > FEW ? [] : classes.map(({ id }) => id);
    for (const name of ["more", "more-tags"]) document.getElementById(name).hidden = classes.length <= FEW;
    document.getElementById("class-names").append(...classes.map(({ name }) => element("option", { value: name })));
    this.#listen("other-class", (id) => this.choose(id));
    this.#listen("other-tag", (id) => !this.tags.includes(id) && this.toggle(id));
  }

  /** Show an image: its tags in the data set, its current tags, and the classes of its mask. */
  open(own, tags, present) {
    this.own = own;
    this.tags = tags;
    this.present = classesOf(present);
    this.listed = [...new Set([...tags, ...this.present, ...this.always])];
    if (![0, IGNORED, ...tags].includes(this.chosen)) this.chosen = tags[0] ?? this.listed[0] ?? this.chosen;
    this.draw();
  }

  /** Show the classes of a changed mask. */
  setPresent(present) {
    this.present = classesOf(present);
    this.draw();
  }

  /** Select a class by its id, if there is one. */
  number(id) {
    if (this.classes[id - 1]) this.choose(id);
  }

  choose(id) {
    if (id !== 0 && id !== IGNORED && !this.listed.includes(id)) this.listed.push(id);
    this.chosen = id;
    this.draw();
    this.painted(id);
  }

  toggle(id) {
    const tags = this.tags.includes(id) ? this.tags.filter((each) => each !== id) : [...this.tags, id];
    this.setTags(tags.sort((one, other) => one - other));
    this.tagged(this.tags);
  }

  setTags(tags) {
    this.tags = tags;
    for (const id of tags) if (!this.listed.includes(id)) this.listed.push(id);
    this.draw();
  }

  name(id) {
    if (id === 0) return "background";
    return id === IGNORED ? "not sure (ignored)" : this.classes[id - 1]?.name ?? `class ${id}`;
  }

  /** Focus the first tag, or the field for another one. */
  focusTags() {
    (document.querySelector("#tags button") ?? document.getElementById("other-tag")).focus();
  }

  draw() {
    const rows = this.listed.map((id) => this.#row(id, id < 10 ? `${id}` : "")); // the same key on every image
    refill(document.getElementById("classes"), [this.#row(0, "0"), ...rows, this.#row(IGNORED, "I")]);
    const shown = [...new Set([...this.own, ...this.tags, ...this.always])];
    refill(document.getElementById("tags"), shown.sort((one, other) => one - other).map((id) => this.#tag(id)));
    document.getElementById("own-tags").hidden = String(this.own) === String(this.tags);
  }

  #row(id, key) {
    const button = element("button", { type: "button", className: "class" });
    button.dataset.class = id;
    button.setAttribute("aria-pressed", String(this.chosen === id));
    const mark = dot(this.classes[id - 1]?.colour ?? "transparent");
    if (id === 0) mark.classList.add("background");
    if (id === IGNORED) mark.classList.add("ignored");
    button.append(mark, element("bdi", { textContent: this.name(id) }));
    if (this.present.includes(id) && !this.tags.includes(id)) {
      button.append(element("span", { className: "remark", textContent: "in the mask, not tagged" }));
    }
    if (key) button.append(element("kbd", { textContent: key }));
    button.addEventListener("click", () => this.choose(id));
    return button;
  }

  #tag(id) {
    const button = element("button", { type: "button", className: "tag" });
    button.dataset.tag = id;
    button.setAttribute("aria-pressed", String(this.tags.includes(id)));
    button.append(dot(this.classes[id - 1].colour), element("bdi", { textContent: this.name(id) }));
    button.addEventListener("click", () => this.toggle(id));
    return button;
  }

  #listen(name, chosen) {
    const field = document.getElementById(name);
    field.addEventListener("change", () => {
      const id = this.byName.get(field.value.trim());
      if (id === undefined) return;
      field.value = "";
      chosen(id);
    });
  }
}

/** The values that are classes, not background or ignored. */
function classesOf(values) {
  return values.filter((id) => id !== 0 && id !== IGNORED);
}

/** Replace the buttons; the focus stays on the button with the same data. */
function refill(node, buttons) {
  const held = node.contains(document.activeElement) ? JSON.stringify({ ...document.activeElement.dataset }) : null;
  node.replaceChildren(...buttons);
  if (held) buttons.find((button) => JSON.stringify({ ...button.dataset }) === held)?.focus();
}
