"""Choose from a collection's own distribution from which cosine on two of its images are near duplicates.

The cosine of two different images depends on the network and on the collection: flowers are nearer to each other than
photographs of everything. So the threshold is put where the nearest neighbours of different images end. For points of
local dimension d the distance r of a nearest neighbour has P(r > x) = exp(-(x / s)**d), a Weibull distribution, so that
log(1 - cosine), which is 2 log r up to a constant, has a Gumbel distribution. Its two parameters are fitted to the
median and the upper quartile, the side where near duplicates are not. Images below the threshold are then left out and
the fit is repeated, until nothing changes: so near duplicates hardly move it. Where more than a third of the images
have one (frames of a film), the distribution is theirs, and a limit ends the threshold: what is nearer is a near
duplicate in any collection. A handful of images has no distribution, and in a collection of one picture the mean is
that picture: both are compared without centring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

AUTO = "auto"
"""The value of ``near`` that asks for a threshold of the collection's own."""
TOO_FEW = 20
"""Images with an embedding; fewer have no distribution, and get ``UNCENTRED``."""
UNCENTRED = 0.99
"""Cosine without centring. In examples/photos no two different photographs are nearer than .982 with any network
that ships or shipped."""
ONE_PICTURE = 0.998
"""Mean cosine of all pairs from which on a collection is copies of one picture; flowers17 has .952 with
simclr_r18_mini.tin32, less with the others that ship."""
_ALPHA = 0.005  # of different images that may be marked: of .003 to .02 the best on flowers17 and Tiny-ImageNet
_LEAST = 0.9  # changed copies of examples/photos are above, different images of small sets below
_MOST = 0.995  # flowers17 gets .970; frames of one scene are above
_QUANTILES = (0.5, 0.75)
_SAMPLE = 2000  # images whose nearest neighbour is looked up: the work grows with the collection, not with its square
_ROWS_AT_ONCE = 8192
_FITS = 20
_SMALLEST = 1e-7  # of 1 - cosine, that of float32

Blocks = Callable[[], Iterator[NDArray[np.float32]]]
"""Gives the centred unit vectors of a collection float32 [N, D], block by block in order; rows of NaN have none."""


def choose(blocks: Blocks, valid: NDArray[np.int64]) -> float:
    """Return the centred cosine, of four digits, from which on two images are near duplicates.

    Args:
        blocks: called twice.
        valid: numbers of the rows that have a vector, in order.
    """
    rows = valid[:: max(1, math.ceil(len(valid) / _SAMPLE))]
    return threshold_of(_nearest_cosines(blocks, rows))


def has_distribution(images: int, mean: NDArray[np.float64]) -> bool:
    """Tell whether a threshold can be chosen for this many images, whose unit vectors have this mean [D]."""
    return images >= TOO_FEW and float(mean @ mean) < ONE_PICTURE  # |mean|^2 is the mean cosine of all pairs


def threshold_of(nearest: NDArray[np.float32]) -> float:
    """Return the threshold for cosines [S] of images with their nearest other image."""
    threshold = math.inf
    for _ in range(_FITS):
        others = nearest[nearest < threshold]
        if len(others) < TOO_FEW // 2 or (fitted := _fitted(others)) >= threshold:
            break
        threshold = fitted
    return round(min(max(threshold, _LEAST), _MOST), 4)


def _fitted(nearest: NDArray[np.float32]) -> float:
    """Return the cosine that ``_ALPHA`` of a Gumbel distribution with these quantiles reach."""
    logs = np.log(np.maximum(1 - nearest.astype(np.float64), _SMALLEST))
    low, high = np.quantile(logs, _QUANTILES)
    # P(log <= x) = 1 - exp(-exp((x - position) / scale))
    at_low, at_high, at_alpha = (math.log(-math.log1p(-p)) for p in (*_QUANTILES, _ALPHA))
    scale = (high - low) / (at_high - at_low)
    return float(1 - np.exp(low + scale * (at_alpha - at_low)))


def _nearest_cosines(blocks: Blocks, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the cosine of each of these rows [S] with its nearest other row."""
    parts, start = [], 0
    for block in blocks():
        inside = rows[(rows >= start) & (rows < start + len(block))]
        parts.append(block[inside - start])
        start += len(block)
    queries = np.concatenate(parts)
    best, start = np.full(len(rows), -1, np.float32), 0
    for block in blocks():
        for first in range(0, len(block), _ROWS_AT_ONCE):
            cosines = queries @ block[first : first + _ROWS_AT_ONCE].T
            # A row is no neighbour of itself.
            own = rows - start - first
            here = np.flatnonzero((own >= 0) & (own < cosines.shape[1]))
            cosines[here, own[here]] = -1
            best = np.fmax(best, np.fmax.reduce(cosines, axis=1))
        start += len(block)
    return best
