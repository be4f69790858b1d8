// Entry point: binds buttons and keys to the actions of a review.

import { get } from "./api.js";
import { SIZES } from "./drawing.js";
import { bindKeys } from "./keys.js";
import { Review } from "./review.js";
import { showTrouble } from "./state.js";

const find = (name) => document.getElementById(name);

async function start() {
  const settings = await get("api/review");
  for (const { id, name } of settings.classes) {
    const option = new Option(`${name} (${settings.tagged[id] ?? 0})`, id);
    find("class").append(option);
  }
  const review = new Review(settings);
  const actions = {
    "zoom-in": () => review.view.zoom(1.4), "zoom-out": () => review.view.zoom(1 / 1.4), fit: () => review.view.fit(),
    accept: () => review.accept(), reject: () => review.reject(), undecide: () => review.undecide(),
    undo: () => review.undoStroke(), redo: () => review.undoStroke(true), take: () => review.takeOver(),
    "own-tags": () => review.ownTags(), clean: () => review.correct.clean(),
  };
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", actions[button.dataset.do]);
  }
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.addEventListener("click", () => review.drawing.choose(button.dataset.tool));
  }
  for (const button of document.querySelectorAll("[data-as]")) {
    button.addEventListener("click", () => review.layers.setHeat(button.dataset.as === "heat"));
  }
  find("size").max = SIZES.length - 1;
  find("size").addEventListener("input", () => review.drawing.resize(Number(find("size").value)));
  find("opacity").addEventListener("input", () => setOpacity(review, Number(find("opacity").value)));
  find("retry").addEventListener("click", () => review.saver.retry());
  find("help-open").addEventListener("click", () => find("help").showModal());
  find("help-close").addEventListener("click", () => find("help").close());
  addEventListener("unhandledrejection", ({ reason }) => showTrouble(reason?.message ?? String(reason))); // an action failed
  bindKeys(review, (by) => setOpacity(review, Number(find("opacity").value) + by));
  review.drawing.resize(5);
  setOpacity(review, 55);
  addEventListener("pagehide", () => review.save());
  document.addEventListener("visibilitychange", () => document.hidden && review.save());
  addEventListener("beforeunload", (event) => {
    review.save();
    if (!review.saver.idle) event.preventDefault();
  });
  await begin(review);
}

/** Open the image named in the address, or the first one. */
async function begin(review) {
  const id = namedInAddress();
  const named = id ? await get("api/index", { id, order: review.list.query.order }).catch(() => null) : null;
  if (named) {
    const shown = review.navigation.show(named);
    await review.list.reach(named.rank);
    await shown;
    review.list.mark(named.index);
  } else {
    await review.list.reload();
  }
}

function namedInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // typed by hand
  }
}

function setOpacity(review, value) {
  const kept = Math.min(100, Math.max(0, value));
  find("opacity").value = kept;
  find("opacity-shown").textContent = `${kept} %`;
  review.view.setOpacity(kept / 100);
}

start().catch((error) => {
  find("fault").hidden = false;
  find("fault").querySelector("p").textContent = error.message;
  find("retry").hidden = true;
});
