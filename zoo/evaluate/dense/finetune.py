"""Fine-tuning of a network by SGD, a pure function of (seed, step); a run that was killed continues.

The loss of a step may draw from torch's global generators, as torchvision does to sample RoIs: they are seeded by
(seed, step), and restored for the caller. A resumed run therefore equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.convert.readers.torch_checkpoint import load_torch
from zoo.errors import UserError
from zoo.evaluate.errors import Diverged
from zoo.numerics.counter_rng import permutation, uniforms
from zoo.system.atomic_files import atomic_write, make_folder, remove, remove_temporaries
from zoo.system.cache_dir import cache_folder
from zoo.system.hardware import usable_cores
from zoo.system.prefetch import prefetch
from zoo.system.progress import Progress

SECONDS_PER_CHECKPOINT = 300.0
_STEP_STREAM = 900  # of zoo.numerics.counter_rng; data sets use small numbers
_RECENT = 20
_MAX_AHEAD = 4  # batches in memory
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class SgdConfig:
    """SGD with momentum; the learning rate falls to a tenth at each of ``drops``, in steps.

    Attributes:
        warmup: steps over which the learning rate grows linearly from a thousandth (Detectron2).
        decay_norms: weight decay on the scales and shifts of norms too.
    """

    iterations: int
    lr: float
    momentum: float
    weight_decay: float
    drops: tuple[int, ...] = ()
    warmup: int = 0
    decay_norms: bool = True

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rate = self.lr * 0.1 ** sum(step >= drop for drop in self.drops)
        if step < self.warmup:
            rate *= 1e-3 + (1 - 1e-3) * step / self.warmup
        return rate


def run_sgd(
    model: nn.Module,
    config: SgdConfig,
    make_batch: Callable[[int], Batch],
    loss: Callable[[Batch], Tensor],
    *,
    seed: int,
    key: object,
    device: str,
) -> list[float]:
    """Train the parameters of ``model`` that require a gradient, in place; return the loss of each step.

    Args:
        make_batch: a pure function of the step, counted from 0; it runs in threads, ahead of the step.
        loss: a scalar from a batch; ``model`` is in train mode.
        key: JSON-able, everything that decides the result besides the code. A checkpoint is used only for the same key.

    Raises:
        Diverged: the loss of a step is not finite; nothing of that step was applied.
        UserError: ``make_batch`` cannot read an image.
    """
    norms = (
        set() if config.decay_norms else {p for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters()}
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [{"params": [p for p in trained if p not in norms]}]
    if spared := [p for p in trained if p in norms]:
        groups.append({"params": spared, "weight_decay": 0.0})
    optimizer = torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    # Continue where an interrupted run stopped.
    checkpoint = _Checkpoint(key)
    losses = checkpoint.load(model, optimizer)
    model.train()
    steps = range(len(losses), config.iterations)
    saved = time.monotonic()
    with Progress("steps") as progress, closing(prefetch_batches(make_batch, steps)) as batches:
        progress.start(config.iterations, len(losses))
        for step, batch in zip(steps, batches, strict=True):
            # Each step has its own rate and its own random numbers.
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
            with seeded(seed, step, device):
                value = loss(batch)
            # A lost run must not be resumed.
            if not bool(value.isfinite()):
                checkpoint.remove()
                raise Diverged(
                    f"the loss is {float(value.detach())} at step {step}: give a smaller learning rate with --set"
                )
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(value.detach()))
            progress.advance(1, loss=losses[-1])
            # Save by the clock, as steps differ in length.
            if time.monotonic() - saved >= SECONDS_PER_CHECKPOINT:
                checkpoint.save(model, optimizer, losses)
                saved = time.monotonic()
    checkpoint.remove()
    return losses


def require_finite(values: Tensor, what: str) -> None:
    """Raise Diverged unless all ``values`` are finite: an argmax over NaN would give a class, and so a score.

    The last update can spoil the weights although the loss before it was finite.
    """
    if not bool(values.isfinite().all()):
        raise Diverged(f"the trained network has no finite {what}: give a smaller learning rate with --set")


def recent_loss(losses: Sequence[float]) -> float:
    """Return the mean of the last 20 losses."""
    return float(np.mean(losses[-_RECENT:]))


def batch_rows(seed: int, step: int, batch_size: int, rows: int) -> list[tuple[int, int]]:
    """Return (epoch, row) of each image of a batch; the permutations of the epochs follow each other without a gap."""
    orders: dict[int, NDArray[np.int64]] = {}
    found = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, within = divmod(position, rows)
        if epoch not in orders:
            orders[epoch] = permutation(seed, epoch, rows)
        found.append((epoch, int(orders[epoch][within])))
    return found


def prefetch_batches(make_batch: Callable[[int], Batch], steps: Iterable[int]) -> Generator[Batch, None, None]:
    """Yield ``make_batch(step)`` of each step, made in threads ahead of the reader; close it at the end."""
    return prefetch((partial(make_batch, step) for step in steps), min(_MAX_AHEAD, usable_cores()))


@contextmanager
def seeded(seed: int, step: int, device: str) -> Iterator[None]:
    """Seed torch's global generators, of the CPU and of ``device``, by (seed, step); restore them at the end."""
    draw = uniforms(seed, _STEP_STREAM, 0, np.array([step], np.int64), 1)[0, 0]
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(int(draw * 2**53))
        yield


class _Checkpoint:
    """Model, optimiser and losses of one run in the cache folder. A damaged file counts as none."""

    def __init__(self, key: object) -> None:
        self._key = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        self._path = cache_folder() / "tuning" / f"{self._key}.pt"

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
        make_folder(self._path.parent)
        atomic_write(self._path, lambda file: torch.save(state, file))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        """Restore model and optimiser, and return the losses so far; without a checkpoint change nothing."""
        try:
            if not self._path.exists():
                return []
            state = load_torch(self._path)
            # checkpoints of version 0.2 call the backbone trunk
            model.load_state_dict({re.sub(r"^trunk\.", "backbone.", name): v for name, v in state["model"].items()})
            optimizer.load_state_dict(state["optimizer"])
            losses: list[float] = state["losses"]
            return losses
        except (UserError, RuntimeError, KeyError, TypeError, ValueError):
            # A damaged checkpoint is worth nothing: start again.
            remove(self._path)
            return []

    def remove(self) -> None:
        remove(self._path)
        remove_temporaries(self._path.parent, {self._path.name})
