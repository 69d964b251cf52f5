"""DeepMind's BYOL checkpoints: haiku parameters in a pickle, renamed to timm's names and PyTorch's layouts.

The file determines depth, width and kind of block; the padding is TensorFlow's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.convert.common import OfficialCheckpoint, not_official, one_of_two, recognise, sequential
from zoo.convert.readers.safe_pickle import read_pickle
from zoo.errors import UserError
from zoo.models.registry import BYOL_224, Architecture

_BLOCK = re.compile(r"block_group_(\d+)/~/block_(\d+)/~/(?:shortcut_)?(conv|batchnorm)(?:_(\d))?$")
_HEAD_LAYERS = {"linear": "0", "batch_norm": "1", "linear_1": "3"}  # positions in ``zoo.models.heads.byol_mlp``

Params = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""haiku's parameters or state: module path -> name -> array."""


@dataclass(frozen=True)
class ByolCheckpoint:
    """The content of an official BYOL file.

    Attributes:
        architecture: with TensorFlow's padding.
        online, target: state dicts by part: ``encoder`` in the names of ``architecture``, ``projector`` and
            ``predictor`` in those of ``zoo.models.heads``, and ``classifier``.
    """

    architecture: Architecture
    online: dict[str, dict[str, Tensor]]
    target: dict[str, dict[str, Tensor]]


def read(path: Path) -> ByolCheckpoint:
    """Read a ``.pkl`` of the official code without jax, haiku or dill; nothing in it is executed.

    Raises:
        UserError: the file cannot be read, holds objects other than arrays, or is no BYOL checkpoint.
    """
    # Unpickle with the restricted reader: a hostile file must not run code.
    try:
        with path.open("rb") as file:
            tree = read_pickle(file, path.name)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    # Split the tree by network, and name the encoder's tensors as timm does.
    try:
        state = tree["experiment_state"]
        made: dict[tuple[int, bool], Tensor] = {}
        online = _parts(state["online_params"], state["online_state"], made)
        target = _parts(state["target_params"], state["target_state"], made)
        architecture, online["encoder"] = recognise(online["encoder"], padding="same")
        other, target["encoder"] = recognise(target["encoder"], padding="same")
        if other != architecture:
            raise ValueError("online and target network differ")
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        raise not_official(path, "BYOL", error) from None
    return ByolCheckpoint(architecture, online, target)


def read_official(path: Path, which: str) -> OfficialCheckpoint:
    """Read one network of the file for ``zoo convert``; ``which`` is ``online`` or ``target``.

    Raises:
        UserError: as ``read``.
    """
    file = read(path)
    parts = {"online": file.online, "target": file.target}[which]
    heads = {part: sequential(parts[part]) for part in ("projector", "predictor", "classifier") if parts[part]}
    names = {"online": "online network", "target": "target network, its moving average"}
    found = one_of_two(names[which], which, names["target" if which == "online" else "online"])
    return OfficialCheckpoint("byol", file.architecture, parts["encoder"], heads, BYOL_224, found=found)


def _parts(params: Params, state: Params, made: dict[tuple[int, bool], Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return state dicts by part. An array that the file mentions often becomes one tensor, which ``made`` keeps."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "projector": {}, "predictor": {}, "classifier": {}}
    # Sort the weights by the head or encoder that owns them.
    for module, values in params.items():
        part, key = _locate(module)
        for name, array in values.items():
            parts[part][key + _leaf(name)] = _layout(array, name, made)
    # BN's moving averages
    for module, values in state.items():
        if not module.endswith("_ema"):
            continue
        owner, _, statistic = module.rpartition("/~/")
        part, key = _locate(owner)
        which = {"mean_ema": "running_mean", "var_ema": "running_var"}[statistic]
        parts[part][key + which] = _layout(values["average"], "average", made)
    return parts


def _locate(module: str) -> tuple[str, str]:
    """Translate haiku's module path to (part, prefix of the keys in it)."""
    head, _, rest = module.partition("/")
    # The heads lie at the top level of the tree.
    if head == "classifier":
        return "classifier", ""
    if head in ("projector", "predictor"):
        return head, _HEAD_LAYERS[rest] + "."
    # The stem of the encoder.
    rest = rest.removeprefix("~/")
    if rest == "initial_conv":
        return "encoder", "conv1."
    if rest == "initial_batchnorm":
        return "encoder", "bn1."
    # All other modules belong to a residual block.
    match = _BLOCK.match(rest)
    if match is None:
        raise ValueError(f"unknown module {module}")
    group, block, kind, number = match.groups()
    position, name = {"conv": (0, "conv"), "batchnorm": (1, "bn")}[kind]
    layer = f"downsample.{position}" if number is None else f"{name}{int(number) + 1}"
    return "encoder", f"layer{int(group) + 1}.{block}.{layer}."


def _leaf(name: str) -> str:
    return {"w": "weight", "scale": "weight", "b": "bias", "offset": "bias"}[name]


def _layout(array: NDArray[np.float32], name: str, made: dict[tuple[int, bool], Tensor]) -> Tensor:
    key = id(array), name == "w"  # the tree keeps the array, and so its id
    if key not in made:
        tensor = torch.from_numpy(array)
        if name == "w":  # HWIO -> OIHW, and [in, out] -> [out, in]
            made[key] = tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor.t().contiguous()
        else:
            made[key] = tensor.flatten()  # BN values are stored (1, 1, 1, C) or (1, C)
    return made[key]
