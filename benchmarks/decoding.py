"""What ``--decode scaled`` gives and what it moves, on photographs enlarged to those of a phone.

    python benchmarks/decoding.py --photos examples/photos --json benchmarks/results/decode_scaled.json

Every photograph is resized to ``--megapixels`` and saved as a JPEG of quality 90. Decoding and resizing run on one
thread, exact and scaled in turn; the times are medians over the rounds. The relative difference of embeddings is
|scaled - exact| / |exact|.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import cpu

import zoo
from zoo.transforms.decode import decoded
from zoo.transforms.limits import DecodeOptions
from zoo.transforms.preprocess import Preprocessing


def enlarged(path: Path, megapixels: float) -> bytes:
    """Return a photograph as a JPEG of so many pixels."""
    with Image.open(path) as image:
        factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = (round(image.width * factor), round(image.height * factor))
        file = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure(args: argparse.Namespace, how: Preprocessing, embedder: zoo.Embedder | None) -> dict[str, Any]:
    """Return times and differences of one preprocessing; differences of embeddings where there is a network."""
    seconds: dict[str, list[float]] = {"exact": [], "scaled": []}
    pixel_error, moved, cosines, reductions = [], [], [], set()
    for path in sorted(args.photos.glob("*.jpg"))[:: args.every]:
        data, found = enlarged(path, args.megapixels), {}
        for _ in range(args.rounds):
            for decode in ("exact", "scaled"):
                start = time.perf_counter()
                options = DecodeOptions(decode=decode)  # type: ignore[arg-type]
                with decoded(data, 10**9, options, reduction=partial(how.reduction)) as image:
                    found[decode] = how.pixels(image)
                    reductions.add((decode, round(args.megapixels**0.5 * 1000 / (image.width * image.height) ** 0.5)))
                seconds[decode].append(time.perf_counter() - start)
        pixel_error.append(np.abs(found["exact"].astype(int) - found["scaled"]).mean())
        if embedder is not None:
            a, b = (embedder.embed_pixels(found[decode][None])[0] for decode in ("exact", "scaled"))
            moved.append(float(np.linalg.norm(a - b) / np.linalg.norm(a)))
            cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    exact, scaled = (statistics.median(seconds[decode]) for decode in ("exact", "scaled"))
    return {
        "resize": how.resize,
        "photographs": len(pixel_error),
        "reductions": sorted({factor for decode, factor in reductions if decode == "scaled"}),
        "scaled_over_exact": round(exact / scaled, 2),
        "images_per_second_one_thread": {"exact": round(1 / exact, 2), "scaled": round(1 / scaled, 2)},
        "mean_pixel_difference_of_255": round(float(np.mean(pixel_error)), 3),
        **({"moved_median": statistics.median(moved), "moved_most": max(moved)} if moved else {}),
        **({"cosine_least": min(cosines)} if moved else {}),
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--models", nargs="+", default=["simclr_r18_mini", "byol_r18_mini", "simsiam_r50.random"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="use every n-th photograph only")
    parser.add_argument("--json", type=Path, default=None, help="where to write the result")
    args = parser.parse_args()
    rows = []
    for model in args.models:
        embedder = zoo.load(model, device="cpu")
        rows.append({"model": model, **measure(args, embedder.preprocessing, embedder)})
        print(json.dumps(rows[-1]), flush=True)
    print(cpu.line())
    if args.json is not None:
        found = {"megapixels": args.megapixels, "cpu": cpu.facts(), "rows": rows}
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
