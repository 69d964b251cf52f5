"""Local Aggregation's checkpoints (neuroailab/LocalAggregation at 87ac593), TensorFlow's format.

The network is TensorFlow's official ResNet of version 2 (``model/resnet_model.py``): pre-activation, a projection
without a norm in the first block of every stage, also where no width changes, symmetric padding in the convolutions and
TensorFlow's in the max-pool. Its last layer is the projector, linear to 128. Beside it a file holds the memory bank,
labels of the clusterings and the optimiser's variables, which are not read.

The validation (``model/prep_utils.py:296-341``) cuts 224 / 256 of the short side and resizes by area. Pillow's bilinear
filter is the nearest here: on the photographs of ``examples`` a value of 0..255 differs by 2.5 on average.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from zoo.convert.common import OfficialCheckpoint, not_official, require_online
from zoo.convert.readers.tf_checkpoint import open_bundle
from zoo.convert.tf_layers import BN, CONVOLUTION, DENSE, KEPT, NORM, Leaves, by_creation
from zoo.models.bounded_args import MAX_BLOCKS, MAX_WIDTH
from zoo.models.registry import FAIR_224, Architecture, ModelArgs
from zoo.models.resnet import build_encoder, count_parameters
from zoo.models.state_dict import check_state

_VARIABLE = re.compile(r"^(?:.*/)?resnet_model/([^/]+/(?:" + "|".join(sorted(KEPT)) + r"))$")
_OPTIMISER = re.compile(r"/(Momentum|ExponentialMovingAverage)$")


def read_official(path: Path, which: str) -> OfficialCheckpoint:
    """Read ``checkpoint-1901710.tar``, its unpacked folder or the checkpoint in it; ResNet-18 and 34 of any width.

    Raises:
        UserError: this is no TensorFlow checkpoint, or not one of Local Aggregation's, or ``which`` is ``target``.
    """
    require_online(which, "localagg")
    with open_bundle(path) as bundle:
        names, found = bundle.names, bundle.read(lambda name: _VARIABLE.match(name) is not None)
    try:
        layers = by_creation({_VARIABLE.sub(r"\1", name): array for name, array in found.items()})
        architecture, encoder = _encoder(layers[CONVOLUTION], layers[NORM])
        (dense,) = layers[DENSE]
    except (KeyError, ValueError, IndexError) as error:
        raise not_official(path, "Local Aggregation", error) from None
    check_state(encoder, architecture, path.name)
    projector = {"0.weight": dense["kernel"], "0.bias": dense["bias"]}
    others = [name for name in names if name not in found and not _OPTIMISER.search(name)]
    return OfficialCheckpoint(
        "localagg", architecture, encoder, {"projector": projector}, FAIR_224, left_out=tuple(others)
    )


def _encoder(convolutions: list[Leaves], norms: list[Leaves]) -> tuple[Architecture, dict[str, Tensor]]:
    """Return a pre-activation ResNet in the names of timm's ``resnetv2_18``.

    A stage begins with its projection, the only convolution of one pixel; a block has two convolutions and two norms.
    """
    kernels, norms = [layer["kernel"] for layer in convolutions], list(norms)
    state = {"stem.conv.weight": kernels.pop(0)}
    blocks: list[int] = []
    while kernels:
        if kernels[0].shape[2:] == (1, 1):
            blocks.append(0)
            state[f"stages.{len(blocks) - 1}.blocks.0.downsample.conv.weight"] = kernels.pop(0)
        if not blocks:
            raise ValueError("its first block has no projection")
        prefix = f"stages.{len(blocks) - 1}.blocks.{blocks[-1]}."
        blocks[-1] += 1
        for number in (1, 2):
            kernel, norm = kernels.pop(0), norms.pop(0)
            if kernel.shape[2:] != (3, 3):
                raise ValueError("a block without two convolutions of 3 x 3 pixels, as in a ResNet-50")
            state[f"{prefix}conv{number}.weight"] = kernel
            state |= _norm(f"{prefix}norm{number}.", norm)
    (last,) = norms
    state |= _norm("norm.", last)
    if len(blocks) != 4 or max(blocks) > MAX_BLOCKS:
        raise ValueError(f"stages of {blocks} blocks")
    return _architecture(blocks, state), state


def _norm(prefix: str, leaves: Leaves) -> Leaves:
    return {prefix + BN[leaf]: value for leaf, value in leaves.items()}


def _architecture(blocks: list[int], state: dict[str, Tensor]) -> Architecture:
    stem, features = int(state["stem.conv.weight"].shape[0]), int(state["norm.weight"].shape[0])
    width = stem / 64
    if not 0 < width <= MAX_WIDTH:
        raise ValueError(f"a stem of {stem} channels")
    args: ModelArgs = {}
    if blocks != [2, 2, 2, 2]:
        args["layers"] = blocks
    if width != 1:
        args["width_factor"] = int(width) if width == int(width) else width
    found = Architecture("resnetv2_18", features, 0, args, padding="same-pool", project_first=True)
    with torch.device("meta"):
        return replace(found, parameters=count_parameters(build_encoder(found)))
