"""BYOL: Bootstrap Your Own Latent (Grill et al. 2020, arXiv 2006.07733), section 3 and the official code.

An online network (encoder f, projector g, predictor q) predicts how the target network, a slowly moving average of the
online network, projects another view. There are no negatives, unless ``beta`` adds them (section 5, equation 8).

With gradient accumulation the target moves once per optimiser step. Without BN the micro-batches give the gradient of
the whole batch. With BN each has its own statistics, and with ``beta`` > 0 its own negatives.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.dispersion import dispersion
from training.methods.initialise import initialise
from training.methods.similarity import cosine
from training.recipes.config import Recipe
from zoo.models.heads import byol_mlp


class BYOL(Method):
    """Online and target network around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        encoder: the online encoder.
        dim: size of the encoder's output.
        target_encoder: the official code initialises the target from another seed; ``None`` copies the online network.
        hidden, out: sizes of projector and predictor; 4096 and 256 in the paper.
        num_classes: adds the linear classifier that the official code trains on stopped gradients.
        predictor: ``False`` compares the online projections directly, which collapses (table 5b).
        target: ``False`` makes the online network its own target, with gradients into both sides (table 5b; theta in
            appendix F.4). A target with tau = 0 is its stop-gradient, sg(theta).
        beta: weight of the negatives, in [0, 1]; 1 with ``predictor=False, target=False`` is SimCLR's loss times
            2 ``temperature`` (appendix F.5).
        temperature: temperature of the negatives, alpha in the paper; .1 in table 5b (appendix F.4).
    """

    follower_name = "target_encoder"

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        target_encoder: nn.Module | None = None,
        hidden: int = 4096,
        out: int = 256,
        num_classes: int | None = None,
        predictor: bool = True,
        target: bool = True,
        beta: float = 0.0,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.beta, self.temperature = beta, temperature
        # Build the online network.
        self.encoder = encoder
        self.projector = byol_mlp(dim, hidden, out)
        self.predictor = byol_mlp(out, hidden, out) if predictor else nn.Identity()
        self.classifier = nn.Linear(dim, num_classes) if num_classes else None
        # Build the target network, unless the recipe leaves it out.
        self.target_encoder: nn.Module | None = None
        self.target_projector: nn.Module | None = None
        if not target:
            return
        if target_encoder is None:
            self.target_encoder, self.target_projector = copy.deepcopy(encoder), copy.deepcopy(self.projector)
        else:
            self.target_encoder, self.target_projector = target_encoder, byol_mlp(dim, hidden, out)
        # Keep the target out of the gradient: it follows by moving average.
        self.target_encoder.requires_grad_(False)
        self.target_projector.requires_grad_(False)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        # Build both encoders, so that the target starts from weights of its own.
        heads, objective = recipe.heads, recipe.objective
        encoder, dim = recipe_encoder(recipe)
        target_encoder, _ = recipe_encoder(recipe)
        method = cls(
            encoder,
            dim,
            target_encoder=target_encoder,
            hidden=heads.hidden,
            out=heads.out,
            predictor=objective.predictor,
            target=objective.target,
            beta=objective.beta,
            temperature=objective.temperature if objective.beta else 0.1,  # of negatives, which there are none
        )
        # Initialise the heads as the original code does.
        for head in (method.projector, method.predictor, method.target_projector):
            if head is not None:
                initialise(head, recipe.initialiser)
        return method

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised, and labels [N] -> ``loss`` (and ``negatives``, ``classifier``).

        The views pass one after the other, so that BN statistics are per view. The loss is the SUM of both directions.
        """
        # Embed both views with the online network.
        v1, v2 = views
        y1 = self.encoder(v1)
        o1, o2 = self.projector(y1), self.projector(self.encoder(v2))  # NxD
        q1, q2 = self.predictor(o1), self.predictor(o2)
        # Embed both views with the target network, which gets no gradient.
        if self.target_encoder is None or self.target_projector is None:
            z1, z2 = o1, o2
        else:
            with torch.no_grad():  # in train mode: BN uses batch statistics and the target's own running averages
                z1 = self.target_projector(self.target_encoder(v1))
                z2 = self.target_projector(self.target_encoder(v2))
        # Compare each prediction with the target of the other view.
        losses = {"loss": (regression(q1, z2) + regression(q2, z1)).mean()}
        if self.beta:
            spread = dispersion(q1, z1, z2, self.temperature) + dispersion(q2, z2, z1, self.temperature)
            losses["negatives"] = self.beta * spread.mean()
        # Train the classifier beside it, on features that it cannot change.
        if self.classifier is not None and labels is not None:
            losses["classifier"] = F.cross_entropy(self.classifier(y1.detach()), labels)
        return losses

    @torch.no_grad()
    def after_step(self, info: StepInfo) -> None:
        """xi <- tau xi + (1 - tau) theta, for parameters only."""
        if self.target_encoder is None or self.target_projector is None:
            return
        for online, target in (
            (self.encoder, self.target_encoder),
            (self.projector, self.target_projector),
        ):
            # all at once: the same bits, without a call of Python for each parameter
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - info.tau)


def regression(q: Tensor, z: Tensor) -> Tensor:
    """|q/|q| - z/|z||^2 per row, [N, D] x [N, D] -> [N], in [0, 4] (equation 2)."""
    return 2 - 2 * cosine(q, z, eps=1e-12)
