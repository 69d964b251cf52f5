"""Random resized crops and flips of training images for evaluation, a pure function of (seed, epoch, row).

Crops are resized as the preprocessing of the weights does it, so training and test images differ in the crop alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from zoo.evaluate.features import ImageDataset
from zoo.numerics.counter_rng import permutation, uniforms
from zoo.system.hardware import usable_cores
from zoo.system.prefetch import prefetch
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.random_crop import TRIES, central_offset, clamped_size, retried_size

_STREAM = 101  # of zoo.numerics.counter_rng; the views of pretraining count from 1
_CHUNK = 64  # images decoded together: bounds the memory of large photographs
_MAX_AHEAD = 8  # batches in memory

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RandomCrops:
    """Draws one crop per image and epoch.

    Attributes:
        preprocessing: of the weights: size of the crop and how it is resized.
        seed: of the draws.
        min_area: smallest share of the image that a crop covers; .08 in the codes of BYOL and SimSiam.
        clamped: the size of a crop is clamped to the image (BYOL's rule), not drawn again (torchvision's).
    """

    images: ImageDataset
    preprocessing: Preprocessing
    seed: int
    min_area: float = 0.08
    clamped: bool = True

    def pixels(self, rows: Ints, epoch: int) -> NDArray[np.uint8]:
        """Return uint8 [len(rows), S, S, 3]; the crop of a row depends on (seed, epoch, row) alone."""
        size = self.preprocessing.input_size
        out = np.empty((len(rows), size, size, self.preprocessing.channels), np.uint8)
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            images = [self.images.image(int(row)) for row in chunk]
            boxes, flips = self._draw(images, chunk, epoch)
            for n, (image, box, flip) in enumerate(zip(images, boxes.tolist(), flips, strict=True)):
                cut = image.crop(tuple(box))  # a resize with a box would read pixels beside it, too
                crop = self.preprocessing.resized(cut, (0, 0, *cut.size))
                out[start + n] = crop[:, ::-1] if flip else crop
        return out

    def _draw(self, images: list[Image], rows: Ints, epoch: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the boxes [N, 4] (left, top, right, bottom) and the flips [N] of images."""
        widths, heights = np.array([i.size for i in images], np.int64).T
        u = uniforms(self.seed, _STREAM, epoch, rows, 2 * TRIES + 3)
        # The first columns choose the size of the crop.
        areas, aspects = u[:, :TRIES], u[:, TRIES : 2 * TRIES]
        fell_back = np.zeros(len(rows), bool)
        if self.clamped:
            height, width = clamped_size((self.min_area, 1.0), heights, widths, areas[:, 0], aspects[:, 0])
        else:
            height, width, fell_back = retried_size((self.min_area, 1.0), heights, widths, areas, aspects)
        # The last columns choose the position and the flip.
        top = np.floor(u[:, -3] * (heights - height + 1)).astype(np.int64)
        left = np.floor(u[:, -2] * (widths - width + 1)).astype(np.int64)
        # A crop that fell back lies in the middle.
        top = np.where(fell_back, central_offset(heights, height), top)
        left = np.where(fell_back, central_offset(widths, width), left)
        return np.stack([left, top, left + width, top + height], 1), u[:, -1] < 0.5


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[Ints]:
    """Return the rows 0..count-1 in the order of (seed, epoch), cut into batches.

    A last batch of a single image is joined to the one before, because BN cannot train on one image.
    """
    order = permutation(seed, epoch, count)
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def prefetch_pixels(
    batches: Sequence[Ints], pixels: Callable[[Ints], NDArray[np.uint8]]
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield ``pixels(rows)`` of each batch of rows, decoded in threads ahead of the reader; close it at the end."""
    return prefetch((partial(pixels, rows) for rows in batches), min(_MAX_AHEAD, usable_cores()))
