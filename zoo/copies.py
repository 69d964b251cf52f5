"""Which files have the bytes of an earlier one: the first pass of ``--dedupe``, a pure function of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.images import UnreadableImage
from zoo.pipeline import look_ahead, room_for
from zoo.progress import Progress
from zoo.sources import Source

_ROWS_AT_ONCE = 4096


def find_copies(source: Source, files: pa.Table, workers: int, progress: Progress | None) -> pa.Table:
    """For each file of a listing the first one with the same bytes.

    Only files that share their size with another one are read. Memory holds 32 bytes for each of them.

    Returns:
        A row per file: ``zoo.copy_of`` int64, the row of the first one, -1 where there is no earlier one or the file
        cannot be read; ``zoo.sha256``, of a copy's bytes.
    """
    sizes = files["size"].to_numpy()
    _, kind, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    wanted = np.flatnonzero(counts[kind] > 1)
    if progress is not None:
        progress.say(f"looking for copies among the {len(wanted)} of {len(files)} files that share their size")
        progress.start(len(wanted))
    digests = np.zeros(len(wanted), "S64")
    with closing(look_ahead(partial(_digest, source), _rows(files, wanted), workers, 4 * workers)) as found:
        for number, digest in enumerate(found):
            digests[number] = digest
            if progress is not None:
                progress.advance(1)
    _, first, of = np.unique(digests, return_index=True, return_inverse=True)
    is_copy = (first[of] != np.arange(len(wanted))) & (digests != b"")
    copy_of = np.full(len(files), -1, np.int64)
    copy_of[wanted[is_copy]] = wanted[first[of]][is_copy]
    return pa.table({"zoo.copy_of": copy_of, "zoo.sha256": _texts(len(files), wanted[is_copy], digests[is_copy])})


def _digest(source: Source, row: dict[str, Any]) -> str:
    """Empty where the file cannot be read."""
    try:
        with room_for(row):
            return hashlib.sha256(source.read(row)).hexdigest()
    except (UnreadableImage, MemoryError):
        return ""


def _rows(files: pa.Table, wanted: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for first in range(0, len(wanted), _ROWS_AT_ONCE):
        yield from files.take(wanted[first : first + _ROWS_AT_ONCE]).to_pylist()


def _texts(length: int, rows: NDArray[np.int64], digests: NDArray[np.bytes_]) -> pa.Array:
    """The digests as text in their rows, null in all others."""
    index = np.full(length, -1, np.int64)
    index[rows] = np.arange(len(rows))
    texts = pa.array(digests.astype(object), pa.binary()).cast(pa.string())
    return texts.take(pa.array(index, mask=index < 0))
