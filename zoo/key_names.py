"""One ResNet, three ways to name its tensors: torchvision's (and timm's ``resnet50``), timm's ``resnetv2_50``, and
detectron2's. Renaming is one to one, both ways, and values pass through untouched.

``fc`` and ``num_batches_tracked`` are renamed too where the other side has a place for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

V = TypeVar("V")
Rules = tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]


def _rules(*pairs: tuple[str, str | Callable[[re.Match[str]], str]]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_TO_RESNETV2 = _rules(
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^fc\.", "head.fc."),
    (r"^layer(\d+)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
    (r"(?<=\.)bn(\d)\.", r"norm\1."),
    (r"(?<=\.)downsample\.0\.", "downsample.conv."),
    (r"(?<=\.)downsample\.1\.", "downsample.norm."),
)
_FROM_RESNETV2 = _rules(
    (r"^stem\.conv\.", "conv1."),
    (r"^stem\.norm\.", "bn1."),
    (r"^head\.fc\.", "fc."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"(?<=\.)norm(\d)\.", r"bn\1."),
    (r"(?<=\.)downsample\.conv\.", "downsample.0."),
    (r"(?<=\.)downsample\.norm\.", "downsample.1."),
)
_TO_DETECTRON2 = _rules(
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^fc\.", "linear."),
    (r"^layer(\d+)\.(\d+)\.", lambda m: f"res{int(m[1]) + 1}.{m[2]}."),
    (r"(?<=\.)bn(\d)\.", r"conv\1.norm."),
    (r"(?<=\.)downsample\.0\.", "shortcut."),
    (r"(?<=\.)downsample\.1\.", "shortcut.norm."),
)
_FROM_DETECTRON2 = _rules(
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^linear\.", "fc."),
    (r"^res(\d+)\.(\d+)\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}."),
    (r"(?<=\.)conv(\d)\.norm\.", r"bn\1."),
    (r"(?<=\.)shortcut\.norm\.", "downsample.1."),
    (r"(?<=\.)shortcut\.", "downsample.0."),
)


def torchvision_to_resnetv2(state: Mapping[str, V]) -> dict[str, V]:
    """Keys of torchvision's ResNets (and timm's ``resnet50``) to timm's ``resnetv2_50(preact=False)``; values as is."""
    return _rename(state, _TO_RESNETV2)


def resnetv2_to_torchvision(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse of ``torchvision_to_resnetv2``."""
    return _rename(state, _FROM_RESNETV2)


def torchvision_to_detectron2(state: Mapping[str, V]) -> dict[str, V]:
    """To detectron2's ``build_resnet_backbone`` (stem, res2 to res5), as its convert-torchvision tool names them."""
    return _rename(state, _TO_DETECTRON2)


def detectron2_to_torchvision(state: Mapping[str, V]) -> dict[str, V]:
    """The inverse of ``torchvision_to_detectron2``."""
    return _rename(state, _FROM_DETECTRON2)


def to_torchvision(state: Mapping[str, V]) -> dict[str, V] | None:
    """From whichever of the three namings ``state`` has; ``None`` if it has none of them."""
    if "conv1.weight" in state:
        return dict(state)
    if "stem.conv.weight" in state:
        return resnetv2_to_torchvision(state)
    if "stem.conv1.weight" in state:
        return detectron2_to_torchvision(state)
    return None


def _rename(state: Mapping[str, V], rules: Rules) -> dict[str, V]:
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = pattern.sub(replacement, key)
        renamed[key] = value
    return renamed
