"""Redundancy reduction on ImageNet-1k: Barlow Twins and VICReg."""

from __future__ import annotations

from dataclasses import replace

from training.recipes.config import Heads, Optim, Recipe, Views


def barlowtwins_in1k(epochs: int) -> Recipe:
    """Barlow Twins on ImageNet-1k, batch 2048 on 16 GPUs (facebookresearch/barlowtwins 8e8d284, main.py, README.md)."""
    optim = Optim("lars", 0.2, 2048, epochs, warmup_epochs=10, final_lr=1e-3 * 0.2, weight_decay=1e-6)
    return Recipe(
        f"barlowtwins_r50_in1k_{epochs}ep",
        "barlowtwins",
        "r50",
        zero_init_residual=True,
        views=Views(operations="torchvision-bicubic"),
        heads=Heads(hidden=8192, out=8192),
        optim=optim,
        options={"lambd": 0.0051, "gpus": 16},
        precision="bf16",
    )


def vicreg_in1k(epochs: int) -> Recipe:
    """VICReg on ImageNet-1k, batch 2048 (facebookresearch/vicreg 4e12602, main_vicreg.py); 100 epochs: batch 512."""
    base, lr = barlowtwins_in1k(epochs), 0.3 if epochs == 100 else 0.2
    return replace(
        base,
        name=f"vicreg_r50_in1k_{epochs}ep",
        method="vicreg",
        optim=replace(base.optim, lr=lr, final_lr=1e-3 * lr, batch_size=512 if epochs == 100 else 2048),
        options={"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
    )
