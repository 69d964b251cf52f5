"""Random numbers as a pure function of (seed, stream, epoch, index): the same on any rank, worker count or resume.

This is a counter-based generator: SplitMix64's finaliser (Steele et al. 2014, with their constants) chained over the
coordinates. It runs in numpy on the host, so that CPU and GPU runs see the same draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniforms(
    seed: int, stream: int, epoch: int | NDArray[np.int64], indices: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Draw independent uniforms in [0, 1); row i depends on ``indices[i]``, not on its position.

    Args:
        stream: separates the users of one seed (view 1, view 2, ...).
        epoch: one number for all rows, or one for each row, [N].
        indices: identifies each row, for example the image's number in the data set, [N].
        count: draws per row.

    Returns:
        float64 [N, count].
    """
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64
        key = _mix(np.array([seed], np.uint64) + _GOLDEN_GAMMA)
        for coordinate in (stream, epoch):
            key = _mix(key ^ _mix(np.atleast_1d(coordinate).astype(np.uint64) + _GOLDEN_GAMMA))
        rows = _mix(key ^ _mix(indices.astype(np.uint64) + _GOLDEN_GAMMA))[:, None]
        cells = _mix(rows + _GOLDEN_GAMMA * np.arange(1, count + 1, dtype=np.uint64)[None])
    return (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """Return the order of one epoch: a permutation of ``range(length)``, int64 [length]."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(length)
