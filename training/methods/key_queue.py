"""What MoCo and DenseCL do with keys: compute them in a shuffled order, and put them into a queue."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.distributed import collectives
from zoo.numerics.counter_rng import permutation


@torch.no_grad()
def in_shuffled_order(
    view: Tensor, compute: Callable[[Tensor], tuple[Tensor, ...]], *, seed: int, step: int, bn_parts: int
) -> tuple[Tensor, ...]:
    """Return what ``compute`` makes of this rank's images; the shuffle decides which rank computes it.

    Images are not shuffled where one rank normalises all of them together.
    """
    ranks, n = collectives.world_size(), len(view)
    if ranks * bn_parts == 1:
        return compute(view)
    order = torch.from_numpy(permutation(seed, step, ranks * n)).to(view.device)
    mine = order.view(ranks, n)[collectives.rank()]
    found = compute(collectives.gather(view)[mine])
    back = order.argsort().view(ranks, n)[collectives.rank()]
    return tuple(collectives.gather(k)[back] for k in found)


@torch.no_grad()
def enqueue(queue: Tensor, pointer: Tensor, parts: list[Tensor]) -> int:
    """Replace the oldest keys of a queue CxK, which begin at ``pointer``, by those of all micro-batches, parts of NxC.

    Empties the list and returns the number of keys; the caller moves the pointer.
    """
    keys = torch.cat(parts).t()  # CxN
    parts.clear()
    columns = (pointer + torch.arange(keys.shape[1], device=keys.device)) % queue.shape[1]
    queue[:, columns] = keys.to(queue.dtype)
    return keys.shape[1]
