"""Initial weights of BYOL's and SimCLR's official codes; the other codes use those of torch and timm."""

from __future__ import annotations

from math import prod
from typing import Literal

from torch import nn

_CUT_STD = 0.87962566103423978  # standard deviation of a standard normal cut at +-2 (TensorFlow's init_ops.py)


def initialise(module: nn.Module, how: Literal["timm", "haiku", "tensorflow"]) -> None:
    """Draw the weights inside ``module`` again, from torch's global generator.

    ``haiku``: every convolution and Linear from a normal distribution of deviation 1 / sqrt(fan_in), cut at two
    deviations, biases 0: dm-haiku's default (``conv.py``, ``basic.py``), which BYOL's ``networks.py`` keeps.
    ``tensorflow``: every convolution as by ``VarianceScaling()``, which SimCLR's ``resnet.py`` names: the same, widened
    so that the deviation after the cut is 1 / sqrt(fan_in). ``timm`` changes nothing.
    """
    kinds = {"timm": (), "haiku": (nn.Conv2d, nn.Linear), "tensorflow": (nn.Conv2d,)}[how]
    for layer in module.modules():
        if isinstance(layer, kinds):
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            std = prod(layer.weight.shape[1:]) ** -0.5 / (_CUT_STD if how == "tensorflow" else 1.0)
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
