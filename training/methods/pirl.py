"""PIRL: Pretext-Invariant Representations (Misra and van der Maaten 2019, arXiv 1912.01991).

An image and the shuffled patches of another crop of it must both be found by the image's vector in a memory bank
(sections 3.1 and 3.2). Image and patches never meet but there.

Two codes are followed, by ``options.code``: the author's own, facebookresearch/vissl at 09270ed (``vissl``), and
HobbitLong/PyContrast at 84f94ea (``pycontrast``). BN is per GPU in both, and image and patches pass the encoder apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.jigsaw import GRID, JigsawHead, cut_patches, draw_puzzle, patch_size
from training.methods.memory_bank import MemoryBank
from training.methods.options import check_options
from training.methods.similarity import unit
from training.recipes.config import Optim, Range, Recipe
from zoo.errors import UserError
from zoo.models.heads import moco_projector

_CODES = ("vissl", "pycontrast")


class PIRL(Method):
    """Encoder (float [N, 3, H, W] -> [N, dim]), a head for images, another for patches, and the bank.

    Args:
        dim: size of the encoder's output.
        bank: of vectors of size D = 128; VIS: K = 32 000, m = .5, T = .07, NCE with an epsilon of 1.19e-7.
        code: ``vissl``: each term has negatives of its own, and biases and BN get no weight decay. ``pycontrast``: both
            terms have the same negatives.
        weight: lambda, of the patches' term; .5.
        layers: of both heads; 1, or 2 for an MLP.
        seed: of offsets and permutations.
    """

    synchronised_bn = False
    views = (2, 2)
    uses_rows = True
    training_only = ("bank", "jigsaw")

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        bank: MemoryBank,
        *,
        code: str = "vissl",
        weight: float = 0.5,
        layers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.bank, self.code, self.weight, self.seed = encoder, bank, code, weight, seed
        self.first_view_pass = 1 if code == "vissl" else 0  # patches pass before the image in VIS
        out = bank.memory.shape[1]
        self.projector = moco_projector(dim, out, layers)
        self.jigsaw = JigsawHead(dim, out, layers=layers, last_relu=code == "vissl" and layers > 1)  # VIS heads/mlp.py
        self._step = 0

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, images: int = 1) -> Self:
        encoder, dim = recipe_encoder(recipe)
        code = str(recipe.options["code"])
        eps = float(torch.finfo(torch.float32).eps) if code == "vissl" else 1e-7  # VIS nce_loss.py
        return cls(
            encoder,
            dim,
            MemoryBank.from_recipe(recipe, images, eps=eps),
            code=code,
            weight=float(recipe.options["patch_weight"]),
            layers=recipe.heads.mlp_layers,
            seed=recipe.seed,
        )

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        MemoryBank.check(recipe)
        check_options(recipe, code=_CODES, patch_weight=Range(0, 1))
        check_jigsaw(recipe)

    @classmethod
    def more_memory(cls, recipe: Recipe, images: int) -> tuple[int, int]:
        kept, scored = MemoryBank.bytes(recipe, images)
        return kept, 2 * scored  # the terms have rows of their own

    def parameter_groups(self, optim: Optim) -> list[dict[str, object]] | None:
        """VIS decays the weights of convolutions and Linears only, PYC everything."""
        if self.code == "pycontrast":
            return None
        weights = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        return [{"params": weights}, {"params": others, "weight_decay": 0.0}]

    def forward(
        self, views: Sequence[Tensor], labels: Tensor | None = None, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """A view and a crop [N, 3, H, W] of other sizes, normalised, and rows [N] -> both terms, with their weights."""
        view, crop = views
        if rows is None:
            raise TypeError("the rows of the images in the memory bank are missing")
        patches, order = self.puzzle(crop, rows)
        # Patches and image, in the order of the code, which BN's running statistics remember.
        f = unit(self.projector(self.encoder(view))) if self.code == "pycontrast" else None
        f_patches = unit(self.jigsaw(self.encoder(patches.flatten(0, 1)), order))  # NxD
        f = unit(self.projector(self.encoder(view))) if f is None else f
        # Both against the bank; the patches' term sets Z.
        drawn = self.bank.draw(rows, self._step)
        patch_term = self.bank.loss(f_patches, rows, drawn)
        drawn = self.bank.draw(rows, self._step, term=1) if self.code == "vissl" else drawn
        image_term = self.bank.loss(f, rows, drawn)
        self.bank.remember(f, rows)  # the image's feature alone
        return {"loss": (1 - self.weight) * image_term, "loss_patches": self.weight * patch_term}

    def puzzle(self, crop: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches [N, 9, 3, P, P] and their order [N, 9]."""
        side = crop.shape[-1]
        places = side // GRID - patch_size(side) + (self.code == "pycontrast")  # VIS leaves out the last place
        offsets, order = draw_puzzle(rows, places, seed=self.seed, step=self._step)
        return cut_patches(crop, offsets), order

    def before_step(self, info: StepInfo) -> None:
        """Negatives, offsets and permutations are drawn from the step."""
        self._step = info.step

    def after_step(self, info: StepInfo) -> None:
        """The features of the step enter the bank."""
        self.bank.update()


def check_jigsaw(recipe: Recipe) -> None:
    """Raise UserError if the recipe makes no crop for the patches, or a too small one."""
    if recipe.views.small is None or recipe.views.small_count != 1:
        raise UserError(f"{recipe.method} cuts its patches from one small view: set views.small_count=1")
    if recipe.views.small_size < 24:
        raise UserError(f"views.small_size={recipe.views.small_size} is too small for nine patches: give 24 or more")
