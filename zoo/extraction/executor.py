"""The executor of an extraction makes the shards of a plan: in this process, or elsewhere (``ray_executor``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from zoo.embeddings.plan import Plan
from zoo.embeddings.row_reader import RowReader
from zoo.embeddings.shards import OutputFolder
from zoo.extraction.pipeline import FeatureExtractor, Times, make_shards
from zoo.inference.embedder import Embedder
from zoo.inference.outputs import Outputs
from zoo.loading import load
from zoo.sources import Source
from zoo.system.progress import Progress


@dataclass(frozen=True)
class LoadArguments:
    """How a model is opened, here or on a worker: the keywords of ``zoo.load``."""

    device: str | None
    backend: str
    precision: str
    normalize: bool
    outputs: Outputs

    def load(self, model: str | Path | None) -> Embedder:
        """Open a model by name or path in this process; see ``zoo.load``."""
        return load(
            model,
            device=self.device,
            backend=self.backend,
            precision=self.precision,
            normalize=self.normalize,
            outputs=self.outputs,
        )


@dataclass(frozen=True)
class ShardJob:
    """Shards that are to be made.

    Attributes:
        images: the source, a URL or an absolute path, for ``zoo.sources.open_source`` with the plan's ``keep``.
        folder: the output folder, in which ``plan`` is frozen.
        shards: their numbers.
        previous: the result from which an update copies rows.
        progress: where to show progress; ``None`` is silent.
    """

    images: str
    folder: OutputFolder
    plan: Plan
    shards: Sequence[int]
    previous: RowReader | None = None
    progress: Progress | None = None


class Executor(Protocol):
    """Makes shards."""

    def run(self, job: ShardJob) -> None:
        """Make all shards of a job. Raises as ``zoo.extraction.pipeline.make_shards``."""


@dataclass(frozen=True)
class LocalExecutor:
    """Makes shards in this process.

    Attributes:
        source: the images.
        model: the network.
        workers: threads that read and decode.
        times: what took how long.
    """

    source: Source
    model: FeatureExtractor
    workers: int
    times: Times = field(default_factory=Times)

    def run(self, job: ShardJob) -> None:
        """Make all shards of a job."""
        make_shards(
            job.plan,
            job.shards,
            job.folder,
            self.source,
            self.model,
            workers=self.workers,
            previous=job.previous,
            progress=job.progress,
            times=self.times,
        )
