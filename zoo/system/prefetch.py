"""Run calls in threads, a few steps ahead of the loop that uses their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from zoo.system.hardware import usable_cores

T = TypeVar("T")


def prefetch(
    calls: Iterable[Callable[[], T]], ahead: int = 2, *, threads: int | None = None, in_bursts: bool = False
) -> Generator[T, None, None]:
    """Yield the result of each call, in the order of ``calls``, computed in threads before it is asked for.

    Pillow, numpy and torch release the GIL, so images are decoded while the network works on an earlier batch. Use it
    with ``contextlib.closing``: closing waits for the calls that are running and drops the others, so that no thread
    outlives the loop.

    Args:
        calls: independent of each other; read lazily, in the thread of the consumer.
        ahead: number of calls that start before their results are asked for, at least 1. All their results can be in
            memory at once.
        threads: ``None`` uses one thread per usable core, at most ``ahead``.
        in_bursts: start ``ahead`` calls together, and the next ones only when all these results were taken. The
            threads then rest while the consumer works on the last results.

    Raises:
        Exception: whatever a call raises, at the place of its result; the calls behind it are dropped.
    """
    pool = ThreadPoolExecutor(threads or min(ahead, usable_cores()), thread_name_prefix="prefetch")
    pending: deque[Future[T]] = deque()
    remaining = iter(calls)

    def start(count: int) -> bool:
        pending.extend(pool.submit(call) for call in islice(remaining, count))
        return bool(pending)

    # Yield in order, and refill the queue one by one or in bursts.
    try:
        while pending or start(ahead):
            result = pending.popleft().result()
            if not in_bursts:
                start(1)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
