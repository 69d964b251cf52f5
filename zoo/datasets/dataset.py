"""Numbered images with or without labels, behind one interface, wherever they come from.

``zoo.datasets.opening`` opens the sources. Images are decoded on demand, or all at once by ``decoded_once``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.datasets.npz import require_memory
from zoo.errors import UserError
from zoo.transforms.decode import decode
from zoo.transforms.unreadable import UnreadableImage

T = TypeVar("T")
_SAMPLE = 64  # images whose bytes are hashed for the content of a data set


@dataclass(frozen=True)
class Dataset:
    """Numbered images with or without labels.

    Attributes:
        name: for messages and results.
        labels: int64 [N] in 0..len(classes)-1, or ``None``.
        classes: names; numbers as text where the source has no names.
        without_labels: why there are no labels, where images in class folders suggest some.
    """

    name: str
    labels: NDArray[np.int64] | None
    classes: list[str]
    _read: Callable[[int], bytes | NDArray[np.uint8]]
    _names: Callable[[int], str]
    _length: int
    _size: Callable[[int], int] | None = None  # of a row's file in bytes, where that is known without reading it
    without_labels: str = ""
    _source: Callable[[int], bytes | NDArray[np.uint8]] | None = None  # where ``_read`` serves decoded images

    def __len__(self) -> int:
        return self._length

    @property
    def required_labels(self) -> NDArray[np.int64]:
        """The labels int64 [N]. Raises UserError where there are none."""
        if self.labels is None:
            raise UserError(
                f"{self.name} has no labels: {self.without_labels or 'use a folder per class, or a label column'}"
            )
        return self.labels

    def row_name(self, index: int) -> str:
        """Return the path of a row below the folder or in its archive, or ``row N`` where rows have no names."""
        return self._names(index)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Return the upright RGB pixels of a row, uint8 [H, W, 3].

        Raises:
            UnreadableImage: it cannot be read.
        """
        data = self._read(index)
        return np.array(decode(data)) if isinstance(data, bytes) else data

    def image(self, index: int) -> Image.Image:
        """Return the upright RGB image of a row.

        Raises:
            UserError: it cannot be read; the message names it and says why.
        """
        try:
            data = self._read(index)
            return decode(data) if isinstance(data, bytes) else Image.fromarray(data)
        except UnreadableImage as error:
            raise UserError(
                f"{self.name}: {self._names(index)} cannot be read ({error}): remove or replace it"
            ) from None

    def subset(self, rows: NDArray[np.int64]) -> Dataset:
        """Return the given rows in their order, under the same name."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(
            self,
            labels=labels,
            _read=lambda i: self._read(int(rows[i])),
            _names=lambda i: self._names(int(rows[i])),
            _length=len(rows),
            _source=None if (source := self._source) is None else partial(_row_of, source, rows),
            _size=None if self._size is None else partial(_row_of, self._size, rows),
        )

    def content(self) -> str:
        """Return 64 hex digits that name the content, wherever it lies.

        They are a hash of the number of images, all names, sizes of files where they are known, labels, and the bytes
        of 64 images that are evenly spread over the rows.
        """
        digest = hashlib.sha256(b"%d\n" % len(self))
        for index in range(len(self)):
            size = -1 if self._size is None else self._size(index)
            digest.update(b"%d %b\n" % (size, os.fsencode(self._names(index))))
        for index in np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(int)).tolist():
            try:
                data = (self._source or self._read)(index)
            except UnreadableImage as error:
                data = error.reason.encode()
            digest.update(hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).digest())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def sha256(self) -> str:
        """Return a hash over all labels and images in order: their encoded bytes, or pixels where they are an array."""
        return self.sha256_of(self.digests())

    def sha256_of(self, digests: NDArray[np.bytes_]) -> str:
        """Return ``sha256`` from the ``digests`` of all images."""
        digest = hashlib.sha256(digests.tobytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def digests(self) -> NDArray[np.bytes_]:
        """Return the sha256 of each image, its encoded bytes or its pixels, as 32 bytes [N].

        Raises:
            UserError: an image cannot be read; the message names it and says why.
        """
        found = np.empty(len(self), "S32")
        for index in range(len(self)):
            try:
                data = self._read(index)
            except UnreadableImage as error:
                raise UserError(f"{self.name}: {self._names(index)} cannot be read ({error})") from None
            found[index] = hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).digest()
        return found


def _row_of(function: Callable[[int], T], rows: NDArray[np.int64], index: int) -> T:
    return function(int(rows[index]))


def decoded_once(dataset: Dataset) -> Dataset:
    """Return the data set with all pixels in memory, decoded now in threads.

    An image that cannot be read still raises UnreadableImage when it is asked for.

    Raises:
        UserError: the pixels would not fit into the free memory, as estimated from the first images.
    """

    def read(index: int) -> NDArray[np.uint8] | UnreadableImage:
        try:
            return dataset.pixels(index)
        except UnreadableImage as error:
            return error

    # The first images estimate the memory that all of them will need.
    first = [len(data.ravel()) for i in range(min(64, len(dataset))) if isinstance(data := read(i), np.ndarray)]
    require_memory(int(np.mean(first or [0]) * len(dataset)), f"{dataset.name} decoded")
    # Errors are kept in place, so that the reader of the row gets them.
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(read, range(len(dataset)), chunksize=64))

    def get(index: int) -> NDArray[np.uint8]:
        row = rows[index]
        if isinstance(row, UnreadableImage):
            raise UnreadableImage(row.reason, row.detail)
        return row

    return replace(dataset, _read=get, _source=dataset._source or dataset._read)
