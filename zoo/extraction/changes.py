"""Compare a source of images with the plan of a result: what was added, changed and removed since."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zoo.embeddings.plan import Plan, digest_of, kept_columns
from zoo.embeddings.row_reader import RowReader
from zoo.sources.base import ImageRow, Source, rows_of
from zoo.system.prefetch import prefetch
from zoo.transforms.unreadable import UnreadableImage


@dataclass(frozen=True)
class Changes:
    """How the files of a source differ from those of a plan.

    Attributes:
        previous: for each row of the new listing the row of the plan with the same path, -1 for none.
        added: rows of the new listing that have no such row.
        resized: rows of the new listing with another size.
        touched: rows of the new listing with the same size and another modification time.
        removed: rows of the plan whose path is gone.
        rearranged: the rows stand in another order, or a kept column has other values.
    """

    previous: NDArray[np.int64]
    added: NDArray[np.int64]
    resized: NDArray[np.int64]
    touched: NDArray[np.int64]
    removed: NDArray[np.int64]
    rearranged: bool


def find_changes(previous: RowReader, source: Source, found: pa.Table, workers: int) -> Changes:
    """Compare a source, which lists ``found`` now, with the plan of its result.

    A file of the same size with another modification time is read again; it has not changed if its hash is the one in
    its row. It counts as changed where there is no row to compare with.

    Args:
        workers: threads that read.
    """
    changes = compare(previous.plan.files, found)
    hashes = [previous.sha256(row) for row in changes.previous[changes.touched].tolist()]
    touched = zip(rows_of(found, changes.touched), hashes, strict=True)
    calls = (partial(_has_hash, source, row, sha256) for row, sha256 in touched)
    with closing(prefetch(calls, 2 * workers, threads=workers)) as verdicts:
        same = np.fromiter(verdicts, bool, len(hashes))
    return replace(changes, touched=changes.touched[~same])


def compare(planned: pa.Table, found: pa.Table) -> Changes:
    """Compare the files of a plan with a new listing; no file is read."""
    # Pair the rows of both listings by path.
    previous = _positions(found, planned)
    common = np.flatnonzero(previous >= 0)
    # Split the changed files: another size proves new bytes, another time alone does not.
    resized, moved = (
        found[column].to_numpy()[common] != planned[column].to_numpy()[previous[common]]
        for column in ("size", "mtime_ns")
    )
    return Changes(
        previous=previous,
        added=np.flatnonzero(previous < 0),
        resized=common[resized],
        touched=common[moved & ~resized],
        removed=np.flatnonzero(_positions(planned, found) < 0),
        rearranged=not planned["path"].equals(found["path"])
        or digest_of(kept_columns(planned)) != digest_of(kept_columns(found)),
    )


def describe_changes(changes: Changes, plan: Plan, found: pa.Table) -> str:
    """Return text such as "2 files added (first a.jpg), 1 changed (first b.jpg)"; empty if nothing changed."""
    parts = []
    # Name the first file of each kind of change.
    changed = np.sort(np.concatenate([changes.resized, changes.touched]))
    for verb, rows, table in (
        ("added", changes.added, found),
        ("changed", changed, found),
        ("removed", changes.removed, plan.files),
    ):
        if len(rows):
            first = table["path"][int(rows[0])].as_py().decode(errors="backslashreplace")
            parts.append(f"{len(rows)} {'file ' if len(rows) == 1 else 'files '}{verb} (first {first!r})")
    # Mention the order only where no file explains the change.
    if changes.rearranged and not parts:
        parts.append("its order or a column that is kept changed")
    return ", ".join(parts)


def _positions(needles: pa.Table, haystack: pa.Table) -> NDArray[np.int64]:
    index = pc.index_in(needles["path"], value_set=haystack["path"].combine_chunks())
    return np.asarray(index.fill_null(-1).to_numpy(), dtype=np.int64)


def _has_hash(source: Source, row: ImageRow, sha256: str | None) -> bool:
    try:
        return sha256 is not None and hashlib.sha256(source.read(row)).hexdigest() == sha256
    except UnreadableImage:
        return False
