"""Logistic regression with an l2 penalty by L-BFGS, along a path of strengths, each fit started from the last two.

The objective is the mean loss over the images plus l2 / 2 |w|^2, the intercept free; scikit-learn's C is 1 / (N l2).
The loss is softmax cross-entropy, or for images with several labels the sum of a logistic loss per class.

scipy's L-BFGS-B minimises over u = w P with P = (c S + l2)^(1/2), where S is the covariance of the features and c = (1
- 1/C) / C the curvature of the loss of C equal classes. With such classes the loss is round in u; the minimum is the
same.
Features are centred, which does not move the minimum either because the intercept is free. The fit at the next l2
starts on the line through the last two minima. Compared with a diagonal P and a start at the last minimum, this needs
a fifth of the evaluations.

It stays beside scikit-learn's L-BFGS because the 45 strengths of ``linear`` take 745 evaluations, 5 s, and end within
.08 % of the minimum; scikit-learn's with warm starts takes 4398, 24 s, and ends within 14 % (both float32, to 1e-4, on
one core; 5000 images of CIFAR-10, 512 features).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import UserError

ITERATIONS, TOLERANCE = 100, 1e-4  # per strength while one is chosen; of the largest entry of the gradient in u
FINAL_ITERATIONS, FINAL_TOLERANCE = 2000, 1e-6  # of the fit that is scored: 1e-4 can be .2 % off
_ROWS = 16_384  # at a time: memory beside the features is this x (classes + dim)
_WORTH_THREADS = 2**25  # multiplications in a pass: two milliseconds of one core
_SMALL = 1e-6  # added to deviations
_FLAT = 1e-7  # of the largest eigenvalue: below it, float32 cannot tell a direction of the features from none

Floats = NDArray[np.float64]


def require_options(strengths: Iterable[float], iterations: int, tolerance: float) -> None:
    """Check the options of a path. Raises UserError."""
    given = list(strengths)
    if not given or not all(0 <= l2 < inf for l2 in given) or iterations < 1 or not tolerance > 0:
        raise UserError("--set l2 takes numbers from 0 on, --set iterations at least 1, --set tolerance above 0")


@dataclass(frozen=True)
class LinearClassifier:
    """A linear classifier fitted at one l2.

    Attributes:
        weight, bias: [C, D] and [C], for features that are not standardised.
        iterations: number of L-BFGS iterations.
        converged: the tolerance was met before the cap on iterations.
    """

    l2: float
    weight: Tensor
    bias: Tensor
    iterations: int
    converged: bool

    def scores(self, features: Tensor) -> Tensor:
        """Return logits [M, C] of features [M, D]."""
        blocks = torch.split(features, _ROWS)
        return torch.cat([block.to(self.weight) @ self.weight.T + self.bias for block in blocks])


@dataclass(frozen=True)
class _Covariance:
    """Eigenvectors [D, K] and eigenvalues [K] of a covariance; the D - K smallest eigenvalues are set to ``flat``."""

    vectors: Tensor
    values: Tensor
    flat: float

    def times(self, w: Floats, scale: float, l2: float, power: float) -> Floats:
        """Return w (scale S + l2)^power for the rows of ``w`` [C, D]."""
        rest = (scale * self.flat + l2) ** power
        more = (scale * self.values + l2) ** power - rest
        rows = torch.from_numpy(w)
        product: Floats = (rest * rows + ((rows @ self.vectors) * more) @ self.vectors.T).numpy()
        return product


class LogisticRegression:
    """Features and labels to fit linear classifiers to.

    Args:
        features: float [N, D], not copied.
        labels: int64 [N], or for images with several labels int64 [N, C] of 1, 0 and -1 (does not count).
        classes: C.
        weights: [N] weights of the images, 0 leaves one out; ``None`` weighs all the same.
        standardise: penalise the weights of features scaled to deviation 1, not of the features as they are.
        dtype: precision of the computation, block by block; ``None`` is that of the features. float32 halves the time,
            float64 meets any tolerance.

    Raises:
        UserError: all weights are 0.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        classes: int,
        *,
        weights: Tensor | None = None,
        standardise: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.features, self.labels, self.classes = features, labels, classes
        self.dtype = dtype or features.dtype
        self.weights = (torch.ones(len(features)) if weights is None else weights).to(features.device, self.dtype)
        self.total = float(self.weights.double().sum())
        if not self.total:
            raise UserError("logistic regression needs at least one image")
        self.mean, self.deviation = self._moments()
        self.scale = self.deviation if standardise else torch.ones_like(self.deviation)
        self.covariance = self._covariance()

    def path(
        self,
        strengths: Iterable[float],
        *,
        start: LinearClassifier | None = None,
        iterations: int = ITERATIONS,
        tolerance: float = TOLERANCE,
    ) -> Iterator[LinearClassifier]:
        """Yield a classifier for each l2, the strongest first; the first fit starts from ``start`` or zero.

        Args:
            iterations: cap for each l2.
            tolerance: of the largest entry of the gradient.

        Raises:
            UserError: no strength or one below 0, no iteration, a tolerance that is not above 0, or scipy is missing.
        """
        ordered = sorted(strengths, reverse=True)
        require_options(ordered, iterations, tolerance)
        w = np.zeros((self.classes, self.features.shape[1] + 1)) if start is None else self._scaled(start)
        guess = w
        for n, l2 in enumerate(ordered):
            found, done, converged = self._minimise(guess, l2, iterations, tolerance)
            w, guess = found, 2 * found - w if n else found  # on the line through the last two minima
            yield LinearClassifier(l2, *self._unscaled(w), done, converged)

    def _minimise(self, w: Floats, l2: float, iterations: int, tolerance: float) -> tuple[Floats, int, bool]:
        """Return the minimum from the start ``w`` [C, D + 1], the iterations it took, and whether it converged."""
        try:
            from scipy.optimize import minimize
            from threadpoolctl import threadpool_limits
        except ImportError:
            raise UserError("linear evaluation needs scikit-learn: pip install 'siamese-zoo[eval]'") from None
        # Change variables so that the curvature is similar in all directions: few iterations suffice.
        curvature = (1 - 1 / self.classes) / self.classes if self.classes > 1 else 0.25

        def times(v: Floats, power: float) -> Floats:
            weight, bias = v.reshape(self.classes, -1)[:, :-1], v.reshape(self.classes, -1)[:, -1:]
            return np.hstack([self.covariance.times(weight, curvature, l2, power), bias * curvature**power])

        def value(u: Floats) -> tuple[float, Floats]:
            loss, gradient = self.loss(times(u, -0.5), l2)
            return loss, times(gradient, -0.5).ravel()

        # Minimise in the new variables, and return in the old ones.
        options = {"maxiter": iterations, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps, "maxls": 30}
        with threadpool_limits(self._threads()):
            found = minimize(value, times(w, 0.5).ravel(), jac=True, method="L-BFGS-B", options=options)
        largest = float(np.abs(found.jac).max())
        return times(found.x, -0.5), int(found.nit), largest <= tolerance

    def _threads(self) -> dict[str, int]:
        """Return limits for threadpoolctl: no threads of scipy's, and for a small problem none of torch's either.

        scipy and torch take turns at every evaluation. With threads of both they wait for each other four times as
        long as they compute, on a busy machine twenty times.
        """
        small = self.features.numel() * self.classes < _WORTH_THREADS
        return {"blas": 1, "openmp": 1} if small else {"blas": 1}

    def loss(self, w: Floats, l2: float) -> tuple[float, Floats]:
        """Return the objective and its gradient at ``w`` [C, D + 1]: weights of scaled features, then the intercept."""
        weight, bias = self._unscaled(w)
        loss = torch.zeros((), dtype=torch.float64, device=weight.device)
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        # Sum loss and gradient over blocks of rows.
        for start in range(0, len(self.features), _ROWS):
            rows = slice(start, start + _ROWS)
            x, counts = self.features[rows].to(self.dtype), self.weights[rows]
            value, slope = _loss_and_slope(x @ weight.T + bias, self.labels[rows])
            loss += (value.double() * counts).sum()
            slope *= counts[:, None]
            by_weight.addmm_(slope.T, x)
            by_bias += slope.sum(0)
        # Account for mean and scale without a scaled copy of the features.
        by_weight = (by_weight - by_bias[:, None] * self.mean) / self.scale
        gradient = torch.cat([by_weight, by_bias[:, None]], 1).double().cpu().numpy() / self.total
        # The penalty spares the intercept.
        gradient[:, :-1] += l2 * w[:, :-1]
        return float(loss) / self.total + l2 / 2 * float((w[:, :-1] ** 2).sum()), gradient

    def _unscaled(self, w: Floats) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C] for features as they are."""
        both = torch.from_numpy(w).to(self.mean)
        weight = both[:, :-1] / self.scale
        return weight, both[:, -1] - weight @ self.mean

    def _scaled(self, fit: LinearClassifier) -> Floats:
        """Invert ``_unscaled``."""
        weight = fit.weight.to(self.mean)
        bias = fit.bias.to(self.mean) + weight @ self.mean
        return torch.cat([weight * self.scale, bias[:, None]], 1).double().cpu().numpy()

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation [D] of the features, in two passes: a one-pass variance cancels in float32."""
        mean = self._average(lambda x: x)
        return mean, self._average(lambda x: (x - mean) ** 2).sqrt() + _SMALL

    def _covariance(self) -> _Covariance:
        """Return the covariance of the scaled features, as exact as ``dtype``: it only makes the fit faster."""
        total = torch.zeros(len(self.mean), len(self.mean), dtype=torch.float64, device=self.mean.device)
        for start in range(0, len(self.features), _ROWS):
            rows = slice(start, start + _ROWS)
            x = (self.features[rows].to(self.dtype) - self.mean) / self.scale
            total += (x.T @ (x * self.weights[rows, None])).double()
        values, vectors = (part.cpu() for part in torch.linalg.eigh(total / self.total))
        flat = _FLAT * max(float(values[-1]), _SMALL)
        kept = values > flat
        return _Covariance(vectors[:, kept].contiguous(), values[kept], flat)

    def _average(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        total = torch.zeros(self.features.shape[1], dtype=torch.float64, device=self.features.device)
        for start in range(0, len(self.features), _ROWS):
            rows = slice(start, start + _ROWS)
            total += (of(self.features[rows].to(self.dtype)) * self.weights[rows, None]).sum(0).double()
        return (total / self.total).to(self.dtype)


def final_fit(
    features: Tensor, labels: Tensor, classes: int, start: LinearClassifier, *, standardise: bool = True
) -> LinearClassifier:
    """Fit the classifier that is scored: at the l2 of ``start`` and from there, in float64 to ``FINAL_TOLERANCE``."""
    regression = LogisticRegression(features, labels, classes, standardise=standardise, dtype=torch.float64)
    return next(regression.path([start.l2], start=start, iterations=FINAL_ITERATIONS, tolerance=FINAL_TOLERANCE))


def _loss_and_slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each image [N] and its derivative by the logits [N, C]."""
    if labels.ndim == 2:  # several labels per image: a logistic loss per class
        truth, judged = labels.clamp_min(0).to(logits), (labels >= 0).to(logits)
        value = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * judged
        return value.sum(1), (logits.sigmoid() - truth) * judged
    log_p = logits.log_softmax(1)
    value = -log_p.gather(1, labels[:, None])[:, 0]
    slope = log_p.exp_()
    slope[torch.arange(len(labels), device=labels.device), labels] -= 1
    return value, slope
