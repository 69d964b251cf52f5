// Uses the map, the filters and the captions of `zoo serve` in headless Chromium, and prints what it saw as JSON:
//
//     node drive_explore.mjs URL CHROMIUM FOLDER
//
// FOLDER gets the screenshots explore.png, phone.png and dark.png. Requests to any other host are counted and refused.
import { chromium } from "playwright-core";

const [url, executablePath, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const saw = { foreign: [], errors: [], alerts: 0 };

async function open(options) {
  const page = await browser.newPage({ viewport: { width: 1180, height: 860 }, colorScheme: "light", ...options });
  await page.route("**/*", (route) => {
    const target = route.request().url();
    if (target.startsWith(url) || target.startsWith("blob:") || target.startsWith("data:")) return route.continue();
    saw.foreign.push(target);
    return route.abort();
  });
  page.on("pageerror", (error) => saw.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && saw.errors.push(message.text()));
  page.on("dialog", (dialog) => saw.alerts++ || dialog.dismiss());
  // the numbers of points in view, all and in full colour, after each frame
  await page.addInitScript(() => {
    addEventListener("DOMContentLoaded", () => {
      document.getElementById("plane").addEventListener("painted", ({ detail }) => (window.painted = detail));
    });
  });
  await page.goto(url);
  await page.waitForSelector("#sample .tile");
  await page.waitForFunction(() => window.painted?.count > 0);
  return page;
}

const page = await open();
const heading = () => page.textContent("#heading");
const rows = () => page.$$eval("#sample .tile", (tiles) => tiles.map((tile) => Number(tile.dataset.row)));
const sorted = (values) => values.sort((a, b) => a - b);
const headed = (text) => page.waitForFunction((t) => document.getElementById("heading").textContent.includes(t), text);
const painted = async () => {
  await page.waitForTimeout(150); // a frame, and what it starts
  return page.evaluate(() => window.painted);
};
const refilled = (action) => Promise.all([page.waitForResponse((answer) => answer.url().includes("api/rows")), action()]);

saw.sample = await rows();
await refilled(() => page.click("#again"));
await page.waitForTimeout(100);
saw.shuffled = await rows();
saw.names = await page.$$eval("#sample .name", (names) => names.map((name) => name.textContent));
saw.elements = await page.$$eval("#sample .name", (names) => names.reduce((sum, name) => sum + name.children.length, 0));

// colours and captions
await refilled(() => page.selectOption("#colour", "kind"));
saw.legend = await page.$$eval("#legend .entry", (entries) =>
  entries.map((entry) => [entry.querySelector("bdi").textContent, entry.querySelector("small").textContent, entry.ariaPressed]),
);
saw.colours = await page.$$eval("#legend .dot", (dots) => dots.map((dot) => getComputedStyle(dot).backgroundColor));
await page.waitForTimeout(200);
saw.captions = await page.$$eval("#sample .tile", (tiles) =>
  tiles.map((tile) => [Number(tile.dataset.row), tile.querySelector(".caption bdi").textContent, getComputedStyle(tile.querySelector(".dot")).backgroundColor]),
);
await page.screenshot({ path: `${folder}/explore.png` });

// values are hidden by a click, and one is left alone by a double click
await refilled(() => page.click("#legend .entry:first-child"));
await page.waitForTimeout(200);
saw.withoutFirst = sorted(await rows());
saw.pressed = await page.getAttribute("#legend .entry:first-child", "aria-pressed");
saw.painted = await painted();
await page.dblclick("#legend .entry:nth-child(2)");
await page.waitForTimeout(500);
saw.secondAlone = sorted(await rows());
await refilled(() => page.click("#clear"));

// a scale, by its ends
await refilled(() => page.selectOption("#colour", "price"));
saw.ends = await page.$$eval("#legend input", (inputs) => inputs.map((input) => [input.ariaLabel, input.valueAsNumber]));
await refilled(async () => {
  await page.fill("#legend input:first-child", "10");
  await page.keyboard.press("Tab");
});
await page.waitForTimeout(200);
saw.fromTen = sorted(await rows());
await refilled(() => page.click("#clear"));

// text, in the list of all images too
await page.fill("#text", "no such text");
await headed("no image matches");
await refilled(() => page.fill("#text", "ONERROR"));
await page.waitForTimeout(200);
saw.byText = sorted(await rows());
await page.click("#tab-all");
await page.waitForSelector("#grid .tile");
await page.click("#as-list");
saw.list = await page.$$eval("#grid .tile", (tiles) => tiles.map((tile) => [Number(tile.dataset.row), getComputedStyle(tile).display]));
saw.pages = await page.textContent("#status");
await page.click("#grid .tile");
await page.waitForSelector("#found .tile");
saw.near = await page.$$eval("#found .tile", (tiles) => tiles.map((tile) => Number(tile.dataset.row)));
saw.scored = await page.getAttribute("#found .score", "title");
await page.fill("#text", "");
await page.waitForFunction(() => document.querySelectorAll("#found .tile").length > 5);
await page.click("#tab-map");

// moving and zooming by the mouse
const box = await page.locator("#plane").boundingBox();
const middle = [box.x + box.width / 2, box.y + box.height / 2];
saw.whole = await painted();
await page.mouse.move(...middle);
for (let n = 0; n < 2; n++) await page.mouse.wheel(0, -400);
saw.zoomed = await painted();
await page.mouse.down();
await page.mouse.move(middle[0] + 5000, middle[1], { steps: 5 });
await page.mouse.up();
saw.moved = await painted();
await page.click("#whole");
saw.again = await painted();

// a region, by rectangle, lasso and keyboard
await page.click('[data-mode="rectangle"]');
await page.mouse.move(box.x + 2, box.y + 60);
await page.mouse.down();
await page.mouse.move(middle[0], box.y + box.height - 2, { steps: 4 });
await page.mouse.up();
await headed("selected");
await page.waitForTimeout(300);
saw.left = [sorted(await rows()), await heading()];
await page.click("#again");
await headed("in all");
await page.click('[data-mode="lasso"]');
await page.mouse.move(middle[0], box.y + 60);
await page.mouse.down();
for (const [x, y] of [[box.x + box.width - 2, box.y + 60], [box.x + box.width - 2, box.y + box.height - 2], [middle[0], box.y + box.height - 2]]) {
  await page.mouse.move(x, y, { steps: 3 });
}
await page.mouse.up();
await headed("selected");
await page.waitForTimeout(300);
saw.right = [sorted(await rows()), await heading()];
await page.focus("#plane");
await page.keyboard.press("Escape");
await headed("in all");
await page.keyboard.press("s");
await headed("selected");
saw.inView = await heading();
await page.keyboard.press("Escape");
await headed("in all");

// a second kind of map
saw.kinds = await page.$$eval("#kind option", (options) => options.map((option) => option.value));
if (saw.kinds.length > 1) {
  await page.selectOption("#kind", "umap");
  await page.waitForFunction(() => document.getElementById("plane").ariaLabel.includes("UMAP"), null, { timeout: 120000 });
  saw.umap = await painted();
}

// every control has a name, and no identifier is there twice
saw.nameless = await page.$$eval("button, input, select, canvas, section, ol, img", (controls) =>
  controls
    .filter((one) => !one.closest("[hidden]"))
    .filter((one) => one.tagName !== "IMG" || one.alt === "")
    .filter((one) => !one.textContent.trim() && !one.ariaLabel && !one.getAttribute("aria-labelledby") && !one.labels?.length && !one.title)
    .map((one) => one.outerHTML.slice(0, 80)),
);
saw.twice = await page.$$eval("[id]", (found) => found.map((one) => one.id).filter((id, n, all) => all.indexOf(id) !== n));

// the same first screen for the next visitor, on a telephone, with two fingers
const phone = await open({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
saw.nextSample = await phone.$$eval("#sample .tile", (tiles) => tiles.map((tile) => Number(tile.dataset.row)));
// The highest point of the whole map, with half of a picture above it, begins below the buttons.
saw.belowButtons = await page.evaluate(async () => {
  const { Projection } = await import("./projection.js");
  const canvas = document.querySelector("#map canvas");
  const at = new Projection(() => [canvas.clientWidth, canvas.clientHeight]);
  at.place(new Float32Array([0, 1]));
  const buttons = document.getElementById("tools").getBoundingClientRect();
  return at.toScreen(0)[1] - 23 - (buttons.bottom - canvas.getBoundingClientRect().top);
});

saw.sideways = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
const touched = await phone.locator("#plane").boundingBox();
const client = await phone.context().newCDPSession(phone);
const touch = (type, apart) => {
  const [x, y] = [touched.x + touched.width / 2, touched.y + touched.height / 2];
  const points = apart === null ? [] : [{ x: x - apart, y, id: 1 }, { x: x + apart, y, id: 2 }];
  return client.send("Input.dispatchTouchEvent", { type, touchPoints: points });
};
await touch("touchStart", 12);
for (let apart = 12; apart <= 170; apart += 8) await touch("touchMove", apart);
await touch("touchEnd", null);
await phone.waitForTimeout(300);
saw.pinched = await phone.evaluate(() => window.painted);
await phone.click("#whole");
await phone.selectOption("#colour", "kind");
await phone.waitForTimeout(500);
await phone.screenshot({ path: `${folder}/phone.png` });

// tall and wide pictures keep their tiles square, and neighbours begin on the first screen
await phone.click("#tab-all");
await phone.waitForSelector("#grid .tile");
await phone.$$eval("#grid img", (images) =>
  Promise.all(
    [[9, 900], [900, 9]].map(async ([width, height], n) => {
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      const blob = await new Promise((done) => canvas.toBlob(done));
      Object.assign(images[n], { loading: "eager", src: URL.createObjectURL(blob) });
      await images[n].decode();
    }),
  ),
);
saw.ratios = await phone.$$eval("#grid .shown", (boxes) => boxes.map((box) => box.offsetHeight / box.offsetWidth));
saw.pageLine = await phone.$eval("#page", (input) => input.parentElement.offsetHeight - input.offsetHeight);
await phone.click(`#grid .tile[data-row="${saw.ratios.length - 1}"]`);
await phone.waitForSelector("#found .tile");
await phone.$eval("#query", (image) => image.decode());
saw.foundFrom = await phone.$eval("#found .tile", (one) => one.getBoundingClientRect().top + scrollY);
const dark = await open({ colorScheme: "dark" });
await dark.selectOption("#colour", "price");
await dark.waitForTimeout(500);
await dark.screenshot({ path: `${folder}/dark.png` });
await browser.close();
console.log(JSON.stringify(saw));
