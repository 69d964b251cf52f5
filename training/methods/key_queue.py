"""What MoCo, DenseCL and InfoMin do with keys: compute them in a shuffled order, compare with them, and queue them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import collectives
from training.methods.similarity import similarities
from training.recipes.config import Recipe
from zoo.errors import UserError
from zoo.numerics.counter_rng import permutation


def check_queue(recipe: Recipe) -> None:
    """Raise UserError if the queue cannot hold the keys of one step."""
    keys = recipe.optim.batch_size * (2 if recipe.objective.symmetric else 1)
    if recipe.objective.queue < keys:
        raise UserError(f"objective.queue={recipe.objective.queue} cannot hold the {keys} keys of one step: raise it")


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


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of [q.k, q.queue] / T, where the first one is right (MoCo, equation 1).

    Args:
        q, k: queries and their keys NxC, of unit length.
        queue: negative keys CxK.
    """
    positive = (q * k).sum(1, keepdim=True)  # Nx1
    negative = similarities(q, queue.t())  # NxK
    logits = torch.cat([positive, negative], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@torch.no_grad()
def average(query: nn.Module, key: nn.Module, m: float) -> None:
    """k <- m k + (1 - m) q for parameters; buffers are the key network's own."""
    for q, k in zip(query.parameters(), key.parameters(), strict=True):
        k.mul_(m).add_(q, alpha=1 - m)


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
