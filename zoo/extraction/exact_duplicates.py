"""Find files with the same bytes: the first pass of ``--dedupe``, a pure function of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.sources.base import ImageRow, Source, one_large_file, rows_of
from zoo.system.prefetch import prefetch
from zoo.system.progress import Progress
from zoo.system.shortage import raise_if_short
from zoo.transforms.decode import decoded
from zoo.transforms.limits import DEFAULT_OPTIONS, DecodeOptions
from zoo.transforms.unreadable import UnreadableImage

R = TypeVar("R")

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class KnownFiles:
    """What an earlier result says of the files of a listing, so that they need not be read again.

    Attributes:
        sha256: bytes of 64 hex digits [rows], empty where nothing is known.
        sizes: int32 [rows, 2], width and height, 0 where nothing is known.
    """

    sha256: NDArray[np.bytes_]
    sizes: NDArray[np.int32]

    @classmethod
    def nothing(cls, rows: int) -> KnownFiles:
        """Return an object that knows nothing of ``rows`` files."""
        return cls(np.zeros(rows, "S64"), np.zeros((rows, 2), np.int32))


@dataclass(frozen=True)
class FileReader:
    """Read the files of a source in threads, with progress.

    Attributes:
        workers: number of threads.
        max_pixels: limit of pixels of one image; larger ones are not decoded.
    """

    source: Source
    workers: int
    max_pixels: int
    progress: Progress | None = None
    options: DecodeOptions = DEFAULT_OPTIONS

    def sha256(self, files: pa.Table, wanted: Rows) -> Iterator[str]:
        """Yield the sha256 of files by their row numbers; empty where a file cannot be read."""
        return self._each(_sha256_of, files, wanted)

    def sizes(self, files: pa.Table, wanted: Rows) -> Iterator[tuple[int, int]]:
        """Yield width and height of images by their row numbers; zeros where one cannot be decoded."""
        return self._each(partial(_size_of, self.max_pixels, self.options), files, wanted)

    def _each(self, function: Callable[[Source, ImageRow], R], files: pa.Table, wanted: Rows) -> Iterator[R]:
        if self.progress is not None:
            self.progress.start(len(wanted))
        calls = (partial(function, self.source, row) for row in rows_of(files, wanted))
        with closing(prefetch(calls, 4 * self.workers, threads=self.workers)) as results:
            for result in results:
                yield result
                if self.progress is not None:
                    self.progress.advance(1)


def find_exact_duplicates(files: pa.Table, known: KnownFiles, reader: FileReader) -> pa.Table:
    """Find for each file of a listing the first file with the same bytes.

    Only files that share their size with another one are read. One file of each group of duplicates is decoded for
    its width and height: the row of a duplicate cannot wait for the row of the first, which may be in the shard of
    another process. 72 bytes are in memory for each file that is read.

    Returns:
        A row per file. ``zoo.copy_of``: int64, the row of the first file with its bytes, -1 where there is no earlier
        one or the file cannot be read. For duplicates ``zoo.sha256`` and, where they can be decoded, int32
        ``zoo.width`` and ``zoo.height``; null for other files.
    """
    # Only files of equal size can have equal bytes.
    candidates = _sharing_their_size(files)
    if reader.progress is not None:
        reader.progress.say(
            f"looking for duplicates among the {len(candidates)} of {len(files)} files that share a size"
        )

    # Hash the candidates whose hash no earlier result knows.
    digests = known.sha256[candidates]
    unread = np.flatnonzero(digests == b"")
    for at, digest in zip(unread, reader.sha256(files, candidates[unread]), strict=True):
        digests[at] = digest

    # Group them by their bytes. ``first`` has the first candidate of each group, ``group`` the group of each candidate.
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    duplicates = np.flatnonzero((first[group] != np.arange(len(candidates))) & (digests != b""))

    # Measure the image of each group that has duplicates.
    sizes = np.zeros((len(first), 2), np.int32)
    np.maximum.at(sizes, group, known.sizes[candidates])  # the same in every row that knows it
    unmeasured = np.unique(group[duplicates][sizes[group[duplicates], 0] == 0])
    for at, size in zip(unmeasured, reader.sizes(files, candidates[first[unmeasured]]), strict=True):
        sizes[at] = size

    # Point every duplicate at the first file of its group.
    originals = candidates[first[group[duplicates]]]
    return _as_table(len(files), candidates[duplicates], originals, digests[duplicates], sizes[group[duplicates]])


def _sharing_their_size(files: pa.Table) -> Rows:
    _, size, counts = np.unique(files["size"].to_numpy(), return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[size] > 1)


def _as_table(
    length: int, rows: Rows, originals: Rows, digests: NDArray[np.bytes_], sizes: NDArray[np.int32]
) -> pa.Table:
    """Return the table of all ``length`` files from what is known of the duplicates among them."""
    # Spread the few duplicates over all rows of the plan.
    first = np.full(length, -1, np.int64)
    first[rows] = originals
    place = np.full(length, -1, np.int64)
    place[rows] = np.arange(len(rows))
    # The facts are null in every other row.
    facts = pa.table(
        {
            "zoo.sha256": pa.array(digests.astype(object), pa.binary()).cast(pa.string()),
            "zoo.width": pa.array(sizes[:, 0], mask=sizes[:, 0] == 0),
            "zoo.height": pa.array(sizes[:, 1], mask=sizes[:, 1] == 0),
        }
    ).take(pa.array(place, mask=place < 0))
    return facts.add_column(0, "zoo.copy_of", pa.chunked_array([first]))


def _sha256_of(source: Source, row: ImageRow) -> str:
    try:
        with one_large_file(row):
            return hashlib.sha256(source.read(row)).hexdigest()
    except (UnreadableImage, MemoryError) as error:
        raise_if_short(error)
        return ""


def _size_of(max_pixels: int, options: DecodeOptions, source: Source, row: ImageRow) -> tuple[int, int]:
    try:
        with one_large_file(row), decoded(source.read(row), max_pixels, options) as image:
            return image.size
    except (UnreadableImage, MemoryError) as error:
        raise_if_short(error)
        return 0, 0
