"""SwAV: Contrasting Cluster Assignments (Caron et al. 2020, arXiv 2006.09882), section 3 and the official code.

Two large crops of an image are assigned to prototypes, evenly over the batch (Sinkhorn-Knopp); every other crop of
that image must predict the assignment.

The assignments are even over the batch of all ranks, with a queue over the last batches too. Gradient accumulation
CHANGES them: each micro-batch is spread evenly over the prototypes by itself, coarsely where it is smaller than
their number (a queue helps), and BN statistics are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.moment import Moment
from training.methods.similarity import similarities, unit
from zoo.models.heads import swav_projector

_ASSIGNING = 2  # official ``crops_for_assign 0 1``: the two large crops


class SwAV(nn.Module):
    """Encoder, projector and prototypes around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        dim: features of the encoder.
        hidden, out: of the projector; 2048 and 128 in the paper.
        prototypes: their number; 3000.
        temperature: .1.
        epsilon: of Sinkhorn's entropy; .05.
        iterations: of Sinkhorn; 3.
        queue: embeddings kept of earlier batches, over all ranks; 0 for large batches, 3840 for B = 256.
        queue_from_epoch: counted from 0; 15. The queue is used once it is full.
        frozen_steps: steps in which the prototypes are not trained; 313, and 5005 for B = 256.
    """

    synchronised_bn = True

    queue: Tensor
    queue_rows: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        hidden: int = 2048,
        out: int = 128,
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
        self.encoder = encoder
        self.projector = swav_projector(dim, hidden, out)
        self.prototypes = nn.Linear(out, prototypes, bias=False)
        # the same on every rank, so that any rank's checkpoint is complete; each uses its share of the rows
        self.register_buffer("queue", torch.zeros(_ASSIGNING, queue, out))
        self.register_buffer("queue_rows", torch.zeros((), dtype=torch.int64))
        self._fill_queue = False
        self._embeddings: list[Tensor] = []  # [2, N, out] of this step's micro-batches, all ranks'

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Crops [N, 3, H, W], normalised, the two large ones first -> ``loss``.

        Crops of one size pass the encoder at once and all crops the projector, as in the official code: BN
        statistics are of all of them.
        """
        sizes = [list(group) for _, group in groupby(views, key=lambda v: v.shape[-2:])]
        features = torch.cat([self.encoder(torch.cat(group)) for group in sizes])
        return {"loss": self.swapped_prediction(unit(self.projector(features)), len(views))}

    def swapped_prediction(self, embeddings: Tensor, crops: int) -> Tensor:
        """Mean over the two assigning crops, and over the other crops, of the cross-entropy (equations 1 and 2).

        Args:
            embeddings: [crops * N, out], normalised, crop after crop.
        """
        z = embeddings.view(crops, -1, embeddings.shape[1])  # crops x N x D
        scores = similarities(z, self.prototypes.weight)  # crops x N x K
        log_p = F.log_softmax(scores / self.temperature, dim=2)
        losses = []
        for crop in range(_ASSIGNING):
            q = self.assign(scores[crop].detach(), crop)  # NxK
            others = [v for v in range(crops) if v != crop]
            losses.append(-(q * log_p[others]).sum(2).mean())
        if self._fill_queue and self.training:
            self._embeddings.append(
                torch.stack([collectives.gather(z[crop].contiguous()) for crop in range(_ASSIGNING)])
            )
        return torch.stack(losses).mean()

    @torch.no_grad()
    def assign(self, scores: Tensor, crop: int) -> Tensor:
        """Assignments NxK of one crop's scores NxK, made even together with the queue's once that is full."""
        if self._fill_queue and self.queue_rows >= self.queue.shape[1]:
            share = self.queue[crop, collectives.rank() :: collectives.world_size()]
            earlier = similarities(share.to(scores.dtype), self.prototypes.weight)
            return sinkhorn(torch.cat([earlier, scores]), self.epsilon, self.iterations)[len(earlier) :]
        return sinkhorn(scores, self.epsilon, self.iterations)

    @torch.no_grad()
    def before_step(self, moment: Moment) -> None:
        """Prototypes back to unit length; whether the queue is in use."""
        self.prototypes.weight.copy_(unit(self.prototypes.weight))
        self._fill_queue = self.queue.shape[1] > 0 and moment.epoch >= self.queue_from_epoch

    def before_update(self, moment: Moment) -> None:
        """No update at all, not even weight decay, for prototypes that are still frozen."""
        if moment.step < self.frozen_steps:
            self.prototypes.weight.grad = None

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """The step's embeddings enter the queue at the front, the oldest leave it."""
        if not self._embeddings:
            return
        new = torch.cat(self._embeddings, 1).to(self.queue.dtype)
        self._embeddings.clear()
        self.queue.copy_(torch.cat([new, self.queue], 1)[:, : self.queue.shape[1]])
        self.queue_rows += new.shape[1]


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Scores [N, K] of this rank -> assignments [N, K]: rows sum to 1, columns over all ranks are (nearly) equal.

    exp(scores / epsilon), then ``iterations`` times columns and rows to equal sums (app. A.1, listing 1); the factors
    1 / K and 1 / N of the official code cancel. Scores are cosines in float32 at least: exp(1 / .05) is 5e8.
    """
    q = torch.exp(scores / epsilon)
    for _ in range(iterations):
        q = q / collectives.all_reduce_sum_(q.sum(0, keepdim=True))
        q = q / q.sum(1, keepdim=True)
    return q
