"""Embed a folder of photographs with a file of `zoo export`; needs numpy, Pillow and onnxruntime only.

python embed.py model.onnx PHOTOS --out embeddings.csv
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def pixels(path: Path) -> np.ndarray:
    """Return uint8 [1, height, width, 3], upright, over white, of any size: the graph resizes, crops and normalises.

    Colour profiles are ignored, as `zoo extract` does.
    """
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits per pixel: convert would clip them to 8
            values = np.asarray(upright, np.int64)
            gray = ((values + 128) // 257).astype(np.uint8)
            gray[values == upright.info.get("transparency", -1)] = 255  # a transparent value
            upright = Image.fromarray(gray)
        if not upright.has_transparency_data:
            return np.asarray(upright.convert("RGB"))[None]
        layer = upright.convert("RGBA")
        over_white = Image.new("RGB", layer.size, "white")
        over_white.paste(layer, mask=layer)
        return np.asarray(over_white)[None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("embeddings.csv"))
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(arguments.model)
    metadata = session.get_modelmeta().custom_metadata_map
    print(f"{metadata['model']}, licence {metadata['licence']}")

    # one photograph at a time: each has its own size
    names, rows, failed = [], [], 0
    for path in sorted(arguments.photos.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
            continue
        try:
            image = pixels(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed += 1
            continue
        names.append(path.name)
        rows.append(session.run(["embedding"], {"pixels": image})[0][0])
    if not rows:
        print(f"no photographs in {arguments.photos}", file=sys.stderr)
        return 2

    with arguments.out.open("w", newline="") as file:
        csv.writer(file).writerows([name, *row.tolist()] for name, row in zip(names, rows, strict=True))

    # print each photograph's nearest neighbour
    vectors = unit(np.stack(rows))
    vectors = unit(vectors - vectors.mean(axis=0))  # the part that all photographs share does not tell them apart
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    for name, nearest, row in zip(names, cosine.argmax(axis=1), cosine, strict=True):
        print(f"{name}: {names[nearest]} ({row[nearest]:.2f})")
    return 3 if failed else 0


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [N, D] to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


if __name__ == "__main__":
    sys.exit(main())
