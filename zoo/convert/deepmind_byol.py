"""DeepMind's BYOL checkpoints (haiku parameters in a pickle) to timm's names and PyTorch's layouts.

The encoder becomes ``resnetv2_50(preact=False)`` with TF padding; depth and width are read off the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.convert.pickles import read_pickle
from zoo.errors import UserError
from zoo.registry import Architecture

_BLOCK = re.compile(r"block_group_(\d+)/~/block_(\d+)/~/(?:shortcut_)?(conv|batchnorm)(?:_(\d))?$")
_HEAD_LAYERS = {"linear": "0", "batch_norm": "1", "linear_1": "3"}  # places in ``zoo.heads.byol_mlp``


@dataclass(frozen=True)
class ByolCheckpoint:
    """An official BYOL file.

    Attributes:
        architecture: with TF padding.
        online, target: state dicts by part: ``encoder``, ``projector``, ``predictor``, ``classifier``.
    """

    architecture: Architecture
    online: dict[str, dict[str, Tensor]]
    target: dict[str, dict[str, Tensor]]


def read(path: Path) -> ByolCheckpoint:
    """Reads a ``.pkl`` of the official code, without jax, haiku or dill, running nothing in it.

    Raises:
        UserError: unreadable, refused, or not a BYOL checkpoint.
    """
    try:
        tree = read_pickle(path.read_bytes(), path.name)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        state = tree["experiment_state"]
        online = _parts(state["online_params"], state["online_state"])
        target = _parts(state["target_params"], state["target_state"])
        return ByolCheckpoint(_architecture(online["encoder"]), online, target)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path.name} is no BYOL checkpoint of the official code ({error!r})") from None


def _parts(params: Any, moving: Any) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "projector": {}, "predictor": {}, "classifier": {}}
    for module, values in params.items():
        part, key = _locate(module)
        for name, array in values.items():
            parts[part][key + _leaf(name)] = _layout(array, name)
    for module, values in moving.items():
        if not module.endswith("_ema"):
            continue
        owner, _, statistic = module.rpartition("/~/")
        part, key = _locate(owner)
        which = {"mean_ema": "running_mean", "var_ema": "running_var"}[statistic]
        parts[part][key + which] = _layout(values["average"], "average")
    return parts


def _locate(module: str) -> tuple[str, str]:
    """haiku's module path -> (part, key prefix in it)."""
    head, _, rest = module.partition("/")
    if head == "classifier":
        return "classifier", ""
    if head in ("projector", "predictor"):
        return head, _HEAD_LAYERS[rest] + "."
    rest = rest.removeprefix("~/")
    if rest == "initial_conv":
        return "encoder", "stem.conv."
    if rest == "initial_batchnorm":
        return "encoder", "stem.norm."
    match = _BLOCK.match(rest)
    if match is None:
        raise ValueError(f"unknown module {module}")
    group, block, kind, number = match.groups()
    kind = {"conv": "conv", "batchnorm": "norm"}[kind]
    layer = f"downsample.{kind}" if number is None else f"{kind}{int(number) + 1}"
    return "encoder", f"stages.{group}.blocks.{block}.{layer}."


def _leaf(name: str) -> str:
    return {"w": "weight", "scale": "weight", "b": "bias", "offset": "bias"}[name]


def _layout(array: Any, name: str) -> Tensor:
    tensor = torch.tensor(array)  # a copy: the pickle's arrays may be read-only
    if name == "w":
        return tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor.t().contiguous()
    return tensor.flatten()  # BN values are stored (1, 1, 1, C) or (1, C)


def _architecture(encoder: dict[str, Tensor]) -> Architecture:
    blocks = {(int(m[1]), int(m[2])) for m in map(re.compile(r"stages\.(\d+)\.blocks\.(\d+)").match, encoder) if m}
    layers = [sum(1 for g, _ in blocks if g == stage) for stage in range(4)]
    width = encoder["stem.conv.weight"].shape[0] / 64  # the stem of the 1x network is 64 wide
    parameters = sum(v.numel() for k, v in encoder.items() if "running" not in k)
    args = {"preact": False, "layers": layers, "width_factor": width}
    return Architecture("resnetv2_50", int(2048 * width), parameters, args, padding="same")
