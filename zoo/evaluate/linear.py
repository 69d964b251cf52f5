"""Linear classification on frozen features: multinomial logistic regression by L-BFGS ([B] app. D.1, in small).

The l2 strength is chosen on a tenth of the training images, then the classifier is fitted again on all of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError

L2 = tuple(float(v) for v in np.logspace(-5, 0, 6))  # of the mean loss; [B] has 45 values over 1e-6 .. 1e5
ITERATIONS, TOLERANCE = 100, 1e-3
_HELD_OUT = 10  # one in ten


@dataclass(frozen=True)
class Fit:
    """Predictions on the test features, and how the regularisation was chosen.

    Attributes:
        chosen: value of ``L2``; ``tried`` the held-out accuracy in percent by value.
    """

    predictions: NDArray[np.int64]
    chosen: float
    tried: dict[str, float]


def fit_predict(
    train: NDArray[np.float32], labels: NDArray[np.int64], test: NDArray[np.float32], *, seed: int = 0
) -> Fit:
    """Features [N, D] with labels [N], and test features [M, D]; standardised by the training mean and deviation.

    The objective is mean cross-entropy + l2 / 2 |w|^2, so scikit-learn's C is 1 / (N l2).

    Raises:
        UserError: scikit-learn is not installed.
    """
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / std, (test - mean) / std
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(train))
    held, kept = order[: len(order) // _HELD_OUT], order[len(order) // _HELD_OUT :]
    tried = {}
    for l2 in L2:
        predicted = _fit(train[kept], labels[kept], l2).predict(train[held])
        tried[f"{l2:g}"] = round(float((predicted == labels[held]).mean()) * 100, 2)
    chosen = max(L2, key=lambda v: tried[f"{v:g}"])
    return Fit(_fit(train, labels, chosen).predict(test).astype(np.int64), chosen, tried)


def _fit(features: NDArray[np.float32], labels: NDArray[np.int64], l2: float):  # type: ignore[no-untyped-def]
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise UserError("linear evaluation needs scikit-learn: pip install 'siamese-zoo[eval]'") from None
    model = LogisticRegression(C=1 / (l2 * len(features)), max_iter=ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the cap is part of the protocol, stated in the result
        return model.fit(features, labels)
