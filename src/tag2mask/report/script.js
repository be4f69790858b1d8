"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const press = (buttons, chosen) => buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
const isPressed = (button) => button.getAttribute("aria-pressed") === "true";

document.documentElement.classList.add("scripted");

/* Tables: one split at a time. */
function showSplit(number) {
  all("[data-table]").forEach((table) => { table.hidden = table.dataset.table !== number; });
}
all("[data-split]").forEach((button, _, buttons) => button.addEventListener("click", () => {
  press(buttons, button);
  showSplit(button.dataset.split);
}));
if (one("[data-split]")) showSplit("1");

/* Gallery: filter by class, CAMs in colours or as heat, opacity. */
const cards = all(".card");
const filters = all("[data-class]");
const views = all("[data-view]");
const classesOf = (card) => card.dataset.classes.split(" ").filter(Boolean);

function showTag(card, tag) {
  all(".chip", card).forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.tag === tag)));
  card.classList.toggle("heat", tag !== "0");
  all(".picture", card).forEach((picture) => {
    const layers = all(".layer", picture);
    const heat = layers.some((layer) => layer.dataset.tag !== "0");
    layers.forEach((layer) => { layer.hidden = heat && layer.dataset.tag !== tag; });
  });
}

function showView() {
  const heat = isPressed(views[1]);
  const chosen = filters.find(isPressed).dataset.class;
  cards.forEach((card) => {
    const chips = all(".chip:not([disabled])", card);
    const chip = chips.find((each) => each.dataset.tag === chosen) || chips[0];
    showTag(card, heat && chip ? chip.dataset.tag : "0");
  });
}

function filterBy(button) {
  press(filters, button);
  const chosen = button.dataset.class, words = one("#search").value.toLowerCase();
  cards.forEach((card) => {
    const named = one("h4", card).textContent.toLowerCase().includes(words);
    card.hidden = !named || (chosen !== "0" && !classesOf(card).includes(chosen));
  });
  const shown = cards.filter((card) => !card.hidden).length;
  one(".status").textContent = shown === cards.length ? `${shown} shown` : `${shown} of ${cards.length} shown`;
  one(".nothing").hidden = shown > 0;
  showView();
}

filters.forEach((button) => button.addEventListener("click", () => filterBy(isPressed(button) ? filters[0] : button)));
if (one("#search")) one("#search").addEventListener("input", () => filterBy(filters.find(isPressed)));
views.forEach((button) => button.addEventListener("click", () => { press(views, button); showView(); }));
cards.forEach((card) => all(".chip", card).forEach((chip) => chip.addEventListener("click", () => {
  showTag(card, isPressed(chip) ? "0" : chip.dataset.tag);
})));
const overlay = one("#overlay");
if (overlay) {
  overlay.addEventListener("input", () => {
    document.documentElement.style.setProperty("--overlay", String(overlay.value / 100));
  });
  overlay.dispatchEvent(new Event("input")); // a browser that restores the form restores the opacity
}

/* A link to a hidden card shows it. */
all(".links a").forEach((anchor) => anchor.addEventListener("click", () => {
  one("#search").value = "";
  filterBy(filters[0]);
}));

all(".copy").forEach((button) => button.addEventListener("click", async () => {
  const line = button.previousElementSibling;
  getSelection().selectAllChildren(line);
  try { await navigator.clipboard.writeText(line.textContent); button.textContent = "Copied"; } catch { button.textContent = "Selected"; }
}));

/* Lightbox: left and right go through the pictures of an image, up and down through the images; another picture of the
   image covers the left part up to the cut. */
const lightbox = one(".lightbox");
const frame = one(".frame");
const other = one("#other");
const cut = one("#cut");
const kindOf = (tile) => [...tile.classList].find((name) => name !== "tile");
const siblings = () => all(".tile, .chart", current.closest(".card, .charts"));
let current = null;

function enlarge(shown) {
  current = shown;
  const card = shown.closest(".card");
  one(".compare").hidden = !card;
  frame.style = card ? card.getAttribute("style") : "";
  if (card) {
    const figure = one("figcaption .count", shown);
    one(".lightbox-caption").textContent =
      `${one("figcaption .name", shown).textContent}${figure ? ` ${figure.textContent}` : ""} · ${one("h4", card).textContent}`;
    const kept = other.value, others = siblings().filter((tile) => tile !== shown);
    other.replaceChildren(...others.map((tile) => new Option(one(".name", tile).textContent, kindOf(tile))));
    if (others.some((tile) => kindOf(tile) === kept)) other.value = kept;
    else if (others.length) other.value = kindOf(one(".tile.image", card) === shown ? others.at(-1) : others[0]);
    compare();
  } else {
    one(".lightbox-caption").textContent = one("h3", shown).firstChild.textContent;
    const drawn = one("svg", shown).cloneNode(true), legend = one(".legend", shown);
    frame.replaceChildren(drawn, ...(legend ? [legend.cloneNode(true)] : []));
  }
  if (!lightbox.open) lightbox.showModal();
}

function compare() {
  const under = siblings().find((tile) => kindOf(tile) === other.value);
  frame.replaceChildren(...[current, under].filter(Boolean).map((tile) => {
    const copy = document.createElement("div");
    copy.className = tile.className;
    copy.append(one(".picture", tile).cloneNode(true));
    return copy;
  }));
  one(".compare").hidden = !under;
  frame.style.setProperty("--cut", `${cut.value}%`);
}

function turn(step) {
  const shown = siblings();
  enlarge(shown[(shown.indexOf(current) + step + shown.length) % shown.length]);
}

function turnImage(step) {
  const card = current.closest(".card");
  if (!card) return turn(step);
  const shown = cards.filter((each) => !each.hidden);
  const next = shown[(shown.indexOf(card) + step + shown.length) % shown.length];
  enlarge(one(`.tile.${kindOf(current)}`, next) || one(".tile", next));
}

all(".open, .plot").forEach((each) => each.addEventListener("click", () => enlarge(each.closest(".tile, .chart"))));
all("[data-step]").forEach((button) => button.addEventListener("click", () => turn(Number(button.dataset.step))));
other.addEventListener("change", compare);
cut.addEventListener("input", compare);
frame.addEventListener("pointermove", (event) => {
  const box = one(".picture", frame)?.getBoundingClientRect();
  if (!event.buttons || !box) return;
  cut.value = (100 * (event.clientX - box.left)) / box.width;
  compare();
});
one("[data-close]").addEventListener("click", () => lightbox.close());
lightbox.addEventListener("click", (event) => { if (event.target === lightbox) lightbox.close(); });
lightbox.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: () => turn(-1), ArrowRight: () => turn(1), ArrowUp: () => turnImage(-1), ArrowDown: () => turnImage(1) };
  if (!moves[event.key] || event.target.matches("input, select")) return;
  event.preventDefault();
  moves[event.key]();
});

/* Charts: the values under the pointer. */
all(".plot").forEach((plot) => {
  const lines = JSON.parse(plot.dataset.values);
  const svg = one("svg", plot);
  const cursor = one(".cursor", plot);
  const readout = one(".readout", plot);

  function show(event) {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const nearest = lines.map((line) => line.points.reduce((best, point) =>
      Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    const place = nearest.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    cursor.setAttribute("x1", place[0]);
    cursor.setAttribute("x2", place[0]);
    const head = document.createElement("b");
    head.textContent = `${plot.dataset.x} ${place[2]}`;
    const rows = lines.map((line, index) => {
      const row = document.createElement("span");
      row.className = `tone-${line.tone}`;
      row.textContent = `${line.name} ${nearest[index][3]}`;
      return row;
    });
    readout.replaceChildren(head, ...rows);
    readout.classList.toggle("left", place[0] > svg.viewBox.baseVal.width / 2);
    readout.style.setProperty("--at", `${(100 * place[0]) / svg.viewBox.baseVal.width}%`);
    cursor.removeAttribute("hidden");
    readout.hidden = false;
  }

  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerleave", () => {
    cursor.setAttribute("hidden", "");
    readout.hidden = true;
  });
});
