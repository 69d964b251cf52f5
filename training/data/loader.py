"""Batches of decoded images; their order and content depend only on (seed, epoch, data)."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.packed_batch import PackedImages, pack
from training.data.sampler import EpochSampler
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.numerics.counter_rng import uniforms
from zoo.system.hardware import usable_cores
from zoo.system.prefetch import prefetch
from zoo.transforms.unreadable import UnreadableImage

_STREAM = 1 << 32  # random stream that replaces unreadable images; the streams of the views count from 1
_TRIES = 64  # attempts to replace an image; where one image in a hundred is bad, all fail once in 10^128 times
_MAX_UNREADABLE = 100  # one image in so many may be unreadable, and always three
_MAX_WORKERS = 16


@dataclass(frozen=True)
class Batch:
    """The images of one step on one rank.

    Attributes:
        indices: int64 [B], rows of the data set that the sampler chose; view parameters are drawn from these.
        epochs: int64 [B], epoch of each row; a batch can span two epochs when ``drop_last=False``.
        rows: int64 [B], rows that were read: ``indices`` with unreadable images replaced.
        images: on the host.
        labels: int64 [B] of ``rows``; ``None`` without labels.
        unreadable: names and reasons of images that were found unreadable for the first time.
    """

    step: int
    indices: NDArray[np.int64]
    epochs: NDArray[np.int64]
    rows: NDArray[np.int64]
    images: PackedImages
    labels: Tensor | None
    unreadable: dict[str, str]

    def part(self, rows: slice) -> Batch:
        """Return consecutive samples, as a micro-batch."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(
            self,
            indices=self.indices[rows],
            epochs=self.epochs[rows],
            rows=self.rows[rows],
            images=self.images.part(rows),
            labels=labels,
        )


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    steps: range,
    seed: int,
    workers: int | None = None,
    ahead: int = 0,
    rank: int = 0,
    ranks: int = 1,
    pinned: bool = False,
    drop_last: bool = True,
) -> Generator[Batch, None, None]:
    """Yield the batch of each step, decoded by threads (Pillow decodes outside the GIL).

    Threads need no copies between processes, and none can be killed alone and leave the others waiting. An unreadable
    image is replaced by another one, drawn from (seed, epoch, index): the batch keeps its size, and does not depend on
    resumes, ranks or workers.

    Args:
        batch_size: images of all ``ranks`` together; rank r takes the rows [r B / n, (r + 1) B / n).
        workers: decoding threads; ``None`` is one per usable core, at most 16.
        ahead: batches to make beforehand; with 0 a batch is made when it is asked for.
        pinned: put images into page-locked memory, for a GPU.
        drop_last: leave out an epoch's last images that fill no batch (``EpochSampler``).

    Raises:
        UserError: more than one image in a hundred (and more than three) cannot be read, or a worker fails otherwise.
    """
    # Give each rank its own rows of every batch.
    sampler, rank_size = EpochSampler(len(dataset), batch_size, drop_last), batch_size // ranks
    own_rows = slice(rank * rank_size, (rank + 1) * rank_size)
    workers = workers or min(_MAX_WORKERS, usable_cores())
    reader = _Reader(dataset, seed)

    def load(step: int) -> Batch:
        indices, epochs = (part[own_rows] for part in sampler.batch(step, seed))
        chunks = (np.array_split(part, workers) for part in (indices, epochs))
        read = [image for chunk in decoders.map(reader.read_all, *chunks) for image in chunk]
        return _assemble(dataset, step, indices, epochs, read, pinned)

    # Two batches are loaded at once, so that the decoding threads stay busy while one batch is packed.
    options = {"ahead": ahead, "threads": 2} if ahead else {"ahead": 1, "threads": 1}
    calls = (partial(load, step) for step in steps)
    with ThreadPoolExecutor(workers) as decoders, closing(prefetch(calls, **options, in_bursts=not ahead)) as loaded:
        try:
            yield from loaded
        except MemoryError:
            raise UserError("a data worker ran out of memory: use a smaller batch or smaller images") from None
        except OSError as error:
            raise UserError(f"a data worker failed ({error}): fix the cause and run again with --resume") from error


_Read = tuple[int, NDArray[np.uint8], dict[str, str]]  # row, pixels, and what was newly found unreadable


class _Reader:
    """Reads rows and remembers the unreadable ones, to report each once and to stop when they are too many."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed
        self._unreadable: dict[int, str] = {}
        self._max_unreadable = max(3, len(dataset) // _MAX_UNREADABLE)

    def read_all(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> list[_Read]:
        return [self._read(int(i), int(epoch)) for i, epoch in zip(indices, epochs, strict=True)]

    def _read(self, index: int, epoch: int) -> _Read:
        """Read row ``index``, or its replacement."""
        # Try the image itself first, then replacements drawn for it.
        row = index
        found: dict[str, str] = {}
        for attempt in range(_TRIES):
            if attempt:
                row = int(self._replacements(index, epoch)[attempt])
            if row not in self._unreadable:
                try:
                    return row, self._dataset.pixels(row), found
                except UnreadableImage as error:
                    self._unreadable[row] = found[self._dataset.row_name(row)] = str(error)
                    self._check_number()
        raise UserError(f"{self._dataset.name}: {_TRIES} images in a row cannot be read: remove or replace them")

    def _replacements(self, index: int, epoch: int) -> NDArray[np.int64]:
        u = uniforms(self._seed, _STREAM, epoch, np.array([index], np.int64), _TRIES)[0]
        rows: NDArray[np.int64] = (u * len(self._dataset)).astype(np.int64)
        return rows

    def _check_number(self) -> None:
        if len(self._unreadable) > self._max_unreadable:
            shown = [f"{self._dataset.row_name(row)} ({why})" for row, why in list(self._unreadable.items())[:3]]
            raise UserError(
                f"{self._dataset.name}: {len(self._unreadable)} of {len(self._dataset)} images cannot be read, "
                f"{', '.join(shown)} and others: remove or replace them"
            )


def _assemble(
    dataset: Dataset,
    step: int,
    indices: NDArray[np.int64],
    epochs: NDArray[np.int64],
    read: list[_Read],
    pinned: bool,
) -> Batch:
    rows = np.array([row for row, _, _ in read], np.int64)
    images = pack([pixels for _, pixels, _ in read])
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows])
    unreadable = {name: why for _, _, found in read for name, why in found.items()}
    return Batch(step, indices, epochs, rows, images.pinned() if pinned else images, labels, unreadable)
