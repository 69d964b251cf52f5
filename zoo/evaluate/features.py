"""Frozen features of a labelled data set, in the order of its rows, computed once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.datasets.labelled import open_splits
from zoo.errors import UserError
from zoo.evaluate.result import describe_data
from zoo.inference.embedder import Embedder
from zoo.system.atomic_files import atomic_write, make_folder
from zoo.system.cache_dir import cache_folder
from zoo.system.progress import Progress

if TYPE_CHECKING:
    from zoo.evaluate.context import Context

_BATCH = 128


class Images(Protocol):
    """What features are computed of: ``zoo.datasets.dataset.Dataset``, or a data set of torchvision."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> Image.Image:
        """The upright RGB image of a row."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Frozen features of a data set's two splits.

    Attributes:
        train, test: float32 [N, D] and [M, D], not normalised; ``train`` may be mapped from the disk.
        labels, truth: int64 [N] and [M], the classes of both.
        classes: names.
        data: for ``Result.data``.
    """

    train: NDArray[np.float32]
    labels: NDArray[np.int64]
    test: NDArray[np.float32]
    truth: NDArray[np.int64]
    classes: list[str]
    data: dict[str, Any]


def labelled_features(context: Context) -> LabelledFeatures:
    """Features of both splits of ``context.data``. UserError: data or images cannot be read."""
    splits = open_splits(context.data, context.seed)
    train, test = splits.train, splits.test
    sizes = {"train": (len(train), train.sha256), "test": (len(test), test.sha256)}
    return LabelledFeatures(
        features(context.embedder, train, train.sha256),
        train.labels,
        features(context.embedder, test, test.sha256),
        test.labels,
        train.classes,
        describe_data(context.data, len(train.classes), **sizes) | {"split": splits.rule},
    )


def features(embedder: Embedder, dataset: Images, sha256: str) -> NDArray[np.float32]:
    """float32 [N, D], not normalised, from the cache where the same network has seen the same images.

    ``sha256`` is that of ``dataset``. The array is mapped from the cached file, so that a large bank need not fit.

    Raises:
        UserError: an image cannot be read, or the network gives a feature that is not finite.
    """
    key = hashlib.sha256(json.dumps([embedder.identity(), sha256], sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "features" / f"{key}.npy"
    if not path.exists():
        computed = compute(embedder, dataset)
        make_folder(path.parent)
        atomic_write(path, lambda file: np.save(file, computed))
        del computed
    found: NDArray[np.float32] = np.load(path, allow_pickle=False, mmap_mode="c")  # as "r", which torch warns of
    return found


def compute(embedder: Embedder, dataset: Images, chosen: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """As ``features``, of the rows ``chosen`` or all, and not kept."""
    every = np.arange(len(dataset)) if chosen is None else chosen
    out = np.empty((len(every), embedder.dim), np.float32)
    chunks = [range(start, min(start + _BATCH, len(every))) for start in range(0, len(every), _BATCH)]

    def decode(rows: range) -> NDArray[np.uint8]:
        return np.stack([embedder.preprocessing.pixels(dataset.image(int(every[i]))) for i in rows])

    with Progress("images") as progress, ThreadPoolExecutor(1) as pool:
        progress.start(len(every))
        upcoming = pool.submit(decode, chunks[0])
        for n, rows in enumerate(chunks):
            pixels = upcoming.result()
            if n + 1 < len(chunks):
                upcoming = pool.submit(decode, chunks[n + 1])
            out[rows.start : rows.stop] = embedder.engine(pixels)
            require_finite(out[rows.start : rows.stop], dataset.name, rows.start)
            progress.advance(len(rows))
    return out


def require_finite(features: NDArray[np.float32], name: str, first: int = 0) -> None:
    """UserError where a feature [N, D] is NaN or infinite; ``first`` is the row that ``features`` begins with."""
    if not np.isfinite(features).all():
        row = first + int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise UserError(
            f"{name}: the features of row {row} are not finite: the weights overflow on this image; try --device cpu, "
            "another precision, or other weights"
        )
