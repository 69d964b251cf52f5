"""Floating-point operations of a run, and its time at a rate that was measured.

Only the encoder is counted: heads, views and optimiser are a few percent of a step, and the measured rates contain
them. ``rates.json`` is written by ``benchmarks/training_rate.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.engine.memory import device_memory, estimate
from training.methods import Method, build_method
from training.recipes.config import Recipe
from zoo.errors import UserError
from zoo.system.json_reader import BadJson, fields, items, number, read_json, text

RATES = Path(__file__).with_name("rates.json")
_ROWS = 2  # images with which operations are counted: batch norm refuses one
_UNITS = ((2 * 86_400, 86_400, "days"), (2 * 3600, 3600, "hours"), (2 * 60, 60, "minutes"), (0, 1, "seconds"))


@dataclass(frozen=True)
class Rate:
    """A measured rate of training.

    Attributes:
        hardware: as ``training.monitoring.hardware`` names it.
        device: ``cpu`` or ``cuda``.
        recipe: what was trained: the recipe's name and what was changed of it.
        operations: of an image, as ``operations`` counts them.
        images_per_second: whole steps: decoding, views, network and optimiser.
    """

    hardware: str
    device: str
    precision: str
    recipe: str
    operations: float
    images_per_second: float

    @property
    def operations_per_second(self) -> float:
        """Counted operations a second."""
        return self.operations * self.images_per_second


def operations(recipe: Recipe) -> float:
    """Return the floating-point operations that training spends on an image, all its views; nothing is run.

    A forward pass counts once and a backward pass twice; recomputed activations count once more. A second network that
    follows the first (BYOL's target, MoCo's keys) has forward passes alone. A multiplication with its addition counts
    two, as torch counts.
    """
    views = recipe.views
    large = [views.size] * (1 + (views.second is not None))
    small = [views.small_size] * (views.small_count if views.small is not None else 0)
    # Build the network without memory; the caller's random state stays as it is.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        method = build_method(recipe, _ROWS)
    # Which views pass the encoder, and which its follower: a recipe can leave that out, as BYOL's does in table 5b.
    trained, followed = large + small, large
    if method.one_direction and not recipe.objective.symmetric:
        trained, followed = large[:1] + small, large[1:]
    if not any(name == method.follower_name for name, _ in method.named_modules() if name):
        followed = []
    forward = {size: _forward(method, size) for size in {*trained, *followed}}
    passes = 3 + recipe.checkpoint_activations
    return sum(passes * forward[size] for size in trained) + sum(forward[size] for size in followed)


def _forward(method: Method, size: int) -> float:
    """Return the operations of the encoder for one view of ``size`` pixels."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        method.encoder(torch.empty(_ROWS, 3, size, size))
    return float(counter.get_total_flops()) / _ROWS


def measured_rates(path: Path = RATES) -> list[Rate]:
    """Return the rates of a file that ``benchmarks/training_rate.py`` wrote.

    Raises:
        UserError: it is missing or of another kind.
    """
    try:
        rows = [fields(row, *Rate.__dataclass_fields__) for row in items(fields(read_json(path), "rates")["rates"])]
        return [
            Rate(
                hardware=text(row["hardware"]),
                device=text(row["device"]),
                precision=text(row["precision"]),
                recipe=text(row["recipe"]),
                operations=number(row["operations"], 1, 1e18),
                images_per_second=number(row["images_per_second"], 1e-6),
            )
            for row in rows
        ]
    except (OSError, BadJson) as error:
        raise UserError(f"{path} holds no measured rates ({error}): benchmarks/training_rate.py writes it") from None


def nearest_rate(count: float, precision: str, device: str, rates: list[Rate]) -> Rate | None:
    """Return the rate of this kind of device whose step is most like one with ``count`` operations for an image.

    Args:
        device: ``cpu`` or ``cuda``, with or without a number.

    Returns:
        ``None`` where none was measured.
    """
    found = [rate for rate in rates if rate.device == device.partition(":")[0] and rate.precision == precision]
    return min(found, key=lambda rate: abs(log(rate.operations / count)), default=None)


def expectation(recipe: Recipe, device: torch.device, *, images: int, ranks: int = 1, entries: int = 0) -> str:
    """Return a line with the memory and the time that a run is expected to take.

    Args:
        images: that are still to be seen, of all epochs.
        entries: training images, for each of which a memory bank has a vector.
    """
    limit = device_memory(device)
    of = "" if limit is None else f" of {limit / 1e9:.1f}"
    memory = f"expected: {estimate(recipe, ranks, entries).total / 1e9:.1f}{of} GB on {device}"
    try:
        count = operations(recipe)
    except Exception:  # a method of the user's own that cannot be built without memory can still be trained
        return f"{memory}; the first steps will tell the time of {images} images"
    work = f"{images} images x {count / 1e9:.3g} GFLOP"
    rate = nearest_rate(count, recipe.precision, device.type, measured_rates())
    if rate is None or ranks > 1:
        return f"{memory}; {work}, whose time the first steps will tell"
    seconds = count * images / rate.operations_per_second
    speed = f"{rate.operations_per_second / 1e9:.0f} GFLOP/s were measured on {rate.hardware}"
    return f"{memory}; {work}: about {duration(seconds)} where {speed}"


def duration(seconds: float) -> str:
    """Return a time for people, such as ``3.4 hours``."""
    _, unit, name = next(each for each in _UNITS if seconds >= each[0])
    count = max(1, seconds / unit)
    return f"{count:.1f} {name}" if count < 10 and unit > 1 else f"{count:.0f} {name}"
