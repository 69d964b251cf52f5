"""Overlapping patches of an image, each changed by itself, as CPC v2 takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.numerics.counter_rng import uniforms

_STREAM = 4 << 32  # random stream of the changes; the jigsaw puzzles' is 3 << 32


def overlapping_patches(view: Tensor, size: int, stride: int) -> Tensor:
    """[N, 3, H, W] -> patches [R, C, N, 3, P, P] of R rows and C columns, ``size`` pixels each, every ``stride``."""
    return view.unfold(2, size, stride).unfold(3, size, stride).permute(2, 3, 0, 1, 4, 5)


def change_patches(patches: Tensor, rows: Tensor, drop: float, *, seed: int, step: int) -> Tensor:
    """Mirror half of the patches [R, C, N, 3, P, P], and drop two of three colours of some: they become 0, the mean.

    Args:
        rows: the images' rows int64 [N]; the changes are a function of seed, step and row.
        drop: probability that a patch keeps one colour alone (Doersch et al. 2015; the CPC v2 paper's ablation).
    """
    u = torch.from_numpy(uniforms(seed, _STREAM, step, rows.cpu().numpy(), 2 * patches.shape[0] * patches.shape[1]))
    mirror, colour = u.to(patches.device).T.view(2, *patches.shape[:3], 1, 1, 1)
    kept = (3 * colour / drop).long() if drop else torch.full_like(colour, 3).long()  # 3 and above keeps all
    channel = torch.arange(3, device=patches.device).view(3, 1, 1)
    patches = torch.where((kept < 3) & (kept != channel), 0, patches)
    return torch.where(mirror < 0.5, patches.flip(-1), patches)
