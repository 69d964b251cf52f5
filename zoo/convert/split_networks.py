"""Networks of split colours, as CMC's: which architecture two state dicts are, and their heads as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.convert.common import recognise
from zoo.models.registry import Architecture, ModelArgs
from zoo.models.state_dict import without_counters

_STEM = 64  # CMC models/resnet.py:111-118: of every width; PyContrast networks/resnet.py:139: not below


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
    # The stem does not say the width here: the first stage does.
    inner = halves[0]["layer1.0.conv1.weight"].shape[0]
    if halves[0]["conv1.weight"].shape[0] != _STEM:
        raise ValueError(f"a stem of {halves[0]['conv1.weight'].shape[0]} channels, not {_STEM}")
    usual = _of_usual_width(halves[0])
    args: ModelArgs = {} if inner == _STEM else {"channels": [inner, 2 * inner, 4 * inner, 8 * inner]}
    timm_name = usual.timm_name
    if timm_name.startswith("resnetv2"):  # a depth that no timm name has
        timm_name = "resnet50"
        args["layers"] = usual.model_args.get("layers", [3, 4, 6, 3])
    features = sum(_features(state) for state in halves)
    parameters = sum(v.numel() for state in halves for k, v in state.items() if "running" not in k)
    encoder = {
        f"{name}.{k}": v for name, state in zip(("first", "second"), halves, strict=True) for k, v in state.items()
    }
    return Architecture(timm_name, features, parameters, args, colours=colours), encoder


def _of_usual_width(state: Mapping[str, Tensor]) -> Architecture:
    """Return the architecture of the same depth; the stem is given the first stage's width for that."""
    stage = state["layer1.0.conv1.weight"]
    return recognise({**state, "layer1.0.conv1.weight": stage.new_empty(_STEM, *stage.shape[1:])})[0]


def _features(state: Mapping[str, Tensor]) -> int:
    last = max(key for key in state if key.startswith("layer4.") and key.endswith(("bn2.weight", "bn3.weight")))
    return int(state[last].shape[0])


def two_linears(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join a Linear of each half, [out, in] with bias, to one [2 out, 2 in] of both, which is 0 elsewhere."""
    return {
        "0.weight": torch.block_diag(first["0.weight"], second["0.weight"]),
        "0.bias": torch.cat([first["0.bias"], second["0.bias"]]),
    }
