"""Logistic regression at its optimum: scikit-learn's solver of another kind finds the same loss and the same answers.

Both minimise mean loss + l2 / 2 |w|^2 over standardised features, the intercept free: scikit-learn's C = 1 / (N l2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression

import zoo
from zoo.evaluate.frozen import lbfgs, linear

PHOTOS = sorted((Path(__file__).parents[4] / "examples" / "photos").glob("*.jpg"))
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
TEST_ROWS = 20_000
CLASSES = 5

Split = tuple[NDArray[np.float32], NDArray[np.int64]]


def synthetic() -> tuple[Split, Split]:
    """Overlapping classes, features on very different scales."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, 40))

    def draw(rows: int) -> Split:
        labels = rng.integers(0, CLASSES, rows)
        features = (rng.normal(size=(rows, 40)) + 0.35 * centres[labels]) * np.exp(np.linspace(-3, 3, 40))
        return features.astype(np.float32), labels

    return draw(1500), draw(TEST_ROWS)


def photographs() -> tuple[Split, Split]:
    """Features of crops, a photograph each class; the test rows lie between two crops and are of the nearer one.

    The network is named, because the limits below depend on it: these rows lie where classes meet. With
    ``simclr_r18_mini.tin64``, whose classes are nearly separable, 4 of the 20 000 change at the weakest l2.
    """
    rng = np.random.default_rng(0)
    embedder = zoo.load("simclr_r18_mini.tin32", device="cpu")
    pixels, labels = [], np.repeat(np.arange(CLASSES), 60)
    for photo in PHOTOS[:CLASSES]:
        image = Image.open(photo).convert("RGB")
        image.thumbnail((256, 256))
        for _ in range(60):
            side = int(rng.integers(20, 60))
            x, y = int(rng.integers(image.width - side)), int(rng.integers(image.height - side))
            pixels.append(embedder.preprocessing.pixels(image.crop((x, y, x + side, y + side))))
    features = embedder.embed_pixels(np.stack(pixels))[:, :96].copy()  # fewer than images: not all separable
    near, far = rng.integers(0, len(features), (2, TEST_ROWS))
    between = 0.6 * features[near] + 0.4 * features[far]
    return (features, labels), (between.astype(np.float32), labels[near])


@pytest.fixture(scope="module", params=[synthetic, photographs], ids=lambda made: made.__name__)
def splits(request: pytest.FixtureRequest) -> Any:
    return request.param()


def scaled(x: NDArray[np.float32], by: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standardised by the mean and deviation of ``by``."""
    moments = by.astype(np.float64)
    found: NDArray[np.float64] = (x - moments.mean(0)) / (moments.std(0) + 1e-6)
    return found


def objective(logits: NDArray[np.float64], labels: NDArray[np.int64], weight: NDArray[np.float64], l2: float) -> float:
    """The loss as the protocol states it, of logits [N, C] and the weights [C, D] of standardised features."""
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float(-log_p[np.arange(len(labels)), labels].mean() + l2 / 2 * (weight**2).sum())


def other_fit(train: Split, l2: float) -> LogisticRegression:
    features, labels = train
    model = LogisticRegression(C=1 / (l2 * len(labels)), solver="newton-cholesky", tol=1e-10, max_iter=1000)
    return model.fit(scaled(features, features), labels)


def test_the_path_ends_in_the_same_optima(splits: tuple[Split, Split]) -> None:
    """Each fit started where the one before ended, as the protocol does it."""
    (features, labels), (test, truth) = splits
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    problem = lbfgs.LogisticRegression(x, y, CLASSES, dtype=torch.float64)
    limits: Any = {"iterations": lbfgs.FINAL_ITERATIONS, "tolerance": lbfgs.FINAL_TOLERANCE}
    z, deviation = scaled(features, features), features.astype(np.float64).std(0) + 1e-6
    for fit in problem.path(STRENGTHS, **limits):
        other = other_fit((features, labels), fit.l2)
        ours = objective(fit.scores(x).numpy(), labels, fit.weight.numpy() * deviation, fit.l2)
        theirs = objective(other.decision_function(z), labels, other.coef_, fit.l2)
        assert fit.converged
        assert ours == pytest.approx(theirs, rel=1e-6)
        answers = fit.scores(torch.from_numpy(test)).argmax(1).numpy()
        assert abs((answers == truth).mean() - (other.predict(scaled(test, features)) == truth).mean()) <= 1e-4


@pytest.mark.parametrize("l2", STRENGTHS)
def test_the_protocol_scores_within_1e_4_of_accuracy(l2: float, splits: tuple[Split, Split]) -> None:
    """With the tolerances that a user gets, whatever strength is chosen."""
    (features, labels), (test, truth) = splits
    fit = linear.fit_predict(features, labels, test, classes=CLASSES, options=linear.LinearOptions(l2=(l2,)))
    other = other_fit((features, labels), l2).predict(scaled(test, features))
    assert fit.chosen == l2
    assert abs((fit.predictions == truth).mean() - (other == truth).mean()) <= 1e-4
    assert (fit.predictions == other).mean() >= 0.9995


def test_the_path_takes_fewer_iterations_than_scikit_learn_s_l_bfgs(splits: tuple[Split, Split]) -> None:
    """Of all published strengths, both to a gradient of 1e-4, scikit-learn's started from the last minimum too."""
    (features, labels), _ = splits
    path = lbfgs.LogisticRegression(torch.from_numpy(features), torch.from_numpy(labels), CLASSES).path(linear.L2)
    other = LogisticRegression(solver="lbfgs", tol=lbfgs.TOLERANCE, max_iter=5000, warm_start=True)
    theirs = 0
    for l2 in sorted(linear.L2, reverse=True):
        other.set_params(C=1 / (l2 * len(labels))).fit(scaled(features, features), labels)
        theirs += int(other.n_iter_[0])
    assert sum(fit.iterations for fit in path) < 0.9 * theirs
