"""Files in the layouts of the official codes, made from small timm networks."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.colour_split import SplitEncoder
from zoo.models.key_mapping import to_torchvision
from zoo.models.registry import Architecture
from zoo.models.resnet import build_encoder, encoder_state


def narrow(layers: list[int], width: float = 0.125, **more: Any) -> Architecture:
    """A bottleneck ResNet with every channel ``width`` times."""
    args = {"preact": False, "layers": layers, "width_factor": width}
    return Architecture("resnetv2_50", int(2048 * width), 0, args, **more)


@dataclass(frozen=True)
class Network:
    """An encoder with statistics that are not the initial ones, and its tensors in torchvision's names."""

    module: nn.Module
    state: dict[str, Tensor]


def network(architecture: Architecture, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = build_encoder(architecture).eval()
    vary(module)
    state = to_torchvision(encoder_state(module))
    assert state is not None
    return Network(module, state)


def vary(module: nn.Module) -> None:
    """Normalisations as after training, not as at the start."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.1)


def split_network(channels: list[int], colours: str, layers: list[int] | None = None) -> SplitEncoder:
    """CMC's pair of networks, with these channels in its stages."""
    args: Any = {"channels": channels} | ({"layers": layers} if layers else {})
    torch.manual_seed(0)
    module = build_encoder(Architecture("resnet50", 0, 0, args, colours=colours)).eval()
    vary(module)
    assert isinstance(module, SplitEncoder)
    return module


def cmc(module: SplitEncoder, heads: Sequence[nn.Module] = ()) -> dict[str, Any]:
    """The content of a file of HobbitLong/CMC (``train_CMC.py:332``)."""
    state: dict[str, Tensor] = {}
    for number, prefix in enumerate(("encoder.module.l_to_ab.", "encoder.module.ab_to_l.")):
        state |= under(encoder_state((module.first, module.second)[number]), prefix)
        state |= under(encoder_state(heads[number]), f"{prefix}fc.") if heads else {}
    return {"opt": argparse.Namespace(view="Lab"), "model": state, "contrast": {"memory_l": torch.ones(4, 16)}}


def under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state.items()}


# ---------------------------------------------------------------- DeepMind's layout


def deepmind(path: Path, online: dict[str, Tensor], target: dict[str, Tensor], heads: dict[str, nn.Module]) -> Path:
    """A BYOL checkpoint with plain dicts in it; ``heads`` are shared by both networks."""
    parts = {}
    for which, state in (("online", online), ("target", target)):
        params, moving = _haiku_encoder(state)
        for name, module in heads.items():
            _haiku_head(name, module, params, moving)
        parts |= {f"{which}_params": params, f"{which}_state": moving}
    content = {"experiment_state": parts | {"opt_state": ()}, "step": 3, "rng": None}
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def _haiku_encoder(state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    params: dict[str, Any] = {}
    moving: dict[str, Any] = {}
    for key, value in state.items():
        *place, layer, leaf = key.split(".")
        if place and place[-1] == "downsample":
            kind = "shortcut_conv" if layer == "0" else "shortcut_batchnorm"
            place = place[:-1]
        else:
            kind = f"{'conv' if layer.startswith('conv') else 'batchnorm'}_{int(layer[-1]) - 1}"
        module = (
            f"res_net/~/block_group_{int(place[0][5:]) - 1}/~/block_{place[1]}/~/{kind}"
            if place
            else ("res_net/~/initial_conv" if layer == "conv1" else "res_net/~/initial_batchnorm")
        )
        _put(module, leaf, value, params, moving, (1, 1, 1, -1))
    return params, moving


def _haiku_head(name: str, module: nn.Module, params: dict[str, Any], moving: dict[str, Any]) -> None:
    for key, value in encoder_state(module).items():
        number, _, leaf = key.rpartition(".")
        place = {"": name, "0": f"{name}/linear", "1": f"{name}/batch_norm", "3": f"{name}/linear_1"}[number]
        if number == "1":
            _put(place, leaf, value, params, moving, (1, -1))
        else:
            params.setdefault(place, {})["w" if leaf == "weight" else "b"] = (
                value.t().numpy() if value.ndim == 2 else value.numpy()
            )


def _put(module: str, leaf: str, value: Tensor, params: Any, moving: Any, shape: tuple[int, ...]) -> None:
    if leaf.startswith("running"):
        statistic = {"running_mean": "mean_ema", "running_var": "var_ema"}[leaf]
        moving[f"{module}/~/{statistic}"] = {"average": value.reshape(shape).numpy(), "counter": 1}
    elif value.ndim == 4:
        params.setdefault(module, {})["w"] = value.permute(2, 3, 1, 0).numpy()
    else:
        params.setdefault(module, {})["scale" if leaf == "weight" else "offset"] = value.reshape(shape).numpy()
