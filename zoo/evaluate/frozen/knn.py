"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv 1805.01978, section 3.4), exact.

Votes of the k nearest by cosine, each weighted by exp(cosine / t). Every siamese paper's monitor. As a protocol, k and
t are chosen by leave-one-out on the training bank, never on the test images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import UserError
from zoo.evaluate.features import labelled_features
from zoo.evaluate.frozen.worst_classes import worst_classes
from zoo.evaluate.result import Result, proportion

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

K, TEMPERATURE = 20, 0.07  # for monitors: Wu et al. use 200 and .07; 20 suits small banks, as DINO's table shows
K_VALUES, TEMPERATURES = (200, 20), (0.07, 0.1)  # Wu et al., DINO (arXiv 2104.14294, app. F), lightly's benchmarks
LEAVE_ONE_OUT = 10_000  # at most so many of the bank's images vote on k and t; all of ImageNet would cost days
_BANK_BLOCK, _QUERY_BLOCK = 16_384, 2048  # 128 MiB of similarities at a time, whatever the bank
_VOTE_CELLS = 2**25

Array = Tensor | NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """``--set`` of ``knn``: the values that leave-one-out chooses from; one of each chooses nothing."""

    k: tuple[int, ...] = K_VALUES
    temperature: tuple[float, ...] = TEMPERATURES

    def __post_init__(self) -> None:
        if not self.k or not self.temperature or not min(*self.k, *self.temperature) > 0:
            raise UserError("--set k and --set temperature take values above 0")


def neighbours(bank: Array, queries: Array, k: int, *, leave_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest of ``bank`` [N, D] by cosine: similarities and rows, both [M, k], nearest first.

    Memory is the queries and 128 MiB, whatever N: a ``bank`` mapped from the disk is read once, block by block.

    Args:
        queries: [M, D]; neither they nor the bank need be normalised.
        k: at most N, or N - 1 with ``leave_out``.
        leave_out: int64 [M], a row of the bank that a query may not find, itself for leave-one-out.
    """
    unit = F.normalize(_tensor(queries), dim=1)
    best = unit.new_full((len(unit), k), -torch.inf)
    rows = torch.zeros(len(unit), k, dtype=torch.int64, device=unit.device)
    for start in range(0, len(bank), _BANK_BLOCK):
        block = F.normalize(_tensor(bank[start : start + _BANK_BLOCK]).to(unit.device), dim=1)
        for first in range(0, len(unit), _QUERY_BLOCK):
            here = slice(first, first + _QUERY_BLOCK)
            similarity = unit[here] @ block.T
            if leave_out is not None:
                own = leave_out[here] - start
                inside = ((own >= 0) & (own < len(block))).nonzero()[:, 0]
                similarity[inside, own[inside]] = -torch.inf
            found, index = similarity.topk(min(k, len(block)))
            best[here], order = torch.cat([best[here], found], 1).topk(k)
            rows[here] = torch.cat([rows[here], index + start], 1).gather(1, order)
    return best, rows


def vote(similarity: Tensor, labels: Tensor, classes: int, t: float) -> Tensor:
    """Winning class of each row: ``similarity`` [M, k] of the neighbours and their ``labels`` [M, k] -> int64 [M]."""
    winners = []
    step = max(1, _VOTE_CELLS // classes)
    for start in range(0, len(similarity), step):
        near, of = similarity[start : start + step], labels[start : start + step]
        votes = torch.zeros(len(near), classes, dtype=near.dtype, device=near.device)
        winners.append(votes.scatter_add_(1, of, (near / t).exp()).argmax(1))
    return torch.cat(winners)


def predict(bank: Array, labels: Tensor, queries: Array, *, k: int = K, t: float = TEMPERATURE) -> Tensor:
    """Labels of ``queries`` [M, D] by their neighbours in ``bank`` [N, D], ``labels`` [N] -> int64 [M].

    Vectors need not be normalised; ``k`` larger than the bank uses all of it.
    """
    similarity, rows = neighbours(bank, queries, min(k, len(bank)))
    return vote(similarity, labels[rows], int(labels.max()) + 1, t)


def accuracy(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> float:
    """Percent of ``queries`` classified as ``truth`` [M] says."""
    return float((predict(bank, labels, queries) == truth).double().mean()) * 100


def choose(
    bank: Array, labels: Tensor, *, seed: int = 0, options: Options | None = None
) -> tuple[tuple[int, float], dict[str, float]]:
    """k and t that classify the bank's own images best, each left out in turn; and the accuracy of every pair.

    At most ``LEAVE_ONE_OUT`` images are classified, drawn from ``seed``; all of the bank votes. The first of
    the options' ``k`` x ``temperature`` wins a tie.
    """
    options = options or Options()
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(bank))
    chosen = torch.from_numpy(np.sort(order[:LEAVE_ONE_OUT]))
    most = min(max(options.k), len(bank) - 1)
    similarity, rows = neighbours(bank, bank[chosen.numpy()], most, leave_out=chosen)
    tried = {}
    for k, t in product(options.k, options.temperature):
        winners = vote(similarity[:, :k], labels[rows[:, :k]], int(labels.max()) + 1, t)
        tried[(k, t)] = round(float((winners == labels[chosen]).double().mean()) * 100, 2)
    return max(tried, key=lambda pair: tried[pair]), {f"k {k}, t {t:g}": score for (k, t), score in tried.items()}


def evaluate(context: Context) -> Result:
    """Top-1 on the test split; see the module."""
    options = context.options(Options())
    found = labelled_features(context)
    labels = torch.from_numpy(found.labels)
    (k, t), tried = choose(found.train, labels, seed=context.seed, options=options)
    predictions = predict(found.train, labels, found.test, k=k, t=t).numpy()
    score, interval = proportion(predictions == found.truth)
    chosen = {"k": k, "temperature": t, "chosen_by": "leave-one-out on the training images"}
    voters = {"leave_one_out_images": min(len(found.train), LEAVE_ONE_OUT), "leave_one_out_accuracy": tried}
    details = worst_classes(predictions, found.truth, found.classes)
    return Result("top-1", score, interval, chosen | voters, found.data, details=details)


def _tensor(array: Array) -> Tensor:
    """A tensor as it is; of an array, which may be mapped read-only, a copy."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
