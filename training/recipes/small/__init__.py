"""Runs for one GPU or a few CPU cores, on CIFAR-10 and Tiny-ImageNet: one function for each, as in ``imagenet``."""

from __future__ import annotations

from training.recipes.small.cpu import cpu_budget
from training.recipes.small.gpu import SmallData, mocov2_demo, small_budget
from training.recipes.small.tiny_imagenet import (
    byol_r18_tin32,
    byol_r18_tin64,
    simclr_r18_tin32,
    simclr_r18_tin64,
    simsiam_r18_tin32,
)

__all__ = [
    "SmallData",
    "byol_r18_tin32",
    "byol_r18_tin64",
    "cpu_budget",
    "mocov2_demo",
    "simclr_r18_tin32",
    "simclr_r18_tin64",
    "simsiam_r18_tin32",
    "small_budget",
]
