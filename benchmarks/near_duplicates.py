"""Precision and recall of `zoo extract --dedupe --near auto` for made near-copies among real photographs.

    python benchmarks/near_duplicates.py --images DIR --json benchmarks/results/near_duplicates.json

50 photographs of the folder get a changed copy each: resized to 60 %, saved as JPEG of quality 40, cropped by 3 %, or
made 20 % brighter. A data set can hold near duplicates of its own. They are found by their pixels, without a network:
the correlation of two images of 32 x 32 is above .95. Both kinds are the truth that the groups are compared with, as
pairs: two images of one group are a pair. The draw of the photographs is by --seed; seeds 0 and 1 served to choose the
constant of `zoo.extraction.near_threshold`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

import zoo
from zoo.embeddings.manifest import NEAR_GROUPS
from zoo.models.registry import DEFAULT_MODEL

KINDS = ("resized", "recompressed", "cropped", "brightened")
SAME_PIXELS = 0.95  # correlation; in flowers17 no pair lies between .93 and .97
Pairs = set[tuple[str, str]]


def changed(image: Image.Image, kind: str) -> tuple[Image.Image, int]:
    """Return the changed image and the quality it is saved with."""
    width, height = image.size
    if kind == "resized":
        return image.resize((round(0.6 * width), round(0.6 * height)), Image.Resampling.LANCZOS), 92
    if kind == "recompressed":
        return image, 40
    if kind == "cropped":
        dx, dy = max(1, round(0.015 * width)), max(1, round(0.015 * height))
        return image.crop((dx, dy, width - dx, height - dy)), 92
    return ImageEnhance.Brightness(image).enhance(1.2), 92


def make_copies(photographs: list[Path], folder: Path, count: int, seed: int) -> dict[str, tuple[str, str]]:
    """Link the photographs into a folder and add copies; return the name of each copy's original, and its kind."""
    for number, path in enumerate(photographs):
        (folder / f"{number:05d}.jpg").symlink_to(path.resolve())
    copies = {}
    for n, number in enumerate(sorted(random.Random(seed).sample(range(len(photographs)), count))):
        kind = KINDS[n % len(KINDS)]
        with Image.open(photographs[number]) as image:
            copy, quality = changed(image.convert("RGB"), kind)
        copy.save(folder / f"{number:05d}_{kind}.jpg", quality=quality)
        copies[f"{number:05d}_{kind}.jpg"] = (f"{number:05d}.jpg", kind)
    return copies


def same_pixels(folder: Path, names: list[str]) -> Pairs:
    """Return the pairs of images with the same pixels."""

    def small(name: str) -> NDArray[np.float32]:
        with Image.open(folder / name) as image:
            pixels = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BOX), np.float32).reshape(-1, 3)
        moved = pixels - pixels.mean(axis=0)
        return (moved / np.linalg.norm(moved)).ravel()

    rows = np.stack([small(name) for name in names])
    first, second = np.nonzero(np.triu(rows @ rows.T > SAME_PIXELS, 1))
    return {(names[a], names[b]) for a, b in zip(first, second, strict=True)}


def joined(pairs: Pairs) -> Pairs:
    """Return all pairs of the groups that pairs form."""
    group: dict[str, set[str]] = {}
    for a, b in pairs:
        both = group.get(a, {a}) | group.get(b, {b})
        group |= dict.fromkeys(both, both)
    return {pair for names in group.values() for pair in combinations(sorted(names), 2)}


def measure(photographs: list[Path], *, near: float | str, model: str, count: int, seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "images", Path(scratch) / "out"
        folder.mkdir()
        copies = make_copies(photographs, folder, count, seed)
        done = zoo.extract(folder, out, model=model, device="cpu", dedupe=True, near=near, progress=False)
        found_groups: dict[int, list[str]] = {}
        for row in pq.read_table(out / NEAR_GROUPS).to_pylist():
            found_groups.setdefault(row["group"], []).append(row["path"])
        table = zoo.read(out)
        own = same_pixels(folder, [name for name in table.paths if name not in copies])
    truth = joined(own | {(original, name) for name, (original, _) in copies.items() if original in table.paths})
    found = {pair for names in found_groups.values() for pair in combinations(sorted(names), 2)}
    missed = {name: kind for name, (original, kind) in copies.items() if tuple(sorted((original, name))) not in found}
    return {
        "near": near,
        "model": model,
        "seed": seed,
        "images": done.total,
        "copies": len(copies),
        "pairs_of_the_data_set_itself": len(own),
        "threshold": done.near_threshold if near == "auto" else near,
        "images_marked": sum(map(len, found_groups.values())),
        "precision": round(len(found & truth) / max(1, len(found)), 4),
        "recall": round(len(found & truth) / len(truth), 4),
        "recall_of_copies": round(1 - len(missed) / len(copies), 4),
        "missed_by_kind": {kind: list(missed.values()).count(kind) for kind in KINDS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files, searched below, too")
    parser.add_argument("--models", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--near", nargs="+", default=["auto", "0.99"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    photographs = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    results = []
    for model in arguments.models:
        for near in arguments.near:
            for seed in arguments.seeds if near == "auto" else arguments.seeds[:1]:
                value = near if near == "auto" else float(near)
                results.append(measure(photographs, near=value, model=model, count=arguments.copies, seed=seed))
                print(json.dumps(results[-1]))
    content = {"images": arguments.images.name, "results": results}
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
