"""Choose the input size of an encoder by kNN on training images; no test image is read.

    python benchmarks/crop_size.py ENCODER... --data DATA... --sizes 56 64 72 --images 10000 --json FILE

Of each data set IMAGES training images are drawn. Each of them is classified by its neighbours among the others, with
the k and temperature that do it best (``zoo.evaluate.frozen.knn``). ENCODER is a name of the zoo or a file of
``zoo-train export``; its own input size is the first row.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import zoo
from zoo.datasets.opening import open_training_data
from zoo.evaluate.frozen.knn import choose_by_leave_one_out
from zoo.hub.weights import locate


def drawn(path: Path, count: int) -> tuple[list[Image.Image], torch.Tensor]:
    """Return images and labels of a data set, the same for every encoder."""
    data = open_training_data(path)
    rows = np.random.Generator(np.random.Philox(key=0)).permutation(len(data))[:count]
    return [data.image(int(row)) for row in rows], torch.from_numpy(data.required_labels[rows].astype(np.int64))


def embedded(encoder: str, images: list[Image.Image], size: int) -> NDArray[np.float32]:
    """Return the embeddings float32 [N, D] of images that are resized and cropped to ``size``."""
    embedder = zoo.load(encoder, device="cpu", backend="torch")
    preprocessing = replace(embedder.preprocessing, input_size=size, resize=size)
    parts = []
    for start in range(0, len(images), 256):
        pixels = np.stack([preprocessing.pixels(image) for image in images[start : start + 256]])
        parts.append(embedder.embed_pixels(pixels))
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    data = {path.name: drawn(path, args.images) for path in args.data}
    found = {"images": {name: len(labels) for name, (_, labels) in data.items()}, "rows": []}
    for encoder in args.encoders:
        own = locate(encoder).preprocessing.input_size
        for size in dict.fromkeys([own, *args.sizes]):
            row: dict[str, object] = {"encoder": Path(encoder).stem, "size": size}
            for name, (images, labels) in data.items():
                _, tried = choose_by_leave_one_out(embedded(encoder, images, size), labels)
                row[name] = max(tried.values())
            print(row, flush=True)
            found["rows"].append(row)  # type: ignore[attr-defined]
            args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
