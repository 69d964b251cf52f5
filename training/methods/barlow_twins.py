"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230): the cross-correlation of two views' features is the identity.

Constants are those of facebookresearch/barlowtwins, commit 8e8d284, ``main.py``. On several GPUs the official code has
1 / GPUs of the gradient: each GPU has that of its own images alone, and DDP averages what should be summed. Here it is
the whole gradient on any number of ranks, divided by ``gpus``. LARS undoes the division for the weights, but biases and
BN learn that much more slowly: .0048 / 16 is their rate in the published run. Gradient accumulation CHANGES the loss:
each micro-batch has a cross-correlation of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import Method, recipe_encoder
from training.methods.options import check_options
from training.methods.similarity import at_least_float32
from training.recipes.config import Optim, Range, Recipe

LR_WEIGHTS, LR_BIASES = 0.2, 0.0048  # for a batch of 256; the second is of parameters with one dimension


class BarlowTwins(Method):
    """Encoder (float [N, 3, H, W] -> [N, dim]), projector, and BN without parameters on the projections.

    Args:
        dim: size of the encoder's output.
        hidden, out: sizes of the projector; 8192 and 8192.
        lambd: weight of the off-diagonal terms; .0051.
        gpus: by which the gradient is divided, not the loss; 16 in the published run (README.md at 8e8d284).
    """

    training_only = ("bn",)
    batch_loss = True

    def __init__(
        self, encoder: nn.Module, dim: int, *, hidden: int, out: int, lambd: float = 0.0051, gpus: int = 1
    ) -> None:
        super().__init__()
        self.lambd, self.gpus = lambd, gpus
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
        )
        self.bn = nn.BatchNorm1d(out, affine=False)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        encoder, dim = recipe_encoder(recipe)
        heads, options = recipe.heads, recipe.options
        lambd, gpus = float(options["lambd"]), int(options.get("gpus", 1))
        return cls(encoder, dim, hidden=heads.hidden, out=heads.out, lambd=lambd, gpus=gpus)

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_options(recipe, lambd=Range(0))
        if "gpus" in recipe.options:
            check_options(recipe, gpus=Range(1, whole=True))

    def parameter_groups(self, optim: Optim) -> list[dict[str, object]]:
        """LARS with a rate of their own for biases and BN, which get neither weight decay nor a trust ratio."""
        weights = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        return [
            {"params": weights, "weight_decay": optim.weight_decay, "adapt": True},
            {"params": others, "weight_decay": 0.0, "adapt": False, "lr_scale": LR_BIASES / LR_WEIGHTS},
        ]

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised -> ``loss`` (equation 1)."""
        z1, z2 = (self.bn(at_least_float32(self.projector(self.encoder(view)))) for view in views)
        loss = self.loss(z1, z2)
        if self.gpus > 1:
            loss = loss / self.gpus + loss.detach() * (1 - 1 / self.gpus)
        return {"loss": loss}

    def loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Normalised projections [N, D] of both views -> the loss, over the images of all ranks.

        In the precision of the projections also under autocast: the official fp16 has three digits, bfloat16 two.
        """
        z1, z2 = collectives.gather_with_gradient(z1), collectives.gather_with_gradient(z2)
        with torch.autocast(z1.device.type, enabled=False):
            c = z1.T @ z2 / len(z1)  # D x D
            on_diagonal = (c.diagonal() - 1).square().sum()
            off_diagonal = c.square().sum() - c.diagonal().square().sum()
            return on_diagonal + self.lambd * off_diagonal
