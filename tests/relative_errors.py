"""Compares arrays with a reference, so that a comparison that did not happen fails."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor


class RelativeErrors:
    """Collects errors max|difference| / max|reference| by name; ``require`` prints the largest.

    The error is absolute where the reference is 0 everywhere.

    Args:
        dtype: precision in which ours must have been computed.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.by_name: dict[str, float] = {}

    def add(self, name: str, ours: Tensor | None, reference: np.ndarray) -> None:
        """Compare one array.

        Raises:
            AssertionError: the name was compared before; ours is missing or has another dtype than the stated one; the
                reference is no float array; shapes differ; an array is empty or has a value that is not finite.
        """
        assert name not in self.by_name, f"{name} is compared twice"
        assert ours is not None, f"{name}: ours is missing"
        assert ours.dtype == self.dtype, f"{name}: ours is {ours.dtype}, not {self.dtype}"
        assert reference.dtype in (np.float32, np.float64), f"{name}: the reference is {reference.dtype}"
        assert tuple(ours.shape) == reference.shape, f"{name}: {tuple(ours.shape)} against {reference.shape}"
        assert reference.size, f"{name}: nothing to compare"
        values = ours.detach().double().numpy()
        assert np.isfinite(reference).all(), f"{name}: the reference is not finite"
        assert np.isfinite(values).all(), f"{name}: ours is not finite"
        scale = np.abs(reference).max() or 1.0
        self.by_name[name] = float(np.abs(values - reference).max() / scale)

    def require(self, limit: float, names: Collection[str]) -> None:
        """Require that exactly ``names`` were compared, at least one, each with an error below ``limit``."""
        assert names, "no name is required"
        assert set(names) == self.by_name.keys(), f"compared {sorted(self.by_name)} instead of {sorted(names)}"
        largest = sorted(self.by_name.items(), key=lambda e: -e[1])
        print(f"\nlargest relative error {largest[0][1]:.1e} ({largest[0][0]}), allowed {limit:.0e}")
        assert largest[0][1] < limit, largest[:5]
