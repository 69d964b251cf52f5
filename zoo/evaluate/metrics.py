"""Scores of a classifier over a test split, in percent: what the transfer tables report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from zoo.evaluate.result import bootstrap, proportion

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def top_1(scores: Floats, truth: Ints) -> float:
    """Scores [M, C] against labels [M]: percent of images whose highest score is right."""
    return 100 * float((scores.argmax(1) == truth).mean())


def mean_per_class(scores: Floats, truth: Ints) -> float:
    """Scores [M, C] against labels [M]: the mean over classes of the percent right; absent classes do not count."""
    right = scores.argmax(1) == truth
    counts = np.bincount(truth, minlength=scores.shape[1])
    return 100 * float((np.bincount(truth, right, scores.shape[1])[counts > 0] / counts[counts > 0]).mean())


def eleven_point_map(scores: Floats, truth: Ints) -> float:
    """VOC2007's mean AP of scores [M, C] against 1, 0 or -1 (not judged) [M, C]; classes without an image do not count.

    Of each class, the mean over recalls 0, .1 ... 1 of the best precision at that recall or above (VOC devkit, VOCap of
    2007). Images of equal score count in the order of the rows.
    """
    return 100 * float(np.nanmean([_eleven_points(scores[:, c], truth[:, c]) for c in range(scores.shape[1])]))


def _eleven_points(scores: Floats, truth: Ints) -> float:
    judged = truth >= 0
    positive = truth[judged][np.argsort(-scores[judged], kind="stable")] == 1
    if not positive.any():
        return float("nan")
    hits = positive.cumsum()
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or above
    places = np.searchsorted(recall, np.linspace(0, 1, 11) - 1e-12)
    return float(best[np.minimum(places, len(best) - 1)].mean())


METRICS: Mapping[str, Callable[[Floats, Ints], float]] = {
    "top-1": top_1,
    "mean per class": mean_per_class,
    "11-point mAP": eleven_point_map,
}


def with_interval(metric: str, scores: Floats, truth: Ints) -> tuple[float, tuple[float, float], str]:
    """Score, its 95 % interval, and how the interval was found: Wilson for top-1, else a bootstrap of the images."""
    if metric == "top-1":
        score, interval = proportion(scores.argmax(1) == truth)
        return score, interval, "Wilson"
    of = METRICS[metric]
    interval = bootstrap(np.arange(len(truth)), lambda rows: of(scores[rows], truth[rows]), rounds=200)
    return of(scores, truth), interval, "bootstrap, 200 rounds"
