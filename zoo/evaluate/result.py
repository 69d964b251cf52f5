"""What every protocol returns, and the one JSON it becomes.

Top level of the JSON: ``protocol``, ``metric``, ``score`` (percent), ``interval_95``, ``parameters`` (what was chosen,
and how), ``metrics`` (the other numbers of the protocol), ``details`` (what the report draws from), ``data`` and
``model`` with their hashes, ``options``, ``command``, ``versions``, ``seconds``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Result:
    """One number and what is needed to believe it.

    Attributes:
        metric: name of ``score``, e.g. ``top-1``, ``mean per class``, ``mIoU``, ``AP50``.
        score: percent, 0 to 100.
        interval_95: bounds in percent; how they were found is in ``interval`` .
        interval: ``Wilson`` (a proportion), ``bootstrap`` (over test images) or ``t over N seeds``.
        parameters: hyper-parameters that were chosen and how; JSON-able.
        data: ``name``, ``classes`` and for each split ``images`` and ``sha256``; see ``describe_split``.
        metrics: other numbers of the protocol by name.
        details: rows that pictures and tables are drawn from; JSON-able.
    """

    metric: str
    score: float
    interval_95: tuple[float, float]
    parameters: Mapping[str, Any]
    data: Mapping[str, Any]
    interval: str = "Wilson"
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The part of the JSON that the protocol answers for; ``zoo.evaluate.run`` adds the rest."""
        low, high = self.interval_95
        return {
            "metric": self.metric,
            "score": round(self.score, 2),
            "interval_95": [round(low, 2), round(high, 2)],
            "interval": self.interval,
            "parameters": dict(self.parameters),
            "metrics": {k: round(v, 4) for k, v in self.metrics.items()},
            "details": dict(self.details),
            "data": dict(self.data),
        }


def describe_split(images: int, sha256: str) -> dict[str, Any]:
    """``data.train`` or ``data.test`` of the JSON."""
    return {"images": images, "sha256": sha256}


def describe_data(path: Path, classes: int, **splits: tuple[int, str]) -> dict[str, Any]:
    """``data`` of the JSON: name, then each split's number of images and content hash, then the classes."""
    return {"name": path.stem, **{k: describe_split(n, h) for k, (n, h) in splits.items()}, "classes": classes}


def proportion(correct: NDArray[np.bool_]) -> tuple[float, tuple[float, float]]:
    """Percent true, and its 95 % interval in percent (Wilson 1927)."""
    total, right = len(correct), int(correct.sum())
    z, p = 1.96, right / total
    centre, half = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    low, high = (100 * (centre + sign * half) / (1 + z * z / total) for sign in (-1, 1))
    return 100 * p, (low, high)


def top_k(scores: NDArray[np.float32], truth: NDArray[np.int64], k: int = 5) -> dict[str, float]:
    """``{"top-5": percent}`` of ``scores`` [M, C], empty where there are no more than ``k`` classes."""
    if scores.shape[1] <= k:
        return {}
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    return {f"top-{k}": 100 * float((best == truth[:, None]).any(1).mean())}


_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # two-sided


def over_seeds(scores: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean and its 95 % interval (Student's t) of at least two scores in percent, clipped to 0..100."""
    n, mean = len(scores), float(np.mean(scores))
    half = _T_95.get(n - 1, 1.96) * float(np.std(scores, ddof=1)) / sqrt(n)
    return mean, (max(0.0, mean - half), min(100.0, mean + half))


def bootstrap(samples: ArrayLike, statistic: Any, *, seed: int = 0, rounds: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of ``statistic(rows)`` over resampled rows; a row is a test image."""
    rows = np.asarray(samples)
    rng = np.random.Generator(np.random.Philox(key=seed))
    values = [statistic(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(rounds)]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)
