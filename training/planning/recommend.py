"""Recommend one recipe for somebody's images: by their size, number, device and memory, with the reason of each choice.

The choice follows numbers that are in this repository: lightly's table and SimSiam's for the published scores
(``training.recipes.table``), ``docs/results.md`` for short runs on a CPU. Hours come from measured rates alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.engine.cost import Rate, duration, measured_rates, nearest_rate, operations
from training.engine.memory import device_memory, estimate, fitting
from training.planning.measure import measure
from training.recipes.config import Recipe, override
from training.recipes.table import RECIPES, find
from zoo.errors import UserError

# Training images: LAT's instance_model.py, torchvision's CIFAR10, the card of Maysee/tiny-imagenet (200 x 500).
_IMAGES = {"ImageNet-1k": 1_281_167, "CIFAR-10": 50_000, "Tiny-ImageNet": 100_000, "Tiny-ImageNet, half": 50_000}
_SMALL, _MEDIUM = 48, 96  # sides in pixels up to which images are of CIFAR-10's or Tiny-ImageNet's kind
_MOST_EPOCHS = 800  # the longest published run of these recipes
_SIMCLR = "in short runs on a CPU SimCLR was best here (docs/results.md)"
_BYOL = "the best kNN after 200 epochs in lightly's CIFAR-10 table"
_RUNS: tuple[tuple[str, int | None, str, list[str], str], ...] = (  # device, largest side, recipe, settings, why
    ("cpu", _SMALL, "simclr_r18_tin32", [], _SIMCLR),
    ("cpu", None, "simclr_r18_tin32", ["views.size=64"], _SIMCLR),
    ("gpu", _SMALL, "byol_r18_cifar10_200ep_lightly", [], _BYOL),
    ("gpu", _MEDIUM, "byol_r18_tin_200ep_lightly", [], _BYOL),
    ("gpu", None, "simsiam_r50_in1k_100ep", [], "the best linear score of 100 epochs on ImageNet (68.1)"),
)  # fmt: skip


@dataclass(frozen=True)
class Recommendation:
    """A recipe for somebody's images, ready to run.

    Attributes:
        recipe: with the settings.
        settings: values of ``--set``.
        reasons: of each choice, a line each: recipe, size, batch, epochs, hours.
        seconds: expected; ``None`` where no rate was measured.
    """

    name: str
    recipe: Recipe
    settings: list[str]
    device: str
    reasons: dict[str, str]
    seconds: float | None

    @property
    def command(self) -> str:
        """The command that trains it; DATA and RUN are the user's."""
        words = ["zoo-train", "run", self.name, "--data", "DATA", "--out", "RUN", "--device", self.device]
        return " ".join([*words, *(word for setting in self.settings for word in ("--set", setting))])


def recommend(images: int, size: int, device: str, memory: float | None, *, measured: bool = False) -> Recommendation:
    """Return the recipe for ``images`` images whose short side has ``size`` pixels.

    Args:
        device: ``cpu`` or ``gpu``.
        memory: GB of that device; ``None`` takes this machine's.
        measured: train some steps here for the rate, instead of scaling a recorded one.

    Raises:
        UserError: a value cannot be used, or nothing fits into so little memory.
    """
    if images < 4:
        raise UserError(f"--for-data {images}: give the number of images, 4 or more")
    if size < 8:
        raise UserError(f"--size {size}: give the short side of the images in pixels, 8 or more")
    if device not in ("cpu", "gpu"):
        raise UserError(f"--device {device}: give cpu or gpu")
    target = "cpu" if device == "cpu" else "cuda"
    limit = _limit(memory, target)
    name, settings, why = next(
        (n, s, w) for d, most, n, s, w in _RUNS if d == device and (most is None or size <= most)
    )
    recipe, reasons = override(find(name), list(settings)), {"recipe": why}
    views = recipe.views.size
    reasons["size"] = f"views of {views} pixels, of images whose short side has {size}"
    # The batch: the recipe's, or as many images as there are, in parts that fit.
    settings = [*settings]
    if (batch := _power_of_two(images)) < recipe.optim.batch_size:
        settings.append(f"optim.batch_size={batch}")
        recipe = override(recipe, settings[-1:])
    ways = fitting(recipe, limit)
    if not ways:
        smallest = estimate(override(recipe, ["optim.batch_size=2"])).total
        raise UserError(f"--memory {limit / 1e9:.3g}: {name} needs {smallest / 1e9:.1f} GB for two images: give more")
    settings += ways[0]
    recipe = override(recipe, ways[0])
    found = estimate(recipe)
    parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    reasons["batch"] = (
        f"{recipe.optim.batch_size}{parts}, which needs {found.total / 1e9:.1f} of {limit / 1e9:.1f} GB on the {device}"
    )
    settings += _epochs(name, recipe, images, reasons)
    recipe = override(find(name), settings)
    # The time: from a rate that was measured, here or on another machine.
    rate = measure(recipe, target, side=size) if measured else None
    seconds = _hours(recipe, images, size, target, rate, reasons)
    return Recommendation(name, recipe, settings, target, reasons, seconds)


def _limit(memory: float | None, device: str) -> int:
    if memory is not None:
        if not 0 < memory < 1e6:
            raise UserError(f"--memory {memory:g}: give the GB of the device")
        return round(memory * 1e9)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--memory GB is needed: this machine has no GPU whose memory could be asked for")
    limit = device_memory(torch.device(device))
    if limit is None:
        raise UserError("--memory GB is needed: this machine does not say how much it has")
    return limit


def _power_of_two(most: int) -> int:
    return int(2 ** (most.bit_length() - 1))


def _epochs(name: str, recipe: Recipe, images: int, reasons: dict[str, str]) -> list[str]:
    """Return the settings of the length: as many images are seen as in the recipe's own run, in 800 epochs at most."""
    own, published = _IMAGES[RECIPES[name].data], recipe.optim.epochs
    epochs = max(1, round(own * published / images))
    reasons["epochs"] = f"{min(epochs, _MOST_EPOCHS)}, so that as many images are seen as in {published} x {own}"
    if epochs > _MOST_EPOCHS:
        epochs = _MOST_EPOCHS
        reasons["epochs"] = f"{epochs}, the longest published schedule"
    if epochs == published:
        return []
    changed = [f"optim.epochs={epochs}"]
    if recipe.optim.warmup_epochs:
        changed.append(f"optim.warmup_epochs={recipe.optim.warmup_epochs * epochs / published:.3g}")
    return changed


def _hours(
    recipe: Recipe, images: int, size: int, device: str, measured: Rate | None, reasons: dict[str, str]
) -> float | None:
    """Return the expected seconds, and tell what they are based on."""
    count = operations(recipe)
    rate = measured or nearest_rate(count, recipe.precision, device, measured_rates())
    seen = images * recipe.optim.epochs
    if rate is None:
        reasons["hours"] = (
            f"not known ({seen} images x {count / 1e9:.3g} GFLOP): nobody has measured {recipe.precision} on a "
            f"{'GPU' if device == 'cuda' else 'CPU'}; --measure does it there, in some steps"
        )
        return None
    seconds = count * seen / rate.operations_per_second
    decoding = "" if measured or size <= 2 * recipe.views.size else "; decoding such large images comes on top"
    reasons["hours"] = (
        f"about {duration(seconds)} on {rate.hardware}: {seen} images x {count / 1e9:.3g} GFLOP at "
        f"{rate.operations_per_second / 1e9:.0f} GFLOP/s, measured with {rate.recipe}{decoding}"
    )
    return seconds
