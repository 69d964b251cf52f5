"""Noise-contrastive estimation against the rows of a memory bank (InstDisc's equations 4 to 7, arXiv 1805.01978)."""

from __future__ import annotations

import torch
from torch import Tensor

from training.distributed import collectives


def nce(P: Tensor, images: int, eps: float) -> Tensor:
    """Probabilities [B, K + 1], the right one first, of a bank of N images -> the mean loss (LEM NCECriterion.py)."""
    noise = (P.shape[1] - 1) / images  # K P_n, where P_n = 1 / N
    right = torch.log(P[:, 0] / (P[:, 0] + noise + eps))
    wrong = torch.log(noise / (P[:, 1:] + noise + eps)).sum(1)
    return -(right + wrong).mean()


def first_normaliser(logits: Tensor, images: int) -> Tensor:
    """Return Z of the first batch: N times the mean of its exp(f.v / T) [B, K + 1], over all ranks."""
    mean = collectives.all_reduce_sum_(logits.detach().exp().mean()) / collectives.world_size()
    return mean * images
