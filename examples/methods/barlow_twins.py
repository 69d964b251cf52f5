"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230): the cross-correlation of two views' features is the identity.

A method in a file of its own, as yours would be; the package has it too, as ``barlowtwins``. Train it and export it:

    zoo-train run examples/methods/barlow_twins.py:recipe --data IMAGES --out run
    zoo-train export run --out barlow.safetensors --method examples/methods/barlow_twins.py:BarlowTwins

Constants are those of facebookresearch/barlowtwins, commit 8e8d284, ``main.py``. On several ranks the official code
gives 1 / ranks of the gradient (a sum over ranks, which DDP then averages); here it is the gradient itself. Biases and
BN feel it: of 16 GPUs, the published run's, their rate is .0048 / 16, which the package's method has as an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from training import Heads, Method, Optim, Recipe, Views, recipe_encoder
from training.distributed import collectives
from training.methods.options import check_options
from training.methods.similarity import at_least_float32
from training.recipes.config import Range

_LR_WEIGHTS, _LR_BIASES = 0.2, 0.0048  # for a batch of 256; the second is of parameters with one dimension


class BarlowTwins(Method):
    """Encoder (float [N, 3, H, W] -> [N, dim]), projector, and BN without parameters on the projections.

    Args:
        dim: size of the encoder's output.
        hidden, out: sizes of the projector; 8192 and 8192.
        lambd: weight of the off-diagonal terms; .0051.
    """

    training_only = ("bn",)
    batch_loss = True

    def __init__(self, encoder: nn.Module, dim: int, *, hidden: int, out: int, lambd: float = 0.0051) -> None:
        super().__init__()
        self.lambd = lambd
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
        )
        self.bn = nn.BatchNorm1d(out, affine=False)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        encoder, dim = recipe_encoder(recipe)
        heads = recipe.heads
        return cls(encoder, dim, hidden=heads.hidden, out=heads.out, lambd=float(recipe.options["lambd"]))

    def parameter_groups(self, optim: Optim) -> list[dict[str, object]]:
        """LARS with a rate of their own for biases and BN, which get neither weight decay nor a trust ratio."""
        weights = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        return [
            {"params": weights, "weight_decay": optim.weight_decay, "adapt": True},
            {"params": others, "weight_decay": 0.0, "adapt": False, "lr_scale": _LR_BIASES / _LR_WEIGHTS},
        ]

    @classmethod
    def check_settings(cls, recipe: Recipe) -> None:
        super().check_settings(recipe)
        check_options(recipe, lambd=Range(0))

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """Two views [N, 3, H, W], normalised -> ``loss`` (equation 1)."""
        z1, z2 = (self.bn(at_least_float32(self.projector(self.encoder(view)))) for view in views)
        return {"loss": self.loss(z1, z2)}

    def loss(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Normalised projections [N, D] of both views -> the loss, over the images of all ranks."""
        z1, z2 = collectives.gather_with_gradient(z1), collectives.gather_with_gradient(z2)
        with torch.autocast(z1.device.type, enabled=False):  # bfloat16 has two digits
            c = z1.T @ z2 / len(z1)  # D x D
            on_diagonal = (c.diagonal() - 1).square().sum()
            off_diagonal = c.square().sum() - c.diagonal().square().sum()
            return on_diagonal + self.lambd * off_diagonal


def published() -> Recipe:
    """ImageNet, R50, 1000 epochs, batch 2048: linear top-1 73.5 (the official readme)."""
    optim = Optim("lars", _LR_WEIGHTS, 2048, 1000, warmup_epochs=10, final_lr=1e-3 * _LR_WEIGHTS, weight_decay=1e-6)
    return Recipe(
        "barlow_twins_r50_in1k_1000ep",
        f"{__name__}:BarlowTwins",
        "r50",
        zero_init_residual=True,
        views=Views(operations="torchvision-bicubic"),
        heads=Heads(hidden=8192, out=8192),
        optim=optim,
        options={"lambd": 0.0051},
        precision="bf16",
    )


def recipe() -> Recipe:
    """R18 at 32 pixels, for a small machine; its rates were not searched."""
    large = published()
    optim = replace(large.optim, name="adamw", lr=0.001, final_lr=0.0, batch_size=128, epochs=10, warmup_epochs=1)
    views = Views(size=32, operations="torchvision")
    return replace(
        large,
        name="barlow_twins_r18_32px",
        architecture="r18",
        stem="cifar",
        views=replace(views, first=replace(views.first, blur_p=0.0), second=replace(views.first, blur_p=0.0)),
        heads=Heads(hidden=512, out=512),
        optim=optim,
        precision="fp32",
    )
