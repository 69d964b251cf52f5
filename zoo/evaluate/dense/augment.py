"""Images and annotation images of the dense protocols: read, resized, and the draws of their augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo.errors import UserError
from zoo.numerics.counter_rng import uniforms
from zoo.transforms.decode import EXTENSIONS, decode, decode_values
from zoo.transforms.image_bytes import read_bytes
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.unreadable import UnreadableImage

CROP_STREAM, FLIP_STREAM, SIZE_STREAM, COLOUR_STREAM = 901, 902, 903, 904  # of zoo.numerics.counter_rng
_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")  # a lossy format would change label ids

Annotation = NDArray[np.uint8 | np.uint16]


def read_image(path: Path) -> Image.Image:
    """Return the upright RGB image in a file.

    Raises:
        UserError: it cannot be read; the message names the file.
    """
    try:
        return decode(read_bytes(path))
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be read ({error}): remove or replace it and its annotation") from None


def read_annotation(path: Path) -> Annotation:
    """Return the values of an annotation image, uint8 or uint16 [H, W].

    Raises:
        UserError: it cannot be read or has several channels; the message names the file.
    """
    try:
        return decode_values(read_bytes(path))
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be used as an annotation ({error}): replace it") from None


def to_tensor(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return an RGB image as float32 [3, H, W], normalised as the weights expect it."""
    return torch.from_numpy(preprocessing.normalise(np.asarray(image)[None])[0])


def resized_size(size: tuple[int, int], short_side: int, max_size: int | None = None) -> tuple[int, int]:
    """Return (width, height) scaled to this short side, or to the long side ``max_size`` where that is smaller."""
    factor = short_side / min(size)
    if max_size is not None:
        factor = min(factor, max_size / max(size))
    return scaled_size(size, factor)


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return (width, height) times ``factor``, in whole pixels, at least one."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def draw_uniforms(seed: int, stream: int, epoch: int, row: int, count: int) -> list[float]:
    """Return ``count`` uniforms in [0, 1) for one image in one epoch."""
    drawn: list[float] = uniforms(seed, stream, epoch, np.array([row], np.int64), count)[0].tolist()
    return drawn


@dataclass(frozen=True)
class AnnotatedImages:
    """Images, each with an annotation image of the same size.

    Attributes:
        name: for messages.
        images, annotations: paths, in one order.
    """

    name: str
    images: Sequence[Path]
    annotations: Sequence[Path]

    @classmethod
    def from_files(cls, name: str, files: Sequence[tuple[Path, Path]]) -> AnnotatedImages:
        """Open (image, annotation) files.

        Raises:
            UserError: there are none, or files are missing; the message counts them and names the first.
        """
        missing = [path for pair in files for path in pair if not path.is_file()]
        if missing:
            raise UserError(f"{name}: {len(missing)} files are missing, first {missing[0]}")
        if not files:
            raise UserError(f"{name} is empty")
        return cls(name, [image for image, _ in files], [annotation for _, annotation in files])

    @classmethod
    def from_folders(cls, name: str, images: Path, annotations: Path) -> AnnotatedImages:
        """Open the images of a folder with the annotations of the same stem in another, or in the same, folder.

        Raises:
            UserError: a folder is missing, there are no images, or an image has no annotation.
        """
        if not images.is_dir() or not annotations.is_dir():
            missing = annotations if images.is_dir() else images
            raise UserError(f"no folder {missing}: give {images} with images and {annotations} with annotations")
        by_stem = {p.stem: p for p in sorted(annotations.iterdir()) if p.suffix.lower() in _LOSSLESS}
        found = sorted(
            p for p in images.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file() and p != by_stem.get(p.stem)
        )
        if not found:
            raise UserError(f"no images in {images}")
        return cls.from_files(name, [(p, by_stem.get(p.stem, annotations / f"{p.stem}.png")) for p in found])

    def __len__(self) -> int:
        return len(self.images)

    def sha256(self) -> str:
        """Return the hash of all files in order."""
        return hash_files(path for pair in zip(self.images, self.annotations, strict=True) for path in pair)

    def subset(self, rows: Sequence[int]) -> AnnotatedImages:
        """Return the given rows, under the same name."""
        return AnnotatedImages(self.name, [self.images[r] for r in rows], [self.annotations[r] for r in rows])

    def read(self, row: int) -> tuple[Image.Image, Annotation]:
        """Return image and annotation of a row.

        Raises:
            UserError: one cannot be read, or their sizes differ.
        """
        image, annotation = read_image(self.images[row]), read_annotation(self.annotations[row])
        if image.size != annotation.shape[::-1]:
            raise UserError(
                f"{self.annotations[row]} is {annotation.shape[1]} x {annotation.shape[0]} and its image "
                f"{image.width} x {image.height}: both must have one size"
            )
        return image, annotation


def hash_files(paths: Iterable[Path]) -> str:
    """Return a sha256 over the contents of files in this order.

    Raises:
        UserError: one cannot be read; the message names it.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(hashlib.sha256(read_bytes(path)).digest())
        except UnreadableImage as error:
            raise UserError(f"{path} cannot be read ({error}): remove or replace it and its annotation") from None
    return digest.hexdigest()
