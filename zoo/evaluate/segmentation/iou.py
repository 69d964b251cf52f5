"""Mean intersection over union from confusion matrices, [truth, prediction]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion(truth: NDArray[Any], prediction: NDArray[Any], classes: int, void: int) -> NDArray[np.int64]:
    """int64 [classes, classes] of the pixels whose truth is not ``void``; both arrays have one shape."""
    kept = truth != void
    pairs = truth[kept].astype(np.int64) * classes + prediction[kept].astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def ious(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each class in percent; NaN for one that is neither there nor predicted."""
    hits = np.diagonal(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hits
    shares: NDArray[np.float64] = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    return 100 * shares


def mean_iou(matrices: NDArray[np.int64]) -> float:
    """Percent, over all pixels of [N, C, C] at once (VOC's rule), the mean over classes that occur."""
    return float(np.nanmean(ious(matrices.sum(0))))
