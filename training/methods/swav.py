"""SwAV: Contrasting Cluster Assignments (Caron et al. 2020, arXiv 2006.09882), section 3 and the official code.

Two large crops of each image are assigned to prototypes, evenly over the batch (Sinkhorn-Knopp). Every other crop of
the image must predict the assignment.

The assignment is even over the batch of all ranks, and with a queue over the last batches too. Gradient accumulation
CHANGES it: each micro-batch is spread evenly over the prototypes by itself, which is coarse if it has fewer images than
there are prototypes (a queue helps), and has its own BN statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.options import check_exponent
from training.methods.similarity import similarities, unit
from training.methods.sinkhorn import sinkhorn
from training.recipes.config import Recipe
from zoo.models.heads import swav_projector

_ASSIGNING = 2  # official ``crops_for_assign 0 1``: the two large crops


class SwAV(Method):
    """Encoder, projector and prototypes around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        dim: size of the encoder's output.
        hidden, out: sizes of the projector; 2048 and 128 in the paper.
        projector_layers: 2 in the paper, 3 in [S] table 4 (arXiv 2011.10566, app. C).
        prototypes, temperature: number of prototypes, K = 3000, and .1.
        epsilon, iterations: of Sinkhorn, weight of the entropy term, .05, and 3.
        queue: number of embeddings of earlier batches, over all ranks; 0 for large batches, 3840 for B = 256.
        queue_from_epoch: first epoch that fills the queue, counted from 0; 15. The queue is used once it is full.
        frozen_steps: first steps, in which the prototypes are not trained; 313, and 5005 for B = 256.
    """

    queue: Tensor
    queue_rows: Tensor

    views = (2, None)
    batch_loss = True

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        hidden: int = 2048,
        out: int = 128,
        projector_layers: int = 2,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 0,
        queue_from_epoch: int = 15,
        frozen_steps: int = 313,
    ) -> None:
        super().__init__()
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_from_epoch, self.frozen_steps = queue_from_epoch, frozen_steps
        # Build the network and its prototypes.
        self.encoder = encoder
        self.projector = swav_projector(dim, hidden, out, projector_layers)
        self.prototypes = nn.Linear(out, prototypes, bias=False)
        # The queue is equal on every rank, so that any rank's checkpoint is complete. Each rank uses some of its rows.
        self.register_buffer("queue", torch.zeros(_ASSIGNING, queue, out))
        self.register_buffer("queue_rows", torch.zeros((), dtype=torch.int64))
        self._fill_queue = False
        self._embeddings: list[Tensor] = []  # [2, N, out] from this step's micro-batches and all ranks

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        heads, objective = recipe.heads, recipe.objective
        encoder, dim = recipe_encoder(recipe)
        return cls(
            encoder,
            dim,
            hidden=heads.hidden,
            out=heads.out,
            projector_layers=heads.mlp_layers,
            prototypes=heads.prototypes,
            temperature=objective.temperature,
            epsilon=objective.epsilon,
            iterations=objective.sinkhorn_iterations,
            queue=objective.queue,
            queue_from_epoch=objective.queue_from_epoch if objective.queue else 0,
            frozen_steps=objective.frozen_steps,
        )

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_exponent(recipe, "objective.epsilon", recipe.objective.epsilon)

    @classmethod
    def unreached(cls, recipe: Recipe, total_steps: int) -> list[str]:
        objective, epochs, lines = recipe.objective, recipe.optim.epochs, []
        if objective.queue and objective.queue_from_epoch >= epochs:
            begin = f"objective.queue_from_epoch={objective.queue_from_epoch}"
            lines.append(f"the queue is never used: {begin} is after the last of {epochs} epochs")
        if objective.frozen_steps >= total_steps:
            frozen = f"objective.frozen_steps={objective.frozen_steps}"
            lines.append(f"the prototypes stay as they are drawn: {frozen} covers all {total_steps} steps")
        return lines

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Crops [N, 3, H, W], normalised, the two large ones first -> ``loss``.

        Crops of one size pass the encoder together, and all crops the projector, as in the official code, so that BN
        uses their common statistics.
        """
        sizes = [list(group) for _, group in groupby(views, key=lambda v: v.shape[-2:])]
        features = torch.cat([self.encoder(torch.cat(group)) for group in sizes])
        return {"loss": self.swapped_prediction(unit(self.projector(features)), len(views))}

    def swapped_prediction(self, embeddings: Tensor, crops: int) -> Tensor:
        """Cross-entropy (equations 1 and 2), averaged over the two assigned crops and over all other crops.

        Args:
            embeddings: [crops * N, out], normalised, crop after crop.
        """
        # Score the embedding of each crop against the prototypes.
        z = embeddings.view(crops, -1, embeddings.shape[1])  # crops x N x D
        scores = similarities(z, self.prototypes.weight)  # crops x N x K
        log_p = F.log_softmax(scores / self.temperature, dim=2)
        # Predict the assignment of each large crop from all other crops.
        losses = []
        for crop in range(_ASSIGNING):
            q = self.assign(scores[crop].detach(), crop)  # NxK
            others = [v for v in range(crops) if v != crop]
            losses.append(-(q * log_p[others]).sum(2).mean())
        # Remember the embeddings of all ranks for the queue.
        if self._fill_queue and self.training:
            self._embeddings.append(
                torch.stack([collectives.gather(z[crop].contiguous()) for crop in range(_ASSIGNING)])
            )
        return torch.stack(losses).mean()

    @torch.no_grad()
    def assign(self, scores: Tensor, crop: int) -> Tensor:
        """Return the assignments NxK for one crop's scores NxK, spread evenly together with a full queue's scores."""
        if self._fill_queue and self.queue_rows >= self.queue.shape[1]:
            own_rows = self.queue[crop, collectives.rank() :: collectives.world_size()]
            earlier = similarities(own_rows.to(scores.dtype), self.prototypes.weight)
            return sinkhorn(torch.cat([earlier, scores]), self.epsilon, self.iterations)[len(earlier) :]
        return sinkhorn(scores, self.epsilon, self.iterations)

    @torch.no_grad()
    def before_step(self, info: StepInfo) -> None:
        """Normalise the prototypes, and decide if this step fills the queue."""
        self.prototypes.weight.copy_(unit(self.prototypes.weight))
        self._fill_queue = self.queue.shape[1] > 0 and info.epoch >= self.queue_from_epoch

    def before_update(self, info: StepInfo) -> None:
        """Exclude frozen prototypes from the update, weight decay included."""
        if info.step < self.frozen_steps:
            self.prototypes.weight.grad = None

    @torch.no_grad()
    def after_step(self, info: StepInfo) -> None:
        """Insert the step's embeddings at the front of the queue and drop the oldest."""
        if not self._embeddings:
            return
        new = torch.cat(self._embeddings, 1).to(self.queue.dtype)
        self._embeddings.clear()
        self.queue.copy_(torch.cat([new, self.queue], 1)[:, : self.queue.shape[1]])
        self.queue_rows += new.shape[1]
