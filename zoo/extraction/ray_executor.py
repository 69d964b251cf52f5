"""The shards of a plan on a Ray cluster: a task each, and Ray runs a task again whose worker or machine was lost.

The workers read the images and the frozen plan themselves and commit the shards themselves, so both folders must be
on a file system that all machines share; through Ray go the numbers of shards and nothing else. A task that runs
twice, or beside the one that was taken for lost, commits the same bytes.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo.embeddings.plan import Plan, differences
from zoo.embeddings.shards import Folder
from zoo.errors import UserError
from zoo.extraction.executor import Work, make_shards
from zoo.extraction.incremental import Overtaken, Previous
from zoo.hub.weights import is_path
from zoo.inference.outputs import Outputs
from zoo.loading import load
from zoo.sources import Source, open_source
from zoo.system.hardware import CORES
from zoo.transforms.decode import DECODER
from zoo.transforms.preprocess import Preprocessing

_RETRIES = 10  # of one shard; Ray's own memory monitor does not count towards them
_TASKS_PER_SLOT = 2  # so that a worker has its next shard when it ends one
_ANSWER_SECONDS = 20
_OBJECT_STORE = 128 * 1024 * 1024  # bytes, of a cluster started here: nothing is put into it


@dataclass(frozen=True)
class Opening:
    """How a worker opens the model: ``zoo.load``'s arguments, and how many cores it may use."""

    model: str
    options: tuple[tuple[str, Any], ...]
    cores: int


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know of an extraction; the rest stands in the plan.

    Attributes:
        images: what ``zoo.sources.open_source`` takes.
        root: the result's folder, which holds the plan with this ``key``.
        previous: the result that an update takes rows from, and the key of its plan.
        facts: what ``_facts`` must give on the worker, too.
    """

    opening: Opening
    facts: dict[str, Any]
    images: str
    root: Path
    previous: tuple[Path, str] | None
    key: str


@dataclass(frozen=True)
class Opened:
    """What a worker says of the model it opened; it embeds there and not here."""

    preprocessing: Preprocessing
    dim: int
    wants: Outputs
    shapes: Mapping[str, tuple[int, ...]]
    chosen: str
    facts: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """As ``zoo.extraction.pipeline.Described``."""
        identity: dict[str, Any] = self.facts["identity"]
        return identity


class Cluster:
    """A Ray cluster this process is connected to; made by ``connect``."""

    def __init__(self, ray: Any, cores: int) -> None:
        self._ray = ray
        self._cores = cores
        self._gpus = 0
        self._opening: Opening | None = None
        self._facts: dict[str, Any] = {}

    def open(self, model: str, options: dict[str, Any]) -> Opened:
        """Opens a model on a worker, to learn what the plan must say. UserError as ``zoo.load``, or too few resources.

        A worker has a GPU to itself where the cluster has any, unless ``options`` (of ``zoo.load``) ask for the CPU or
        for ONNX Runtime, whose own choice is the CPU.
        """
        resources, device = self._ray.cluster_resources(), options["device"]
        if resources.get("CPU", 0) < self._cores:
            raise UserError(f"the Ray cluster has {resources.get('CPU', 0):.0f} cores: choose fewer --workers")
        if device is not None and device not in ("cpu", "cuda"):
            raise UserError(f"--engine ray gives each worker its GPU: --device cpu or cuda, not {device}")
        needs_cpu = options["backend"] == "onnx" or options["precision"] == "int8"
        if (device == "cuda" or (device is None and not needs_cpu)) and resources.get("GPU", 0) >= 1:
            self._gpus = 1
        elif device == "cuda":
            raise UserError("the Ray cluster has no GPU: use --device cpu")
        model = os.path.abspath(model) if is_path(model) else model  # a worker has another working folder
        self._opening = Opening(model, tuple(options.items()), self._cores)
        opened: Opened = self._result(self._task(_describe).remote(self._opening), "opening the model")
        self._facts = opened.facts
        if changed := _differ(opened.facts, {**opened.facts, **_versions_here()}):
            raise UserError(f"this machine and a worker of the cluster differ in {changed}")
        return opened

    def make(self, work: Work) -> None:
        """See ``zoo.extraction.executor.Crew``."""
        assert self._opening is not None
        root, old = work.folder.root.absolute(), work.previous
        before = None if old is None else (old.folder.root.absolute(), old.plan.key)
        job = self._ray.put(Job(self._opening, self._facts, work.images, root, before, work.plan.key))
        task = self._task(_make)
        todo, pending, failed = iter(work.shards), dict[Any, int](), 0
        while True:
            for shard in islice(todo, max(0, self._slots() * _TASKS_PER_SLOT - len(pending))):
                pending[task.remote(job, shard)] = shard
            if not pending:
                return
            for done in self._ray.wait(list(pending), num_returns=1)[0]:
                shard = pending.pop(done)
                failed += self._result(done, f"shard {shard}")
                if work.progress is not None:
                    done_now = len(work.plan.to_compute(shard))
                    work.progress.advance(done_now, **({"failed": failed} if failed else {}))

    def _task(self, function: Any) -> Any:
        # not retried for an exception, which would come again: for a worker that is gone
        options = {"num_cpus": self._cores, "num_gpus": self._gpus, "max_retries": _RETRIES}
        return self._ray.remote(function).options(scheduling_strategy="SPREAD", **options)

    def _slots(self) -> int:
        """How many workers the cluster has room for now; it may grow and shrink."""
        resources = self._ray.cluster_resources()
        slots = resources.get("CPU", 0) // self._cores
        return max(1, int(min(slots, resources.get("GPU", 0)) if self._gpus else slots))

    def _result(self, reference: Any, what: str) -> Any:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError | Overtaken | OSError | ImportError):
                if isinstance(error.cause, ImportError):
                    raise UserError(f"a worker of the cluster says: {error.cause}: install siamese-zoo there") from None
                raise error.cause from None
            raise
        except exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{what}: no worker lived long enough in {_RETRIES + 1} attempts ({reason})") from None


@contextmanager
def connect(address: str | None, *, cores: int) -> Iterator[Cluster]:
    """Connects to the Ray cluster at ``address`` (None: at RAY_ADDRESS, else one is started on this machine).

    Args:
        cores: how many of them a worker takes.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a worker without a GPU shall see none
    ray = _import_ray()
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _require_listener(address)
    here = {} if address else {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"no Ray cluster at {address or 'this machine'} ({reason}): see `ray status`") from None
    signal.signal(signal.SIGTERM, before)  # Ray's own would leave with another exit code
    try:
        yield Cluster(ray, cores)
    finally:
        ray.shutdown()  # ends the workers of this run, in the middle of a shard too


def _require_listener(address: str) -> None:
    """UserError where nothing answers at HOST:PORT: Ray itself would try for minutes. Other addresses pass."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"no Ray cluster at {address} ({reason}): see `ray status`") from None


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'siamese-zoo[cluster]'") from None
    return ray


def _make(job: Job, shard: int) -> int:
    """A worker's task: one shard; how many of its images failed."""
    embedder, facts = _opened(job.opening)
    if changed := _differ(job.facts, facts):
        raise UserError(f"{platform.node()} differs in {changed} from the worker that was asked first")
    plan, previous = _plan(job.root, job.key, _version(job.root)), None
    if plan is None:
        raise UserError(f"{platform.node()} sees another plan in {job.root}: use an --out that all machines share")
    if job.previous is not None:
        root, key = job.previous
        before = _plan(root, key, _version(root))
        if before is None:
            raise Overtaken
        previous = Previous(Folder(root), before)
    source = _source(job.images, tuple(plan.identity.get("keep", ())), job.key)
    work = Work(job.images, Folder(job.root), plan, [shard], previous)
    return make_shards(work, source, embedder, job.opening.cores)


@lru_cache(maxsize=1)
def _source(images: str, keep: tuple[str, ...], _of_plan: str) -> Source:
    """Once per worker process and plan: opening can mean to read an index."""
    return open_source(images, keep)


def _describe(opening: Opening) -> Opened:
    """A worker's task: what it opened."""
    embedder, facts = _opened(opening)
    shapes = dict(embedder.shapes)
    return Opened(embedder.preprocessing, embedder.dim, embedder.wants, shapes, embedder.chosen, facts)


@cache
def _opened(opening: Opening) -> tuple[Any, dict[str, Any]]:
    """The model, once per worker process, and its facts."""
    os.environ[CORES] = str(opening.cores)
    embedder = load(opening.model, **dict(opening.options))
    return embedder, {"identity": embedder.identity(), **_versions_here()}


@lru_cache(maxsize=2)  # that of an update, and that of the result it takes rows from
def _plan(root: Path, key: str, _of: tuple[int, int]) -> Plan | None:
    plan = Plan.load(Folder(root).plan)
    return plan if plan is not None and plan.key == key else None


def _version(root: Path) -> tuple[int, int]:
    """Tells the plan there from one that took its place."""
    try:
        status = os.stat(Folder(root).plan)
    except FileNotFoundError:
        raise UserError(f"{platform.node()} does not see {root}: use an --out that all machines share") from None
    return status.st_ino, status.st_mtime_ns


def _versions_here() -> dict[str, Any]:
    return {"decoder": DECODER, "versions": {"python": sys.version.split()[0], "pyarrow": pa.__version__}}


def _differ(expected: dict[str, Any], found: dict[str, Any]) -> str:
    return "; ".join(differences(expected, found))
