"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv 1805.01978, section 3.4), exact.

Votes of the k nearest by cosine, each weighted by exp(cosine / t). Every siamese paper's monitor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

K, TEMPERATURE = 20, 0.07  # Wu et al. use 200 and .07; 20 suits small banks, as DINO's table shows
_BLOCK = 1024  # queries at a time: memory is block x bank


def predict(bank: Tensor, labels: Tensor, queries: Tensor, *, k: int = K, t: float = TEMPERATURE) -> Tensor:
    """Labels of ``queries`` [M, D] by their neighbours in ``bank`` [N, D], ``labels`` [N] -> int64 [M].

    Vectors need not be normalised; ``k`` larger than the bank uses all of it.
    """
    bank, k, classes = F.normalize(bank, dim=1), min(k, len(bank)), int(labels.max()) + 1
    predictions = []
    for block in torch.split(queries, _BLOCK):
        similarity, index = (F.normalize(block, dim=1) @ bank.T).topk(k)
        votes = torch.zeros(len(block), classes, dtype=bank.dtype, device=bank.device)
        votes.scatter_add_(1, labels[index], (similarity / t).exp())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


def accuracy(bank: Tensor, labels: Tensor, queries: Tensor, truth: Tensor) -> float:
    """Percent of ``queries`` classified as ``truth`` [M] says."""
    return float((predict(bank, labels, queries) == truth).double().mean()) * 100
