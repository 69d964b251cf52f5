// Opens the page of `zoo serve` in headless Chromium and prints times as JSON, in milliseconds:
//
//     node page.mjs URL CHROMIUM
import { chromium } from "playwright-core";

const [url, executablePath] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"] });
const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
await page.addInitScript(() => {
  // the time that a callback of a frame takes, where it painted the map
  const next = requestAnimationFrame;
  window.paintTimes = [];
  window.requestAnimationFrame = (callback) =>
    next((time) => {
      const [before, started] = [window.paints, performance.now()];
      callback(time);
      if (window.paints !== before) window.paintTimes.push(performance.now() - started);
    });
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("plane").addEventListener("painted", ({ detail }) => {
      if (detail.count) window.mapAt ??= performance.now();
      window.paintedAt = performance.now();
      window.paints = (window.paints ?? 0) + 1;
    });
  });
});
await page.goto(url);
await page.waitForFunction(() => window.mapAt && document.querySelectorAll("#sample .tile").length, null, { timeout: 60000 });
const saw = await page.evaluate(() => ({
  first_paint_ms: performance.getEntriesByName("first-contentful-paint")[0].startTime,
  map_ms: window.mapAt,
}));
await page.waitForFunction(() => !document.getElementById("colouring").hidden, null, { timeout: 60000 });

const box = await page.locator("#plane").boundingBox();
const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];

// Drag for some seconds; return the times between the frames.
async function pan() {
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.evaluate(() => {
    window.times = [];
    window.paintTimes = [];
    window.isPanning = true;
    const step = (time) => {
      window.times.push(time);
      if (window.isPanning) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  });
  for (let n = 1; n <= 120; n++) await page.mouse.move(x + 60 * Math.sin(n / 9), y + 40 * Math.cos(n / 7));
  const times = await page.evaluate(() => {
    window.isPanning = false;
    return window.times;
  });
  const paints = (await page.evaluate(() => window.paintTimes)).sort((a, b) => a - b);
  await page.mouse.up();
  return [times.slice(1).map((time, n) => time - times[n]).sort((a, b) => a - b), paints];
}

const at = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

// From an action until the picture has changed.
async function until(action, done) {
  const started = await page.evaluate(() => performance.now());
  await action();
  await page.waitForFunction(done, started, { timeout: 60000 });
  return (await page.evaluate(() => window.paintedAt)) - started;
}

// The times between frames, those without a paint too, and the time that a paint takes.
async function panned(name) {
  const [frames, paints] = await pan();
  saw[`${name}_frame_median_ms`] = at(frames, 0.5);
  saw[`${name}_frame_p95_ms`] = at(frames, 0.95);
  saw[`${name}_paints`] = paints.length;
  saw[`${name}_paint_median_ms`] = at(paints, 0.5);
  saw[`${name}_paint_p95_ms`] = at(paints, 0.95);
}

const repainted = (started) => window.paintedAt > started;
await panned("pan");
saw.colour_ms = await until(() => page.selectOption("#colour", "label"), repainted);
await panned("coloured_pan");
saw.filter_ms = await until(() => page.fill("#text", "class 7"), repainted);
await panned("filtered_pan");
await page.click("#clear");
// near enough for thumbnails
await page.mouse.move(x, y);
for (let n = 0; n < 7; n++) await page.mouse.wheel(0, -400);
await page.waitForTimeout(1500);
await panned("thumbnails_pan");
await browser.close();
console.log(JSON.stringify(saw));
