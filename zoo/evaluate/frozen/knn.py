"""``knn``: weighted k-nearest-neighbour classification on frozen features, exact (Wu et al. 2018, section 3.4).

The k nearest training images by cosine vote, each with weight exp(cosine / t) (arXiv 1805.01978, whose official code,
zhirongw/lemniscate.pytorch, has k = 200 and t = .07). Papers on siamese networks watch their training with it. Here k
and t are chosen by leave-one-out on the training images, never on the test images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from zoo.evaluate.result import Result, wilson_interval

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

K, TEMPERATURE = 20, 0.07  # for monitoring: Wu et al. use 200 and .07; 20 suits small banks, as DINO's table shows
K_VALUES, TEMPERATURES = (200, 20), (0.07, 0.1)  # Wu et al., DINO (arXiv 2104.14294, app. F), lightly's benchmarks
LEAVE_ONE_OUT = 10_000  # training images that are classified to choose k and t; all of ImageNet would take days
_BANK_BLOCK, _QUERY_BLOCK = 16_384, 2048  # 128 MiB of similarities at a time, whatever the size of the bank
_VOTE_CELLS = 2**25
_LARGEST_EXPONENT = 80  # e^88 is the largest that float32 holds; a sum of votes needs room too

Array = Tensor | NDArray[np.float32]


@dataclass(frozen=True)
class KnnOptions:
    """The ``--set`` options of ``knn``: the values that leave-one-out chooses from."""

    k: tuple[int, ...] = K_VALUES
    temperature: tuple[float, ...] = TEMPERATURES

    def __post_init__(self) -> None:
        if not self.k or not self.temperature or not min(*self.k, *self.temperature) > 0:
            raise UserError("--set k and --set temperature take values above 0")


def evaluate(context: Context) -> Result:
    """Choose k and t on the training split, and return top-1 on the test split."""
    options = context.options(KnnOptions())
    features = labelled_features(context)
    options = replace(options, k=_possible(options.k, len(features.train)))
    labels = torch.from_numpy(features.train_labels)
    # The test split plays no part in the choice of k and t.
    (k, t), tried = choose_by_leave_one_out(features.train, labels, seed=context.seed, options=options)
    predictions = predict(features.train, labels, features.test, k=k, t=t).numpy()
    score, interval = wilson_interval(predictions == features.test_labels)
    return Result(
        "top-1",
        score,
        interval,
        {
            "k": k,
            "temperature": t,
            "chosen_by": "leave-one-out on the training images",
            "leave_one_out_images": min(len(features.train), LEAVE_ONE_OUT),
            "leave_one_out_accuracy": tried,
        },
        features.data,
        details=worst_classes(predictions, features.test_labels, features.classes),
    )


def _possible(k: tuple[int, ...], images: int) -> tuple[int, ...]:
    """Return the values of k that so many training images allow: the defaults are cut, another value is refused."""
    most = max(1, images - 1)  # an image that is left out has so many neighbours
    if k != K_VALUES and max(k) > most:
        raise UserError(f"--set k={max(k)}: the training split has {images} images, so k is at most {most}")
    return tuple(dict.fromkeys(min(value, most) for value in k))


def choose_by_leave_one_out(
    bank: Array, labels: Tensor, *, seed: int = 0, options: KnnOptions | None = None
) -> tuple[tuple[int, float], dict[str, float]]:
    """Return the (k, t) that classifies images of the bank best, each left out in turn, and the accuracy of every pair.

    At most ``LEAVE_ONE_OUT`` images, drawn from ``seed``, are classified; the whole bank votes. The first pair of
    ``options.k`` x ``options.temperature`` wins a tie.
    """
    options = options or KnnOptions()
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(bank))
    queries = torch.from_numpy(np.sort(order[:LEAVE_ONE_OUT]))
    most = min(max(options.k), len(bank) - 1)
    similarity, rows = neighbours(bank, bank[queries.numpy()], most, leave_out=queries)
    tried = {}
    for k, t in product(options.k, options.temperature):
        winners = vote(similarity[:, :k], labels[rows[:, :k]], int(labels.max()) + 1, t)
        tried[(k, t)] = round(float((winners == labels[queries]).double().mean()) * 100, 2)
    return max(tried, key=lambda pair: tried[pair]), {f"k {k}, t {t:g}": score for (k, t), score in tried.items()}


def accuracy(bank: Array, labels: Tensor, queries: Array, truth: Tensor) -> float:
    """Return the percentage of ``queries`` [M, D] that are classified as ``truth`` [M] says; see ``predict``."""
    return float((predict(bank, labels, queries) == truth).double().mean()) * 100


def predict(bank: Array, labels: Tensor, queries: Array, *, k: int = K, t: float = TEMPERATURE) -> Tensor:
    """Return the classes int64 [M] of ``queries`` [M, D] by their neighbours in ``bank`` [N, D] with ``labels`` [N].

    Vectors need not be normalised. A ``k`` larger than the bank uses the whole bank.
    """
    similarity, rows = neighbours(bank, queries, min(k, len(bank)))
    return vote(similarity, labels[rows], int(labels.max()) + 1, t)


def neighbours(bank: Array, queries: Array, k: int, *, leave_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the similarities and rows, both [M, k], of the ``k`` nearest of ``bank`` [N, D], nearest first.

    Memory is the queries and 128 MiB, whatever N: a ``bank`` that is mapped from a file is read once, block by block.

    Args:
        queries: [M, D]; neither they nor the bank need be normalised.
        k: at most N, or N - 1 with ``leave_out``.
        leave_out: int64 [M], the row of the bank that a query must not find: itself, for leave-one-out.
    """
    unit = F.normalize(_as_tensor(queries), dim=1)
    best = unit.new_full((len(unit), k), -torch.inf)
    rows = torch.zeros(len(unit), k, dtype=torch.int64, device=unit.device)
    # Blocks keep the similarities small enough for memory.
    for start in range(0, len(bank), _BANK_BLOCK):
        block = F.normalize(_as_tensor(bank[start : start + _BANK_BLOCK]).to(unit.device), dim=1)
        for first in range(0, len(unit), _QUERY_BLOCK):
            part = slice(first, first + _QUERY_BLOCK)
            similarity = unit[part] @ block.T
            # An image must not vote for itself.
            if leave_out is not None:
                own = leave_out[part] - start
                inside = ((own >= 0) & (own < len(block))).nonzero()[:, 0]
                similarity[inside, own[inside]] = -torch.inf
            # merge the block's nearest with the nearest so far
            found, index = similarity.topk(min(k, len(block)))
            best[part], order = torch.cat([best[part], found], 1).topk(k)
            rows[part] = torch.cat([rows[part], index + start], 1).gather(1, order)
    return best, rows


def vote(similarity: Tensor, labels: Tensor, classes: int, t: float) -> Tensor:
    """Return the winning class int64 [M] from the neighbours' ``similarity`` [M, k], nearest first, and ``labels``."""
    if 1 / t > _LARGEST_EXPONENT:  # the nearest neighbour weighs 1 then: a factor of all votes changes no winner
        similarity = similarity - similarity[:, :1]
    winners = []
    step = max(1, _VOTE_CELLS // classes)
    for start in range(0, len(similarity), step):
        weights, voted = (similarity[start : start + step] / t).exp(), labels[start : start + step]
        votes = torch.zeros(len(weights), classes, dtype=weights.dtype, device=weights.device)
        winners.append(votes.scatter_add_(1, voted, weights).argmax(1))
    return torch.cat(winners)


def _as_tensor(array: Array) -> Tensor:
    """Return a tensor as it is, and an array, which may be mapped read-only, as a copy."""
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
