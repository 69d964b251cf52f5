"""The state of a run: restored from a checkpoint and saved to one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from training.data.loader import Batch, batches
from training.data.sampler import EpochSampler
from training.distributed import collectives
from training.engine import checkpoint
from training.engine.checkpoint import CheckpointState, DataInfo, InitialWeights
from training.methods import Method
from training.monitoring.early_stop import EarlyStop
from training.monitoring.online_probe import OnlineMonitor
from training.recipes.config import Recipe, differences, from_json, to_json
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError

_CHANGEABLE = {"checkpoint_steps", "keep_checkpoints"}  # a resumed run may change these: they affect no result
REPLANNED = frozenset({"optim.epochs", "optim.lr", "optim.batch_size", "accumulate", "early_stop_patience"})
"""Fields that a resumed run changes where it is asked to; they change what follows."""


@dataclass
class Run:
    """A run in progress.

    Attributes:
        method: the network, whose hooks the loop calls.
        forward: ``method``, wrapped in DDP if there are several ranks.
        hardware: hardware of all parts of a resumed run, without repetitions.
        step: number of completed steps.
        seconds: time in the training loop, over all parts of a resumed run.
        init: weights from which the encoder started; ``None`` where it started from random ones.
        notes: lines for the user and the log, before the first step.
        skipped: number of updates in a row that fp16's loss scaler has just skipped.
    """

    recipe: Recipe
    dataset: Dataset
    folder: Path
    device: torch.device
    method: Method
    forward: Callable[..., dict[str, Tensor]]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    monitor: OnlineMonitor
    hardware: list[str]
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    init: InitialWeights | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def early_stop(self) -> EarlyStop:
        """The rule that may end the run before its last step."""
        return EarlyStop(self.recipe.early_stop_patience)

    @property
    def is_stopped(self) -> bool:
        """True where the rule of the first rank has ended the run. A collective call."""
        if not self.recipe.early_stop_patience:
            return False
        return collectives.any_rank(self.early_stop.reason is not None)

    @cached_property
    def data(self) -> DataInfo:
        """Name, number and content of the images, as a checkpoint records them."""
        return _data_info(self.dataset)

    @property
    def sampler(self) -> EpochSampler:
        """The order of the training images."""
        optim = self.recipe.optim
        return EpochSampler(len(self.dataset), optim.batch_size, optim.drop_last)

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run."""
        return self.sampler.steps(self.recipe.optim.epochs)

    def batches(self, steps: range) -> Generator[Batch, None, None]:
        """Yield this rank's batches."""
        cuda = self.device.type == "cuda"
        return batches(
            self.dataset,
            batch_size=self.recipe.optim.batch_size,
            steps=steps,
            seed=self.recipe.seed,
            # On a CPU, a decoding thread would take a core from the step's parallel loops, whose others then wait.
            ahead=3 if cuda else 0,
            rank=collectives.rank(),
            ranks=collectives.world_size(),
            pinned=cuda,
            drop_last=self.recipe.optim.drop_last,
        )

    def no_sync(self) -> AbstractContextManager[None]:
        """A context in which gradients stay on their rank, for all micro-batches but the last."""
        return self.forward.no_sync() if isinstance(self.forward, DistributedDataParallel) else nullcontext()


def restore(run: Run, state: CheckpointState, changing: Collection[str] = ()) -> None:
    """Restore everything that the coming steps depend on.

    Raises:
        UserError: ``state`` belongs to another run.
    """
    before = _require_same_run(run, state, changing)
    checkpoint.load_weights(run.method, state, run.folder)
    try:
        run.optimiser.load_state_dict(state["optimiser"])
        run.scaler.load_state_dict(state.get("scaler", {}))
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()[:160] if str(error) else type(error).__name__
        raise UserError(
            f"{run.folder} holds an optimiser's state that does not fit its recipe ({reason}): use the version of "
            "siamese-zoo that wrote it"
        ) from None
    run.step, run.seconds, run.skipped = _planned_step(run, before, state), state["seconds"], state.get("skipped", 0)
    run.hardware = list(dict.fromkeys([*state["hardware"], *run.hardware]))
    run.init = state.get("init")
    if collectives.rank() == 0:
        run.monitor.load_state_dict(state.get("monitors", {}))
        if "early_stop" in state:
            run.early_stop.load_state_dict(state["early_stop"])


def save(run: Run) -> Path:
    """Write the checkpoint of this step and return its path; only rank 0 writes. A collective call.

    Raises:
        UserError: the last update made weights that are not finite; raised on all ranks.
    """
    # Keep the last good checkpoint if the weights are spoilt.
    if not all(p.isfinite().all() for p in run.method.parameters()):
        raise UserError(
            f"the update of step {run.step - 1} made weights that are not finite, so no checkpoint of it is written: "
            "lower optim.lr; the last checkpoint is good"
        )
    # Let one rank write the state that all ranks share.
    path = run.folder / checkpoint.file_name(run.step)
    if collectives.rank() == 0:
        state: CheckpointState = {
            "recipe": to_json(run.recipe),
            "data": run.data,
            "step": run.step,
            "total_steps": run.total_steps,
            "seconds": run.seconds,
            "hardware": run.hardware,
            "skipped": run.skipped,
            "method": run.method.state_dict(),
            "optimiser": run.optimiser.state_dict(),
            "scaler": run.scaler.state_dict(),
            "monitors": run.monitor.state_dict(),
        }
        if run.recipe.early_stop_patience:
            state["early_stop"] = run.early_stop.state_dict()
        if run.init is not None:
            state["init"] = run.init
        checkpoint.save(run.folder, run.step, state, keep=run.recipe.keep_checkpoints)
    collectives.barrier()  # nobody leaves, or looks for the checkpoint, before it is complete
    return path


def _planned_step(run: Run, before: Recipe, state: CheckpointState) -> int:
    """Return the number of completed steps in the plan of this recipe: another batch size has other steps."""
    step = int(state["step"] * steps_for_one(run, before))
    if changed := [f"{name} {was} -> {now}" for name, now, was in differences(run.recipe, before) if name in REPLANNED]:
        run.notes.append(
            f"{', '.join(changed)}: the schedules are planned again, from step {step} of {run.total_steps}"
        )
    if step > run.total_steps:
        raise UserError(f"{run.folder} is at step {step}, after the end of {run.total_steps} steps: raise optim.epochs")
    return step


def steps_for_one(run: Run, before: Recipe) -> Fraction:
    """Return the number of steps of this run's plan for one step of an earlier one: with other batches not 1."""
    ours, old = run.sampler, EpochSampler(len(run.dataset), before.optim.batch_size, before.optim.drop_last)
    return Fraction(ours.steps(1000), old.steps(1000))


def _require_same_run(run: Run, state: CheckpointState, changing: Collection[str]) -> Recipe:
    """Return the recipe of the checkpoint, from which only the fields ``changing`` may differ."""
    ours, theirs = run.data, state["data"]
    before = from_json(state["recipe"])
    different = [d for d in differences(run.recipe, before) if d[0] not in _CHANGEABLE and d[0] not in changing]
    # The content is the identity, so a folder can move; an earlier version wrote only the name.
    if ours["images"] != theirs["images"]:
        different.append(("data.images", ours["images"], theirs["images"]))
    if "content" not in theirs and ours["name"] != theirs["name"]:
        different.append(("data.name", ours["name"], theirs["name"]))
    for name, our_value, their_value in different:
        how = " (--change goes on with this one's)" if name in REPLANNED else ""
        raise UserError(f"{run.folder} holds another run: its {name} is {their_value}, this one's is {our_value}{how}")
    if "content" in theirs and theirs["content"] != ours.get("content"):
        raise UserError(
            f"{run.folder} holds a run on other images: the {theirs['images']} of {theirs['name']} had other names, "
            "sizes, labels or bytes; give those images, or choose another --out"
        )
    return before


def _data_info(dataset: Dataset) -> DataInfo:
    return {"name": dataset.name, "images": len(dataset), "content": dataset.content()}
