"""Parameter groups and optimisers of each method."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.methods import Method
from zoo.lars import LARS


def lars(model: nn.Module, *, momentum: float, weight_decay: float) -> LARS:
    """BYOL's: biases and BN parameters get neither weight decay nor a trust ratio ([B] 3.3).

    Every other parameter of the official networks has two dimensions or more, so the shape tells them apart.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
    return LARS(groups, lr=0.0, momentum=momentum)


def sgd(model: Method, *, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SimSiam's: weight decay on ALL parameters; the predictor is a group of its own, whose lr can stay constant."""
    groups: list[dict[str, Any]] = [
        {
            "params": [
                p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("predictor.")
            ]
        },
        {"params": list(model.predictor.parameters()), "predictor": True},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, weight_decay=weight_decay)
