// The strip of layers below the image; the selected layer is shown large.

import { getMap } from "./api.js";
import { element } from "./elements.js";
import { paintLabels, packed } from "./view.js";

const SMALL = 132, SIDE = 192; // pixels of a small picture, and of its labels
const LARGE = 1600; // of labels for viewing

export class Layers {
  /** `shown(layer)` is called when another layer is shown large. */
  constructor(view, panel, heatColours, shown) {
    this.view = view;
    this.panel = panel;
    this.scale = heatColours;
    this.shown = shown;
    this.current = "edit";
    this.asHeat = false;
    this.strip = document.getElementById("layers");
  }

  /** Show the layers of an image. */
  open(details, image, mask) {
    Object.assign(this, { details, image, mask, maps: new Map() });
    this.list = [
      { name: "image", title: "Image" }, { name: "edit", title: "Your mask" }, ...details.layers,
    ];
    if (!this.list.some(({ name }) => name === this.current)) this.current = "edit";
    this.strip.replaceChildren(...this.list.map((layer) => this.#button(layer)));
    this.show(this.current);
  }

  get layer() {
    return this.list?.find(({ name }) => name === this.current);
  }

  step(by) {
    const index = this.list.findIndex(({ name }) => name === this.current);
    this.show(this.list[(index + by + this.list.length) % this.list.length].name);
  }

  /** Show a layer large. */
  async show(name) {
    this.current = name;
    for (const button of this.strip.children) {
      button.setAttribute("aria-pressed", String(button.dataset.layer === name));
    }
    const { details } = this;
    const layer = this.layer;
    if (layer.heats?.length) this.lastCam = name;
    this.shown(layer);
    if (name === "edit" || name === "image") {
      this.view.lay(name === "edit" ? { map: this.mask } : {});
      return;
    }
    const id = layer.labels && !this.asHeat ? null : this.heatClass(layer);
    try {
      const laid = id !== null ? { heat: await this.#heat(layer, id) } : { map: await this.#labels(layer, LARGE) };
      if (details === this.details && name === this.current) this.view.lay(laid);
    } catch (error) {
      if (details === this.details && name === this.current) {
        this.view.lay();
        this.failed?.(error.message);
      }
    }
  }

  /** Show CAMs as a heat map of the selected class, or as regions. */
  setHeat(asHeat) {
    this.asHeat = asHeat;
    this.refresh();
  }

  /** Show the selected layer again after a change. */
  refresh() {
    if (this.list) this.show(this.current);
  }

  /** The labels of the selected layer at the size of the image. */
  whole() {
    return this.#labels(this.layer, null);
  }

  /** Redraw the small picture of the mask. */
  redrawMask() {
    const canvas = this.strip.querySelector("[data-layer=edit] canvas");
    if (canvas) this.#drawSmall(canvas, { map: this.mask });
  }

  /** The class of a layer's heat map: that of the brush, otherwise the first; null without heat maps. */
  heatClass(layer) {
    if (!layer.heats.length) return null;
    const { chosen } = this.panel;
    return layer.heats.includes(chosen) ? chosen : layer.heats.find((id) => id > 0) ?? layer.heats[0];
  }

  async #labels(layer, side) {
    const { width, height } = this.mask;
    const whole = side === null || side >= Math.max(width, height);
    return this.#cached(`${layer.name} ${whole ? "" : side}`, () =>
      getMap(`api/images/${this.details.index}/labels/${layer.name}${whole ? "" : `?side=${side}`}`));
  }

  /** The CAM of a class in the layer shown last, otherwise in the first: {name, title, map}; null without any. */
  cam(id) {
    const layers = (id > 0 && this.list?.filter(({ heats }) => heats?.includes(id))) || [];
    const layer = layers.find(({ name }) => name === this.lastCam) ?? layers[0];
    return layer ? { ...layer, map: () => this.#heatMap(layer, id) } : null;
  }

  async #heatMap(layer, id) {
    return this.#cached(`${layer.name} CAM ${id}`, () =>
      getMap(`api/images/${this.details.index}/heat/${layer.name}/${id}`));
  }

  async #heat(layer, id) {
    return this.#cached(`${layer.name} heat ${id}`, async () => this.#heatPicture(await this.#heatMap(layer, id)));
  }

  /** Request an answer once and cache it. */
  #cached(key, ask) {
    if (!this.maps.has(key)) {
      const asked = ask();
      const { maps } = this;
      maps.set(key, asked);
      asked.catch(() => maps.delete(key));
    }
    return this.maps.get(key);
  }

  #heatPicture({ width, height, pixels }) {
    const picture = element("canvas", { width, height });
    const data = new ImageData(width, height);
    const target = new Uint32Array(data.data.buffer);
    const colours = this.scale.map((colour, value) => packed(colour, Math.min(255, value * 4)));
    for (let index = 0; index < pixels.length; index++) target[index] = colours[pixels[index]];
    picture.getContext("2d").putImageData(data, 0, 0);
    return picture;
  }

  #button(layer) {
    const button = element("button", { type: "button" });
    button.dataset.layer = layer.name;
    const { width, height } = this.mask, factor = SMALL / Math.max(width, height);
    const canvas = element("canvas", {
      width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)),
    });
    button.append(canvas, element("span", { textContent: layer.title }));
    button.addEventListener("click", () => this.show(layer.name));
    this.#fillSmall(canvas, layer);
    return button;
  }

  async #fillSmall(canvas, layer) {
    if (layer.name === "image" || layer.name === "edit") {
      this.#drawSmall(canvas, layer.name === "edit" ? { map: this.mask } : {});
      return;
    }
    this.#drawSmall(canvas, {});
    try {
      const id = layer.labels ? null : layer.heats.find((each) => each > 0) ?? layer.heats[0];
      if (id === undefined) return;
      if (id === null) this.#drawSmall(canvas, { map: await this.#labels(layer, SIDE) });
      else this.#drawSmall(canvas, { heat: await this.#heat(layer, id) });
    } catch {
      canvas.parentElement?.append(element("span", { className: "remark", textContent: "cannot be read" }));
    }
  }

  #drawSmall(canvas, { map = null, heat = null }) {
    const context = canvas.getContext("2d"), { width, height } = canvas;
    context.drawImage(this.image, 0, 0, width, height);
    if (heat) {
      context.globalAlpha = 0.7;
      context.drawImage(heat, 0, 0, width, height);
      context.globalAlpha = 1;
    }
    if (!map) return;
    const layer = element("canvas", { width, height }), data = new ImageData(width, height);
    const colours = this.view.colours.map((colour) => (colour ? ((colour & 0xffffff) | 0xa5000000) >>> 0 : 0));
    const box = { left: 0, top: 0, right: width, bottom: height };
    paintLabels(new Uint32Array(data.data.buffer), box, map, width / map.width, { x: 0, y: 0 }, colours, 1);
    layer.getContext("2d").putImageData(data, 0, 0);
    context.drawImage(layer, 0, 0);
  }
}
