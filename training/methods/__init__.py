"""Each method in one file, to be read beside its paper: network, losses and hooks; nothing about data or the loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from training.methods.base import Method, StepInfo
from training.methods.byol import BYOL
from training.methods.mocov2 import MoCoV2
from training.methods.simclr import SimCLR
from training.methods.simsiam import SimSiam
from training.methods.supervised import Supervised
from training.methods.swav import SwAV
from training.recipes.config import MethodName, Recipe

__all__ = ["BYOL", "METHODS", "Method", "MoCoV2", "SimCLR", "SimSiam", "StepInfo", "Supervised", "SwAV", "build_method"]

METHODS: Mapping[MethodName, type[Method]] = {
    "byol": BYOL,
    "simsiam": SimSiam,
    "simclr": SimCLR,
    "mocov2": MoCoV2,
    "swav": SwAV,
    "supervised": Supervised,
}


def build_method(recipe: Recipe) -> Method:
    """Return the recipe's network, initialised from ``recipe.seed``.

    Raises:
        UserError: the architecture is unknown, or does not fit the recipe.
    """
    torch.manual_seed(recipe.seed)
    return METHODS[recipe.method].from_recipe(recipe)
