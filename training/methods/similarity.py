"""Cosine similarities in float32 at least, also under autocast: a temperature of .1 makes bfloat16's error tenfold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """[..., D] -> the same over its length, float32 or float64."""
    return F.normalize(_wide(x), dim=-1)


def cosine(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """[N, D] x [N, D] -> [N], row by row, float32 or float64; lengths are ``eps`` at least."""
    return F.cosine_similarity(_wide(a), _wide(b), dim=-1, eps=eps)


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """[..., N, D] x [M, D], of unit length -> [..., N, M], of ``a``'s precision."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.to(a.dtype).t()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
