// The columns that --keep carried along: which one colours the images, and which images are shown.
import { bytes, json } from "./api.js";
import { CATEGORIES, OTHER, css, onScale, pixel } from "./palette.js";

export const MISSING = 0xffff; // the code of an image without a value
const SCALE_STEPS = 256;

export class Columns {
  constructor(images) {
    this.images = images;
    this.described = []; // until `load`
    this.shown = null; // Uint8Array, 1 where an image is shown; null shows all
    this.active = null; // the described column that colours, with its values
    this.hidden = new Set(); // codes of categories that are not shown
    this.range = [-Infinity, Infinity]; // of a scale
    this.text = "";
    this.withText = null; // Uint8Array of the text's filter
    this.latest = 0; // the answer to an earlier text is dropped
  }

  async load() {
    this.described = await json("api/columns");
  }

  // Colour and caption by a column; "" by none.
  async choose(name) {
    const number = this.described.findIndex((column) => column.name === name);
    this.hidden.clear();
    this.range = [-Infinity, Infinity];
    this.active = null;
    if (number >= 0) {
      const column = this.described[number];
      let values = null;
      if (column.kind !== "text") {
        const raw = await bytes(`api/columns/${number}/values`);
        values = column.kind === "categories" ? new Uint16Array(raw) : new Float32Array(raw);
      }
      this.active = { ...column, labels: column.values, values };
    }
    this.refresh();
  }

  // Show only what has a text in its name or in a kept value.
  async contain(text) {
    const asked = ++this.latest;
    const found = text ? new Uint8Array(await bytes(`api/filter?text=${encodeURIComponent(text)}`)) : null;
    if (asked !== this.latest) return false;
    this.text = text;
    this.withText = found;
    this.refresh();
    return true;
  }

  toggle(code) {
    this.hidden.has(code) ? this.hidden.delete(code) : this.hidden.add(code);
    this.refresh();
  }

  only(code) {
    this.hidden = new Set([...this.active.labels.keys(), MISSING].filter((other) => other !== code));
    this.refresh();
  }

  limit(least, most) {
    this.range = [least, most];
    this.refresh();
  }

  clear() {
    this.hidden.clear();
    this.range = [-Infinity, Infinity];
    this.text = "";
    this.withText = null;
    this.latest++;
    this.refresh();
  }

  // Recompute which images are shown.
  refresh() {
    const { active, hidden, withText } = this;
    const [least, most] = this.range;
    const byScale = active?.kind === "numbers" && (least > -Infinity || most < Infinity);
    if (!withText && !hidden.size && !byScale) {
      this.shown = null;
      return;
    }
    const shown = withText ? withText.slice() : new Uint8Array(this.images).fill(1);
    const values = active?.values;
    if (hidden.size && active.kind === "categories") {
      for (let row = 0; row < shown.length; row++) if (hidden.has(values[row])) shown[row] = 0;
    }
    // a comparison with NaN is false: what has no number is not shown
    if (byScale) for (let row = 0; row < shown.length; row++) if (!(values[row] >= least && values[row] <= most)) shown[row] = 0;
    this.shown = shown;
  }

  get isFiltered() {
    return this.shown !== null;
  }

  isShown(row) {
    return this.shown === null || this.shown[row] === 1;
  }

  // Rows that are shown, in order.
  rows() {
    if (this.shown === null) return Array.from({ length: this.images }, (_, row) => row);
    const found = [];
    for (let row = 0; row < this.images; row++) if (this.shown[row]) found.push(row);
    return found;
  }

  colourOf(code) {
    return CATEGORIES[code] ?? OTHER;
  }

  // A pixel for each image, Uint32Array; null without a column that colours.
  pixels() {
    const { active } = this;
    if (!active || active.kind === "text") return null;
    const pixels = new Uint32Array(this.images);
    if (active.kind === "categories") {
      const table = CATEGORIES.map((colour) => pixel(colour));
      const other = pixel(OTHER);
      for (let row = 0; row < pixels.length; row++) pixels[row] = table[active.values[row]] ?? other;
      return pixels;
    }
    const scale = Uint32Array.from({ length: SCALE_STEPS }, (_, n) => pixel(onScale(n / (SCALE_STEPS - 1))));
    const width = active.most - active.least || 1;
    const other = pixel(OTHER);
    for (let row = 0; row < pixels.length; row++) {
      const place = Math.round(((active.values[row] - active.least) / width) * (SCALE_STEPS - 1));
      pixels[row] = scale[Math.min(Math.max(place, 0), SCALE_STEPS - 1)] ?? other;
    }
    return pixels;
  }

  // The CSS colour of one image; null without a column that colours.
  colourOfRow(row) {
    const { active } = this;
    if (!active || active.kind === "text") return null;
    const value = active.values[row];
    if (active.kind === "categories") return css(this.colourOf(value));
    return css(Number.isFinite(value) ? onScale((value - active.least) / (active.most - active.least || 1)) : OTHER);
  }

  // What stands under a picture beside its name.
  captionOf(image) {
    return this.active ? (image.kept?.[this.active.name] ?? "no value") : "";
  }
}
