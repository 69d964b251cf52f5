"""CMC: Contrastive Multiview Coding (Tian et al. 2019, arXiv 1906.05849), section 3.

The views of an image are its colours: its lightness, and its two colour channels, each with an encoder of its own. The
lightness must find its image by the bank of the colours, and the colours by that of the lightness.

Constants are those of HobbitLong/CMC at 7b227be (CMC), and for InfoNCE of HobbitLong/PyContrast at 84f94ea (PYC). BN is
per GPU, as in both. The encoder that is exported is both networks with the conversion of the colours in front; its
embedding is both features, as in CMC's ``LinearProbing.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.methods.base import Method, StepInfo, recipe_architecture, recipe_encoder
from training.methods.memory_bank import MemoryBank
from training.methods.similarity import unit
from training.recipes.config import Recipe
from zoo.errors import UserError


class CMC(Method):
    """An encoder of split colours (float [N, 3, H, W] -> [N, dim], half of it of each part), two Linears, two banks.

    Args:
        dim: size of the encoder's output, of both networks together.
        bank_l, bank_ab: vectors of the lightness and of the colours; D = 128, m = .5, T = .07, NCE. K is 16 384 by
            default, and 4096 for the released weights.
    """

    synchronised_bn = False  # nn.DataParallel in CMC train_CMC.py
    views = (1, 1)
    uses_rows = True
    training_only = ("bank",)
    output_parts = 2  # gray images have no colours: the second network then gives all of them one vector

    def __init__(self, encoder: nn.Module, dim: int, bank_l: MemoryBank, bank_ab: MemoryBank) -> None:
        super().__init__()
        self.encoder, self.bank_l, self.bank_ab = encoder, bank_l, bank_ab
        self.projector = nn.Sequential(TwoLinears(dim, 2 * bank_l.memory.shape[1]))
        self._step = 0

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, images: int = 1) -> Self:
        encoder, dim = recipe_encoder(recipe)
        return cls(encoder, dim, *(MemoryBank.from_recipe(recipe, images) for _ in range(2)))

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        MemoryBank.check(recipe)
        if not recipe_architecture(recipe).colours:
            raise UserError(f"cmc needs two encoders, which {recipe.architecture} is not: give architecture=cmc_r50")

    @classmethod
    def more_memory(cls, recipe: Recipe, images: int) -> tuple[int, int]:
        kept, scored = MemoryBank.bytes(recipe, images)
        return 2 * kept, 2 * scored

    def forward(
        self, views: Sequence[Tensor], labels: Tensor | None = None, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One view [N, 3, H, W], normalised, and the images' rows [N] -> ``loss`` of the lightness, and ``loss_ab``."""
        (view,) = views
        if rows is None:
            raise TypeError("the rows of the images in the memory banks are missing")
        f_l, f_ab = (unit(f) for f in self.projector(self.encoder(view)).chunk(2, 1))  # NxD each
        drawn = self.bank_l.draw(rows, self._step)  # for both, CMC NCE/NCEAverage.py
        losses = {"loss": self.bank_ab.loss(f_l, rows, drawn), "loss_ab": self.bank_l.loss(f_ab, rows, drawn)}
        self.bank_l.remember(f_l, rows)
        self.bank_ab.remember(f_ab, rows)
        return losses

    def before_step(self, info: StepInfo) -> None:
        """The negatives are drawn from the step."""
        self._step = info.step

    def after_step(self, info: StepInfo) -> None:
        """The features of the step enter the banks, each its own part's."""
        self.bank_l.update()
        self.bank_ab.update()


class TwoLinears(nn.Linear):
    """[N, dim] -> [N, out]: a Linear of the first half to the first half, and another of the second to the second.

    They are one Linear in which the rest of the weights is 0 and stays so.
    """

    mask: Tensor

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out)
        halves = [nn.Linear(dim // 2, out // 2) for _ in range(2)]
        mask = torch.zeros_like(self.weight)
        with torch.no_grad():
            for n, half in enumerate(halves):
                rows, columns = slice(n * out // 2, (n + 1) * out // 2), slice(n * dim // 2, (n + 1) * dim // 2)
                mask[rows, columns] = 1
                self.weight[rows, columns] = half.weight
                self.bias[rows] = half.bias
            self.weight.mul_(mask)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)
