// Photographs -> embeddings -> the most similar pairs, all in this page. The model is a file of `zoo export`, whose
// graph takes pixels of any size and resizes, crops and normalises them.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const MAX_PAIRS = 12;
ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
if (!crossOriginIsolated) ort.env.wasm.numThreads = 1; // threads need the headers COOP and COEP

const input = document.getElementById("photos");
const drop = document.getElementById("drop");
const status = document.getElementById("status");
const embedded = []; // {name, url, vector}
window.embedded = embedded;

// Browsers turn JPEG and PNG upright, but not WebP: return the EXIF orientation of a WebP file, 1 if it says none.
function webpOrientation(bytes) {
  const view = new DataView(bytes);
  const text = (at) => String.fromCharCode(...new Uint8Array(bytes, at, 4));
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const length = view.getUint32(at + 4, true);
    if (text(at) === "EXIF") {
      let start = at + 8;
      if (text(start) === "Exif") start += 6;
      const little = view.getUint16(start) === 0x4949;
      const directory = start + view.getUint32(start + 4, little);
      for (let entry = 0; entry < view.getUint16(directory, little); entry++) {
        const place = directory + 2 + 12 * entry;
        if (view.getUint16(place, little) === 0x0112) return view.getUint16(place + 8, little);
      }
    }
    at += 8 + length + (length % 2);
  }
  return 1;
}

// Canvas transforms that turn an image of width w and height h upright, by EXIF orientation.
const UPRIGHT = {
  2: (w, h) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (w, h) => [1, 0, 0, -1, 0, h],
  5: (w, h) => [0, 1, 1, 0, 0, 0],
  6: (w, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w, h) => [0, -1, 1, 0, 0, w],
};

async function orientation(file) {
  const head = new TextDecoder("latin1").decode(await file.slice(0, 12).arrayBuffer());
  if (!/^RIFF[^]{4}WEBP$/.test(head)) return null;
  try {
    return webpOrientation(await file.arrayBuffer());
  } catch {
    return 1; // a broken EXIF block does not damage the pixels
  }
}

// uint8 [1, height, width, 3], upright, over white. Colour profiles are ignored, as `zoo extract` does. Alpha is multiplied
// by the canvas, which rounds; the decoder of WebP would cut the fraction off.
async function pixels(file) {
  const turned = await orientation(file);
  const imageOrientation = turned === null ? "from-image" : "none";
  const bitmap = await createImageBitmap(file, { imageOrientation, colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const [width, height] = turned >= 5 && turned <= 8 ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  if (UPRIGHT[turned]) context.setTransform(...UPRIGHT[turned](bitmap.width, bitmap.height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return new ort.Tensor("uint8", rgb, [1, height, width, 3]);
}

function unit(vector) {
  const length = Math.hypot(...vector) || 1;
  return vector.map((v) => v / length);
}

// The part that all photographs share does not tell them apart: subtract the mean of the unit vectors before comparing.
function similarPairs() {
  let units = embedded.map(({ vector }) => unit(vector));
  if (units.length > 2) {
    const mean = units[0].map((_, i) => units.reduce((sum, vector) => sum + vector[i], 0) / units.length);
    units = units.map((vector) => unit(vector.map((v, i) => v - mean[i])));
  }
  const pairs = [];
  for (let a = 0; a < units.length; a++)
    for (let b = a + 1; b < units.length; b++)
      pairs.push({ a: embedded[a], b: embedded[b], cosine: units[a].reduce((sum, v, i) => sum + v * units[b][i], 0) });
  return pairs.sort((p, q) => q.cosine - p.cosine).slice(0, MAX_PAIRS);
}

function showPairs() {
  const figures = similarPairs().map(({ a, b, cosine }) => {
    const figure = document.createElement("figure");
    for (const { name, url } of [a, b]) {
      const image = document.createElement("img");
      image.src = url;
      image.alt = image.title = name;
      figure.append(image);
    }
    const caption = document.createElement("figcaption");
    for (const text of [`${a.name} · ${b.name}`, cosine.toFixed(2)]) {
      const span = document.createElement("span");
      span.textContent = text;
      caption.append(span);
    }
    figure.append(caption);
    return figure;
  });
  document.getElementById("pairs").replaceChildren(...figures);
}

async function add(files) {
  input.disabled = true;
  const failed = [];
  const start = performance.now();
  for (const [index, file] of [...files].entries()) {
    status.textContent = `${index + 1} of ${files.length}: ${file.name}`;
    try {
      const { embedding } = await session.run({ pixels: await pixels(file) });
      embedded.push({ name: file.name, url: URL.createObjectURL(file), vector: Array.from(embedding.data) });
    } catch (error) {
      failed.push(file.name);
    }
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  if (embedded.length > 1) showPairs();
  const problem = failed.length ? `; no picture that this browser can read: ${failed.join(", ")}` : "";
  status.textContent = `${embedded.length} photographs (${files.length - failed.length} new) in ${seconds} s${problem}`;
  input.disabled = false;
}

input.addEventListener("change", () => add(input.files));
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (!input.disabled) add([...event.dataTransfer.files]);
});

let session;
try {
  session = await ort.InferenceSession.create("./model.onnx", { executionProviders: ["wasm"] });
  status.textContent = "Ready.";
  input.disabled = false;
} catch (error) {
  status.textContent = `The network could not be loaded: ${error.message}`;
}
