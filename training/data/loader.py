"""Batches of decoded images, in an order and number that depend on (seed, epoch, data) alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.packed_batch import Packed, pack
from training.data.sampler import Epochs
from zoo.datasets.dataset import Dataset
from zoo.errors import UserError
from zoo.numerics.counter_rng import uniforms
from zoo.system.hardware import usable_cores
from zoo.transforms.decode import UnreadableImage

_STREAM = 1 << 32  # of the draws that replace unreadable images; those of the views count from 1
_TRIES = 64  # of a replacement; where one image in a hundred is bad, all fail once in 10^128 times
_MOST_UNREADABLE = 100  # one image in so many, and never fewer than three
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Batch:
    """One rank's images of one step.

    Attributes:
        indices: int64 [B], which rows of the data set it was this batch's turn for; parameters of the views are
            drawn from these.
        epochs: int64 [B], from 0, whose turn that was; one, or where the data's end is not dropped sometimes two.
        rows: int64 [B], whose pixels and labels they are: ``indices``, but for those that could not be read.
        images: on the host.
        labels: int64 [B], of ``rows``; ``None`` where there are none.
        unreadable: names and reasons of rows found unreadable for the first time.
    """

    step: int
    indices: NDArray[np.int64]
    epochs: NDArray[np.int64]
    rows: NDArray[np.int64]
    images: Packed
    labels: Tensor | None
    unreadable: dict[str, str]

    def part(self, rows: slice) -> Batch:
        """Of consecutive samples, a micro-batch."""
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
) -> Iterator[Batch]:
    """The batches of ``steps``, decoded by threads (Pillow decodes outside the GIL), ``ahead`` of them beforehand.

    Threads and not processes: none can be killed alone and leave the others waiting, and nothing is copied.
    ``batch_size`` is that of all ``ranks`` together; rank r takes the rows [r B / n, (r + 1) B / n) of each batch.
    An image that cannot be read is replaced by another, drawn from (seed, epoch, its index): the batch keeps its size
    and is the same however often a run was resumed, and on however many ranks and workers.

    Args:
        workers: threads; ``None`` is one for each core that this process has for itself, at most 16.
        pinned: images in page-locked memory, for a GPU.
        drop_last: see ``Epochs``.

    Raises:
        UserError: more than one image in a hundred (and more than three) cannot be read, or a worker fails otherwise.
    """
    all_epochs, share = Epochs(len(dataset), batch_size, drop_last), batch_size // ranks
    own = slice(rank * share, (rank + 1) * share)
    workers = workers or min(_MOST_WORKERS, usable_cores())
    reader = _Reader(dataset, seed)
    with ThreadPoolExecutor(workers) as decoders, ThreadPoolExecutor(1) as packer:
        waiting: deque[Future[Batch]] = deque()

        def submit(step: int) -> None:
            indices, epochs = (part[own] for part in all_epochs.batch(step, seed))
            chunks = [
                decoders.submit(reader.read_all, *chunk)
                for chunk in zip(*(np.array_split(part, workers) for part in (indices, epochs)), strict=True)
            ]
            waiting.append(packer.submit(_assemble, dataset, step, indices, epochs, chunks, pinned))

        try:
            upcoming = iter(steps)
            for step in islice(upcoming, ahead):
                submit(step)
            while (following := next(upcoming, None)) is not None or waiting:
                if following is not None:
                    submit(following)
                yield _result(waiting.popleft())
        finally:
            for pool in (decoders, packer):
                pool.shutdown(wait=False, cancel_futures=True)


_Read = tuple[int, NDArray[np.uint8], dict[str, str]]


class _Reader:
    """Reads rows; knows which could not be read so far, only to say each once and to stop where they are many."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed
        self._unreadable: dict[int, str] = {}
        self._most = max(3, len(dataset) // _MOST_UNREADABLE)

    def read_all(self, indices: NDArray[np.int64], epochs: NDArray[np.int64]) -> list[_Read]:
        return [self._read(int(i), int(epoch)) for i, epoch in zip(indices, epochs, strict=True)]

    def _read(self, index: int, epoch: int) -> _Read:
        """Row ``index`` or its replacement: which it is, its pixels, and what was newly found unreadable."""
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
                    self._check()
        raise UserError(f"{self._dataset.name}: {_TRIES} images in a row cannot be read")

    def _replacements(self, index: int, epoch: int) -> NDArray[np.int64]:
        u = uniforms(self._seed, _STREAM, epoch, np.array([index], np.int64), _TRIES)[0]
        rows: NDArray[np.int64] = (u * len(self._dataset)).astype(np.int64)
        return rows

    def _check(self) -> None:
        if len(self._unreadable) > self._most:
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
    chunks: list[Future[list[_Read]]],
    pinned: bool,
) -> Batch:
    read = [item for chunk in chunks for item in chunk.result()]
    rows = np.array([row for row, _, _ in read], np.int64)
    images = pack([pixels for _, pixels, _ in read])
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows])
    unreadable = {name: why for _, _, found in read for name, why in found.items()}
    return Batch(step, indices, epochs, rows, images.pinned() if pinned else images, labels, unreadable)


def _result(future: Future[Batch]) -> Batch:
    """The batch; whatever stopped a worker stops the run, and in one line."""
    try:
        return future.result()
    except (UserError, KeyboardInterrupt):
        raise
    except MemoryError:
        raise UserError("a data worker ran out of memory: use a smaller batch or smaller images") from None
    except OSError as error:
        raise UserError(f"a data worker failed: {error}; put it right and go on with --resume") from error
