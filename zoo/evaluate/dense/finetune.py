"""Fine-tuning of one network by SGD, from (seed, step) alone; a killed run goes on from its last checkpoint.

The loss of a step may draw from torch's global generator (torchvision samples RoIs so): it is seeded by (seed, step)
and given back to the caller as it was. A resumed run therefore equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.numerics.counter_rng import permutation, uniforms
from zoo.system.atomic_files import atomic_write, make_folder, remove, remove_temporaries
from zoo.system.cache_dir import cache_folder
from zoo.system.progress import Progress

SECONDS_PER_CHECKPOINT = 300.0
_STEP_STREAM = 900  # of zoo.numerics.counter_rng; data sets use small numbers
_RECENT = 20


class Diverged(UserError):
    """The loss is not finite; a smaller learning rate may do."""


@dataclass(frozen=True)
class Sgd:
    """SGD with momentum; the learning rate falls to a tenth at each of ``drops``, in steps.

    Attributes:
        warmup: steps over which the learning rate grows linearly from a thousandth (Detectron2).
    """

    iterations: int
    lr: float
    momentum: float
    weight_decay: float
    drops: tuple[int, ...] = ()
    warmup: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        rate = self.lr * 0.1 ** sum(step >= drop for drop in self.drops)
        if step < self.warmup:
            rate *= 1e-3 + (1 - 1e-3) * step / self.warmup
        return rate


def tune(
    model: nn.Module,
    sgd: Sgd,
    loss: Callable[[int], Tensor],
    *,
    seed: int,
    key: object,
    device: str,
    name: str = "steps",
) -> list[float]:
    """Trains all parameters of ``model`` that require a gradient, in place; returns the losses, one per step.

    Args:
        loss: of a step, from 0, a scalar; ``model`` is in train mode.
        key: JSON-able; all that decides the result besides the code. A checkpoint is used only under the same key.

    Raises:
        Diverged: the loss of a step is not finite; nothing of that step was applied.
    """
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=sgd.lr,
        momentum=sgd.momentum,
        weight_decay=sgd.weight_decay,
    )
    checkpoint = _Checkpoint(key)
    losses = checkpoint.load(model, optimizer)
    model.train()
    saved = time.monotonic()
    with Progress(name) as progress:
        progress.start(sgd.iterations, len(losses))
        while len(losses) < sgd.iterations:
            try:
                losses.append(_step(model, optimizer, sgd, loss, len(losses), seed, device))
            except Diverged:
                checkpoint.remove()
                raise
            progress.advance(1, loss=losses[-1])
            if time.monotonic() - saved >= SECONDS_PER_CHECKPOINT:
                checkpoint.save(model, optimizer, losses)
                saved = time.monotonic()
    checkpoint.remove()
    return losses


def recent(losses: Sequence[float]) -> float:
    """Mean of the last 20 losses, for results."""
    return float(np.mean(losses[-_RECENT:]))


def batch_rows(seed: int, step: int, batch_size: int, rows: int) -> list[tuple[int, int]]:
    """(epoch, row) of each place of a batch: epochs are permutations that follow each other without a gap."""
    first = step * batch_size
    orders: dict[int, Any] = {}
    found = []
    for place in range(first, first + batch_size):
        epoch, within = divmod(place, rows)
        if epoch not in orders:
            orders[epoch] = permutation(seed, epoch, rows)
        found.append((epoch, int(orders[epoch][within])))
    return found


def _step(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    sgd: Sgd,
    loss: Callable[[int], Tensor],
    step: int,
    seed: int,
    device: str,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = sgd.rate(step)
    with seeded(seed, step, device):
        value = loss(step)
    if not bool(value.isfinite()):
        raise Diverged(f"the loss is {float(value.detach())} at step {step}: give a smaller learning rate with --set")
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(value.detach())


@contextmanager
def seeded(seed: int, step: int, device: str) -> Iterator[None]:
    """Torch's global generators, of the CPU and of ``device``, seeded by (seed, step) and restored at the end."""
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
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            losses: list[float] = state["losses"]
            return losses
        except FileNotFoundError:
            return []
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError):
            remove(self._path)
            return []

    def remove(self) -> None:
        remove(self._path)
        remove_temporaries(self._path.parent, {self._path.name})
