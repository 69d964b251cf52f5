"""Images with label images: VOC 2012's devkit, or ``DIR/train`` with ``DIR/train-labels`` and so on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.errors import UserError
from zoo.evaluate.dense.augment import (
    CROP_STREAM,
    FLIP_STREAM,
    AnnotatedImages,
    draw_uniforms,
    resized_size,
    scaled_size,
)
from zoo.evaluate.dense.schedules import SegmentationSchedule

_VOC = "VOC2012"
_HELD_OUT = 10  # one training image in ten chooses the learning rate, where there is no validation split
IGNORE_INDEX = 255  # label that is neither trained nor scored; VOC's borders


def open_segmentation_data(data: Path, schedule: SegmentationSchedule) -> dict[str, AnnotatedImages]:
    """Open the splits ``train``, ``test`` and, where there is one beside them, ``val``.

    Raises:
        UserError: the folder has neither layout, or files are missing; the message says which.
    """
    # A VOC devkit has fixed splits.
    for root in (data, data / _VOC, data / "VOCdevkit" / _VOC):
        if (root / "ImageSets" / "Segmentation").is_dir():
            return {"train": _open_voc(root, schedule.train), "test": _open_voc(root, "val")}
    if not (data / "train").is_dir():
        raise UserError(
            f"{data} has neither train/ and train-labels/ (images and label images of the same names) nor a VOC "
            f"devkit ({_VOC}/ImageSets/Segmentation)"
        )
    # Other data comes as folders; val is the test where there is no other.
    test = "test" if (data / "test").is_dir() else "val"
    splits = {"train": _open_folder(data, "train"), "test": _open_folder(data, test)}
    if test == "test" and (data / "val").is_dir():
        splits["val"] = _open_folder(data, "val")
    return splits


def learning_rate_splits(splits: dict[str, AnnotatedImages], seed: int) -> tuple[AnnotatedImages, AnnotatedImages, str]:
    """Return the images that choose the learning rate: to train on, to score on, and the latter's name in words.

    Raises:
        UserError: there is no validation split, and a single training image.
    """
    train = splits["train"]
    if "val" in splits:
        return train, splits["val"], "the validation split"
    order = np.random.Generator(np.random.Philox(key=[seed, 1])).permutation(len(train))
    held = max(1, len(order) // _HELD_OUT)
    if held == len(order):
        raise UserError(f"{train.name}: one image cannot be split to choose a learning rate: give one lr")
    return train.subset(sorted(order[held:])), train.subset(sorted(order[:held])), "a tenth of the training split"


def count_classes(splits: dict[str, AnnotatedImages], void: int) -> int:
    """Return one more than the largest label of the training split.

    Raises:
        UserError: a label that only other splits have, an image of another size, less than two labels beside void, or a
            split without a labelled pixel.
    """
    largest = {
        name: [_largest_label(images, row, void) for row in range(len(images))] for name, images in splits.items()
    }
    classes = max(largest["train"]) + 1
    # A label that training never shows cannot be predicted.
    if classes < 2:
        raise UserError(f"{splits['train'].name} has fewer than two labels beside void ({void})")
    for name, labels in largest.items():
        if max(labels) < 0:
            raise UserError(f"{splits[name].name} has no labelled pixel beside void ({void}): nothing can be scored")
        for row, label in enumerate(labels):
            if label >= classes:
                raise UserError(
                    f"{splits[name].annotations[row]} has label {label}, the training split none above {classes - 1}: "
                    f"if it means void, add --set void={label}"
                )
    return classes


def load_sample(
    images: AnnotatedImages, row: int, schedule: SegmentationSchedule
) -> tuple[Image.Image, NDArray[np.int64]]:
    """Return an image at the schedule's short side, and its labels at the ORIGINAL size, void as ``IGNORE_INDEX``."""
    image, annotation = images.read(row)
    labels = annotation.astype(np.int64)
    labels[labels == schedule.void] = IGNORE_INDEX
    if schedule.short_side:
        size = resized_size(image.size, schedule.short_side)
        image = image.resize(size, Image.Resampling.BILINEAR)
    return image, labels


def random_crop(
    image: Image.Image, labels: NDArray[np.int64], schedule: SegmentationSchedule, seed: int, epoch: int, row: int
) -> tuple[Image.Image, NDArray[np.int64], tuple[int, int]]:
    """Resize, crop and flip at random.

    Returns:
        A square image, its labels, and the (width, height) of it that lies within the image. What lies outside has the
        label ``IGNORE_INDEX``; the caller sets it to zero after normalising.
    """
    # Resize by a random factor; labels keep their exact values.
    scale, left, top = draw_uniforms(seed, CROP_STREAM, epoch, row, 3)
    low, high = schedule.scale
    size = scaled_size(image.size, low + (high - low) * scale)
    image = image.resize(size, Image.Resampling.BILINEAR)
    plane = Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)

    # Place the crop inside the image as far as it fits.
    side = schedule.crop
    x, y = (int(draw * (max(0, length - side) + 1)) for draw, length in zip((left, top), size, strict=True))
    inside = min(side, size[0] - x), min(side, size[1] - y)
    box = (x, y, x + inside[0], y + inside[1])
    image, plane = image.crop(box), plane.crop(box)
    if draw_uniforms(seed, FLIP_STREAM, epoch, row, 1)[0] < schedule.flip:
        image, plane = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, plane))

    # Fill the rest of the crop with void.
    padded = np.full((side, side), IGNORE_INDEX, np.int64)
    padded[: inside[1], : inside[0]] = np.asarray(plane)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(image)
    return canvas, padded, inside


def _largest_label(images: AnnotatedImages, row: int, void: int) -> int:
    labels = images.read(row)[1]
    if labels.dtype != np.uint8:
        raise UserError(f"{images.annotations[row]} has 16 bits a pixel: label images have 8")
    kept = labels[(labels != void) & (labels != IGNORE_INDEX)]
    return int(kept.max()) if kept.size else -1


def _open_folder(data: Path, split: str) -> AnnotatedImages:
    return AnnotatedImages.from_folders(f"{data.name}/{split}", data / split, data / f"{split}-labels")


def _open_voc(root: Path, split: str) -> AnnotatedImages:
    names = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not names.is_file():
        hint = " (SBD's list with its label images in SegmentationClassAug)" if split == "train_aug" else ""
        raise UserError(f"no {names}{hint}; --set train=train uses VOC's own training list")
    labels = root / ("SegmentationClassAug" if split == "train_aug" else "SegmentationClass")
    stems = names.read_text().split()
    files = [(root / "JPEGImages" / f"{s}.jpg", labels / f"{s}.png") for s in stems]
    return AnnotatedImages.from_files(f"{_VOC}/{split}", files)
