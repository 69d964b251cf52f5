"""The order in which a run trains on its images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zoo.numerics.counter_rng import permutation


@lru_cache(maxsize=2)  # a batch spans at most two epochs, and the next batch the same ones
def _order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return permutation(seed, epoch, images)


@dataclass(frozen=True)
class EpochSampler:
    """Batches of ``batch_size`` from ``images`` images; each epoch has its own order.

    With ``drop_last`` the last ``images % batch_size`` of an epoch are left out, as in the official PyTorch loaders
    (SimSiam, MoCo v2, SwAV). Without it, a batch may end in the next epoch, as in the official TensorFlow pipelines,
    which repeat the data before they cut it into batches (BYOL, SimCLR).
    """

    images: int
    batch_size: int
    drop_last: bool = True

    def steps(self, epochs: float) -> int:
        """Return the number of steps, rounded down once: ``num_epochs * images // batch_size`` in official byol.py."""
        if self.drop_last:
            return int(epochs * (self.images // self.batch_size))
        return int(epochs * self.images) // self.batch_size

    def epoch_at(self, step: int) -> int:
        """Return the epoch in which ``step`` begins: the number of epochs that are complete before it."""
        if self.drop_last:
            return step // (self.images // self.batch_size)
        return step * self.batch_size // self.images

    def fraction_at(self, step: int) -> float:
        """Return how much of the epoch is complete before ``step``: 0 at its first step, always below 1."""
        if self.drop_last:
            steps = self.images // self.batch_size
            return step % steps / steps
        return step * self.batch_size % self.images / self.images

    def batch(self, step: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and epochs of a step, each int64 [batch_size]."""
        length = self.images // self.batch_size * self.batch_size if self.drop_last else self.images
        epochs, positions = np.divmod(step * self.batch_size + np.arange(self.batch_size), length)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            rows[in_epoch] = _order(seed, int(epoch), self.images)[positions[in_epoch]]
        return rows, epochs
