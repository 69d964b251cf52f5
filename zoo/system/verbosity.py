"""How much a command prints: set once by ``--quiet`` and ``--verbose``, read wherever something is only said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from zoo.system.terminal import print_line

_level = 0  # -1 quiet, 1 verbose


def set_level(level: int) -> None:
    """Set the verbosity of this process: -1 is quiet, 0 normal, 1 verbose."""
    global _level
    _level = level


@contextmanager
def quietly() -> Iterator[None]:
    """A context in which this process prints as with ``--quiet``."""
    before = _level
    set_level(-1)
    try:
        yield
    finally:
        set_level(before)


def is_quiet() -> bool:
    """True if only results that were asked for, failures and errors are printed."""
    return _level < 0


def is_verbose() -> bool:
    """True if errors are printed with their traceback."""
    return _level > 0


def say(line: str) -> None:
    """Print a line that tells what was done, on stdout; nothing where it is quiet."""
    if not is_quiet():
        print_line(line, flush=True)


def note(line: str) -> None:
    """Print a hint on stderr; nothing where it is quiet."""
    if not is_quiet():
        print_line(line, file=sys.stderr, flush=True)
