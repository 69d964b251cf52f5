"""Metrics and intervals against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve, top_k_accuracy_score

from zoo.evaluate.metrics import eleven_point_map, mean_per_class, score_with_interval, top_1, top_k
from zoo.evaluate.result import bootstrap_interval, mean_over_seeds, wilson_interval


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, 300)
    return (rng.normal(size=(300, 9)) + np.eye(9)[truth]).astype(np.float32), truth


def test_accuracies_are_scikit_learn_s(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = scored
    assert top_1(scores, truth) == pytest.approx(100 * top_k_accuracy_score(truth, scores, k=1), abs=1e-6)
    assert top_k(scores, truth)["top-5"] == pytest.approx(100 * top_k_accuracy_score(truth, scores, k=5), abs=1e-6)
    expected = 100 * balanced_accuracy_score(truth, scores.argmax(1))
    assert mean_per_class(scores, truth) == pytest.approx(expected, abs=1e-6)
    assert top_k(scores[:, :5], truth % 5) == {}


def test_a_class_without_test_images_does_not_count(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = scored
    few = truth != 3
    expected = 100 * np.mean([(scores[truth == c].argmax(1) == c).mean() for c in range(9) if c != 3])
    assert mean_per_class(scores[few], truth[few]) == pytest.approx(expected, abs=1e-6)


def test_eleven_points_are_those_of_the_precision_recall_curve() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(-1, 2, (200, 5))
    scores = (rng.normal(size=(200, 5)) + truth).astype(np.float32)
    expected = []
    for c in range(5):
        judged = truth[:, c] >= 0
        precision, recall, _ = precision_recall_curve(truth[judged, c], scores[judged, c])
        precision, recall = precision[:-1], recall[:-1]  # without the made-up point of precision 1
        expected.append(np.mean([precision[recall >= r - 1e-12].max() for r in np.linspace(0, 1, 11)]))
    assert eleven_point_map(scores, truth) == pytest.approx(100 * np.mean(expected), abs=1e-6)


def test_intervals_are_scipy_s() -> None:
    correct = np.arange(200) < 37
    score, (low, high) = wilson_interval(correct)
    reference = stats.binomtest(37, 200).proportion_ci(method="wilson")
    assert (score, low, high) == pytest.approx((18.5, 100 * reference.low, 100 * reference.high), abs=1e-2)
    for right in (0, 5):  # rounding once made the ends -0.0 and a little above 100
        _, (low, high) = wilson_interval(np.arange(5) < right)
        assert str(low if right == 0 else 100 - high) == "0.0"
    values = [61.0, 64.0, 62.5, 60.2, 63.3]
    mean, interval = mean_over_seeds(values)
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (mean, *interval) == pytest.approx((np.mean(values), *expected), abs=1e-2)


@pytest.mark.parametrize("count", [2, 5, 10, 11, 12, 20, 31, 200])
def test_the_interval_over_seeds_is_student_s_at_any_number_of_seeds(count: int) -> None:
    values = 50 + np.random.default_rng(count).normal(size=count)
    _, interval = mean_over_seeds(list(values))
    expected = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    assert interval == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4, 5], [0, 40, 7, 2, 11]])
def test_numbers_that_no_image_has_make_no_top_5(numbers: list[int]) -> None:
    """Labels from 1, or with gaps: five classes are always among five answers, whatever the columns that none has."""
    rng = np.random.default_rng(0)
    train = np.repeat(numbers, 3)
    scores = rng.normal(size=(30, max(numbers) + 1)).astype(np.float32)
    truth = rng.choice(numbers, 30)
    assert top_k(scores, truth, trained=train) == {}
    assert top_k(scores, truth, trained=np.append(train, 6)) == top_k(scores, truth)


def test_the_bootstrap_is_about_the_score_and_the_same_again(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = scored
    score, (low, high), how = score_with_interval("mean per class", scores, truth)
    assert low < score < high
    assert how.startswith("bootstrap")
    assert score_with_interval("mean per class", scores, truth)[1] == (low, high)
    wilson = wilson_interval(np.arange(300) < 150)[1]
    assert bootstrap_interval(np.arange(300) < 150, lambda rows: 100 * rows.mean()) == pytest.approx(wilson, abs=1)
