"""Classification metrics on random inputs against torchmetrics, scikit-learn and the definitions written as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, recall_score
from torchmetrics.functional.classification import multiclass_accuracy

from zoo.evaluate.metrics import METRICS, eleven_point_map, mean_per_class, top_1, top_k

RANDOM = {"seed": st.integers(0, 100_000), "rows": st.integers(1, 80), "classes": st.integers(2, 9)}
Case = tuple[NDArray[np.float32], NDArray[np.int64]]


def scored(seed: int, rows: int, classes: int) -> Case:
    """Scores without ties, some of the classes without a row."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(rows * classes).reshape(rows, classes).astype(np.float32)
    present = rng.integers(1, classes + 1)
    return scores, rng.permutation(classes)[:present][rng.integers(0, present, rows)]


@given(**RANDOM)
@settings(max_examples=60, deadline=None)
def test_top_1_and_the_mean_per_class(seed: int, rows: int, classes: int) -> None:
    scores, truth = scored(seed, rows, classes)
    x, y = torch.from_numpy(scores), torch.from_numpy(truth)
    theirs = 100 * float(multiclass_accuracy(x, y, classes, average="micro"))
    assert top_1(scores, truth) == pytest.approx(theirs, abs=1e-4)  # torchmetrics counts in float32
    assert top_1(scores, truth) == pytest.approx(100 * accuracy_score(truth, scores.argmax(1)), abs=1e-6)
    expected = 100 * recall_score(truth, scores.argmax(1), average="macro", labels=np.unique(truth), zero_division=0)
    assert mean_per_class(scores, truth) == pytest.approx(expected, abs=1e-6)
    if classes > 5:
        theirs = 100 * float(multiclass_accuracy(x, y, classes, average="micro", top_k=5))
        assert top_k(scores, truth)["top-5"] == pytest.approx(theirs, abs=1e-4)


def devkit(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """VOC2007's VOCevalcls and VOCap: rows by falling score, the best precision at each of eleven recalls."""
    order = [row for row in sorted(range(len(scores)), key=lambda r: -scores[r]) if truth[row] != -1]
    total, found, points = sum(truth[row] == 1 for row in order), 0, []
    for seen, row in enumerate(order, start=1):
        found += truth[row] == 1
        points.append((found, found / seen))
    ap = 0.0
    for tenth in range(11):  # in whole numbers: no rounding decides which recalls count
        ap += max((precision for hits, precision in points if 10 * hits >= tenth * total), default=0)
    return 100 * ap / 11


@given(**RANDOM)
@settings(max_examples=60, deadline=None)
def test_eleven_points_are_the_devkit_s(seed: int, rows: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores, _ = scored(seed, rows, classes)
    truth = rng.integers(-1, 2, (rows, classes))
    judged = [c for c in range(classes) if (truth[:, c] == 1).any()]
    if not judged:
        return
    expected = np.mean([devkit(scores[:, c], truth[:, c]) for c in judged])
    assert eleven_point_map(scores, truth) == pytest.approx(expected, abs=1e-6)


@given(**RANDOM)
@settings(max_examples=30, deadline=None)
def test_what_metrics_do_not_see(seed: int, rows: int, classes: int) -> None:
    """The order of the rows and of the classes, and any growing change of the scores; perfect scores are 100."""
    scores, truth = scored(seed, rows, classes)
    rng = np.random.default_rng(seed)
    several = np.where(np.eye(classes, dtype=np.int64)[truth] == 1, 1, rng.integers(-1, 1, scores.shape))
    mix, names = rng.permutation(rows), rng.permutation(classes)
    for metric, answer in (("top-1", truth), ("mean per class", truth), ("11-point mAP", several)):
        of = METRICS[metric]
        score = of(scores, answer)
        assert 0 <= score <= 100
        assert of(scores[mix], answer[mix]) == pytest.approx(score, abs=1e-6)
        assert of(scores / 8 - 3, answer) == pytest.approx(score, abs=1e-6)
        renamed = np.argsort(names)[answer] if answer.ndim == 1 else answer[:, names]
        assert of(scores[:, names], renamed) == pytest.approx(score, abs=1e-6)
        assert of(np.eye(classes, dtype=np.float32)[truth], answer) == pytest.approx(100)
