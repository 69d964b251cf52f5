"""Supervised training on ImageNet-1k, the baseline of the others."""

from __future__ import annotations

from training.recipes.config import Heads, Optim, Recipe, View, Views


def supervised_in1k(architecture: str) -> Recipe:
    """Supervised ImageNet-1k, batch 256, 90 epochs, rate divided by 10 after every 30 (torchvision's reference)."""
    view = View(jitter_p=0, grayscale_p=0, blur_p=0)
    return Recipe(
        f"supervised_{architecture}_in1k_90ep",
        "supervised",
        architecture,
        views=Views(operations="torchvision", first=view, second=None),
        heads=Heads(classes=1000),
        optim=Optim(
            name="sgd", lr=0.1, batch_size=256, epochs=90, warmup_epochs=0, schedule="decay", weight_decay=1e-4
        ),
        precision="bf16",
    )
