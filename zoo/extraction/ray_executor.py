"""Make the shards of a plan on a Ray cluster: a task for each; Ray runs a task again if its worker or machine was lost.

The workers read the images and the frozen plan themselves and commit the shards themselves, so both folders must be on
a file system that all machines share; only the numbers of shards go through Ray. A task that runs twice, or beside one
that was wrongly taken for lost, commits the same bytes.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo.embeddings.fingerprint import differences
from zoo.embeddings.plan import Plan
from zoo.embeddings.row_reader import RowReader
from zoo.embeddings.shards import OutputFolder, OutputReplaced
from zoo.errors import UserError
from zoo.extraction.executor import LoadArguments, ShardJob
from zoo.extraction.pipeline import make_shards
from zoo.hub.weights import is_path
from zoo.inference.backend_choice import ON_CPU
from zoo.inference.embedder import Embedder
from zoo.inference.outputs import Outputs
from zoo.sources import Source, open_source
from zoo.system.hardware import CORES
from zoo.transforms.decode import DECODER
from zoo.transforms.preprocess import Preprocessing

_RETRIES = 10  # of one shard; Ray's own memory monitor does not count towards them
_TASKS_PER_WORKER = 2  # so that a worker has its next shard when it finishes one
_ANSWER_SECONDS = 20
_OBJECT_STORE = 128 * 1024 * 1024  # bytes, of a cluster started here: nothing is put into it


@dataclass(frozen=True)
class WorkerModel:
    """The model that a worker opens, and how many cores it may use."""

    model: str | Path | None
    arguments: LoadArguments
    cores: int


@dataclass(frozen=True)
class WorkerJob:
    """Everything that a worker needs to know of an extraction; the rest is in the plan.

    Attributes:
        model: what the worker opens.
        facts: what ``_facts`` must return on the worker, too.
        images: what ``zoo.sources.open_source`` takes.
        root: the output folder, which holds the plan with this ``key``.
        previous: the folder from which an update copies rows, and the key of its plan.
    """

    model: WorkerModel
    facts: Mapping[str, object]
    images: str
    root: Path
    previous: tuple[Path, str] | None
    key: str


@dataclass(frozen=True)
class RemoteModel:
    """What a worker says of the model it opened. It embeds there and not here.

    See ``zoo.extraction.fingerprint.ModelInfo`` and ``zoo.Embedder`` for the attributes.
    """

    preprocessing: Preprocessing
    dim: int
    requested: Outputs
    shapes: Mapping[str, tuple[int, ...]]
    backend_reason: str
    network: dict[str, Any]
    facts: Mapping[str, object]

    def identity(self) -> dict[str, Any]:
        """Return all that decides the vectors, as ``zoo.Embedder`` does."""
        return self.network


class RayExecutor:
    """Makes shards on the Ray cluster that this process is connected to; ``connect`` makes it."""

    def __init__(self, ray: Any, cores: int) -> None:
        self._ray = ray
        self._cores = cores
        self._gpus = 0
        self._model: WorkerModel | None = None
        self._facts: Mapping[str, object] = {}

    def open(self, model: str | Path | None, arguments: LoadArguments) -> RemoteModel:
        """Open a model by name or path on a worker, to learn what the plan must say.

        A worker has a GPU of its own if the cluster has any, unless the arguments ask for the CPU, or for ONNX Runtime
        or OpenVINO, which choose the CPU.

        Raises:
            UserError: as ``zoo.load``; the cluster has too few resources; worker and driver have other versions.
        """
        # Check that the cluster can run what was asked.
        resources, device = self._ray.cluster_resources(), arguments.device
        if resources.get("CPU", 0) < self._cores:
            raise UserError(f"the Ray cluster has {resources.get('CPU', 0):.0f} cores: choose fewer --workers")
        if device is not None and device not in ("cpu", "cuda"):
            raise UserError(f"--engine ray gives each worker its GPU: --device cpu or cuda, not {device}")
        # Choose the GPU where the cluster has one and the backend can use it.
        needs_cpu = arguments.backend in ON_CPU or arguments.precision == "int8"
        if (device == "cuda" or (device is None and not needs_cpu)) and resources.get("GPU", 0) >= 1:
            self._gpus = 1
        elif device == "cuda":
            raise UserError("the Ray cluster has no GPU: use --device cpu")
        # Ask one worker to open the model and describe it.
        if model is not None and is_path(model):
            model = os.path.abspath(model)  # a worker has another working folder
        self._model = WorkerModel(model, arguments, self._cores)
        opened: RemoteModel = self._result(self._task(_describe_model).remote(self._model), "opening the model")
        self._facts = opened.facts
        # Refuse a cluster whose packages differ from this machine's.
        if changed := "; ".join(differences(opened.facts, {**opened.facts, **_versions_here()})):
            raise UserError(f"this machine and a worker of the cluster differ in {changed}")
        return opened

    def run(self, job: ShardJob) -> None:
        """Make all shards of a job; see ``zoo.extraction.executor.Executor``."""
        assert self._model is not None  # ``open`` comes first
        # Share the job once: the tasks then name only their shard.
        root, previous = job.folder.root.absolute(), job.previous
        before = None if previous is None else (previous.folder.root.absolute(), previous.plan.key)
        worker_job = WorkerJob(self._model, self._facts, job.images, root, before, job.plan.key)
        shared, task = self._ray.put(worker_job), self._task(_make_shard)
        todo, pending, failed = iter(job.shards), dict[object, int](), 0
        while True:
            # Keep as many tasks with Ray as the workers need, and start another when one is done.
            for shard in islice(todo, max(0, self._workers() * _TASKS_PER_WORKER - len(pending))):
                pending[task.remote(shared, shard)] = shard
            if not pending:
                return
            # Take in what is done, and pass on its error.
            for done in self._ray.wait(list(pending), num_returns=1)[0]:
                shard = pending.pop(done)
                failed += self._result(done, f"shard {shard}")
                if job.progress is not None:
                    done_now = len(job.plan.to_compute(shard))
                    job.progress.advance(done_now, **({"failed": failed} if failed else {}))

    def _task(self, function: Callable[..., object]) -> Any:
        # Not retried for an exception, which would come again: for a worker that is gone.
        options = {"num_cpus": self._cores, "num_gpus": self._gpus, "max_retries": _RETRIES}
        return self._ray.remote(function).options(scheduling_strategy="SPREAD", **options)

    def _workers(self) -> int:
        """Return how many workers the cluster has room for now; it can grow and shrink."""
        resources = self._ray.cluster_resources()
        workers = resources.get("CPU", 0) // self._cores
        return max(1, int(min(workers, resources.get("GPU", 0)) if self._gpus else workers))

    def _result(self, reference: object, what: str) -> Any:
        """Return the result of a task; its failure becomes an error of this process."""
        exceptions = self._ray.exceptions
        # Turn a worker's error into the user's.
        try:
            return self._ray.get(reference)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError | OutputReplaced | OSError | ImportError):
                if isinstance(error.cause, ImportError):
                    raise UserError(f"a worker of the cluster says: {error.cause}: install siamese-zoo there") from None
                raise error.cause from None
            raise
        except exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{what}: no worker lived long enough in {_RETRIES + 1} attempts ({reason})") from None


@contextmanager
def connect(address: str | None, *, cores: int) -> Iterator[RayExecutor]:
    """Connect to a Ray cluster for the time of the context.

    Args:
        address: of the cluster; ``None`` is RAY_ADDRESS, or else a cluster that is started on this machine.
        cores: how many cores a worker takes.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    # Prepare the environment before Ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray reports to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a worker without a GPU must see none
    ray = _import_ray()
    # Check a given address first: Ray itself would wait long for it.
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _require_listener(address)
    # Start Ray, or join the cluster.
    here = {} if address else {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"no Ray cluster at {address or 'this machine'} ({reason}): see `ray status`") from None
    signal.signal(signal.SIGTERM, before)  # Ray's handler would exit with another code
    try:
        yield RayExecutor(ray, cores)
    finally:
        ray.shutdown()  # ends the workers of this run, in the middle of a shard too


def _require_listener(address: str) -> None:
    """Raise UserError if nothing answers at HOST:PORT: Ray itself would try for minutes. Other addresses pass."""
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


# What follows runs on the workers.


def _describe_model(wanted: WorkerModel) -> RemoteModel:
    """Open the model, as a task of its own, and return what it is."""
    model = _opened(wanted)
    shapes = dict(model.shapes)
    return RemoteModel(
        model.preprocessing, model.dim, model.requested, shapes, model.backend_reason, model.identity(), _facts(model)
    )


def _make_shard(job: WorkerJob, shard: int) -> int:
    """Make one shard, as a task of its own, and return how many of its images failed."""
    # Check that this worker computes what the first one did.
    model = _opened(job.model)
    if changed := "; ".join(differences(job.facts, _facts(model))):
        raise UserError(f"{platform.node()} differs in {changed} from the worker that was asked first")
    # Check that it sees the same plan.
    plan, previous = _plan(job.root, job.key, _version(job.root)), None
    if plan is None:
        raise UserError(f"{platform.node()} sees another plan in {job.root}: use an --out that all machines share")
    # Open the earlier result, whose rows an update reuses.
    if job.previous is not None:
        root, key = job.previous
        before = _plan(root, key, _version(root))
        if before is None:
            raise OutputReplaced
        previous = RowReader(OutputFolder(root), before)
    # Make the shard like a run on one machine.
    source = _source(job.images, plan.fingerprint.keep or (), plan.fingerprint.image_column, job.key)
    folder, cores = OutputFolder(job.root), job.model.cores
    return make_shards(plan, [shard], folder, source, model, workers=cores, previous=previous)


@lru_cache(maxsize=1)
def _source(images: str, keep: tuple[str, ...], image_column: str | None, _plan_key: str) -> Source:
    """Open the source once per worker process and plan: opening can mean to read an index."""
    return open_source(images, keep, image_column=image_column)


@cache
def _opened(wanted: WorkerModel) -> Embedder:
    """Open the model, once per worker process."""
    os.environ[CORES] = str(wanted.cores)
    return wanted.arguments.load(wanted.model)


def _facts(model: Embedder) -> Mapping[str, object]:
    """Return what must be the same on all machines."""
    return {"identity": model.identity(), **_versions_here()}


@lru_cache(maxsize=2)  # the plan of an update, and that of the result it copies rows from
def _plan(root: Path, key: str, _version: tuple[int, int]) -> Plan | None:
    plan = Plan.load(OutputFolder(root).plan)
    return plan if plan is not None and plan.key == key else None


def _version(root: Path) -> tuple[int, int]:
    """Return what tells the plan in a folder from one that took its place."""
    try:
        status = os.stat(OutputFolder(root).plan)
    except FileNotFoundError:
        raise UserError(f"{platform.node()} does not see {root}: use an --out that all machines share") from None
    return status.st_ino, status.st_mtime_ns


def _versions_here() -> dict[str, object]:
    return {"decoder": DECODER, "versions": {"python": sys.version.split()[0], "pyarrow": pa.__version__}}
