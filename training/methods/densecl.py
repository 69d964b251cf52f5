"""DenseCL: Dense Contrastive Learning (Wang et al. 2020, arXiv 2011.09157), section 3.

MoCo v2, and the same once more for every place of the last feature map: the vector of a place must find the vector of
the place of the other view that looks most alike to the encoder, among a second queue.

Constants are those of WXinlong/DenseCL at b64bbb6 (DCL). Its heads' Linears start from He's normal distribution, here
from torch's. Gradient accumulation and the shuffle of the keys are as in ``mocov2``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import StepInfo, recipe_encoder
from training.methods.key_queue import average, enqueue, info_nce
from training.methods.mocov2 import MoCoV2
from training.methods.options import check_options
from training.methods.similarity import unit
from training.recipes.config import Range, Recipe
from zoo.errors import UserError
from zoo.models.feature_map import last_map


class DenseCL(MoCoV2):
    """Query and key network of ``MoCoV2``, and for each a dense head: two 1x1 convolutions, with ReLU between them.

    Args:
        dense_weight: lambda, of the places' term; .5.
        options: as of ``MoCoV2``; K = 65 536 in both queues, m = .999, T = .2.
    """

    training_only = (*MoCoV2.training_only, "dense")

    queue_dense: Tensor

    def __init__(
        self, encoder: nn.Module, dim: int, *, dense_weight: float = 0.5, out: int = 128, **options: int | float
    ) -> None:
        super().__init__(encoder, dim, out=out, **options)  # type: ignore[arg-type]
        self.dense_weight = dense_weight
        self.dense = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(inplace=True), nn.Conv2d(dim, out, 1))
        self.key_dense = copy.deepcopy(self.dense).requires_grad_(False)
        self.register_buffer("queue_dense", F.normalize(torch.randn_like(self.queue), dim=0))  # CxK
        self._dense_keys: list[Tensor] = []  # as ``_keys``

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        encoder, dim = recipe_encoder(recipe)
        objective = recipe.objective
        return cls(
            encoder,
            dim,
            dense_weight=float(recipe.options["dense_weight"]),
            out=recipe.heads.out,
            queue=objective.queue,
            momentum=objective.key_momentum,
            temperature=objective.temperature,
            bn_parts=objective.bn_parts,
            projector_layers=recipe.heads.mlp_layers,
            seed=recipe.seed,
        )

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_options(recipe, dense_weight=Range(0, 1))
        if recipe.objective.symmetric:
            raise UserError("densecl has one direction only: set objective.symmetric=false")

    @classmethod
    def more_memory(cls, recipe: Recipe, images: int) -> tuple[int, int]:
        """Both queues, and the logits of an image and of its places."""
        queues, logits = super().more_memory(recipe, images)
        stride = 8 if recipe.stem == "cifar" else 32  # of the encoder
        return 2 * queues, logits * (1 + (-(-recipe.views.size // stride)) ** 2)

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Query view and key view [N, 3, H, W], normalised -> both terms, with their weights (equation 4)."""
        query_view, key_view = views
        q, q_map, q_places, _ = self._encode(query_view, self.encoder, self.projector, self.dense)
        k, k_map, k_places, k_mean = self.in_shuffled_order(
            key_view, lambda part: self._encode(part, self.key_encoder, self.key_projector, self.key_dense)
        )
        if self.training:
            self._keys.append(collectives.gather(k))
            self._dense_keys.append(collectives.gather(k_mean))
        # To each place of the query view belongs the key view's place whose encoder features are most similar.
        with torch.autocast(q_map.device.type, enabled=False):  # in bfloat16 many places would be equally similar
            match = (q_map.detach() @ k_map.transpose(1, 2)).argmax(2)  # NxS
        positive = torch.take_along_dim(k_places, match[:, :, None], 1)  # NxSxC
        single = info_nce(q, k, self.queue, self.T)
        dense = info_nce(q_places.flatten(0, 1), positive.flatten(0, 1), self.queue_dense, self.T)
        return {"loss": (1 - self.dense_weight) * single, "loss_dense": self.dense_weight * dense}

    def _encode(
        self, view: Tensor, encoder: nn.Module, projector: nn.Module, dense: nn.Module
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return unit vectors: of the images NxC, of their maps NxSxdim, of the S places NxSxC, of their mean NxC."""
        y, maps = last_map(encoder, view)
        places = dense(maps)  # NxCxhxw
        flat = places.flatten(2).transpose(1, 2)
        return unit(projector(y)), unit(maps.flatten(2).transpose(1, 2)), unit(flat), unit(flat.mean(1))

    @torch.no_grad()
    def average_key_network(self) -> None:
        super().average_key_network()
        average(self.dense, self.key_dense, self.m)

    @torch.no_grad()
    def after_step(self, info: StepInfo) -> None:
        """The images' keys enter one queue, the means of their places the other."""
        if self._dense_keys:
            enqueue(self.queue_dense, self.queue_pointer, self._dense_keys)
        super().after_step(info)
