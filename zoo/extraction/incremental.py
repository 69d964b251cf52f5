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

from zoo.embeddings.manifest import files_of
from zoo.embeddings.plan import Changes, Plan, compare
from zoo.embeddings.shards import DamagedShard, Folder, Rows
from zoo.extraction.exact_duplicates import Known, find_copies
from zoo.extraction.pipeline import look_ahead
from zoo.inference.outputs import NEAR_DUPLICATES
from zoo.sources import Source
from zoo.system import atomic_files
from zoo.system.progress import Progress
from zoo.transforms.decode import UnreadableImage

_ROWS_AT_ONCE = 4096


class Overtaken(Exception):
    """Another run moved a new result into OUT while this one was made: look again at what is left to do."""


class Previous:
    """The rows of a result made earlier, read shard by shard; the last shard read is kept."""

    def __init__(self, folder: Folder, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self._shard_size: int = plan.identity["shard_size"]
        self._last: tuple[int, Rows | None] = (-1, None)

    def row(self, row: int) -> tuple[Rows, int] | None:
        """The shard that holds a row and its place there; None if that shard is missing or damaged."""
        shard = row // self._shard_size
        if self._last[0] != shard:
            try:
                self._last = shard, self.folder.read(self.plan, shard)
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
        reuse = plan.reuse[planned.start : planned.stop]
        for slot in np.argsort(reuse, kind="stable").tolist():  # so that no shard is read twice
            if reuse[slot] < 0:
                continue
            found = self.row(int(reuse[slot]))
            if found is None:
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


def plan_update(
    folder: Folder,
    plan: Plan,
    source: Source,
    found: pa.Table,
    changes: Changes,
    workers: int,
    progress: Progress | None,
) -> Plan | None:
    """The plan of the new result: every unchanged row whose file was read is taken over, failed or not.

    Rows whose file could not be read are tried again. Where the earlier run looked for copies they are looked for
    among all files as they are now, so that those are marked that a new run would mark; what an earlier row says of
    a file is not read again, and an image whose bytes any row of the earlier result had is not embedded again. None if
    nothing changed, none of those can be read now, and so there is nothing to do.
    """
    reuse = changes.previous.copy()
    reuse[changes.resized] = -1
    reuse[changes.touched] = -1
    previous, known = Previous(folder, plan), Known.nothing(len(found) if plan.copies is not None else 0)
    worthwhile = bool(describe(changes, plan, found))
    for row in np.flatnonzero(reuse >= 0).tolist():
        old = previous.row(int(reuse[row]))
        if old is None:  # its whole shard is missing, which any run makes up for
            reuse[row] = -1
        elif (sha256 := old[0].sha256[old[1]]) is None:
            reuse[row] = -1
            worthwhile = worthwhile or _is_readable(source, found.slice(row, 1).to_pylist()[0])
        elif plan.copies is not None:
            known.sha256[row] = sha256
            known.sizes[row] = old[0].width[old[1]] or 0, old[0].height[old[1]] or 0
    if not worthwhile:
        return None
    if plan.copies is None:
        return Plan(plan.identity, found, reuse)
    copies = find_copies(source, found, known, plan.identity["decoder"]["max_pixels"], workers, progress)
    new = Plan(plan.identity, found, reuse, copies)
    return replace(new, reuse=_by_bytes(previous, new, known))


def _by_bytes(previous: Previous, plan: Plan, known: Known) -> NDArray[np.int64]:
    """``reuse`` of a plan with copies: its first of some bytes takes over what the earlier first of them had.

    That need not be the same file: a copy takes the place of its first where this is gone, or a new file comes before.
    """
    first, before = plan.first_of_bytes, previous.plan.first_of_bytes
    reuse = np.full(len(first), -1, np.int64)
    sha256 = np.zeros(len(first), known.sha256.dtype)
    for row in np.flatnonzero(plan.reuse >= 0)[::-1]:  # so that the earliest has the last word
        reuse[first[row]] = before[plan.reuse[row]]
        sha256[first[row]] = known.sha256[row]
    lent = np.flatnonzero(reuse != plan.reuse)
    for row in lent[np.argsort(reuse[lent], kind="stable")]:
        if reuse[row] >= 0 and (previous.sha256(int(reuse[row])) or "").encode() != sha256[row]:
            reuse[row] = -1  # it changed, or was lost, between the first pass and its turn
    return reuse


def stage(folder: Folder, plan: Plan) -> tuple[Folder, Plan]:
    """The folder where the result of the update ``plan`` is made, and the plan that is frozen there.

    An unfinished update of the same files is gone on with, as its own plan says; any other is thrown away.
    """
    staged = Folder(folder.state / "next")
    frozen = Plan.load(staged.plan)
    if frozen is not None and not _same_update(frozen, plan):
        atomic_files.remove_tree(staged.root)
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
    atomic_files.remove_tree(folder.state / "next")


def promote(folder: Folder) -> bool:
    """Move a finished update into ``folder``; False if there is none. May be killed and repeated at any step.

    While it is under way ``folder`` has no manifest, and ``next`` has one until the last move.
    """
    staged = Folder(folder.state / "next")
    try:
        new: Mapping[str, Any] = json.loads(staged.manifest.read_bytes())
    except FileNotFoundError:
        return False
    atomic_files.remove(folder.manifest)
    names = [part["file"] for shard in new["shards"] for part in files_of(shard)]
    for name in [*names, *([NEAR_DUPLICATES] if "near_duplicates" in new else [])]:
        atomic_files.move(staged.root / name, folder.root / name)
    for name in folder.shard_files() - set(names):
        atomic_files.remove(folder.root / name)
    atomic_files.move(staged.plan, folder.plan)
    atomic_files.move(staged.manifest, folder.manifest)
    atomic_files.remove_tree(staged.root)
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
