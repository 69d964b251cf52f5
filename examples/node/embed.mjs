// Embed a folder of photographs with a file of `zoo export`:
//
//     node embed.mjs model.onnx PHOTOS embeddings.json
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import ort from "onnxruntime-node";
import sharp from "sharp";

// uint8 [1, height, width, 3], upright, over white, of any size: the graph resizes, crops and normalises.
async function pixels(path) {
  const { data, info } = await sharp(path)
    .rotate()
    .flatten({ background: "white" })
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  return new ort.Tensor("uint8", data, [1, info.height, info.width, 3]);
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
