"""Parameter groups and optimisers of each method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from training.methods import Method
from zoo.numerics.lars import LARS


def lars(
    model: Method, *, momentum: float, weight_decay: float, eta: float = 1e-3, classic_momentum: bool = False
) -> LARS:
    """BYOL's and SimCLR's: biases and BN parameters get neither weight decay nor a trust ratio ([B] 3.3; SimCLR's
    official ``model.py`` excludes the same by name).

    Every other parameter of the official networks has two dimensions or more, so the shape tells them apart.
    ``classic_momentum`` is SimCLR's: the learning rate inside the momentum.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]
    return LARS(groups, lr=0.0, momentum=momentum, eta=eta, classic_momentum=classic_momentum)


def sgd(model: Method, *, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SimSiam's, MoCo v2's: weight decay on ALL parameters; a predictor is a group of its own, whose lr can stay
    constant."""
    return torch.optim.SGD(_with_predictor_apart(model), lr=0.0, momentum=momentum, weight_decay=weight_decay)


class LARC(torch.optim.SGD):
    """SwAV's: layer-wise rates for ALL parameters, biases and BN too, in the form of NVIDIA's ``LARC.py``
    (``clip=False``)::

        g <- (g + weight_decay p) eta |p| / (|g| + weight_decay |p| + 1e-8)    (as it is where either norm is 0)
        m <- momentum m + g
        p <- p - lr m

    Unlike LARS the denominator adds two norms, and a parameter of norm 0 gets no weight decay.
    """

    def __init__(
        self, params: Any, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0, eta: float = 1e-3
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum)
        for group in self.param_groups:  # not SGD's own weight decay, which would not be scaled
            group["larc_weight_decay"], group["eta"] = weight_decay, eta

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients in ``p.grad``, which it scales in place."""
        if closure is not None:
            raise TypeError("LARC takes no closure")
        for group in self.param_groups:
            decay = group["larc_weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                p_norm, g_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
                rate = group["eta"] * p_norm / (g_norm + decay * p_norm + 1e-8)
                # on the device, without a synchronising read of the norms
                p.grad.copy_(torch.where((p_norm > 0) & (g_norm > 0), (p.grad + decay * p) * rate, p.grad))
        super().step()


def larc(model: Method, *, momentum: float, weight_decay: float) -> LARC:
    """Over all parameters in one group (official ``main_swav.py``)."""
    return LARC(
        [p for p in model.parameters() if p.requires_grad], lr=0.0, momentum=momentum, weight_decay=weight_decay
    )


def adamw(model: Method, *, weight_decay: float) -> torch.optim.AdamW:
    """No paper's; for short runs on small machines."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=weight_decay)


def _with_predictor_apart(model: Method) -> list[dict[str, Any]]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if not name.startswith("predictor.")]},
        {"params": [p for name, p in named if name.startswith("predictor.")], "predictor": True},
    ]
    return [g for g in groups if g["params"]]
