"""Pictures with label images: VOC 2012's devkit, or ``DIR/train`` with ``DIR/train-labels`` and so on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError
from zoo.evaluate.dense.augment import (
    CROP_STREAM,
    FLIP_STREAM,
    Pairs,
    draws,
    pair,
    pair_folders,
    scaled,
    short_side_to,
)
from zoo.evaluate.dense.schedules import Segmentation

_VOC = "VOC2012"
_HELD_OUT = 10  # one in ten of the training pictures, where there is no validation split to choose on
NEVER = 255  # marks what is neither trained nor scored; VOC's borders


def splits(data: Path, protocol: Segmentation) -> dict[str, Pairs]:
    """``train``, ``test`` and, where there is one beside them, ``val``.

    Raises:
        UserError: nothing of the two layouts there; the line says which files are needed.
    """
    for root in (data, data / _VOC, data / "VOCdevkit" / _VOC):
        if (root / "ImageSets" / "Segmentation").is_dir():
            return {"train": _voc(root, protocol.train), "test": _voc(root, "val")}
    if not (data / "train").is_dir():
        raise UserError(
            f"{data} has neither train/ and train-labels/ (pictures and label images of the same names) nor a VOC "
            f"devkit ({_VOC}/ImageSets/Segmentation)"
        )
    test = "test" if (data / "test").is_dir() else "val"
    found = {"train": _folder(data, "train"), "test": _folder(data, test)}
    if test == "test" and (data / "val").is_dir():
        found["val"] = _folder(data, "val")
    return found


def choosing(found: dict[str, Pairs], seed: int) -> tuple[Pairs, Pairs, str]:
    """What to train and to score on while the learning rate is chosen, and a word for the result."""
    if "val" in found:
        return found["train"], found["val"], "the validation split"
    order = np.random.Generator(np.random.Philox(key=[seed, 1])).permutation(len(found["train"]))
    held = max(1, len(order) // _HELD_OUT)
    if held == len(order):
        raise UserError(f"{found['train'].name}: one picture cannot be split to choose a learning rate: give one lr")
    train = found["train"]
    return train.subset(sorted(order[held:])), train.subset(sorted(order[:held])), "a tenth of the training split"


def count_classes(found: dict[str, Pairs], void: int) -> int:
    """One more than the largest label of the training split.

    Raises:
        UserError: a label that only other splits have, a picture of another size, or nothing but void.
    """
    largest = {name: [_largest(pairs, row, void) for row in range(len(pairs))] for name, pairs in found.items()}
    classes = max(largest["train"]) + 1
    if classes < 2:
        raise UserError(f"{found['train'].name} has fewer than two labels beside void ({void})")
    for name, values in largest.items():
        for row, value in enumerate(values):
            if value >= classes:
                raise UserError(
                    f"{found[name].annotations[row]} has label {value}, the training split none above {classes - 1}: "
                    f"if it means void, add --set void={value}"
                )
    return classes


def sample(pairs: Pairs, row: int, protocol: Segmentation) -> tuple[Image.Image, NDArray[np.int64]]:
    """Picture at the protocol's short side, and its labels at the ORIGINAL size, void as ``NEVER``."""
    image, raw = pairs.read(row)
    labels = raw.astype(np.int64)
    labels[labels == protocol.void] = NEVER
    if protocol.short_side:
        size = short_side_to(image.size, protocol.short_side)
        image = image.resize(size, Image.Resampling.BILINEAR)
    return image, labels


def crop(
    image: Image.Image, labels: NDArray[np.int64], protocol: Segmentation, seed: int, epoch: int, row: int
) -> tuple[Image.Image, NDArray[np.int64], tuple[int, int]]:
    """Randomly resized, cropped and flipped: a square picture, its labels, and how much of it is picture (w, h).

    What lies outside of the picture is void; the caller zeroes it after normalising.
    """
    scale, left, top = draws(seed, CROP_STREAM, epoch, row, 3)
    low, high = protocol.scale
    factor = low + (high - low) * scale
    size = scaled(image.size, factor)
    image = image.resize(size, Image.Resampling.BILINEAR)
    plane = Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    side = protocol.crop
    x, y = (int(draw * (max(0, have - side) + 1)) for draw, have in zip((left, top), size, strict=True))
    inside = min(side, size[0] - x), min(side, size[1] - y)
    image = image.crop((x, y, x + inside[0], y + inside[1]))
    plane = plane.crop((x, y, x + inside[0], y + inside[1]))
    if draws(seed, FLIP_STREAM, epoch, row, 1)[0] < protocol.flip:
        image, plane = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, plane))
    padded = np.full((side, side), NEVER, np.int64)
    padded[: inside[1], : inside[0]] = np.asarray(plane)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(image)
    return canvas, padded, inside


def _largest(pairs: Pairs, row: int, void: int) -> int:
    labels = pairs.read(row)[1]
    if labels.dtype != np.uint8:
        raise UserError(f"{pairs.annotations[row]} has 16 bits a pixel: label images have 8")
    kept = labels[(labels != void) & (labels != NEVER)]
    return int(kept.max()) if kept.size else -1


def _folder(data: Path, split: str) -> Pairs:
    return pair_folders(data / split, data / f"{split}-labels", f"{data.name}/{split}")


def _voc(root: Path, split: str) -> Pairs:
    names = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not names.is_file():
        hint = " (SBD's list with its label images in SegmentationClassAug)" if split == "train_aug" else ""
        raise UserError(f"no {names}{hint}; --set train=train uses VOC's own training list")
    labels = root / ("SegmentationClassAug" if split == "train_aug" else "SegmentationClass")
    stems = names.read_text().split()
    files = [(root / "JPEGImages" / f"{s}.jpg", labels / f"{s}.png") for s in stems]
    return pair(files, f"{_VOC}/{split}")
