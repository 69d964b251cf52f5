"""A second map: UMAP (McInnes et al., arXiv:1802.03426) of the centred embeddings, where umap-learn is installed.

It takes minutes for a large collection, so a process of its own computes it while the page is served already:

    python -m zoo.search.umap_map OUT

The map is cached in ``OUT/.zoo``. The same collection gives the same map: the seed is fixed.
"""

from __future__ import annotations

import io
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.numerics.similarity import centred, l2_normalize, mean_direction
from zoo.search.collection import Collection
from zoo.search.pca_map import read_cache, scaled
from zoo.system import atomic_files

FITTED_ON = 20_000  # images at most, evenly spaced; the others are placed among them
LEAST = 10  # images with an embedding: fewer have no neighbourhoods
_NEIGHBOURS = 15  # umap-learn's default


class UmapMap:
    """The map of a collection, computed by a process in the background.

    Args:
        collection: the result; its cache is used if it is there.
    """

    def __init__(self, collection: Collection) -> None:
        self._path, self._rows = cache_of(collection), len(collection)
        self._process: subprocess.Popen[bytes] | None = None
        self._points = read_cache(self._path, self._rows)
        if self._points is None:
            command = [sys.executable, "-m", "zoo.search.umap_map", str(collection.root)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def points(self) -> NDArray[np.float32] | None:
        """Return float32 [rows, 2] in -1..1, NaN without an embedding; ``None`` while it is being computed."""
        if self._points is None:
            self._points = read_cache(self._path, self._rows)
        return self._points

    @property
    def has_failed(self) -> bool:
        """Whether the process has ended without a map."""
        return self._process is not None and self._process.poll() is not None and self.points() is None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def is_installed() -> bool:
    """Return whether umap-learn is installed; it is not imported, which takes seconds."""
    return find_spec("umap") is not None


def cache_of(collection: Collection) -> Path:
    """Return the file of the map."""
    return collection.state / f"umap-{collection.sha256[:16]}.npy"


def umap_points(collection: Collection) -> NDArray[np.float32]:
    """Compute the map: float32 [rows, 2] in -1..1, NaN where an image has no embedding.

    Memory: the embeddings of ``FITTED_ON`` images, and one shard.
    """
    import umap

    mean = mean_direction(l2_normalize(vectors) for _, vectors in collection.vectors())
    # every step-th row of the whole collection, shard by shard
    step = max(1, -(-len(collection) // FITTED_ON))
    parts = [centred(l2_normalize(vectors[-start % step :: step]), mean) for start, vectors in collection.vectors()]
    sample = np.concatenate(parts)
    sample = sample[~np.isnan(sample[:, 0])]
    model = umap.UMAP(
        n_neighbors=min(_NEIGHBOURS, len(sample) - 1), metric="cosine", init="pca", random_state=0, n_jobs=1
    ).fit(sample)
    # Place each shard; the rows that were fitted get their own places.
    fitted = np.asarray(model.embedding_, np.float32)
    points = np.full((len(collection), 2), np.nan, np.float32)
    used = 0
    for start, vectors in collection.vectors():
        block = centred(l2_normalize(vectors), mean)
        has_vector = ~np.isnan(block[:, 0])
        is_fitted = np.zeros(len(block), bool)
        is_fitted[-start % step :: step] = True
        own = has_vector & is_fitted
        place = points[start : start + len(block)]
        place[own] = fitted[used : used + int(own.sum())]
        used += int(own.sum())
        if (others := has_vector & ~is_fitted).any():
            place[others] = model.transform(block[others])
    return scaled(points - np.nanmedian(points, axis=0).astype(np.float32))


def main(out: str) -> None:
    """Compute the map of the result ``out`` and cache it."""
    collection = Collection(Path(out))
    buffer = io.BytesIO()
    np.save(buffer, umap_points(collection))
    atomic_files.make_folder(collection.state)
    atomic_files.atomic_write_bytes(cache_of(collection), buffer.getvalue())
    for old in collection.state.glob("umap-*.npy"):
        if old != cache_of(collection):
            atomic_files.remove(old)


if __name__ == "__main__":
    main(sys.argv[1])
