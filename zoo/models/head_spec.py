"""Heads as data: the layers of a projector, predictor or classifier, read off a state dict, and built again.

A layout is a list, a layer each: ``["linear", inputs, outputs, bias]``, ``["batch_norm", channels, affine]`` or
``["relu"]``. The state dict is that of an ``nn.Sequential`` of these layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import UserError

Layout = list[list[Any]]
PARTS = ("projector", "predictor", "classifier", "prototypes")
_MAX_LAYERS = 16
_MAX_CHANNELS = 1 << 20


@dataclass(frozen=True)
class Heads:
    """What a method trained on top of the encoder, in eval mode; ``None`` where the method or the file has none.

    Attributes:
        projector: embedding [N, D] -> projection [N, P].
        predictor: projection [N, P] -> prediction [N, P] (BYOL, SimSiam).
        classifier: embedding [N, D] -> logits [N, K], of a linear classifier trained along.
        prototypes: l2-normalised projection [N, P] -> scores [N, K] (SwAV).
    """

    projector: nn.Sequential | None = None
    predictor: nn.Sequential | None = None
    classifier: nn.Sequential | None = None
    prototypes: nn.Sequential | None = None

    def run(self, parts: Sequence[str], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the last of ``parts`` gives, each of them fed by the one before: float32 [N, D] -> [N, P]."""
        values = torch.from_numpy(embeddings)
        with torch.inference_mode():
            for part in parts:
                module: nn.Sequential = getattr(self, part)
                values = module(values.to(next(module.parameters()).device))
        found: NDArray[np.float32] = values.cpu().numpy()
        return found

    def to(self, *args: Any, **kwargs: Any) -> Heads:
        """All parts moved, as ``nn.Module.to`` does; returns itself."""
        for part in PARTS:
            if (module := getattr(self, part)) is not None:
                module.to(*args, **kwargs)
        return self


def read_layout(state: Mapping[str, Tensor]) -> Layout:
    """The layers that a state dict of ``nn.Sequential`` belongs to; a number without tensors is a ReLU.

    Raises:
        ValueError: a key or a shape that no such layer has.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, _, leaf = key.partition(".")
        layers.setdefault(int(number), {})[leaf] = value
    return [_read_layer(layers.get(n)) for n in range(max(layers) + 1)]


def _read_layer(tensors: Mapping[str, Tensor] | None) -> list[Any]:
    if tensors is None:
        return ["relu"]
    if "running_mean" in tensors:
        return ["batch_norm", tensors["running_mean"].shape[0], "weight" in tensors]
    outputs, inputs = tensors["weight"].shape
    return ["linear", inputs, outputs, "bias" in tensors]


def build_head(layout: Sequence[Sequence[Any]]) -> nn.Sequential:
    """The module of a layout, in eval mode.

    Raises:
        UserError: the layout holds anything but these layers in sensible sizes.
    """
    try:
        if not 0 < len(layout) <= _MAX_LAYERS:
            raise ValueError(f"{len(layout)} layers")
        return nn.Sequential(*(_build_layer(*layer) for layer in layout)).eval()
    except (TypeError, ValueError) as error:
        raise UserError(f"heads: a layout that this version does not understand ({error})") from None


def _build_layer(kind: str, *sizes: Any) -> nn.Module:
    if any(not 0 <= int(size) <= _MAX_CHANNELS for size in sizes):
        raise ValueError(f"{kind} of {sizes}")
    if kind == "linear":
        inputs, outputs, bias = sizes
        return nn.Linear(int(inputs), int(outputs), bias=bool(bias))
    if kind == "batch_norm":
        channels, affine = sizes
        return nn.BatchNorm1d(int(channels), eps=1e-5, affine=bool(affine))  # 1e-5 in every official code
    if kind == "relu" and not sizes:
        return nn.ReLU()
    raise ValueError(f"unknown layer {kind!r}")
