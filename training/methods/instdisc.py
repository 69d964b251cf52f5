"""InstDisc: Non-Parametric Instance Discrimination (Wu et al. 2018, arXiv 1805.01978).

Every image is a class of its own, and the vector of its last visit is the class's weight. An image must be told from
others by the vectors of a memory bank, with noise-contrastive estimation (section 3.2) or a softmax.

Constants are those of zhirongw/lemniscate.pytorch at f7cfe29 (LEM). The paper's proximal term (section 3.3) is not in
that code, and not here: the bank's momentum takes its place.

The code's BN is per GPU, and so it is here. Gradient accumulation changes BN, and Z of the NCE, which the first
micro-batch sets: the bank takes all micro-batches' features after the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from training.methods.base import Method, StepInfo, recipe_encoder
from training.methods.memory_bank import MemoryBank
from training.methods.similarity import unit
from training.recipes.config import Recipe
from zoo.models.heads import moco_projector


class InstDisc(Method):
    """Encoder (float [N, 3, H, W] -> [N, dim]), a Linear and the bank.

    Args:
        dim: size of the encoder's output.
        bank: of N vectors of size D = 128; LEM's has K = 4096 negatives, m = .5, T = .07 and NCE. K = 0 is the softmax
            over all images, the code's setting for CIFAR-10.
    """

    synchronised_bn = False  # per GPU: nn.DataParallel in LEM main.py
    views = (1, 1)
    uses_rows = True
    training_only = ("bank",)

    def __init__(self, encoder: nn.Module, dim: int, bank: MemoryBank) -> None:
        super().__init__()
        self.encoder, self.bank = encoder, bank
        self.projector = moco_projector(dim, bank.memory.shape[1], layers=1)  # a Linear, LEM models/resnet.py
        self._step = 0

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, images: int = 1) -> Self:
        encoder, dim = recipe_encoder(recipe)
        return cls(encoder, dim, MemoryBank.from_recipe(recipe, images))

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        MemoryBank.check(recipe)

    @classmethod
    def more_memory(cls, recipe: Recipe, images: int) -> tuple[int, int]:
        return MemoryBank.bytes(recipe, images)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor | None = None, rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """One view [N, 3, H, W], normalised, and the images' rows [N] -> ``loss``."""
        (view,) = views
        if rows is None:
            raise TypeError("the rows of the images in the memory bank are missing")
        f = unit(self.projector(self.encoder(view)))  # NxD
        loss = self.bank.loss(f, rows, self.bank.draw(rows, self._step))
        self.bank.remember(f, rows)
        return {"loss": loss}

    def before_step(self, info: StepInfo) -> None:
        """The negatives are drawn from the step."""
        self._step = info.step

    def after_step(self, info: StepInfo) -> None:
        """The features of the step enter the bank."""
        self.bank.update()
