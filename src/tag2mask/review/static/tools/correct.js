// The controls that change the whole mask: removal of small pieces, and a threshold of a CAM.

import { cleaned } from "./clean.js";
import { thresholded } from "./cam.js";

/** The steps of the slider of Clean. */
export const SHARES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]; // percent of the image

const find = (name) => document.getElementById(name);

export class Correct {
  /** `say(text)` shows a short message. */
  constructor({ drawing, layers, panel }, say) {
    Object.assign(this, { drawing, layers, panel, say });
    find("least").max = SHARES.length - 1;
    find("least").addEventListener("input", () => this.clean());
    find("threshold").addEventListener("input", () => this.threshold());
    find("tolerance").addEventListener("input", () => {
      drawing.tolerate(Number(find("tolerance").value));
      this.#shown();
    });
    drawing.tolerance = Number(find("tolerance").value); // of the wand
    this.#shown();
  }

  /** Remove the pieces of the mask that are smaller than the chosen share of the image. */
  clean() {
    this.#shown();
    const mask = this.#mask();
    if (!mask) return;
    let removed = 0;
    this.drawing.adjust("clean", () => {
      const { width, height } = mask;
      const result = cleaned(mask.pixels, width, height, (this.share / 100) * width * height);
      removed = result.removed;
      mask.replace(result.pixels);
    });
    this.say(removed === 1 ? "1 piece removed." : `${removed} pieces removed.`);
  }

  /** Make the selected class the region where its CAM reaches the threshold. */
  async threshold() {
    this.#shown();
    const mask = this.#mask(), { chosen } = this.panel, cam = this.layers.cam(chosen);
    if (!mask || !cam) return;
    try {
      const heat = await cam.map();
      if (mask !== this.drawing.target() || chosen !== this.panel.chosen) return;
      const least = Number(find("threshold").value);
      this.drawing.adjust(`${cam.name} ${chosen}`, () => mask.replace(thresholded(mask, heat, least, chosen)));
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Show which CAM the threshold belongs to, after another class, layer or image. */
  refresh() {
    const cam = this.layers.cam(this.panel.chosen);
    find("threshold").disabled = !cam;
    find("threshold-of").textContent = cam ? `${cam.title}: ${this.panel.name(this.panel.chosen)}` : "No CAM of this class";
  }

  /** Go to the slider of the threshold. */
  focus() {
    const { chosen, classes } = this.panel;
    if (!find("threshold").disabled) find("threshold").focus();
    else if (!classes[chosen - 1]) this.say("The threshold of a CAM changes a class: select one.");
    else this.say(`This image has no CAM of ${classes[chosen - 1].name}: a run makes CAMs of the tags alone.`);
  }

  get share() {
    return SHARES[find("least").value];
  }

  /** The mask to change; it is shown, and a stroke ends. */
  #mask() {
    this.drawing.finish();
    const mask = this.drawing.target();
    if (mask) this.drawing.onBegin?.();
    return mask;
  }

  #shown() {
    find("least-shown").textContent = `< ${this.share} % of the image`;
    find("threshold-shown").textContent = `≥ ${Number(find("threshold").value).toFixed(2)}`;
    find("tolerance-shown").textContent = find("tolerance").value;
  }
}
