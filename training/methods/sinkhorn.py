"""SwAV's assignment of a batch to prototypes, spread evenly over them (arXiv 2006.09882, app. A.1, listing 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from training.distributed import collectives


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Scores [N, K] of this rank -> assignments [N, K]; rows sum to 1, column sums over all ranks are nearly equal.

    Takes exp(scores / epsilon), then normalises columns and rows ``iterations`` times. The factors 1 / K and 1 / N of
    the official code cancel. Scores are cosines in float32 or wider: exp(1 / .05) is 5e8.
    """
    q = torch.exp(scores / epsilon)
    for _ in range(iterations):
        q = q / collectives.all_reduce_sum_(q.sum(0, keepdim=True))
        q = q / q.sum(1, keepdim=True)
    return q
