"""Find near duplicates by their embeddings: every pair of images whose cosine reaches a threshold, and their groups.

The search is exact and goes block by block: memory holds some hundred megabytes of vectors and 16 bytes a row, whatever
the number of pairs, and time grows with the square of the number of images. An approximate graph would find other
pairs depending on how it was built, and the same command must give the same bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo.embeddings.manifest import GROUPS, NEAR_DUPLICATES, NEAR_GROUPS, NEAR_THRESHOLD, OLD_NEAR, PAIRS_FOUND
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DamagedShard, OutputFolder, table_name
from zoo.errors import UserError
from zoo.extraction.near_threshold import AUTO, UNCENTRED, choose, has_distribution
from zoo.inference.outputs import EMBEDDING
from zoo.numerics.similarity import ExactSearch, centred, l2_normalize, mean_direction
from zoo.system import atomic_files

MAX_PAIRS = 10_000_000  # nearly all frames of one scene are pairs: this file must end somewhere, the groups have all
_HELD_BYTES = 256 * 1024 * 1024
_ROWS_AT_ONCE = 65_536
_ROUNDING = 1e-6  # of a float32 cosine: two equal vectors of 2048 numbers have one of .9999997 to 1.0000003
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)
_PAIRS = pa.schema([("path", pa.string()), ("path_of_other", pa.string()), ("cosine", pa.float32())])
_GROUPS = pa.schema(
    [("path", pa.string()), ("group", pa.int64()), ("path_of_nearest", pa.string()), ("cosine", pa.float32())]
)

Rows = NDArray[np.int64]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def write(folder: OutputFolder, plan: Plan) -> None:
    """Commit the pairs of a complete folder whose cosine reaches the plan's threshold, and the groups that they form.

    With the threshold ``auto`` the cosines are centred where there are enough images for it, and the metadata of the
    pairs says what was chosen.

    ``_near_duplicates.parquet`` has the columns ``path``, ``path_of_other`` and ``cosine``; the first path of a pair
    comes first in the plan. It has at most ``MAX_PAIRS`` rows, the first ones found; its metadata says how many there
    are in all. ``_near_duplicate_groups.parquet`` has a row for each image that is in any pair, see ``NearGroups``.

    Raises:
        UserError: a shard is damaged, or the disk is full.
        FileNotFoundError: a shard is missing, because another run of the same update has moved it into place.
    """
    groups = NearGroups(plan.images)
    folder.commit(NEAR_DUPLICATES, lambda file: _write_pairs(folder, plan, file, groups))
    if not groups.complete:  # a shard was missing, and the pairs are those of another run
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder.root / NEAR_DUPLICATES))
    folder.commit(NEAR_GROUPS, lambda file: _write_groups(plan, file, groups))
    for old in OLD_NEAR.values():
        atomic_files.remove(folder.root / old)


class NearGroups:
    """The connected components of pairs of rows, and the nearest other row of each: 16 bytes a row, however many pairs.

    Two images are in one group if a chain of pairs joins them, so the first and the last frame of a slow pan are, near
    or not.

    Attributes:
        pairs: number of pairs so far.
        complete: all pairs were added.
    """

    def __init__(self, rows: int) -> None:
        self.pairs = 0
        self.complete = False
        self._label = np.arange(rows)  # the first row of each row's group
        # Cosine above, complement of the other row below: the largest is the nearest, and of equal ones the first.
        self._nearest = np.zeros(rows, np.uint64)

    def add(self, pairs: Pairs) -> None:
        """Take in pairs: earlier rows, later rows and cosines above 0, [P] each."""
        earlier, later, cosines = pairs
        self.pairs += len(earlier)
        bits = cosines.view(np.uint32).astype(np.uint64) << _HALF  # positive floats are ordered as their bits are
        for rows, others in ((earlier, later), (later, earlier)):
            np.maximum.at(self._nearest, rows, bits | (_LOW - others.astype(np.uint64)))
        self._join(earlier, later)

    def rows(self) -> Rows:
        """Return the rows that are in a group, int64 [M], in order."""
        return np.flatnonzero(self._nearest)

    def of(self, rows: Rows) -> tuple[Rows, Rows, NDArray[np.float32]]:
        """Return for rows of groups their group's first row, their nearest row, and its cosine."""
        nearest = self._nearest[rows]
        others = (_LOW - (nearest & _LOW)).astype(np.int64)
        return self._label[rows], others, (nearest >> _HALF).astype(np.uint32).view(np.float32)

    def _join(self, a: Rows, b: Rows) -> None:
        """Give the groups of each pair one label, the least."""
        while True:
            first, second = self._label[a], self._label[b]
            apart = first != second
            if not apart.any():
                return
            a, b, first, second = a[apart], b[apart], first[apart], second[apart]
            # Hang each group below the least group it touches, then let every row point at the top of its chain.
            np.minimum.at(self._label, np.maximum(first, second), np.minimum(first, second))
            while True:
                jumped = self._label[self._label]
                if np.array_equal(jumped, self._label):
                    break
                self._label = jumped


def _write_pairs(folder: OutputFolder, plan: Plan, file: BinaryIO, groups: NearGroups) -> None:
    threshold, mean = _threshold(folder, plan)
    with pq.ParquetWriter(file, _PAIRS, compression="zstd", write_page_checksum=True) as writer:
        held: list[Pairs] = []
        left = MAX_PAIRS
        for pairs in _pairs(folder, plan, threshold, mean):
            groups.add(pairs)
            # Write a full row group, while the limit is not reached.
            if left:
                held.append(pairs)
                if (count := sum(len(part[0]) for part in held)) >= min(left, _ROWS_AT_ONCE):
                    writer.write_table(_pair_table(plan, held, left))
                    held, left = [], left - min(left, count)
        if any(len(part[0]) for part in held):
            writer.write_table(_pair_table(plan, held, left))
        chosen = {} if mean is None else {NEAR_THRESHOLD: str(threshold)}
        writer.add_key_value_metadata({PAIRS_FOUND: str(groups.pairs), **chosen})
    groups.complete = True


def _threshold(folder: OutputFolder, plan: Plan) -> tuple[float, NDArray[np.float64] | None]:
    """Return the cosine from which on a pair is near, and the mean that is subtracted first, ``None`` for none."""
    near = plan.fingerprint.near_threshold
    assert near is not None  # only a run with --dedupe comes here
    if near != AUTO:
        return float(near), None
    valid: list[Rows] = []

    def read() -> Iterator[NDArray[np.float32]]:
        for shard in range(plan.shards):
            units = _unit_vectors(folder, plan, shard)
            valid.append(np.flatnonzero(~np.isnan(units[:, 0])) + plan.rows(shard).start)
            yield units

    mean = mean_direction(read())
    rows = np.concatenate(valid)
    if not has_distribution(len(rows), mean):
        return UNCENTRED, np.zeros_like(mean)
    return choose(partial(_centred_shards, folder, plan, mean), rows), mean


def _centred_shards(folder: OutputFolder, plan: Plan, mean: NDArray[np.float64]) -> Iterator[NDArray[np.float32]]:
    for shard in range(plan.shards):
        yield _unit_vectors(folder, plan, shard, mean)


def _pair_table(plan: Plan, held: list[Pairs], most: int) -> pa.Table:
    earlier, later, cosines = (np.concatenate(parts)[:most] for parts in zip(*held, strict=True))
    return pa.table([_paths(plan, earlier), _paths(plan, later), cosines], schema=_PAIRS)


def _write_groups(plan: Plan, file: BinaryIO, groups: NearGroups) -> None:
    rows = groups.rows()
    firsts = np.unique(groups.of(rows)[0])
    with pq.ParquetWriter(file, _GROUPS, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            first, nearest, cosines = groups.of(part)
            numbers = np.searchsorted(firsts, first)
            columns = [_paths(plan, part), numbers, _paths(plan, nearest), cosines]
            writer.write_table(pa.table(columns, schema=_GROUPS))
        writer.add_key_value_metadata({PAIRS_FOUND: str(groups.pairs), GROUPS: str(len(firsts))})


def _paths(plan: Plan, rows: Rows) -> pa.Array:
    return pa.array(map(_shown, plan.paths_at(rows).to_pylist()), pa.string())


def _pairs(folder: OutputFolder, plan: Plan, threshold: float, mean: NDArray[np.float64] | None) -> Iterator[Pairs]:
    """Hold as many shards as fit, compare them with themselves and all later ones, then take the next ones."""
    threshold, first = min(threshold, 1 - _ROUNDING), 0
    while first < plan.shards:
        held = [_unit_vectors(folder, plan, first, mean)]
        while first + len(held) < plan.shards and sum(units.nbytes for units in held) < _HELD_BYTES:
            held.append(_unit_vectors(folder, plan, first + len(held), mean))
        matrix, base = ExactSearch(np.concatenate(held)), plan.rows(first).start
        # Stream the other shards past the held ones.
        for shard in range(first, plan.shards):
            units = held[shard - first] if shard - first < len(held) else _unit_vectors(folder, plan, shard, mean)
            for queries, rows, cosines in matrix.at_least(units, threshold):
                # Keep each pair once, and no row with itself.
                later, earlier = queries + plan.rows(shard).start, rows + base
                kept = earlier < later
                yield earlier[kept], later[kept], np.minimum(cosines[kept], np.float32(1))
        first += len(held)


def _unit_vectors(
    folder: OutputFolder, plan: Plan, shard: int, mean: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Return the unit vectors [rows, D] of a shard. A row without a vector is NaN; a mean is subtracted first."""
    try:
        rows = folder.read(plan, shard)
    except DamagedShard as error:
        raise UserError(f"{table_name(shard)} {error}: run the same command again") from error
    if rows is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder.root / table_name(shard)))
    units = l2_normalize(rows.vectors[EMBEDDING].astype(np.float32, copy=False))
    return units if mean is None else centred(units, mean)


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
