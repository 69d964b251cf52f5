"""Builds the encoders: timm's ResNets for a depth, a width and a padding; and renames keys between libraries.

No ResNet of our own: what timm builds is what torch.hub, timm's and transformers' hub loaders and ONNX share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from zoo.registry import Architecture

V = TypeVar("V")


def build_encoder(architecture: Architecture, *, zero_init_residual: bool = False) -> nn.Module:
    """A randomly initialised encoder: float [N, 3, H, W], normalised -> [N, D], the pooled last features.

    ``zero_init_residual`` sets the last BN gamma of each block to 0 (SimSiam's official code; BYOL's paper used 1).
    Draws from torch's global generator: seed it first for a reproducible network.
    """
    import timm

    kwargs = dict(architecture.model_args)
    if architecture.padding == "same":
        # TF pads a strided layer by what the input size needs, more at the bottom right. stem_type alone
        # changes only the max-pool; the convolutions need their layer replaced too.
        from timm.layers.create_conv2d import create_conv2d

        kwargs |= {"stem_type": "same", "conv_layer": partial(create_conv2d, padding="same")}
    return timm.create_model(
        architecture.timm_name, pretrained=False, num_classes=0, zero_init_last=zero_init_residual, **kwargs
    )


def preactivation_family(architecture: Architecture) -> Architecture:
    """The same network spelt as timm's ``resnetv2_50(preact=False)``, the family that takes a width and TF padding."""
    if architecture.timm_name == "resnetv2_50":
        return architecture
    layers = {"resnet50": [3, 4, 6, 3], "resnet200": [3, 24, 36, 3]}[architecture.timm_name]
    return replace(architecture, timm_name="resnetv2_50", model_args={"preact": False, "layers": layers})


_TO_RESNETV2 = (
    (re.compile(r"^conv1\."), "stem.conv."),
    (re.compile(r"^bn1\."), "stem.norm."),
    (re.compile(r"^layer(\d+)\.(\d+)\."), lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
    (re.compile(r"(?<=\.)bn(\d)\."), r"norm\1."),
    (re.compile(r"(?<=\.)downsample\.0\."), "downsample.conv."),
    (re.compile(r"(?<=\.)downsample\.1\."), "downsample.norm."),
)


def torchvision_to_resnetv2(state: Mapping[str, V]) -> dict[str, V]:
    """Keys of torchvision's ResNets (and timm's ``resnet50``) to timm's ``resnetv2_50(preact=False)``; values as is."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in _TO_RESNETV2:
            key = pattern.sub(replacement, key)
        renamed[key] = value
    return renamed


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters())


def encoder_state(module: nn.Module) -> dict[str, Tensor]:
    """State without ``num_batches_tracked``: inference does not read it, and the official files lack it."""
    return {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
