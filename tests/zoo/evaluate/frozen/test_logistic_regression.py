"""``linear`` and its L-BFGS against scikit-learn's other solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from labelled_features import clusters
from sklearn.linear_model import LogisticRegression

from zoo.evaluate.frozen import lbfgs, linear


def test_linear_is_the_objective_it_states() -> None:
    """Against scikit-learn's other solver on standardised features, with C = 1 / (N l2): the same predictions."""
    features, labels = clusters(10_400)
    train, test = features[:400], features[400:]
    fit = linear.fit_predict(train, labels[:400], test)
    assert len(linear.L2) == 45
    assert fit.chosen in linear.L2
    mean, std = train.mean(0), train.std(0) + 1e-6
    other = LogisticRegression(C=1 / (fit.chosen * 400), solver="newton-cholesky", tol=1e-8, max_iter=1000)
    other.fit((train - mean) / std, labels[:400])
    accuracies = ((other.predict((test - mean) / std) == labels[400:]).mean(), (fit.predictions == labels[400:]).mean())
    assert abs(accuracies[0] - accuracies[1]) <= 1e-4  # one of 10 000 images


@pytest.mark.parametrize("standardise", [True, False])
def test_logistic_regression_is_scikit_learn_s_along_the_path(standardise: bool) -> None:
    features, labels = clusters(300)
    x = features.astype(np.float64)
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6) if standardise else x
    problem = lbfgs.LogisticRegression(torch.from_numpy(x), torch.from_numpy(labels), 3, standardise=standardise)
    for fit in problem.path([10.0, 1e-1, 1e-3], iterations=1000, tolerance=1e-9):
        other = LogisticRegression(C=1 / (fit.l2 * 300), solver="newton-cholesky", tol=1e-10, max_iter=1000)
        other.fit(scaled, labels)
        ours, theirs = fit.scores(torch.from_numpy(x)).softmax(1).numpy(), other.predict_proba(scaled)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_logistic_regression_of_several_labels_is_one_of_each() -> None:
    features, labels = clusters(200)
    x, several = features.astype(np.float64), np.eye(3, dtype=np.int64)[labels]
    several[::7, 0] = 1
    problem = lbfgs.LogisticRegression(torch.from_numpy(x), torch.from_numpy(several), 3, standardise=False)
    (fit,) = problem.path([1e-2], iterations=1000, tolerance=1e-9)
    for label in range(3):
        other = LogisticRegression(C=1 / (1e-2 * 200), solver="newton-cholesky", tol=1e-10, max_iter=1000)
        other.fit(x, several[:, label])
        ours = fit.scores(torch.from_numpy(x))[:, label].sigmoid().numpy()
        np.testing.assert_allclose(ours, other.predict_proba(x)[:, 1], atol=1e-6)


def test_images_of_weight_zero_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lbfgs, "_ROWS", 33)
    features, labels = clusters(120)
    x, y = torch.from_numpy(features).double(), torch.from_numpy(labels)
    kept = torch.arange(120) % 4 != 0
    (some,) = lbfgs.LogisticRegression(x, y, 3, weights=kept.float()).path([1e-2], tolerance=1e-8)
    (alone,) = lbfgs.LogisticRegression(x[kept], y[kept], 3).path([1e-2], tolerance=1e-8)
    torch.testing.assert_close(some.weight, alone.weight, atol=1e-6, rtol=1e-5)
