"""Rename a ResNet's tensors between torchvision's names (also timm's ``resnet50``), timm's ``resnetv2_50`` names and
detectron2's.

The mapping is one to one in both directions, and values pass through unchanged. ``fc`` and ``num_batches_tracked`` are
renamed too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")

_TORCHVISION, _RESNETV2, _DETECTRON2 = range(3)  # columns
_BEGINNINGS = (
    ("conv1.", "stem.conv.", "stem.conv1."),
    ("bn1.", "stem.norm.", "stem.conv1.norm."),
    ("fc.", "head.fc.", "linear."),
    *((f"layer{n}.", f"stages.{n - 1}.blocks.", f"res{n + 1}.") for n in (1, 2, 3, 4)),
)
_PARTS_OF_A_BLOCK = (
    *((f".bn{n}.", f".norm{n}.", f".conv{n}.norm.") for n in (1, 2, 3)),
    (".downsample.0.", ".downsample.conv.", ".shortcut."),
    (".downsample.1.", ".downsample.norm.", ".shortcut.norm."),
)


def torchvision_to_resnetv2(state: Mapping[str, V]) -> dict[str, V]:
    """Rename from torchvision's ResNets (and timm's ``resnet50``) to timm's ``resnetv2_50(preact=False)``."""
    return _rename(state, _TORCHVISION, _RESNETV2)


def resnetv2_to_torchvision(state: Mapping[str, V]) -> dict[str, V]:
    """Invert ``torchvision_to_resnetv2``."""
    return _rename(state, _RESNETV2, _TORCHVISION)


def torchvision_to_detectron2(state: Mapping[str, V]) -> dict[str, V]:
    """Rename to detectron2's ``build_resnet_backbone`` (stem, res2 to res5), as its convert-torchvision tool does."""
    return _rename(state, _TORCHVISION, _DETECTRON2)


def detectron2_to_torchvision(state: Mapping[str, V]) -> dict[str, V]:
    """Invert ``torchvision_to_detectron2``."""
    return _rename(state, _DETECTRON2, _TORCHVISION)


def to_torchvision(state: Mapping[str, V]) -> dict[str, V] | None:
    """Rename from whichever of the three conventions ``state`` follows; ``None`` if it follows none of them."""
    if "conv1.weight" in state:
        return dict(state)
    if "stem.conv.weight" in state:
        return resnetv2_to_torchvision(state)
    if "stem.conv1.weight" in state:
        return detectron2_to_torchvision(state)
    return None


def _rename(state: Mapping[str, V], source: int, target: int) -> dict[str, V]:
    # longest first: detectron2's stem.conv1.norm. also begins with stem.conv1.
    beginnings = sorted(_BEGINNINGS, key=lambda row: -len(row[source]))
    parts = sorted(_PARTS_OF_A_BLOCK, key=lambda row: -len(row[source]))

    def renamed(key: str) -> str:
        row = next((row for row in beginnings if key.startswith(row[source])), None)
        key = key if row is None else row[target] + key.removeprefix(row[source])
        row = next((row for row in parts if row[source] in key), None)
        return key if row is None else key.replace(row[source], row[target], 1)

    return {renamed(key): value for key, value in state.items()}
