"""Batches of decoded images, in an order and number that depend on (seed, epoch) alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.draws import permutation
from zoo.datasets import Dataset


@dataclass(frozen=True)
class Batch:
    """Images of one step, uint8 [H_i, W_i, 3] on the host, with their row numbers in the data set."""

    step: int
    epoch: int
    indices: NDArray[np.int64]
    images: list[Tensor]


def batches(
    dataset: Dataset, *, batch_size: int, steps: range, seed: int, workers: int = 2, ahead: int = 3
) -> Iterator[Batch]:
    """The batches of ``steps``, decoded by threads ``ahead`` of their use (Pillow decodes outside the GIL).

    An epoch leaves out the last ``len(dataset) % batch_size`` images of its permutation, as the official loaders do.
    """
    per_epoch = len(dataset) // batch_size
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[int, int, NDArray[np.int64], list]] = deque()  # type: ignore[type-arg]
        order, order_epoch = np.empty(0, np.int64), -1

        def submit(step: int) -> None:
            nonlocal order, order_epoch
            epoch, place = divmod(step, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = permutation(seed, epoch, len(dataset)), epoch
            indices = order[place * batch_size : (place + 1) * batch_size]
            chunks = np.array_split(indices, workers)
            waiting.append((step, epoch, indices, [pool.submit(_decode, dataset, c) for c in chunks]))

        try:
            upcoming = iter(steps)
            for step in islice(upcoming, ahead):
                submit(step)
            while waiting:
                step, epoch, indices, futures = waiting.popleft()
                images = [image for future in futures for image in future.result()]
                if (following := next(upcoming, None)) is not None:
                    submit(following)
                yield Batch(step, epoch, indices, images)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(dataset: Dataset, indices: NDArray[np.int64]) -> list[Tensor]:
    return [torch.from_numpy(np.array(dataset.image(int(i)))) for i in indices]
