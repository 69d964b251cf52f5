// Pictures with their names, as a grid or as a list.
import { json, pictureOf } from "./api.js";
import { dot } from "./legend.js";

export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export const counted = (images) => `${images.toLocaleString("en")} image${images === 1 ? "" : "s"}`;

export function thumbnail(about, row, name, status, error) {
  const shown = element("div", "shown");
  if (status !== undefined && status !== "ok" && status !== "duplicate") {
    shown.textContent = `cannot be read: ${status}`;
    shown.title = error ?? "";
    return shown;
  }
  if (!about.pictures) {
    shown.textContent = "no thumbnails";
    return shown;
  }
  const image = element("img");
  image.loading = "lazy";
  image.decoding = "async";
  image.alt = name;
  image.addEventListener("error", async () => {
    shown.textContent = "cannot be shown";
    await json(pictureOf(about, row)).catch((reason) => (shown.textContent = reason.message));
  });
  image.src = pictureOf(about, row);
  shown.append(image);
  return shown;
}

const SHORT = 24; // characters of a path that fit; of a longer one the end tells images apart

const shortened = (path) => (path.length > SHORT && path.includes("/") ? `…/${path.slice(path.lastIndexOf("/") + 1)}` : path);

// A picture as a button that asks for its neighbours. A neighbour has a rank.
export function tile(about, columns, image) {
  const { row, path, cosine, rank, status, error } = image;
  const label = element("div", "label", element("bdi", "name", shortened(path)));
  const button = element("button", "tile", thumbnail(about, row, path, status, error), label);
  button.type = "button";
  button.title = [path, ...Object.entries(image.kept ?? {}).map(([name, value]) => `${name}: ${value}`)].join("\n");
  button.dataset.row = row;
  button.dataset.path = path;
  if (cosine !== undefined) {
    const kind = about.centred ? "centred cosine" : "cosine";
    const score = element("b", "score", `${rank} · ${cosine.toFixed(3)}`);
    score.title = `rank ${rank}, ${kind} ${cosine.toFixed(3)}`;
    label.append(score);
    const meter = element("meter");
    Object.assign(meter, { min: 0, max: 1, value: Math.max(cosine, 0), ariaLabel: `${kind} ${cosine.toFixed(3)}` });
    button.append(meter);
  }
  if (columns.active) {
    const caption = element("div", "caption", element("bdi", "", columns.captionOf(image)));
    const colour = columns.colourOfRow(row);
    if (colour) caption.prepend(dot(colour));
    button.append(caption);
  }
  if (status !== undefined && status !== "ok") {
    label.append(element("b", "", status));
    button.disabled = true;
  }
  button.addEventListener("click", () => (location.hash = `near/${row}`));
  return element("li", "", button);
}

// the arrow keys move the focus from tile to tile, along rows and columns
export function moveWithArrows(list) {
  list.addEventListener("keydown", (event) => {
    const tiles = [...list.querySelectorAll(".tile:not([disabled])")];
    const here = tiles.indexOf(document.activeElement);
    const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (here < 0 || !step || !tiles[here + step]) return;
    event.preventDefault();
    tiles[here + step].focus();
  });
}
