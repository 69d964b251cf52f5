"""SIGTERM and Ctrl-C end a run after the step in progress, on all ranks after the same one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from training.distributed import collectives

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A context within which signals are only noted; a second Ctrl-C interrupts at once.

    A second SIGTERM does not: torchrun sends one to ranks that the terminal's Ctrl-C has reached already.
    """

    def __init__(self) -> None:
        self._noted, self._first = False, 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
            self._before = {s: signal.signal(s, self._note) for s in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether any rank was told to stop: the same answer on all of them. A collective call."""
        return collectives.on_any_rank(self._noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted and number == self._first == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._noted:
            self._first = number
        self._noted = True
