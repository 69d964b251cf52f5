"""InfoMin Aug.: What Makes for Good Views for Contrastive Learning (Tian et al. 2020, arXiv 2005.10243), appendix.

MoCo v2 with a jigsaw branch: a view of an image, and nine shuffled patches of another crop, must both find the key of
the second view among a queue of earlier keys.

HobbitLong/PyContrast at 84f94ea (PYC) is followed, which differs from MoCo's code: the key network is averaged AFTER
the update of the weights, and the keys have no symmetric counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.base import StepInfo, recipe_encoder
from training.methods.jigsaw import GRID, JigsawHead, cut_patches, draw_puzzle, patch_size
from training.methods.key_queue import info_nce
from training.methods.mocov2 import MoCoV2
from training.methods.options import check_options
from training.methods.pirl import check_jigsaw
from training.methods.similarity import unit
from training.recipes.config import Range, Recipe
from zoo.errors import UserError


class InfoMin(MoCoV2):
    """Query and key network as in MoCo v2, and a head for patches.

    Args:
        beta: weight of the patches' term; .5.
        options: as of ``MoCoV2``; PYC: K = 65 536, m = .999, T = .15, two layers in both heads.
    """

    views = (3, 3)
    uses_rows = True
    training_only = (*MoCoV2.training_only, "jigsaw")

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        beta: float = 0.5,
        temperature: float = 0.15,
        projector_layers: int = 2,
        **options: int | float,
    ) -> None:
        super().__init__(encoder, dim, temperature=temperature, projector_layers=projector_layers, **options)  # type: ignore[arg-type]
        self.beta = beta
        self.jigsaw = JigsawHead(dim, self.queue.shape[0], layers=projector_layers)

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, images: int = 1) -> Self:
        encoder, dim = recipe_encoder(recipe)
        objective = recipe.objective
        return cls(
            encoder,
            dim,
            beta=float(recipe.options["patch_weight"]),
            temperature=objective.temperature,
            out=recipe.heads.out,
            queue=objective.queue,
            momentum=objective.key_momentum,
            bn_parts=objective.bn_parts,
            projector_layers=recipe.heads.mlp_layers,
            seed=recipe.seed,
        )

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_jigsaw(recipe)
        check_options(recipe, patch_weight=Range(0, 1))
        if recipe.objective.symmetric:
            raise UserError("infomin has one direction only: set objective.symmetric=false")

    def forward(
        self, views: Sequence[Tensor], labels: Tensor | None = None, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Query view, key view, crop [N, 3, H, W], normalised, and rows [N] -> both terms, with their weights."""
        query_view, key_view, crop = views
        if rows is None:
            raise TypeError("the rows of the images, from which the puzzles are drawn, are missing")
        patches, order = self.puzzle(crop, rows)
        q = unit(self.projector(self.encoder(query_view)))  # NxC
        q_patches = unit(self.jigsaw(self.encoder(patches.flatten(0, 1)), order))  # NxC, a second pass
        k = self._compute_keys(key_view)  # for both
        if self.training:
            self._keys.append(collectives.gather(k))
        return {"loss": (1 - self.beta) * self._term(q, k), "loss_patches": self.beta * self._term(q_patches, k)}

    def _term(self, q: Tensor, k: Tensor) -> Tensor:
        """Cross-entropy of [q.k, q.queue] / T, where the first one is right (PYC ``memory/mem_moco.py``)."""
        return info_nce(q, k, self.queue, self.T)

    def puzzle(self, crop: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches [N, 9, 3, P, P] and their order [N, 9]."""
        side = crop.shape[-1]
        places = side // GRID - patch_size(side) + 1  # the last place included
        offsets, order = draw_puzzle(rows, places, seed=self.seed, step=self._step)
        return cut_patches(crop, offsets), order

    def before_step(self, info: StepInfo) -> None:
        """The key network has been averaged after the last step."""
        self._step = info.step

    @torch.no_grad()
    def after_step(self, info: StepInfo) -> None:
        """The keys enter the queue, then k <- m k + (1 - m) q for parameters (PYC ``contrast_trainer.py``)."""
        super().after_step(info)
        self.average_key_network()
