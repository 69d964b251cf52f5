"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057), algorithm 1, on a ResNet.

The queue of MoCo is gone: the negatives are the other images' keys in the batch. A predictor follows the projector, as
in BYOL, and each view is once the query and once the key.

Constants are those of facebookresearch/moco-v3 at c349e6e (MV3). Gradient accumulation CHANGES the loss: an image has
only the keys of its micro-batch as negatives.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.key_queue import average
from training.methods.similarity import similarities, unit
from training.recipes.config import Recipe


class MoCoV3(Method):
    """Base network (encoder, projector, predictor) and key network around ``encoder`` ([N, 3, H, W] -> [N, dim]).

    Args:
        dim: size of the encoder's output; MV3 builds the encoder with ``zero_init_residual``.
        hidden, out: of both heads; 4096 and 256.
        temperature: T; 1.
    """

    follower_name = "key_encoder"
    batch_loss = True

    def __init__(
        self, encoder: nn.Module, dim: int, *, hidden: int = 4096, out: int = 256, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.T = temperature
        self.encoder = encoder
        self.projector = _mlp(dim, hidden, out, nn.BatchNorm1d(out, affine=False))
        self.predictor = _mlp(out, hidden, out)  # without a last BN, MV3 moco/builder.py:109
        # Copy the base network to the key network, which follows by moving average.
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        encoder, dim = recipe_encoder(recipe)
        heads = recipe.heads
        return cls(encoder, dim, hidden=heads.hidden, out=heads.out, temperature=recipe.objective.temperature)

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised -> ``loss``: the SUM of both directions (algorithm 1)."""
        q1, q2 = (self.predictor(self.projector(self.encoder(view))) for view in views)
        with torch.no_grad():  # in train mode: BN uses batch statistics and the key network's own running averages
            k1, k2 = (self.key_projector(self.key_encoder(view)) for view in views)
        return {"loss": self.contrast(q1, k2) + self.contrast(q2, k1)}

    def contrast(self, q: Tensor, k: Tensor) -> Tensor:
        """Queries and keys [N, C] -> cross-entropy against the keys of all ranks, times 2 T (MV3 builder.py:62-73)."""
        logits = similarities(unit(q), collectives.gather(unit(k))) / self.T
        own = torch.arange(len(q), device=q.device) + collectives.rank() * len(q)
        return 2 * self.T * F.cross_entropy(logits, own)

    @torch.no_grad()
    def before_step(self, info: StepInfo) -> None:
        """k <- m k + (1 - m) q for parameters, before the keys are computed; m rises to 1 by a cosine, as BYOL's."""
        average(self.encoder, self.key_encoder, info.tau)
        average(self.projector, self.key_projector, info.tau)


def _mlp(dim: int, hidden: int, out: int, *last: nn.Module) -> nn.Sequential:
    """Two Linears without bias, BN and ReLU between them (MV3 moco/builder.py:36-54)."""
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out, bias=False),
        *last,
    )
