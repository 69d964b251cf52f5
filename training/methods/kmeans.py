"""Local Aggregation's clusterings of its memory bank."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 26  # distances computed at once


def kmeans_bytes(images: int, clusters: int) -> int:
    """Return the bytes of the distances that ``kmeans`` holds at once: products and their sums, in float32."""
    return 2 * 4 * min(images, max(1, _CHUNK // clusters)) * clusters


@torch.no_grad()
def kmeans(x: Tensor, clusters: int, *, seed: int, iterations: int = 20) -> Tensor:
    """Lloyd's k-means: [N, D] -> cluster of each row, int64 [N]. It starts from rows of ``x`` drawn by ``seed``.

    A cluster without rows keeps its centre. (LAT has faiss's: 20 iterations too, a large cluster is
    split then, and rows are assigned once more at the end.)
    """
    start = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:clusters]
    centres = x[start.to(x.device)].clone()
    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    chunk = max(1, _CHUNK // clusters)
    for _ in range(iterations):
        # The nearest centre, by |c|^2 - 2 x.c.
        for n in range(0, len(x), chunk):
            labels[n : n + chunk] = (centres.square().sum(1) - 2 * x[n : n + chunk] @ centres.t()).argmin(1)
        # The mean of its rows.
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        count = torch.bincount(labels, minlength=clusters)[:, None]
        centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
    return labels
