"""google-research/simclr's v1 checkpoints (``resnet.py``, ``model_util.py``), TensorFlow's format.

Layers are numbered in the order of their creation (``conv2d``, ``conv2d_1``, ...); a block creates its projection
first. Convolutions pad symmetrically (``fixed_padding``), the max-pool as TensorFlow does. Pixels are in [0, 1] without
mean and std. The supervised linear head has a bias, which other converters forget.

The registry has no SimCLR v2. Its TF1 checkpoints are several files each (``gs://simclr-checkpoints/simclrv2``), while
the registry fetches one file by one hash. Those without selective kernels (``sk0``) have v1's layout with a deeper
projector, so that a folder of them can be given to ``zoo convert``; none was tried. Those with them (``sk1``) are
refused by name. The TF2 checkpoints are SavedModels, which no reader here opens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.convert.common import OfficialCheckpoint, not_official, recognise, require_online
from zoo.convert.readers.tf_checkpoint import read_bundle
from zoo.convert.tf_layers import BN, CONVOLUTION, KEPT, NORM, Arrays, by_creation, layout
from zoo.errors import UserError
from zoo.models.registry import SIMCLR_224

_Layer = tuple[Tensor, dict[str, Tensor]]


def read_official(path: Path, which: str) -> OfficialCheckpoint:
    """Read ``ResNet50_1x.zip``, its unpacked folder or the checkpoint in it; bottleneck ResNets of any depth and width.

    Raises:
        UserError: this is no TensorFlow checkpoint, or not one of SimCLR's, or ``which`` is ``target``.
    """
    require_online(which, "simclr")
    # Group the variables by network, and drop the optimiser's.
    scopes: dict[str, dict[str, NDArray[np.float32]]] = defaultdict(dict)
    for name, array in read_bundle(path).items():
        scope, _, leaf = name.partition("/")
        if leaf.rpartition("/")[2] in KEPT:
            scopes[scope][leaf] = array
    # Name the layers as this zoo does.
    try:
        if "base_model" not in scopes:
            raise KeyError("base_model/conv2d/kernel")
        architecture, encoder = recognise(_encoder(scopes["base_model"]), padding="same-pool")
        heads = {"projector": _projector(scopes["head_contrastive"]), "classifier": _linear(scopes["head_supervised"])}
    except (KeyError, ValueError, IndexError, StopIteration, RuntimeError) as error:
        raise not_official(path, "SimCLR", error) from None
    return OfficialCheckpoint("simclr", architecture, encoder, {k: v for k, v in heads.items() if v}, SIMCLR_224)


def _encoder(variables: Arrays) -> dict[str, Tensor]:
    """Return a bottleneck ResNet in torchvision's names.

    A block's first convolution reduces the channels, so one that adds channels is the projection that begins a stage.
    """
    queue = _in_order(variables)
    state: dict[str, Tensor] = {}

    def put(prefix: str, convolution: str, norm: str, layer: _Layer) -> None:
        kernel, values = layer
        state[f"{prefix}{convolution}.weight"] = kernel
        state.update({f"{prefix}{norm}.{BN[leaf]}": value for leaf, value in values.items()})

    # The stem comes first in the order of creation.
    stem = next(queue)
    put("", "conv1", "bn1", stem)
    channels, stage, block = stem[0].shape[0], 0, 0
    # Then the blocks, whose stages show by their channels.
    for first in queue:
        if first[0].shape[0] > channels:  # a new stage: its projection comes first
            stage, block, channels = stage + 1, 0, first[0].shape[0]
            put(f"layer{stage}.0.", "downsample.0", "downsample.1", first)
            first = next(queue)
        for number, layer in enumerate((first, next(queue), next(queue)), start=1):
            put(f"layer{stage}.{block}.", f"conv{number}", f"bn{number}", layer)
        block += 1
    return state


def _in_order(variables: Arrays) -> Iterator[_Layer]:
    """Yield the convolutions in the order of their creation, each with the normalisation that follows it."""
    layers = by_creation(variables)
    if len(layers[CONVOLUTION]) > len(layers[NORM]):  # the kernels' mixing weights have no norm
        raise UserError(
            "the checkpoint has convolutions without a norm, as SimCLR v2's selective kernels (sk1) do: not supported, "
            "take a network without them (sk0)"
        )
    # Pair each convolution with the norm of the same rank.
    for convolution, norm in zip(layers[CONVOLUTION], layers[NORM], strict=True):
        yield convolution["kernel"], norm


def _projector(variables: Arrays) -> dict[str, Tensor]:
    """Return the layers: Linear without bias, BN, ReLU each; the last has a BN without offset and no ReLU."""
    # TensorFlow numbers the head's layers in its scope's name.
    names = sorted({n.partition("/")[0] for n in variables}, key=lambda n: int(n.rpartition("_")[2]))
    state: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        for path, array in variables.items():
            scope, _, rest = path.partition("/")
            if scope != name:
                continue
            layer, _, leaf = rest.rpartition("/")
            if layer.startswith("dense"):
                state[f"{3 * number}.{'weight' if leaf == 'kernel' else 'bias'}"] = layout(array)
            else:
                state[f"{3 * number + 1}.{BN[leaf]}"] = layout(array)
        # A norm without an offset gets one of zeros.
        norm = f"{3 * number + 1}"
        if f"{norm}.weight" in state:
            state.setdefault(f"{norm}.bias", torch.zeros_like(state[f"{norm}.weight"]))
    return state


def _linear(variables: Arrays) -> dict[str, Tensor]:
    leaves = {name.rpartition("/")[2]: layout(array) for name, array in variables.items()}
    return {f"0.{'weight' if leaf == 'kernel' else leaf}": value for leaf, value in leaves.items()}
