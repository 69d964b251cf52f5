// The page of `zoo serve`: nearest images, a map, all images. The URL's fragment says what is shown, so that the
// browser's back button works: #near, #near/17 (neighbours of image 17), #map, #all/3 (page 3).
import { openMap } from "./map.js";

const PER_PAGE = 60;
const TABS = ["near", "map", "all"];
const $ = (id) => document.getElementById(id);
let about;
let map;
let latestRequest = 0; // the response to an earlier request is dropped

async function json(url, options) {
  const response = await fetch(url, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(typeof body.detail === "string" ? body.detail : `${response.status} for ${url}`);
  return body;
}

function setStatus(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

const picture = (row, size = "small") => `pictures/${about.version}/${size}/${row}`;

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function thumbnail(row, name, status, error) {
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
    await json(picture(row)).catch((reason) => (shown.textContent = reason.message));
  });
  image.src = picture(row);
  shown.append(image);
  return shown;
}

function tile({ row, path, cosine, status, error }, place) {
  const label = element("div", "label", element("span", "", path));
  const button = element("button", "tile", thumbnail(row, path, status, error), label);
  button.title = path;
  button.dataset.row = row;
  if (cosine !== undefined) {
    const kind = about.centred ? "centred cosine" : "cosine";
    label.append(element("b", "", `${place + 1} · ${cosine.toFixed(3)}`));
    const meter = element("meter");
    Object.assign(meter, { min: 0, max: 1, value: Math.max(cosine, 0), ariaLabel: `${kind} ${cosine.toFixed(3)}` });
    button.append(meter);
  }
  if (status !== undefined && status !== "ok") {
    label.append(element("b", "", status));
    button.disabled = true;
  }
  button.addEventListener("click", () => (location.hash = `near/${row}`));
  return element("li", "", button);
}

// the arrow keys move the focus from tile to tile, along rows and columns
function moveWithArrows(list) {
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

function showQuery(source, name) {
  $("query").hidden = !source;
  $("query").src = source || "data:,";
  $("query").alt = name;
  $("asked").textContent = name;
}

async function showNeighbours(question, name) {
  const request = ++latestRequest;
  setStatus("searching …");
  const started = performance.now();
  try {
    const found = await question();
    if (request !== latestRequest) return;
    $("found").replaceChildren(...found.map(tile));
    const took = Math.round(performance.now() - started);
    setStatus(found.length ? `${found.length} nearest to ${name}, in ${took} ms` : `${name} has no direction to compare`);
  } catch (error) {
    if (request !== latestRequest) return;
    $("found").replaceChildren();
    setStatus(`${name}: ${error.message}`, true);
  }
}

async function searchFor(file) {
  if (location.hash !== "#near") history.pushState(null, "", "#near");
  openTab("near");
  const old = $("query").src;
  showQuery(URL.createObjectURL(file), file.name);
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
  await showNeighbours(
    () => json("api/search?k=24", { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } }),
    file.name,
  );
}

async function showRow(row) {
  const [item] = await json(`api/images?start=${row}&count=1`);
  if (!item) return setStatus(`there is no image ${row}`, true);
  showQuery(about.pictures ? picture(row, "large") : "", item.path);
  await showNeighbours(() => json(`api/neighbours/${row}?k=24`), item.path);
}

async function showPage(number) {
  const pages = Math.max(1, Math.ceil(about.images / PER_PAGE));
  const page = Math.min(Math.max(number || 1, 1), pages);
  const request = ++latestRequest;
  const items = await json(`api/images?start=${(page - 1) * PER_PAGE}&count=${PER_PAGE}`);
  if (request !== latestRequest) return;
  $("grid").replaceChildren(...items.map(tile));
  $("page").value = page;
  $("page").max = $("pages").textContent = pages;
  $("back").disabled = page === 1;
  $("on").disabled = page === pages;
  setStatus(items.length ? `images ${items[0].row + 1} to ${items.at(-1).row + 1} of ${about.images}` : "no images");
}

function openTab(name) {
  for (const tab of TABS) {
    $(tab).hidden = tab !== name;
    $(`tab-${tab}`).setAttribute("aria-selected", tab === name);
    $(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
}

async function showMap() {
  setStatus("loading the map …");
  map ??= await openMap($("plane"), $("tip"), {
    images: about.images,
    pictureOf: about.pictures ? (row) => picture(row) : null,
    nameOf: async (row) => (await json(`api/images?start=${row}&count=1`))[0].path,
    choose: (row) => (location.hash = `near/${row}`),
  });
  map.draw();
  setStatus(`${map.count} images`);
}

async function route() {
  const [name, number] = location.hash.slice(1).split("/");
  const tab = TABS.includes(name) ? name : "near";
  openTab(tab);
  try {
    if (tab === "all") await showPage(Number(number));
    else if (tab === "map") await showMap();
    else if (number !== undefined) await showRow(Number(number) || 0);
    else if (!$("found").children.length) setStatus("Drop a photograph, or start from the map or from all images.");
  } catch (error) {
    setStatus(error.message, true);
  }
}

for (const [n, tab] of TABS.entries()) {
  $(`tab-${tab}`).addEventListener("click", () => (location.hash = tab));
  $(`tab-${tab}`).addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = TABS[(n + step + TABS.length) % TABS.length];
    location.hash = next;
    $(`tab-${next}`).focus();
  });
}
$("photo").addEventListener("change", () => $("photo").files[0] && searchFor($("photo").files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) searchFor(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => event.clipboardData.files[0] && searchFor(event.clipboardData.files[0]));
$("query").addEventListener("error", () => ($("query").hidden = true));
$("back").addEventListener("click", () => (location.hash = `all/${Number($("page").value) - 1}`));
$("on").addEventListener("click", () => (location.hash = `all/${Number($("page").value) + 1}`));
$("page").addEventListener("change", () => (location.hash = `all/${$("page").value}`));
moveWithArrows($("found"));
moveWithArrows($("grid"));

try {
  about = await json("api/collection");
  document.title = `${about.name} · siamese-zoo`;
  $("name").textContent = about.name;
  const how = about.index === "exact" ? "exact search" : "approximate search";
  $("about").textContent = `${about.images.toLocaleString("en")} images · ${about.model} · ${how}`;
  addEventListener("hashchange", route);
  await route();
} catch (error) {
  setStatus(error.message, true);
}
