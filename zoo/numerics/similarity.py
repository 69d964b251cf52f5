"""Cosine similarity of embeddings: l2 normalisation and exact nearest-neighbour search, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 32 * 1024 * 1024

TopK = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Row numbers and their cosines, nearest first."""


def l2_normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, D] -> [N, D] of length 1; NaN where a vector is not finite or has no direction."""
    wide = vectors.astype(np.float64)  # squares of large float32 overflow
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    scaled[~np.isfinite(scaled).all(axis=1)] = np.nan
    narrow: NDArray[np.float32] = scaled.astype(np.float32)
    return narrow


class ExactSearch:
    """Exact search over unit vectors float32 [rows, D], NaN where there is none."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def search(self, queries: NDArray[np.float32], k: int) -> list[TopK]:
        rows = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        # a block of vectors, or of its scores, which are sorted together with their rows
        height = max(1, _BLOCK_BYTES // max(4 * self._vectors.shape[1], 32 * len(queries)))
        for start in range(0, len(self._vectors), height):
            block = queries @ self._vectors[start : start + height].T
            block[np.isnan(block)] = -np.inf
            scores = np.concatenate([scores, block], axis=1)
            here = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
            rows = np.concatenate([rows, here], axis=1)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equal ones the first row
            rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
        return [(r[s > -np.inf], s[s > -np.inf]) for r, s in zip(rows, scores, strict=True)]

    def at_least(
        self, queries: NDArray[np.float32], least: float
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Every pair of a query and a row with a cosine of at least ``least``, block by block of rows.

        Yields:
            Numbers of queries, rows and cosines, as many of each.
        """
        height = max(1, _BLOCK_BYTES // (4 * max(1, len(queries))))
        for start in range(0, len(self._vectors), height):
            block = queries @ self._vectors[start : start + height].T
            found, rows = np.nonzero(block >= least)  # NaN is not
            yield found, rows + start, block[found, rows]

    def vector(self, row: int) -> NDArray[np.float32] | None:
        found = np.array(self._vectors[row])
        return None if np.isnan(found).any() else found
