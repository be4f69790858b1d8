// The texts of the page about its state: the open image, its decision, the progress, and what went wrong.

import { speak } from "./elements.js";
import { confidenceWords, VERDICTS } from "./list.js";

const find = (name) => document.getElementById(name);

const TITLE = document.title;
const NOTE = 3500; // milliseconds that a note stays

let noted;

/** Show the ID and the confidence, and the image itself if it has no fault. */
export function showTitle(id, ranked, fault) {
  find("id").textContent = id;
  document.title = `${id} · ${TITLE}`;
  const words = ranked ? [confidenceWords(ranked.confidence), ranked.class_name, ranked.reason] : [];
  find("ranked").textContent = words.filter(Boolean).join(" · ");
  find("unreadable").hidden = !fault;
  find("unreadable").textContent = fault;
  for (const name of ["canvas", "layers", "zoom-buttons"]) find(name).hidden = Boolean(fault);
}

export function showVerdict({ verdict, other_tags: changed }) {
  const words = [VERDICTS[verdict] ?? "undecided", ...(changed ? ["tags changed"] : [])];
  find("verdict").textContent = words.join(", ");
  find("verdict").dataset.verdict = verdict ?? "";
  for (const [name, verdicts] of [["accept", ["accepted", "corrected"]], ["reject", ["rejected"]]]) {
    document.querySelector(`[data-do=${name}]`).setAttribute("aria-pressed", String(verdicts.includes(verdict)));
  }
}

/** Show how many of all images are decided. */
export function showProgress(total, counts) {
  const decided = total - counts.undecided;
  const [share, all] = [decided, total].map((number) => number.toLocaleString("en"));
  find("progress").querySelector("p").textContent = `${share} of ${all} decided`;
  find("progress").querySelector("i").style.width = `${(100 * decided) / Math.max(1, total)}%`;
}

export function showSaving(state, message = "") {
  const words = { waiting: "Saving …", saving: "Saving …", saved: "All saved", failed: "Not saved" };
  find("saving").textContent = words[state];
  find("saving").dataset.state = state;
  if (state !== "failed" && state !== "saved") return;
  find("fault").hidden = state === "saved";
  find("fault").querySelector("p").textContent = message;
}

/** Show an error about the open image; "" removes it. */
export function showTrouble(message) {
  find("trouble").hidden = !message;
  find("trouble").textContent = message;
}

/** Show a short message for a moment. */
export function showNote(text) {
  speak(text);
  find("note").textContent = text;
  find("note").hidden = false;
  clearTimeout(noted);
  noted = setTimeout(() => (find("note").hidden = true), NOTE);
}
