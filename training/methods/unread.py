"""Settings of a recipe that its method does not read: whoever changes one should know that it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from training.methods.byol import BYOL
from training.methods.find import METHODS, build_method
from training.methods.mocov3 import MoCoV3
from training.recipes.config import Heads, Objective, Recipe, differences

_PARTS = ("heads", "objective")
_TAU = ("optim.tau", "optim.constant_tau")  # the loop hands tau to every method's hooks: these ones use it
_WITH_TAU = (BYOL, MoCoV3)


def unread_settings(recipe: Recipe, before: Recipe) -> list[str]:
    """Return the fields of heads, objective and tau in which two recipes differ, and which the method does not read.

    A method that is built without memory tells which fields it reads. One of the user's own that cannot be built so is
    believed to read all of them.
    """
    changed = [path for path, _, _ in differences(recipe, before)]
    changed = [path for path in changed if path.partition(".")[0] in _PARTS or path in _TAU]
    if not changed:
        return []
    known = METHODS.get(recipe.method)
    without_tau = known is not None and not issubclass(known, _WITH_TAU)
    read: set[str] = set()
    parts = {name: _Watched(getattr(recipe, name), name, read) for name in _PARTS}
    watched = replace(recipe, heads=cast(Heads, parts["heads"]), objective=cast(Objective, parts["objective"]))
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build_method(watched, 2)
    except Exception:  # whatever a method of the user's raises without memory, or with parts that only look alike
        return [path for path in changed if path in _TAU and without_tau]
    return [path for path in changed if (without_tau if path in _TAU else path not in read)]


class _Watched:
    """A part of a recipe that notes which of its fields are read."""

    def __init__(self, part: object, name: str, read: set[str]) -> None:
        self._part, self._name, self._read = part, name, read

    def __getattr__(self, field: str) -> Any:
        self._read.add(f"{self._name}.{field}")
        return getattr(self._part, field)
