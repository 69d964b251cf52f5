"""BYOL without batch statistics (Richemond et al. 2020, arXiv 2010.10241): group norm and weight standardisation.

It answers whether BN is what keeps BYOL from a collapse: no layer mixes the images of a batch. Every BN of encoder,
projector and predictor is a group norm, and every convolution and Linear has weights of mean 0 and deviation 1 for each
output (Qiao et al. 2019, arXiv 1903.10520).

No official code was published. Groups, rates and momentum of the recipes are BYOL's and group norm's own, because those
of the paper could not be looked up.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.methods.byol import BYOL
from training.methods.options import check_options
from training.recipes.config import Range, Recipe
from zoo.errors import UserError

_EPS = 1e-5  # added to the deviation, joe-siyuan-qiao/WeightStandardization's readme


class BYOLGroupNorm(BYOL):
    """``BYOL`` around an encoder without BN, such as ``r50_gn``."""

    without_bn = True
    training_only = (*BYOL.training_only, "projector", "predictor")  # the file of heads knows no group norm

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        method = super().from_recipe(recipe)
        method.replace_batch_norm(int(recipe.options["groups"]))
        standardise_weights(method)
        return method

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_options(recipe, groups=Range(1, whole=True))
        if recipe.heads.hidden % (groups := int(recipe.options["groups"])):
            raise UserError(
                f"heads.hidden={recipe.heads.hidden} is no multiple of options.groups={groups}: change one of them"
            )
        if recipe.padding != "symmetric":
            raise UserError(f"{recipe.method} standardises torch's convolutions only: set padding=symmetric")

    def replace_batch_norm(self, groups: int) -> None:
        """Make every BN of the heads a group norm."""
        for head in (self.projector, self.predictor, self.target_projector):
            for name, layer in list(head.named_children()) if head is not None else []:
                if isinstance(layer, nn.BatchNorm1d):
                    norm = nn.GroupNorm(groups, layer.num_features, eps=layer.eps)
                    setattr(head, name, norm.requires_grad_(layer.weight.requires_grad))

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the encoder's state with the weights as they are used."""
        state = super().plain_weights()
        for name, layer in self.encoder.named_modules():
            if isinstance(layer, StandardisedConv2d | StandardisedLinear):
                state[f"{name}.weight"] = standardised(layer.weight.detach())
        return state

    def before_export(self) -> None:
        """Store the weights as they are used, so that the encoder is a plain network."""
        for layer in self.encoder.modules():
            if isinstance(layer, StandardisedConv2d):
                with torch.no_grad():
                    layer.weight.copy_(standardised(layer.weight))
                layer.__class__ = nn.Conv2d  # type: ignore[assignment]


def standardise_weights(module: nn.Module) -> None:
    """Make every convolution and Linear inside use standardised weights; the state dict keeps its names and values."""
    kinds: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: StandardisedConv2d, nn.Linear: StandardisedLinear}
    for layer in module.modules():
        if (kind := kinds.get(type(layer))) is not None:
            layer.__class__ = kind


def standardised(weight: Tensor) -> Tensor:
    """[out, ...] -> (w - mean) / (deviation + 1e-5), of each output."""
    w = weight.flatten(1)
    w = w - w.mean(1, keepdim=True)
    scaled: Tensor = w / (w.std(1, keepdim=True) + _EPS)
    return scaled.view_as(weight)


class StandardisedConv2d(nn.Conv2d):
    """A Conv2d converted by ``standardise_weights``."""

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(x, standardised(self.weight), self.bias)
        return convolved


class StandardisedLinear(nn.Linear):
    """A Linear converted by ``standardise_weights``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, standardised(self.weight), self.bias)
