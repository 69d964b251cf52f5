"""A two-dimensional map of a collection: the first two principal components of its embeddings.

The map is computed once and cached in ``OUT/.zoo``.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.numerics.similarity import l2_normalize
from zoo.search.collection import Collection
from zoo.system import atomic_files

FITTED_ON = 2000  # images at most, evenly spaced: their components hardly differ from those of all
_INNER = 0.995  # quantile that is scaled to the edge of the map; the few points outside are clipped to it


def pca_points(collection: Collection) -> NDArray[np.float32]:
    """Return the map's points float32 [rows, 2] in -1..1, NaN where an image has no embedding.

    The same collection always gives the same map. Memory: one shard and the images that the components are fitted on.

    Raises:
        UserError: a shard is damaged, or the cache cannot be written.
    """
    # Use the map of an earlier start if the collection is the same.
    path = collection.state / f"map-{collection.sha256[:16]}.npy"
    cached = read_cache(path, len(collection))
    if cached is not None:
        return cached
    # Otherwise compute the map and keep it.
    points = scaled(_projected(collection, *_principal_axes(collection)))
    buffer = io.BytesIO()
    np.save(buffer, points)
    atomic_files.make_folder(collection.state)
    atomic_files.atomic_write_bytes(path, buffer.getvalue())
    # Remove maps of earlier extractions.
    for old in collection.state.glob("map-*.npy"):
        if old != path:
            atomic_files.remove(old)
    return points


def read_cache(path: Path, rows: int) -> NDArray[np.float32] | None:
    """Return the points float32 [rows, 2] in a file of a map; ``None`` for anything else."""
    try:
        points: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return points if points.shape == (rows, 2) and points.dtype == np.float32 else None


def _principal_axes(collection: Collection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean [D] and the first two principal axes [2, D] of the unit vectors; missing axes are zero."""
    # every step-th row of the whole collection, shard by shard
    step = max(1, -(-len(collection) // FITTED_ON))
    parts = [l2_normalize(vectors[-start % step :: step]) for start, vectors in collection.vectors()]
    joined = np.concatenate(parts) if parts else np.empty((0, collection.dim), np.float32)
    sample = joined[~np.isnan(joined[:, 0])].astype(np.float64)

    mean = sample.mean(axis=0) if len(sample) else np.zeros(collection.dim)
    # Axes that the sample does not determine stay zero.
    axes = np.zeros((2, collection.dim))
    if len(sample) > 1:
        # eigenvectors of the smaller Gram matrix, [N, N] or [D, D]
        centred = sample - mean
        is_wide = len(centred) < collection.dim
        values, columns = np.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
        found = (centred.T @ columns[:, ::-1][:, :2]).T if is_wide else columns[:, ::-1][:, :2].T
        # Directions without variance hold only noise.
        found = found[values[::-1][:2] > 1e-9]
        axes[: len(found)] = found / np.linalg.norm(found, axis=1, keepdims=True)
    for axis in axes:  # the sign of an eigenvector is arbitrary: make the largest component positive
        axis *= -1 if axis[np.abs(axis).argmax()] < 0 else 1
    return mean, axes


def _projected(collection: Collection, mean: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float32]:
    points = np.full((len(collection), 2), np.nan, np.float32)
    for start, vectors in collection.vectors():
        points[start : start + len(vectors)] = (l2_normalize(vectors) - mean) @ axes.T
    return points


def scaled(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each axis so that its ``_INNER`` quantile is 1, and clip to -1..1."""
    valid = points[~np.isnan(points[:, 0])]
    if not len(valid):
        return points
    reach = np.quantile(np.abs(valid), _INNER, axis=0)
    inside: NDArray[np.float32] = np.clip(points / np.where(reach > 0, reach, 1), -1, 1).astype(np.float32)
    return inside
