"""SIGTERM and Ctrl-C end a run after the step in progress, on all ranks after the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from training.distributed import collectives

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignal:
    """A context that only records signals; a second Ctrl-C interrupts at once.

    A second SIGTERM does not, because torchrun sends one to ranks that the terminal's Ctrl-C has reached already.
    """

    def __init__(self) -> None:
        self._received, self._first = False, 0
        self._old_handlers: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python refuses handlers in other threads
            self._old_handlers = {s: signal.signal(s, self._record) for s in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def received(self) -> bool:
        """Return True on all ranks if one of them received a signal. A collective call."""
        return collectives.any_rank(self._received)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == self._first == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._received:
            self._first = number
        self._received = True
