// The first screen: the map, and beside it a random sample, or the pictures of what was selected or filtered.
import { bytes, imagesOf, json, pictureOf } from "./api.js";
import { openMap } from "./map.js";
import { counted, tile } from "./tiles.js";

const SAMPLE = 24; // pictures beside the map, and how many more come at once
const $ = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Numbers from 0 to 1 that depend on the seed alone (mulberry32).
function numbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Explorer {
  constructor(about, columns, setStatus) {
    Object.assign(this, { about, columns, setStatus });
    this.seed = parseInt(about.version.slice(0, 7), 16); // the same first screen for the same collection
    this.selected = null;
    this.shuffled = [];
    this.count = SAMPLE;
    this.latest = 0;
    this.isPlaced = false;
    this.mode = "move";
    this.map = openMap($("plane"), $("tip"), {
      columns,
      pictureOf: about.pictures ? (row) => pictureOf(about, row) : null,
      nameOf: async (row) => (await json(`api/images?start=${row}&count=1`))[0].path,
      choose: (row) => (location.hash = `near/${row}`),
      select: (rows) => this.select(rows),
      mode: () => this.mode,
    });
    $("kinds").hidden = about.maps.length < 2;
    $("kind").replaceChildren(...about.maps.map((kind) => new Option(kind.toUpperCase(), kind)));
    $("kind").addEventListener("change", () => this.place());
    for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => this.take(button));
    $("zoom-in").addEventListener("click", () => this.map.zoom(1.4));
    $("zoom-out").addEventListener("click", () => this.map.zoom(1 / 1.4));
    $("whole").addEventListener("click", () => this.map.reset());
    $("again").addEventListener("click", () => (this.selected ? this.map.clear() : this.shuffle(this.seed + 1)));
    $("more").addEventListener("click", () => this.fill(this.count + SAMPLE));
  }

  async show() {
    if (this.isPlaced) {
      this.map.draw();
      return this.describe();
    }
    this.isPlaced = true;
    await Promise.all([this.place(), this.shuffle(this.seed)]);
  }

  // Load the points of the chosen kind of map.
  async place() {
    const kind = $("kind").value || "pca";
    let raw;
    while ((raw = await bytes(`api/map?kind=${kind}`)) === null) {
      this.setStatus(`${kind.toUpperCase()} is being computed …`);
      await pause(1000);
      if ($("kind").value !== kind) return;
    }
    const placed = this.map.place(new Float32Array(raw));
    $("plane").ariaLabel = `Map of ${placed} images, ${kind.toUpperCase()}`;
    this.selected = null;
    this.describe();
  }

  take(button) {
    this.mode = button.dataset.mode;
    for (const other of document.querySelectorAll("[data-mode]")) other.ariaPressed = String(other === button);
    $("plane").dataset.mode = this.mode;
  }

  // The colours or the filter have changed.
  async refresh() {
    this.map.recolour();
    if (this.isPlaced) await this.shuffle(this.seed);
  }

  select(rows) {
    this.selected = rows;
    return this.shuffle(this.seed);
  }

  // Order what is shown at random, by the seed, and show the first.
  shuffle(seed) {
    this.seed = seed;
    const rows = this.selected?.filter((row) => this.columns.isShown(row)) ?? this.columns.rows();
    const next = numbers(seed);
    const wanted = Math.min(rows.length, this.selected ? rows.length : 20 * SAMPLE);
    // only the first places are drawn: a hundred thousand rows need no whole shuffle
    for (let n = 0; n < wanted; n++) {
      const other = n + Math.floor(next() * (rows.length - n));
      [rows[n], rows[other]] = [rows[other], rows[n]];
    }
    this.shuffled = rows.slice(0, wanted);
    this.total = rows.length;
    return this.fill(SAMPLE);
  }

  async fill(count) {
    const request = ++this.latest;
    this.count = Math.min(count, this.shuffled.length);
    this.describe();
    const images = await imagesOf(this.shuffled.slice(0, this.count));
    if (request !== this.latest) return;
    $("sample").replaceChildren(...images.map((image) => tile(this.about, this.columns, image)));
  }

  describe() {
    const total = this.total ?? 0;
    const what = this.selected ? "selected" : this.columns.isFiltered ? "that match" : "in all";
    const heading = `${Math.min(this.count, total)} of ${total.toLocaleString("en")} ${what}`;
    $("heading").textContent = total || !this.columns.isFiltered ? heading : "no image matches";
    $("again").textContent = this.selected ? "Give up the selection" : "Shuffle";
    $("more").hidden = this.count >= this.shuffled.length;
    // what is there as a whole is no sample
    const isWhole = !this.selected && !this.columns.isFiltered && total > 0 && this.count >= total;
    $("again").hidden = isWhole;
    if (isWhole) $("heading").textContent = `${total} in all`;
    const sample = this.columns.isFiltered ? `${total.toLocaleString("en")} match` : "a random sample and the map";
    const selection = this.selected ? `${total.toLocaleString("en")} selected, in no order` : sample;
    const chosen = isWhole ? " beside the map" : `: ${selection}`;
    this.setStatus(`${counted(this.about.images)}${chosen}. Drop a photograph anywhere to search.`);
  }
}
