"""SimSiam: Exploring Simple Siamese Representation Learning (Chen & He 2020, arXiv 2011.10566), section 3.

BYOL without the moving average: the stop-gradient alone prevents a collapse.

With gradient accumulation the micro-batches give the gradient of the whole batch, except that BN uses the statistics
of each micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from training.methods.base import Method, recipe_encoder
from training.methods.similarity import cosine
from training.recipes.config import Recipe
from zoo.models.heads import simsiam_predictor, simsiam_projector

_EPS = 1e-8  # the default of ``nn.CosineSimilarity``, which the official code uses


class SimSiam(Method):
    """Encoder f with projector, and predictor h, around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        encoder: the official code builds it with ``zero_init_residual``.
        dim: size of the encoder's output.
        out, hidden: sizes of the projector's output and of the predictor's bottleneck; 2048 and 512 in the paper.
        projector_layers: 3 for ImageNet, 2 for CIFAR-10 (app. D).
        projector_hidden: ``None`` is ``dim``, as in the official code; 2048 in the paper, where ``dim`` is 2048 too.
        stop_gradient: ``False`` lets the outputs collapse to a constant (section 4.1).
    """

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        out: int = 2048,
        hidden: int = 512,
        projector_layers: int = 3,
        projector_hidden: int | None = None,
        stop_gradient: bool = True,
    ) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient
        self.encoder = encoder
        self.projector = simsiam_projector(dim, out, projector_layers, projector_hidden)
        self.predictor = simsiam_predictor(out, hidden)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        heads = recipe.heads
        encoder, dim = recipe_encoder(recipe)
        return cls(
            encoder,
            dim,
            out=heads.out,
            hidden=heads.hidden,
            projector_layers=heads.projector_layers,
            projector_hidden=heads.projector_hidden or dim,
            stop_gradient=recipe.objective.stop_gradient,
        )

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised -> ``loss``, in [-1, 1]: the MEAN of both directions (equation 2)."""
        v1, v2 = views
        z1, z2 = self.projector(self.encoder(v1)), self.projector(self.encoder(v2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        if self.stop_gradient:
            z1, z2 = z1.detach(), z2.detach()
        return {"loss": -0.5 * (cosine(p1, z2, _EPS).mean() + cosine(p2, z1, _EPS).mean())}
