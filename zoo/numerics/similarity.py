"""Cosine similarity of embeddings: l2 normalisation, centring, and exact search in blocks of bounded memory.

All embeddings of a self-supervised network share a large part, so that any two images have a cosine near 1. Centring
takes the collection's mean away before the cosine; then unrelated images have one near 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 32 * 1024 * 1024
_LEAST_SPREAD = 1e-6  # squared distance from the mean; embeddings of float32 differ by less where images are the same

TopK = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Row numbers int64 [k] and their cosines float32 [k], most similar first."""


def l2_normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors float32 [N, D] to length 1; a vector that is zero or not finite becomes NaN."""
    wide = vectors.astype(np.float64)  # the squares of large float32 overflow
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    scaled[~np.isfinite(scaled).all(axis=1)] = np.nan
    narrow: NDArray[np.float32] = scaled.astype(np.float32)
    return narrow


def mean_direction(blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the mean float64 [D] of unit vectors, which ``centred`` subtracts.

    It is added up in float64 in the order of the rows, so that the same rows always give the same mean.

    Args:
        blocks: unit vectors float32 [N, D] each, at least one block; rows of NaN are left out.

    Returns:
        The mean; zeros where all rows are equal, because nothing would be left of them.
    """
    total, rows = np.zeros(()), 0
    for block in blocks:
        valid = block[~np.isnan(block[:, 0])]
        total = total + valid.sum(axis=0, dtype=np.float64)
        rows += len(valid)
    mean: NDArray[np.float64] = total / max(rows, 1)
    # The mean squared distance of unit vectors from their mean m is 1 - |m|^2.
    return mean if 1 - float(mean @ mean) > _LEAST_SPREAD else np.zeros_like(mean)


def centred(units: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float32]:
    """Subtract the mean [D] from unit vectors float32 [N, D], and scale to length 1 again.

    A row of NaN stays one. A row at the mean itself has no direction: it becomes zeros, of cosine 0 with all others.
    """
    if not mean.any():
        return units
    moved = units.astype(np.float64) - mean
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    moved[lengths[:, 0] ** 2 < _LEAST_SPREAD**2] = 0
    narrow: NDArray[np.float32] = (moved / np.maximum(lengths, _LEAST_SPREAD)).astype(np.float32)
    return narrow


class ExactSearch:
    """Exact cosine search over unit vectors.

    Args:
        vectors: float32 [rows, D] of length 1, an array or a memory map; rows of NaN are never found.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def search(self, queries: NDArray[np.float32], k: int) -> list[TopK]:
        """Return the ``k`` most similar rows for each query, fewer where there are fewer; ties go to the first row.

        Args:
            queries: unit vectors float32 [Q, D].
        """
        rows = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        # the larger of a block's vectors and its scores, which are sorted together with their row numbers
        height = max(1, _BLOCK_BYTES // max(4 * self._vectors.shape[1], 32 * len(queries)))
        # Score block by block, and keep the best k of all blocks so far.
        for start in range(0, len(self._vectors), height):
            block = queries @ self._vectors[start : start + height].T
            # A row of NaN ranks last.
            block[np.isnan(block)] = -np.inf
            scores = np.concatenate([scores, block], axis=1)
            numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
            rows = np.concatenate([rows, numbers], axis=1)
            # Merge the block into the best so far.
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # stable: ties keep the order of the rows
            rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
        # Drop the rows that have no score.
        return [(r[s > -np.inf], s[s > -np.inf]) for r, s in zip(rows, scores, strict=True)]

    def at_least(
        self, queries: NDArray[np.float32], least: float
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Find every pair of a query and a row whose cosine is at least ``least``, one block of rows at a time.

        Args:
            queries: unit vectors float32 [Q, D].

        Yields:
            For each block: query numbers, row numbers and cosines, [P] each.
        """
        height = max(1, _BLOCK_BYTES // (4 * max(1, len(queries))))
        for start in range(0, len(self._vectors), height):
            block = queries @ self._vectors[start : start + height].T
            found, rows = np.nonzero(block >= least)  # False for NaN
            yield found, rows + start, block[found, rows]

    def vector(self, row: int) -> NDArray[np.float32] | None:
        """Return a copy of one row, [D]; ``None`` where it is NaN."""
        found = np.array(self._vectors[row])
        return None if np.isnan(found).any() else found
