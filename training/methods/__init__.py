"""One method a file, to be held against its paper.

A method is an ``nn.Module`` that fulfils ``Method``: its forward gives the loss, so that wrappers (DDP, compile) can
stand around it, and three hooks say what else happens in an optimiser step. There is no base class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from training.methods.byol import BYOL
from training.methods.mocov2 import MoCoV2
from training.methods.moment import Moment
from training.methods.simclr import SimCLR
from training.methods.simsiam import SimSiam
from training.methods.supervised import Supervised
from training.methods.swav import SwAV

__all__ = ["BYOL", "Method", "MoCoV2", "Moment", "SimCLR", "SimSiam", "Supervised", "SwAV"]


class Method(Protocol):
    """What the loop asks of a method; hooks are called on every rank, the same number of times.

    Attributes:
        synchronised_bn: whether BN statistics are of all ranks' rows, as in the method's paper.
    """

    synchronised_bn: bool

    @property
    def encoder(self) -> nn.Module:
        """The network to be exported: float [N, 3, H, W], normalised -> [N, dim]."""

    @property
    def projector(self) -> nn.Module:
        """[N, dim] -> [N, D], whose spread tells of a collapse; the identity where there is none."""

    def __call__(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Views, each [N, 3, H, W], normalised, and labels int64 [N] -> named scalars whose sum is minimised.

        Called once per micro-batch. The loss is the mean over its samples: accumulation divides by their number.
        """

    def before_step(self, moment: Moment) -> None:
        """Once per optimiser step, before its first micro-batch."""

    def before_update(self, moment: Moment) -> None:
        """After the backward pass of the last micro-batch, before the optimiser's update."""

    def after_step(self, moment: Moment) -> None:
        """After the optimiser's update."""

    # of nn.Module, which a Protocol cannot inherit from

    def modules(self) -> Any:
        """``nn.Module.modules``."""

    def parameters(self) -> Any:
        """``nn.Module.parameters``."""

    def named_parameters(self) -> Any:
        """``nn.Module.named_parameters``."""

    def state_dict(self) -> Any:
        """``nn.Module.state_dict``."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """``nn.Module.load_state_dict``."""

    def train(self, mode: bool = True) -> Any:
        """``nn.Module.train``."""

    def eval(self) -> Any:
        """``nn.Module.eval``."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """``nn.Module.to``."""
