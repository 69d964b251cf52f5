"""MoCo v2: Momentum Contrast (He et al. 2019, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297), algorithm 1.

A query must find its key among a queue of earlier keys; keys are computed by a slowly moving average of the network.

BN is per rank by design, never synchronised. Keys are computed in an order that is shuffled over the ranks, so that BN
statistics do not give a query's key away (section 3.3, "Shuffling BN"). On one rank nothing is shuffled, unless
``bn_parts`` splits BN as ranks would.

With gradient accumulation the keys of all micro-batches enter the queue together after the step, so that every query
meets the same queue as in the whole batch; without BN the gradient is that of the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.key_queue import average, check_queue, enqueue, in_shuffled_order, info_nce
from training.methods.similarity import unit
from training.methods.split_batch_norm import check_parts, split_batch_norm
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset
from zoo.models.heads import moco_projector


class MoCoV2(Method):
    """Query network and its moving average, the key network, around ``encoder`` (float [N, 3, H, W] -> [N, dim]).

    Args:
        dim: size of the encoder's output.
        out: C, size of queries and keys; 128 in the paper.
        queue: K, number of negative keys; 65 536 in the paper.
        momentum: m of the key network; .999.
        temperature: T; .2 in v2, .07 in v1.
        symmetric: each view is once the query and once the key; the loss is the mean of both directions, and both keys
            enter the queue (not in the paper; [S] table 4; an option of the authors' CIFAR-10 demonstration, which sums
            the directions).
        bn_parts: parts of the batch that BN normalises separately; 8 in that demonstration, 1 in the official code.
        projector_layers: 2 in v2; 1, a single Linear, in v1 and in the demonstration.
        seed: seed of the shuffles.
    """

    synchronised_bn = False  # shuffled instead: algorithm 1
    follower_name = "key_encoder"
    one_direction = True

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
        projector_layers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.m, self.T, self.symmetric, self.seed = momentum, temperature, symmetric, seed
        self.bn_parts = bn_parts
        # Split BN before the copy, so that the key encoder has the same layers.
        if bn_parts > 1:
            split_batch_norm(encoder, bn_parts)
        self.encoder, self.projector = encoder, moco_projector(dim, out, projector_layers)
        # Copy the query network to the key network, which follows by moving average.
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        # Fill the queue with random keys until real ones replace them.
        self.register_buffer("queue", F.normalize(torch.randn(out, queue), dim=0))  # CxK
        self.register_buffer("queue_pointer", torch.zeros((), dtype=torch.int64))
        self._step = 0
        self._keys: list[Tensor] = []  # from this step's micro-batches and all ranks

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        objective = recipe.objective
        encoder, dim = recipe_encoder(recipe)
        return cls(
            encoder,
            dim,
            out=recipe.heads.out,
            queue=objective.queue,
            momentum=objective.key_momentum,
            temperature=objective.temperature,
            symmetric=objective.symmetric,
            bn_parts=objective.bn_parts,
            projector_layers=recipe.heads.mlp_layers,
            seed=recipe.seed,
        )

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_queue(recipe)

    @classmethod
    def check(cls, recipe: Recipe, *, rows: int, dataset: Dataset) -> None:
        check_parts(rows, recipe.objective.bn_parts)

    @classmethod
    def more_memory(cls, recipe: Recipe, images: int) -> tuple[int, int]:
        """The queue, and an image's logits."""
        queue, directions = recipe.objective.queue, 1 + recipe.objective.symmetric
        return queue * recipe.heads.out * 4, 2 * queue * 4 * directions

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Query view and key view [N, 3, H, W], normalised -> ``loss``: InfoNCE (equation 1)."""
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
        return info_nce(q, k, self.queue, self.T)

    @torch.no_grad()
    def _compute_keys(self, view: Tensor) -> Tensor:
        """Return the keys NxC of this rank's images."""
        (k,) = self.in_shuffled_order(view, lambda part: (unit(self.key_projector(self.key_encoder(part))),))
        return k

    def in_shuffled_order(self, view: Tensor, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return in_shuffled_order(view, compute, seed=self.seed, step=self._step, bn_parts=self.bn_parts)

    @torch.no_grad()
    def before_step(self, info: StepInfo) -> None:
        """k <- m k + (1 - m) q for parameters, before the keys are computed, as in the official code."""
        self._step = info.step
        self.average_key_network()

    @torch.no_grad()
    def average_key_network(self) -> None:
        average(self.encoder, self.key_encoder, self.m)
        average(self.projector, self.key_projector, self.m)

    @torch.no_grad()
    def after_step(self, info: StepInfo) -> None:
        """Replace the oldest keys of the queue by this step's keys."""
        if not self._keys:
            return
        count = enqueue(self.queue, self.queue_pointer, self._keys)
        self.queue_pointer.copy_((self.queue_pointer + count) % self.queue.shape[1])
