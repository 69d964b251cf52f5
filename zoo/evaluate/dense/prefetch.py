"""Training batches made in threads while the network works on an earlier one; Pillow and numpy leave the GIL to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST_THREADS = 4  # each holds a whole batch in memory


class Upcoming(Generic[T]):
    """``upcoming(step)`` is ``make(step)``; the steps that follow are already being made. A context manager.

    ``make`` must be a function of the step alone. What it raises is raised by the call for that step.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = min(_MOST_THREADS, cores)
        self._pool = ThreadPoolExecutor(self._threads)
        self._begun: dict[int, Future[T]] = {}

    def __enter__(self) -> Upcoming[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> T:
        for soon in range(step, step + self._threads + 1):
            if soon not in self._begun:
                self._begun[soon] = self._pool.submit(self._make, soon)
        return self._begun.pop(step).result()
