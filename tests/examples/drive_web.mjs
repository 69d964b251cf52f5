// Opens the page in headless Chromium, gives it photographs, and prints the results as JSON:
//
//     node drive_web.mjs URL CHROMIUM SCREENSHOT PHOTO...
//
// The browser has no network but the page's own host; every other request is counted and refused.
import { chromium } from "playwright-core";

const [url, executablePath, screenshot, ...photos] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: 1080, height: 900 } });
const foreign = [];
const errors = [];
await page.route("**/*", (route) => {
  const target = route.request().url();
  if (target.startsWith(url) || target.startsWith("blob:") || target.startsWith("data:")) return route.continue();
  foreign.push(target);
  return route.abort();
});
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
await page.goto(url);
await page.waitForSelector("#photos:enabled", { timeout: 60000 });
await page.setInputFiles("#photos", photos);
await page.waitForFunction((n) => window.embedded.length === n, photos.filter((p) => !p.includes("broken")).length);
await page.waitForSelector("#photos:enabled");
await page.waitForFunction(() => [...document.images].every((image) => image.complete));
const found = await page.evaluate(() => ({
  vectors: Object.fromEntries(window.embedded.map(({ name, vector }) => [name, vector])),
  pairs: [...document.querySelectorAll("#pairs figure")].map((figure) => ({
    names: [...figure.querySelectorAll("img")].map((image) => image.alt),
    cosine: Number(figure.querySelector("figcaption span:last-child").textContent),
    loaded: [...figure.querySelectorAll("img")].every((image) => image.naturalWidth > 0),
  })),
  status: document.getElementById("status").textContent,
}));
await page.screenshot({ path: screenshot });
await browser.close();
console.log(JSON.stringify({ ...found, foreign, errors }));
