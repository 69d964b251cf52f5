// The page of `zoo serve`: explore (the map and a sample), nearest images, all images. The URL's fragment says what is
// shown, so that the browser's back button works: #map, #near, #near/17 (neighbours of image 17), #all/3 (page 3).
import { imagesOf, json, pictureOf } from "./api.js";
import { Columns } from "./columns.js";
import { Explorer } from "./explore.js";
import { showLegend } from "./legend.js";
import { counted, moveWithArrows, tile } from "./tiles.js";

const PER_PAGE = 60;
const TABS = ["map", "near", "all"];
const NEIGHBOURS = 24;
const MOST = 200; // neighbours that the server gives at once
const PAUSE = 250; // milliseconds without a key before a text filters
const $ = (id) => document.getElementById(id);
let about;
let columns;
let explorer;
let question = null; // asks again for the neighbours that are shown, when the filter changes
let latestRequest = 0; // the response to an earlier request is dropped
let openedTab = "map";

// A name inside a sentence: its own direction of writing must not turn the rest around.
const quoted = (name) => `\u2068${name.replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd")}\u2069`;

function setStatus(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

function showQuery(source, name) {
  $("query").hidden = !source;
  $("query").src = source || "data:,";
  $("query").alt = name;
  $("asked").textContent = name;
}

// `ask` gets the neighbours, so many of them; where a filter is on, more are asked for than are shown.
async function showNeighbours(ask, name) {
  const request = ++latestRequest;
  question = () => showNeighbours(ask, name);
  setStatus("searching …");
  const started = performance.now();
  try {
    const ranked = (await ask(columns.isFiltered ? MOST : NEIGHBOURS)).map((image, n) => ({ ...image, rank: n + 1 }));
    if (request !== latestRequest) return;
    const found = ranked.filter(({ row }) => columns.isShown(row)).slice(0, NEIGHBOURS);
    $("found").replaceChildren(...found.map((image) => tile(about, columns, image)));
    const took = Math.round(performance.now() - started);
    const score = about.centred ? "rank and centred cosine" : "rank and cosine";
    const which = columns.isFiltered ? `that match, of the ${ranked.length} nearest to` : "nearest to";
    const text = `${found.length} ${which} ${quoted(name)}, by ${score}, in ${took} ms`;
    setStatus(ranked.length ? text : `${quoted(name)} has no direction to compare`);
  } catch (error) {
    if (request !== latestRequest) return;
    $("found").replaceChildren();
    setStatus(`${quoted(name)}: ${error.message}`, true);
  }
}

async function searchFor(file) {
  if (location.hash !== "#near") history.pushState(null, "", "#near");
  openTab("near");
  const old = $("query").src;
  showQuery(URL.createObjectURL(file), file.name);
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
  const options = { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } };
  await showNeighbours((k) => json(`api/search?k=${k}`, options), file.name);
}

async function showRow(row) {
  const [item] = await json(`api/images?start=${row}&count=1`);
  if (!item) return setStatus(`there is no image ${row}`, true);
  showQuery(about.pictures ? pictureOf(about, row, "large") : "", item.path);
  await showNeighbours((k) => json(`api/neighbours/${row}?k=${k}`), item.path);
}

async function showPage(number) {
  const rows = columns.isFiltered ? columns.rows() : null;
  const total = rows?.length ?? about.images;
  const pages = Math.max(1, Math.ceil(total / PER_PAGE));
  const page = Math.min(Math.max(number || 1, 1), pages);
  const request = ++latestRequest;
  const first = (page - 1) * PER_PAGE;
  const items = rows ? await imagesOf(rows.slice(first, first + PER_PAGE)) : await json(`api/images?start=${first}&count=${PER_PAGE}`);
  if (request !== latestRequest) return;
  $("grid").replaceChildren(...items.map((image) => tile(about, columns, image)));
  $("page").value = page;
  $("page").max = $("pages").textContent = pages;
  $("back").disabled = page === 1;
  $("on").disabled = page === pages;
  const which = rows ? `images that match, of ${about.images}` : "";
  const none = `none of ${counted(about.images)} ${rows ? "matches" : ""}`;
  setStatus(items.length ? `images ${first + 1} to ${first + items.length} of ${total} ${which}` : none);
}

function openTab(name) {
  openedTab = name;
  for (const tab of TABS) {
    $(tab).hidden = tab !== name;
    $(`tab-${tab}`).ariaSelected = String(tab === name);
    $(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
}

async function route() {
  const [name, number] = location.hash.slice(1).split("/");
  openTab(TABS.includes(name) ? name : "map");
  latestRequest++;
  try {
    if (openedTab === "all") await showPage(Number(number));
    else if (openedTab === "map") await explorer.show();
    else if (number !== undefined) await showRow(Number(number) || 0);
    else if (question) await question();
    else setStatus("Drop a photograph, or start from the map or from all images.");
  } catch (error) {
    setStatus(error.message, true);
  }
}

// A tile that was chosen is gone with its view: the keyboard goes on at the neighbours, or at the tile on the way back.
function keepFocus(oldURL) {
  if (document.activeElement !== document.body) return;
  const list = $({ map: "sample", near: "found", all: "grid" }[openedTab]);
  const left = list.querySelector(`[data-row="${Number(oldURL.split("#near/")[1])}"]`);
  const next = openedTab === "near" ? list.querySelector(".tile") : left;
  (next ?? $(`tab-${openedTab}`)).focus({ preventScroll: next !== left });
}

// Show everything again after the column or the filter has changed.
async function refresh() {
  $("clear").hidden = !columns.isFiltered;
  try {
    const shown = explorer.refresh();
    if (openedTab === "all") await showPage(1);
    if (openedTab === "near") await question?.();
    await shown;
  } catch (error) {
    setStatus(error.message, true);
  }
}

function openFilters() {
  $("colouring").hidden = !columns.described.length;
  const names = columns.described.map(({ name, kind }) => new Option(kind === "text" ? `${name} (caption)` : name, name));
  $("colour").replaceChildren(new Option("nothing", ""), ...names);
  $("colour").addEventListener("change", async () => {
    await columns.choose($("colour").value).catch((error) => setStatus(error.message, true));
    showLegend($("legend"), columns, refresh);
    await refresh();
  });
  let timer;
  $("text").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const isLatest = await columns.contain($("text").value.trim()).catch((error) => setStatus(error.message, true));
      if (isLatest) await refresh();
    }, PAUSE);
  });
  $("clear").addEventListener("click", () => {
    $("text").value = "";
    columns.clear();
    showLegend($("legend"), columns, refresh);
    refresh();
    $("text").focus();
  });
}

function listen() {
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
  $("ask").addEventListener("click", () => $("photo").click());
  $("photo").addEventListener("change", () => $("photo").files[0] && searchFor($("photo").files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) searchFor(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => event.clipboardData.files[0] && searchFor(event.clipboardData.files[0]));
  $("query").addEventListener("error", () => ($("query").hidden = true));
  $("back").addEventListener("click", () => (location.hash = `all/${Number($("page").value) - 1}`));
  $("on").addEventListener("click", () => (location.hash = `all/${Number($("page").value) + 1}`));
  $("page").addEventListener("change", () => (location.hash = `all/${$("page").value}`));
  $("as-list").addEventListener("click", () => {
    const isList = $("grid").classList.toggle("list");
    $("as-list").ariaPressed = String(isList);
  });
  for (const list of ["sample", "found", "grid"]) moveWithArrows($(list));
}

try {
  about = await json("api/collection");
  document.title = `${about.name} · siamese-zoo`;
  $("name").textContent = about.name;
  const how = about.index === "exact" ? "exact search" : "approximate search";
  $("about").textContent = `${counted(about.images)} · ${about.model} · ${how}`;
  columns = new Columns(about.images);
  explorer = new Explorer(about, columns, (text) => openedTab === "map" && setStatus(text));
  listen();
  addEventListener("hashchange", async ({ oldURL }) => {
    await route();
    keepFocus(oldURL);
  });
  // The first screen does not wait for the columns, which are counted at the first request.
  const opened = route();
  await columns.load();
  openFilters();
  await opened;
} catch (error) {
  setStatus(error.message, true);
}
