"""Read single rows of a result that was made earlier."""

from __future__ import annotations

import numpy as np

from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DamagedShard, OutputFolder, OutputReplaced, Rows


class RowReader:
    """The rows of a result by their numbers; the shard that was read last stays in memory.

    Attributes:
        folder: where the result is.
        plan: what it was made by.
    """

    def __init__(self, folder: OutputFolder, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan
        self._last: tuple[int, Rows | None] = (-1, None)

    def is_current(self) -> bool:
        """Return whether the folder still has the plan of this result: an update may have been moved into place."""
        plan = Plan.load(self.folder.plan)
        return plan is not None and plan.key == self.plan.key and plan.same_files(self.plan.files)

    def row(self, row: int) -> tuple[Rows, int] | None:
        """Return the shard that holds a row and its slot there; ``None`` if the shard is missing or damaged."""
        shard, slot = divmod(row, self.plan.fingerprint.shard_size)
        if self._last[0] != shard:
            try:
                self._last = shard, self.folder.read(self.plan, shard)
            except DamagedShard:
                self._last = shard, None
        rows = self._last[1]
        return None if rows is None else (rows, slot)

    def sha256(self, row: int) -> str | None:
        """Return the hash of a row's image file; ``None`` if the row is missing or the file could not be read."""
        found = self.row(row)
        return None if found is None else found[0].sha256[found[1]]

    def copy_reused(self, plan: Plan, shard: int, rows: Rows) -> None:
        """Fill in the rows that ``plan`` reuses in one of its shards.

        Args:
            plan: the plan of an update, whose ``reuse`` has the numbers of rows here.
            rows: of that shard.

        Raises:
            OutputReplaced: a row is not there any more.
        """
        reuse = plan.reuse_of(shard)
        for slot in np.argsort(reuse, kind="stable").tolist():  # in the order of the shards: none is read twice
            if reuse[slot] < 0:
                continue
            found = self.row(int(reuse[slot]))
            if found is None:
                raise OutputReplaced
            rows.copy_row(slot, *found)
