"""Find near duplicates by their embeddings: every pair of images whose cosine reaches a threshold.

The search is exact and goes block by block: memory holds some hundred megabytes of vectors whatever their number, and
time grows with the square of that number. An approximate graph would find other pairs depending on how it was built,
and the same command must give the same bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DamagedShard, OutputFolder, table_name
from zoo.errors import UserError
from zoo.inference.outputs import EMBEDDING, NEAR_DUPLICATES
from zoo.numerics.similarity import ExactSearch, l2_normalize

MAX_PAIRS = 10_000_000  # nearly all frames of one scene are pairs: the file must end somewhere
_HELD_BYTES = 256 * 1024 * 1024
_PAIRS_AT_ONCE = 65_536
_SCHEMA = pa.schema([("path", pa.string()), ("path_of_other", pa.string()), ("cosine", pa.float32())])

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def write(folder: OutputFolder, plan: Plan) -> None:
    """Commit ``near_duplicates.parquet``: the pairs of a complete folder whose cosine reaches the plan's threshold.

    Columns: ``path``, ``path_of_other`` and ``cosine``; the first path of a pair comes first in the plan. At most
    ``MAX_PAIRS`` rows.

    Raises:
        UserError: a shard is damaged, or the disk is full.
        FileNotFoundError: a shard is missing, because another run of the same update has moved it into place.
    """
    folder.commit(NEAR_DUPLICATES, lambda file: _write(folder, plan, file))


def _write(folder: OutputFolder, plan: Plan, file: BinaryIO) -> None:
    threshold = plan.fingerprint.near_threshold
    assert threshold is not None  # only a run with --dedupe comes here
    with pq.ParquetWriter(file, _SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for pairs in _gathered(_pairs(folder, plan, float(threshold))):
            earlier, later, cosines = pairs
            paths = [pa.array(map(_shown, plan.files["path"].take(rows).to_pylist())) for rows in (earlier, later)]
            writer.write_table(pa.table([*paths, cosines], schema=_SCHEMA))


def _gathered(pairs: Iterator[Pairs]) -> Iterator[Pairs]:
    """Join pairs to portions for a row group each, at most ``MAX_PAIRS`` in all."""
    held: list[Pairs] = []
    left = MAX_PAIRS
    for found in pairs:
        held.append(found)
        count = sum(len(part[0]) for part in held)
        # Hand on a full group, and count it against the limit.
        if count >= min(left, _PAIRS_AT_ONCE):
            yield _joined(held, left)
            held, left = [], left - min(left, count)
        if not left:
            return
    # Hand on what is left.
    if sum(len(part[0]) for part in held):
        yield _joined(held, left)


def _joined(held: list[Pairs], most: int) -> Pairs:
    earlier, later, cosines = (np.concatenate(parts)[:most] for parts in zip(*held, strict=True))
    return earlier, later, cosines


def _pairs(folder: OutputFolder, plan: Plan, threshold: float) -> Iterator[Pairs]:
    """Hold as many shards as fit, compare them with themselves and all later ones, then take the next ones."""
    first = 0
    while first < plan.shards:
        held = [_unit_vectors(folder, plan, first)]
        while first + len(held) < plan.shards and sum(units.nbytes for units in held) < _HELD_BYTES:
            held.append(_unit_vectors(folder, plan, first + len(held)))
        matrix, base = ExactSearch(np.concatenate(held)), plan.rows(first).start
        # Stream the other shards past the held ones.
        for shard in range(first, plan.shards):
            units = held[shard - first] if shard - first < len(held) else _unit_vectors(folder, plan, shard)
            for queries, rows, cosines in matrix.at_least(units, threshold):
                # Keep each pair once, and no row with itself.
                later, earlier = queries + plan.rows(shard).start, rows + base
                kept = earlier < later
                yield earlier[kept], later[kept], np.minimum(cosines[kept], np.float32(1))
        first += len(held)


def _unit_vectors(folder: OutputFolder, plan: Plan, shard: int) -> NDArray[np.float32]:
    """Return the unit vectors [rows, D] of a shard, NaN where a row has none."""
    try:
        rows = folder.read(plan, shard)
    except DamagedShard as error:
        raise UserError(f"{table_name(shard)} {error}: run the same command again") from error
    if rows is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder.root / table_name(shard)))
    return l2_normalize(rows.vectors[EMBEDDING].astype(np.float32, copy=False))


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
