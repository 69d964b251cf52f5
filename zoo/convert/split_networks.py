"""Networks of split colours, as CMC's: which architecture two state dicts are, and their heads as one."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.models.bounded_args import MAX_BLOCKS
from zoo.models.registry import Architecture, ModelArgs
from zoo.models.state_dict import without_counters

_STEM = 64  # CMC models/resnet.py:111-118: of every width; PyContrast networks/resnet.py:139: not below
_BLOCK = re.compile(r"layer([1-4])\.(\d{1,3})\.")


def recognise_split(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], colours: str
) -> tuple[Architecture, dict[str, Tensor]]:
    """Detect the architecture of two networks, of one and of two channels, with torchvision's names.

    Returns:
        The architecture, and the state dict of ``zoo.models.colour_split.SplitEncoder``.

    Raises:
        KeyError, ValueError: they are no such pair.
    """
    halves = [without_counters(state) for state in (first, second)]
    for channels, state in enumerate(halves, start=1):
        if state["conv1.weight"].shape[1:] != (channels, 7, 7):
            raise ValueError(f"a first convolution {tuple(state['conv1.weight'].shape)}, not of {channels} channels")
    if halves[0]["conv1.weight"].shape[0] != _STEM:
        raise ValueError(f"a stem of {halves[0]['conv1.weight'].shape[0]} channels, not {_STEM}")
    # The stem does not say the width here: the first stage does.
    inner, is_basic = halves[0]["layer1.0.conv1.weight"].shape[0], "layer1.0.conv3.weight" not in halves[0]
    args: ModelArgs = {} if inner == _STEM else {"channels": [inner, 2 * inner, 4 * inner, 8 * inner]}
    layers = _blocks(halves[0])
    if layers != ([2, 2, 2, 2] if is_basic else [3, 4, 6, 3]):
        args["layers"] = layers
    last = f"layer4.{layers[3] - 1}.{'bn2' if is_basic else 'bn3'}.weight"
    features = sum(int(state[last].shape[0]) for state in halves)
    parameters = sum(v.numel() for state in halves for k, v in state.items() if "running" not in k)
    timm_name = "resnet18" if is_basic else "resnet50"
    named = zip(("first", "second"), halves, strict=True)
    encoder = {f"{name}.{k}": v for name, state in named for k, v in state.items()}
    return Architecture(timm_name, features, parameters, args, colours=colours), encoder


def _blocks(state: Mapping[str, Tensor]) -> list[int]:
    """Return the number of blocks in each of the four stages."""
    blocks = {(int(m[1]), int(m[2])) for m in map(_BLOCK.match, state) if m}
    layers = [sum(1 for stage, _ in blocks if stage == number) for number in range(1, 5)]
    if not 0 < min(layers) <= max(layers) <= MAX_BLOCKS:
        raise ValueError(f"stages of {tuple(layers)} blocks")
    return layers


def two_linears(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join a Linear of each half, [out, in] with bias, to one [2 out, 2 in] of both, which is 0 elsewhere."""
    a, b = first["0.weight"], second["0.weight"]
    weight = a.new_zeros(a.shape[0] + b.shape[0], a.shape[1] + b.shape[1])
    weight[: a.shape[0], : a.shape[1]], weight[a.shape[0] :, a.shape[1] :] = a, b
    return {
        "0.weight": weight,
        "0.bias": torch.cat([first["0.bias"], second["0.bias"]]),
    }
