"""Made features with labels, for tests of classifiers."""

from __future__ import annotations

import numpy as np


def clusters(n: int, dim: int = 10, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features on very different scales, and labels that depend on them in part."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    features = (rng.normal(size=(n, dim)) + 0.7 * np.eye(dim)[labels * 3]) * np.exp(np.linspace(-3, 3, dim))
    return features.astype(np.float32), labels
