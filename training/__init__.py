"""Trains the zoo's methods and your own; imports ``zoo``, which never imports ``training``.

The names below are the Python interface. They are imported when they are first used: the command line starts without
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.api import train
    from training.methods.base import Method, StepInfo, recipe_encoder
    from training.recipes.config import Heads, Objective, Optim, Recipe, View, Views
    from training.recipes.table import find as find_recipe

_HOME = {
    "Heads": "training.recipes.config",
    "Method": "training.methods.base",
    "Objective": "training.recipes.config",
    "Optim": "training.recipes.config",
    "Recipe": "training.recipes.config",
    "StepInfo": "training.methods.base",
    "View": "training.recipes.config",
    "Views": "training.recipes.config",
    "find_recipe": "training.recipes.table",
    "recipe_encoder": "training.methods.base",
    "train": "training.api",
}
__all__ = [
    "Heads",
    "Method",
    "Objective",
    "Optim",
    "Recipe",
    "StepInfo",
    "View",
    "Views",
    "find_recipe",
    "recipe_encoder",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), "find" if name == "find_recipe" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
