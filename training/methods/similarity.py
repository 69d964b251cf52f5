"""Cosine similarities in float32 at least, also under autocast: a temperature of .1 makes bfloat16's error tenfold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """[..., D] -> the same over its length, float32 or float64."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """[..., N, D] x [M, D], of unit length -> [..., N, M], of ``a``'s precision."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.to(a.dtype).t()
