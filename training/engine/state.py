"""The state of a run: how it is built, opened in its folder, restored from a checkpoint and saved to one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from training.distributed.sync_batch_norm import group_ranks, synchronise_batch_norm
from training.engine import checkpoint
from training.engine.checkpoint import CheckpointState, DataInfo, InitialWeights
from training.engine.memory import require_fit
from training.engine.optim import build_optimiser
from training.engine.validate import check_run
from training.methods import Method, build_method
from training.methods.base import recipe_architecture
from training.monitoring import metrics_log
from training.monitoring.early_stop import EarlyStop
from training.monitoring.hardware import hardware
from training.monitoring.online_probe import OnlineMonitor
from training.recipes.config import Recipe, differences, from_json, to_json
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.hub.networks import load_encoder
from zoo.hub.weights import locate
from zoo.models.backbones import recompute_activations
from zoo.models.registry import Architecture
from zoo.models.resnet import require_same_network
from zoo.system.atomic_files import make_folder
from zoo.system.file_locks import locked

_CHANGEABLE = {"checkpoint_steps", "keep_checkpoints"}  # a resumed run may change these: they affect no result
REPLANNED = frozenset({"optim.epochs", "optim.lr", "optim.batch_size", "accumulate", "early_stop_patience"})
"""Fields that a resumed run changes where it is asked to; they change what follows."""
_LOCK = "run.lock"


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
    if state is not None and (scale := _steps_for_one(run, from_json(state["recipe"]))) != 1:
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


def new_run(recipe: Recipe, dataset: Dataset, folder: Path, device: torch.device, method: Method) -> Run:
    """Return a run at step 0 that trains ``method`` on ``device``."""
    # Network: BN synchronised before DDP, hooks of the monitor before torch.compile.
    method.to(device).to(memory_format=memory_format(method, device)).train()
    if recipe.checkpoint_activations:
        recompute_activations(method.encoder, recipe.architecture)
    # Share the BN statistics between as many ranks as the recipe asks for.
    ranks = collectives.world_size()
    rows = recipe.optim.batch_size // ranks // recipe.accumulate
    if ranks > 1 and method.synchronised_bn:
        group = collectives.neighbours(group_ranks(recipe.bn_group_images, rows, ranks))
        synchronise_batch_norm(method, device, group)
    # If there are labels, the probe of the first rank alone learns.
    classes = 0 if dataset.labels is None or collectives.rank() else int(dataset.labels.max()) + 1
    architecture = recipe_architecture(recipe)
    dim = architecture.num_features
    monitor = OnlineMonitor(method, dim=dim, classes=classes, rows=rows, device=device)
    if recipe.compile:
        method.compile()
    # Join the parts, with DDP and the optimiser on the finished network.
    return Run(
        recipe,
        dataset,
        folder,
        device,
        method,
        collectives.distributed_data_parallel(method, device),
        build_optimiser(method, recipe.optim, decay_vectors=architecture.is_resnet),
        torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16"),
        monitor,
        [hardware(device, ranks)],
        notes=_backbone_notes(architecture),
    )


def memory_format(method: Method, device: torch.device) -> torch.memory_format:
    """Return the order of memory in which a step is fast.

    torch's group norm on a CPU takes 20 times as long in channels_last, and a whole step of BYOL without BN 3 times;
    with a single group it does not.
    """
    has_groups = any(isinstance(layer, torch.nn.GroupNorm) and layer.num_groups > 1 for layer in method.modules())
    return torch.contiguous_format if device.type == "cpu" and has_groups else torch.channels_last


def _backbone_notes(architecture: Architecture) -> list[str]:
    if architecture.is_resnet:
        return []
    args = ", ".join(f"{k}={v}" for k, v in architecture.model_args.items())
    return [
        f"the encoder is timm's {architecture.timm_name}{f' ({args})' if args else ''}, {architecture.num_features} "
        f"numbers an image, {architecture.parameters / 1e6:.3f} M parameters, with timm's initial weights"
    ]


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
    step = int(state["step"] * _steps_for_one(run, before))
    if changed := [f"{name} {was} -> {now}" for name, now, was in differences(run.recipe, before) if name in REPLANNED]:
        run.notes.append(
            f"{', '.join(changed)}: the schedules are planned again, from step {step} of {run.total_steps}"
        )
    if step > run.total_steps:
        raise UserError(f"{run.folder} is at step {step}, after the end of {run.total_steps} steps: raise optim.epochs")
    return step


def _steps_for_one(run: Run, before: Recipe) -> Fraction:
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
