"""A grown or changed folder of images: what changed since OUT was made, and a new result that keeps the rest.

The new result is made whole in ``OUT/.zoo/next``, by a plan of its own that names for each row the old row it
takes over. Only then is it moved into OUT, file by file. A kill at any moment leaves either an unfinished
``next``, which the same command goes on with, or a finished one, which every command first moves into place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo import files
from zoo.images import UnreadableImage
from zoo.manifest import files_of
from zoo.pipeline import look_ahead
from zoo.plan import Changes, Plan, compare
from zoo.shards import DamagedShard, Folder, Rows
from zoo.sources import Source

_ROWS_AT_ONCE = 4096


class Overtaken(Exception):
    """Another run moved a new result into OUT while this one was made: look again at what is left to do."""


class Previous:
    """The rows of a result made earlier, read shard by shard; the last shard read is kept."""

    def __init__(self, folder: Folder, plan: Plan) -> None:
        self.folder = folder
        self._plan = plan
        self._shard_size: int = plan.identity["shard_size"]
        self._last: tuple[int, Rows | None] = (-1, None)

    def row(self, row: int) -> tuple[Rows, int] | None:
        """The shard that holds a row and its place there; None if that shard is missing or damaged."""
        shard = row // self._shard_size
        if self._last[0] != shard:
            try:
                self._last = shard, self.folder.read(self._plan, shard)
            except DamagedShard:
                self._last = shard, None
        rows = self._last[1]
        return None if rows is None else (rows, row % self._shard_size)

    def sha256(self, row: int) -> str | None:
        """The hash of the file behind a row; None if the row is missing or its file could not be read."""
        found = self.row(row)
        return None if found is None else found[0].sha256[found[1]]

    def take_over(self, plan: Plan, shard: int, rows: Rows) -> None:
        """Fill in what ``plan`` takes over for one of its shards. Raises Overtaken if it is not there."""
        planned = plan.rows(shard)
        for slot, row in enumerate(plan.reuse[planned.start : planned.stop].tolist()):
            if row < 0:
                continue
            found = self.row(row)
            if found is None or found[0].paths[found[1]] != rows.paths[slot]:
                raise Overtaken
            rows.take(slot, *found)


def changes_since(folder: Folder, plan: Plan, source: Source, found: pa.Table, workers: int) -> Changes:
    """How a source, which lists ``found`` now, differs from the plan of its result.

    A file of the same size with another modification time is read again, and has not changed if its hash is
    the one in its row. Where there is no row to compare with it counts as changed.
    """
    changes = compare(plan.files, found)
    previous = Previous(folder, plan)
    hashes = [previous.sha256(row) for row in changes.previous[changes.touched].tolist()]
    pairs = zip(_rows(found, changes.touched), hashes, strict=True)
    with closing(look_ahead(partial(_has_hash, source), pairs, workers, 2 * workers)) as verdicts:
        same = np.fromiter(verdicts, bool, len(hashes))
    return replace(changes, touched=changes.touched[~same])


def describe(changes: Changes, plan: Plan, found: pa.Table) -> str:
    """Such as "2 files added (first a.jpg), 1 changed (first b.jpg)"; empty if nothing changed."""
    parts = []
    changed = np.sort(np.concatenate([changes.resized, changes.touched]))
    for verb, rows, table in (
        ("added", changes.added, found),
        ("changed", changed, found),
        ("removed", changes.removed, plan.files),
    ):
        if len(rows):
            first = table["path"][int(rows[0])].as_py().decode(errors="backslashreplace")
            parts.append(f"{len(rows)} {'file ' if len(rows) == 1 else 'files '}{verb} (first {first!r})")
    if changes.rearranged and not parts:
        parts.append("its order or a column that is kept changed")
    return ", ".join(parts)


def plan_update(folder: Folder, plan: Plan, source: Source, found: pa.Table, changes: Changes) -> Plan | None:
    """The plan of the new result: every unchanged row whose file was read is taken over, failed or not.

    Rows whose file could not be read are tried again. None if nothing changed, none of those can be read now,
    and so there is nothing to do.
    """
    reuse = changes.previous.copy()
    reuse[changes.resized] = -1
    reuse[changes.touched] = -1
    previous = Previous(folder, plan)
    worthwhile = bool(describe(changes, plan, found))
    for row in np.flatnonzero(reuse >= 0).tolist():
        old = previous.row(int(reuse[row]))
        if old is None:  # its whole shard is missing, which any run makes up for
            reuse[row] = -1
        elif old[0].sha256[old[1]] is None:
            reuse[row] = -1
            worthwhile = worthwhile or _is_readable(source, found.slice(row, 1).to_pylist()[0])
    return Plan(plan.identity, found, reuse) if worthwhile else None


def stage(folder: Folder, plan: Plan) -> tuple[Folder, Plan]:
    """The folder where the result of the update ``plan`` is made, and the plan that is frozen there.

    An unfinished update of the same files is gone on with, as its own plan says; any other is thrown away.
    """
    staged = Folder(folder.state / "next")
    frozen = Plan.load(staged.plan)
    if frozen is not None and not _same_update(frozen, plan):
        files.remove_tree(staged.root)
        frozen = None
    if frozen is None:
        staged.create()
        plan.save(staged.plan, staged.scratch)
        frozen = Plan.load(staged.plan)  # another run of this update may have been first
        if frozen is None or not _same_update(frozen, plan):
            raise Overtaken
    return staged, frozen


def discard(folder: Folder) -> None:
    """Throw away an unfinished update, if there is one."""
    files.remove_tree(folder.state / "next")


def promote(folder: Folder) -> bool:
    """Move a finished update into ``folder``; False if there is none. May be killed and repeated at any step.

    While it is under way ``folder`` has no manifest, and ``next`` has one until the last move.
    """
    staged = Folder(folder.state / "next")
    try:
        new: Mapping[str, Any] = json.loads(staged.manifest.read_bytes())
    except FileNotFoundError:
        return False
    files.remove(folder.manifest)
    names = [part["file"] for shard in new["shards"] for part in files_of(shard)]
    for name in names:
        files.move(staged.root / name, folder.root / name)
    for name in folder.shard_files() - set(names):
        files.remove(folder.root / name)
    files.move(staged.plan, folder.plan)
    files.move(staged.manifest, folder.manifest)
    files.remove_tree(staged.root)
    return True


def _same_update(frozen: Plan, plan: Plan) -> bool:
    return frozen.identity == plan.identity and frozen.same_files(plan.files)


def _rows(found: pa.Table, wanted: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    for first in range(0, len(wanted), _ROWS_AT_ONCE):
        yield from found.take(wanted[first : first + _ROWS_AT_ONCE]).to_pylist()


def _has_hash(source: Source, file: tuple[dict[str, Any], str | None]) -> bool:
    row, sha256 = file
    try:
        return sha256 is not None and hashlib.sha256(source.read(row)).hexdigest() == sha256
    except UnreadableImage:
        return False


def _is_readable(source: Source, row: dict[str, Any]) -> bool:
    try:
        source.read(row)
    except UnreadableImage:
        return False
    return True
