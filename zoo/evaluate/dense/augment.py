"""Photographs and annotation images of the dense protocols: read, resized, cropped, flipped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo.errors import UserError
from zoo.numerics.counter_rng import uniforms
from zoo.transforms.decode import EXTENSIONS, UnreadableImage, decode, decode_values, read_bytes
from zoo.transforms.preprocess import Preprocessing

CROP_STREAM, FLIP_STREAM, SIZE_STREAM = 901, 902, 903  # of zoo.numerics.counter_rng
_MASKS = (".png", ".tif", ".tiff", ".bmp", ".gif")  # a lossy format would change ids


def picture(path: Path) -> Image.Image:
    """The upright RGB image. UserError: it cannot be read; the line names it."""
    try:
        return decode(read_bytes(path))
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be read ({error}): remove or replace it and its annotation") from None


def values(path: Path) -> NDArray[Any]:
    """The numbers of an annotation image, uint8 or uint16 [H, W]. UserError as ``picture``."""
    try:
        return decode_values(read_bytes(path))
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be used as an annotation ({error}): replace it") from None


def tensor(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """RGB image -> float32 [3, H, W], normalised as the weights want it."""
    return torch.from_numpy(preprocessing.normalise(np.asarray(image)[None])[0])


def short_side_to(size: tuple[int, int], side: int, most: int | None = None) -> tuple[int, int]:
    """(width, height) scaled so that the shorter is ``side``, or the longer ``most`` if that is smaller."""
    factor = side / min(size)
    if most is not None:
        factor = min(factor, most / max(size))
    return scaled(size, factor)


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(width, height) times ``factor``, in whole pixels, at least one."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def draws(seed: int, stream: int, epoch: int, row: int, count: int) -> list[float]:
    """``count`` uniforms in [0, 1) of one picture in one epoch."""
    found: list[float] = uniforms(seed, stream, epoch, np.array([row], np.int64), count)[0].tolist()
    return found


@dataclass(frozen=True)
class Pairs:
    """Pictures, each with an annotation image of the same size.

    Attributes:
        name: for messages.
        images, annotations: paths, in one order.
    """

    name: str
    images: Sequence[Path]
    annotations: Sequence[Path]

    def __len__(self) -> int:
        return len(self.images)

    def sha256(self) -> str:
        """Of all files in order."""
        return files_sha256(path for pair in zip(self.images, self.annotations, strict=True) for path in pair)

    def subset(self, rows: Sequence[int]) -> Pairs:
        """Some of them."""
        return Pairs(self.name, [self.images[r] for r in rows], [self.annotations[r] for r in rows])

    def read(self, row: int) -> tuple[Image.Image, NDArray[Any]]:
        """Picture and annotation. UserError: unreadable, or of two sizes."""
        image, annotation = picture(self.images[row]), values(self.annotations[row])
        if image.size != annotation.shape[::-1]:
            raise UserError(
                f"{self.annotations[row]} is {annotation.shape[1]} x {annotation.shape[0]} and its picture "
                f"{image.width} x {image.height}: both must have one size"
            )
        return image, annotation


def files_sha256(paths: Iterable[Path]) -> str:
    """Of the files' contents in this order. UserError: one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(hashlib.sha256(read_bytes(path)).digest())
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read ({error}): remove or replace it and its annotation") from None
    return digest.hexdigest()


def pair_folders(pictures: Path, annotations: Path, name: str) -> Pairs:
    """Pictures of one folder and the annotations of the same stem in another (it may be the same folder).

    Raises:
        UserError: no pictures, or a picture without an annotation; the first is named.
    """
    if not pictures.is_dir() or not annotations.is_dir():
        missing = annotations if pictures.is_dir() else pictures
        raise UserError(f"no folder {missing}: give {pictures} with pictures and {annotations} with annotations")
    by_stem = {p.stem: p for p in sorted(annotations.iterdir()) if p.suffix.lower() in _MASKS}
    images = sorted(
        p for p in pictures.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file() and p != by_stem.get(p.stem)
    )
    if not images:
        raise UserError(f"no pictures in {pictures}")
    return pair([(p, by_stem.get(p.stem, annotations / f"{p.stem}.png")) for p in images], name)


def pair(files: Sequence[tuple[Path, Path]], name: str) -> Pairs:
    """Pairs of files that must exist. UserError: missing ones are counted, the first is named."""
    missing = [path for both in files for path in both if not path.is_file()]
    if missing:
        raise UserError(f"{name}: {len(missing)} files are missing, first {missing[0]}")
    if not files:
        raise UserError(f"{name} is empty")
    return Pairs(name, [image for image, _ in files], [annotation for _, annotation in files])
