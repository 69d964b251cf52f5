"""Mean intersection over union from confusion matrices [truth, prediction]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def confusion(truth: Ints, prediction: Ints, classes: int, void: int) -> Ints:
    """Return the confusion matrix [classes, classes] of the pixels whose truth is not ``void``.

    ``truth`` and ``prediction`` have one shape.
    """
    kept = truth != void
    pairs = truth[kept].astype(np.int64) * classes + prediction[kept].astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def iou_by_class(matrix: Ints) -> NDArray[np.float64]:
    """Return the IoU of each class in percent, NaN for a class that is neither there nor predicted."""
    hits = np.diagonal(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hits
    shares: NDArray[np.float64] = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    return 100 * shares


def mean_iou(matrices: Ints) -> float:
    """Return the mean IoU in percent over all pixels of matrices [N, C, C] (VOC's rule), over classes that occur."""
    return float(np.nanmean(iou_by_class(matrices.sum(0))))
