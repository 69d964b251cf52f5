"""``--update``: take in what changed in the images since OUT was made, and keep the rest.

The new result is made whole in ``OUT/.zoo/next``, by a plan of its own that names for each row the old row it reuses.
Only then is it moved into OUT, file by file. A kill at any moment leaves either an unfinished ``next``, which the same
command continues, or a finished one, which every command first moves into place.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo.embeddings.manifest import OLD_NEAR, files_of, files_of_duplicates, parse
from zoo.embeddings.plan import Plan
from zoo.embeddings.row_reader import RowReader
from zoo.embeddings.shards import MANIFEST, OLD_MANIFEST, OutputFolder, OutputReplaced
from zoo.extraction.changes import Changes, describe_changes
from zoo.extraction.exact_duplicates import FileReader, KnownFiles, find_exact_duplicates
from zoo.sources.base import ImageRow, Source
from zoo.system import atomic_files
from zoo.system.file_locks import one_at_a_time
from zoo.system.json_reader import BadJson
from zoo.transforms.unreadable import UnreadableImage


def plan_update(previous: RowReader, found: pa.Table, changes: Changes, reader: FileReader) -> Plan | None:
    """Return the plan of the new result; ``None`` if there is nothing to do.

    Every unchanged row whose file was read is reused, whether it has a vector or not; a file that could not be read
    is tried again. Where the earlier run looked for duplicates they are looked for among all files as they are now,
    so that the result is that of a new run. A file whose hash an earlier row has is not read again, and an image whose
    bytes any earlier row had is not embedded again.

    Args:
        found: the listing of the source now.
        changes: how it differs from the plan of ``previous``.
    """
    plan = previous.plan
    known = KnownFiles.nothing(len(found) if plan.fingerprint.dedupe else 0)
    worthwhile = bool(describe_changes(changes, plan, found))

    # Reuse what has not changed and was read.
    reuse = changes.previous.copy()
    reuse[changes.resized] = -1
    reuse[changes.touched] = -1
    for row in np.flatnonzero(reuse >= 0).tolist():
        old = previous.row(int(reuse[row]))
        if old is None:  # its whole shard is missing; any run makes that again
            reuse[row] = -1
        elif (sha256 := old[0].sha256[old[1]]) is None:
            reuse[row] = -1
            worthwhile = worthwhile or _is_readable(reader.source, found.slice(row, 1).to_pylist()[0])
        elif plan.fingerprint.dedupe:
            known.sha256[row] = sha256
            known.sizes[row] = old[0].width[old[1]] or 0, old[0].height[old[1]] or 0
    if not worthwhile:
        return None

    # Look for duplicates, and reuse by bytes.
    if not plan.fingerprint.dedupe:
        return Plan(plan.fingerprint, found, reuse)
    new = Plan(plan.fingerprint, found, reuse, find_exact_duplicates(found, known, reader))
    return Plan(new.fingerprint, found, _reuse_by_bytes(previous, new, known), new.duplicates)


def _reuse_by_bytes(previous: RowReader, plan: Plan, known: KnownFiles) -> NDArray[np.int64]:
    """Return ``reuse`` of a plan with duplicates: the first row of some bytes reuses the earlier first row of them.

    That need not be the same file: a duplicate takes the place of its first file if that is gone, or if a new file
    comes before it.
    """
    # Give the first file of each group of equal bytes an old row with these bytes.
    first, before = plan.first_of_bytes, previous.plan.first_of_bytes
    reuse = np.full(len(first), -1, np.int64)
    sha256 = np.zeros(len(first), known.sha256.dtype)
    for row in np.flatnonzero(plan.reuse >= 0)[::-1]:  # backwards, so that the earliest row wins
        reuse[first[row]] = before[plan.reuse[row]]
        sha256[first[row]] = known.sha256[row]
    # Check again the rows whose source moved.
    moved = np.flatnonzero(reuse != plan.reuse)
    for row in moved[np.argsort(reuse[moved], kind="stable")]:
        if reuse[row] >= 0 and (previous.sha256(int(reuse[row])) or "").encode() != sha256[row]:
            reuse[row] = -1  # the file changed, or was lost, between the search for duplicates and its embedding
    return reuse


def open_staged(folder: OutputFolder, plan: Plan) -> tuple[OutputFolder, Plan]:
    """Return the folder in which the update ``plan`` is made, and the plan that is frozen there.

    An unfinished update of the same files is continued by its own plan; any other is thrown away.
    """
    # Drop a staged update that started from other images.
    staged = folder.staged
    frozen = Plan.load(staged.plan)
    if frozen is not None and not _same_update(frozen, plan):
        atomic_files.remove_tree(staged.root)
        frozen = None
    # Freeze this update where none is staged.
    if frozen is None:
        staged.create()
        plan.save(staged.plan, staged.scratch)
        frozen = Plan.load(staged.plan)  # another run of this update may have been first
        if frozen is None or not _same_update(frozen, plan):
            raise OutputReplaced
    return staged, frozen


def discard_staged(folder: OutputFolder) -> None:
    """Throw away an unfinished update, if there is one."""
    atomic_files.remove_tree(folder.staged.root)


def install_staged(folder: OutputFolder) -> None:
    """Move a finished update into ``folder``, if there is one. A kill at any step can be followed by a new call.

    While the files move ``folder`` has no manifest, and ``next`` has one until the last move.
    """
    staged = folder.staged
    if not staged.manifest.exists():
        return
    # Two runs that move at once could remove each other's manifest.
    with one_at_a_time(folder.state):
        # A staged manifest proves that the update is complete.
        try:
            new = parse(staged.manifest.read_bytes())
        except FileNotFoundError:
            return
        except BadJson:  # no run wrote it, so nothing is known to be complete: the next update makes it again
            atomic_files.remove_tree(staged.root)
            return
        # From here on the folder has no manifest, so a killed move is seen and repeated.
        for name in (MANIFEST, OLD_MANIFEST):
            atomic_files.remove(folder.root / name)
        atomic_files.remove(folder.manifest_hash)
        names = [file.name for shard in new["shards"] for file in files_of(shard)]
        near = [file.name for file in files_of_duplicates(new)]
        for name in [*names, *near]:
            atomic_files.move(staged.root / name, folder.root / name)
        # Remove the shards that the update no longer has, and near duplicates under an earlier version's names.
        for name in (folder.shard_files() | set(OLD_NEAR.values())) - {*names, *near}:
            atomic_files.remove(folder.root / name)
        # The manifest comes last: it commits the update.
        atomic_files.move(staged.plan, folder.plan)
        atomic_files.move(staged.manifest, folder.manifest)
        atomic_files.move(staged.manifest_hash, folder.manifest_hash)  # a kill before it leaves none, which is allowed
        atomic_files.remove_tree(staged.root)


def _same_update(frozen: Plan, plan: Plan) -> bool:
    return frozen.fingerprint == plan.fingerprint and frozen.same_files(plan.files)


def _is_readable(source: Source, row: ImageRow) -> bool:
    try:
        source.read(row)
    except UnreadableImage:
        return False
    return True
