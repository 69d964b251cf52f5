"""VICReg (Bardes et al. 2022, arXiv 2105.04906): invariance, variance and covariance of two views' features.

A method in a file of its own, as yours would be; the package has it too, as ``vicreg``. Train it and export it:

    zoo-train run examples/methods/vicreg.py:recipe --data IMAGES --out run
    zoo-train export run --out vicreg.safetensors --method examples/methods/vicreg.py:VICReg

Constants are those of facebookresearch/vicreg, commit 4e12602, ``main_vicreg.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import Heads, Method, Optim, Recipe, Views, recipe_encoder
from training.distributed import collectives
from training.methods.options import check_options
from training.methods.similarity import at_least_float32
from training.recipes.config import Range

_LR = 0.2  # for a batch of 256
_EPS = 1e-4  # in the standard deviation
_WEIGHTS = ("invariance", "variance", "covariance")


class VICReg(Method):
    """Encoder (float [N, 3, H, W] -> [N, dim]) and expander.

    Args:
        dim: size of the encoder's output.
        hidden, out: sizes of the expander; 8192 and 8192.
        invariance, variance, covariance: weights of the terms; 25, 25 and 1.
    """

    batch_loss = True

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        *,
        hidden: int,
        out: int,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = invariance, variance, covariance
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
        )

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        encoder, dim = recipe_encoder(recipe)
        weights = {name: float(recipe.options[name]) for name in _WEIGHTS}
        return cls(encoder, dim, hidden=recipe.heads.hidden, out=recipe.heads.out, **weights)

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_options(recipe, **dict.fromkeys(_WEIGHTS, Range(0)))

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised -> ``loss`` (equation 6)."""
        z1, z2 = (self.projector(self.encoder(view)) for view in views)
        return {"loss": self.loss(z1, z2)}

    def loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Features [N, D] of both views -> the loss; variance and covariance are over the images of all ranks."""
        z1, z2 = at_least_float32(z1), at_least_float32(z2)
        with torch.autocast(z1.device.type, enabled=False):  # bfloat16 has two digits
            invariance = F.mse_loss(z1, z2)
            variance, covariance = torch.zeros_like(invariance), torch.zeros_like(invariance)
            for z in (z1, z2):
                z = collectives.gather_with_gradient(z)
                z = z - z.mean(0)
                variance = variance + F.relu(1 - torch.sqrt(z.var(0) + _EPS)).mean() / 2
                c = z.T @ z / (len(z) - 1)  # D x D
                covariance = covariance + (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]
            terms = torch.stack([invariance, variance, covariance])
            return (terms * terms.new_tensor(self.weights)).sum()


def published() -> Recipe:
    """ImageNet, R50, 1000 epochs, batch 2048: linear top-1 73.2 (the official readme)."""
    optim = Optim("lars", _LR, 2048, 1000, warmup_epochs=10, final_lr=1e-3 * _LR, weight_decay=1e-6)
    return Recipe(
        "vicreg_r50_in1k_1000ep",
        f"{__name__}:VICReg",
        "r50",
        zero_init_residual=True,
        views=Views(operations="torchvision-bicubic"),
        heads=Heads(hidden=8192, out=8192),
        optim=optim,
        options={"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
        precision="bf16",
    )


def recipe() -> Recipe:
    """R18 at 32 pixels, for a small machine; its rates were not searched."""
    large, views = published(), Views(size=32, operations="torchvision")
    view = replace(views.first, blur_p=0.0)
    return replace(
        large,
        name="vicreg_r18_32px",
        architecture="r18",
        stem="cifar",
        views=replace(views, first=view, second=view),
        heads=Heads(hidden=512, out=512),
        optim=replace(large.optim, name="adamw", lr=0.001, final_lr=0.0, batch_size=128, epochs=10, warmup_epochs=1),
        precision="fp32",
    )
