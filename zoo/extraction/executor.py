"""Who makes the shards of a plan: this process, or workers elsewhere (``cluster.py``)."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import Folder
from zoo.errors import UserError
from zoo.extraction.incremental import Previous
from zoo.extraction.pipeline import Embedder, compute_shards
from zoo.sources import Source
from zoo.system.progress import Progress


@dataclass(frozen=True)
class Work:
    """Shards that are to be made.

    Attributes:
        images: their source, a URL or an absolute path, for ``zoo.sources.open_source`` with the plan's ``keep``.
        folder: the result's, where ``plan`` is frozen.
        shards: their numbers.
        previous: what an update takes rows from.
        progress: where to show it; ``None`` is silent.
    """

    images: str
    folder: Folder
    plan: Plan
    shards: list[int]
    previous: Previous | None = None
    progress: Progress | None = None


class Crew(Protocol):
    """Who makes shards."""

    def make(self, work: Work) -> None:
        """Have ``make_shards`` done for each of the work's shards."""


@dataclass(frozen=True)
class Here:
    """This process, as a crew; ``workers`` threads decode."""

    source: Source
    embedder: Embedder
    workers: int

    def make(self, work: Work) -> None:
        """See ``Crew``."""
        make_shards(work, self.source, self.embedder, self.workers)


def make_shards(work: Work, source: Source, embedder: Embedder, workers: int) -> int:
    """Compute and commit shards, in this process; how many of their images failed.

    Raises:
        UserError: another run has put a new plan into the folder meanwhile.
        zoo.extraction.incremental.Overtaken: what is to be taken over is not there any more.
    """
    frozen = os.stat(work.folder.plan)
    failed = 0
    with closing(compute_shards(work.plan, work.shards, source, embedder, workers, work.progress)) as computed:
        for shard, rows in computed:
            if work.previous is not None:
                work.previous.take_over(work.plan, shard, rows)
            if not os.path.samestat(frozen, os.stat(work.folder.plan)):
                raise UserError(f"{work.folder.root} was updated by another run: run the same command again")
            work.folder.write(work.plan, shard, rows)
            failed += rows.failed
    return failed
