"""The negatives that BYOL's section 5 adds to its loss (arXiv 2006.07733, equation 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from training.distributed import collectives
from training.methods.similarity import similarities, unit


def dispersion(q: Tensor, same: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The second term of equation 8, per row: 2 a ln(sum_{j != i} exp(<q_i, same_j>/a) + sum_j exp(<q_i, other_j>/a)).

    Args:
        q: [N, D], predictions of one view.
        same, other: [N, D], targets of that view and of the other one; they are gathered from all ranks.
        temperature: a.
    """
    n, start = len(q), collectives.rank() * len(q)
    keys = (collectives.gather_with_gradient(unit(z)) for z in (same, other))
    s_same, s_other = (similarities(unit(q), k) / temperature for k in keys)
    itself = torch.zeros_like(s_same, dtype=torch.bool)
    itself[range(n), range(start, start + n)] = True
    return 2 * temperature * torch.logsumexp(torch.cat([s_same.masked_fill(itself, -torch.inf), s_other], 1), 1)
