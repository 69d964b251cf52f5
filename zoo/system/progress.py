"""Show the progress of a long run on stderr: a bar on a terminal, plain lines elsewhere.

A notebook gets one line that is written over, others a line every ten seconds.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from zoo.system.terminal import print_line, printable
from zoo.system.verbosity import is_quiet

_NOTEBOOK_SECONDS, _NOTEBOOK_WIDTH = 0.5, 80


def in_notebook() -> bool:
    """True in Jupyter, Colab and Databricks, whose stderr is no terminal and yet is watched."""
    return Console().is_jupyter


def is_watched() -> bool:
    """True where somebody can see progress: stderr is a terminal, or this is a notebook."""
    return (sys.stderr is not None and sys.stderr.isatty()) or in_notebook()


class Progress:
    """Counts units of work; use it as a context manager.

    Args:
        unit: name of the units, in the plural.
        stream: output; ``None`` is stderr.
        seconds_per_line: seconds between two lines where the stream is no terminal.

    Attributes:
        first_line: is said when the work begins, after all that could refuse it; ``None`` is nothing.
    """

    first_line: str | None = None

    def __init__(self, unit: str, *, stream: TextIO | None = None, seconds_per_line: float = 10.0) -> None:
        self._unit = unit
        self._stream = stream or sys.stderr
        self._seconds_per_line = seconds_per_line
        self._total: int | None = None
        self._before = 0
        self._done = 0
        self._reported = 0
        self._fields = ""
        self._started = self._last_line = time.monotonic()
        self._bar: Bar | None = None
        self._in_notebook = stream is None and in_notebook()
        if self._in_notebook:
            self._seconds_per_line = _NOTEBOOK_SECONDS
        # A terminal gets a bar, a log file gets lines.
        if self._stream.isatty() and not is_quiet():
            rate = TextColumn("{task.description}", markup=False)
            columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task(unit, total=None, visible=False)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done > self._reported:
            self._line()
        if self._in_notebook and self._reported and not is_quiet():
            print(file=self._stream, flush=True)

    def start(self, total: int, done: int = 0) -> None:
        """Set the number of units, and how many of them an earlier run has done."""
        if self.first_line is not None:
            self.say(self.first_line)
            self.first_line = None
        self._total, self._before, self._done, self._reported, self._started = total, done, 0, 0, time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, total=total, completed=done, visible=True)

    def advance(self, n: int, **fields: object) -> None:
        """Count ``n`` more units; ``fields`` (a loss, a number of failures) are shown beside the rate."""
        self._done += n
        self._fields = "".join(f", {key} {_shown(value)}" for key, value in fields.items())
        if self._bar is not None:
            self._bar.update(self._task, advance=n, description=self._rate() + self._fields, visible=True)
        elif time.monotonic() - self._last_line >= self._seconds_per_line:
            self._line()

    def say(self, line: str) -> None:
        """Write a line of its own, above the bar."""
        if is_quiet():
            return
        if self._bar is not None:
            self._bar.console.print(printable(line), markup=False, highlight=False)
        else:
            print_line(line, file=self._stream, flush=True)

    def _rate(self) -> str:
        return f"{self._done / max(time.monotonic() - self._started, 1e-9):.1f} {self._unit}/s"

    def _line(self) -> None:
        self._last_line = time.monotonic()
        self._reported = self._done
        done = self._before + self._done
        of = "" if self._total is None else f" of {self._total}"
        left = ""
        if self._total is not None and self._done > 0 and done < self._total:
            seconds = (self._total - done) * (self._last_line - self._started) / self._done
            left = f", about {seconds:.0f} s left"
        line = f"{done}{of} {self._unit}, {self._rate()}{left}{self._fields}"
        if self._in_notebook and not is_quiet():
            print(f"\r{line:<{_NOTEBOOK_WIDTH}}", end="", file=self._stream, flush=True)  # over the last one
        else:
            self.say(line)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
