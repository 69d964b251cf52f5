"""Frozen features of a data set, one row per image, computed once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.datasets.labelled import open_splits
from zoo.evaluate.result import data_summary
from zoo.inference.embedder import Embedder
from zoo.inference.finite import require_finite_rows
from zoo.system.atomic_files import atomic_write, make_folder
from zoo.system.cache_dir import cache_folder
from zoo.system.prefetch import prefetch
from zoo.system.progress import Progress

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

_BATCH = 128


class ImageDataset(Protocol):
    """Numbered images, e.g. ``zoo.datasets.dataset.Dataset`` or ``zoo.datasets.labelled.LabelledImages``."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> Image.Image:
        """Return the upright RGB image of a row."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Frozen features and labels of the two splits of a data set.

    Attributes:
        train, test: float32 [N, D] and [M, D], not normalised; they may be mapped from files.
        train_labels, test_labels: int64 [N] and [M].
        classes: names.
        data: for ``Result.data``.
    """

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    classes: list[str]
    data: dict[str, object]


def labelled_features(context: Context) -> LabelledFeatures:
    """Return the features of both splits of ``context.data``.

    Raises:
        UserError: the data or an image cannot be read.
    """
    splits = open_splits(context.data, context.seed, context.label_column)
    train, test = splits.train, splits.test
    sizes = {"train": (len(train), train.sha256), "test": (len(test), test.sha256)}
    return LabelledFeatures(
        cached_features(context.embedder, train, train.sha256),
        train.labels,
        cached_features(context.embedder, test, test.sha256),
        test.labels,
        train.classes,
        data_summary(context.data, len(train.classes), **sizes) | {"split": splits.rule},
    )


def cached_features(embedder: Embedder, dataset: ImageDataset, sha256: str) -> NDArray[np.float32]:
    """Return features float32 [N, D], not normalised, from the cache if the same network has seen the same images.

    The array is mapped from the cached file, so it need not fit into memory.

    Args:
        sha256: of the images and labels of ``dataset``.

    Raises:
        UserError: an image cannot be read, or a feature is not finite.
    """
    key = hashlib.sha256(json.dumps([embedder.identity(), sha256], sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "features" / f"{key}.npy"
    if not path.exists():
        computed = compute_features(embedder, dataset)
        make_folder(path.parent)
        atomic_write(path, lambda file: np.save(file, computed))
        del computed
    mapped: NDArray[np.float32] = np.load(path, allow_pickle=False, mmap_mode="c")  # torch warns of mode "r"
    return mapped


def compute_features(
    embedder: Embedder, dataset: ImageDataset, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Return features float32 [N, D] of ``rows``, by default of every row, without the cache.

    Raises:
        UserError: an image cannot be read, or a feature is not finite.
    """
    rows = np.arange(len(dataset)) if rows is None else rows
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    features = np.empty((len(rows), embedder.dim), np.float32)

    def decode(batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([embedder.preprocessing.pixels(dataset.image(int(row))) for row in batch])

    # one thread decodes the next batch while the network runs
    calls = (partial(decode, batch) for batch in batches)
    with Progress("images") as progress, closing(prefetch(calls, ahead=1)) as decoded:
        progress.start(len(rows))
        start = 0
        for pixels in decoded:
            batch = slice(start, start + len(pixels))
            features[batch] = embedder.engine(pixels)
            require_finite_rows(features[batch], f"{dataset.name}: the features of row", start)
            progress.advance(len(pixels))
            start = batch.stop
    return features
