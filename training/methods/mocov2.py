"""MoCo v2: Momentum Contrast (He et al. 2019, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297), algorithm 1.

A query must find its key among a queue of keys that a slowly moving average of the network computed before.

BN is per rank by design, never synchronised: keys are computed in an order shuffled over the ranks, so that BN
statistics do not give a query's key away (section 3.3, "Shuffling BN"). On one rank there is nothing to shuffle,
unless ``bn_parts`` splits BN as ranks would.
Under gradient accumulation the keys of all micro-batches enter the queue together after the step, so every query
meets the queue that the whole batch would meet; without BN the gradient is that of the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.moment import Moment
from training.methods.similarity import similarities, unit
from training.methods.split_batch_norm import split
from zoo.models.heads import moco_projector
from zoo.numerics.counter_rng import permutation


class MoCoV2(nn.Module):
    """Query network and its moving average, the key network, around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        dim: features of the encoder.
        out: C, length of queries and keys; 128 in the paper.
        queue: K, number of negative keys; 65 536 in the paper.
        momentum: m of the key network; .999.
        temperature: T; .2 in v2, .07 in v1.
        symmetric: each view is query once and key once, the loss is their mean and both keys enter the queue (not in
            the paper; [S] table 4 and the authors' CIFAR-10 demonstration).
        bn_parts: BN per part of the batch, 8 in that demonstration; 1 in the official ImageNet code.
        seed: of the shuffles.
    """

    synchronised_bn = False  # shuffled instead: algorithm 1

    queue: Tensor
    queue_pointer: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        out: int = 128,
        queue: int = 65_536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        symmetric: bool = False,
        bn_parts: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.m, self.T, self.symmetric, self.seed = momentum, temperature, symmetric, seed
        self.bn_parts = bn_parts
        if bn_parts > 1:
            split(encoder, bn_parts)
        self.encoder, self.projector = encoder, moco_projector(dim, out)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(out, queue), dim=0))  # CxK
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.int64))
        self._step = 0
        self._keys: list[Tensor] = []  # of this step's micro-batches, all ranks'

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Queries' and keys' views [N, 3, H, W], normalised -> ``loss``: InfoNCE (equation 1)."""
        query_view, key_view = views
        loss = self._info_nce(query_view, key_view)
        if self.symmetric:
            loss = 0.5 * (loss + self._info_nce(key_view, query_view))
        return {"loss": loss}

    def _info_nce(self, query_view: Tensor, key_view: Tensor) -> Tensor:
        q = unit(self.projector(self.encoder(query_view)))  # NxC
        k = self._compute_keys(key_view)
        if self.training:
            self._keys.append(collectives.gather(k))
        positive = (q * k).sum(1, keepdim=True)  # Nx1
        negative = similarities(q, self.queue.t())  # NxK
        logits = torch.cat([positive, negative], 1) / self.T
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))

    @torch.no_grad()
    def _compute_keys(self, view: Tensor) -> Tensor:
        """Keys NxC of this rank's images, computed wherever the shuffle sends them."""
        ranks, n = collectives.world_size(), len(view)
        if ranks * self.bn_parts == 1:
            return unit(self.key_projector(self.key_encoder(view)))
        order = torch.from_numpy(permutation(self.seed, self._step, ranks * n)).to(view.device)
        mine = order.view(ranks, n)[collectives.rank()]
        k = unit(self.key_projector(self.key_encoder(collectives.gather(view)[mine])))
        back = order.argsort().view(ranks, n)[collectives.rank()]
        return collectives.gather(k)[back]

    @torch.no_grad()
    def before_step(self, moment: Moment) -> None:
        """k <- m k + (1 - m) q, parameters only, with those of the last step, before the keys are computed."""
        self._step = moment.step
        for query, key in ((self.encoder, self.key_encoder), (self.projector, self.key_projector)):
            for p, k in zip(query.parameters(), key.parameters(), strict=True):
                k.mul_(self.m).add_(p, alpha=1 - self.m)

    def before_update(self, moment: Moment) -> None:
        """Nothing."""

    @torch.no_grad()
    def after_step(self, moment: Moment) -> None:
        """The step's keys take the place of the oldest ones."""
        if not self._keys:
            return
        keys = torch.cat(self._keys).t()  # CxN
        self._keys.clear()
        places = (self.queue_pointer + torch.arange(keys.shape[1], device=keys.device)) % self.queue.shape[1]
        self.queue[:, places] = keys.to(self.queue.dtype)
        self.queue_pointer.copy_((self.queue_pointer + keys.shape[1]) % self.queue.shape[1])
