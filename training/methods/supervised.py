"""The supervised baseline: cross-entropy on labels (He et al. 2015, arXiv 1512.03385, section 3.4).

With gradient accumulation only the BN statistics differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from training.methods.base import Method, recipe_encoder
from training.recipes.config import Recipe
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError


class Supervised(Method):
    """A linear classifier on ``encoder`` (float [N, 3, H, W] -> [N, dim])."""

    synchronised_bn = False
    views = (1, 1)

    def __init__(self, encoder: nn.Module, dim: int, *, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Identity()
        self.classifier = nn.Linear(dim, num_classes)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        encoder, dim = recipe_encoder(recipe)
        return cls(encoder, dim, num_classes=recipe.heads.classes)

    @classmethod
    def check(cls, recipe: Recipe, *, rows: int, dataset: Dataset) -> None:
        super().check(recipe, rows=rows, dataset=dataset)
        if int(dataset.required_labels.max()) >= recipe.heads.classes:
            raise UserError(
                f"{dataset.name} has {len(dataset.classes)} classes, {recipe.name} has {recipe.heads.classes}: "
                f"add --set heads.classes={len(dataset.classes)}"
            )

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """One view [N, 3, H, W], normalised, and labels [N] -> ``loss``."""
        (view,) = views
        if labels is None:
            raise TypeError("supervised training needs labels")
        return {"loss": F.cross_entropy(self.classifier(self.encoder(view)), labels)}
