"""Linear classification on frozen features: multinomial logistic regression by L-BFGS ([B] app. D.1).

Features are computed once, of the test transform, and standardised by the training mean and deviation. The l2 strength,
one of [B]'s 45 values, is the one that classifies a held-out tenth of the training images best; the classifier is then
fitted again on all of them. ``zoo.evaluate.frozen.lbfgs`` states the objective and its relation to scikit-learn's C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.evaluate.features import labelled_features
from zoo.evaluate.frozen import lbfgs
from zoo.evaluate.frozen.worst_classes import worst_classes
from zoo.evaluate.result import Result, proportion, top_k

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

L2 = tuple(float(f"{v:.6g}") for v in np.logspace(-6, 5, 45))  # of the mean loss; [B] app. D.1
_HELD_OUT = 10  # one in ten


@dataclass(frozen=True)
class Options:
    """``--set`` of ``linear``.

    Attributes:
        l2: values to choose from.
        iterations, tolerance: of L-BFGS, per value tried; see ``zoo.evaluate.frozen.lbfgs``.
    """

    l2: tuple[float, ...] = L2
    iterations: int = lbfgs.ITERATIONS
    tolerance: float = lbfgs.TOLERANCE


@dataclass(frozen=True)
class Fit:
    """Scores on the test features, and how the regularisation was chosen.

    Attributes:
        scores: logits [M, C].
        chosen: one of ``Options.l2``; ``tried`` the held-out accuracy in percent by value.
        capped: at how many values L-BFGS stopped at the cap on iterations.
    """

    scores: NDArray[np.float32]
    chosen: float
    tried: dict[str, float]
    capped: int

    @property
    def predictions(self) -> NDArray[np.int64]:
        """[M], the class of the largest score."""
        best: NDArray[np.int64] = self.scores.argmax(1)
        return best


def fit_predict(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    *,
    classes: int | None = None,
    seed: int = 0,
    options: Options | None = None,
) -> Fit:
    """Features [N, D] with labels [N], and test features [M, D]; standardised by the training mean and deviation.

    Raises:
        UserError: scipy, which comes with scikit-learn, is not installed.
    """
    options = options or Options()
    classes = int(labels.max()) + 1 if classes is None else classes
    x, y = torch.from_numpy(train), torch.from_numpy(labels)
    held = torch.from_numpy(np.random.Generator(np.random.Philox(key=seed)).permutation(len(train)))
    held = held[: max(1, len(train) // _HELD_OUT)].sort().values
    kept = torch.ones(len(train)).index_fill_(0, held, 0)
    path: dict[str, Any] = {"iterations": options.iterations, "tolerance": options.tolerance}
    tried: dict[float, float] = {}
    capped, best = 0, None
    for fit in lbfgs.Problem(x, y, classes, weights=kept).path(options.l2, **path):
        right = fit.scores(x[held]).argmax(1) == y[held]
        tried[fit.l2] = round(float(right.double().mean()) * 100, 2)
        capped += not fit.converged
        if best is None or tried[fit.l2] >= tried[best.l2]:  # the weakest of equals
            best = fit
    assert best is not None
    final = lbfgs.final_fit(x, y, classes, best)
    scores = final.scores(torch.from_numpy(test)).float().numpy()
    return Fit(scores, best.l2, {f"{l2:g}": tried[l2] for l2 in sorted(tried)}, capped)


def evaluate(context: Context) -> Result:
    """Top-1 on the test split; see the module."""
    options = context.options(Options())
    found = labelled_features(context)
    classes = len(found.classes)
    fit = fit_predict(found.train, found.labels, found.test, classes=classes, seed=context.seed, options=options)
    score, interval = proportion(fit.predictions == found.truth)
    return Result(
        "top-1",
        score,
        interval,
        describe(fit, options),
        found.data,
        metrics=top_k(fit.scores, found.truth),
        details=worst_classes(fit.predictions, found.truth, found.classes),
    )


def describe(fit: Fit, options: Options) -> dict[str, Any]:
    """``Result.parameters``."""
    return {
        "l2": fit.chosen,
        "chosen_by": "a tenth of the training images, held out; refitted on all",
        "held_out_accuracy_by_l2": fit.tried,
        "objective": "mean cross-entropy + l2 / 2 |w|^2, standardised features; scikit-learn's C = 1 / (N l2)",
        "iterations": options.iterations,
        "tolerance": options.tolerance,
        "final_tolerance": lbfgs.FINAL_TOLERANCE,
        "values_stopped_by_the_cap": fit.capped,
    }
