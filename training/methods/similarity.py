"""Cosine similarities in float32 or wider, also under autocast.

Dividing by a temperature of .1 would make bfloat16's error ten times larger.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """[..., D] -> vectors of unit length, float32 or float64."""
    return F.normalize(at_least_float32(x), dim=-1)


def cosine(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """[N, D] x [N, D] -> [N], row by row, float32 or float64; vector lengths are clamped to ``eps`` or more."""
    return F.cosine_similarity(at_least_float32(a), at_least_float32(b), dim=-1, eps=eps)


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """[..., N, D] x [M, D], of unit length -> [..., N, M], in the precision of ``a``."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.to(a.dtype).t()


def at_least_float32(x: Tensor) -> Tensor:
    """Widen bfloat16 and float16 to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
