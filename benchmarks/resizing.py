"""Effect of resizing on embeddings: Pillow against the official codes, rounded against unrounded pixels.

    python benchmarks/resizing.py --photos examples/photos --model byol_r18_mini --json resizing.json

Every photograph is resized to 256 and cropped to 224 pixels, as in the official codes. Reported are max|difference| /
max|reference| over all embeddings, and the mean over photographs of |difference| / |reference| (l2 norms).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.api import load
from zoo.inference.embedder import Embedder
from zoo.inference.images import as_rgb
from zoo.transforms.preprocess import PILLOW, Preprocessing
from zoo.transforms.tf_bicubic import TF_BICUBIC


def measure(embedder: Embedder, photos: list[Path]) -> dict[str, object]:
    """Return the differences made by Pillow and by rounding, for each official code."""
    images = [as_rgb(path) for path in photos]
    base = replace(embedder.preprocessing, input_size=224, resize=256, interpolation="bicubic")
    pillow = replace(base, resizing=PILLOW)
    by_pillow = embedder.embed_pixels(np.stack([pillow.pixels(i) for i in images]))
    found: dict[str, object] = {}
    for code in TF_BICUBIC:
        way = replace(base, resizing=code)
        rounded = embedder.embed_pixels(np.stack([way.pixels(i) for i in images]))
        fractions = _of_levels(embedder, way, np.stack([way.float_pixels(i) for i in images]))
        found[code] = {"pillow": _difference(by_pillow, rounded), "rounding": _difference(rounded, fractions)}
    return found


def _of_levels(embedder: Embedder, way: Preprocessing, levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the embeddings of unrounded pixels, float32 [N, H, W, 3] in 0..255."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (way.mean, way.std))
    with torch.inference_mode():
        result: NDArray[np.float32] = embedder.model((torch.from_numpy(levels).permute(0, 3, 1, 2) / 255 - mean) / std)
    return np.asarray(result)


def _difference(found: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
    change = found - reference
    each = np.linalg.norm(change, axis=1) / np.linalg.norm(reference, axis=1)
    return {"largest": float(np.abs(change).max() / np.abs(reference).max()), "mean_l2": float(each.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="byol_r18_mini", help="as for `zoo extract`")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    photos = sorted(p for p in args.photos.iterdir() if p.suffix in (".jpg", ".png"))
    embedder = load(args.model, device="cpu", backend="torch")
    differences = measure(embedder, photos)
    found = {"model": embedder.weights_info["model"], "photographs": len(photos), "differences": differences}
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(args.json.read_text(), end="")


if __name__ == "__main__":
    main()
