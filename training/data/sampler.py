"""How the steps of a run lie on its epochs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zoo.numerics.counter_rng import permutation


@lru_cache(maxsize=2)  # a batch touches two at most, and the next the same
def _order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return permutation(seed, epoch, images)


@dataclass(frozen=True)
class Epochs:
    """Of ``images`` in batches of ``batch_size``, each epoch in an order of its own.

    With ``drop_last`` the last ``images % batch_size`` of an order are left out, as the official PyTorch loaders do
    (SimSiam, MoCo v2, SwAV); without, they begin a batch that the next epoch fills, as in the official TensorFlow
    pipelines, whose data set repeats before it is cut into batches (BYOL, SimCLR).
    """

    images: int
    batch_size: int
    drop_last: bool = True

    def steps(self, epochs: float) -> int:
        """In so many epochs, rounded down once: official byol.py, ``num_epochs * images // batch_size``."""
        if self.drop_last:
            return int(epochs * (self.images // self.batch_size))
        return int(epochs * self.images) // self.batch_size

    def before(self, step: int) -> int:
        """Epochs that are over after ``step`` steps; counted from 0, the one in which that step begins."""
        if self.drop_last:
            return step // (self.images // self.batch_size)
        return step * self.batch_size // self.images

    def batch(self, step: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """int64 [batch_size] each: the rows of ``step``, counted from 0, and the epoch that each belongs to."""
        length = self.images // self.batch_size * self.batch_size if self.drop_last else self.images
        epochs, places = np.divmod(step * self.batch_size + np.arange(self.batch_size), length)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            its = epochs == epoch
            rows[its] = _order(seed, int(epoch), self.images)[places[its]]
        return rows, epochs
