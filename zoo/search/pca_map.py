"""A map of a collection: two numbers an image, by principal components, computed once and kept in ``OUT/.zoo``."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.numerics.similarity import l2_normalize
from zoo.search.collection import Collection
from zoo.system import atomic_files

FITTED_ON = 2000  # images at most, evenly spaced: their components hardly differ from those of all
_INNER = 0.995  # share of the images that the map is scaled to; the few outside stand at its edge


def places(collection: Collection) -> NDArray[np.float32]:
    """Float32 [rows, 2] in -1..1, NaN where an image has no vector; read from the cache where it is there.

    The same collection gives the same map. Memory: one shard, and the images it is fitted on.

    Raises:
        UserError: a damaged shard, or the cache cannot be written.
    """
    path = collection.state / f"map-{collection.sha256[:16]}.npy"
    kept = _kept(path, len(collection))
    if kept is not None:
        return kept
    made = _scaled(_projected(collection, *_components(collection)))
    buffer = io.BytesIO()
    np.save(buffer, made)
    atomic_files.make_folder(collection.state)
    atomic_files.atomic_write_bytes(path, buffer.getvalue())
    for old in collection.state.glob("map-*.npy"):
        if old != path:
            atomic_files.remove(old)
    return made


def _kept(path: Path, rows: int) -> NDArray[np.float32] | None:
    try:
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (rows, 2) and found.dtype == np.float32 else None


def _components(collection: Collection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D] and the first two principal axes [2, D] of the unit vectors."""
    step = max(1, -(-len(collection) // FITTED_ON))
    sample = [l2_normalize(vectors[-start % step :: step]) for start, vectors in collection.vectors()]
    drawn = np.concatenate(sample) if sample else np.empty((0, collection.dim), np.float32)
    drawn = drawn[~np.isnan(drawn[:, 0])].astype(np.float64)
    mean = drawn.mean(axis=0) if len(drawn) else np.zeros(collection.dim)
    axes = np.zeros((2, collection.dim))
    if len(drawn) > 1:
        # through the smaller Gram matrix: embeddings are longer than a sample has rows, or the other way round
        centred = drawn - mean
        wide = len(centred) < collection.dim
        values, columns = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        found = (centred.T @ columns[:, ::-1][:, :2]).T if wide else columns[:, ::-1][:, :2].T
        found = found[values[::-1][:2] > 1e-9]
        axes[: len(found)] = found / np.linalg.norm(found, axis=1, keepdims=True)
    for axis in axes:  # an axis has no sign of its own
        axis *= -1 if axis[np.abs(axis).argmax()] < 0 else 1
    return mean, axes


def _projected(collection: Collection, mean: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float32]:
    found = np.full((len(collection), 2), np.nan, np.float32)
    for start, vectors in collection.vectors():
        found[start : start + len(vectors)] = (l2_normalize(vectors) - mean) @ axes.T
    return found


def _scaled(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each axis to -1..1, by the share ``_INNER`` of its points."""
    good = points[~np.isnan(points[:, 0])]
    if not len(good):
        return points
    reach = np.quantile(np.abs(good), _INNER, axis=0)
    scaled: NDArray[np.float32] = np.clip(points / np.where(reach > 0, reach, 1), -1, 1).astype(np.float32)
    return scaled
