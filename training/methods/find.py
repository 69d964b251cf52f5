"""Find the class of a method: a built-in one, an installed package's, or one in a module of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature

import torch
from torch import nn

from training.methods.barlow_twins import BarlowTwins
from training.methods.base import Method
from training.methods.byol import BYOL
from training.methods.byol_gn import BYOLGroupNorm
from training.methods.cmc import CMC
from training.methods.cpc import CPC
from training.methods.densecl import DenseCL
from training.methods.infomin import InfoMin
from training.methods.instdisc import InstDisc
from training.methods.local_aggregation import LocalAggregation
from training.methods.mocov2 import MoCoV2
from training.methods.mocov3 import MoCoV3
from training.methods.pirl import PIRL
from training.methods.simclr import SimCLR
from training.methods.simsiam import SimSiam
from training.methods.supervised import Supervised
from training.methods.swav import SwAV
from training.methods.vicreg import VICReg
from training.recipes.config import Recipe
from training.recipes.plugins import entry_point, import_object
from zoo.errors import UserError, did_you_mean

GROUP = "siamese_zoo.methods"
METHODS: Mapping[str, type[Method]] = {
    "byol": BYOL,
    "simsiam": SimSiam,
    "simclr": SimCLR,
    "mocov2": MoCoV2,
    "swav": SwAV,
    "instdisc": InstDisc,
    "cmc": CMC,
    "pirl": PIRL,
    "infomin": InfoMin,
    "localagg": LocalAggregation,
    "byol_gn": BYOLGroupNorm,
    "cpc": CPC,
    "densecl": DenseCL,
    "mocov3": MoCoV3,
    "barlowtwins": BarlowTwins,
    "vicreg": VICReg,
    "supervised": Supervised,
}


def find_method(name: str) -> type[Method]:
    """Return the class of a method.

    Args:
        name: of a built-in method; of an entry point in the group ``siamese_zoo.methods`` of an installed package; or
            ``module:Class``, whose module is imported.

    Raises:
        UserError: there is none, its module cannot be imported, or it is no subclass of ``Method``.
    """
    if name in METHODS:
        return METHODS[name]
    found = import_object(name) if ":" in name else entry_point(GROUP, name)
    if found is None:
        raise UserError(
            f"unknown method {name!r}: {did_you_mean(name, METHODS)}one of {', '.join(METHODS)}; a method of your own "
            "is module:Class, or an entry point of the group siamese_zoo.methods"
        )
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"{name} is no method: it must be a subclass of training.Method")
    _require_own_parts(name, found)
    return found


def _require_own_parts(name: str, cls: type[Method]) -> None:
    """Refuse a class without what every method has; what its functions raise is shown as it is."""
    own = {"from_recipe": cls.from_recipe.__func__, "forward": cls.forward}  # type: ignore[attr-defined]
    empty = {"from_recipe": Method.from_recipe.__func__, "forward": Method.forward}  # type: ignore[attr-defined]
    for part, function in own.items():
        if function is empty[part]:
            raise UserError(f"{name} has no {part} of its own: from_recipe builds a method, forward returns its losses")
    if not cls.uses_rows:
        return
    try:
        signature(own["from_recipe"]).bind(cls, None, images=1)
        signature(own["forward"]).bind(None, [], None, None)
    except TypeError:
        raise UserError(
            f"{name} has uses_rows=True: give its from_recipe the argument images, and its forward a third one, rows"
        ) from None


def build_method(recipe: Recipe, images: int | None = None) -> Method:
    """Return the recipe's network, initialised from ``recipe.seed``.

    Args:
        images: number of training images; a method with a memory bank needs it.

    Raises:
        UserError: the method or the architecture is unknown, or does not fit the recipe.
    """
    cls = find_method(recipe.method)
    torch.manual_seed(recipe.seed)
    if not cls.uses_rows:
        return _with_parts(recipe, cls.from_recipe(recipe))
    if images is None:
        raise UserError(f"{recipe.method} keeps one entry per training image: the number of images must be known")
    with_images: Callable[..., Method] = cls.from_recipe
    return _with_parts(recipe, with_images(recipe, images=images))


def _with_parts(recipe: Recipe, method: Method) -> Method:
    for part in ("encoder", "projector"):
        if not isinstance(getattr(method, part, None), nn.Module):
            raise UserError(f"{recipe.method} has no {part}: its __init__ must set self.{part} to an nn.Module")
    return method
