// Embed a folder of photographs with a file of `zoo export`:
//
//     node embed.mjs model.onnx PHOTOS embeddings.json
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import ort from "onnxruntime-node";
import sharp from "sharp";

// a * b / 255, rounded, for bytes.
const times = (a, b) => Math.floor((a * b + 127) / 255);

// uint8 [1, height, width, 3], upright, over white, of any size: the graph resizes, crops and normalises. Colour profiles
// are ignored, as `zoo extract` does; libvips would convert CMYK by a profile of its own.
async function pixels(path) {
  const image = sharp(path, { ignoreIcc: true });
  const isCmyk = (await image.metadata()).space === "cmyk";
  const upright = isCmyk
    ? image.rotate().pipelineColourspace("cmyk").toColourspace("cmyk")
    : image.rotate().toColourspace("srgb").ensureAlpha();
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  const rgb = new Uint8Array(info.width * info.height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += info.channels) {
    const last = data[from + 3]; // black or alpha
    for (let channel = 0; channel < 3; channel++) {
      const value = data[from + channel];
      rgb[to++] = isCmyk ? 255 - last - times(value, 255 - last) : times(value, last) + 255 - last;
    }
  }
  return new ort.Tensor("uint8", rgb, [1, info.height, info.width, 3]);
}

const [modelPath, folder, out] = process.argv.slice(2);
if (!out) {
  console.error("usage: node embed.mjs model.onnx PHOTOS embeddings.json");
  process.exit(2);
}
const session = await ort.InferenceSession.create(modelPath);
const embeddings = {};
let failed = 0;
for (const name of (await readdir(folder)).sort()) {
  if (!/\.(jpe?g|png|webp)$/i.test(name)) continue;
  try {
    const { embedding } = await session.run({ pixels: await pixels(join(folder, name)) });
    embeddings[name] = Array.from(embedding.data);
  } catch (error) {
    console.error(`${name}: ${error.message}`);
    failed += 1;
  }
}
await writeFile(out, JSON.stringify(embeddings));
console.log(`${out}: ${Object.keys(embeddings).length} embeddings`);
process.exit(failed ? 3 : 0);
