// Uses the page of `zoo serve` in headless Chromium as a person would, and prints the results as JSON:
//
//     node drive_page.mjs URL CHROMIUM FOLDER PHOTO BROKEN
//
// FOLDER gets the screenshots near.png, map.png and all.png. Requests to any other host are counted and refused.
import { chromium } from "playwright-core";

const [url, executablePath, folder, photo, broken] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: 1180, height: 860 }, colorScheme: "light" });
const foreign = [];
const errors = [];
await page.route("**/*", (route) => {
  const target = route.request().url();
  if (target.startsWith(url) || target.startsWith("blob:") || target.startsWith("data:")) return route.continue();
  foreign.push(target);
  return route.abort();
});
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && !message.text().includes("422") && errors.push(message.text()));
const status = () => page.textContent("#status");
const statusHas = (text) => page.waitForFunction((t) => document.getElementById("status").textContent.includes(t), text);
const tiles = (list) =>
  page.$$eval(`${list} .tile`, (found) =>
    found.map((tile) => ({
      row: Number(tile.dataset.row),
      name: tile.dataset.path,
      cosine: Number(tile.querySelector(".label b")?.textContent.split("·").at(-1) ?? NaN),
    })),
  );
const loaded = () =>
  page.waitForFunction(() =>
    [...document.querySelectorAll("img")].every((image) => !image.src || image.closest("[hidden]") || image.complete),
  );

const saw = {};
await page.goto(url);
await statusHas("Drop a photograph");
await page.waitForSelector("#sample .tile");
saw.sample = (await tiles("#sample")).map((tile) => tile.row);
saw.opened = await page.getAttribute("#tab-map", "aria-selected");
saw.title = await page.title();
saw.about = await page.textContent("#about");
await page.setInputFiles("#photo", broken);
await statusHas("not-an-image");
saw.broken = await status();
await page.setInputFiles("#photo", photo);
await statusHas("nearest to");
saw.searched = await tiles("#found");
await loaded();
saw.thumbnails = await page.$$eval("#found img", (images) => images.filter((image) => image.naturalWidth > 0).length);
await page.screenshot({ path: `${folder}/near.png` });

// by keyboard alone: from tile to tile, into one, and back
await page.focus("#found .tile");
await page.keyboard.press("ArrowRight");
saw.focused = await page.evaluate(() => Number(document.activeElement.dataset.row));
await page.keyboard.press("Enter");
await page.waitForFunction((row) => location.hash === `#near/${row}`, saw.focused);
await page.waitForFunction((row) => Number(document.querySelector("#found .tile").dataset.row) === row, saw.focused);
saw.ofRow = await tiles("#found");

await page.focus("#tab-near");
await page.keyboard.press("ArrowLeft");
await statusHas("images");
await page.waitForTimeout(300); // thumbnails are drawn as they come
await page.focus("#plane");
await page.keyboard.press("ArrowRight");
await page.waitForFunction(() => document.querySelector("#tip bdi").textContent.length > 1);
saw.tip = await page.textContent("#tip bdi");
await page.keyboard.press("ArrowLeft");
await page.keyboard.press("ArrowRight");
saw.inked = await page.evaluate(() => {
  const canvas = document.getElementById("plane");
  const values = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return values.filter((value, n) => n % 4 === 3 && value > 0).length;
});
await page.screenshot({ path: `${folder}/map.png` });
await page.keyboard.press("Enter");
await page.waitForFunction(() => location.hash.startsWith("#near/"));
saw.fromMap = await page.evaluate(() => Number(location.hash.split("/")[1]));

await page.click("#tab-all");
await statusHas("of ");
saw.all = (await tiles("#grid")).map((tile) => tile.name);
await loaded();
await page.screenshot({ path: `${folder}/all.png` });
saw.pages = await page.textContent("#pages");

// whoever goes by keyboard into a picture is at its neighbours, and back at the picture
const focus = () => page.evaluate(() => [document.activeElement.closest("ol")?.id, Number(document.activeElement.dataset.row)]);
await page.focus("#grid li:nth-child(3) .tile");
saw.left = (await focus())[1];
await page.keyboard.press("Enter");
await statusHas("nearest to");
await page.waitForTimeout(100);
saw.atNeighbours = await focus();
await page.goBack();
await statusHas("of ");
await page.waitForTimeout(100);
saw.atPicture = await focus();
await page.fill("#text", "no such text");
await statusHas("none of ");
saw.none = await status();
await page.click("#tab-map");
await statusHas(" match");
saw.noneOnMap = await status();
await browser.close();
console.log(JSON.stringify({ ...saw, foreign, errors }));
