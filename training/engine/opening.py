"""Open a run in its folder: a new one, or the one that is there, whose last good checkpoint is restored."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from training.distributed import collectives
from training.engine import checkpoint
from training.engine.build import new_run
from training.engine.checkpoint import CheckpointState, InitialWeights
from training.engine.memory import require_fit
from training.engine.state import Run, restore, steps_for_one
from training.engine.validate import check_run
from training.methods import build_method
from training.methods.base import recipe_architecture
from training.monitoring import metrics_log
from training.recipes.config import Recipe, from_json
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.hub.networks import load_encoder
from zoo.hub.weights import locate
from zoo.models.resnet import require_same_network
from zoo.system.atomic_files import make_folder
from zoo.system.file_locks import locked

_LOCK = "run.lock"


@contextmanager
def open_run(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    device: str,
    resume: bool,
    *,
    changing: Collection[str] = (),
    init: str | None = None,
) -> Iterator[Run]:
    """Start a run, or with ``resume`` restore the one in ``folder`` from its last good checkpoint. A collective call.

    The folder is locked while the context is open.

    Args:
        changing: fields of ``REPLANNED`` that a resumed run may change; its schedules are then planned again.
        init: weights from which the encoder of a new run starts, as ``zoo.load`` takes them. A resumed run started from
            the same ones.

    Raises:
        UserError: see ``training.engine.loop.train``.
    """
    check_run(recipe, dataset, device)
    # Find the last checkpoint, and check that all ranks see the same one.
    before = checkpoint.named(folder)
    state = checkpoint.load_last(folder)
    if state is not None:
        checkpoint.require_complete(state, folder)
    if collectives.ranks_differ(-1 if state is None else state["step"]):
        raise UserError(f"the ranks see different checkpoints in {folder}: give a folder that all nodes share")
    # Protect an earlier run from a new one in its folder.
    if state is not None and not resume:
        raise UserError(f"{folder} holds a run (step {state['step']}): add --resume or choose another --out")
    if state is None and resume:
        raise UserError(f"{folder} holds no run to resume: leave --resume out")
    # Refuse what cannot fit before the first large tensor is made.
    require_fit(recipe, torch.device(device), collectives.world_size(), len(dataset))
    # Build the run, then restore its state under the lock.
    run = new_run(recipe, dataset, folder, torch.device(device), build_method(recipe, len(dataset)))
    make_folder(folder)
    with _locked(folder):
        if collectives.any_rank(checkpoint.named(folder) != before):
            raise UserError(f"another process has trained into {folder} meanwhile: start this run again")
        if state is not None:
            restore(run, state, changing)
            if init is not None:
                _require_same_start(run, init)
        elif init is not None:
            start_from(run, init)
        if collectives.rank() == 0:
            _trim_log(run, state)
        yield run


def _trim_log(run: Run, state: CheckpointState | None) -> None:
    """Remove from the log what the run repeats; its earlier lines take the steps of a plan that has others."""
    if state is not None and (scale := steps_for_one(run, from_json(state["recipe"]))) != 1:
        before, now = from_json(state["recipe"]).optim.batch_size, run.recipe.optim.batch_size
        plan = f"optim.batch_size {before} -> {now} at step {state['step']}"
        metrics_log.replan(run.folder, state["step"], run.step, scale, plan)
    else:
        # A new run also drops what an earlier one without a checkpoint has logged at step 0.
        metrics_log.trim(run.folder, run.step if run.step else -1)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one run use a folder: two would mix their logs and remove each other's checkpoints. A collective call."""
    with locked(folder / _LOCK) if collectives.rank() == 0 else nullcontext(True) as acquired:
        if collectives.any_rank(not acquired):
            raise UserError(f"another process is training into {folder}: wait until it ends or choose another --out")
        try:
            yield
        except FileNotFoundError:
            if folder.is_dir():
                raise
            raise UserError(f"{folder} was removed while the run wrote into it: start the run again") from None


def start_from(run: Run, init: str) -> None:
    """Load the weights of a model of the zoo into the encoder of a new run, and into one that follows it.

    Raises:
        UserError: there are no such weights, or they are of another network.
    """
    file = locate(init)
    require_same_network(file.architecture, recipe_architecture(run.recipe), f"--init {init}", run.recipe.name)
    state = load_encoder(file).state_dict()
    for name, module in run.method.named_children():
        if name.endswith("encoder"):  # BYOL's target and MoCo's key network begin where the encoder does
            try:
                module.load_state_dict(state)
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()[:160]
                raise UserError(f"--init {init} does not fit {run.recipe.name} ({reason})") from None
    run.init = InitialWeights(weights=file.name, sha256=file.sha256)
    run.notes.append(f"the encoder starts from {file.name}, sha256 {file.sha256}")


def _require_same_start(run: Run, init: str) -> None:
    # Version 0.2.0 did not record where a run started.
    if run.init is not None and run.init["sha256"] != locate(init).sha256:
        raise UserError(
            f"{run.folder} started from {run.init['weights']}, and --init {init} holds other weights: "
            "leave --init out, or choose another --out"
        )
