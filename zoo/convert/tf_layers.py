"""The layers of a TensorFlow graph, which ``tf.layers`` numbers as they are created: ``conv2d``, ``conv2d_1``, ..."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = Mapping[str, NDArray[np.float32]]
Leaves = dict[str, Tensor]
CONVOLUTION, NORM, DENSE = "conv2d", "batch_normalization", "dense"
BN = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
KEPT = {*BN, "kernel", "bias"}  # not the optimiser's variables: Momentum, ExponentialMovingAverage
_LAYER = re.compile(rf"^({CONVOLUTION}|{NORM}|{DENSE})(?:_(\d+))?$")


def by_creation(variables: Arrays) -> dict[str, list[Leaves]]:
    """Return the layers of each kind in the order of their creation, their tensors in torch's layout by TF's name.

    Args:
        variables: by name, as ``conv2d_1/kernel``.

    Raises:
        ValueError: a variable is of no such layer.
    """
    layers: dict[str, dict[int, Leaves]] = {kind: defaultdict(dict) for kind in (CONVOLUTION, NORM, DENSE)}
    for name, array in variables.items():
        layer, _, leaf = name.rpartition("/")
        match = _LAYER.match(layer)
        if match is None:
            raise ValueError(f"unknown variable {name}")
        layers[match[1]][int(match[2] or 0)][leaf] = layout(array)
    return {kind: [found[number] for number in sorted(found)] for kind, found in layers.items()}


def layout(array: NDArray[np.float32]) -> Tensor:
    """Return a kernel in torch's order: HWIO -> OIHW, [in, out] -> [out, in]; other arrays as they are."""
    tensor = torch.from_numpy(array.copy())
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    return tensor.t().contiguous() if tensor.ndim == 2 else tensor
