"""Settings that a run does not read: whoever changes one should know that it changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, cast

import torch

from training.data.sampler import EpochSampler
from training.engine.optim import build_optimiser, set_learning_rate
from training.engine.schedules import learning_rate
from training.methods.base import Method, recipe_architecture
from training.methods.byol import BYOL
from training.methods.find import METHODS, build_method
from training.methods.mocov3 import MoCoV3
from training.recipes.config import Heads, Objective, Optim, Recipe, Views, differences
from training.recipes.config.ranges import field_types

_ROWS = 2
_TAU = {"optim.tau", "optim.constant_tau"}  # the loop hands tau to every method's hooks: these ones use it
_WITH_TAU = (BYOL, MoCoV3)
_RUN = {f"optim.{name}" for name in ("name", "schedule", "epochs", "batch_size", "drop_last")}  # the loop reads them
_REPORTS = {"name", "monitor_epochs", "finetune_epochs", "checkpoint_steps", "keep_checkpoints"}
_JITTER = ("brightness", "contrast", "saturation", "hue")


def unread_settings(recipe: Recipe, before: Recipe) -> dict[str, str]:
    """Return the fields in which two recipes differ and which a run of the first does not read, each with the reason.

    A method that is built without memory tells which fields of heads, objective and optim it and its optimiser read.
    One of the user's own that cannot be built so is believed to read all of them.
    """
    return _unread(recipe, {path for path, _, _ in differences(recipe, before)})


def without_result(recipes: Collection[Recipe]) -> dict[str, str]:
    """Return the fields in which some recipes differ and that change the result of none, each with the reason."""
    first, *others = recipes
    changed = {path for other in others for path, _, _ in differences(first, other)}
    found = dict.fromkeys(sorted(changed & _REPORTS), "it changes no result")
    unread = _unread(first, changed)
    for other in others:  # one that reads a field is enough
        if not unread:
            break
        unread = _unread(other, unread.keys())
    return found | unread


def _unread(recipe: Recipe, fields: Collection[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    known = METHODS.get(recipe.method)
    if known is not None and not issubclass(known, _WITH_TAU):
        found |= dict.fromkeys(_TAU, f"{recipe.method} does not read it")
    if known is not None and not known.synchronised_bn:
        found["bn_group_images"] = f"BN of {recipe.method} is per rank"
    found |= dict(_unmade(recipe.views))
    watched = [path for path in fields if path.partition(".")[0] in ("heads", "objective", "optim")]
    watched = [path for path in watched if path not in _TAU | _RUN]
    if watched and (read := _read_fields(recipe)) is not None:
        parts = f"optim.name={recipe.optim.name} and optim.schedule={recipe.optim.schedule} do not read it"
        for path in watched:
            if path not in read:
                found[path] = parts if path.startswith("optim.") else f"{recipe.method} does not read it"
    return {path: found[path] for path in sorted(fields) if path in found}


def _unmade(views: Views) -> Iterator[tuple[str, str]]:
    """Yield the fields of views that are not made, and the strengths of changes that never happen, with the reason."""
    if views.small is None:
        yield from ((f"views.{name}", "the recipe makes no small views") for name in ("small_size", "small_count"))
    elif not views.small_count:
        yield "views.small_size", "views.small_count is 0"
        yield from ((f"views.small.{name}", "views.small_count is 0") for name in field_types(type(views.small)))
    for name, view in (("first", views.first), ("second", views.second), ("small", views.small)):
        if view is not None and not view.jitter_p:
            yield from ((f"views.{name}.{strength}", f"views.{name}.jitter_p is 0") for strength in _JITTER)


def _read_fields(recipe: Recipe) -> set[str] | None:
    """Return the fields of heads, objective and optim that are read; ``None`` where the method cannot be built."""
    read: set[str] = set()
    parts = {name: _Watched(getattr(recipe, name), name, read) for name in ("heads", "objective", "optim")}
    optim = cast(Optim, parts["optim"])
    watched = replace(
        recipe, heads=cast(Heads, parts["heads"]), objective=cast(Objective, parts["objective"]), optim=optim
    )
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            method: Method = build_method(watched, _ROWS)
            optimiser = build_optimiser(method, optim, decay_vectors=recipe_architecture(recipe).is_resnet)
    except Exception:  # whatever a method of the user's raises without memory, or with parts that only look alike
        return None
    batch = recipe.optim.batch_size
    set_learning_rate(optimiser, optim, learning_rate(optim, 0, EpochSampler(batch, batch)))
    return read


class _Watched:
    """A part of a recipe that notes which of its fields are read."""

    def __init__(self, part: object, name: str, read: set[str]) -> None:
        self._part, self._name, self._read = part, name, read

    def __getattr__(self, field: str) -> Any:
        self._read.add(f"{self._name}.{field}")
        return getattr(self._part, field)
