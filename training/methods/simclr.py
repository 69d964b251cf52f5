"""SimCLR: A Simple Framework for Contrastive Learning (Chen et al. 2020, arXiv 2002.05709), section 2.1.

NT-Xent: among the 2N - 1 other views in the batch, find the one of the same image.

Negatives come from the whole batch over all ranks. Gradient accumulation therefore CHANGES the loss: a micro-batch of
n images has 2n - 2 negatives instead of 2N - 2, and its own BN statistics. For a large batch use more ranks or
``checkpoint_activations`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import Method, recipe_encoder
from training.methods.similarity import similarities, unit
from training.recipes.config import Recipe
from zoo.models.heads import simclr_projector


class SimCLR(Method):
    """Encoder f and projection head g around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        dim: size of the encoder's output; hidden layers of the head keep it (2048 -> 2048 -> 128).
        out: size of the head's output; 128 in the paper.
        projector_layers: 2 in the paper, 3 in SimCLR v2.
        temperature: .1 for ImageNet (official readme), .5 for CIFAR-10 (app. B.9).
    """

    batch_loss = True

    def __init__(
        self, encoder: nn.Module, dim: int, *, out: int = 128, projector_layers: int = 2, temperature: float = 0.1
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.encoder = encoder
        self.projector = simclr_projector(dim, out, projector_layers)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        encoder, dim = recipe_encoder(recipe)
        return cls(
            encoder,
            dim,
            out=recipe.heads.out,
            projector_layers=recipe.heads.projector_layers,
            temperature=recipe.objective.temperature,
        )

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised -> ``loss``: the SUM of both directions, each a mean over the batch.

        Both views pass together, as in the official code, so that BN uses the statistics of all 2N images.
        """
        h1, h2 = self.projector(self.encoder(torch.cat(list(views)))).chunk(2)  # NxD each
        return {"loss": self.cross_entropy(h1, h2) + self.cross_entropy(h2, h1)}

    def cross_entropy(self, a: Tensor, b: Tensor) -> Tensor:
        """One direction: [N, D] x [N, D], not normalised -> mean of -ln p(b_i | a_i) among all other views."""
        ab, aa = self.logits(a, b), self.logits(a, a)
        own = torch.arange(len(a), device=a.device) + collectives.rank() * len(a)  # the positive's column
        aa = aa.masked_fill(F.one_hot(own, aa.shape[1]).bool(), -torch.inf)  # a view is not its own negative
        return F.cross_entropy(torch.cat([ab, aa], 1), own)

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine similarities over the temperature: [N, D] of this rank x [N, D] gathered -> [N, ranks * N]."""
        return similarities(unit(a), collectives.gather_with_gradient(unit(b))) / self.temperature
