"""Random numbers as a pure function of (seed, stream, epoch, index): the same on any rank, worker count or resume.

A counter-based generator: SplitMix64's finaliser (Steele et al. 2014, the constants are theirs) chained over the
coordinates. Computed in numpy on the host, so CPU and GPU runs see the same draws.
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
    """[len(indices), count] independent uniforms in [0, 1); row i depends on ``indices[i]`` and not on its place.

    ``stream`` separates the users of one seed (view 1, view 2, ...). ``epoch`` is that of all rows, or of each.
    """
    with np.errstate(over="ignore"):  # wrapping is the arithmetic meant
        key = _mix(np.array([seed], np.uint64) + _GOLDEN_GAMMA)
        for coordinate in (stream, epoch):
            key = _mix(key ^ _mix(np.atleast_1d(coordinate).astype(np.uint64) + _GOLDEN_GAMMA))
        rows = _mix(key ^ _mix(indices.astype(np.uint64) + _GOLDEN_GAMMA))[:, None]
        cells = _mix(rows + _GOLDEN_GAMMA * np.arange(1, count + 1, dtype=np.uint64)[None])
    return (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """The order of one epoch: a permutation of range(length)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(length)
