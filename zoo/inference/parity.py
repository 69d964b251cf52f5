"""The photographs that ship with the package, on which an engine must agree with another one before it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHIPPED = Path(__file__).parents[1] / "bundled" / "parity"
"""Folder of four photographs."""


def shipped_photographs() -> list[Path]:
    """Return their paths, sorted."""
    return sorted(SHIPPED.glob("*.jpg"))


def smallest_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the smallest cosine between the rows of two matrices [N, D]; NaN where a value is not a number."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
