"""Frozen features of a labelled data set, computed once in the order of its rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from zoo.datasets import Dataset
from zoo.embed import Embedder
from zoo.progress import Progress

_BATCH = 128


def features(embedder: Embedder, dataset: Dataset) -> NDArray[np.float32]:
    """float32 [N, D], not normalised; raises UserError for an image that cannot be read."""
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
