"""``linear``: logistic regression by L-BFGS on frozen features ([B] app. D.2: L-BFGS and the 45 values of l2).

[B] is the BYOL paper, arXiv 2006.07733. Features are computed once from the test transform, and standardised by the
training mean and deviation. The l2 strength is the one that classifies a held-out tenth of the training images best;
the classifier is then fitted again on all of them. ``zoo.evaluate.frozen.lbfgs`` states the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.evaluate.features import labelled_features
from zoo.evaluate.frozen import lbfgs
from zoo.evaluate.frozen.worst_classes import worst_classes
from zoo.evaluate.metrics import top_k
from zoo.evaluate.result import Result, wilson_interval

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

L2 = tuple(float(f"{v:.6g}") for v in np.logspace(-6, 5, 45))  # of the mean loss; [B] app. D.2
_HELD_OUT = 10  # one in ten


@dataclass(frozen=True)
class LinearOptions:
    """The ``--set`` options of ``linear``.

    Attributes:
        l2: values to choose from.
        iterations, tolerance: of L-BFGS for each value tried; see ``zoo.evaluate.frozen.lbfgs``.
    """

    l2: tuple[float, ...] = L2
    iterations: int = lbfgs.ITERATIONS
    tolerance: float = lbfgs.TOLERANCE

    def __post_init__(self) -> None:
        lbfgs.require_options(self.l2, self.iterations, self.tolerance)


def evaluate(context: Context) -> Result:
    """Choose l2 on held-out training images, fit on all, and return top-1 on the test split."""
    options = context.options(LinearOptions())
    features = labelled_features(context)
    fit = fit_predict(
        features.train,
        features.train_labels,
        features.test,
        classes=len(features.classes),
        seed=context.seed,
        options=options,
    )
    score, interval = wilson_interval(fit.predictions == features.test_labels)
    return Result(
        "top-1",
        score,
        interval,
        {
            "l2": fit.chosen,
            "chosen_by": "a tenth of the training images, held out; refitted on all",
            "held_out_accuracy_by_l2": fit.tried,
            "objective": "mean cross-entropy + l2 / 2 |w|^2, standardised features; scikit-learn's C = 1 / (N l2)",
            "iterations": options.iterations,
            "tolerance": options.tolerance,
            "final_tolerance": lbfgs.FINAL_TOLERANCE,
            "values_stopped_by_the_cap": fit.capped,
        },
        features.data,
        metrics=top_k(fit.scores, features.test_labels, trained=features.train_labels),
        details=worst_classes(fit.predictions, features.test_labels, features.classes),
    )


@dataclass(frozen=True)
class LinearFit:
    """Scores on the test features, and how the l2 strength was chosen.

    Attributes:
        scores: logits [M, C].
        chosen: the value of l2.
        tried: held-out accuracy in percent by l2.
        capped: number of values at which L-BFGS stopped at the cap on iterations.
    """

    scores: NDArray[np.float32]
    chosen: float
    tried: dict[str, float]
    capped: int

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class [M] of the largest score."""
        best: NDArray[np.int64] = self.scores.argmax(1)
        return best


def fit_predict(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    *,
    classes: int | None = None,
    seed: int = 0,
    options: LinearOptions | None = None,
) -> LinearFit:
    """Fit a classifier on features [N, D] with labels [N], and score test features [M, D].

    Raises:
        UserError: scipy, which comes with scikit-learn, is not installed, or an option has no meaning.
    """
    options = options or LinearOptions()
    classes = int(labels.max()) + 1 if classes is None else classes
    x, y = torch.from_numpy(train), torch.from_numpy(labels)
    # Hold out a random part of the training images by weight 0.
    order = torch.from_numpy(np.random.Generator(np.random.Philox(key=seed)).permutation(len(train)))
    held = order[: max(1, len(train) // _HELD_OUT)].sort().values
    kept = torch.ones(len(train)).index_fill_(0, held, 0)

    # choose l2 on the held-out images
    tried: dict[float, float] = {}
    capped, best = 0, None
    path = lbfgs.LogisticRegression(x, y, classes, weights=kept).path(
        options.l2, iterations=options.iterations, tolerance=options.tolerance
    )
    for fit in path:
        right = fit.scores(x[held]).argmax(1) == y[held]
        tried[fit.l2] = round(float(right.double().mean()) * 100, 2)
        capped += not fit.converged
        if best is None or tried[fit.l2] >= tried[best.l2]:  # the weakest l2 wins a tie
            best = fit
    assert best is not None

    final = lbfgs.final_fit(x, y, classes, best)
    scores = final.scores(torch.from_numpy(test)).float().numpy()
    return LinearFit(scores, best.l2, {f"{l2:g}": tried[l2] for l2 in sorted(tried)}, capped)
