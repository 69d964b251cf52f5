"""LARS as in BYOL's official code; training and linear evaluation share it.

Why not timm's ``Lars``: it takes |g| + weight_decay |p| for the norm of g + weight_decay p. After the five steps of the
official code's golden its parameters are off by up to 2.4e-3 (a parameter without gradient; 4e-6 for the others), these
by 1e-7, and the limit is 1e-6. torchlars 0.1.2 has no wheel, and pip's isolated build of its source fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017) as in DeepMind's ``optimizers.py``::

        g <- g + weight_decay p
        g <- eta |p| / |g| g        (factor 1 where either norm is 0)
        m <- momentum m + g
        p <- p - lr m               (the learning rate after the momentum)

    A parameter group with ``adapt=False`` (biases and BN) skips the second line. With ``classic_momentum`` the last two
    lines are SimCLR's (google-research/simclr, ``lars_optimizer.py``)::

        m <- momentum m + lr g
        p <- p - m

    Args:
        params: parameters or parameter groups; a group may set ``lr``, ``weight_decay``, ``adapt``.
        lr: learning rate, > 0.
        momentum: in [0, 1); .9 in BYOL.
        weight_decay: added to the gradient before the norms are taken.
        eta: trust coefficient; 1e-3 in BYOL and SimSiam's linear evaluation.
        adapt: scale the gradient by the trust ratio.
        classic_momentum: apply the learning rate before the momentum.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        adapt: bool = True,
        classic_momentum: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": adapt}
        super().__init__(params, defaults | {"classic_momentum": classic_momentum})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read a saved state, also one that is older than ``classic_momentum``."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("classic_momentum", False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters from ``p.grad``; a parameter without a gradient stays unchanged."""
        if closure is not None:
            raise TypeError("LARS takes no closure")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            # All parameters of a group at once: on a CPU the bits are those of one at a time, on a GPU there are a few
            # launches instead of some thousand.
            grads: list[Tensor] | tuple[Tensor, ...] = [p.grad for p in params]
            # Weight decay joins the gradient before the trust ratio.
            if group["weight_decay"]:
                grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
            # Scale the step of each adapted layer by its trust ratio.
            if group["adapt"]:
                p_norm, g_norm = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(grads))
                # torch.where keeps the norms on the device: an `if` would synchronise
                trust = torch.where((p_norm > 0) & (g_norm > 0), group["eta"] * p_norm / g_norm, 1.0)
                grads = torch._foreach_mul(grads, list(trust.unbind()))
            # Classic momentum sums steps, not gradients: a later rate leaves the old ones alone.
            if group["classic_momentum"]:
                grads = torch._foreach_mul(grads, group["lr"])
            self._add_to_momenta(params, grads, group["momentum"])
            momenta = [self.state[p]["momentum"] for p in params]
            torch._foreach_add_(params, momenta, alpha=-1 if group["classic_momentum"] else -group["lr"])

    def _add_to_momenta(self, params: list[Tensor], grads: Sequence[Tensor], momentum: float) -> None:
        there = [(self.state[p]["momentum"], g) for p, g in zip(params, grads, strict=True) if self.state[p]]
        if there:
            momenta, added = map(list, zip(*there, strict=True))
            torch._foreach_mul_(momenta, momentum)
            torch._foreach_add_(momenta, added)
        for p, g in zip(params, grads, strict=True):
            if not self.state[p]:
                self.state[p]["momentum"] = g.clone()
