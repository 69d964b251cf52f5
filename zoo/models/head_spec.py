"""Heads as data: read the layers of a projector, predictor or classifier off a state dict, and build them again.

A layout is a list with one entry per layer: ``["linear", inputs, outputs, bias]``, ``["batch_norm", channels, affine]``
or ``["relu"]``. The state dict is that of an ``nn.Sequential`` of these layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import UserError, reason_of

Layout = list[list[object]]
PARTS = ("projector", "predictor", "classifier", "prototypes")
_MAX_LAYERS = 16
_POSITIONS = tuple(str(n) for n in range(_MAX_LAYERS))
_LEAVES = ("weight", "bias", "running_mean", "running_var")
_MAX_CHANNELS = 1 << 20


@dataclass(frozen=True)
class EncoderHeads:
    """Heads that a method trained on top of the encoder, in eval mode; ``None`` where the file has none.

    Attributes:
        projector: embedding [N, D] -> projection [N, P].
        predictor: projection [N, P] -> prediction [N, P] (BYOL, SimSiam).
        classifier: embedding [N, D] -> logits [N, K], a linear classifier trained along.
        prototypes: l2-normalised projection [N, P] -> scores [N, K] (SwAV).
    """

    projector: nn.Sequential | None = None
    predictor: nn.Sequential | None = None
    classifier: nn.Sequential | None = None
    prototypes: nn.Sequential | None = None

    def run(self, parts: Sequence[str], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply ``parts`` one after the other: float32 [N, D] -> [N, P]."""
        values = torch.from_numpy(embeddings)
        with torch.inference_mode():
            for part in parts:
                module: nn.Sequential = getattr(self, part)
                values = module(values.to(next(module.parameters()).device))
        found: NDArray[np.float32] = values.cpu().numpy()
        return found

    def to(self, device: str | torch.device) -> EncoderHeads:
        """Move all parts to a device, in place; returns ``self``."""
        for part in PARTS:
            if (module := getattr(self, part)) is not None:
                module.to(device)
        return self


def read_layout(state: Mapping[str, Tensor]) -> Layout:
    """Return the layout of an ``nn.Sequential``'s state dict; a position without tensors is a ReLU.

    Raises:
        UserError: no such layer has this key or shape, or there are too many layers.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, _, leaf = key.partition(".")
        # The number is the file's, and the positions before it would become ReLUs.
        if number not in _POSITIONS or leaf not in _LEAVES or value.ndim != (2 if _is_matrix(key, state) else 1):
            raise UserError(f"heads: {key[:60]!r} belongs to no layer that this version understands")
        layers.setdefault(int(number), {})[leaf] = value
    if not layers:
        raise UserError("heads: one without layers")
    if missing := [n for n, layer in layers.items() if not {"weight", "running_mean"} & set(layer)]:
        raise UserError(f"heads: layer {missing[0]} has no weight")
    return [_read_layer(layers.get(n)) for n in range(max(layers) + 1)]


def _is_matrix(key: str, state: Mapping[str, Tensor]) -> bool:
    number, _, leaf = key.partition(".")
    return leaf == "weight" and f"{number}.running_mean" not in state


def _read_layer(tensors: Mapping[str, Tensor] | None) -> list[object]:
    if tensors is None:
        return ["relu"]
    if "running_mean" in tensors:
        return ["batch_norm", tensors["running_mean"].shape[0], "weight" in tensors]
    outputs, inputs = tensors["weight"].shape
    return ["linear", inputs, outputs, "bias" in tensors]


def build_head(layout: Sequence[Sequence[object]]) -> nn.Sequential:
    """Build the module of a layout, in eval mode; the layout comes from a file and is not trusted.

    Under ``torch.device("meta")`` no memory is taken, so that the sizes can be compared with a file first.

    Raises:
        UserError: the layout holds anything but these layers in sensible sizes.
    """
    try:
        if not isinstance(layout, list | tuple) or not 0 < len(layout) <= _MAX_LAYERS:
            raise ValueError(f"{len(layout)} layers")
        return nn.Sequential(*(_build_layer(*layer) for layer in layout)).eval()
    except (TypeError, ValueError) as error:
        raise UserError(f"heads: a layout that this version does not understand ({reason_of(error)})") from None


def _build_layer(kind: object, *sizes: object) -> nn.Module:
    # Check the numbers before torch allocates by them.
    numbers = [size for size in sizes if isinstance(size, int) and 0 <= size <= _MAX_CHANNELS]
    if len(numbers) < len(sizes):
        raise ValueError(f"{kind} of {sizes}")
    if kind == "linear":
        inputs, outputs, bias = numbers
        return nn.Linear(inputs, outputs, bias=bool(bias))
    if kind == "batch_norm":
        channels, affine = numbers
        return nn.BatchNorm1d(channels, eps=1e-5, affine=bool(affine))  # 1e-5 in every official code
    if kind == "relu" and not sizes:
        return nn.ReLU()
    raise ValueError(f"unknown layer {kind!r}")
