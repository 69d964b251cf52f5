"""Training crops for evaluation: random resized crop and flip, a pure function of (seed, epoch, index).

They are resized as the weights' own preprocessing does it, so that training and test images differ in the crop alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from zoo.evaluate.features import Images
from zoo.numerics.counter_rng import permutation, uniforms
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.random_crop import TRIES, central_offset, clamped_size, retried_size

_STREAM = 101  # apart from the views of training, which count from 1
_CHUNK = 64  # images decoded together: bounds the memory of large photographs

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Crops:
    """Makes crops of ``images``.

    Attributes:
        preprocessing: size and way of resizing; of the weights.
        min_area: smallest part of the image that a crop covers; .08 in both codes.
        clamped: BYOL's rule for the size of a crop, else torchvision's.
    """

    images: Images
    preprocessing: Preprocessing
    seed: int
    min_area: float = 0.08
    clamped: bool = True

    def pixels(self, rows: Ints, epoch: int) -> NDArray[np.uint8]:
        """uint8 [len(rows), S, S, 3]; a row's crop depends on (seed, epoch, row) alone."""
        size = self.preprocessing.input_size
        out = np.empty((len(rows), size, size, 3), np.uint8)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            images = [self.images.image(int(i)) for i in part]
            for n, (image, box, flip) in enumerate(zip(images, *self._draw(images, part, epoch), strict=True)):
                out[start + n] = self._crop(image, box, bool(flip))
        return out

    def _draw(self, images: list[Image], rows: Ints, epoch: int) -> tuple[Ints, NDArray[np.bool_]]:
        widths, heights = np.array([i.size for i in images], np.int64).T
        u = uniforms(self.seed, _STREAM, epoch, rows, 2 * TRIES + 3)
        areas, aspects = u[:, :TRIES], u[:, TRIES : 2 * TRIES]
        fell_back = np.zeros(len(rows), bool)
        if self.clamped:
            height, width = clamped_size((self.min_area, 1.0), heights, widths, areas[:, 0], aspects[:, 0])
        else:
            height, width, fell_back = retried_size((self.min_area, 1.0), heights, widths, areas, aspects)
        top = np.floor(u[:, -3] * (heights - height + 1)).astype(np.int64)
        left = np.floor(u[:, -2] * (widths - width + 1)).astype(np.int64)
        top = np.where(fell_back, central_offset(heights, height), top)
        left = np.where(fell_back, central_offset(widths, width), left)
        return np.stack([left, top, left + width, top + height], 1), u[:, -1] < 0.5

    def _crop(self, image: Image, box: Ints, flip: bool) -> NDArray[np.uint8]:
        left, top, right, bottom = (int(v) for v in box)
        crop = self.preprocessing.resized(image, (left, top, right, bottom))
        return crop[:, ::-1] if flip else crop


def batches(count: int, batch: int, seed: int, epoch: int) -> list[Ints]:
    """All of range(count) once, in the order of (seed, epoch), in batches; a last one of one image joins the one
    before, as BN cannot train on it."""
    order = permutation(seed, epoch, count)
    parts = [order[start : start + batch] for start in range(0, count, batch)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def ahead(rows: Iterable[Ints], make: Callable[[Ints], NDArray[np.uint8]]) -> Iterator[tuple[Ints, NDArray[np.uint8]]]:
    """``(rows, make(rows))`` in order, made by threads a few steps ahead of the reader."""
    workers = max(1, min(8, os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count() or 1))
    waiting: deque[tuple[Ints, Future[NDArray[np.uint8]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for part in rows:
                waiting.append((part, pool.submit(make, part)))
                if len(waiting) > workers:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        finally:
            for _, future in waiting:
                future.cancel()
