"""A run in progress: what it consists of, how it starts or goes on, and what a checkpoint of it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.data.loader import Batch, batches
from training.data.sampler import Epochs
from training.distributed import collectives, sync_batch_norm
from training.engine import checkpoint
from training.engine.build import build_method, build_optimiser, load_weights
from training.engine.validate import check
from training.methods import Method
from training.monitoring import metrics_log
from training.monitoring.hardware import hardware
from training.monitoring.online_probe import Watch
from training.recipes.config import Recipe, from_json, to_json
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.models.registry import ARCHITECTURES
from zoo.system import atomic_files

_FREE = {"checkpoint_steps", "keep_checkpoints"}  # fields that decide no result: a resumed run may change them
_LOCK = "run.lock"


@dataclass
class Run:
    """What a checkpoint holds, and where it goes.

    Attributes:
        method: the network itself, whose hooks the step calls; ``forward`` is it with DDP around.
        hardware: of each resumed part, without repetitions.
        skipped: updates that fp16's scaler skipped in a row, up to now.
    """

    recipe: Recipe
    dataset: Dataset
    folder: Path
    device: torch.device
    method: Method
    forward: Callable[..., dict[str, Tensor]]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    watch: Watch
    hardware: list[str]
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0

    @property
    def epochs(self) -> Epochs:
        """How its steps lie on them."""
        optim = self.recipe.optim
        return Epochs(len(self.dataset), optim.batch_size, optim.drop_last)

    @property
    def total_steps(self) -> int:
        return self.epochs.steps(self.recipe.optim.epochs)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        dtype: torch.dtype = next(self.method.encoder.parameters()).dtype
        return dtype

    def batches(self, steps: range) -> Iterator[Batch]:
        """This rank's of these steps."""
        cuda = self.device.type == "cuda"
        return batches(
            self.dataset,
            batch_size=self.recipe.optim.batch_size,
            steps=steps,
            seed=self.recipe.seed,
            # On a CPU, a thread that decodes beside a step stops one core of its parallel loops, and the others wait.
            ahead=3 if cuda else 0,
            rank=collectives.rank(),
            ranks=collectives.world_size(),
            pinned=cuda,
            drop_last=self.recipe.optim.drop_last,
        )

    def without_reduction(self) -> AbstractContextManager[None]:
        """Gradients of a micro-batch that is not the last stay on their rank."""
        return self.forward.no_sync() if isinstance(self.forward, DistributedDataParallel) else nullcontext()


@contextmanager
def prepare(recipe: Recipe, dataset: Dataset, folder: Path, device: str, resume: bool) -> Iterator[Run]:
    """A new run, or with ``resume`` the one in ``folder`` at its last good checkpoint. A collective call.

    For the time of the context the folder is this run's alone.

    Raises:
        UserError: see ``training.engine.loop.train``.
    """
    check(recipe, dataset, device)
    state = checkpoint.load_last(folder)
    if collectives.differs(-1 if state is None else state["step"]):
        raise UserError(f"the ranks see different checkpoints in {folder}: it must be one folder that all nodes share")
    if state is not None and not resume:
        raise UserError(f"{folder} holds a run (step {state['step']}): add --resume or choose another --out")
    if state is None and resume:
        raise UserError(f"{folder} holds no run to resume: leave --resume out")
    run = assemble(recipe, dataset, folder, torch.device(device), build_method(recipe))
    atomic_files.make_folder(folder)
    with _alone_in(folder):
        if state is not None:
            restore(run, state)
        if collectives.rank() == 0:
            metrics_log.trim(
                folder, run.step if run.step else -1
            )  # of a new run, all that one without a checkpoint left
        yield run


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two runs would mix their logs and remove each other's checkpoints. A collective call; rank 0 holds the lock."""
    with atomic_files.locked(folder / _LOCK) if collectives.rank() == 0 else nullcontext(True) as alone:
        if collectives.on_any_rank(not alone):
            raise UserError(f"another process is training into {folder}: wait for its end or choose another --out")
        try:
            yield
        except FileNotFoundError:
            if folder.is_dir():
                raise
            raise UserError(f"{folder} was removed while the run wrote into it: start it again") from None


def assemble(recipe: Recipe, dataset: Dataset, folder: Path, device: torch.device, method: Method) -> Run:
    """A run at step 0 around ``method``: on the device, its BN synchronised, compiled, with optimiser and scaler."""
    network = cast(nn.Module, method)  # a Protocol cannot say so
    network.to(device).to(memory_format=torch.channels_last).train()
    if recipe.checkpoint_activations:
        cast(Any, method.encoder).set_grad_checkpointing()  # timm's
    if collectives.world_size() > 1 and method.synchronised_bn:
        sync_batch_norm.synchronise(network, device)
    classes = 0 if dataset.labels is None or collectives.rank() else int(dataset.labels.max()) + 1
    rows = recipe.optim.batch_size // collectives.world_size() // recipe.accumulate
    dim = ARCHITECTURES[recipe.architecture].num_features
    watch = Watch(method, dim=dim, classes=classes, rows=rows, device=device)
    if recipe.compile:
        network.compile()
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    optimiser = build_optimiser(method, recipe.optim)
    words = hardware(device, collectives.world_size())
    return Run(
        recipe, dataset, folder, device, method, collectives.wrap(network, device), optimiser, scaler, watch, [words]
    )


def restore(run: Run, state: dict[str, Any]) -> None:
    """Takes over ``state``, everything that decides the steps to come.

    Raises:
        UserError: it is another run's.
    """
    _require_same(run, state)
    load_weights(run.method, state, run.folder)
    run.optimiser.load_state_dict(state["optimiser"])
    run.scaler.load_state_dict(state.get("scaler", {}))
    run.step, run.seconds, run.skipped = state["step"], state["seconds"], state.get("skipped", 0)
    run.hardware = list(dict.fromkeys([*state["hardware"], *run.hardware]))
    if collectives.rank() == 0:
        run.watch.load_state_dict(state.get("monitors", {}))


def save(run: Run) -> Path:
    """Writes the checkpoint of this step (rank 0 does; the others get its path only).

    Raises:
        UserError: the last update made weights that are not finite; on all ranks.
    """
    if not all(p.isfinite().all() for p in run.method.parameters()):
        raise UserError(
            f"the update of step {run.step - 1} made weights that are not finite, and no checkpoint of them: "
            "lower optim.lr; the last checkpoint is good"
        )
    path = run.folder / checkpoint.file_name(run.step)
    if collectives.rank() > 0:
        return path
    state = {
        "recipe": to_json(run.recipe),
        "data": _data(run),
        "step": run.step,
        "total_steps": run.total_steps,
        "seconds": run.seconds,
        "hardware": run.hardware,
        "skipped": run.skipped,
        "method": run.method.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "scaler": run.scaler.state_dict(),
        "monitors": run.watch.state_dict(),
    }
    return checkpoint.save(run.folder, run.step, state, keep=run.recipe.keep_checkpoints)


def _require_same(run: Run, state: dict[str, Any]) -> None:
    theirs = _flat(to_json(from_json(state["recipe"])) | {"data": state["data"]})
    ours = _flat(to_json(run.recipe) | {"data": _data(run)})
    for key in ours | theirs:
        if key not in _FREE and ours.get(key) != theirs.get(key):
            raise UserError(
                f"{run.folder} holds another run: its {key} is {theirs.get(key)}, this one's is {ours.get(key)}"
            )


def _flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested dicts as one, its keys as ``--set`` takes them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat


def _data(run: Run) -> dict[str, Any]:
    return {"name": run.dataset.name, "images": len(run.dataset)}
