"""BYOL: Bootstrap Your Own Latent (Grill et al. 2020, arXiv 2006.07733), section 3 and the official code.

An online network (encoder f, projector g, predictor q) predicts the projection that a slowly moving average of
itself, the target, gives of another view. No negatives.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.heads import byol_mlp


class BYOL(nn.Module):
    """Online and target network around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        encoder: becomes the online encoder; ``target_encoder`` the target's.
        target_encoder: official code initialises the target from another seed; ``None`` copies the online network.
        dim: features of the encoder.
        hidden, out: sizes of projector and predictor; 4096 and 256 in the paper.
        num_classes: adds the linear classifier that the official code trains along on stopped gradients.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        target_encoder: nn.Module | None = None,
        hidden: int = 4096,
        out: int = 256,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = byol_mlp(dim, hidden, out)
        self.predictor = byol_mlp(out, hidden, out)
        self.classifier = nn.Linear(dim, num_classes) if num_classes else None
        if target_encoder is None:
            self.target_encoder, self.target_projector = copy.deepcopy(encoder), copy.deepcopy(self.projector)
        else:
            self.target_encoder, self.target_projector = target_encoder, byol_mlp(dim, hidden, out)
        self.target_encoder.requires_grad_(False)
        self.target_projector.requires_grad_(False)

    def losses(self, v1: Tensor, v2: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Views [N, 3, H, W], normalised, and labels [N] -> ``loss`` (and ``classifier``): scalars to be summed.

        The views pass one after the other, so BN statistics are per view. The loss is the SUM of both directions.
        """
        y1 = self.encoder(v1)
        q1 = self.predictor(self.projector(y1))
        q2 = self.predictor(self.projector(self.encoder(v2)))
        with torch.no_grad():  # the target keeps batch statistics: train mode, its own running averages
            z1 = self.target_projector(self.target_encoder(v1))
            z2 = self.target_projector(self.target_encoder(v2))
        losses = {"loss": (regression(q1, z2) + regression(q2, z1)).mean()}
        if self.classifier is not None and labels is not None:
            losses["classifier"] = F.cross_entropy(self.classifier(y1.detach()), labels)
        return losses

    @torch.no_grad()
    def after_step(self, tau: float) -> None:
        """xi <- tau xi + (1 - tau) theta, parameters only, once per optimiser step, after it."""
        for online, target in (
            (self.encoder, self.target_encoder),
            (self.projector, self.target_projector),
        ):
            for p, t in zip(online.parameters(), target.parameters(), strict=True):
                t.lerp_(p, 1 - tau)


def regression(q: Tensor, z: Tensor) -> Tensor:
    """|q/|q| - z/|z||^2 per row, [N, D] x [N, D] -> [N], in [0, 4] (equation 2)."""
    return 2 - 2 * F.cosine_similarity(q, z, dim=-1, eps=1e-12)
