"""Frozen features of a labelled data set, in the order of its rows, computed once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from zoo.datasets import Dataset
from zoo.embed import Embedder
from zoo.files import atomic_write, make_folder
from zoo.paths import cache_folder
from zoo.progress import Progress

_BATCH = 128


def features(embedder: Embedder, dataset: Dataset, sha256: str) -> NDArray[np.float32]:
    """float32 [N, D], not normalised, from the cache where the same network has seen the same images.

    ``sha256`` is ``dataset.sha256()``. Raises UserError for an image that cannot be read.
    """
    key = hashlib.sha256(json.dumps([embedder.identity(), sha256], sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "features" / f"{key}.npy"
    if path.exists():
        cached: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return cached
    computed = _compute(embedder, dataset)
    make_folder(path.parent)
    atomic_write(path, lambda file: np.save(file, computed))
    return computed


def _compute(embedder: Embedder, dataset: Dataset) -> NDArray[np.float32]:
    out = np.empty((len(dataset), embedder.dim), np.float32)
    chunks = [range(start, min(start + _BATCH, len(dataset))) for start in range(0, len(dataset), _BATCH)]

    def decode(rows: range) -> NDArray[np.uint8]:
        return np.stack([embedder.preprocessing.pixels(dataset.image(i)) for i in rows])

    with Progress("images") as progress, ThreadPoolExecutor(1) as pool:
        progress.start(len(dataset))
        upcoming = pool.submit(decode, chunks[0])
        for n, rows in enumerate(chunks):
            pixels = upcoming.result()
            if n + 1 < len(chunks):
                upcoming = pool.submit(decode, chunks[n + 1])
            out[rows.start : rows.stop] = embedder.engine(pixels)
            progress.advance(len(rows))
    return out
