"""SimSiam: Exploring Simple Siamese Representation Learning (Chen & He 2020, arXiv 2011.10566), section 3.

BYOL without the moving average: the stop-gradient alone prevents the collapse.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads import simsiam_predictor, simsiam_projector


class SimSiam(nn.Module):
    """Encoder f with projector, and predictor h, around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        encoder: built with ``zero_init_residual`` in the official code.
        dim: features of the encoder.
        out, hidden: projector output and predictor bottleneck; 2048 and 512 in the paper.
        projector_layers: 3 for ImageNet, 2 for CIFAR-10 (app. D).
    """

    def __init__(
        self, encoder: nn.Module, dim: int, *, out: int = 2048, hidden: int = 512, projector_layers: int = 3
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = simsiam_projector(dim, out, projector_layers)
        self.predictor = simsiam_predictor(out, hidden)

    def losses(self, v1: Tensor, v2: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Views [N, 3, H, W], normalised -> ``loss``, a scalar in [-1, 1]: the MEAN of both directions (equation 2)."""
        z1, z2 = self.projector(self.encoder(v1)), self.projector(self.encoder(v2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        cosine = F.cosine_similarity  # the stop-gradient is the detach
        return {"loss": -0.5 * (cosine(p1, z2.detach()).mean() + cosine(p2, z1.detach()).mean())}

    def after_step(self, tau: float) -> None:
        """Nothing: there is no target network."""
