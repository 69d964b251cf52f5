"""Scores of a classifier on a test split, in percent: the metrics of the transfer tables ([B] app. D.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from zoo.evaluate.result import bootstrap_interval, wilson_interval

Scores = NDArray[np.float32]
Labels = NDArray[np.int64]

_ROUNDS = 200  # of the bootstrap


def top_1(scores: Scores, labels: Labels) -> float:
    """Return the percentage of images whose highest score is right, of scores [M, C] and labels [M]."""
    return 100 * float((scores.argmax(1) == labels).mean())


def top_k(scores: Scores, labels: Labels, k: int = 5, *, trained: Labels | None = None) -> dict[str, float]:
    """Return ``{"top-5": percent}`` of scores [M, C] and labels [M], or nothing where there are at most ``k`` classes.

    Args:
        trained: labels [N] of the training images. A number that none of them has, as 0 where labels count from 1, is
            no class: with five others every answer would be among the best five.
    """
    classes = scores.shape[1] if trained is None else len(np.unique(trained))
    if classes <= k:
        return {}
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    return {f"top-{k}": 100 * float((best == labels[:, None]).any(1).mean())}


def mean_per_class(scores: Scores, labels: Labels) -> float:
    """Return the mean over classes of their accuracy, of scores [M, C] and labels [M]; absent classes do not count."""
    right = scores.argmax(1) == labels
    counts = np.bincount(labels, minlength=scores.shape[1])
    return 100 * float((np.bincount(labels, right, scores.shape[1])[counts > 0] / counts[counts > 0]).mean())


def eleven_point_map(scores: Scores, labels: Labels) -> float:
    """Return VOC2007's mean average precision of scores [M, C] and labels [M, C]: 1, 0, or -1 for not judged.

    The average precision of a class is the mean over the recalls 0, .1 ... 1 of the best precision at that recall or
    above (VOCap.m of the VOC2007 devkit). Images with equal scores are ranked in the order of the rows. A class without
    a positive image does not count.
    """
    return 100 * float(np.nanmean([_eleven_points(scores[:, c], labels[:, c]) for c in range(scores.shape[1])]))


def _eleven_points(scores: Scores, labels: Labels) -> float:
    judged = labels >= 0
    positive = labels[judged][np.argsort(-scores[judged], kind="stable")] == 1
    if not positive.any():
        return float("nan")
    hits = positive.cumsum()
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or above
    at = np.searchsorted(recall, np.linspace(0, 1, 11) - 1e-12)
    return float(best[np.minimum(at, len(best) - 1)].mean())


METRICS: Mapping[str, Callable[[Scores, Labels], float]] = {
    "top-1": top_1,
    "mean per class": mean_per_class,
    "11-point mAP": eleven_point_map,
}


def score_with_interval(name: str, scores: Scores, labels: Labels) -> tuple[float, tuple[float, float], str]:
    """Return the score, its 95 % interval, and the method of the interval.

    The method is Wilson's for top-1, and a bootstrap over the images for the other metrics.
    """
    if name == "top-1":
        return *wilson_interval(scores.argmax(1) == labels), "Wilson"
    metric = METRICS[name]
    rows = np.arange(len(labels))
    interval = bootstrap_interval(rows, lambda drawn: metric(scores[drawn], labels[drawn]), rounds=_ROUNDS)
    return metric(scores, labels), interval, f"bootstrap, {_ROUNDS} rounds"
