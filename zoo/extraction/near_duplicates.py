"""Near duplicates of an extraction, by its embeddings: every pair whose cosine reaches a threshold.

Exact, block by block: memory holds some hundred megabytes of vectors whatever their number, and time grows with its
square. No approximate graph: what it finds depends on how it was built, and the same command must give the same bytes.
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
from zoo.embeddings.shards import DamagedShard, Folder, table_name
from zoo.errors import UserError
from zoo.inference.outputs import EMBEDDING, NEAR_DUPLICATES
from zoo.numerics.similarity import ExactSearch, l2_normalize

NEAR = 0.99  # of the photographs in examples/photos no two unlike ones are nearer than .982 with the shipped network
MOST_PAIRS = 10_000_000  # of many frames of one scene nearly all are pairs: the file must end somewhere
_HELD_BYTES = 256 * 1024 * 1024
_PAIRS_AT_ONCE = 65_536
_SCHEMA = pa.schema([("path", pa.string()), ("path_of_other", pa.string()), ("cosine", pa.float32())])

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def write(folder: Folder, plan: Plan) -> None:
    """Commits ``near_duplicates.parquet``: the pairs of a complete folder with a cosine of at least the plan's.

    Columns ``path`` and ``path_of_other``, of which the first comes first in the plan, and ``cosine``; at most
    ``MOST_PAIRS``.

    Raises:
        UserError: a shard is damaged, or a full disk.
        FileNotFoundError: a shard is missing: another run of the same update has moved it into place.
    """
    folder.commit(NEAR_DUPLICATES, lambda file: _write(folder, plan, file))


def _write(folder: Folder, plan: Plan, file: BinaryIO) -> None:
    with pq.ParquetWriter(file, _SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        for pairs in _gathered(_pairs(folder, plan, float(plan.identity["dedupe"]["near"]))):
            earlier, later, cosines = pairs
            paths = [pa.array(map(_shown, plan.files["path"].take(rows).to_pylist())) for rows in (earlier, later)]
            writer.write_table(pa.table([*paths, cosines], schema=_SCHEMA))


def _gathered(pairs: Iterator[Pairs]) -> Iterator[Pairs]:
    """In portions worth a row group each, and no more than ``MOST_PAIRS``."""
    held: list[Pairs] = []
    left = MOST_PAIRS
    for found in pairs:
        held.append(found)
        count = sum(len(part[0]) for part in held)
        if count >= min(left, _PAIRS_AT_ONCE):
            yield _joined(held, left)
            held, left = [], left - min(left, count)
        if not left:
            return
    if sum(len(part[0]) for part in held):
        yield _joined(held, left)


def _joined(held: list[Pairs], most: int) -> Pairs:
    earlier, later, cosines = (np.concatenate(parts)[:most] for parts in zip(*held, strict=True))
    return earlier, later, cosines


def _pairs(folder: Folder, plan: Plan, least: float) -> Iterator[Pairs]:
    """As many shards as fit are held and compared with themselves and all behind them, then the next ones."""
    first = 0
    while first < plan.shards:
        held = [_units(folder, plan, first)]
        while first + len(held) < plan.shards and sum(units.nbytes for units in held) < _HELD_BYTES:
            held.append(_units(folder, plan, first + len(held)))
        matrix, base = ExactSearch(np.concatenate(held)), plan.rows(first).start
        for shard in range(first, plan.shards):
            units = held[shard - first] if shard - first < len(held) else _units(folder, plan, shard)
            for queries, rows, cosines in matrix.at_least(units, least):
                later, earlier = queries + plan.rows(shard).start, rows + base
                kept = earlier < later
                yield earlier[kept], later[kept], np.minimum(cosines[kept], np.float32(1))
        first += len(held)


def _units(folder: Folder, plan: Plan, shard: int) -> NDArray[np.float32]:
    """Unit vectors of a shard, NaN where a row has none."""
    try:
        rows = folder.read(plan, shard)
    except DamagedShard as error:
        raise UserError(f"{table_name(shard)} {error}: run the same command again") from error
    if rows is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder.root / table_name(shard)))
    return l2_normalize(rows.vectors[EMBEDDING])


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
