"""Precision and recall of `zoo extract --dedupe --near auto` for made near-copies among real photographs.

    python benchmarks/near_duplicates.py --images DIR --json benchmarks/results/near_duplicates.json

50 photographs of the folder get a changed copy each: resized to 60 %, saved as JPEG of quality 40, cropped by 3 %, or
made 20 % brighter. A data set can hold near duplicates of its own. They are found by their pixels, without a network:
the correlation of two images of 32 x 32 is above .95. A found pair that is neither is compared again, as the same
picture cropped, zoomed or mirrored: some window of one correlates with the other above .83. All three kinds are the
truth that the groups are compared with, as pairs: two images of one group are a pair. The draw of the photographs is by
--seed; seeds 0 and 1 served to choose the constant of `zoo.extraction.near_threshold`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from itertools import combinations, product
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
SAME_WINDOW = 0.83  # correlation; in flowers17 no found pair lies between .80 and .84
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

    def whole(name: str) -> NDArray[np.float32]:
        with Image.open(folder / name) as image:
            return small(image.convert("RGB"), 32)

    rows = np.stack([whole(name) for name in names])
    first, second = np.nonzero(np.triu(rows @ rows.T > SAME_PIXELS, 1))
    return {(names[a], names[b]) for a, b in zip(first, second, strict=True)}


def small(image: Image.Image, side: int, box: tuple[float, float, float, float] | None = None) -> NDArray[np.float32]:
    """Return the pixels of a box of an image at this side, without their mean colour and of length 1."""
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX, box=box), np.float32).reshape(-1, 3)
    moved = pixels - pixels.mean(axis=0)
    return (moved / np.linalg.norm(moved)).ravel()


def is_a_window(inner: Image.Image, outer: Image.Image) -> bool:
    """Return whether ``inner``, or its mirror image, is a crop of ``outer`` with at least half of its sides."""
    width, height = outer.size
    wanted = [small(view, 24) for view in (inner, inner.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
    for across, down in product(np.linspace(0.5, 1, 11), repeat=2):
        if not 0.9 <= across / down <= 1.12:  # both are cropped alike, more or less
            continue
        for x, y in product(np.linspace(0, 1 - across, 9), np.linspace(0, 1 - down, 9)):
            window = small(outer, 24, (x * width, y * height, (x + across) * width, (y + down) * height))
            if max(float(window @ one) for one in wanted) > SAME_WINDOW:
                return True
    return False


def same_window(folder: Path, pairs: Pairs) -> Pairs:
    """Return the pairs of which one image is a window of the other."""
    same = set()
    for a, b in pairs:
        with Image.open(folder / a) as first, Image.open(folder / b) as second:
            one, other = first.convert("RGB"), second.convert("RGB")
        if is_a_window(one, other) or is_a_window(other, one):
            same.add((a, b))
    return same


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
        made = {(original, name) for name, (original, _) in copies.items() if original in table.paths}
        found = {pair for names in found_groups.values() for pair in combinations(sorted(names), 2)}
        windows = same_window(folder, found - joined(own | made))
    truth = joined(own | made | windows)
    missed = {name: kind for name, (original, kind) in copies.items() if tuple(sorted((original, name))) not in found}
    return {
        "near": near,
        "model": model,
        "seed": seed,
        "images": done.total,
        "copies": len(copies),
        "pairs_of_the_data_set_itself": len(own),
        "found_pairs_of_one_picture_cropped_or_mirrored": len(windows),
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
