"""One method a file, to be held against its paper. What the loop needs of each is ``Method``."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from training.methods.byol import BYOL
from training.methods.simsiam import SimSiam

__all__ = ["BYOL", "Method", "SimSiam"]


class Method(Protocol):
    """What the loop asks of a method; both are ``nn.Module``."""

    encoder: nn.Module
    projector: nn.Module
    predictor: nn.Module

    def losses(self, v1: Tensor, v2: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two normalised views [N, 3, H, W] and labels [N] -> named scalars; the loop minimises their sum."""

    def after_step(self, tau: float) -> None:
        """What follows an optimiser step; ``tau`` in [0, 1] is the target's momentum at this step."""
