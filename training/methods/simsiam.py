"""SimSiam: Exploring Simple Siamese Representation Learning (Chen & He 2020, arXiv 2011.10566), section 3.

BYOL without the moving average: the stop-gradient alone prevents the collapse.

Under gradient accumulation the micro-batches give the gradient of the whole batch, but for BN, whose statistics are
then those of each micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from training.methods.moment import Moment
from training.methods.similarity import cosine
from zoo.models.heads import simsiam_predictor, simsiam_projector

_EPS = 1e-8  # of the official ``nn.CosineSimilarity``


class SimSiam(nn.Module):
    """Encoder f with projector, and predictor h, around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        encoder: built with ``zero_init_residual`` in the official code.
        dim: features of the encoder.
        out, hidden: projector output and predictor bottleneck; 2048 and 512 in the paper.
        projector_layers: 3 for ImageNet, 2 for CIFAR-10 (app. D).
        projector_hidden: ``dim`` if not given, as in the official code; 2048 in the paper, whose ``dim`` is that.
        stop_gradient: without it the outputs collapse to a constant (section 4.1).
    """

    synchronised_bn = True

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

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised -> ``loss``, in [-1, 1]: the MEAN of both directions (equation 2)."""
        v1, v2 = views
        z1, z2 = self.projector(self.encoder(v1)), self.projector(self.encoder(v2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        if self.stop_gradient:
            z1, z2 = z1.detach(), z2.detach()
        return {"loss": -0.5 * (cosine(p1, z2, _EPS).mean() + cosine(p2, z1, _EPS).mean())}

    def before_step(self, moment: Moment) -> None:
        """Nothing."""

    def before_update(self, moment: Moment) -> None:
        """Nothing."""

    def after_step(self, moment: Moment) -> None:
        """Nothing: there is no target network."""
