"""Which files have the bytes of an earlier one: the first pass of ``--dedupe``, a pure function of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.extraction.pipeline import look_ahead, room_for
from zoo.sources import Source
from zoo.system.progress import Progress
from zoo.transforms.decode import UnreadableImage, decoded

_ROWS_AT_ONCE = 4096
_NO_SIZE = (0, 0)

R = TypeVar("R")


@dataclass(frozen=True)
class Known:
    """What an earlier result says of the files of a listing, so that they need not be read again.

    Attributes:
        sha256: bytes of 64 hex digits [rows], empty where nothing is known.
        sizes: int32 [rows, 2], width and height, 0 where nothing is known.
    """

    sha256: NDArray[np.bytes_]
    sizes: NDArray[np.int32]

    @classmethod
    def nothing(cls, rows: int) -> Known:
        """Of so many files."""
        return cls(np.zeros(rows, "S64"), np.zeros((rows, 2), np.int32))


def find_copies(
    source: Source, files: pa.Table, known: Known, max_pixels: int, workers: int, progress: Progress | None
) -> pa.Table:
    """For each file of a listing the first one with the same bytes.

    Only files that share their size with another one are read, and of those that have copies one is decoded for its
    width and height: a copy's row cannot wait for that of the first, which may be in another process's shard. Memory
    holds 72 bytes for each file that is read.

    Returns:
        A row per file: ``zoo.copy_of`` int64, the row of the first one, -1 where there is no earlier one or the file
        cannot be read; of a copy ``zoo.sha256`` and, where it can be decoded, int32 ``zoo.width`` and ``zoo.height``.
    """

    def in_order(function: Callable[[Source, dict[str, Any]], R], rows: NDArray[np.int64]) -> Iterator[R]:
        if progress is not None:
            progress.start(len(rows))
        with closing(look_ahead(partial(function, source), _rows(files, rows), workers, 4 * workers)) as found:
            for result in found:
                yield result
                if progress is not None:
                    progress.advance(1)

    sizes = files["size"].to_numpy()
    _, kind, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    wanted = np.flatnonzero(counts[kind] > 1)
    digests = known.sha256[wanted]
    unread = np.flatnonzero(digests == b"")
    if progress is not None:
        progress.say(f"looking for copies among the {len(wanted)} of {len(files)} files that share their size")
    for at, digest in zip(unread, in_order(_digest, wanted[unread]), strict=True):
        digests[at] = digest
    _, first, of = np.unique(digests, return_index=True, return_inverse=True)
    copies = np.flatnonzero((first[of] != np.arange(len(wanted))) & (digests != b""))

    shapes = np.zeros((len(first), 2), np.int32)  # by content
    np.maximum.at(shapes, of, known.sizes[wanted])  # the same in every row that knows it
    shapeless = np.unique(of[copies][shapes[of[copies], 0] == 0])
    for content, shape in zip(shapeless, in_order(partial(_size, max_pixels), wanted[first[shapeless]]), strict=True):
        shapes[content] = shape

    rows, found = wanted[copies], shapes[of[copies]]
    copy_of = np.full(len(files), -1, np.int64)
    copy_of[rows] = wanted[first[of[copies]]]
    place = np.full(len(files), -1, np.int64)
    place[rows] = np.arange(len(rows))
    facts = pa.table(
        {
            "zoo.sha256": pa.array(digests[copies].astype(object), pa.binary()).cast(pa.string()),
            "zoo.width": pa.array(found[:, 0], mask=found[:, 0] == 0),
            "zoo.height": pa.array(found[:, 1], mask=found[:, 1] == 0),
        }
    ).take(pa.array(place, mask=place < 0))
    return facts.add_column(0, "zoo.copy_of", pa.chunked_array([copy_of]))


def _digest(source: Source, row: dict[str, Any]) -> str:
    """Empty where the file cannot be read."""
    try:
        with room_for(row):
            return hashlib.sha256(source.read(row)).hexdigest()
    except (UnreadableImage, MemoryError):
        return ""


def _size(max_pixels: int, source: Source, row: dict[str, Any]) -> tuple[int, int]:
    """Width and height as in the row of the first; zeros where it cannot be decoded."""
    try:
        with room_for(row), decoded(source.read(row), max_pixels) as image:
            return image.size
    except (UnreadableImage, MemoryError):
        return _NO_SIZE


def _rows(files: pa.Table, wanted: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for first in range(0, len(wanted), _ROWS_AT_ONCE):
        yield from files.take(wanted[first : first + _ROWS_AT_ONCE]).to_pylist()
